//! How figures move as one thing grows: as a table, and as what a plot is drawn from.

use std::fmt::Write;

/// Figures at several sizes of one thing.
pub struct Series {
    /// What grows, as the table's first column and the plot's axis call it.
    pub axis: &'static str,
    /// How its sizes are written and spaced.
    pub scale: Scale,
    /// What is measured, in the order of the figures of a point: with its unit.
    pub figures: Vec<&'static str>,
    /// What is drawn of it, from left to right.
    pub panels: Vec<Panel>,
    /// Size, and the figures there. A figure that there is none of is not a number.
    pub points: Vec<(f64, Vec<f64>)>,
}

/// How sizes are written and spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Counts, each decade as wide as the next.
    Decades,
    /// Bytes, likewise.
    Bytes,
    /// Per cent, from zero on.
    Share,
}

/// One plot: figures of one unit.
pub struct Panel {
    /// What is to be seen, with its unit.
    pub title: &'static str,
    /// Places of the figures, and what each line is called where there are several.
    pub lines: &'static [(usize, &'static str)],
    /// From zero on, or by decades.
    pub upright: Upright,
}

/// How figures are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upright {
    /// From zero on.
    Zero,
    /// Each decade as high as the next.
    Decades,
}

impl Series {
    /// Nothing yet.
    pub fn new(
        axis: &'static str,
        scale: Scale,
        figures: &[&'static str],
        panels: Vec<Panel>,
    ) -> Self {
        Self { axis, scale, figures: figures.to_vec(), panels, points: Vec::new() }
    }

    /// Adds a point: the medians of what was found in each repetition.
    pub fn add(&mut self, size: f64, found: &[Vec<f64>]) {
        let figures: Vec<f64> = (0..self.figures.len())
            .map(|at| median(found.iter().filter_map(|run| run.get(at).copied())))
            .map(|figure| figure.unwrap_or(f64::NAN))
            .collect();
        eprintln!("{} {}: {figures:.1?}", self.axis, self.scale.label(size));
        self.points.push((size, figures));
    }

    /// As Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("| {} | {} |\n|---|", self.axis, self.figures.join(" | "));
        text.push_str(&"---|".repeat(self.figures.len()));
        for (size, figures) in &self.points {
            let _ = write!(text, "\n| {} |", self.scale.label(*size));
            for figure in figures {
                let _ = write!(text, " {} |", number(*figure));
            }
        }
        text.push('\n');
        text
    }
}

impl Scale {
    /// A size, in as few letters as say it.
    pub fn label(self, size: f64) -> String {
        let steps: &[(f64, &str)] = match self {
            Self::Decades => &[(1e6, " M"), (1e3, " k"), (1.0, "")],
            Self::Bytes => &[(1_048_576.0, " MiB"), (1024.0, " KiB"), (1.0, " B")],
            Self::Share => return format!("{size} %"),
        };
        let step = steps.iter().find(|(step, _)| size >= *step);
        step.map_or_else(|| size.to_string(), |(step, unit)| format!("{}{unit}", size / step))
    }
}

/// The one in the middle. What is not a number does not count.
pub fn median(found: impl Iterator<Item = f64>) -> Option<f64> {
    let mut found: Vec<f64> = found.filter(|figure| !figure.is_nan()).collect();
    found.sort_unstable_by(f64::total_cmp);
    let middle = found.len() / 2;
    match found.len() {
        0 => None,
        len if len.is_multiple_of(2) => Some(f64::midpoint(found[middle - 1], found[middle])),
        _ => Some(found[middle]),
    }
}

/// Three digits, or all those before the point.
pub fn number(figure: f64) -> String {
    if figure.is_nan() {
        return "-".to_owned();
    }
    let digits = match figure.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let plain = format!("{figure:.digits$}");
    if digits > 0 || plain.len() < 5 {
        return plain;
    }
    let mut grouped = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_medians_in_few_digits() {
        let mut series = Series::new("keys", Scale::Decades, &["events/s", "p50 ms"], Vec::new());
        series.add(1000.0, &[vec![81_234.4, 0.314], vec![1.0, 0.4], vec![99_999.0, f64::NAN]]);
        let table = series.table();
        assert_eq!(table.lines().last(), Some("| 1 k | 81,234 | 0.36 |"), "{table}");
    }

    #[test]
    fn sizes_are_short() {
        let labels = [
            Scale::Decades.label(10_000.0),
            Scale::Decades.label(2_000_000.0),
            Scale::Bytes.label(1_048_576.0),
            Scale::Bytes.label(64.0),
            Scale::Share.label(0.0),
        ];
        assert_eq!(labels, ["10 k", "2 M", "1 MiB", "64 B", "0 %"]);
        assert_eq!(number(f64::NAN), "-");
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(9999.0), "9999");
    }
}
