//! Records to bytes: run in the caller's thread, before a commit enters its lane.

use super::control::put_map;
use super::{Completed, FRAME_BYTES_MAX, RawRecord, Seal, Sketch, flag, kind, payload_digest};
use super::{EncodeError, HEADER_BYTES, PREFIX_BYTES, PREFIX_DIGEST_BYTES, PREFIX_KEY_BYTES};
use crate::effects::{OutgoingCall, Response, StateWrite, TimerChange};
use crate::event::{Addressee, CommitNumber, Key, KeyHash, KeyVariant, NewEvent};
use crate::log::pack::{put_array, put_digest, put_nil, put_str, put_uint};
use crate::log::record::{Completion, Control, ControlRecord, DeadLetterRecord, DeliveryCommit};

/// An event in an encoded commit, as far as the writer cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSlot {
    /// Where its prefix starts in the metadata.
    pub at: usize,
    /// Where its payload starts.
    pub payload_at: usize,
    /// Hash of its key, where the writer is to give it a key sequence.
    pub sequenced: Option<KeyHash>,
    /// What it says of itself; none: the record was copied, unread.
    pub sketch: Option<Sketch>,
}

/// One commit in bytes, less what the writer assigns. Kept and cleared, it does not allocate again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Prefixes and bodies of the records.
    pub metadata: Vec<u8>,
    /// Their payloads, end to end.
    pub payload: Vec<u8>,
    /// Records.
    pub records: u32,
    /// The events among them, in order.
    pub events: Vec<EventSlot>,
    /// The end of a delivery of a keyed event; its commit is not known yet.
    pub completed: Option<Completed>,
    /// There are records that neither tells of: they were copied, unread.
    pub is_unread: bool,
    last_at: usize,
}

/// What a prefix has beside kind and lengths.
#[derive(Debug, Clone, Copy, Default)]
struct Parts<'a> {
    flags: u8,
    key: Option<KeyHash>,
    payload: &'a [u8],
}

