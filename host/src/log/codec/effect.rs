//! Completions and what stands beside them, borrowed from the bytes of their frame.

use std::num::NonZeroU64;

use bytes::Bytes;
use ecow::EcoBytes;

use super::{Completed, DecodeError, Pairs, RawRecord, kind};
use crate::effects::{OutcomeKind, OutgoingCall, Response, StateWrite, TimerChange, ends_at};
use crate::event::{CommitNumber, Digest, Generation, InstanceId, Key, KeyHash, Position};
use crate::log::pack::{Fields, PackError, Reader};
use crate::log::record::{Completion, Mode};

/// What is rare about a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitMeta<'a> {
    /// The tenant it belongs to; reserved.
    pub tenant: Option<&'a str>,
    /// The region it was made in; reserved.
    pub region: Option<&'a str>,
}

/// The end of a delivery. Fields as in [`Completion`].
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is documented on `Completion`")]
pub struct CompletionRef<'a> {
    pub instance: InstanceId,
    pub generation: Generation,
    pub position: Position,
    pub key: Option<&'a str>,
    pub key_hash: Option<KeyHash>,
    pub environment: Digest,
    pub attempt: u32,
    pub mode: Mode,
    pub outcome: OutcomeKind,
    pub fuel: u64,
    pub response: Option<ResponseRef<'a>>,
}

/// How the delivery of an event ended: what of a completion is read by who counts completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The event.
    pub position: Position,
    /// How it ended.
    pub outcome: OutcomeKind,
}

/// The answer to a command. Fields as in [`Response`].
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is documented on `Response`")]
pub struct ResponseRef<'a> {
    pub content_type: &'a str,
    pub data: &'a [u8],
    pub attributes: Pairs<'a>,
}

/// A state write. Fields as in [`StateWrite`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented on `StateWrite`")]
pub struct StateRef<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
    pub expires_ms: Option<u64>,
}

/// A timer set or cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented on `TimerChange`")]
pub enum TimerRef<'a> {
    /// See [`TimerChange::Set`].
    Set { name: &'a str, due_ms: u64, data: &'a [u8] },
    /// See [`TimerChange::Cancel`].
    Cancel { name: &'a str },
}

/// A request to the outside. Fields as in [`OutgoingCall`].
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is documented on `OutgoingCall`")]
pub struct CallRef<'a> {
    pub idempotency_key: &'a str,
    pub name: &'a str,
    pub method: &'a str,
    pub url: &'a str,
    pub headers: Pairs<'a>,
    pub body: &'a [u8],
    pub timeout_ms: u32,
}

/// Reads the fields of a record body: which kind it is, for the errors, and where it stands.
struct Body<'a> {
    kind: u8,
    fields: Fields<'a>,
}

impl<'a> Body<'a> {
    fn open(kind: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let fields =
            Fields::open(Reader::new(body)).map_err(|source| DecodeError::Body { kind, source })?;
        Ok(Self { kind, fields })
    }

    fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, PackError>,
    ) -> Result<Option<T>, DecodeError> {
        self.fields.next(read).map_err(|source| DecodeError::Body { kind: self.kind, source })
    }

    fn required<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, PackError>,
    ) -> Result<T, DecodeError> {
        self.optional(read)?.ok_or(DecodeError::Field { kind: self.kind, field })
    }

    fn pass(&mut self, count: usize) -> Result<(), DecodeError> {
        self.fields.pass(count).map_err(|source| DecodeError::Body { kind: self.kind, source })
    }

    fn outcome(&mut self) -> Result<OutcomeKind, DecodeError> {
        let code = self.required("outcome", Reader::uint_as)?;
        OutcomeKind::from_code(code).ok_or_else(|| self.invalid("outcome"))
    }

    fn invalid(&self, field: &'static str) -> DecodeError {
        DecodeError::Field { kind: self.kind, field }
    }

    fn close(self) -> Result<(), DecodeError> {
        let kind = self.kind;
        self.fields.close().map(drop).map_err(|source| DecodeError::Body { kind, source })
    }
}

impl<'a> CommitMeta<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut body = Body::open(kind::COMMIT, body)?;
        let meta =
            Self { tenant: body.optional(Reader::str)?, region: body.optional(Reader::str)? };
        body.close()?;
        Ok(meta)
    }
}

impl<'a> CompletionRef<'a> {
    /// What an index holds of it, where its event is keyed; `commit` is the one that it is in.
    #[must_use]
    pub fn completed(&self, commit: CommitNumber) -> Option<Completed> {
        let Self { instance, generation, position, key_hash, .. } = *self;
        key_hash.map(|key| Completed { instance, generation, position, key, commit })
    }

    pub(super) fn decode(
        body: &'a [u8],
        key_hash: Option<KeyHash>,
        payload: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let mut body = Body::open(kind::COMPLETION, body)?;
        let completion = Self {
            instance: InstanceId(body.required("instance", Reader::uint_as)?),
            generation: Generation(body.required("generation", Reader::uint_as)?),
            position: Position(body.required("position", Reader::uint)?),
            key: body.optional(Reader::str)?,
            key_hash,
            environment: {
                let bytes = body.required("environment", Reader::bin)?;
                Digest(bytes.try_into().map_err(|_| body.invalid("environment"))?)
            },
            attempt: body.required("attempt", Reader::uint_as)?,
            mode: match body.required("mode", Reader::uint)? {
                0 => Mode::Live,
                1 => Mode::Redrive,
                2 => Mode::Rebuild,
                3 => Mode::RebuildRedrive,
                _ => return Err(body.invalid("mode")),
            },
            outcome: body.outcome()?,
            fuel: body.required("fuel", Reader::uint)?,
            response: body.optional(|reader| ResponseRef::read(reader, payload))?,
        };
        if completion.key.is_some() != key_hash.is_some() {
            return Err(body.invalid("key hash"));
        }
        body.close()?;
        Ok(completion)
    }

