//! State values, as the API shows them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;
use crate::api::host::StateEntry;

/// Bytes up to which a listing shows a value.
const LISTED_VALUE_BYTES_MAX: usize = 4 * 1024;

/// One state value: `value` where it is UTF-8, else `value_base64`; in a listing neither where it
/// has over 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateValueView {
    /// Its name.
    pub name: String,
    /// The value as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// Bytes of the value.
    pub bytes: u64,
    /// When it will be gone; absent: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl StateValueView {
    /// With the value, whatever its size.
    #[must_use]
    pub fn whole(entry: &StateEntry) -> Self {
        let text = std::str::from_utf8(&entry.value).ok().map(ToOwned::to_owned);
        Self {
            value_base64: text.is_none().then(|| STANDARD.encode(&entry.value)),
            value: text,
            ..Self::without_value(entry)
        }
    }

    /// With the value where it is small.
    #[must_use]
    pub fn short(entry: &StateEntry) -> Self {
        if entry.value.len() > LISTED_VALUE_BYTES_MAX {
            Self::without_value(entry)
        } else {
            Self::whole(entry)
        }
    }

    fn without_value(entry: &StateEntry) -> Self {
        Self {
            name: entry.name.to_string(),
            value: None,
            value_base64: None,
            bytes: entry.value.len() as u64,
            expires: entry.expires_ms.map(Timestamp),
        }
    }
}

/// State values of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateView {
    /// The key.
    pub key: String,
    /// Ascending by name.
    pub values: Vec<StateValueView>,
    /// `after` of the next page; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