impl Encoded {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.metadata.clear();
        self.payload.clear();
        self.events.clear();
        self.completed = None;
        self.is_unread = false;
        self.records = 0;
        self.last_at = 0;
    }

    /// Bytes of memory it holds on to.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.metadata.capacity() + self.payload.capacity()
    }

    /// Bytes it adds to a frame.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.metadata.len() + self.payload.len()
    }

    /// Marks the last record as the end of the commit.
    ///
    /// # Errors
    /// The commit has no record, or does not fit a frame.
    pub fn finish(&mut self) -> Result<(), EncodeError> {
        if self.records == 0 {
            return Err(EncodeError::Empty);
        }
        let limit = FRAME_BYTES_MAX - HEADER_BYTES - super::FRAME_ALIGN;
        if self.bytes() > limit {
            return Err(EncodeError::TooLarge { actual: self.bytes(), limit });
        }
        if let Some(flags) = self.metadata.get_mut(self.last_at + 1) {
            *flags |= flag::LAST;
        }
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation, reason = "`finish` refuses what passes 64 MiB")]
    fn record(
        &mut self,
        kind: u8,
        parts: Parts<'_>,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<usize, EncodeError> {
        let at = self.metadata.len();
        let keyed = if parts.key.is_some() { flag::KEYED } else { 0 };
        let filled = if parts.payload.is_empty() { 0 } else { flag::PAYLOAD };
        self.metadata.extend_from_slice(&[kind, parts.flags | keyed | filled, 0, 0, 0, 0, 0, 0]);
        self.metadata.extend_from_slice(&(parts.payload.len() as u32).to_le_bytes());
        if let Some(key) = parts.key {
            self.metadata.extend_from_slice(&[0; 8]);
            self.metadata.extend_from_slice(&key.0.to_le_bytes());
        }
        if !parts.payload.is_empty() {
            self.metadata.extend_from_slice(&payload_digest(parts.payload));
            self.payload.extend_from_slice(parts.payload);
        }
        let body_at = self.metadata.len();
        body(&mut self.metadata)?;
        let body_bytes = (self.metadata.len() - body_at) as u32;
        if let Some(length) = self.metadata.get_mut(at + 4..at + 8) {
            length.copy_from_slice(&body_bytes.to_le_bytes());
        }
        self.last_at = at;
        self.records += 1;
        Ok(at)
    }

    /// Adds an event.
    ///
    /// # Errors
    /// None today; the signature leaves room for bodies that can fail.
    pub fn event(&mut self, event: &NewEvent) -> Result<(), EncodeError> {
        self.hashed_event(event, event.key.as_ref().map(Key::hash128))
    }

    fn hashed_event(&mut self, event: &NewEvent, key: Option<KeyHash>) -> Result<(), EncodeError> {
        let sequenced = key.filter(|_| event.addressee.is_none());
        let parts = Parts { key, payload: &event.data, ..Parts::default() };
        self.put_event(event, parts, sequenced)
    }

    fn put_event(
        &mut self,
        event: &NewEvent,
        parts: Parts<'_>,
        sequenced: Option<KeyHash>,
    ) -> Result<(), EncodeError> {
        let payload_at = self.payload.len();
        let mut kind_at = 0;
        let at = self.record(kind::EVENT, parts, |out| {
            kind_at = put_event(out, event);
            Ok(())
        })?;
        let sketch = Some(Sketch::of(event, kind_at));
        self.events.push(EventSlot { at, payload_at, sequenced, sketch });
        Ok(())
    }

    /// Adds a completion with all its effects.
    ///
    /// # Errors
    /// A dead letter that cannot be written.
    pub fn delivery(&mut self, commit: &DeliveryCommit) -> Result<(), EncodeError> {
        let completion = &commit.completion;
        let key = completion.key.as_ref();
        let hash = key.map(Key::hash128);
        self.completion(completion, hash)?;
        for event in &commit.emits {
            // Most events go to the key of their cause, whose hash is known by now.
            let is_same = event.key.as_ref() == key;
            let hash = if is_same { hash } else { event.key.as_ref().map(Key::hash128) };
            self.hashed_event(event, hash)?;
        }
        commit.state.iter().try_for_each(|write| self.state(write))?;
        commit.timers.iter().try_for_each(|change| self.timer(change))?;
        commit.calls.iter().try_for_each(|call| self.call(call))?;
        commit.dead_letter.iter().try_for_each(|letter| self.dead_letter(letter))?;
        let Completion { instance, position, key, .. } = &commit.completion;
        match key.clone().filter(|_| commit.park) {
            Some(key) => {
                let control = Control::Park { instance: *instance, key, position: *position };
                self.control(&ControlRecord { actor: "host".into(), control })
            }
            None => Ok(()),
        }
    }

    fn completion(
        &mut self,
        completion: &Completion,
        key: Option<KeyHash>,
    ) -> Result<(), EncodeError> {
        let payload = completion.response.as_ref().map_or(&[][..], |response| &response.data);
        self.is_unread |= self.completed.is_some();
        self.completed = key.map(|key| Completed {
            instance: completion.instance,
            generation: completion.generation,
            position: completion.position,
            key,
            commit: CommitNumber(0),
        });
        self.record(kind::COMPLETION, Parts { key, payload, ..Parts::default() }, |out| {
            put_array(out, 10);
            put_uint(out, completion.instance.0.into());
            put_uint(out, completion.generation.0.into());
            put_uint(out, completion.position.0);
            put_optional(out, completion.key.as_ref().map(Key::as_str), put_str);
            put_digest(out, &completion.environment.0);
            put_uint(out, completion.attempt.into());
            put_uint(out, completion.mode as u64);
            put_uint(out, completion.outcome as u64);
            put_uint(out, completion.fuel);
            put_optional(out, completion.response.as_ref(), put_response);
            Ok(())
        })?;
        Ok(())
    }

    fn state(&mut self, write: &StateWrite) -> Result<(), EncodeError> {
        let payload = write.value.as_deref().unwrap_or_default();
        self.record(kind::STATE, Parts { payload, ..Parts::default() }, |out| {
            put_array(out, if write.expires_ms.is_some() { 3 } else { 2 });
            put_str(out, &write.name);
            put_uint(out, write.value.is_some().into());
            if let Some(ms) = write.expires_ms {
                put_uint(out, ms.get());
            }
            Ok(())
        })?;
        Ok(())
    }

    fn timer(&mut self, change: &TimerChange) -> Result<(), EncodeError> {
        let (name, due_ms, payload) = match change {
            TimerChange::Set { name, due_ms, data } => (name, Some(*due_ms), &data[..]),
            TimerChange::Cancel { name } => (name, None, &[][..]),
        };
        self.record(kind::TIMER, Parts { payload, ..Parts::default() }, |out| {
            put_array(out, 2);
            put_str(out, name);
            put_optional(out, due_ms, put_uint);
            Ok(())
        })?;
        Ok(())
    }

    fn call(&mut self, call: &OutgoingCall) -> Result<(), EncodeError> {
        self.record(kind::CALL, Parts { payload: &call.body, ..Parts::default() }, |out| {
            put_array(out, 6);
            put_str(out, &call.idempotency_key);
            put_str(out, &call.name);
            put_str(out, &call.method);
            put_str(out, &call.url);
            put_pairs(out, &call.headers);
            put_uint(out, call.timeout_ms.into());
            Ok(())
        })?;
        Ok(())
    }

    fn dead_letter(&mut self, letter: &DeadLetterRecord) -> Result<(), EncodeError> {
        self.record(kind::DEAD_LETTER, Parts::default(), |out| put_map(out, letter)).map(drop)
    }

    /// Adds a control record.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn control(&mut self, record: &ControlRecord) -> Result<(), EncodeError> {
        self.record(kind::CONTROL, Parts::default(), |out| put_map(out, record)).map(drop)
    }

    /// Adds what is rare about the commit; before any other record.
    ///
    /// # Errors
    /// None today.
    pub fn commit_meta(&mut self, meta: super::CommitMeta<'_>) -> Result<(), EncodeError> {
        self.record(kind::COMMIT, Parts::default(), |out| {
            put_array(out, 2);
            put_optional(out, meta.tenant, put_str);
            put_optional(out, meta.region, put_str);
            Ok(())
        })
        .map(drop)
    }

    /// Adds a seal; alone in its frame.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn seal(&mut self, seal: &Seal) -> Result<(), EncodeError> {
        self.record(kind::SEAL, Parts::default(), |out| put_map(out, seal)).map(drop)
    }

    /// Adds what stands in the place of a lost event: one without a key of its own, under the hash of
    /// the key that the lost one had, where that is known.
    ///
    /// # Errors
    /// None today.
    pub fn filler(&mut self, event: &NewEvent, key: Option<KeyHash>) -> Result<(), EncodeError> {
        self.put_event(event, Parts { key, ..Parts::default() }, key)
    }

    /// Adds a record as it stands in a frame.
    pub fn copy(&mut self, raw: &RawRecord<'_>) {
        let (at, payload_at) = (self.metadata.len(), self.payload.len());
        let flags = raw.flags & !flag::LAST;
        self.metadata.extend_from_slice(&[raw.kind, flags]);
        self.metadata.extend_from_slice(&raw.delta_ms.to_le_bytes());
        for bytes in [raw.body, raw.payload] {
            let bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.metadata.extend_from_slice(&bytes.to_le_bytes());
        }
        if let Some(key) = raw.key_hash {
            self.metadata.extend_from_slice(&raw.sequence.0.to_le_bytes());
            self.metadata.extend_from_slice(&key.0.to_le_bytes());
        }
        if let Some(digest) = raw.digest {
            self.metadata.extend_from_slice(&digest);
        }
        self.metadata.extend_from_slice(raw.body);
        self.payload.extend_from_slice(raw.payload);
        if raw.kind == kind::EVENT {
            self.events.push(EventSlot { at, payload_at, sequenced: None, sketch: None });
        }
        self.is_unread = true;
        self.last_at = at;
        self.records += 1;
    }

    /// Adds what the next frame has as its chain; the last record of a mended frame.
    ///
    /// # Errors
    /// None today.
    pub fn chain(&mut self, next: [u8; 32]) -> Result<(), EncodeError> {
        if let Some(flags) = self.metadata.get_mut(self.last_at + 1) {
            *flags &= !flag::LAST;
        }
        let parts = Parts { flags: flag::SKIPPABLE, ..Parts::default() };
        let record = self.record(kind::CHAIN, parts, |out| {
            out.extend_from_slice(&next);
            Ok(())
        });
        record.map(drop)
    }

    /// Adds a record of a kind this version has no name for: what a later version may write.
    #[cfg(test)]
    pub(crate) fn foreign(&mut self, kind: u8, flags: u8, body: &[u8]) {
        let parts = Parts { flags, ..Parts::default() };
        self.record(kind, parts, |out| {
            out.extend_from_slice(body);
            Ok(())
        })
        .unwrap();
        self.is_unread = true;
    }
}