    /// The completion, owned.
    ///
    /// # Errors
    /// The stored key is none.
    pub fn to_owned(&self) -> Result<Completion, DecodeError> {
        let invalid = |_| DecodeError::Field { kind: kind::COMPLETION, field: "key" };
        Ok(Completion {
            instance: self.instance,
            generation: self.generation,
            position: self.position,
            key: self.key.map(Key::new).transpose().map_err(invalid)?,
            environment: self.environment,
            attempt: self.attempt,
            mode: self.mode,
            outcome: self.outcome,
            fuel: self.fuel,
            response: self.response.map(|response| response.to_owned()),
        })
    }
}

impl Ended {
    /// Reads it of a completion whose body is unread. The other fields are passed over, unchecked.
    ///
    /// # Errors
    /// The body is not what its kind says, as far as it is read.
    pub fn of(completion: &RawRecord<'_>) -> Result<Self, DecodeError> {
        let mut body = Body::open(kind::COMPLETION, completion.body)?;
        body.pass(2)?;
        let position = Position(body.required("position", Reader::uint)?);
        body.pass(4)?;
        Ok(Self { position, outcome: body.outcome()? })
    }
}

impl<'a> ResponseRef<'a> {
    fn read(reader: &mut Reader<'a>, data: &'a [u8]) -> Result<Self, PackError> {
        let mut fields = Fields::open(*reader)?;
        let content_type = fields.next(Reader::str)?.unwrap_or_default();
        let attributes = fields.next(Pairs::read)?.unwrap_or_default();
        *reader = fields.close()?;
        Ok(Self { content_type, data, attributes })
    }

    /// The response, owned.
    #[must_use]
    pub fn to_owned(&self) -> Response {
        Response {
            content_type: self.content_type.into(),
            data: Bytes::copy_from_slice(self.data),
            attributes: self.attributes.to_owned(),
        }
    }
}

impl<'a> StateRef<'a> {
    pub(super) fn decode(body: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut body = Body::open(kind::STATE, body)?;
        let name = body.required("name", Reader::str)?;
        let value = match body.required("presence", Reader::uint)? {
            0 if payload.is_empty() => None,
            1 => Some(payload),
            _ => return Err(body.invalid("presence")),
        };
        let expires_ms = body.optional(Reader::uint)?;
        body.close()?;
        Ok(Self { name, value, expires_ms })
    }

    /// A write as it would be read.
    #[must_use]
    pub fn of(write: &'a StateWrite) -> Self {
        let StateWrite { name, value, expires_ms } = write;
        Self { name, value: value.as_deref(), expires_ms: expires_ms.map(NonZeroU64::get) }
    }

    /// The write, owned.
    #[must_use]
    pub fn to_owned(&self) -> StateWrite {
        StateWrite {
            name: self.name.into(),
            value: self.value.map(EcoBytes::from),
            expires_ms: self.expires_ms.map(ends_at),
        }
    }
}

impl<'a> TimerRef<'a> {
    pub(super) fn decode(body: &'a [u8], data: &'a [u8]) -> Result<Self, DecodeError> {
        let mut body = Body::open(kind::TIMER, body)?;
        let name = body.required("name", Reader::str)?;
        let due_ms = body.optional(Reader::uint)?;
        body.close()?;
        Ok(match due_ms {
            Some(due_ms) => Self::Set { name, due_ms, data },
            None => Self::Cancel { name },
        })
    }

    /// The change, owned.
    #[must_use]
    pub fn to_owned(&self) -> TimerChange {
        match *self {
            Self::Set { name, due_ms, data } => {
                TimerChange::Set { name: name.into(), due_ms, data: Bytes::copy_from_slice(data) }
            }
            Self::Cancel { name } => TimerChange::Cancel { name: name.into() },
        }
    }
}

impl<'a> CallRef<'a> {
    pub(super) fn decode(body: &'a [u8], payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut body = Body::open(kind::CALL, body)?;
        let call = Self {
            idempotency_key: body.required("idempotency key", Reader::str)?,
            name: body.required("name", Reader::str)?,
            method: body.required("method", Reader::str)?,
            url: body.required("url", Reader::str)?,
            headers: body.optional(Pairs::read)?.unwrap_or_default(),
            body: payload,
            timeout_ms: body.required("timeout", Reader::uint_as)?,
        };
        body.close()?;
        Ok(call)
    }

    /// The call, owned.
    #[must_use]
    pub fn to_owned(&self) -> OutgoingCall {
        OutgoingCall {
            idempotency_key: self.idempotency_key.into(),
            name: self.name.into(),
            method: self.method.into(),
            url: self.url.into(),
            headers: self.headers.to_owned(),
            body: Bytes::copy_from_slice(self.body),
            timeout_ms: self.timeout_ms,
        }
    }
}
