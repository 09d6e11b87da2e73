//! Events to publish.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// An event of `/test` with JSON data.
#[allow(clippy::needless_pass_by_value, reason = "`json!` values are made for the call")]
pub(crate) fn event(kind: &str, id: &str, key: Option<&str>, data: Value) -> Value {
    let mut event = json!({
        "specversion": "1.0",
        "id": id,
        "source": "/test",
        "type": kind,
        "datacontenttype": "application/json",
    });
    event["data"] = data;
    if let Some(key) = key {
        event["partitionkey"] = key.into();
    }
    event
}

/// A log of `count` events over `keys` keys, in a random mixture. `data.n` numbers the events of a
/// key from 1; the id is `KEY/N`.
pub(crate) fn generated(rng: &mut fastrand::Rng, count: usize, keys: usize) -> Vec<Value> {
    const KINDS: [&str; 3] = ["order.created", "order.paid", "order.shipped"];
    let mut numbers = vec![0_u64; keys];
    (0..count)
        .map(|_| {
            // Squared, so that some keys have many events and many have few.
            let key = ((rng.f64() * rng.f64()) * keys as f64) as usize;
            numbers[key] += 1;
            let n = numbers[key];
            let kind = KINDS[rng.usize(..KINDS.len())];
            let name = format!("k-{key}");
            let text = "x".repeat(rng.usize(..200));
            let data = json!({ "n": n, "text": text });
            event(kind, &format!("{name}/{n}"), Some(&name), data)
        })
        .collect()
}

/// A file of events, one a line, as `publish --batch` takes it.
pub(crate) fn batch_file(folder: &Path, events: &[Value]) -> PathBuf {
    let file = folder.join("events.ndjson");
    let mut text = String::new();
    for event in events {
        writeln!(text, "{event}").unwrap();
    }
    std::fs::write(&file, text).unwrap();
    file
}

/// The events of a file, one a line.
pub(crate) fn read_ndjson(file: &Path) -> Vec<Value> {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
