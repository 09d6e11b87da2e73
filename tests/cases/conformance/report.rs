//! What was found, as JSON and as the table of the README.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::languages::{Built, Language, place};
use super::run::Cases;
use super::table::Feature;
use crate::harness::{guest_target, root};

/// Names the program that is measured, and has the table of the README written anew.
const TABLE_VARIABLE: &str = "TIDEGATE_CONFORMANCE_TABLE";
const BEGIN: &str = "<!-- conformance: begin -->";
const END: &str = "<!-- conformance: end -->";

/// The columns for what a language can do: title, and what it stands for.
const COLUMNS: [(&str, Feature); 5] = [
    ("events, state", Feature::Basics),
    ("timers", Feature::Timers),
    ("calls", Feature::Calls),
    ("commands, queries", Feature::Requests),
    ("upcasters", Feature::Upcasters),
];

/// One language.
pub(super) struct Finding {
    pub(super) language: &'static Language,
    found: Result<Found, String>,
}

struct Found {
    bytes: u64,
    cases: Cases,
    figures: Option<Figures>,
}

/// Measured with another program: that of the tests is not optimised.
struct Figures {
    compile_ms: u64,
    us: f64,
    fuel: u64,
}

impl Finding {
    pub(super) fn new(
        language: &'static Language,
        built: &Result<Built, String>,
        cases: Option<Cases>,
    ) -> Self {
        let found = built.as_ref().map_err(Clone::clone).map(|built| Found {
            bytes: built.bytes,
            cases: cases.unwrap_or_default(),
            figures: program().map(|program| Figures::measure(&program, &built.module)),
        });
        if let Err(install) = &found {
            println!("{}: left out, install it with: {install}", language.name);
        }
        Self { language, found }
    }

    /// The cases that did not come out as they should.
    pub(super) fn failed(&self) -> Vec<String> {
        let cases = self.found.iter().flat_map(|found| &found.cases);
        let failed = cases.filter(|(_, (_, why))| !why.is_empty());
        failed.map(|(name, (_, why))| format!("{name}: {why}")).collect()
    }

    fn json(&self) -> Value {
        let Self { language, found } = self;
        let found = match found {
            Ok(found) => found,
            Err(install) => return json!({ "language": language.name, "install": install }),
        };
        let cases = found.cases.iter().map(|(name, (_, why))| {
            (*name, if why.is_empty() { "ok".to_owned() } else { why.clone() })
        });
        let features = COLUMNS.map(|(title, feature)| (title, found.has(feature)));
        let mut json = json!({
            "language": language.name,
            "made": language.made,
            "module_bytes": found.bytes,
            "cases": cases.collect::<std::collections::BTreeMap<_, _>>(),
            "features": std::collections::BTreeMap::from(features),
        });
        if let Some(figures) = &found.figures {
            json["compile_ms"] = figures.compile_ms.into();
            json["us_per_delivery"] = figures.us.into();
            json["fuel_per_delivery"] = figures.fuel.into();
        }
        json
    }
}

impl Found {
    /// Whether there are cases of a feature, and all came out as they should.
    fn has(&self, feature: Feature) -> bool {
        let mut own = self.cases.values().filter(|(of, _)| *of == feature).peekable();
        own.peek().is_some() && own.all(|(_, why)| why.is_empty())
    }
}

/// The program to measure with, where the table is asked for.
fn program() -> Option<PathBuf> {
    let program = std::env::var_os(TABLE_VARIABLE).filter(|value| !value.is_empty())?;
    // Tests run in their package's folder, people in the repository.
    Some(root().join(program))
}

