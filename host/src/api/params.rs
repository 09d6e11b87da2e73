//! Query parameters, one by one: each is named in its error, and none is silently ignored.

use std::str::FromStr;

use axum::http::Uri;
use url::form_urlencoded;

use super::cloudevents::{NOT_UTF8, percent_decode};
use super::errors::{ApiError, Code};
use super::filter::{EventFilter, InvalidPoint, Point};
use super::host::Cursor;
use crate::event::{Key, Position};
use crate::limits;
use crate::plugin::pattern::InvalidPattern;

/// Items a listing has where none is asked for.
pub(super) const LIMIT_DEFAULT: usize = 100;

/// Refuses an address with bytes behind its escapes that are no text. What takes it apart later would
/// put the same character for each of them, and so make one of two keys.
///
/// # Errors
/// `invalid_key` for the parameter `key`; `invalid_field` for others, and for the path.
pub(super) fn check_text(uri: &Uri) -> Result<(), ApiError> {
    // Most addresses have no escapes.
    let is_text = |part: &str| {
        !part.contains('%') || String::from_utf8(percent_decode(part.as_bytes())).is_ok()
    };
    if !is_text(uri.path()) {
        return Err(ApiError::field("path", NOT_UTF8));
    }
    let mut pairs = uri.query().unwrap_or_default().split('&');
    let Some(pair) = pairs.find(|pair| !is_text(pair)) else { return Ok(()) };
    let name = pair.split('=').next().unwrap_or_default();
    let name = String::from_utf8_lossy(&percent_decode(name.as_bytes())).into_owned();
    let mut error = ApiError::field(&name, NOT_UTF8);
    if name == "key" {
        error.code = Code::InvalidKey;
    }
    Err(error)
}

/// The parameters of one request that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Params {
    /// Takes a query apart.
    ///
    /// # Errors
    /// `invalid_field` where a parameter is given twice.
    pub(super) fn new(query: Option<&str>) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if pairs.iter().any(|(n, _)| *n == name) {
                return Err(ApiError::field(&name, "is given twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { pairs, known: Vec::new() })
    }

    /// The value of a parameter, where it is there.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.pairs.iter().position(|(n, _)| n == name)?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// The value of a parameter that must be there.
    pub(super) fn required(&mut self, name: &'static str) -> Result<String, ApiError> {
        self.text(name).ok_or_else(|| ApiError::field(name, "is missing"))
    }

    /// `limit`: 1 to [`limits::LIST_MAX`].
    pub(super) fn limit(&mut self) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.text("limit") else { return Ok(None) };
        let limit = text.parse().ok().filter(|n| (1..=limits::LIST_MAX).contains(n));
        limit.map(Some).ok_or_else(|| {
            ApiError::field("limit", format_args!("must be 1 to {}", limits::LIST_MAX))
        })
    }

    /// Everything that nobody has taken, as the parameters of a request: ascending by name.
    ///
    /// # Errors
    /// `invalid_field` where a name is not 1 to 20 of a-z and 0-9, a value has control characters, or
    /// there are too many.
    pub(super) fn rest(self) -> Result<Vec<(String, String)>, ApiError> {
        let mut rest = self.pairs;
        if rest.len() > limits::ATTRIBUTES_MAX {
            let (actual, most) = (rest.len(), limits::ATTRIBUTES_MAX);
            let why = format!("there are {actual} parameters, at most {most} are allowed");
            return Err(ApiError::new(Code::InvalidField, why));
        }
        for (name, value) in &rest {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            if !(1..=limits::ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len())
                || !name.bytes().all(plain)
            {
                let why = "is not the name of a parameter: 1 to 20 of a-z and 0-9";
                return Err(ApiError::field(name, why));
            }
            if value.chars().any(char::is_control) {
                return Err(ApiError::field(name, "has a control character"));
            }
        }
        let bytes: usize = rest.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > limits::ATTRIBUTES_BYTES_MAX {
            let most = limits::ATTRIBUTES_BYTES_MAX;
            let why = format!("the parameters have {bytes} bytes, at most {most} are allowed");
            return Err(ApiError::over(Code::InvalidField, why, most as u64, bytes as u64));
        }
        rest.sort();
        Ok(rest)
    }

    /// `key`, where it is there.
    pub(super) fn key(&mut self) -> Result<Option<Key>, ApiError> {
        Ok(self.text("key").map(|text| Key::new(&text)).transpose()?)
    }

    /// `key`, which must be there.
    pub(super) fn required_key(&mut self) -> Result<Key, ApiError> {
        self.key()?.ok_or_else(|| ApiError::field("key", "is missing"))
    }

    /// `reason`, where it is there: at most [`limits::REASON_BYTES_MAX`] bytes.
    pub(super) fn reason(&mut self) -> Result<Option<String>, ApiError> {
        let Some(reason) = self.text("reason") else { return Ok(None) };
        let (limit, actual) = (limits::REASON_BYTES_MAX, reason.len());
        if actual > limit {
            let why = format_args!("has {actual} bytes, at most {limit} are allowed");
            return Err(ApiError::field("reason", why));
        }
        Ok(Some(reason))
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.text(name).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(ApiError::field(name, "must be `true` or `false`")),
        }
    }

    /// The filters that listing and stream share.
    pub(super) fn event_filter(&mut self) -> Result<EventFilter, ApiError> {
        Ok(EventFilter {
            kind: self.pattern("type")?,
            key: self.key()?,
            source: self.pattern("source")?,
            id: self.text("id"),
            from: self.point("from")?,
            to: self.point("to")?,
        })
    }

    fn pattern<P: FromStr<Err = InvalidPattern>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<P>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parsed = text.parse().map_err(|why| ApiError::field(name, format!("must have {why}")));
        parsed.map(Some)
    }

    /// A position or an RFC 3339 time, where it is there.
    pub(super) fn point(&mut self, name: &'static str) -> Result<Option<Point>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|why: InvalidPoint| ApiError::field(name, why))
    }

    /// `cursor`, where it is there.
    pub(super) fn cursor(&mut self) -> Result<Option<Cursor>, ApiError> {
        self.text("cursor").map(|text| parse_cursor("cursor", &text)).transpose()
    }

    /// Everything there is has been taken.
    ///
    /// # Errors
    /// `invalid_field` for the first parameter that nobody asked for.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        let Some((name, _)) = self.pairs.first() else { return Ok(()) };
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .min()
            .filter(|(distance, _)| *distance <= 2);
        Err(match nearest {
            Some((_, known)) => ApiError::field(
                name,
                format_args!("is not a parameter here; did you mean `{known}`?"),
            ),
            None => ApiError::field(name, "is not a parameter here"),
        })
    }
}

/// A cursor as clients see it: opaque, though a person can read it.
pub(super) fn cursor_text(cursor: Cursor) -> String {
    format!("{}-{}", cursor.epoch, cursor.after)
}

/// Reads what [`cursor_text`] wrote, or a bare position.
pub(super) fn parse_cursor(field: &str, text: &str) -> Result<Cursor, ApiError> {
    let (epoch, after) = text.split_once('-').unwrap_or(("0", text));
    match (epoch.parse(), after.parse()) {
        (Ok(epoch), Ok(after)) => Ok(Cursor { epoch, after: Position(after) }),
        _ => Err(ApiError::field(field, "is not a cursor that this host gave")),
    }
}

/// A position in a path.
pub(super) fn path_position(text: &str) -> Result<Position, ApiError> {
    text.parse().map(Position).map_err(|_| ApiError::field("position", "is not a position"))
}

/// Something that is not there.
pub(super) fn not_found(what: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no {what}"))
}
