//! A command as it travels through the log: a private event of the plugin it is for.
//!
//! What a command says beside key, body and principal stands in attributes of the event that begin
//! with `tidegate`, where nothing that a client sends can collide with them. They are read in two
//! places that must agree: when the guest is called, and when the log is folded.

use std::sync::Arc;

use bytes::Bytes;
use url::form_urlencoded;

use crate::bus::private::{self, COMMAND, Content};
use crate::effects::{OutcomeKind, Response};
use crate::event::{Event, InstanceId, Key, KeySequence};

/// Attribute: the name of the command.
const NAME: &str = "tidegatecommand";
/// Attribute: what the key's last sequence must be.
const EXPECTED: &str = "tidegateexpected";
/// Attribute: the client's `Idempotency-Key`.
const IDEMPOTENCY_KEY: &str = "tidegateidempotency";
/// Attribute: the parameters, as in the query of an address.
const PARAMETERS: &str = "tidegateparameters";

/// Attribute of a failure's answer: which failure it is, where the outcome alone does not say.
const CODE: &str = "code";
/// [`CODE`] of a key that was not at the expected sequence.
const SEQUENCE_CONFLICT: &str = "sequenceconflict";

/// A command to a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What to do, chosen by the plugin: 1 to 255 bytes, no control characters.
    pub name: String,
    /// The key it is ordered by.
    pub key: Key,
    /// Who asks, as authenticated; empty: nobody in particular.
    pub principal: Arc<str>,
    /// Media type of `data`; empty: none.
    pub content_type: String,
    /// The body.
    pub data: Bytes,
    /// Parameters, ascending by name.
    pub parameters: Vec<(String, String)>,
    /// What the key's last sequence must be when it runs; 0: the key is new.
    pub expected: Option<KeySequence>,
    /// What makes a repetition known for one: 1 to 255 bytes, no control characters.
    pub idempotency_key: Option<String>,
}

/// What a repetition of a command has in common with it: plugin, key, name and `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub u128);

/// What a repetition must say, too: body, media type, parameters and expected sequence. Who asks is
/// not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHash(pub u128);

/// How a command went, as its completion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin's answer.
    Answered(Response),
    /// Nothing was executed: the key was at another sequence.
    SequenceConflict {
        /// What the client expected.
        expected: KeySequence,
        /// What was.
        actual: KeySequence,
    },
    /// It failed, and left nothing behind.
    Failed {
        /// How; `Ok` where the completion of a later version says something else.
        outcome: OutcomeKind,
        /// Why, for people.
        reason: String,
    },
}

impl Command {
    /// The event that carries it, as [`private::event`] takes it.
    #[must_use]
    pub fn content(self, id: Arc<str>) -> Content {
        let parameters = parameters_text(&self.parameters);
        let expected = self.expected.map(|sequence| sequence.to_string());
        // Ascending by name, as attributes are.
        let attributes = [
            (NAME, Some(self.name)),
            (EXPECTED, expected),
            (IDEMPOTENCY_KEY, self.idempotency_key),
            (PARAMETERS, parameters),
        ];
        let attributes = attributes.into_iter();
        Content {
            kind: COMMAND,
            id,
            key: Some(self.key),
            content_type: self.content_type.into(),
            data: self.data,
            attributes: attributes
                .filter_map(|(name, value)| Some((name.into(), value?.into())))
                .collect(),
        }
    }

    /// What a repetition has in common with it, and what it must say; none: every time it is sent it
    /// is another one.
    #[must_use]
    pub fn identity(&self, instance: InstanceId) -> Option<(Identity, RequestHash)> {
        let parameters = parameters_text(&self.parameters);
        let expected = self.expected.map(|sequence| sequence.to_string());
        let said = Said {
            instance,
            key: self.key.as_str(),
            name: &self.name,
            idempotency_key: self.idempotency_key.as_deref()?,
            content_type: &self.content_type,
            parameters: parameters.as_deref().unwrap_or_default(),
            expected: expected.as_deref().unwrap_or_default(),
            data: &self.data,
        };
        Some(said.hashes())
    }
}

