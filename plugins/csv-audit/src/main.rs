//! Checks uploaded CSV: does every row have as many cells as the header, and is none empty?
//!
//! Teaches: a plugin without an SDK. It is a plain program for `wasm32-wasip1`, and one run is one
//! delivery. Line 1 of stdin is the CloudEvent, line 2 what else there is to know:
//!
//! ```text
//! {"specversion":"1.0","type":"csv.uploaded","data":"name,age\nada,36\n", ...}
//! {"state":{"audits":3},"config":{"separator":","},"attempt":1}
//! ```
//!
//! Every line of stdout is one effect, or the outcome; stderr is the plugin's log. Any language that
//! compiles to a WASI command can do the same, and so can a shell: `cargo run < two-lines.txt`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PROBLEMS_MAX: usize = 20;

/// Line 1: the event, as far as it matters here.
#[derive(Deserialize)]
struct CloudEvent {
    id: String,
    #[serde(default)]
    data: Value,
}

/// Line 2.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    state: BTreeMap<String, Value>,
    config: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Audit {
    rows: usize,
    /// The first few, for people.
    problems: Vec<String>,
}

fn main() -> io::Result<()> {
    let mut input = String::new();
    io::stdin().read_to_string(&mut input)?;
    let mut out = io::stdout().lock();
    for line in run(&input) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// From the two lines of stdin to the lines of stdout.
fn run(input: &str) -> Vec<Value> {
    match deliver(input) {
        Ok(lines) => lines,
        Err(reason) => vec![json!({ "outcome": "reject", "reason": reason })],
    }
}

fn deliver(input: &str) -> Result<Vec<Value>, String> {
    let mut lines = input.lines();
    let event: CloudEvent = read(lines.next().unwrap_or_default())?;
    let context: Context = lines.next().map(read).transpose()?.unwrap_or_default();
    let Value::String(csv) = &event.data else {
        return Err("`data` is no text: publish it with `--content-type text/csv`".to_owned());
    };
    let separator = context.config.get("separator").and_then(|text| text.chars().next());
    let audit = audit(csv, separator.unwrap_or(','))?;
    eprintln!("{}: {} rows, {} problems", event.id, audit.rows, audit.problems.len());
    let audits = context.state.get("audits").and_then(Value::as_u64).unwrap_or(0) + 1;
    Ok(vec![
        json!({ "emit": { "type": "csv.audited", "data": audit } }),
        json!({ "state": { "set": { "audits": audits } } }),
        json!({ "outcome": "ok" }),
    ])
}

fn read<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| format!("the host sent something else: {error}"))
}

fn audit(csv: &str, separator: char) -> Result<Audit, String> {
    let mut rows = csv.lines();
    let header = rows.next().filter(|line| !line.trim().is_empty()).ok_or("no header line")?;
    let columns = cells(header, separator);
    let mut audit = Audit { rows: 0, problems: Vec::new() };
    for (row, line) in rows.enumerate().filter(|(_, line)| !line.is_empty()) {
        audit.rows += 1;
        let cells = cells(line, separator);
        if cells.len() != columns.len() {
            let (found, wanted) = (cells.len(), columns.len());
            audit.problems.push(format!("line {}: {found} cells instead of {wanted}", row + 2));
        }
        for (name, _) in columns.iter().zip(&cells).filter(|(_, cell)| cell.trim().is_empty()) {
            audit.problems.push(format!("line {}: `{name}` is empty", row + 2));
        }
    }
    audit.problems.truncate(PROBLEMS_MAX);
    Ok(audit)
}

/// The cells of one line; a separator between double quotes belongs to the cell (RFC 4180, but for
/// line breaks in cells).
fn cells(line: &str, separator: char) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        if c == '"' {
            quoted = !quoted;
        } else if c == separator && !quoted {
            cells.push(String::new());
        } else if let Some(cell) = cells.last_mut() {
            cell.push(c);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::run;

    fn deliver(data: &Value, context: &Value) -> Vec<Value> {
        let event =
            json!({ "specversion": "1.0", "id": "1", "type": "csv.uploaded", "data": data });
        run(&format!("{event}\n{context}\n"))
    }

    #[test]
    fn good_file_is_counted() {
        let lines = deliver(&json!("name,age\nada,36\n\"b, c\",1\n"), &json!({}));
        assert_eq!(lines[0]["emit"]["type"], "csv.audited");
        assert_eq!(lines[0]["emit"]["data"], json!({ "rows": 2, "problems": [] }));
        assert_eq!(lines[2], json!({ "outcome": "ok" }));
    }

    #[test]
    fn problems_are_named_with_their_line() {
        let context = json!({ "state": { "audits": 3 }, "config": { "separator": ";" } });
        let lines = deliver(&json!("name;age\nada\n;36\n"), &context);
        let problems = json!(["line 2: 1 cells instead of 2", "line 3: `name` is empty"]);
        assert_eq!(lines[0]["emit"]["data"]["problems"], problems);
        assert_eq!(lines[1], json!({ "state": { "set": { "audits": 4 } } }));
    }

    #[test]
    fn what_is_no_csv_is_rejected() {
        for data in [json!({ "a": 1 }), json!("")] {
            let lines = deliver(&data, &json!({}));
            assert_eq!((lines.len(), &lines[0]["outcome"]), (1, &json!("reject")));
        }
    }

    #[test]
    fn sample_is_a_good_file() {
        let sample: Value = serde_json::from_str(include_str!("../events/csv-uploaded.json"))
            .expect("a CloudEvent");
        let lines = run(&format!("{sample}\n"));
        assert_eq!(lines[0]["emit"]["data"]["problems"], json!([]));
    }
}
