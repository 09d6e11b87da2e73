//! How deep a TOML document is nested, seen before anything is made of it.
//!
//! Rule: whatever is parsed has been looked at here. The parser bounds how many brackets stand in each other
//! and how many names a dotted key has, each alone, while depths multiply; what it makes of a document is
//! built, read and dropped by recursion, and a thread whose stack is gone takes the process with it.

use toml_parser::decoder::Encoding;
use toml_parser::parser::{EventReceiver, RecursionGuard, parse_document};
use toml_parser::{ErrorSink, Source, Span};

/// Tables and lists in each other.
pub(crate) const DEPTH_MAX: usize = 32;

/// Where a document is nested deeper than [`DEPTH_MAX`], if it is: bytes from its start. What is no TOML is
/// never found less deep than the parser takes it to be.
pub(crate) fn too_deep(text: &str) -> Option<usize> {
    let tokens = Source::new(text).lex().into_vec();
    let mut depth = Depth::default();
    let brackets_max = u32::try_from(DEPTH_MAX).unwrap_or(u32::MAX);
    // The events are those that the parser makes its values of; what is wrong otherwise it says itself.
    parse_document(&tokens, &mut RecursionGuard::new(&mut depth, brackets_max), &mut ());
    depth.exceeded_at
}

/// Counts while events come in.
#[derive(Debug, Default)]
struct Depth {
    /// Names in the header of the table.
    header: usize,
    is_header: bool,
    /// For each bracket that is open, the names before it and itself.
    open: Vec<usize>,
    /// Names since the last separator.
    names: usize,
    exceeded_at: Option<usize>,
}

impl Depth {
    fn enter(&mut self, span: Span) -> bool {
        self.open.push(self.names + 1);
        self.names = 0;
        self.look(span)
    }

    fn leave(&mut self) {
        self.open.pop();
    }

    fn begin_header(&mut self, names: usize) {
        (self.is_header, self.header, self.names) = (true, names, 0);
    }

    /// Whether it is within the bound so far.
    fn look(&mut self, span: Span) -> bool {
        let depth = self.header + self.open.iter().sum::<usize>() + self.names;
        if depth > DEPTH_MAX {
            self.exceeded_at.get_or_insert(span.start());
        }
        self.exceeded_at.is_none()
    }
}

impl EventReceiver for Depth {
    fn std_table_open(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.begin_header(0);
    }

    fn std_table_close(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.is_header = false;
    }

    fn array_table_open(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        // The list itself.
        self.begin_header(1);
    }

    fn array_table_close(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.is_header = false;
    }

    fn inline_table_open(&mut self, span: Span, _error: &mut dyn ErrorSink) -> bool {
        self.enter(span)
    }

    fn inline_table_close(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.leave();
    }

    fn array_open(&mut self, span: Span, _error: &mut dyn ErrorSink) -> bool {
        self.enter(span)
    }

    fn array_close(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.leave();
    }

    fn simple_key(&mut self, span: Span, _kind: Option<Encoding>, _error: &mut dyn ErrorSink) {
        if self.is_header {
            self.header += 1;
        } else {
            self.names += 1;
        }
        self.look(span);
    }

    fn value_sep(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        self.names = 0;
    }

    fn newline(&mut self, _span: Span, _error: &mut dyn ErrorSink) {
        if self.open.is_empty() {
            (self.is_header, self.names) = (false, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(tables: usize, names: usize) -> String {
        let key = vec!["a"; names].join(".");
        (0..tables).fold("1".to_owned(), |inner, _| format!("{{ {key} = {inner} }}"))
    }

    #[test]
    fn depths_add_up_however_they_are_written() {
        let dotted = |names: usize| vec!["a"; names].join(".");
        for (text, depth) in [
            ("a = 1".to_owned(), 1),
            (format!("{} = 1", dotted(30)), 30),
            (format!("a = {}1{}", "[".repeat(29), "]".repeat(29)), 30),
            (format!("[{}]\nb.c = [1]", dotted(20)), 23),
            (format!("[[{}]]\nb = {}", dotted(20), nested(1, 3)), 26),
            (format!("a = [{}, {}]", nested(2, 3), nested(1, 3)), 10),
        ] {
            assert_eq!(too_deep(&text), None, "{text}");
            // The bracket is one level, too.
            let names = DEPTH_MAX - depth - 1;
            let within = text.replacen('1', &nested(1, names), 1);
            assert_eq!(too_deep(&within), None, "{within}");
            let beyond = text.replacen('1', &nested(1, names + 1), 1);
            assert!(too_deep(&beyond).is_some(), "{beyond}");
        }
    }

    #[test]
    fn what_stands_in_texts_and_comments_and_side_by_side_is_no_depth() {
        let brackets = "[{".repeat(100);
        let side_by_side = "a.b.c = { d.e = [1.5, 2.5] }\n".repeat(100);
        for text in [
            format!("a = \"{brackets}\" # {brackets}"),
            format!("a = '{brackets}'\nb = \"\"\"\n{brackets}\n\"\"\"\nc = '''{brackets}'''"),
            format!("\"{}\" = 1", "a.".repeat(100)),
            side_by_side,
            format!("a = [{}]", "{ b.c = [1, 2] }, ".repeat(100)),
            "[a.b.c]\nd = 1\n".repeat(100),
        ] {
            assert_eq!(too_deep(&text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_toml_is_found_deep_where_it_is() {
        assert!(too_deep(&format!("a = {}", "{ b = ".repeat(100))).is_some());
        assert!(too_deep(&format!("a = {}", "[".repeat(100_000))).is_some());
    }
}
