//! Damage is found and named, never skipped; nobody else opens a log that is open.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Cli, HostOptions, Place, event, seed, wait_until};

const SAID_MAX: Duration = Duration::from_secs(20);

/// The smallest there are, so that a small log has closed ones.
const SMALL_SEGMENTS: &str = "[buses.main]\nkind = \"durable\"\nsegment = \"4MiB\"\n";

fn filled(place: &Place) {
    let options = HostOptions { config: Some(SMALL_SEGMENTS.to_owned()), ..Default::default() };
    let host = place.start_with(&options);
    let text = "tide ".repeat(800);
    for batch in 0..30 {
        let events: Vec<_> = (0..100)
            .map(|n| {
                let (id, key) = (format!("{batch}-{n}"), format!("k-{n}"));
                event("a.b", &id, Some(&key), json!({ "text": text }))
            })
            .collect();
        host.http.publish(&events);
    }
    host.stop();
}

#[test]
fn a_changed_byte_in_a_closed_log_is_named_and_the_host_refuses_to_start() {
    let mut rng = seed("a_changed_byte_in_a_closed_log_is_named");
    let place = Place::new();
    filled(&place);
    let mut segments = place.segments("main");
    // Space for the next start, with nothing in it that could be damaged.
    let claimed = segments.pop().unwrap();
    assert!(std::fs::read(&claimed).unwrap().iter().all(|byte| *byte == 0), "{claimed:?}");
    assert!(segments.len() >= 3, "{segments:?}");
    let sound = Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();
    assert!(sound.contains("nothing is damaged"), "{sound}");

    for round in 0..6 {
        let damaged = &segments[rng.usize(..segments.len())];
        let good = std::fs::read(damaged).unwrap();
        // Anywhere; and at the very end, where the seal is.
        let offset = if round == 0 { good.len() - 1 } else { rng.usize(..good.len()) };
        let mut bytes = good.clone();
        bytes[offset] ^= 1 << rng.u32(..8);
        std::fs::write(damaged, &bytes).unwrap();
        check_damage_is_told(&place, damaged, offset);
        assert_eq!(std::fs::read(damaged).unwrap(), bytes, "nothing was touched");
        std::fs::write(damaged, good).unwrap();
    }
    // In the space behind them it looks like a frame of the next start that a power cut has torn.
    let mut bytes = std::fs::read(&claimed).unwrap();
    let offset = rng.usize(..bytes.len());
    bytes[offset] ^= 1 << rng.u32(..8);
    std::fs::write(&claimed, bytes).unwrap();
    let torn = Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();
    assert!(torn.contains("torn frame at byte 0"), "byte {offset}: {torn}");
    // Put right again, it starts, and everything is there.
    let host = place.start();
    assert_eq!(host.http.events("").len(), 3000);
    host.stop();
}

fn check_damage_is_told(place: &Place, damaged: &Path, offset: usize) {
    let path = damaged.display().to_string();
    let verify = Cli::new(&["log", "verify"]).arg(place.data()).run();
    assert_eq!(verify.code, 1, "byte {offset} of {path}: {verify:?}");
    assert!(verify.stdout.contains(&format!("{path} at byte ")), "{verify:?}");

    let refused = place.start_refused();
    assert_eq!(refused.code, 1, "{refused:?}");
    let said = &refused.stderr;
    let name = damaged.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name), "byte {offset} of {name}: {said}");
    assert!(said.contains("byte"), "{said}");
    assert!(said.contains("tidegate log verify"), "what to do next: {said}");
}

#[test]
fn what_a_kill_left_half_written_is_cut_back_and_told() {
    let place = Place::new();
    let host = place.start();
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.kill();
    let whole = std::fs::read(&place.segments("main")[0]).unwrap();
    let host = place.start();
    host.http.publish(&[event("a.b", "2", Some("k"), json!("lost"))]);
    host.kill();
    // As if the last write had only begun: its first half is there.
    let segment = place.segments("main")[0].clone();
    let mut bytes = std::fs::read(&segment).unwrap();
    let from = whole.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let cut = usize::midpoint(from, last).max(last - 40);
    bytes[cut..=last].fill(0);
    std::fs::write(&segment, bytes).unwrap();

    let host = place.start();
    let events = host.http.events("");
    assert_eq!(events.len(), 1, "{events:?}");
    // It is written before the host is ready, and may be read after that.
    wait_until("a word about it", SAID_MAX, || match host.said() {
        said if said.contains("cut") => Ok(()),
        said => Err(said),
    });
    // The same event is new again, and takes the next position.
    let again = host.http.publish(&[event("a.b", "2", Some("k"), json!("again"))]);
    assert_eq!((&again[0]["duplicate"], &again[0]["sequence"]), (&json!(false), &json!(2)));
    host.stop();
    Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();
}

/// They once looked like those of a host that crashed.
#[test]
fn logs_beside_a_damaged_one_stay_stopped_in_order() {
    let place = Place::new();
    let config = Some("[buses.audit]\n[buses.main]\n".to_owned());
    let options = HostOptions { config, ..Default::default() };
    let host = place.start_with(&options);
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.stop();
    let damaged = &place.segments("main")[0];
    let good = std::fs::read(damaged).unwrap();
    let mut bytes = good.clone();
    bytes[200] ^= 1;
    std::fs::write(damaged, bytes).unwrap();
    let refused = place.start_refused_with(&options);
    assert!(refused.stderr.contains("is damaged"), "{refused:?}");
    std::fs::write(damaged, good).unwrap();
    let verified = Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();
    assert!(!verified.contains("ends open"), "{verified}");
}

#[test]
fn a_second_host_on_the_same_data_is_refused_naming_the_first() {
    let place = Place::new();
    let host = place.start();
    let refused = place.start_refused();
    assert_eq!(refused.code, 1, "{refused:?}");
    let pid = host.pid().to_string();
    assert!(refused.stderr.contains(&pid), "pid {pid}: {}", refused.stderr);
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    let verify = Cli::new(&["log", "verify"]).arg(place.data()).run();
    assert!(verify.expect_failed().contains(&pid), "an open log is not to be looked at");
    host.stop();
}

#[test]
fn offline_tools_tell_what_is_in_a_closed_log() {
    let place = Place::new();
    filled(&place);
    let stat = Cli::new(&["--output", "json", "log", "stat"]).arg(place.data()).run().json();
    assert_eq!(stat["buses"][0]["events"], 3000, "{stat}");
    let dump = Cli::new(&["log", "dump"]).arg(place.data()).run().expect_done();
    assert!(dump.lines().count() >= 3000);
    let index = place.data().join("buses/main/index");
    std::fs::remove_dir_all(&index).unwrap();
    Cli::new(&["log", "reindex"]).arg(place.data()).run().expect_done();
    assert!(index.read_dir().unwrap().count() > 0);
    let host = place.start();
    assert_eq!(host.http.events("key=k-7").len(), 30);
    host.stop();
}
