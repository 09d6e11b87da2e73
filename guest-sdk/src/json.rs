//! JSON in and out, with errors that say what was read or written.

use serde::{Deserialize, Serialize};

use crate::Error;

/// The media type of everything that this crate writes as JSON.
pub(crate) const MEDIA_TYPE: &str = "application/json";

pub(crate) fn read<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    what: impl FnOnce() -> String,
) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Decode { what: what(), why: error.to_string() })
}

pub(crate) fn write<T: Serialize + ?Sized>(
    value: &T,
    what: impl FnOnce() -> String,
) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
        .map_err(|error| Error::Encode { what: what(), why: error.to_string() })
}
