//! The permits of a Dutch municipality through the example plugins: counts to check against were
//! made by a separate program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{
    Place, Sources, batch_file, by_key, milestones_are_exact, put, read_ndjson, root,
    sequences_are_dense,
};

/// Events of the whole file, which `TIDEGATE_PERMITS` may name.
const WHOLE: usize = 8577;

fn permits() -> PathBuf {
    let whole = std::env::var_os("TIDEGATE_PERMITS").map(PathBuf::from);
    whole.unwrap_or_else(|| root().join("tests/data/permits.ndjson"))
}

fn summary(acknowledged: usize, appended: usize) -> Value {
    let duplicates = acknowledged - appended;
    json!({ "acknowledged": acknowledged, "appended": appended, "duplicates": duplicates })
}

#[test]
fn every_permit_is_counted_once_and_publishing_again_changes_nothing() {
    let events = read_ndjson(&permits());
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let host = place.start();
    assert_eq!(host.announced["new_empty_log"], true);

    let published = host.cli(&["publish", "--batch"]).arg(permits()).run().json();
    assert_eq!(published, summary(events.len(), events.len()));
    host.wait_rest("case-progress", 0);

    let published_by_key = by_key(&events);
    let mut counts = BTreeMap::new();
    for (key, events) in &published_by_key {
        let state = |name| host.state("case-progress", key, name);
        assert_eq!(state("events"), Some(events.len().to_string()), "{key}");
        let last = events.last().map(|event| event["type"].as_str().unwrap().to_owned());
        assert_eq!(state("last"), last, "{key}");
        counts.insert(key.clone(), events.len() as u64);
    }
    for (key, count) in counts.iter().take(3).chain([(&"case-9289".to_owned(), &25)]) {
        let words = ["state", "get", "case-progress", key.as_str(), "events"];
        assert_eq!(host.cli(&words).run().expect_done(), format!("{count}\n"));
    }
    if events.len() == WHOLE {
        assert_eq!(counts.len(), 1434);
        let lasts = |kind: &str| {
            let is = |events: &&Vec<&Value>| events.last().is_some_and(|e| e["type"] == kind);
            published_by_key.values().filter(is).count()
        };
        assert_eq!(lasts("permit.t10-determine-necessity-to-stop-indication"), 828);
        assert_eq!(lasts("permit.confirmation-of-receipt"), 116);
    }

    let milestones = host.http.events("type=case.milestone");
    milestones_are_exact(&milestones, &counts);
    let log = host.http.events("");
    sequences_are_dense(&log);
    assert_eq!(log.len(), events.len() + milestones.len());

    let again = host.cli(&["publish", "--batch"]).arg(permits()).run().json();
    assert_eq!(again, summary(events.len(), 0));
    host.wait_rest("case-progress", 0);
    assert_eq!(host.http.events("").len(), log.len());
    let ok = [("plugin", "case-progress"), ("outcome", "ok")];
    assert_eq!(host.metric("tidegate_deliveries_total", &ok), events.len() as u64);
    // What plugins emit, too: as many as the position says.
    let main = [("bus", "main")];
    assert_eq!(host.metric("tidegate_events_appended_total", &main), log.len() as u64);
    assert_eq!(host.metric("tidegate_log_last_position", &main), log.len() as u64);
    host.stop();
}

#[test]
fn a_plugin_that_comes_later_gets_the_log_from_the_beginning() {
    let events: Vec<Value> = read_ndjson(&root().join("tests/data/permits.ndjson"));
    let place = Place::new();
    let host = place.start();
    let file = batch_file(place.path(), &events);
    host.cli(&["publish", "--batch"]).arg(&file).run().expect_done();
    put(Sources::CASE_PROGRESS, &place.plugins());
    host.wait_plugin("case-progress", "live", |view| view["state"] == "live");
    host.wait_rest("case-progress", 0);
    assert_eq!(host.state("case-progress", "case-9289", "events").as_deref(), Some("25"));
    // And the milestones it emitted reach a plugin that names their type, later still.
    put(Sources::NOTIFY, &place.plugins());
    host.wait_plugin("notify", "live", |view| view["state"] == "live");
    host.wait_rest("notify", 0);
    let milestones = host.http.events("type=case.milestone").len();
    assert!(milestones > 0);
    let ok = [("plugin", "notify"), ("outcome", "ok")];
    assert_eq!(host.metric("tidegate_deliveries_total", &ok), milestones as u64);
    host.stop();
}
