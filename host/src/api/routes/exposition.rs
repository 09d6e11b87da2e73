//! The formats of metrics: OpenMetrics 1.0, and the text format 0.0.4 of Prometheus, for collectors
//! that know nothing else.

use std::fmt::Write;

use axum::http::{HeaderMap, header};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    /// The text format 0.0.4.
    Text,
}

impl Format {
    /// What the client would rather have; OpenMetrics where it does not say.
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let (mut open_metrics, mut text) = (0.0, 0.0);
        for value in headers.get_all(header::ACCEPT) {
            let ranges = value.to_str().unwrap_or_default().to_ascii_lowercase();
            for (range, quality) in ranges.split(',').map(range) {
                let best: &mut f32 = match range {
                    "application/openmetrics-text" => &mut open_metrics,
                    "text/plain" | "text/*" => &mut text,
                    _ => continue,
                };
                *best = best.max(quality);
            }
        }
        if text > open_metrics { Self::Text } else { Self::OpenMetrics }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Metrics in this format, given in OpenMetrics.
    pub(super) fn write(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => to_text(&open_metrics),
        }
    }
}

/// A media range and its quality: 1 unless it says otherwise.
fn range(text: &str) -> (&str, f32) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q="));
    (range, quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
}

/// The text format knows no units and no end, and a counter has the name of its samples.
fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        // Help comes first, and its type says whether it is a counter.
        let kind = if line.starts_with("# HELP ") { lines.peek().copied() } else { Some(line) };
        let counter = kind
            .and_then(|kind| kind.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
            .and_then(|name| Some((name, line.split_once(name)?)));
        // Writing to a string does not fail.
        let _ = match counter {
            Some((name, (before, after))) => writeln!(text, "{before}{name}_total{after}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{BusStanding, Metrics, Standing};

    #[test]
    fn clients_get_what_they_would_rather_have() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
             application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (&[][..], Format::OpenMetrics),
            (&["*/*"], Format::OpenMetrics),
            (&["text/html, */*;q=0.8"], Format::OpenMetrics),
            (&[prometheus], Format::OpenMetrics),
            (&["text/plain;version=0.0.4"], Format::Text),
            (&["Text/Plain; version=0.0.4; q=0.9, */*; q=0.1"], Format::Text),
            (&["application/openmetrics-text;q=0, text/*"], Format::Text),
            (&["application/openmetrics-text;q=0.2", "text/plain;q=0.3"], Format::Text),
        ] {
            let value = |accept: &&'static str| (header::ACCEPT, accept.parse().unwrap());
            let headers = accept.iter().map(value).collect();
            assert_eq!(Format::asked(&headers), format, "{accept:?}");
        }
    }

    #[test]
    fn the_text_format_names_counters_as_their_samples() {
        let metrics = Metrics::default();
        metrics.bus("main").published(Duration::from_millis(2));
        let main = BusStanding { name: "main".to_owned(), last_position: 3, appended: 3 };
        let open_metrics = metrics.encode(&Standing { buses: vec![main], plugins: Vec::new() });
        let text = to_text(&open_metrics);
        let lines: Vec<_> = text.lines().collect();
        let counter = [
            "# HELP tidegate_events_appended_total Events appended since the start: published, emitted \
             and forwarded.",
            "# TYPE tidegate_events_appended_total counter",
            "tidegate_events_appended_total{bus=\"main\"} 3",
        ];
        assert!(lines.windows(3).any(|window| window == counter), "{text}");
        assert!(lines.contains(&"# TYPE tidegate_append_duration_seconds histogram"), "{text}");
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
        let samples = |text: &str| {
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            samples.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(samples(&text), samples(&open_metrics));
        for sample in samples(&text) {
            let name = sample.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {family} ")), "{name}");
        }
    }
}
