//! The events of a bench: all alike but for identity and key, cheap to make while the clock runs.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Key, KeyVariant, NewEvent};
use crate::log::Publish;

use super::Settings;

/// Digits of an event's number in its id.
const ID_DIGITS: usize = 12;

/// The source of all of them.
pub(super) const SOURCE: &str = "/bench";
/// The media type of their payload.
pub(super) const CONTENT_TYPE: &str = "application/json";

/// Events after which few keys come up in the same order again.
const TURNS: usize = 1 << 16;
/// A prime, so that by such steps all of any number of keys come up before one comes again.
const STRIDE: usize = 2_654_435_761;

/// Makes events by their number.
pub(super) struct Events {
    /// Those of one event after the other, as they come from clients. To fetch one from wherever it is kept
    /// would take as long as to encode the event.
    keys: Vec<Key>,
    source: Arc<str>,
    kind: Arc<str>,
    content_type: Arc<str>,
    data: Bytes,
    /// Who published them: nobody. What is empty by default, is one text for the whole process.
    principal: Arc<str>,
}

impl Events {
    pub(super) fn new(settings: &Settings) -> Self {
        let key = |n: usize| Key::new(&format!("key-{:08}", n.checked_rem(settings.keys)?)).ok();
        let keys = if settings.keys < TURNS {
            (0..TURNS).filter_map(|turn| key(spread(turn as u64)?)).collect()
        } else {
            (0..settings.keys).filter_map(|turn| key(turn.wrapping_mul(STRIDE))).collect()
        };
        let data = settings.data.clone().unwrap_or_else(|| text(settings.size));
        Self {
            keys,
            source: SOURCE.into(),
            kind: settings.kind.as_str().into(),
            content_type: CONTENT_TYPE.into(),
            data: data.into(),
            principal: "".into(),
        }
    }

    /// The same ones again, sharing no memory: threads that count references to the same texts hold up
    /// one another, which clients would not.
    pub(super) fn apart(&self) -> Self {
        let text = |text: &Arc<str>| Arc::from(&**text);
        Self {
            keys: self.keys.iter().filter_map(|key| Key::new(key.as_str()).ok()).collect(),
            source: text(&self.source),
            kind: text(&self.kind),
            content_type: text(&self.content_type),
            data: Bytes::copy_from_slice(&self.data),
            principal: text(&self.principal),
        }
    }

    /// The payload of all of them.
    pub(super) fn data(&self) -> &Bytes {
        &self.data
    }

    /// The id of an event: as long as a UUID. Not formatted, which takes longer than to encode the event.
    pub(super) fn id(number: u64) -> Arc<str> {
        let mut id = *b"00000000-0000-4000-8000-000000000000";
        let mut left = number;
        for place in id.iter_mut().rev().take(ID_DIGITS) {
            if left == 0 {
                break;
            }
            let digit = left.to_le_bytes()[0] & 0xf;
            *place = if digit < 10 { b'0' + digit } else { b'a' - 10 + digit };
            left >>= 4;
        }
        std::str::from_utf8(&id).unwrap_or_default().into()
    }

    /// The key of an event; unkeyed where there are no keys.
    pub(super) fn key(&self, number: u64) -> Option<&Key> {
        let turn = usize::try_from(number).ok()?;
        self.keys.get(turn.checked_rem(self.keys.len())?)
    }

    /// An event. Field by field: what is taken of a default one would be counted as referred to and not
    /// any more, by all threads in the same place of memory.
    pub(super) fn event(&self, number: u64) -> NewEvent {
        let key = self.key(number).cloned();
        NewEvent {
            id: Self::id(number),
            source: Arc::clone(&self.source),
            kind: Arc::clone(&self.kind),
            key_variant: key.as_ref().map_or(KeyVariant::None, |_| KeyVariant::PartitionKey),
            key,
            content_type: Arc::clone(&self.content_type),
            time: None,
            data: self.data.clone(),
            attributes: Vec::new(),
            schema_version: 0,
            addressee: None,
            emitter: None,
            depth: 0,
            causation: None,
            origin: None,
            principal: Arc::clone(&self.principal),
        }
    }

    /// An event to publish, without a condition.
    pub(super) fn publish(&self, number: u64) -> Publish {
        Publish { event: self.event(number), expected: None }
    }
}

/// Neighbours far apart, so that they have different keys and all of a few come up about equally often.
fn spread(number: u64) -> Option<usize> {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16).try_into().ok()
}

/// A JSON string of so many bytes.
fn text(size: usize) -> Vec<u8> {
    let mut text = vec![b'x'; size];
    if let [first, .., last] = text.as_mut_slice() {
        (*first, *last) = (b'"', b'"');
    } else {
        text.fill(b'1');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_those_of_their_numbers() {
        for number in [0, 7, 0xabc, 0x1234_5678_9abc_u64] {
            let expected = format!("00000000-0000-4000-8000-{number:012x}");
            assert_eq!(*Events::id(number), *expected);
        }
    }

    #[test]
    fn an_event_is_the_default_one_but_for_what_it_is_made_of() {
        for keys in [0, 3] {
            let events = Events::new(&Settings { keys, ..Settings::default() });
            let made = events.apart().event(7);
            assert_eq!(made, events.event(7));
            let NewEvent { id, source, kind, key, key_variant, content_type, data, .. } =
                made.clone();
            assert_eq!(key.is_some(), keys > 0);
            let default = NewEvent::default();
            let expected =
                NewEvent { id, source, kind, key, key_variant, content_type, data, ..default };
            assert_eq!(made, expected);
        }
    }

    #[test]
    fn each_of_many_keys_comes_up_before_one_comes_again() {
        let keys = TURNS + 10;
        let events = Events::new(&Settings { keys, ..Settings::default() });
        let round = |from: usize| (from..from + keys).filter_map(|n| events.key(n as u64));
        assert_eq!(round(7).collect::<HashSet<_>>().len(), keys);
        assert!(round(0).eq(round(keys)));
    }

    #[test]
    fn the_payload_is_json_of_the_size_asked_for() {
        for size in [1, 2, 3, 256] {
            let text = text(size);
            assert_eq!(text.len(), size);
            serde_json::from_slice::<serde_json::Value>(&text).unwrap();
        }
        assert!(text(0).is_empty());
    }
}
