//! The event record, borrowed from the bytes of its frame.

use std::sync::Arc;

use bytes::Bytes;

use super::{DecodeError, kind};
use crate::event::{
    Addressee, CommitNumber, Event, EventTime, InstanceId, Key, KeyHash, KeySequence, KeyVariant,
    LOST_EVENT, NewEvent, Origin, Position,
};
use crate::log::pack::{Fields, PackError, Reader};
use crate::texts::Texts;

/// An event in a frame. Fields as in [`NewEvent`] and [`Event`].
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is documented on `NewEvent`")]
pub struct EventRef<'a> {
    pub position: Position,
    pub sequence: KeySequence,
    pub recorded_ms: u64,
    pub commit: CommitNumber,
    pub key_hash: Option<KeyHash>,
    pub id: &'a str,
    pub source: &'a str,
    pub kind: &'a str,
    pub key_variant: KeyVariant,
    pub key: Option<&'a str>,
    pub content_type: &'a str,
    pub attributes: Pairs<'a>,
    pub data: &'a [u8],
    pub time: Option<(&'a str, u64)>,
    pub emitter: Option<InstanceId>,
    pub depth: u8,
    pub causation: Option<Position>,
    pub addressee: Option<AddresseeRef<'a>>,
    pub schema_version: u32,
    pub origin: Option<OriginRef<'a>>,
    pub principal: &'a str,
    /// Names the key that the payload is encrypted with; reserved.
    pub encryption_key: Option<&'a str>,
}

/// [`Addressee`], borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddresseeRef<'a> {
    /// One plugin.
    Plugin(InstanceId),
    /// Another bus.
    Bus(&'a str),
}

impl<'a> AddresseeRef<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, PackError> {
        let mut probe = *reader;
        if let Ok(instance) = probe.uint_as() {
            *reader = probe;
            return Ok(Self::Plugin(InstanceId(instance)));
        }
        reader.str().map(Self::Bus)
    }
}

/// [`Origin`], borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginRef<'a> {
    /// Region of the source.
    pub region: &'a str,
    /// Bus of the source.
    pub bus: &'a str,
    /// Position there.
    pub position: Position,
}

/// Names and values, flattened into one array; checked when decoded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pairs<'a> {
    texts: &'a [u8],
    count: usize,
}

impl<'a> Pairs<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, PackError> {
        let len = reader.array()?;
        let texts = reader.rest();
        for _ in 0..len {
            reader.str()?;
        }
        Ok(Self { texts, count: len / 2 })
    }

    /// How many pairs.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut reader = Reader::new(self.texts);
        // `read` has gone over these texts once: they are what they should be.
        (0..self.count).map_while(move |_| Some((reader.str().ok()?, reader.str().ok()?)))
    }

    /// The pairs, owned.
    #[must_use]
    pub fn to_owned(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.to_shared(&mut Texts::default())
    }

    fn to_shared(self, texts: &mut Texts) -> Vec<(Arc<str>, Arc<str>)> {
        let mut pairs = Vec::with_capacity(self.count);
        pairs.extend(self.iter().map(|(name, value)| (texts.share(name), value.into())));
        pairs
    }
}

/// What an event's prefix and place in the frame say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) position: Position,
    pub(super) sequence: KeySequence,
    pub(super) recorded_ms: u64,
    pub(super) commit: CommitNumber,
    pub(super) key_hash: Option<KeyHash>,
    pub(super) data: &'a [u8],
}

impl<'a> EventRef<'a> {
    pub(super) fn decode(place: Place<'a>, body: &'a [u8]) -> Result<Self, DecodeError> {
        let bad = |source| DecodeError::Body { kind: kind::EVENT, source };
        let missing = |field| DecodeError::Field { kind: kind::EVENT, field };
        let mut fields = Fields::open(Reader::new(body)).map_err(bad)?;
        let mut event = Self::blank(place);
        event.id = fields.next(Reader::str).map_err(bad)?.ok_or(missing("id"))?;
        event.source = fields.next(Reader::str).map_err(bad)?.ok_or(missing("source"))?;
        event.kind = fields.next(Reader::str).map_err(bad)?.ok_or(missing("type"))?;
        event.key_variant = match fields.next(Reader::uint).map_err(bad)?.unwrap_or_default() {
            0 => KeyVariant::None,
            1 => KeyVariant::PartitionKey,
            2 => KeyVariant::Subject,
            _ => return Err(missing("key variant")),
        };
        event.key = fields.next(Reader::str).map_err(bad)?;
        event.content_type = fields.next(Reader::str).map_err(bad)?.unwrap_or_default();
        event.attributes = fields.next(Pairs::read).map_err(bad)?.unwrap_or_default();
        let rare = fields
            .next(|reader| {
                let start = *reader;
                reader.skip()?;
                Ok(start)
            })
            .map_err(bad)?;
        if let Some(rare) = rare {
            event.rare(rare).map_err(bad)?;
        }
        fields.close().map_err(bad)?;
        // Of a lost event the key may be known by its hash alone.
        let is_hashed = event.key_hash.is_some();
        if event.key.is_some() != is_hashed && !(is_hashed && event.kind == LOST_EVENT) {
            return Err(missing("key hash"));
        }
        Ok(event)
    }

