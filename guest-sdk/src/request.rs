//! Commands and questions from outside, their answers, and lifted events.

use serde::{Deserialize, Serialize};

use crate::{Error, Failure, json};

/// A command or a question from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub(crate) operation: String,
    pub(crate) key: Option<String>,
    pub(crate) principal: String,
    pub(crate) content_type: String,
    pub(crate) data: Vec<u8>,
    pub(crate) attributes: Vec<(String, String)>,
}

/// What a function that answers a request returns.
pub type Answer = Result<Response, Failure>;

impl Request {
    /// What to do, chosen by the plugin: `reserve`.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// The key whose state it sees; none only for a question across keys.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Who asks, as authenticated; empty: nobody in particular.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// A parameter.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body, read as JSON. It may borrow from the request.
    ///
    /// # Errors
    /// [`Error::Decode`] where it is not a `T`; with `?` that is a reject.
    pub fn data<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        json::read(&self.data, || format!("body of `{}`", self.operation))
    }

    /// The body as it came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Media type of the body; empty: none.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.content_type
    }
}

/// The answer to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    pub(crate) content_type: String,
    pub(crate) data: Vec<u8>,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Response {
    /// An answer without a body.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// An answer in JSON.
    ///
    /// # Errors
    /// [`Error::Encode`] where the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(data: &T) -> Result<Self, Error> {
        let data = json::write(data, || "the answer".to_owned())?;
        Ok(Self { content_type: json::MEDIA_TYPE.to_owned(), data, attributes: Vec::new() })
    }

    /// An answer of bytes.
    #[must_use]
    pub fn bytes(content_type: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self { content_type: content_type.into(), data: data.into(), attributes: Vec::new() }
    }

    /// With a further parameter.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// The body, for tests.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.data
    }
}

/// The next shape of an event, made by an upcaster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    pub(crate) version: u32,
    pub(crate) content_type: String,
    pub(crate) data: Vec<u8>,
}

impl Lifted {
    /// The event's data in JSON, at this schema version, which is higher than before.
    ///
    /// # Errors
    /// [`Error::Encode`] where the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(version: u32, data: &T) -> Result<Self, Error> {
        let data = json::write(data, || "the lifted data".to_owned())?;
        Ok(Self { version, content_type: json::MEDIA_TYPE.to_owned(), data })
    }

    /// The event's data in bytes, at this schema version, which is higher than before.
    #[must_use]
    pub fn bytes(version: u32, content_type: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self { version, content_type: content_type.into(), data: data.into() }
    }

    /// The schema version it is lifted to.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The data, for tests.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}