/// As [`Command::identity`], of an event of the log: by its attributes and other fields.
#[must_use]
pub fn identity_of<'a>(
    instance: InstanceId,
    key: Option<&str>,
    (content_type, data): (&str, &[u8]),
    attributes: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<(Identity, RequestHash)> {
    let (mut name, mut idempotency_key, mut parameters, mut expected) = (None, None, "", "");
    for (attribute, value) in attributes {
        match attribute {
            NAME => name = Some(value),
            IDEMPOTENCY_KEY => idempotency_key = Some(value),
            PARAMETERS => parameters = value,
            EXPECTED => expected = value,
            _ => {}
        }
    }
    let (name, idempotency_key) = (name?, idempotency_key?);
    let key = key?;
    let said =
        Said { instance, key, name, idempotency_key, content_type, parameters, expected, data };
    Some(said.hashes())
}

/// Whether an event is a command.
#[must_use]
pub fn is_command(event: &Event) -> bool {
    *event.kind == *COMMAND && private::is_addressed(event)
}

/// The name of the command that an event carries; none: it carries none.
#[must_use]
pub fn name(event: &Event) -> Option<&str> {
    event.attribute(NAME).filter(|_| is_command(event))
}

/// What the key's last sequence must be when the command runs.
#[must_use]
pub fn expected(event: &Event) -> Option<KeySequence> {
    event.attribute(EXPECTED)?.parse().ok().map(KeySequence)
}

/// The parameters of a command.
#[must_use]
pub fn parameters(event: &Event) -> Vec<(String, String)> {
    let text = event.attribute(PARAMETERS).unwrap_or_default();
    form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// What the completion of a command that failed holds in place of an answer.
#[must_use]
pub fn failure(reason: &str) -> Response {
    let data = Bytes::copy_from_slice(reason.as_bytes());
    Response { content_type: "text/plain; charset=utf-8".into(), data, attributes: Vec::new() }
}

/// What the completion of a command holds that was not executed, because the key was not at the
/// expected sequence.
#[must_use]
pub fn sequence_conflict(expected: KeySequence, actual: KeySequence) -> Response {
    let attributes = [
        ("actual", actual.to_string()),
        (CODE, SEQUENCE_CONFLICT.to_owned()),
        ("expected", expected.to_string()),
    ];
    Response {
        attributes: attributes.map(|(name, value)| (name.into(), value.into())).into(),
        ..failure(&format!("the key is at sequence {actual}, not {expected}"))
    }
}

/// What a completion says. A guest makes answers only where the outcome is ok, so it cannot forge a
/// failure of the host's.
#[must_use]
pub fn verdict(outcome: OutcomeKind, response: Option<Response>) -> Verdict {
    let response = response.unwrap_or_default();
    if outcome == OutcomeKind::Ok {
        return Verdict::Answered(response);
    }
    let attribute = |name: &str| {
        response.attributes.iter().find(|(n, _)| **n == *name).map(|(_, value)| &**value)
    };
    let sequence = |name| attribute(name)?.parse().ok().map(KeySequence);
    match (attribute(CODE), sequence("expected"), sequence("actual")) {
        (Some(SEQUENCE_CONFLICT), Some(expected), Some(actual)) => {
            Verdict::SequenceConflict { expected, actual }
        }
        _ => Verdict::Failed {
            outcome,
            reason: String::from_utf8_lossy(&response.data).into_owned(),
        },
    }
}

fn parameters_text(parameters: &[(String, String)]) -> Option<String> {
    if parameters.is_empty() {
        return None;
    }
    Some(form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish())
}

/// Everything that two requests are compared by.
struct Said<'a> {
    instance: InstanceId,
    key: &'a str,
    name: &'a str,
    idempotency_key: &'a str,
    content_type: &'a str,
    parameters: &'a str,
    expected: &'a str,
    data: &'a [u8],
}

impl Said<'_> {
    fn hashes(&self) -> (Identity, RequestHash) {
        let instance = self.instance.0.to_le_bytes();
        let texts = [self.key, self.name, self.idempotency_key].map(str::as_bytes);
        let identity =
            hash(b"tidegate command identity v1", [&instance[..]].into_iter().chain(texts));
        let texts = [self.content_type, self.parameters, self.expected].map(str::as_bytes);
        let request = hash(b"tidegate command request v1", texts.into_iter().chain([self.data]));
        (Identity(identity), RequestHash(request))
    }
}

