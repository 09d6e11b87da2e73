//! A manifest as people read it: with every key, also those that nobody wrote.
//!
//! What the log has is [`Manifest::to_toml`], which leaves out keys that came later, so that manifests of
//! before keep their digests. Nothing but people reads what is made here.

use toml::{Table, Value};

use super::{Manifest, OnFailure};
use crate::plugin::{DEFAULT_BUS, Start};

/// The sections in the order of the documents.
const SECTIONS: [&str; 7] = ["subscribe", "limits", "run", "retry", "upcast", "grants", "config"];
/// Keys of numbers that are not written where they are zero.
const ZEROS: [(&str, &str); 4] = [
    ("limits", "rate"),
    ("limits", "concurrency"),
    ("limits", "keys"),
    ("run", "shadow-differences"),
];
/// Keys of `[limits]` that have no value where there is no limit.
const OPTIONAL: [&str; 2] = ["state", "state-per-key"];

impl Manifest {
    /// The manifest as TOML with all that holds, by section, the keys of each in the order of the alphabet.
    #[must_use]
    pub fn to_whole_toml(&self) -> String {
        let mut whole = self.clone();
        whole.subscribe.bus.get_or_insert_with(|| DEFAULT_BUS.to_owned());
        whole.subscribe.start.get_or_insert(Start::Earliest);
        whole.retry.on_failure.get_or_insert(OnFailure::Park);
        let Ok(mut top) = Table::try_from(&whole) else { return self.to_toml() };
        let timers = i64::try_from(self.limits.timers).unwrap_or(i64::MAX);
        let numbers = ZEROS.map(|(section, key)| (section, key, 0)).into_iter();
        for (section, key, number) in numbers.chain([("limits", "timers", timers)]) {
            if let Some(section) = top.get_mut(section).and_then(Value::as_table_mut) {
                section.entry(key).or_insert(Value::Integer(number));
            }
        }
        let sections = SECTIONS.map(|name| (name, top.remove(name)));
        let mut text = top.to_string();
        for (name, section) in sections {
            let Some(section) = section else { continue };
            let unset: Vec<&str> = match (name, &section) {
                ("limits", Value::Table(set)) => {
                    OPTIONAL.into_iter().filter(|key| !set.contains_key(*key)).collect()
                }
                _ => Vec::new(),
            };
            let section = Table::from_iter([(name.to_owned(), section)]).to_string();
            let (head, rest) = section.split_once('\n').unwrap_or((&section, ""));
            text += &format!("\n{head}\n");
            if !unset.is_empty() {
                text += &format!("# no limit: {}\n", unset.join(", "));
            }
            text += rest;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_holds_is_shown_and_means_the_same() {
        let text = Manifest::default().to_whole_toml();
        for line in [
            "[subscribe]",
            "start = \"earliest\"",
            "bus = \"main\"",
            "on-failure = \"park\"",
            "rate = 0",
            "concurrency = 0",
            "keys = 0",
            "timers = 2000000",
            "shadow-differences = 0",
            "# no limit: state, state-per-key",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        let written = "description = \"a\\n[limits]\\nb\"\nmodule = \"x.wasm\"\n[subscribe]\nstart = 7\n\
                       types = [\"a.*\"]\nwhere = { region = \"eu\" }\n[limits]\nstate = \"1GiB\"\nrate = 5\n\
                       [[limits.prefixes]]\nprefix = \"a\"\nrate = 1\n[retry]\non-failure = \"pause\"\n\
                       [upcast]\n\"a.b\" = [1]\n[config]\ncurrency = \"EUR\"\n";
        for written in [written, ""] {
            let manifest = Manifest::parse("a.toml", written).unwrap();
            let whole = manifest.to_whole_toml();
            let mut again = Manifest::parse("a.toml", &whole).unwrap();
            assert_eq!(again.to_whole_toml(), whole);
            again.subscribe.bus.clone_from(&manifest.subscribe.bus);
            again.subscribe.start.clone_from(&manifest.subscribe.start);
            again.retry.on_failure = manifest.retry.on_failure;
            assert_eq!(again, manifest, "{whole}");
        }
    }
}
