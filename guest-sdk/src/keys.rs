//! State across keys. Answers only in a query; in a handler it is empty.

use serde::de::DeserializeOwned;

use crate::{Error, host, json};

const LIST_PAGE: u32 = 256;

/// All keys with this prefix that have state, ascending. They are fetched page by page.
pub fn list(prefix: &str) -> impl Iterator<Item = String> {
    let prefix = prefix.to_owned();
    crate::paged(LIST_PAGE, move |after, limit| host::keys_list(&prefix, after, limit))
}

/// The value of a name under a key, read as JSON.
///
/// # Errors
/// [`Error::Decode`] where the value is not a `T`.
pub fn get<T: DeserializeOwned>(key: &str, name: &str) -> Result<Option<T>, Error> {
    let Some(value) = host::keys_get(key, name) else { return Ok(None) };
    json::read(&value, || format!("state `{name}` of `{key}`")).map(Some)
}

/// The value of a name under a key as bytes.
#[must_use]
pub fn get_bytes(key: &str, name: &str) -> Option<Vec<u8>> {
    host::keys_get(key, name)
}
