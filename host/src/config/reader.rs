//! Reads a TOML document key by key, so that what is wrong with it can be said in the user's terms.
//!
//! A `Section` hands out each key once, with its default and what is allowed; whatever nobody
//! asked for is an unknown key, and the keys that were asked for are the known ones it is compared
//! with. Problems are collected, not thrown: a file with three mistakes says three sentences.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::{Table, Value};

use super::units::{ByteSize, TimeSpan};

/// The section that is to say where secrets are. Nothing in it is repeated: somebody may have put one there.
pub(super) const SECRETS: &str = "secrets";

/// Problems of one document that are told; of what is beyond, how many there are.
const PROBLEMS_MAX: usize = 20;
/// Bytes of one of them: keys and values in it are as long as their author wrote them.
const PROBLEM_BYTES_MAX: usize = 1024;

/// Bytes of a name that is compared with those that are known.
const NAME_COMPARED_BYTES_MAX: usize = 256;

/// Everything that is wrong with one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// At least one, in the order of the keys.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, with the document it is wrong in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: ``manifest `orders.toml` ``.
    pub origin: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is not TOML.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// Nobody knows this key.
    #[error("`{key}` is not a key; {}", suggestion(.nearest.as_ref(), .known))]
    UnknownKey {
        /// The full key.
        key: String,
        /// The known key that looks most like it, if any does.
        nearest: Option<String>,
        /// The known keys beside it.
        known: Vec<String>,
    },
    /// The key has a value of the wrong type or outside its range.
    #[error("`{key}` is {found}; allowed: {allowed}")]
    NotAllowed {
        /// The full key.
        key: String,
        /// The value, as TOML where it is short.
        found: String,
        /// What it may be.
        allowed: String,
    },
    /// Values that are fine alone do not go together, or something is missing.
    #[error("{sentence}")]
    Rule {
        /// What to change.
        sentence: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.fault.to_string();
        let shown = fault.get(..fault.floor_char_boundary(PROBLEM_BYTES_MAX)).unwrap_or(&fault);
        let more = if shown.len() < fault.len() { "..." } else { "" };
        write!(f, "{}: {shown}{more}", self.origin)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

fn suggestion(nearest: Option<&String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if known.is_empty() => "nothing is known here".to_owned(),
        None => format!("known here: `{}`", known.join("`, `")),
    }
}

/// A document being read.
#[derive(Debug)]
pub(crate) struct Document {
    label: String,
    /// Labels of values that came from elsewhere, by full key.
    origins: BTreeMap<String, String>,
    known: RefCell<Vec<String>>,
    unknown: RefCell<Vec<String>>,
    problems: RefCell<Vec<Problem>>,
}

/// A table of a [`Document`]. Dropping it declares what is left in it unknown.
#[derive(Debug)]
pub(crate) struct Section<'d> {
    document: &'d Document,
    path: String,
    table: Table,
}

impl Document {
    pub(crate) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            origins: BTreeMap::new(),
            known: RefCell::default(),
            unknown: RefCell::default(),
            problems: RefCell::default(),
        }
    }

    /// Says that the value of `key` did not come from the document itself.
    pub(crate) fn set_origin(&mut self, key: &str, label: String) {
        self.origins.insert(key.to_owned(), label);
    }

    pub(crate) fn has_origin(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    pub(crate) fn root(&self, table: Table) -> Section<'_> {
        Section { document: self, path: String::new(), table }
    }

    /// Ends the reading; every [`Section`] is gone by now.
    ///
    /// # Errors
    /// Everything that was wrong.
    pub(crate) fn finish(self) -> Result<(), Invalid> {
        let known = self.known.into_inner();
        let (mut problems, unknown) = (self.problems.into_inner(), self.unknown.into_inner());
        let more = (problems.len() + unknown.len()).saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        // What each of them may have been meant to be takes a look at all that is known.
        let places = PROBLEMS_MAX - problems.len();
        for key in unknown.into_iter().take(places) {
            let nearest = nearest(&key, known.iter().map(String::as_str)).map(str::to_owned);
            let parent = parent_of(&key);
            let mut siblings: Vec<String> =
                known.iter().filter(|candidate| parent_of(candidate) == parent).cloned().collect();
            siblings.dedup();
            let fault = Fault::UnknownKey { key, nearest, known: siblings };
            problems.push(Problem { origin: self.label.clone(), fault });
        }
        if more > 0 {
            let fault = Fault::Rule { sentence: format!("and {more} problems more") };
            problems.push(Problem { origin: self.label.clone(), fault });
        }
        if problems.is_empty() { Ok(()) } else { Err(Invalid { problems }) }
    }

    /// Reports that the value of a key is not what it may be.
    pub(crate) fn refuse(&self, key: &str, found: &Value, allowed: &str) {
        let is_secret = key.split('.').next() == Some(SECRETS);
        let found = if is_secret { kind_of(found).to_owned() } else { describe(found) };
        let allowed = allowed.to_owned();
        self.push(key, Fault::NotAllowed { key: key.to_owned(), found, allowed });
    }

    fn push(&self, key: &str, fault: Fault) {
        let origin = self.origins.get(key).unwrap_or(&self.label).clone();
        self.problems.borrow_mut().push(Problem { origin, fault });
    }
}