/// Bytes of the prefix of a record with these flags.
pub(super) const fn prefix_bytes(flags: u8) -> usize {
    let key = if flags & flag::KEYED != 0 { PREFIX_KEY_BYTES } else { 0 };
    let digest = if flags & flag::PAYLOAD != 0 { PREFIX_DIGEST_BYTES } else { 0 };
    PREFIX_BYTES + key + digest
}

fn put_optional<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => put(out, value),
        None => put_nil(out),
    }
}

fn put_pairs(out: &mut Vec<u8>, pairs: &[(std::sync::Arc<str>, std::sync::Arc<str>)]) {
    put_array(out, pairs.len() * 2);
    for (name, value) in pairs {
        put_str(out, name);
        put_str(out, value);
    }
}

fn put_response(out: &mut Vec<u8>, response: &Response) {
    put_array(out, 2);
    put_str(out, &response.content_type);
    put_pairs(out, &response.attributes);
}

/// Appends the body of an event, and says where in `out` its type starts.
fn put_event(out: &mut Vec<u8>, event: &NewEvent) -> usize {
    put_array(out, 8);
    put_str(out, &event.id);
    put_str(out, &event.source);
    put_str(out, &event.kind);
    let kind_at = out.len() - event.kind.len();
    put_uint(
        out,
        match event.key_variant {
            KeyVariant::None => 0,
            KeyVariant::PartitionKey => 1,
            KeyVariant::Subject => 2,
        },
    );
    put_optional(out, event.key.as_ref().map(Key::as_str), put_str);
    put_str(out, &event.content_type);
    put_pairs(out, &event.attributes);
    put_rare(out, event);
    kind_at
}

