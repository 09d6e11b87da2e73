//! SIGTERM: drain, seal, exit 0; the next start is clean.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Cli, Http, Place, Publisher, bare_guest, event, fixture, handler, sequences_are_dense,
    wait_until,
};

const LOADED_MAX: Duration = Duration::from_secs(60);

#[test]
fn sigterm_under_load_exits_0_and_the_next_start_is_clean() {
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    let host = place.start();
    let epoch = |host: &crate::harness::Host| {
        host.http.get("/v1/buses").expect_ok()["buses"][0]["log"]["epoch"].clone()
    };
    assert_eq!(epoch(&host), 1);
    let events = (0..).map(|n| {
        event("a.b", &format!("e-{n}"), Some(&format!("k-{}", n % 50)), json!({ "n": n }))
    });
    let publisher = Publisher::start(&host.http, 20, events);
    wait_until("load", LOADED_MAX, || match publisher.count() {
        count if count >= 1000 => Ok(()),
        count => Err(count),
    });
    let (status, said) = host.terminate();
    assert_eq!(status.code(), Some(0), "{said}");
    let (acknowledged, why) = publisher.end();
    assert!(why.is_some(), "who publishes learns that the host went away");
    Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();

    let host = place.start();
    assert_eq!(epoch(&host), 2);
    assert_eq!(host.announced["new_empty_log"], false);
    assert!(!host.said().contains("cut"), "{}", host.said());
    host.wait_rest("bare", 0);
    let log = host.http.events("");
    sequences_are_dense(&log);
    let published: BTreeSet<_> =
        log.iter().filter(|e| e["source"] == "/test").map(|e| e["id"].as_str().unwrap()).collect();
    for answer in &acknowledged {
        assert!(published.contains(answer["id"].as_str().unwrap()), "{answer} is lost");
    }
    // Each was handled once, and none was begun twice.
    let seen: Vec<_> = log.iter().filter(|event| event["type"] == "bare.seen").collect();
    let inputs: BTreeSet<_> = seen.iter().map(|event| event["data"].as_str().unwrap()).collect();
    assert_eq!((seen.len(), &inputs), (published.len(), &published));
    assert!(seen.iter().all(|event| event["attempt"] == "1"), "a clean stop costs no attempt");
    host.stop();
}

