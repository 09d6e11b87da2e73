//! What a plugin remembers of a key: values by name.
//!
//! State belongs to this plugin and the key of the input; nobody else writes it. Writes are recorded
//! together with everything else the delivery does, or not at all; reads see the delivery's own
//! writes. Values are JSON unless the `_bytes` functions are used. Names have 1 to 255 bytes and no
//! control characters.
//!
//! ```
//! # use tidegate_sdk::{state, Event, Outcome, testing::{event, Host}};
//! fn count(event: &Event) -> Outcome {
//!     let events: u64 = state::get("events")?.unwrap_or_default();
//!     state::set("events", &(events + 1))?;
//!     Ok(())
//! }
//! # let mut host = Host::new();
//! # host.deliver(count, event("a.b").key("k")).expect_ok();
//! # host.deliver(count, event("a.b").key("k")).expect_ok();
//! # assert_eq!(host.state::<u64>("k", "events"), Some(2));
//! ```

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, host, json};

const LIST_PAGE: u32 = 256;

/// The value of a name, read as JSON; none where there is no such name, or the input has no key.
///
/// # Errors
/// [`Error::Decode`] where the value is not a `T`.
pub fn get<T: DeserializeOwned>(name: &str) -> Result<Option<T>, Error> {
    let Some(value) = host::state_get(name) else { return Ok(None) };
    json::read(&value, || format!("state `{name}`")).map(Some)
}

/// Writes a value as JSON. At most 1 MiB, within `limits.output`.
///
/// # Errors
/// [`Error::Encode`], [`Error::Exceeded`], [`Error::Invalid`] for a malformed name,
/// [`Error::Unkeyed`], [`Error::ReadOnly`].
pub fn set<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<(), Error> {
    host::state_set(name, json::write(value, || format!("state `{name}`"))?, None)
}

/// Writes a value as JSON that is gone this long after the input's `recorded_ms`.
///
/// # Errors
/// As [`set`].
pub fn set_for<T: Serialize + ?Sized>(name: &str, value: &T, ttl: Duration) -> Result<(), Error> {
    host::state_set(name, json::write(value, || format!("state `{name}`"))?, Some(ttl))
}

/// The value of a name as bytes.
#[must_use]
pub fn get_bytes(name: &str) -> Option<Vec<u8>> {
    host::state_get(name)
}

/// Writes bytes; with a `ttl` they are gone that long after the input's `recorded_ms`.
///
/// # Errors
/// As [`set`], without `Encode`.
pub fn set_bytes(
    name: &str,
    value: impl Into<Vec<u8>>,
    ttl: Option<Duration>,
) -> Result<(), Error> {
    host::state_set(name, value.into(), ttl)
}

/// Removes a name, if there.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name, [`Error::Unkeyed`], [`Error::ReadOnly`].
pub fn delete(name: &str) -> Result<(), Error> {
    host::state_delete(name)
}

/// All names with this prefix, ascending. They are fetched from the host page by page.
pub fn list(prefix: &str) -> impl Iterator<Item = String> {
    let prefix = prefix.to_owned();
    crate::paged(LIST_PAGE, move |after, limit| host::state_list(&prefix, after, limit))
}
