//! Draws a series: one SVG, its panels side by side.
//!
//! Rule: it paints its own ground and takes the reader's light or dark, so that it can be read on any
//! page; lines are told apart by dashes and words, not by colour alone.

use std::fmt::Write;

use crate::series::{Panel, Scale, Series, Upright, number};

const PANEL_WIDTH: f64 = 340.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 44.0;
/// Labels of sizes are this far apart, or left out.
const LABEL_WIDTH: f64 = 34.0;

const STYLE: &str = "svg{font:11px sans-serif}
.ground{fill:#fff}.text{fill:#1f2328}.faint{fill:#59636e}
.grid{stroke:#d1d9e0;stroke-width:1}.axis{stroke:#59636e;stroke-width:1}
.line{fill:none;stroke-width:2}.a{stroke:#0550ae}.b{stroke:#bc4c00}.c{stroke:#57606a}
.da{fill:#0550ae}.db{fill:#bc4c00}.dc{fill:#57606a}
.b,.key.b{stroke-dasharray:6 3}.c,.key.c{stroke-dasharray:2 3}
@media (prefers-color-scheme:dark){.ground{fill:#0d1117}.text{fill:#e6edf3}.faint{fill:#9198a1}
.grid{stroke:#30363d}.axis{stroke:#9198a1}.a{stroke:#58a6ff}.b{stroke:#f0883e}.c{stroke:#b1bac4}
.da{fill:#58a6ff}.db{fill:#f0883e}.dc{fill:#b1bac4}}";

/// The plot of a series.
pub fn svg(series: &Series) -> String {
    let width = PANEL_WIDTH * series.panels.len() as f64;
    let titles: Vec<&str> = series.panels.iter().map(|panel| panel.title).collect();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" \
         height=\"{HEIGHT}\" role=\"img\">\n<title>{} by {}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n",
        titles.join("; "),
        series.axis
    );
    for (place, panel) in series.panels.iter().enumerate() {
        Drawn::new(series, panel, PANEL_WIDTH * place as f64).draw(&mut svg);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A panel with its scales.
struct Drawn<'a> {
    series: &'a Series,
    panel: &'a Panel,
    left: f64,
    across: (f64, f64),
    upright: Vec<f64>,
}

impl<'a> Drawn<'a> {
    fn new(series: &'a Series, panel: &'a Panel, left: f64) -> Self {
        let places = series.points.iter().map(|(size, _)| place(series.scale, *size));
        let figures = series.points.iter().flat_map(|(_, figures)| {
            panel.lines.iter().filter_map(|(at, _)| figures.get(*at).copied())
        });
        let upright = ticks(panel.upright, bounds(figures.filter(|figure| !figure.is_nan())));
        Self { series, panel, left, across: bounds(places), upright }
    }

    fn x(&self, size: f64) -> f64 {
        let (from, to) = self.across;
        let share = (place(self.series.scale, size) - from) / (to - from).max(1e-9);
        self.left + LEFT + share * (PANEL_WIDTH - LEFT - RIGHT)
    }

    fn y(&self, figure: f64) -> f64 {
        let height = |figure: f64| match self.panel.upright {
            Upright::Zero => figure,
            Upright::Decades => figure.max(1e-9).log10(),
        };
        let from = self.upright.first().map_or(0.0, |tick| height(*tick));
        let to = self.upright.last().map_or(1.0, |tick| height(*tick));
        let share = (height(figure) - from) / (to - from).max(1e-9);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, svg: &mut String) {
        let (left, right) = (self.left + LEFT, self.left + PANEL_WIDTH - RIGHT);
        let bottom = HEIGHT - BOTTOM;
        let _ = writeln!(
            svg,
            "<text class=\"text\" x=\"{:.0}\" y=\"16\" font-weight=\"bold\">{}</text>",
            self.left + 12.0,
            self.panel.title
        );
        for tick in &self.upright {
            let y = self.y(*tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 4.0,
                short(*tick)
            );
        }
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
             <text class=\"text\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(left, right),
            HEIGHT - 8.0,
            self.series.axis
        );
        self.sizes(svg);
        for (number, (figure, name)) in self.panel.lines.iter().enumerate() {
            self.line(svg, number, *figure, name);
        }
    }

    /// Marks where sizes stand, and as many of their names as have room.
    fn sizes(&self, svg: &mut String) {
        let last = self.series.points.last().map_or(0.0, |(size, _)| self.x(*size));
        let mut free = f64::NEG_INFINITY;
        for (size, _) in &self.series.points {
            let (x, bottom) = (self.x(*size), HEIGHT - BOTTOM);
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>",
                bottom + 4.0
            );
            // The last one always has it.
            if x >= last || x >= free && x + LABEL_WIDTH <= last {
                free = x + LABEL_WIDTH;
                let _ = writeln!(
                    svg,
                    "<text class=\"faint\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    bottom + 16.0,
                    self.series.scale.label(*size)
                );
            }
        }
    }

    fn line(&self, svg: &mut String, number_of_line: usize, figure: usize, name: &str) {
        let class = ["a", "b", "c"].get(number_of_line).unwrap_or(&"c");
        let mut path = String::new();
        for (size, figures) in &self.series.points {
            let Some(figure) = figures.get(figure).filter(|figure| !figure.is_nan()) else {
                continue;
            };
            let (x, y) = (self.x(*size), self.y(*figure));
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ = writeln!(
                svg,
                "<circle class=\"d{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}: {}</title>\
                 </circle>",
                self.series.scale.label(*size),
                number(*figure)
            );
        }
        let _ = writeln!(svg, "<polyline class=\"line {class}\" points=\"{}\"/>", path.trim_end());
        if !name.is_empty() {
            let x = self.left + LEFT + 8.0 + 110.0 * number_of_line as f64;
            let _ = writeln!(
                svg,
                "<line class=\"line key {class}\" x1=\"{x:.0}\" x2=\"{:.0}\" y1=\"30\" y2=\"30\"/>\
                 <text class=\"text\" x=\"{:.0}\" y=\"34\">{name}</text>",
                x + 22.0,
                x + 28.0
            );
        }
    }
}

/// Where a size stands.
fn place(scale: Scale, size: f64) -> f64 {
    if scale == Scale::Share { size } else { size.max(1e-9).log10() }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let from = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = values.fold(from, |(low, high), value| (low.min(value), high.max(value)));
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// Round figures from below the least to above the greatest.
fn ticks(upright: Upright, (low, high): (f64, f64)) -> Vec<f64> {
    match upright {
        Upright::Zero => {
            let rough = (high / 4.0).max(1e-9);
            let decade = 10_f64.powf(rough.log10().floor());
            let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
            let step = steps.iter().map(|step| step * decade).find(|step| *step >= rough * 0.999);
            let step = step.unwrap_or(rough);
            (0..=(high / step).ceil().max(1.0) as u32).map(|tick| step * f64::from(tick)).collect()
        }
        Upright::Decades => {
            let from = low.max(1e-9).log10().floor() as i32;
            let to = (high.max(1e-9).log10().ceil() as i32).max(from + 1);
            (from..=to).map(|decade| 10_f64.powi(decade)).collect()
        }
    }
}

/// A tick in few letters.
fn short(figure: f64) -> String {
    match figure {
        _ if figure >= 1e6 => format!("{} M", figure / 1e6),
        _ if figure >= 1e4 => format!("{} k", figure / 1e3),
        _ => format!("{}", (figure * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_has_a_dot_for_each_figure_and_nothing_outside_of_it() {
        let panel = |upright| Panel { title: "t", lines: &[(0, "one"), (1, "two")], upright };
        for scale in [Scale::Decades, Scale::Bytes, Scale::Share] {
            let panels = vec![panel(Upright::Zero), panel(Upright::Decades)];
            let mut series = Series::new("keys", scale, &["x", "y"], panels);
            for (size, x) in [(0.0, 0.0), (10.0, 87_000.0), (1000.0, 5.5)] {
                series.add(size, &[vec![x, f64::NAN]]);
            }
            let svg = svg(&series);
            assert_eq!(svg.matches("<circle").count(), 6);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for y in svg.split("cy=\"").skip(1) {
                let y: f64 = y.split('"').next().unwrap().parse().unwrap();
                assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y), "{y}");
            }
        }
    }

    #[test]
    fn ticks_are_round_and_reach_around_the_figures() {
        assert_eq!(ticks(Upright::Zero, (3.0, 87_000.0)).last(), Some(&100_000.0));
        assert_eq!(ticks(Upright::Decades, (0.3, 12.0)), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(short(25_000.0), "25 k");
        assert_eq!(short(0.1), "0.1");
    }
}
