//! What the records of a whole frame say, held against what they must.

use std::collections::HashMap;

use super::damage::Span;
use crate::event::{KeyHash, LOST_EVENT};
use crate::log::codec::{CommitRef, DecodeError, EventRef, RecordRef, payload_digest};
use crate::log::frame::Frame;
use crate::log::heads::Heads;

/// Checks frames in the order of the log.
#[derive(Debug, Default)]
pub(super) struct ContentCheck {
    /// Last key sequence of each key.
    sequences: HashMap<KeyHash, u64>,
    /// Set once something is missing, from where on key sequences may jump.
    is_doubtful: bool,
    /// Events that a repair could not keep and of which nobody knows the key: by so much in all key
    /// sequences may jump.
    unknown: u64,
    /// Payloads that were erased on purpose.
    pub(super) erased: u64,
}

/// Something a whole frame must not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) commits: Option<Span>,
    pub(super) positions: Option<Span>,
}

impl ContentCheck {
    /// Something before is damaged: key sequences are not known any more.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// Whether these are the heads of all keys read so far.
    pub(super) fn agrees(&self, heads: &Heads) -> bool {
        let mut sequenced = self.sequences.iter().filter(|(_, sequence)| **sequence > 0);
        heads.len() == sequenced.clone().count()
            && sequenced.all(|(key, last)| heads.get(*key).is_some_and(|h| h.sequence.0 == *last))
    }

    /// What is wrong with a frame; mostly nothing.
    pub(super) fn check(&mut self, frame: &Frame) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for commit in frame.commits() {
            match commit {
                Ok(commit) => self.commit(&commit, &mut wrong),
                Err(error) => wrong.push(Wrong {
                    what: error.to_string(),
                    commits: Span::of(frame.first_commit().0, frame.header().commit_count.into()),
                    positions: Span::of(
                        frame.header().first_position,
                        frame.header().event_count.into(),
                    ),
                }),
            }
        }
        wrong
    }

    fn commit(&mut self, commit: &CommitRef<'_>, wrong: &mut Vec<Wrong>) {
        let mut records = commit.records();
        while let Some(raw) = records.next_raw() {
            let read =
                raw.and_then(|(raw, position)| Ok((raw, position, records.read(&raw, position)?)));
            let (raw, position, record) = match read {
                Ok(read) => read,
                Err(error) => return wrong.push(in_commit(commit, &error)),
            };
            let at = |what: String, is_event: bool| Wrong {
                what,
                commits: Span::of(commit.number.0, 1),
                positions: Span::of(position.0, u64::from(is_event)),
            };
            let is_event = matches!(record, RecordRef::Event(_));
            if raw.digest.is_some_and(|digest| digest != payload_digest(raw.payload)) {
                if raw.payload.iter().all(|byte| *byte == 0) {
                    self.erased += 1;
                } else {
                    wrong.push(at("a payload does not match its digest".to_owned(), is_event));
                }
            }
            let problem = match &record {
                RecordRef::Event(event) => self.event(event),
                RecordRef::Completion(done) if done.key.map(KeyHash::of) != done.key_hash => {
                    Some("a completion's key does not match its hash".to_owned())
                }
                _ => None,
            };
            wrong.extend(problem.map(|what| at(what, is_event)));
        }
    }

    fn event(&mut self, event: &EventRef<'_>) -> Option<String> {
        if event.kind == LOST_EVENT {
            return self.lost(event);
        }
        if event.key.map(KeyHash::of) != event.key_hash {
            return Some("an event's key does not match its hash".to_owned());
        }
        let found = event.sequence.0;
        let key = event.key_hash.filter(|_| event.addressee.is_none());
        let Some(key) = key else {
            return (found != 0)
                .then(|| format!("an unkeyed or private event has key sequence {found}"));
        };
        self.sequence(key, found)
    }

    /// What stands in the place of a lost event says which of its key that was, where that is known.
    fn lost(&mut self, event: &EventRef<'_>) -> Option<String> {
        match event.key_hash {
            Some(key) if event.sequence.0 > 0 => self.sequence(key, event.sequence.0),
            Some(_) => None,
            None => {
                self.unknown += 1;
                None
            }
        }
    }

    fn sequence(&mut self, key: KeyHash, found: u64) -> Option<String> {
        let last = self.sequences.insert(key, found);
        let expected = last.unwrap_or(0) + 1;
        let jump = found.checked_sub(expected);
        // Behind damage the next of a key may be any later one.
        let is_right = jump.is_some_and(|jump| self.is_doubtful || jump <= self.unknown);
        if is_right && !self.is_doubtful {
            self.unknown -= jump.unwrap_or_default();
        }
        (!is_right).then(|| format!("key sequence is {found}, expected {expected}"))
    }
}

fn in_commit(commit: &CommitRef<'_>, error: &DecodeError) -> Wrong {
    Wrong {
        what: error.to_string(),
        commits: Span::of(commit.number.0, 1),
        positions: Span::of(commit.first_position.0, commit.events.into()),
    }
}