/// Fields that most events lack: nil where all are absent, else an array that ends with the last
/// one present.
fn put_rare(out: &mut Vec<u8>, event: &NewEvent) {
    let origin = event.origin.as_ref();
    let present = [
        event.time.is_some(),
        event.time.is_some(),
        event.emitter.is_some(),
        event.depth > 0,
        event.causation.is_some(),
        event.addressee.is_some(),
        event.schema_version > 0,
        origin.is_some(),
        origin.is_some(),
        origin.is_some(),
        !event.principal.is_empty(),
    ];
    let Some(last) = present.iter().rposition(|present| *present) else { return put_nil(out) };
    put_array(out, last + 1);
    for (index, present) in present.iter().enumerate().take(last + 1) {
        if *present { put_rare_field(out, event, index) } else { put_nil(out) }
    }
}

fn put_rare_field(out: &mut Vec<u8>, event: &NewEvent, index: usize) {
    let time = event.time.as_ref();
    let origin = event.origin.as_ref();
    match index {
        0 => put_optional(out, time.map(|time| &*time.text), put_str),
        1 => put_optional(out, time.map(|time| time.ms), put_uint),
        2 => put_optional(out, event.emitter.map(|emitter| emitter.0.into()), put_uint),
        3 => put_uint(out, event.depth.into()),
        4 => put_optional(out, event.causation.map(|position| position.0), put_uint),
        5 => match &event.addressee {
            Some(Addressee::Plugin(instance)) => put_uint(out, instance.0.into()),
            Some(Addressee::Bus(bus)) => put_str(out, bus),
            None => put_nil(out),
        },
        6 => put_uint(out, event.schema_version.into()),
        7 => put_optional(out, origin.map(|origin| &*origin.region), put_str),
        8 => put_optional(out, origin.map(|origin| &*origin.bus), put_str),
        9 => put_optional(out, origin.map(|origin| origin.position.0), put_uint),
        _ => put_str(out, &event.principal),
    }
}