    fn blank(place: Place<'a>) -> Self {
        Self {
            position: place.position,
            sequence: place.sequence,
            recorded_ms: place.recorded_ms,
            commit: place.commit,
            key_hash: place.key_hash,
            id: "",
            source: "",
            kind: "",
            key_variant: KeyVariant::None,
            key: None,
            content_type: "",
            attributes: Pairs::default(),
            data: place.data,
            time: None,
            emitter: None,
            depth: 0,
            causation: None,
            addressee: None,
            schema_version: 0,
            origin: None,
            principal: "",
            encryption_key: None,
        }
    }

    fn rare(&mut self, array: Reader<'a>) -> Result<(), PackError> {
        let mut fields = Fields::open(array)?;
        let text = fields.next(Reader::str)?;
        let ms = fields.next(Reader::uint)?;
        self.time = text.map(|text| (text, ms.unwrap_or_default()));
        self.emitter = fields.next(Reader::uint_as)?.map(InstanceId);
        self.depth = fields.next(Reader::uint_as)?.unwrap_or_default();
        self.causation = fields.next(Reader::uint)?.map(Position);
        self.addressee = fields.next(AddresseeRef::read)?;
        self.schema_version = fields.next(Reader::uint_as)?.unwrap_or_default();
        let region = fields.next(Reader::str)?.unwrap_or_default();
        let bus = fields.next(Reader::str)?;
        let position = Position(fields.next(Reader::uint)?.unwrap_or_default());
        self.origin = bus.map(|bus| OriginRef { region, bus, position });
        self.principal = fields.next(Reader::str)?.unwrap_or_default();
        self.encryption_key = fields.next(Reader::str)?;
        fields.close().map(drop)
    }

    /// The event, owned. `data` is what to hold on to as its payload: a slice of the frame's bytes.
    ///
    /// # Errors
    /// The stored key is none.
    pub fn to_event(&self, data: Bytes) -> Result<Event, DecodeError> {
        self.to_event_with(data, &mut Texts::default())
    }

    /// As [`Self::to_event`], for one of several events that have texts in common.
    ///
    /// # Errors
    /// The stored key is none.
    pub fn to_event_with(&self, data: Bytes, texts: &mut Texts) -> Result<Event, DecodeError> {
        let invalid = |_| DecodeError::Field { kind: kind::EVENT, field: "key" };
        let key = self.key.zip(self.key_hash).map(|(text, hash)| Key::hashed(text, hash));
        let key = key.transpose().map_err(invalid)?;
        let body = NewEvent {
            id: self.id.into(),
            source: texts.share(self.source),
            kind: texts.share(self.kind),
            key,
            key_variant: self.key_variant,
            time: self.time.map(|(text, ms)| EventTime { text: text.into(), ms }),
            content_type: texts.share(self.content_type),
            data,
            attributes: self.attributes.to_shared(texts),
            schema_version: self.schema_version,
            addressee: self.addressee.map(|addressee| match addressee {
                AddresseeRef::Plugin(instance) => Addressee::Plugin(instance),
                AddresseeRef::Bus(bus) => Addressee::Bus(bus.into()),
            }),
            emitter: self.emitter,
            depth: self.depth,
            causation: self.causation,
            origin: self.origin.map(|origin| Origin {
                region: origin.region.into(),
                bus: origin.bus.into(),
                position: origin.position,
            }),
            principal: texts.share(self.principal),
        };
        Ok(Event {
            position: self.position,
            sequence: self.sequence,
            recorded_ms: self.recorded_ms,
            commit: self.commit,
            body,
        })
    }
}
