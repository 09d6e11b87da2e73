//! The native side of the host: answers the imports of one delivery from memory.
//!
//! Every function here has a twin of the same signature in `guest.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::record::{Called, Emitted, TimerChange};
use crate::calls::Call;
use crate::{Emit, Error, Level};

const NAME_BYTES_MAX: usize = 255;
const KEY_BYTES_MAX: usize = 1024;
const TYPE_BYTES_MAX: usize = 255;
const ATTRIBUTE_NAME_BYTES_MAX: usize = 20;
const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTES_BYTES_MAX: usize = 8 * 1024;
const VALUE_BYTES_MAX: usize = 1024 * 1024;
const TIMER_DATA_BYTES_MAX: usize = 64 * 1024;
const TIMEOUT_MS_MAX: u32 = 60_000;
const LIST_MAX: usize = 1000;

thread_local! {
    static CURRENT: RefCell<Option<Delivery>> = const { RefCell::new(None) };
}

/// What the running function may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Access {
    /// A handler or a command.
    #[default]
    Effects,
    /// A query: reads, also across keys.
    Keys,
    /// An upcaster.
    Nothing,
}

/// A state value at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: Vec<u8>,
    pub(super) expires_ms: Option<u64>,
}

impl Stored {
    pub(super) fn is_there(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires| now_ms < expires)
    }
}

/// One delivery: what it sees, and what it has asked for so far.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    pub(super) key: Option<String>,
    pub(super) position: u64,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) access: Access,
    pub(super) now_ms: u64,
    pub(super) attempt: u32,
    pub(super) redriven: bool,
    pub(super) config: BTreeMap<String, String>,
    pub(super) state: BTreeMap<String, BTreeMap<String, Stored>>,
    pub(super) emits_max: usize,
    pub(super) output_bytes_max: usize,
    pub(super) emitted: Vec<Emitted>,
    pub(super) writes: BTreeMap<String, Option<Stored>>,
    pub(super) timers: Vec<TimerChange>,
    pub(super) calls: Vec<Called>,
    pub(super) logs: Vec<(Level, String)>,
    pub(super) exceeded: Option<&'static str>,
    pub(super) output_bytes: usize,
    pub(super) randoms: u64,
}

/// Runs a function with its imports answered by this delivery.
pub(super) fn during<T>(delivery: Delivery, call: impl FnOnce() -> T) -> (T, Delivery) {
    /// Leaves nothing behind when a handler panics, so that the next test on the thread is sound.
    struct Clear;
    impl Drop for Clear {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(|current| *current = None);
        }
    }
    let before = CURRENT.replace(Some(delivery));
    assert!(before.is_none(), "a handler cannot deliver an event itself");
    let clear = Clear;
    let result = call();
    let delivery = CURRENT.take().expect("only this function ends a delivery");
    drop(clear);
    (result, delivery)
}

fn with<T>(answer: impl FnOnce(&mut Delivery) -> T) -> T {
    CURRENT.with_borrow_mut(|current| {
        let delivery = current
            .as_mut()
            .expect("not in a delivery: call the handler through `testing::Host::deliver`");
        answer(delivery)
    })
}

impl Delivery {
    fn writable(&self) -> Result<(), Error> {
        if self.access == Access::Effects { Ok(()) } else { Err(Error::ReadOnly) }
    }

    fn keyed(&self) -> Result<(), Error> {
        self.writable()?;
        if self.key.is_some() { Ok(()) } else { Err(Error::Unkeyed) }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        if self.output_bytes + bytes > self.output_bytes_max {
            return Err(self.exceed("limits.output"));
        }
        self.output_bytes += bytes;
        Ok(())
    }

    /// The same for a write, which takes the place of one before it.
    fn charge_write(&mut self, name: &str, value_bytes: usize) -> Result<(), Error> {
        let old = self.writes.get(name).map_or(0, |written| {
            name.len() + written.as_ref().map_or(0, |stored| stored.value.len())
        });
        self.charge((name.len() + value_bytes).saturating_sub(old))?;
        self.output_bytes -= old.saturating_sub(name.len() + value_bytes);
        Ok(())
    }

    fn exceed(&mut self, budget: &'static str) -> Error {
        self.exceeded.get_or_insert(budget);
        Error::Exceeded(budget.to_owned())
    }

