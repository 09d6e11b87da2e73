//! Attributes by name and value, checked and gathered into an event: what all modes share.

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{EXPECTED_SEQUENCE, invalid, own};
use crate::api::host::Publish;
use crate::event::{
    EventTime, InvalidEvent, Key, KeySequence, KeyVariant, NewEvent, SCHEMA_VERSION,
    is_attribute_name, schema_version, traceparent,
};
use crate::limits;

/// Bytes of an RFC 3339 time: a date, a time, an offset, and more digits than anybody measures.
const TIME_BYTES_MAX: usize = 64;
/// Bytes of a rejected name that an error repeats.
const NAME_SHOWN_CHARS_MAX: usize = 40;

/// Gathers the attributes of one event.
#[derive(Debug, Default)]
pub(super) struct EventBuilder {
    event: NewEvent,
    specversion: bool,
    partition_key: Option<String>,
    subject: Option<String>,
    expected: Option<KeySequence>,
    attributes_bytes: usize,
    own_seen: u8,
}

impl EventBuilder {
    /// Takes one attribute.
    ///
    /// # Errors
    /// [`InvalidEvent`] where name or value is not allowed, or the name was given before.
    pub(super) fn attribute(&mut self, name: &str, value: &str) -> Result<(), InvalidEvent> {
        check_name(name)?;
        if value.chars().any(char::is_control) && !matches!(name, "partitionkey" | "subject") {
            return Err(invalid(name, "has a control character"));
        }
        match name {
            "specversion" => self.specversion(value),
            "id" => set_text(&mut self.event.id, name, value, limits::ID_BYTES_MAX),
            "source" => {
                set_text(&mut self.event.source, name, value, limits::SOURCE_BYTES_MAX)?;
                check_source(value)
            }
            "type" => {
                set_text(&mut self.event.kind, name, value, limits::TYPE_BYTES_MAX)?;
                check_type(value)
            }
            "datacontenttype" => {
                let limit = limits::CONTENT_TYPE_BYTES_MAX;
                set_text(&mut self.event.content_type, name, value, limit)?;
                check_content_type(value)
            }
            "time" => self.time(value),
            "partitionkey" => set_once(&mut self.partition_key, name, value),
            "subject" => set_once(&mut self.subject, name, value),
            EXPECTED_SEQUENCE => {
                if self.expected.is_some() {
                    return Err(twice(name));
                }
                self.expected = Some(sequence(name, value)?);
                Ok(())
            }
            SCHEMA_VERSION => self.schema_version(value),
            _ if name.starts_with(own::PREFIX) => self.host_attribute(name),
            _ => self.extension(name, value),
        }
    }

    /// Notes an attribute that is `null`, which is the same as absent.
    ///
    /// # Errors
    /// [`InvalidEvent`] where the name is not allowed.
    pub(super) fn absent(&self, name: &str) -> Result<(), InvalidEvent> {
        check_name(name)
    }

    fn specversion(&mut self, value: &str) -> Result<(), InvalidEvent> {
        if std::mem::replace(&mut self.specversion, true) {
            return Err(twice("specversion"));
        }
        if value == "1.0" {
            return Ok(());
        }
        let why = format!("`{}` is not supported; send `1.0`", shown(value));
        Err(invalid("specversion", why))
    }

    fn time(&mut self, value: &str) -> Result<(), InvalidEvent> {
        if self.event.time.is_some() {
            return Err(twice("time"));
        }
        check_size("time", value, TIME_BYTES_MAX)?;
        let moment = OffsetDateTime::parse(value, &Rfc3339).ok();
        // The library takes anything between date and time of day.
        let separated = matches!(value.as_bytes().get(10), Some(b'T' | b't' | b' '));
        let moment = moment.filter(|_| separated).ok_or_else(|| {
            invalid("time", format!("`{}` is not an RFC 3339 time", shown(value)))
        })?;
        let ms = u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        self.event.time = Some(EventTime { text: value.into(), ms });
        Ok(())
    }

    fn schema_version(&mut self, value: &str) -> Result<(), InvalidEvent> {
        if self.event.schema_version > 0 {
            return Err(twice(SCHEMA_VERSION));
        }
        self.event.schema_version = schema_version(value).ok_or_else(|| {
            let why = format!("`{}` is not a whole number from 1 to {}", shown(value), i32::MAX);
            invalid(SCHEMA_VERSION, why)
        })?;
        Ok(())
    }

    /// What the host wrote on an event that was read from a bus: dropped, not an error.
    fn host_attribute(&mut self, name: &str) -> Result<(), InvalidEvent> {
        let Some(index) = own::ALL.iter().position(|own| *own == name) else {
            return Err(invalid(
                name,
                "is reserved: names that begin with `tidegate` are the host's",
            ));
        };
        let bit = 1 << index;
        if self.own_seen & bit != 0 {
            return Err(twice(name));
        }
        self.own_seen |= bit;
        Ok(())
    }

