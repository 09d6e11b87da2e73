//! What people and programs see of a running host.

use serde_json::{Value, json};

use crate::harness::{Answer, Http, Place, Sources, event, put};

/// (id, member of the data) of every item of a stream that has ended.
fn items(stream: &Answer, member: &str) -> Vec<(String, String)> {
    let text = String::from_utf8(stream.body.clone()).unwrap();
    let item = |block: &str| {
        let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let data: Value = serde_json::from_str(line("data: ")?).ok()?;
        Some((line("id: ")?.to_owned(), data[member].as_str()?.to_owned()))
    };
    text.split("\n\n").filter_map(item).collect()
}

fn ask(http: &Http, path: &str, last: Option<&str>) -> Answer {
    let headers: Vec<_> = last.map(|id| ("last-event-id", id)).into_iter().collect();
    let answer = http.send("GET", path, &headers, &[]).unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer
}

fn stream(http: &Http, query: &str, last: Option<&str>) -> Vec<(String, String)> {
    items(&ask(http, &format!("/v1/events/stream?{query}"), last), "tidegateposition")
}

fn positions(items: &[(String, String)]) -> Vec<&str> {
    items.iter().map(|(_, position)| position.as_str()).collect()
}

#[test]
fn a_stream_goes_on_where_it_stopped_also_after_a_restart() {
    let place = Place::new();
    let host = place.start();
    let publish = |host: &crate::harness::Host, from: u64| {
        let events: Vec<_> = (from..from + 10)
            .map(|n| event("a.b", &format!("e-{n}"), Some(&format!("k-{}", n % 2)), json!(n)))
            .collect();
        host.http.publish(&events);
    };
    publish(&host, 1);
    let first = stream(&host.http, "from=1&limit=4", None);
    assert_eq!(positions(&first), ["1", "2", "3", "4"]);
    let second = stream(&host.http, "limit=3", Some(&first[3].0));
    assert_eq!(positions(&second), ["5", "6", "7"]);
    host.stop();

    let host = place.start();
    publish(&host, 11);
    let third = stream(&host.http, "limit=6", Some(&second[2].0));
    assert_eq!(positions(&third), ["8", "9", "10", "11", "12", "13"]);
    let of_key = stream(&host.http, "from=1&limit=3&key=k-1", None);
    assert_eq!(positions(&of_key), ["1", "3", "5"]);
    let words = ["--output", "json", "events", "tail", "--from", "19", "--limit", "2"];
    let tailed = host.cli(&words).run().expect_done();
    assert_eq!(tailed.lines().count(), 2, "{tailed}");
    host.stop();
}

#[test]
fn log_lines_go_on_after_the_last_one_seen_also_after_a_restart() {
    let place = Place::new();
    put(Sources::CSV_AUDIT, &place.plugins());
    let host = place.start();
    let audit = |host: &crate::harness::Host, ids: std::ops::RangeInclusive<u64>| {
        let csv = |n: u64| event("csv.uploaded", &n.to_string(), Some("k"), json!("name\nada\n"));
        host.http.publish(&ids.map(csv).collect::<Vec<_>>());
        host.wait_rest("csv-audit", 0);
    };
    let lines = |host: &crate::harness::Host, last: Option<&str>| {
        let path = "/v1/plugins/csv-audit/logs?follow=false&recent=2";
        let lines = items(&ask(&host.http, path, last), "message");
        let id_of = |text: &str| text.split(':').next().unwrap().to_owned();
        lines.into_iter().map(|(id, text)| (id, id_of(&text))).collect::<Vec<_>>()
    };
    let of = |lines: &[(String, String)]| {
        lines.iter().map(|(_, id)| id.parse::<u64>().unwrap()).collect::<Vec<_>>()
    };
    audit(&host, 1..=4);
    let first = lines(&host, None);
    assert_eq!(of(&first), [3, 4]);
    audit(&host, 5..=8);
    let second = lines(&host, Some(&first[1].0));
    assert_eq!(of(&second), [5, 6, 7, 8], "all that is kept, whatever `recent` says");
    host.stop();

    let host = place.start();
    audit(&host, 9..=11);
    assert_eq!(of(&lines(&host, Some(&first[1].0))), [9, 10, 11], "lines are kept by one start");
    host.stop();
}

#[test]
fn status_types_buses_metrics_and_the_description_of_the_api_are_there() {
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let host = place.start();
    let events: Vec<_> =
        (0..10).map(|n| event("a.b", &n.to_string(), Some("k"), json!(n))).collect();
    host.http.publish(&events);
    host.wait_rest("case-progress", 0);
    for words in [&["status"][..], &["types", "list"], &["buses", "list"], &["plugins", "list"]] {
        let text = host.cli(words).run().expect_done();
        assert!(text.contains("case-progress") || text.contains("main"), "{words:?}: {text}");
        let json = host.cli(&[&["--output", "json"], words].concat()).run().json();
        assert!(json.is_object() || json.is_array(), "{words:?}");
    }
    let types = host.http.get("/v1/types").expect_ok();
    let counts: Vec<_> = types["types"].as_array().unwrap().iter().map(|t| &t["count"]).collect();
    assert_eq!(counts, [10, 1], "{types}");
    let listed = host.cli(&["events", "list", "--type", "case.*"]).run().expect_done();
    assert!(listed.contains("case.milestone"), "{listed}");
    let got = host.cli(&["events", "get", "1"]).run().expect_done();
    assert!(got.contains("a.b"), "{got}");

    for name in [
        "tidegate_append_duration_seconds_count",
        "tidegate_log_last_position",
        "tidegate_delivery_duration_seconds_count",
        "tidegate_delivery_lag_seconds_count",
        "tidegate_plugin_fuel_total",
    ] {
        assert!(host.metric(name, &[]) > 0, "{name}");
    }
    let openapi = host.http.get("/openapi.json").expect_ok();
    for path in ["/v1/events", "/v1/plugins", "/v1/dead-letters", "/v1/status"] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
    host.stop();
}
