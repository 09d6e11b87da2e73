//! Whether a text is TOML, and where it stops being that.

use std::ops::Range;

use toml::Table;
use toml::de::{DeTable, DeValue};

use super::depth::{DEPTH_MAX, too_deep};
use super::reader::{Fault, Invalid, Problem, joined};

/// What stands in for a key that is there already, to see where it would stand.
const STAND_IN: &str = "tidegate-stand-in";

/// Parses TOML.
///
/// # Errors
/// [`Fault::Syntax`] with the place.
pub(crate) fn parse(label: &str, text: &str) -> Result<Table, Invalid> {
    let invalid = |at: usize, message: String| {
        let (line, column) = place(text, at);
        let fault = Fault::Syntax { line, column, message };
        Invalid { problems: vec![Problem { origin: label.to_owned(), fault }] }
    };
    if let Some(at) = too_deep(text) {
        let message = format!("more than {DEPTH_MAX} tables and lists in each other");
        return Err(invalid(at, message));
    }
    text.parse::<Table>().map_err(|error| {
        let span = error.span().unwrap_or_default();
        let message = repeated(text, span.clone())
            .unwrap_or_else(|| error.message().lines().collect::<Vec<_>>().join(", "));
        invalid(span.start, message)
    })
}

/// Line and column, from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// Which key is repeated, and where it stands first: the parser only says that one is. None: the mistake
/// is another one.
fn repeated(text: &str, span: Range<usize>) -> Option<String> {
    let start = span.start;
    let key = text.get(span.clone())?;
    let mut stands_in = text.to_owned();
    stands_in.replace_range(span, STAND_IN);
    let (table, _) = DeTable::parse_recoverable(&stands_in);
    let line = format!("{key} = 0");
    let line = DeTable::parse(&line).ok()?;
    let name = line.get_ref().keys().next()?;
    let (path, first) = first_of(table.get_ref(), "", name.get_ref(), start)?;
    let (line, _) = place(text, first);
    Some(format!("`{path}` stands on line {line} already: put the two together, or remove one"))
}

/// Full key and place of `name` in the table that has a key at `start`.
fn first_of(table: &DeTable<'_>, path: &str, name: &str, start: usize) -> Option<(String, usize)> {
    if table.keys().any(|key| key.span().start == start) {
        let (key, _) = table.get_key_value(name)?;
        return Some((joined(path, name), key.span().start));
    }
    let below = |key: &str, value: &DeValue<'_>| match value {
        DeValue::Table(table) => first_of(table, &joined(path, key), name, start),
        DeValue::Array(items) => items
            .iter()
            .find_map(|item| first_of(item.get_ref().as_table()?, &joined(path, key), name, start)),
        _ => None,
    };
    table.iter().find_map(|(key, value)| below(key.get_ref(), value.get_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_named_with_both_lines() {
        let twice = |path: &str, line: usize| {
            format!("`{path}` stands on line {line} already: put the two together, or remove one")
        };
        for (text, place, says) in [
            ("a = 1\nb = 1\na = 2", (3, 1), twice("a", 1)),
            ("[http]\nlisten = 1\n\"ä\".x = 1\nlisten = 2", (4, 1), twice("http.listen", 2)),
            ("[http]\nlisten = 1\n[b]\nlisten = 1\n[http]\nx = 1", (5, 2), twice("http", 1)),
            ("[a.b]\n[c]\n[a.\"b\"]\nx = 1", (3, 4), twice("a.b", 1)),
            ("http.listen = 1\n[http]\nx = 1", (2, 2), twice("http", 1)),
            ("[a.b]\nx = 1\n[a]\nb.y = 1", (4, 1), twice("a.b", 1)),
            ("[[a]]\nx = 1\n[[a]]\nx = 1\nx = 2", (5, 1), twice("a.x", 4)),
            ("[[a]]\nx = 1\n[a]\n", (3, 2), twice("a", 1)),
            ("a = 1\na.b = 1", (2, 1), twice("a", 1)),
            ("\n[a]\nb = { 'c d' = 1, \"c d\" = 2 }", (3, 18), twice("a.b.\"c d\"", 3)),
            ("a = 1\na = 2\nb = ", (2, 1), twice("a", 1)),
        ] {
            let invalid = parse("t", text).unwrap_err();
            let [Problem { fault: Fault::Syntax { line, column, message }, .. }] =
                invalid.problems.as_slice()
            else {
                panic!("{text}: {invalid}");
            };
            assert_eq!(((*line, *column), message), (place, &says), "{text}");
        }
    }

    #[test]
    fn other_mistakes_are_told_in_the_words_of_the_parser() {
        for text in ["a = 1\nb = a", "a = 1\n[b", "a", "é = \n"] {
            let said = parse("t", text).unwrap_err().to_string();
            assert!(!said.contains("already"), "{text}: {said}");
        }
    }

    /// Such a manifest once took the process with it, at every start: no thread has a stack for it.
    #[test]
    fn a_document_that_is_nested_too_deep_is_refused_with_the_place() {
        let key = ["a"; 70].join(".");
        let deep = (0..40).fold("1".to_owned(), |inner, _| format!("{{ {key} = {inner} }}"));
        let invalid = parse("t", &format!("b = 1\n[config]\n{key} = {deep}\n")).unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "t: line 3, column 63: more than 32 tables and lists in each other"
        );
    }
}