impl<'d> Section<'d> {
    /// The full key of a name in this section.
    pub(crate) fn key(&self, name: &str) -> String {
        joined(&self.path, name)
    }

    /// Takes a value of any type.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.document.known.borrow_mut().push(self.key(name));
        self.table.remove(name)
    }

    /// Whether a key is there, without taking it.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Takes a value that is a string; leaves any other where it is.
    pub(crate) fn text_if(&mut self, name: &str) -> Option<String> {
        if self.table.get(name)?.is_str() { self.text(name) } else { None }
    }

    /// Reports that a value is not what it may be.
    pub(crate) fn not_allowed(&self, name: &str, found: &Value, allowed: &str) {
        self.document.refuse(&self.key(name), found, allowed);
    }

    /// Reports that values do not go together.
    pub(crate) fn rule(&self, sentence: impl Into<String>) {
        self.document.push(&self.path, Fault::Rule { sentence: sentence.into() });
    }

    /// A table below; empty where there is none.
    pub(crate) fn section(&mut self, name: &str) -> Section<'d> {
        let table = match self.take(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(found) => {
                self.not_allowed(name, &found, "a table");
                Table::new()
            }
        };
        Section { document: self.document, path: self.key(name), table }
    }

    /// The tables below `name`, whose names are free.
    pub(crate) fn sections(&mut self, name: &str) -> Vec<(String, Section<'d>)> {
        let mut parent = self.section(name);
        let names: Vec<String> = parent.table.keys().cloned().collect();
        names
            .into_iter()
            .map(|name| {
                let child = parent.section(&name);
                (name, child)
            })
            .collect()
    }

    /// A list of tables, of which at most `most` are allowed; the first has number 0 in its key.
    pub(crate) fn tables(&mut self, name: &str, most: usize) -> Vec<Self> {
        let Some(found) = self.take(name) else { return Vec::new() };
        let allowed = format!("a list of at most {most} tables");
        let items = match found {
            Value::Array(items) if items.len() <= most => items,
            found => {
                self.not_allowed(name, &found, &allowed);
                return Vec::new();
            }
        };
        let path = self.key(name);
        let mut sections = Vec::with_capacity(items.len());
        for (number, item) in items.into_iter().enumerate() {
            match item {
                Value::Table(table) => {
                    let path = format!("{path}.{number}");
                    sections.push(Section { document: self.document, path, table });
                }
                found => self.not_allowed(name, &found, &allowed),
            }
        }
        sections
    }

    /// What is left, with nothing reported unknown: for tables whose keys are free.
    pub(crate) fn take_rest(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            found => {
                self.not_allowed(name, &found, "a string");
                None
            }
        }
    }

    pub(crate) fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.take(name) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(found) => {
                self.not_allowed(name, &found, "true or false");
                default
            }
        }
    }

    /// A whole number in `range`.
    pub(crate) fn integer<N>(&mut self, name: &str, default: N, range: RangeInclusive<N>) -> N
    where
        N: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let Some(found) = self.take(name) else { return default };
        let number = found.as_integer().and_then(|number| N::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let (low, high) = range.into_inner();
                self.not_allowed(name, &found, &format!("a whole number from {low} to {high}"));
                default
            }
        }
    }

    /// A string that `T` can be read from.
    pub(crate) fn parsed<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let found = self.take(name)?;
        let why = match found.as_str().map(str::parse::<T>) {
            Some(Ok(value)) => return Some(value),
            Some(Err(why)) => why.to_string(),
            None => "a string".to_owned(),
        };
        self.not_allowed(name, &found, &why);
        None
    }

    /// A list of strings that `T` can be read from.
    pub(crate) fn parsed_list<T>(&mut self, name: &str) -> Vec<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let Some(found) = self.take(name) else { return Vec::new() };
        let Value::Array(items) = &found else {
            self.not_allowed(name, &found, "a list of strings");
            return Vec::new();
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match item.as_str().map(str::parse::<T>) {
                Some(Ok(value)) => list.push(value),
                Some(Err(why)) => self.not_allowed(name, item, &why.to_string()),
                None => self.not_allowed(name, item, "a list of strings"),
            }
        }
        list
    }

    pub(crate) fn byte_size(
        &mut self,
        name: &str,
        default: ByteSize,
        range: RangeInclusive<ByteSize>,
    ) -> ByteSize {
        self.quantity(name, default, range, "a size")
    }

    /// A size that may be left out.
    pub(crate) fn optional_size(
        &mut self,
        name: &str,
        range: &RangeInclusive<ByteSize>,
    ) -> Option<ByteSize> {
        let written = self.table.contains_key(name);
        let size = self.byte_size(name, *range.start(), range.clone());
        written.then_some(size)
    }

    pub(crate) fn time_span(
        &mut self,
        name: &str,
        default: TimeSpan,
        range: RangeInclusive<TimeSpan>,
    ) -> TimeSpan {
        self.quantity(name, default, range, "a time")
    }

    fn quantity<Q>(&mut self, name: &str, default: Q, range: RangeInclusive<Q>, what: &str) -> Q
    where
        Q: FromStr + PartialOrd + fmt::Display,
    {
        let Some(found) = self.take(name) else { return default };
        let quantity = found.as_str().and_then(|text| text.parse::<Q>().ok());
        match quantity.filter(|quantity| range.contains(quantity)) {
            Some(quantity) => quantity,
            None => {
                let (low, high) = range.into_inner();
                let allowed = format!("{what} from \"{low}\" to \"{high}\", such as \"{default}\"");
                self.not_allowed(name, &found, &allowed);
                default
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let found = self.take(name)?;
        let chosen = words.iter().find(|(word, _)| found.as_str() == Some(*word));
        if chosen.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.not_allowed(name, &found, &words.join(", "));
        }
        chosen.map(|(_, value)| *value)
    }

    /// A table of strings whose keys are free.
    pub(crate) fn pairs(&mut self, name: &str) -> BTreeMap<String, String> {
        let mut section = self.section(name);
        let mut pairs = BTreeMap::new();
        for (name, value) in section.take_rest() {
            match value {
                Value::String(text) => {
                    pairs.insert(name, text);
                }
                found => section.not_allowed(&name, &found, "a string"),
            }
        }
        pairs
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let left = self.take_rest();
        let keys = left.keys().map(|name| self.key(name));
        self.document.unknown.borrow_mut().extend(keys);
    }
}

