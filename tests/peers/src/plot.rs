//! A table and a plot of how figures move as one thing grows.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

/// Figures at several sizes of one thing.
pub struct Series {
    /// What grows.
    pub axis: String,
    /// What is measured, in the order of the figures of a point.
    pub figures: Vec<String>,
    /// Size, and the figures there.
    pub points: Vec<(f64, Vec<f64>)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 50.0;

impl Series {
    /// Nothing yet.
    pub fn new(axis: &str, figures: &[&str]) -> Self {
        let figures = figures.iter().map(|figure| (*figure).to_owned()).collect();
        Self { axis: axis.to_owned(), figures, points: Vec::new() }
    }

    /// Adds a point, and says so.
    pub fn add(&mut self, size: f64, figures: &[f64]) {
        eprintln!("{} {size}: {figures:.1?}", self.axis);
        self.points.push((size, figures.to_vec()));
    }

    /// As Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("| {} | {} |\n|---|", self.axis, self.figures.join(" | "));
        text.push_str(&"---|".repeat(self.figures.len()));
        for (size, figures) in &self.points {
            let _ = write!(text, "\n| {size} |");
            for figure in figures {
                let digits = if figure.abs() < 100.0 { 2 } else { 0 };
                let _ = write!(text, " {figure:.digits$} |");
            }
        }
        text.push('\n');
        text
    }

    /// The first figure over the size, both on logarithmic scales.
    pub fn svg(&self) -> String {
        let shown: Vec<(f64, f64)> = (self.points.iter())
            .filter_map(|(size, figures)| Some((*size, *figures.first()?)))
            .filter(|(_, figure)| *figure > 0.0)
            .collect();
        // A size of zero has its place one step before the first.
        let x = |size: f64| if size > 0.0 { size.log10() } else { -1.0 };
        let (left, right) = bounds(shown.iter().map(|(size, _)| x(*size)));
        let (low, high) = bounds(shown.iter().map(|(_, figure)| figure.log10()));
        let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
        let at = |size: f64, figure: f64| {
            let across = (x(size) - left) / (right - left).max(1e-9);
            let up = (figure.log10() - low) / (high - low);
            (
                MARGIN + across * (WIDTH - 2.0 * MARGIN),
                HEIGHT - MARGIN - up * (HEIGHT - 2.0 * MARGIN),
            )
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" \
             fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"20\">{} by {}</text>\n",
            self.figures.first().map_or("", String::as_str),
            self.axis
        );
        let mut path = String::new();
        for (size, figure) in &shown {
            let (across, down) = at(*size, *figure);
            let _ = write!(path, "{across:.1},{down:.1} ");
            let _ = writeln!(
                svg,
                "<circle cx=\"{across:.1}\" cy=\"{down:.1}\" r=\"3\"/><text x=\"{across:.1}\" \
                 y=\"{:.1}\" text-anchor=\"middle\">{size}</text><text x=\"{across:.1}\" \
                 y=\"{:.1}\" text-anchor=\"middle\">{figure:.0}</text>",
                HEIGHT - MARGIN + 16.0,
                down - 8.0
            );
        }
        let _ =
            writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"black\"/>\n</svg>");
        svg
    }

    /// Writes the plot into a folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let name: String =
            self.axis.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        Ok(std::fs::write(dir.join(format!("{name}.svg")), self.svg())?)
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_a_row_and_a_dot_for_each_point() {
        let mut series = Series::new("keys", &["events/s", "MiB"]);
        for (size, rate) in [(1.0, 50.0), (10.0, 100.0), (100.0, 90.0)] {
            series.add(size, &[rate, 7.0]);
        }
        assert_eq!(series.table().lines().count(), 5);
        assert!(series.table().contains("| 10 | 100 | 7.00 |"), "{}", series.table());
        assert_eq!(series.svg().matches("<circle").count(), 3);
        assert!(!series.svg().contains("NaN"));
    }
}
