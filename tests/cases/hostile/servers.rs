//! Servers that do harm to guests that ask them, and guests that ask too much.

use std::time::Duration;

use serde_json::json;

use super::Neighbour;
use crate::harness::{Flaky, HostOptions, Place, Process, Reply, event, fixture};

/// What answers, and guests with their instances, may take: two workers, and a bound each.
const HELD_BYTES_MAX: u64 = (2 * (64 + 16) + 64) << 20;

#[test]
fn answers_that_never_end_and_guests_that_ask_without_end_are_bounded_and_disturb_nobody() {
    let server = Flaky::start(|asked| match asked.line.split(' ').nth(1) {
        Some("/endless") => Reply::Endless,
        Some("/headers") => Reply::Headers(4 << 20),
        Some("/drip") => Reply::Drip(Duration::from_millis(50)),
        Some("/left") => Reply::Slow(Duration::from_secs(2)),
        _ => Reply::Status(200, ""),
    });
    let place = Place::new();
    Neighbour::put(&place);
    let granted = format!("127.0.0.1:{}", server.port);
    let file = place.plugins().join("asking.wasm");
    std::fs::write(&file, fixture("asking-guest")).unwrap();
    let manifest = format!(
        "[subscribe]\nstart = \"earliest\"\ntypes = [\"ask\"]\n[run]\nworkers = 2\n\
         [limits]\ntimeout = \"8s\"\n[retry]\nbackoff = \"20ms\"\ngive-up-after = \"100ms\"\n\
         on-failure = \"continue\"\n[grants]\nhttp = [\"{granted}\"]\n"
    );
    std::fs::write(file.with_extension("toml"), manifest).unwrap();
    let config = format!("[plugins.asking]\nallow.http = [\"{granted}\"]\n");
    let host = place.start_with(&HostOptions { config: Some(config), ..HostOptions::default() });
    let process = Process::new(host.pid());
    let mut neighbour = Neighbour::of(&host);
    neighbour.round();
    let before = (process.memory_bytes(), process.threads(), process.descriptors().len());
    process.reset_peak();

    let at = format!("http://{granted}");
    let ask = |id: &str, lines: String| {
        let mut event = event("ask", id, Some(id), json!(lines));
        event["datacontenttype"] = "text/plain".into();
        event
    };
    host.http.publish(&[
        ask("endless", format!("GET {at}/endless\n").repeat(20)),
        ask("headers", format!("GET {at}/headers\n").repeat(20)),
        ask("drip", format!("GET {at}/drip")),
        ask("flood", format!("FLOOD {at}/ 200")),
        ask("leaves", format!("LEAVE {at}/left\n").repeat(500)),
    ]);
    neighbour.wait("all of it comes to an end", || {
        let view = host.plugin("asking");
        let over = view["lag_events"] == 0 && view["in_flight"] == 0 && view["waiting"] == 0;
        if over { Ok(()) } else { Err(view) }
    });
    let letters = host.dead_letters("asking");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(
        (&letters[0]["event_id"], &letters[0]["outcome"]),
        (&"drip".into(), &"timeout".into())
    );
    let said: Vec<String> = (host.http.events("type=asked").iter())
        .map(|event| format!("{}: {}", event["causationid"], event["data"]))
        .collect();
    let count = |words: &str| said.iter().filter(|said| said.contains(words)).count();
    assert_eq!(count("\"endless\": \"error: ErrorCode::HttpResponseBodySize"), 20, "{said:?}");
    assert_eq!(count("\"headers\": \"error: "), 20, "{said:?}");
    assert_eq!(count("\"flood\": \"64 of 200"), 1, "{said:?}");
    let left = server.asked().iter().filter(|asked| asked.line.contains("/left")).count();
    assert!(left <= 64, "{left} requests of one delivery");
    let held = process.peak_bytes().saturating_sub(before.0);
    println!("{} MiB held at most, {} rounds beside it", held >> 20, neighbour.asked);
    assert!(held <= HELD_BYTES_MAX, "{held} bytes held");
    neighbour.wait("nothing is left of it", || {
        let now = (process.threads(), process.descriptors().len());
        let gone = now.0 <= before.1 + 16 && now.1 <= before.2 + 16;
        if gone { Ok(()) } else { Err(json!([now.0, now.1])) }
    });
    host.stop();
}