/// The full key of a name in the section with this path.
pub(super) fn joined(path: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_bare = !name.is_empty() && name.chars().all(bare);
    let name = if is_bare { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Table(_) => kind_of(value).to_owned(),
        Value::String(text) if text.chars().count() > 80 => {
            format!("a string of {} bytes", text.len())
        }
        other => other.to_string(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
        Value::String(_) => "a string",
        _ => "neither a string nor a table",
    }
}

fn parent_of(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn last_of(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

/// The known name that looks most like `wanted`: a typing mistake, or the right name in the wrong
/// section. None where nothing is near.
pub(crate) fn nearest<'k>(wanted: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // No known name is as long as that, and to compare takes as long as both are.
    if wanted.len() > NAME_COMPARED_BYTES_MAX {
        return None;
    }
    let bound = (last_of(wanted).chars().count() / 2).clamp(1, 3);
    let distance = |candidate: &str| {
        let moved = usize::from(parent_of(wanted) != parent_of(candidate));
        let renamed = strsim::damerau_levenshtein(last_of(wanted), last_of(candidate));
        (renamed + moved).min(strsim::damerau_levenshtein(wanted, candidate))
    };
    let near = known.map(|candidate| (distance(candidate), candidate));
    near.filter(|(distance, _)| *distance <= bound).min_by_key(|(d, _)| *d).map(|(_, name)| name)
}
