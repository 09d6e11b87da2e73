//! The `[secrets]` section: where secrets are found, and filling them into headers.
//!
//! Configuration names variables and files, never values. A value is read when a call is sent, is in
//! memory as long as that takes, and has no `Debug` or `Display` on its way.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Word;
use super::reader::{SECRETS, Section};
use crate::limits::SECRET_BYTES_MAX;
use crate::plugin::grants::{GrantName, InvalidGrantName};

/// What stands before the name of a secret in the value of a header.
const OPENING: &str = "{secret:";

/// Where a secret is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In this variable of the host's environment.
    Environment(String),
    /// In this file; a line end after it is not part of it. Absolute.
    File(PathBuf),
}

/// The secrets an operator has, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    sources: BTreeMap<String, SecretSource>,
}

/// The value of a secret.
pub struct Secret {
    /// Its name.
    pub name: String,
    value: String,
}

/// Why a secret cannot be filled in. Never with its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The plugin may not use it.
    #[error("secret `{0}` is not granted")]
    Denied(String),
    /// The operator has none of this name.
    #[error("secret `{0}` is not in `[secrets]` of the configuration")]
    Unknown(String),
    /// It is not where it should be.
    #[error("secret `{name}` cannot be read: {why}")]
    Unreadable {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// It cannot be sent.
    #[error("secret `{0}` is not 1 to {SECRET_BYTES_MAX} bytes of visible text on one line")]
    Unusable(String),
}

/// A part of a header's value.
enum Part<'t> {
    Text(&'t str),
    Secret(&'t str),
}

/// The names of the secrets that the value of a header asks for.
pub fn secret_names(value: &str) -> impl Iterator<Item = &str> {
    parts(value).filter_map(|part| match part {
        Part::Secret(name) => Some(name),
        Part::Text(_) => None,
    })
}

/// What is not closed by `}` is text.
fn parts(value: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let named = rest.strip_prefix(OPENING).and_then(|rest| rest.split_once('}'));
        if let Some((name, after)) = named {
            rest = after;
            return Some(Part::Secret(name));
        }
        // Past an opening that stands here and is never closed.
        let past = rest.chars().next().map_or(0, char::len_utf8);
        let searched = rest.get(past..).and_then(|rest| rest.find(OPENING)).map(|at| at + past);
        let (text, after) = rest.split_at_checked(searched.unwrap_or(rest.len()))?;
        rest = after;
        Some(Part::Text(text))
    })
}

impl Secrets {
    /// Reads the section. Files are relative to `folder`.
    pub(super) fn read(root: &mut Section<'_>, folder: &Path) -> Self {
        let mut secrets = Self::default();
        for (name, mut section) in root.sections(SECRETS) {
            let Ok(name) = name.parse::<GrantName>() else {
                section.rule(format!("`secrets.{name}`: {InvalidGrantName}"));
                continue;
            };
            let source = match (section.text("env"), section.text("file")) {
                (Some(variable), None) if !variable.is_empty() => {
                    SecretSource::Environment(variable)
                }
                (None, Some(file)) if !file.is_empty() => SecretSource::File(folder.join(file)),
                _ => {
                    section.rule(format!(
                        "`secrets.{}` needs `env`, the name of a variable, or `file`, a path, and \
                         nothing else",
                        name.as_str()
                    ));
                    continue;
                }
            };
            secrets.insert(&name, source);
        }
        secrets
    }

    /// What to say of secrets that plugins are allowed and that nobody can find.
    pub(super) fn missing(&self, words: &BTreeMap<String, Word>) -> Vec<String> {
        let allowed = words
            .iter()
            .flat_map(|(plugin, word)| word.allow.secrets.iter().map(move |name| (plugin, name)));
        let missing = allowed.filter(|(_, name)| !self.sources.contains_key(name.as_str()));
        let warning = |(plugin, name): (&String, &GrantName)| {
            format!(
                "`plugins.{plugin}.allow.secrets` names `{0}`, which `[secrets]` does not have: \
                 calls that carry it fail; add `{0}.env` or `{0}.file` there",
                name.as_str()
            )
        };
        missing.map(warning).collect()
    }

    /// Adds one.
    pub fn insert(&mut self, name: &GrantName, source: SecretSource) {
        self.sources.insert(name.as_str().to_owned(), source);
    }