/// 128 bits of BLAKE3: collisions are as hard to make as for the hash itself.
fn hash<'a>(purpose: &[u8], parts: impl Iterator<Item = &'a [u8]>) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose);
    for part in parts {
        // Lengths keep the parts from running into each other.
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut low = [0_u8; 16];
    low.copy_from_slice(hasher.finalize().as_bytes().split_at(16).0);
    u128::from_le_bytes(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::deliver::{Deliverer, source};
    use crate::event::{CommitNumber, Digest, Generation, Position};

    fn command() -> Command {
        Command {
            name: "open".to_owned(),
            key: Key::new("a-1").unwrap(),
            principal: "shop".into(),
            content_type: "application/json".to_owned(),
            data: Bytes::from_static(b"{}"),
            parameters: vec![
                ("a".to_owned(), "1 & 2".to_owned()),
                ("id".to_owned(), "x".to_owned()),
            ],
            expected: Some(KeySequence(3)),
            idempotency_key: Some("i-1".to_owned()),
        }
    }

    fn event(command: Command) -> Event {
        let by = Deliverer {
            instance: InstanceId(7),
            generation: Generation(0),
            environment: Digest::default(),
            bus: "main".into(),
            source: source("main", "bank"),
        };
        Event {
            position: Position(1),
            sequence: KeySequence(0),
            recorded_ms: 1,
            commit: CommitNumber(1),
            body: private::event(&by, command.content("c-1".into())),
        }
    }

    #[test]
    fn an_event_says_all_that_the_command_said() {
        let event = event(command());
        assert!(is_command(&event));
        assert_eq!(name(&event), Some("open"));
        assert_eq!(expected(&event), Some(KeySequence(3)));
        assert_eq!(parameters(&event), command().parameters);
        assert!(event.attributes.is_sorted());
        let attributes = event.attributes.iter().map(|(name, value)| (&**name, &**value));
        let key = event.key.as_ref().map(Key::as_str);
        let content = (&*event.content_type, &event.data[..]);
        let found = identity_of(InstanceId(7), key, content, attributes);
        assert_eq!(found, command().identity(InstanceId(7)));
        assert!(found.is_some());
    }

    #[test]
    fn a_repetition_is_told_from_another_request_by_every_part_of_it() {
        let (identity, request) = command().identity(InstanceId(7)).unwrap();
        let changes: [fn(&mut Command); 4] = [
            |command| command.content_type.clear(),
            |command| command.data = Bytes::from_static(b"[]"),
            |command| command.parameters.clear(),
            |command| command.expected = None,
        ];
        for change in changes {
            let mut other = command();
            change(&mut other);
            let (same, another) = other.identity(InstanceId(7)).unwrap();
            assert_eq!(same, identity);
            assert_ne!(another, request);
        }
        let changes: [fn(&mut Command); 3] = [
            |command| command.name.push('x'),
            |command| command.key = Key::new("a-2").unwrap(),
            |command| command.idempotency_key = Some("i-2".to_owned()),
        ];
        for change in changes {
            let mut other = command();
            change(&mut other);
            assert_ne!(other.identity(InstanceId(7)).unwrap().0, identity);
        }
        assert_ne!(command().identity(InstanceId(8)).unwrap().0, identity);
        let anew = Command { idempotency_key: None, ..command() };
        assert_eq!(anew.identity(InstanceId(7)), None);
    }

    #[test]
    fn failures_are_read_back_and_a_guest_cannot_forge_one() {
        let conflict = sequence_conflict(KeySequence(3), KeySequence(5));
        let forged = verdict(OutcomeKind::Ok, Some(conflict.clone()));
        assert_eq!(forged, Verdict::Answered(conflict.clone()));
        let (expected, actual) = (KeySequence(3), KeySequence(5));
        let told = verdict(OutcomeKind::Reject, Some(conflict));
        assert_eq!(told, Verdict::SequenceConflict { expected, actual });
        let told = verdict(OutcomeKind::Reject, Some(failure("overdrawn")));
        let reason = "overdrawn".to_owned();
        assert_eq!(told, Verdict::Failed { outcome: OutcomeKind::Reject, reason });
    }
}