    /// State of the key as the delivery sees it: its own writes over what was there.
    fn see(&self, name: &str) -> Option<&Stored> {
        let seen = match self.writes.get(name) {
            Some(written) => written.as_ref(),
            None => self.state.get(self.key.as_ref()?)?.get(name),
        };
        seen.filter(|stored| stored.is_there(self.now_ms))
    }
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), Error> {
    if text.is_empty() || text.len() > bytes_max || text.chars().any(char::is_control) {
        return Err(Error::Invalid(format!(
            "{what} must have 1 to {bytes_max} bytes and no control characters, found `{text}`"
        )));
    }
    Ok(())
}

fn check_size(what: &str, bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes > bytes_max {
        return Err(Error::Invalid(format!(
            "{what} has {bytes} bytes, at most {bytes_max} are allowed"
        )));
    }
    Ok(())
}

fn check_attributes(attributes: &[(String, String)]) -> Result<usize, Error> {
    for (name, _) in attributes {
        let fits = (1..=ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !fits {
            return Err(Error::Invalid(format!(
                "an attribute name must have 1 to 20 of a-z and 0-9, found `{name}`"
            )));
        }
    }
    let bytes = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    check_size("all attributes together", bytes, ATTRIBUTES_BYTES_MAX)?;
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(Error::Invalid(format!("at most {ATTRIBUTES_MAX} attributes are allowed")));
    }
    Ok(bytes)
}

pub(crate) fn emit(draft: Emit) -> Result<String, Error> {
    with(|delivery| {
        delivery.writable()?;
        let Emit { kind, key, bus, content_type, data, attributes } = draft;
        check_text("type", &kind, TYPE_BYTES_MAX)?;
        if kind.starts_with("tidegate.") {
            return Err(Error::Invalid(format!("types `tidegate.*` are reserved, found `{kind}`")));
        }
        if let Some(key) = &key {
            check_text("key", key, KEY_BYTES_MAX)?;
        }
        let attributes_bytes = check_attributes(&attributes)?;
        check_size("data", data.len(), VALUE_BYTES_MAX)?;
        if delivery.emitted.len() >= delivery.emits_max {
            return Err(delivery.exceed("limits.emits"));
        }
        let subject = || attributes.iter().find(|(name, _)| name == "subject");
        let key = key.or_else(|| delivery.key.clone()).or_else(|| Some(subject()?.1.clone()));
        let names = [&key, &bus].into_iter().flatten().map(String::len).sum::<usize>();
        let names = names + kind.len() + content_type.len();
        delivery.charge(names + data.len() + attributes_bytes)?;
        let id = format!("test-{}-{}", delivery.position, delivery.emitted.len());
        let emitted = Emitted { id: id.clone(), kind, key, bus, content_type, data, attributes };
        delivery.emitted.push(emitted);
        Ok(id)
    })
}

pub(crate) fn state_get(name: &str) -> Option<Vec<u8>> {
    with(|delivery| match delivery.access {
        Access::Nothing => None,
        Access::Effects | Access::Keys => delivery.see(name).map(|stored| stored.value.clone()),
    })
}

pub(crate) fn state_set(name: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), Error> {
    with(|delivery| {
        delivery.keyed()?;
        check_text("a state name", name, NAME_BYTES_MAX)?;
        check_size("a state value", value.len(), VALUE_BYTES_MAX)?;
        delivery.charge_write(name, value.len())?;
        let expires_ms = ttl.map(|ttl| {
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            delivery.now_ms.saturating_add(ttl_ms)
        });
        delivery.writes.insert(name.to_owned(), Some(Stored { value, expires_ms }));
        Ok(())
    })
}

pub(crate) fn state_delete(name: &str) -> Result<(), Error> {
    with(|delivery| {
        delivery.keyed()?;
        check_text("a state name", name, NAME_BYTES_MAX)?;
        delivery.charge_write(name, 0)?;
        delivery.writes.insert(name.to_owned(), None);
        Ok(())
    })
}

pub(crate) fn state_list(prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
    with(|delivery| {
        if delivery.access == Access::Nothing {
            return Vec::new();
        }
        let kept = delivery.key.as_ref().and_then(|key| delivery.state.get(key));
        let names: std::collections::BTreeSet<&String> =
            kept.into_iter().flat_map(BTreeMap::keys).chain(delivery.writes.keys()).collect();
        page(names.into_iter().filter(|name| delivery.see(name).is_some()), prefix, after, limit)
    })
}