    /// Fills the secrets into the value of a header, and notes them in `used`. Blocks for files.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn fill(
        &self,
        value: &str,
        granted: &[GrantName],
        used: &mut Vec<Secret>,
    ) -> Result<String, SecretError> {
        let mut filled = String::with_capacity(value.len());
        for part in parts(value) {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Secret(name) => {
                    if !granted.iter().any(|granted| granted.as_str() == name) {
                        return Err(SecretError::Denied(name.to_owned()));
                    }
                    let value = self.value(name)?;
                    filled.push_str(&value);
                    used.push(Secret { name: name.to_owned(), value });
                }
            }
        }
        Ok(filled)
    }

    fn value(&self, name: &str) -> Result<String, SecretError> {
        let source = self.sources.get(name).ok_or_else(|| SecretError::Unknown(name.to_owned()))?;
        let unreadable = |why: String| SecretError::Unreadable { name: name.to_owned(), why };
        let text = match source {
            SecretSource::Environment(variable) => std::env::var(variable).map_err(|error| {
                // The text of `VarError::NotUnicode` has the value in it.
                let why = match error {
                    std::env::VarError::NotPresent => "is not set",
                    std::env::VarError::NotUnicode(_) => "is not UTF-8",
                };
                unreadable(format!("variable `{variable}` {why}"))
            })?,
            SecretSource::File(path) => std::fs::read_to_string(path)
                .map_err(|error| unreadable(format!("`{}`: {error}", path.display())))?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        let usable = (1..=SECRET_BYTES_MAX).contains(&text.len());
        if !usable || text.chars().any(char::is_control) {
            return Err(SecretError::Unusable(name.to_owned()));
        }
        Ok(text.to_owned())
    }
}

impl Secret {
    /// `bytes` with its value replaced by its name, wherever a server repeats it.
    #[must_use]
    pub fn struck_from(&self, bytes: Vec<u8>) -> Vec<u8> {
        let value = self.value.as_bytes();
        let found = |from: usize| {
            let rest = bytes.get(from..)?;
            rest.windows(value.len()).position(|window| window == value).map(|at| from + at)
        };
        let Some(mut at) = found(0) else { return bytes };
        let name = format!("{OPENING}{}}}", self.name);
        let (mut struck, mut done) = (Vec::with_capacity(bytes.len()), 0);
        loop {
            struck.extend_from_slice(bytes.get(done..at).unwrap_or_default());
            struck.extend_from_slice(name.as_bytes());
            done = at + value.len();
            match found(done) {
                Some(next) => at = next,
                None => break,
            }
        }
        struck.extend_from_slice(bytes.get(done..).unwrap_or_default());
        struck
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(value: &str) -> Vec<&str> {
        secret_names(value).collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, Secrets, Vec<GrantName>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pay");
        std::fs::write(&path, text).unwrap();
        let name: GrantName = "PAY".parse().unwrap();
        let mut secrets = Secrets::default();
        secrets.insert(&name, SecretSource::File(path));
        (dir, secrets, vec![name])
    }

    #[test]
    fn names_are_found_and_other_braces_are_text() {
        assert_eq!(names("Bearer {secret:PAY}"), ["PAY"]);
        assert_eq!(names("{secret:A}{secret:B} {secret"), ["A", "B"]);
        assert_eq!(names("{x} {secret:A"), Vec::<&str>::new());
        assert_eq!(names("{secret:{secret:A}"), ["{secret:A"]);
        assert_eq!(names("é{secret:A}é"), ["A"]);
        assert_eq!(names("é"), Vec::<&str>::new());
    }

    #[test]
    fn a_value_is_filled_in_without_its_line_end() {
        let (_dir, secrets, granted) = file("s3cret\r\n");
        let mut used = Vec::new();
        let filled = secrets.fill("Bearer {secret:PAY}!", &granted, &mut used).unwrap();
        assert_eq!(filled, "Bearer s3cret!");
        assert_eq!(format!("{used:?}"), "[Secret { name: \"PAY\", .. }]");
    }

    #[test]
    fn what_cannot_be_filled_in_says_why_and_never_the_value() {
        let (_dir, secrets, granted) = file("s3cret\nsecond line");
        let fill = |value: &str, granted: &[GrantName]| {
            secrets.fill(value, granted, &mut Vec::new()).unwrap_err()
        };
        assert_eq!(fill("{secret:PAY}", &[]), SecretError::Denied("PAY".to_owned()));
        assert_eq!(fill("{secret:PAY}", &granted), SecretError::Unusable("PAY".to_owned()));
        let other: Vec<GrantName> = vec!["OTHER".parse().unwrap()];
        assert_eq!(fill("{secret:OTHER}", &other), SecretError::Unknown("OTHER".to_owned()));
    }

    #[test]
    fn what_a_server_repeats_is_struck() {
        let secret = Secret { name: "PAY".to_owned(), value: "s3cret".to_owned() };
        let struck =
            |text: &str| String::from_utf8(secret.struck_from(text.as_bytes().to_vec())).unwrap();
        assert_eq!(struck("s3crets3cret: s3cre"), "{secret:PAY}{secret:PAY}: s3cre");
        assert_eq!(struck("nothing"), "nothing");
    }
}
