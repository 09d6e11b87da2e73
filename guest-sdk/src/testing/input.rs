//! What goes into a test: events and requests.

use serde::Serialize;
use serde_json::Value;

use super::record::Emitted;
use crate::{Request, json};

/// An event to be delivered; see [`event`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Input {
    pub(super) id: Option<String>,
    pub(super) source: String,
    pub(super) kind: String,
    pub(super) key: Option<String>,
    pub(super) time_ms: Option<u64>,
    pub(super) content_type: String,
    pub(super) data: Vec<u8>,
    pub(super) attributes: Vec<(String, String)>,
}

/// Begins an event of this type: unkeyed, without a payload, from `/test`.
pub fn event(kind: &str) -> Input {
    Input {
        id: None,
        source: "/test".to_owned(),
        kind: kind.to_owned(),
        key: None,
        time_ms: None,
        content_type: String::new(),
        data: Vec::new(),
        attributes: Vec::new(),
    }
}

impl Input {
    /// Reads a structured CloudEvent, such as the samples under `events/` of a plugin. `time` is
    /// left out: the test kit reads no dates.
    ///
    /// # Panics
    /// Where it is not JSON, or lacks `type`.
    #[track_caller]
    pub fn cloud_event(text: &str) -> Self {
        let mut fields: serde_json::Map<String, Value> =
            serde_json::from_str(text).expect("a CloudEvent in JSON");
        let mut take = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let mut input = event(&take("type").expect("a CloudEvent with a `type`"));
        input.id = take("id");
        input.source = take("source").unwrap_or(input.source);
        take("specversion");
        take("time");
        let content_type = take("datacontenttype");
        let partition_key = take("partitionkey");
        if partition_key.is_none() {
            input.key = take("subject");
        } else {
            input.key = partition_key;
        }
        if let Some(data) = fields.remove("data") {
            input = input.json(&data);
            input.content_type = content_type.unwrap_or(input.content_type);
        }
        for (name, value) in fields {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            input = input.attribute(&name, &text);
        }
        input
    }

    /// With this key.
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// With this id, instead of `test-` and its position.
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// From this source, instead of `/test`.
    pub fn source(mut self, source: &str) -> Self {
        self.source = source.to_owned();
        self
    }

    /// Happened at this time, in milliseconds since the Unix epoch.
    pub fn time_ms(mut self, time_ms: u64) -> Self {
        self.time_ms = Some(time_ms);
        self
    }

    /// With this payload as JSON.
    ///
    /// # Panics
    /// Where it has no JSON form.
    #[track_caller]
    pub fn json<T: Serialize + ?Sized>(self, data: &T) -> Self {
        let data = json::write(data, || "data".to_owned()).expect("data with a JSON form");
        self.bytes(json::MEDIA_TYPE, data)
    }

    /// With this payload.
    pub fn bytes(mut self, content_type: &str, data: impl Into<Vec<u8>>) -> Self {
        self.content_type = content_type.to_owned();
        self.data = data.into();
        self
    }

    /// With a further CloudEvents attribute.
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.push((name.to_owned(), value.to_owned()));
        self.attributes.sort();
        self
    }
}

impl From<&Emitted> for Input {
    fn from(emitted: &Emitted) -> Self {
        let emitted = emitted.clone();
        Self {
            id: Some(emitted.id),
            source: "/tidegate/main/test".to_owned(),
            kind: emitted.kind,
            key: emitted.key,
            time_ms: None,
            content_type: emitted.content_type,
            data: emitted.data,
            attributes: emitted.attributes,
        }
    }
}

/// A command or a question to be asked; see [`request`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Ask {
    pub(super) request: Request,
}

/// Begins a request for this operation: without a key, a principal or a body.
pub fn request(operation: &str) -> Ask {
    Ask {
        request: Request {
            operation: operation.to_owned(),
            key: None,
            principal: String::new(),
            content_type: String::new(),
            data: Vec::new(),
            attributes: Vec::new(),
        },
    }
}

impl Ask {
    /// For this key.
    pub fn key(mut self, key: &str) -> Self {
        self.request.key = Some(key.to_owned());
        self
    }

    /// Asked by this principal.
    pub fn principal(mut self, principal: &str) -> Self {
        self.request.principal = principal.to_owned();
        self
    }

    /// With this body as JSON.
    ///
    /// # Panics
    /// Where it has no JSON form.
    #[track_caller]
    pub fn json<T: Serialize + ?Sized>(mut self, data: &T) -> Self {
        self.request.data =
            json::write(data, || "body".to_owned()).expect("a body with a JSON form");
        self.request.content_type = json::MEDIA_TYPE.to_owned();
        self
    }

    /// With a parameter.
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.request.attributes.push((name.to_owned(), value.to_owned()));
        self.request.attributes.sort();
        self
    }
}