/// Clients of commands and queries once lost their connection instead, 5 s later.
#[test]
fn who_waits_for_an_answer_at_sigterm_is_told_at_once_what_to_do() {
    let place = Place::new();
    std::fs::write(place.plugins().join("tally.wasm"), fixture("tally-guest")).unwrap();
    let host = place.start();
    let send = |http: &Http| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "i-1")];
        http.send("POST", "/v1/plugins/tally/command/fail?key=a", &headers, b"\"later\"")
    };
    let clients = [
        std::thread::spawn({
            let http = host.http.clone();
            move || send(&http)
        }),
        std::thread::spawn({
            let http = host.http.clone();
            move || http.send("GET", "/v1/plugins/tally/query/sum?key=a&wait=1000000", &[], b"")
        }),
    ];
    host.wait_plugin("tally", "at work", |view| view["deliveries"]["retry"].as_u64() > Some(0));
    let begun = Instant::now();
    let (status, said) = host.terminate();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: {said}", begun.elapsed());
    let [command, query] = clients.map(|client| client.join().unwrap().expect("an answer"));
    for answer in [&command, &query] {
        assert_eq!((answer.status, &*answer.code()), (503, "shutting_down"), "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    let error = &command.json()["error"];
    assert_eq!(error["position"], 1, "{error}");
    assert!(error["message"].as_str().unwrap().contains("`Idempotency-Key`"), "{error}");

    let host = place.start();
    let again = send(&host.http).unwrap();
    assert_eq!((again.status, again.header("tidegate-repeated")), (503, Some("true")), "{again:?}");
    assert_eq!(again.code(), "retry");
    host.stop();
}

#[test]
fn a_host_without_work_stops_and_starts_with_everything_as_it_was() {
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    for round in 1..=4_u64 {
        let host = place.start();
        let id = format!("e-{round}");
        let appended = host.http.publish(&[event("a.b", &id, Some("k"), json!(1))]);
        // One published and one emitted each round.
        assert_eq!(appended[0]["sequence"], 2 * round - 1, "{appended:?}");
        host.wait_rest("bare", 0);
        assert_eq!(host.state("bare", "k", "seen"), Some(round.to_string()));
        host.stop();
    }
}

/// Where TLS was not set up, SIGHUP once ended the host on the spot, its log unsealed.
#[test]
fn sighup_has_files_read_again_and_stops_nothing() {
    let place = Place::new();
    let host = place.start();
    host.signal(rustix::process::Signal::HUP);
    wait_until("a word about it", LOADED_MAX, || match host.said() {
        said if said.contains("no certificate and no tokens file to read again") => Ok(()),
        said => Err(said),
    });
    host.http.publish(&[event("a.b", "e-1", Some("k"), json!(1))]);
    host.stop();
}

#[test]
fn a_limit_on_the_size_of_files_ends_a_host_with_a_word() {
    let place = Place::new();
    let mut host = place.start();
    host.http.publish(&[event("a.b", "e-1", Some("k"), json!(1))]);
    let pid = i32::try_from(host.pid()).ok().and_then(rustix::process::Pid::from_raw);
    let limit = rustix::process::Rlimit { current: Some(1), maximum: Some(1) };
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).unwrap();
    let body = event("a.b", "e-2", Some("k"), json!(2)).to_string();
    let headers = [("content-type", "application/cloudevents+json")];
    let answer = host.http.send("POST", "/v1/events", &headers, body.as_bytes());
    assert!(answer.is_ok_and(|answer| answer.status == 503), "it cannot be durable");
    let (code, said) = host.wait_end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");

    // What was acknowledged is there.
    let host = place.start();
    assert_eq!(host.http.get("/v1/events/1").expect_ok()["id"], "e-1");
    host.stop();
}

#[test]
fn sigterm_does_not_wait_for_a_guest_that_does_not_return() {
    let place = Place::new();
    let spin = handler("", "(loop $on (br $on))", "");
    std::fs::write(place.plugins().join("spin.wasm"), spin).unwrap();
    let manifest = "[limits]\nfuel = 1_000_000_000_000\ntimeout = \"5m\"\n";
    std::fs::write(place.plugins().join("spin.toml"), manifest).unwrap();
    let host = place.start();
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.wait_plugin("spin", "at work", |view| view["in_flight"] == 1);
    let (status, said) = host.terminate();
    assert_eq!(status.code(), Some(0), "{said}");
    Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();

    // The backlog stays: the delivery that was cut off is made by who can.
    std::fs::write(place.plugins().join("spin.wasm"), bare_guest()).unwrap();
    let host = place.start();
    host.wait_rest("spin", 0);
    assert_eq!(host.http.events("type=bare.seen").len(), 1);
    host.stop();
}

#[test]
fn a_start_says_where_its_time_went() {
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    let starts = |in_order: bool| {
        let host = place.start();
        let line = |message: &str| {
            let said = host.said();
            let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.map(|line| line["fields"].clone()).find(|line| line["message"] == message)
        };
        wait_until("the line that says ready", LOADED_MAX, || {
            line("ready").filter(|ready| ready["ms"].is_u64()).map(drop).ok_or_else(|| host.said())
        });
        let opened = line("opened").unwrap();
        assert_eq!(opened["stopped_in_order"], in_order, "{opened}");
        for part in ["recover_ms", "index_ms", "heads_ms", "checkpoint_ms", "fold_ms"] {
            assert!(opened[part].is_u64(), "{part}: {opened}");
        }
        // The first start has no checkpoint to go on from.
        if opened["events"] != 0 {
            wait_until("the line that says that state is there", LOADED_MAX, || {
                let read = line("state read").filter(|read| read["ms"].is_u64());
                read.map(drop).ok_or_else(|| host.said())
            });
        }
        host
    };
    let host = starts(true);
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.wait_rest("bare", 0);
    host.stop();
    starts(true).kill();
    starts(false).stop();
}
