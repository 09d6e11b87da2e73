//! Aligned columns.

use std::fmt;

use super::out::plain;

/// Which side of its column a cell stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a head; every column is as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A head that begins with `>` stands over a column of numbers.
    pub(super) fn new(heads: &[&'static str]) -> Self {
        let column = |head: &&'static str| match head.strip_prefix('>') {
            Some(head) => (head, Align::Right),
            None => (*head, Align::Left),
        };
        Self { columns: heads.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row; cells are made safe to print, on one line each.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let one_line = |cell: String| plain(&cell).replace(['\n', '\t'], " ");
        self.rows.push(cells.into_iter().map(one_line).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |c| c.chars().count());
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let head = self.columns.get(at).map_or(0, |(head, _)| head.len());
                self.rows.iter().map(|row| cell(row, at)).fold(head, usize::max)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((text, width), (_, align)) in cells.zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => line.push_str(&format!("{text:<width$}  ")),
                    Align::Right => line.push_str(&format!("{text:>width$}  ")),
                }
            }
            line.truncate(line.trim_end().len());
            line
        };
        f.write_str(&line(&mut self.columns.iter().map(|(head, _)| *head)))?;
        for row in &self.rows {
            write!(f, "\n{}", line(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

/// Bytes, as people read them.
pub(super) fn bytes(count: u64) -> String {
    let mut unit = "B";
    let (mut whole, mut tenths) = (count, 0);
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if whole < 1024 {
            break;
        }
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = next;
    }
    if unit == "B" || whole >= 100 {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{tenths} {unit}")
    }
}

/// A span, as people read it.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// At most so many characters.
pub(super) fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">LAG"]);
        table.row(["größe".to_owned(), "7".to_owned()]);
        table.row(["a\u{1b}[2J\nb".to_owned(), "12345".to_owned()]);
        let expected = "NAME            LAG\ngröße             7\na\\u{1b}[2J b  12345";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn sizes_and_spans_are_readable() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (268_435_456, "256 MiB")]
        {
            assert_eq!(bytes(count), text);
        }
        for (ms, text) in [(999, "0 s"), (61_000, "1 min"), (90_000_000, "1 d 1 h")] {
            assert_eq!(span(ms), text);
        }
    }
}