    fn extension(&mut self, name: &str, value: &str) -> Result<(), InvalidEvent> {
        if name == "dataschema" && value.is_empty() {
            return Err(invalid(name, "is empty"));
        }
        self.attributes_bytes += name.len() + value.len();
        too_large("attributes", limits::ATTRIBUTES_BYTES_MAX, self.attributes_bytes)?;
        match self.event.attributes.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(_) => Err(twice(name)),
            Err(at) => {
                if self.event.attributes.len() >= limits::ATTRIBUTES_MAX {
                    let why = format!(
                        "is one more attribute than the {} allowed",
                        limits::ATTRIBUTES_MAX
                    );
                    return Err(invalid(name, why));
                }
                self.event.attributes.insert(at, (name.into(), value.into()));
                Ok(())
            }
        }
    }

    /// The media type of the data, as said so far.
    pub(super) fn content_type(&self) -> &str {
        &self.event.content_type
    }

    /// Checks what must be there, finds the key and adds the data.
    ///
    /// # Errors
    /// [`InvalidEvent`] where something is missing, reserved or too large.
    pub(super) fn finish(mut self, data: Bytes) -> Result<Publish, InvalidEvent> {
        if !self.specversion {
            return Err(missing("specversion"));
        }
        for (name, value) in
            [("id", &self.event.id), ("source", &self.event.source), ("type", &self.event.kind)]
        {
            if value.is_empty() {
                return Err(missing(name));
            }
        }
        too_large("data", limits::EVENT_DATA_BYTES_MAX, data.len())?;
        match (self.partition_key.take(), self.subject.take()) {
            (Some(key), subject) => {
                self.event.key = Some(Key::new(&key)?);
                self.event.key_variant = KeyVariant::PartitionKey;
                if let Some(subject) = subject {
                    if subject.is_empty() || subject.chars().any(char::is_control) {
                        return Err(invalid("subject", "is empty or has a control character"));
                    }
                    self.extension("subject", &subject)?;
                }
            }
            (None, Some(subject)) => {
                self.event.key = Some(Key::new(&subject)?);
                self.event.key_variant = KeyVariant::Subject;
            }
            (None, None) => {}
        }
        if self.expected.is_some() {
            check_condition(self.event.key.as_ref())?;
        }
        self.event.data = data;
        Ok(Publish { event: self.event, expected: self.expected })
    }
}

/// A condition on the sequence of a key needs a key.
pub(super) fn check_condition(key: Option<&Key>) -> Result<(), InvalidEvent> {
    match key {
        Some(_) => Ok(()),
        None => Err(invalid(EXPECTED_SEQUENCE, "needs a key: set `partitionkey` or `subject`")),
    }
}

/// A key sequence, as a client writes it.
pub(super) fn sequence(name: &str, value: &str) -> Result<KeySequence, InvalidEvent> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits => Ok(KeySequence(number)),
        _ => Err(invalid(name, format!("`{}` is not a whole number from 0", shown(value)))),
    }
}

/// Whether a header of W3C trace context is fit to be an attribute.
pub(super) fn is_trace_context(name: &str, value: &str) -> bool {
    if name == "tracestate" {
        return !value.is_empty() && value.len() <= 512;
    }
    traceparent(value).is_some()
}

fn check_name(name: &str) -> Result<(), InvalidEvent> {
    if is_attribute_name(name) {
        return Ok(());
    }
    let why = format!(
        "is not an attribute name: 1 to {} of a-z and 0-9, and not `data`",
        limits::ATTRIBUTE_NAME_BYTES_MAX
    );
    Err(invalid(&shown(name), why))
}

fn check_source(source: &str) -> Result<(), InvalidEvent> {
    if source.chars().any(char::is_whitespace) {
        return Err(invalid("source", "is not a URI reference: it has white space"));
    }
    if source == "/tidegate" || source.starts_with("/tidegate/") {
        return Err(invalid("source", "is reserved: `/tidegate/...` is for emitted events"));
    }
    Ok(())
}

fn check_type(kind: &str) -> Result<(), InvalidEvent> {
    if kind == "tidegate" || kind.starts_with("tidegate.") {
        return Err(invalid("type", "is reserved: `tidegate.*` is for events of the host"));
    }
    Ok(())
}

fn check_content_type(content_type: &str) -> Result<(), InvalidEvent> {
    let essence = super::media::essence(content_type);
    let well_formed = essence.split_once('/').is_some_and(|(kind, subtype)| {
        let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        token(kind) && token(subtype)
    });
    if well_formed && content_type.is_ascii() {
        return Ok(());
    }
    let why = format!("`{}` is not a media type", shown(content_type));
    Err(invalid("datacontenttype", why))
}

fn set_text(
    slot: &mut std::sync::Arc<str>,
    name: &str,
    value: &str,
    limit: usize,
) -> Result<(), InvalidEvent> {
    if value.is_empty() {
        return Err(invalid(name, "is empty"));
    }
    check_size(name, value, limit)?;
    if !slot.is_empty() {
        return Err(twice(name));
    }
    *slot = value.into();
    Ok(())
}

fn set_once(slot: &mut Option<String>, name: &str, value: &str) -> Result<(), InvalidEvent> {
    match slot.replace(value.to_owned()) {
        None => Ok(()),
        Some(_) => Err(twice(name)),
    }
}

fn check_size(name: &str, value: &str, limit: usize) -> Result<(), InvalidEvent> {
    too_large(name, limit, value.len())
}

fn too_large(name: &str, limit: usize, actual: usize) -> Result<(), InvalidEvent> {
    if actual <= limit {
        return Ok(());
    }
    let (limit, actual) = (limit as u64, actual as u64);
    Err(InvalidEvent::TooLarge { field: name.to_owned(), limit, actual })
}

fn missing(name: &str) -> InvalidEvent {
    invalid(name, "is missing")
}

pub(super) fn twice(name: &str) -> InvalidEvent {
    invalid(name, "is given twice")
}

/// Text of a client, short and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.escape_debug().take(NAME_SHOWN_CHARS_MAX).collect();
    if text.chars().count() > NAME_SHOWN_CHARS_MAX {
        shown.push_str("...");
    }
    shown
}