pub(crate) fn keys_list(prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
    with(|delivery| {
        if delivery.access != Access::Keys {
            return Vec::new();
        }
        let now_ms = delivery.now_ms;
        let with_state = (delivery.state.iter())
            .filter(|(_, names)| names.values().any(|stored| stored.is_there(now_ms)))
            .map(|(key, _)| key);
        page(with_state, prefix, after, limit)
    })
}

fn page<'a>(
    names: impl Iterator<Item = &'a String>,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> Vec<String> {
    names
        .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after))
        .take((limit as usize).min(LIST_MAX))
        .cloned()
        .collect()
}

pub(crate) fn keys_get(key: &str, name: &str) -> Option<Vec<u8>> {
    with(|delivery| {
        if delivery.access != Access::Keys {
            return None;
        }
        let stored = delivery.state.get(key)?.get(name)?;
        stored.is_there(delivery.now_ms).then(|| stored.value.clone())
    })
}

pub(crate) fn timer_set(name: &str, due_ms: u64, data: &[u8]) -> Result<(), Error> {
    with(|delivery| {
        delivery.keyed()?;
        check_text("a timer name", name, NAME_BYTES_MAX)?;
        check_size("timer data", data.len(), TIMER_DATA_BYTES_MAX)?;
        delivery.charge(name.len() + data.len())?;
        delivery.timers.push(TimerChange::Set {
            name: name.to_owned(),
            due_ms,
            data: data.to_vec(),
        });
        Ok(())
    })
}

pub(crate) fn timer_cancel(name: &str) -> Result<(), Error> {
    with(|delivery| {
        delivery.keyed()?;
        check_text("a timer name", name, NAME_BYTES_MAX)?;
        delivery.charge(name.len())?;
        delivery.timers.push(TimerChange::Cancel { name: name.to_owned() });
        Ok(())
    })
}

pub(crate) fn call_send(call: Call) -> Result<String, Error> {
    with(|delivery| {
        delivery.writable()?;
        let Call { name, method, url, headers, body, timeout_ms } = call;
        check_text("a call name", &name, NAME_BYTES_MAX)?;
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(Error::Invalid(format!("a call needs an absolute URL, found `{url}`")));
        }
        if timeout_ms > TIMEOUT_MS_MAX {
            return Err(Error::Invalid(format!(
                "a call may take {TIMEOUT_MS_MAX} ms at most, found {timeout_ms}"
            )));
        }
        let headers_bytes = headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
        let names = name.len() + method.len() + url.len();
        delivery.charge(names + headers_bytes + body.len())?;
        let id = format!("test-{}-call-{}", delivery.position, delivery.calls.len());
        let key = delivery.key.clone();
        delivery.calls.push(Called {
            id: id.clone(),
            key,
            name,
            method,
            url,
            headers,
            body,
            timeout_ms,
        });
        Ok(id)
    })
}

pub(crate) fn attribute(name: &str) -> Option<String> {
    with(|delivery| {
        let found = delivery.attributes.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone())
    })
}

pub(crate) fn attributes() -> Vec<(String, String)> {
    with(|delivery| delivery.attributes.clone())
}

pub(crate) fn now_ms() -> u64 {
    with(|delivery| delivery.now_ms)
}

pub(crate) fn attempt() -> u32 {
    with(|delivery| delivery.attempt)
}

pub(crate) fn redriven() -> bool {
    with(|delivery| delivery.redriven)
}

/// SplitMix64 (Steele, Lea, Flood 2014), seeded by position and attempt.
pub(crate) fn random_u64() -> u64 {
    with(|delivery| {
        delivery.randoms += 1;
        let seed = delivery.position ^ (u64::from(delivery.attempt) << 48);
        let mut mixed = seed.wrapping_add(delivery.randoms.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

pub(crate) fn config(name: &str) -> Option<String> {
    with(|delivery| delivery.config.get(name).cloned())
}

pub(crate) fn log(level: Level, message: &str) {
    with(|delivery| delivery.logs.push((level, message.to_owned())));
}