impl Figures {
    /// One delivery: JSON is read, and an event with a key and an attribute emitted.
    fn measure(program: &Path, module: &Path) -> Self {
        const DATA: &str = r#"{"count":1}"#;
        let data = place().join("data.json");
        std::fs::write(&data, DATA).unwrap();
        let event = place().join("event.json");
        let content = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "conf.emit",
                              "partitionkey": "k", "datacontenttype": "application/json",
                              "data": serde_json::from_str::<Value>(DATA).unwrap() });
        // The second of two: the first may have started an interpreter.
        std::fs::write(&event, format!("{content}\n{content}\n")).unwrap();
        let run = |words: &[&str], more: &[&Path]| {
            let run = std::process::Command::new(program)
                .args(["--output", "json"])
                .args(words)
                .args(more)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&run.stdout).into_owned();
            assert!(run.status.success(), "{words:?}: {said}");
            said
        };
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let checked = parse(&run(&["check"], &[module]));
        let tested = run(&["test", "--events"], &[&event, module]);
        let delivery = parse(tested.lines().last().unwrap());
        let words = ["bench", "invoke", "--events", "2000", "--type", "conf.emit", "--data-file"];
        let bench = parse(&run(&words, &[&data, Path::new("--module"), module]));
        assert!(bench["parameters"]["outcome"].is_null(), "{bench}");
        let calls = bench["calls"].as_array().unwrap();
        let reuse = calls.iter().find(|call| call["call"] == "host, reuse").unwrap();
        Self {
            compile_ms: checked["compile_ms"].as_u64().unwrap(),
            us: reuse["us"].as_f64().unwrap(),
            fuel: delivery["fuel"].as_u64().unwrap(),
        }
    }
}

/// Writes `conformance.json`, and the table of the README where that is asked for.
pub(super) fn write(findings: &[Finding]) {
    let all: Vec<Value> = findings.iter().map(Finding::json).collect();
    let file = guest_target().with_file_name("conformance.json");
    let text = serde_json::to_string_pretty(&json!({ "languages": all })).unwrap();
    std::fs::write(&file, text).unwrap();
    if program().is_none() {
        return;
    }
    assert!(findings.iter().all(|finding| finding.found.is_ok()), "the table needs every language");
    let (before, _, after) = readme();
    std::fs::write(root().join("README.md"), format!("{before}{}{after}", table(findings)))
        .unwrap();
}

/// The README up to the table, the table, and what follows.
fn readme() -> (String, String, String) {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("a place for the table");
    let (table, after) = rest.split_once(END).expect("an end of it");
    (format!("{before}{BEGIN}\n"), table.trim_start().to_owned(), format!("{END}{after}"))
}

fn table(findings: &[Finding]) -> String {
    let titles = COLUMNS.map(|(title, _)| title).join(" | ");
    let mut text =
        format!("| language | made | module | compiled in | us a delivery | fuel | {titles} |\n");
    text.push_str(&"|---".repeat(6 + COLUMNS.len()));
    text.push_str("|\n");
    for finding in findings {
        let Ok(found) = &finding.found else { continue };
        let Some(figures) = &found.figures else { continue };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            finding.language.title,
            finding.language.made,
            bytes(found.bytes),
            seconds(figures.compile_ms),
            rounded(figures.us),
            thousands(figures.fuel),
            cells(found),
        );
    }
    text
}

fn cells(found: &Found) -> String {
    COLUMNS.map(|(_, feature)| if found.has(feature) { "yes" } else { "no" }).join(" | ")
}

/// The table in the README promises what was found just now.
pub(super) fn check_readme(findings: &[Finding]) {
    let (_, table, _) = readme();
    for finding in findings {
        let Ok(found) = &finding.found else { continue };
        let begins = format!("| {} | {} |", finding.language.title, finding.language.made);
        let row = table.lines().find(|line| line.starts_with(&begins));
        let row = row.unwrap_or_else(|| panic!("the README has no row `{begins}`"));
        let ends = format!("| {} |", cells(found));
        assert!(row.ends_with(&ends), "the README says `{row}`, found was `{ends}`");
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        1_000_000.. => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{} KB", bytes.div_ceil(1000)),
    }
}

fn seconds(ms: u64) -> String {
    if ms >= 1000 { format!("{:.1} s", ms as f64 / 1e3) } else { format!("{ms} ms") }
}

fn rounded(us: f64) -> String {
    if us >= 10.0 { format!("{us:.0}") } else { format!("{us:.1}") }
}

fn thousands(fuel: u64) -> String {
    let digits = fuel.to_string();
    let groups: Vec<String> = (digits.as_bytes().rchunks(3).rev())
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    groups.join(",")
}
