//! Events out.

use serde::Serialize;

use crate::{Error, host, json};

/// An event on its way out. Nothing is emitted before [`json`](Self::json), [`bytes`](Self::bytes)
/// or [`empty`](Self::empty).
///
/// The host adds id, source, times, causation, correlation and trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is emitted before `json`, `bytes` or `empty`"]
pub struct Emit {
    pub(crate) kind: String,
    pub(crate) key: Option<String>,
    pub(crate) bus: Option<String>,
    pub(crate) content_type: String,
    pub(crate) data: Vec<u8>,
    pub(crate) attributes: Vec<(String, String)>,
}

/// Begins an event of this type: past tense, dotted, 1 to 255 bytes.
///
/// It gets the key and the bus of the input unless told otherwise. It is recorded together with
/// everything else the delivery does, or not at all.
///
/// ```
/// # use tidegate_sdk::{emit, Event, Outcome, testing::{event, Host}};
/// # use serde_json::json;
/// fn on_payment(event: &Event) -> Outcome {
///     emit("order.paid").json(&json!({ "by": event.id() }))?;
///     emit("mail.requested").key("mailer").attribute("priority", "low").empty()?;
///     Ok(())
/// }
/// # let effects = Host::new().deliver(on_payment, event("payment.taken").key("o-1")).expect_ok();
/// # assert_eq!(effects.emitted[0].key.as_deref(), Some("o-1"));
/// # assert_eq!(effects.emitted[1].key.as_deref(), Some("mailer"));
/// ```
pub fn emit(kind: impl Into<String>) -> Emit {
    Emit {
        kind: kind.into(),
        key: None,
        bus: None,
        content_type: String::new(),
        data: Vec::new(),
        attributes: Vec::new(),
    }
}

impl Emit {
    /// Under another key than the input's. 1 to 1024 bytes.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// To another bus than the input's.
    pub fn bus(mut self, bus: impl Into<String>) -> Self {
        self.bus = Some(bus.into());
        self
    }

    /// With a further CloudEvents attribute; of the same name the last one counts. Names have 1 to
    /// 20 of a-z and 0-9.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.attributes.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(at) => self.attributes[at].1 = value,
            Err(at) => self.attributes.insert(at, (name, value)),
        }
        self
    }

    /// Emits it with this payload as JSON, and returns its id: the same in a re-run, another after
    /// a rewind.
    ///
    /// # Errors
    /// [`Error::Encode`], [`Error::Exceeded`] over `limits.emits` or `limits.output`,
    /// [`Error::Invalid`] for a malformed type, key or attribute, [`Error::ReadOnly`].
    pub fn json<T: Serialize + ?Sized>(mut self, data: &T) -> Result<String, Error> {
        self.data = json::write(data, || format!("data of `{}`", self.kind))?;
        self.content_type = json::MEDIA_TYPE.to_owned();
        host::emit(self)
    }

    /// Emits it with this payload, and returns its id: the same in a re-run, another after
    /// a rewind.
    ///
    /// # Errors
    /// As [`json`](Self::json), without `Encode`.
    pub fn bytes(
        mut self,
        content_type: impl Into<String>,
        data: impl Into<Vec<u8>>,
    ) -> Result<String, Error> {
        self.data = data.into();
        self.content_type = content_type.into();
        host::emit(self)
    }

    /// Emits it without a payload, and returns its id: the same in a re-run, another after
    /// a rewind.
    ///
    /// # Errors
    /// As [`json`](Self::json), without `Encode`.
    pub fn empty(self) -> Result<String, Error> {
        host::emit(self)
    }
}
