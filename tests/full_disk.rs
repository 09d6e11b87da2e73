//! Disks that are really full: a small file system in memory, and ext4 on a disk that has less room
//! than it says. (`simulated.rs` runs out of space at every single operation, without a process.)
//!
//! Needs root, `mkfs.ext4`, `mount` and a loop device:
//!
//!     cargo test -p tidegate-tests --features full-disk --test full_disk -- --nocapture

#![allow(dead_code, unused_imports, reason = "the harness has more in it than this needs")]

mod crashes;
mod harness;
mod oracle;

use std::time::Duration;

use crashes::{Mount, Series, has_lost, must_be_sound};
use harness::{Host, Place, seed, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// What is mounted has so much, at first.
const DISK_MIB: u64 = 96;
/// Bytes of an event that no leftover of a segment has room for again and again.
const LARGE: usize = 900_000;

/// Segments that are rolled often, on a small disk.
fn config(keep_free: &str) -> String {
    format!("[buses.main]\nkind = \"durable\"\nsegment = \"8MiB\"\nkeep-free = \"{keep_free}\"\n")
}

/// A series whose data are on a disk of [`DISK_MIB`].
fn small_disk(test: &str) -> (Mount, Series) {
    let rng = seed(test);
    let place = Place::new();
    let disk = Mount::memory(DISK_MIB, &place.data());
    (disk, Series::new(place, rng))
}

/// Load, until the disk has only so many bytes left.
fn fill_under_load(series: &Series, host: &Host, disk: &Mount, left_bytes: u64) {
    let load = series.load(host);
    series.wait_acknowledged(&load, 100);
    disk.fill(left_bytes);
    load.join();
}

fn bus_state(host: &Host) -> Value {
    host.http.get("/v1/buses").expect_ok()["buses"][0]["state"].clone()
}

/// Whoever only reads does not notice that the disk is full.
fn reads_go_on(host: &Host) {
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(host.http.get(path).status, 200, "{path}");
    }
    assert!(!host.http.events("type=step.taken").is_empty());
    assert_eq!(host.http.get("/v1/events/1").status, 200);
    assert_eq!(host.http.get("/v1/status").expect_ok()["buses"][0]["state"], "storage_full");
    assert_eq!(host.plugin("witness")["state"], "live");
    for path in ["keys?key=k1", "state?key=k1", "timers"] {
        assert_eq!(host.http.get(&format!("/v1/plugins/witness/{path}")).status, 200, "{path}");
    }
    assert_eq!(host.http.get("/v1/dead-letters").status, 200);
    assert_eq!(host.http.get("/v1/types").status, 200);
}

/// Publishers hear that the disk is full, each one, and at once. What is claimed may be used first.
fn refuses(series: &Series, host: &Host) {
    wait_until("publishers are refused", SOON, || match series.try_one(&host.http, LARGE) {
        Some((507, code)) if code == "storage_full" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn takes(series: &Series, host: &Host) {
    wait_until("publishers are served again", SOON, || match series.try_one(&host.http, LARGE) {
        Some((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(bus_state(host), "open");
}

#[test]
fn a_full_disk_stops_publishers_alone_and_room_brings_them_back() {
    let (disk, mut series) =
        small_disk("a_full_disk_stops_publishers_alone_and_room_brings_them_back");
    series.config = config("32MiB");
    let mut host = series.start();
    for _ in 0..3 {
        // Less than publishers need, more than deliveries do.
        fill_under_load(&series, &host, &disk, 20 << 20);
        refuses(&series, &host);
        reads_go_on(&host);
        // What was taken is delivered, and timers fire: the end of a delivery has its room.
        host.wait_rest_but_timers("witness");
        disk.make_room();
        takes(&series, &host);
        series.redrive(&host);
    }
    // Not a byte: what is in progress waits where it is.
    fill_under_load(&series, &host, &disk, 0);
    refuses(&series, &host);
    reads_go_on(&host);
    disk.make_room();
    takes(&series, &host);
    host.wait_rest_but_timers("witness");
    assert!(host.is_alive());
    let said = host.said();
    assert!(said.len() < 100 * 1024, "{} bytes in the log of the host", said.len());
    host.stop();
    must_be_sound(&series.judge(), "after the stop");
    must_be_sound(&series.finish(), "at rest");
    let (events, commits) = series.size();
    println!("a full disk, four times: {events} events acknowledged, {commits} commits");
}

#[test]
fn a_host_that_dies_on_a_full_disk_comes_back_on_it() {
    let (disk, mut series) = small_disk("a_host_that_dies_on_a_full_disk_comes_back_on_it");
    // Nothing is kept free: the log runs into the end of the disk.
    for (round, keep_free) in ["0B", "16MiB", "0B"].into_iter().enumerate() {
        series.config = config(keep_free);
        let host = series.start();
        fill_under_load(&series, &host, &disk, 0);
        refuses(&series, &host);
        if keep_free != "0B" {
            reads_go_on(&host);
        }
        host.kill();
        // Whatever the kill has let go of is taken, too.
        disk.fill(0);
        must_be_sound(&series.judge(), &format!("round {round}, killed"));
        let host = series.start();
        refuses(&series, &host);
        assert!(!host.http.events("type=step.taken").is_empty());
        assert_eq!(host.plugin("witness")["state"], "live");
        disk.make_room();
        takes(&series, &host);
        host.wait_rest_but_timers("witness");
        host.kill();
        must_be_sound(&series.judge(), &format!("round {round}, with room"));
    }
    must_be_sound(&series.finish(), "at rest");
}

#[test]
fn a_host_that_stops_on_a_full_disk_starts_on_it_again_and_again() {
    let (disk, mut series) =
        small_disk("a_host_that_stops_on_a_full_disk_starts_on_it_again_and_again");
    series.config = config("0B");
    let mut host = series.start();
    fill_under_load(&series, &host, &disk, 0);
    for round in 0..6 {
        let (status, said) = host.terminate();
        assert_eq!(status.code(), Some(0), "{said}");
        // All that the stop has let go of is taken.
        disk.fill(0);
        must_be_sound(&series.judge(), &format!("round {round}, stopped"));
        host = series.start();
        refuses(&series, &host);
        assert!(!host.http.events("type=step.taken").is_empty());
        assert_eq!(host.plugin("witness")["state"], "live");
    }
    disk.make_room();
    takes(&series, &host);
    host.wait_rest_but_timers("witness");
    host.stop();
    must_be_sound(&series.finish(), "at rest");
}

/// Ever smaller events until none is taken: not a byte of the open segment is left to who publishes.
fn use_up(host: &Host, round: usize) {
    let mut taken = 0;
    let mut bytes = LARGE;
    while bytes > 0 {
        let event = json!({
            "specversion": "1.0", "id": format!("{round}-{taken}"), "source": "/filler",
            "type": "filler", "data": "x".repeat(bytes),
        });
        let body = serde_json::to_vec(&event).unwrap();
        let headers = [("content-type", "application/cloudevents+json")];
        match host.http.send("POST", "/v1/events", &headers, &body).unwrap().status {
            200 => taken += 1,
            507 => bytes /= 2,
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_host_that_is_killed_with_its_segment_used_up_starts_on_the_full_disk() {
    let (disk, mut series) =
        small_disk("a_host_that_is_killed_with_its_segment_used_up_starts_on_the_full_disk");
    series.config = config("0B");
    let mut host = series.start();
    fill_under_load(&series, &host, &disk, 0);
    for round in 0..8 {
        use_up(&host, round);
        host.kill();
        disk.fill(0);
        must_be_sound(&series.judge(), &format!("round {round}, killed"));
        host = series.start();
        assert!(!host.http.events("type=step.taken").is_empty());
        assert_eq!(host.plugin("witness")["state"], "live");
    }
    disk.make_room();
    takes(&series, &host);
    host.wait_rest_but_timers("witness");
    host.stop();
    must_be_sound(&series.finish(), "at rest");
}

/// What the file system promised is not there: writes fail in the middle of a segment.
#[test]
fn a_disk_with_less_room_than_it_says_ends_the_host_and_nothing_acknowledged_is_lost() {
    let rng = seed("a_disk_with_less_room_than_it_says");
    let place = Place::new();
    let under = Mount::memory(DISK_MIB, &place.path().join("under"));
    let image = under.at().join("disk.img");
    let mut series = Series::new(place, rng);
    for round in 0..6 {
        let disk = Mount::ext4(&image, 1 << 30, &series.place.data());
        let mut host = series.start();
        let load = series.load(&host);
        series.wait_acknowledged(&load, 50);
        under.fill(0);
        load.join();
        // The log cannot be written: publishers and probes hear it, then the host is gone, and has
        // said why.
        wait_until("nobody takes it for ready", SOON, || {
            match host.http.send("GET", "/readyz", &[], &[]) {
                Ok(answer) if answer.status == 200 => Err("ready"),
                Ok(answer) => {
                    assert_eq!(answer.status, 503, "{answer:?}");
                    Ok(())
                }
                Err(_) => Ok(()),
            }
        });
        let (code, said) = host.wait_end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("start it again to recover"), "{said}");
        println!("round {round}: {}", said.lines().last().unwrap_or_default());
        drop(disk);
        under.make_room();
        under.resize(DISK_MIB * (round + 2));
        let disk = Mount::ext4(&image, 1 << 30, &series.place.data());
        let verdict = series.judge();
        assert!(!has_lost(&verdict), "{verdict}");
        must_be_sound(&verdict, &format!("round {round}"));
        drop(disk);
    }
    let _disk = Mount::ext4(&image, 1 << 30, &series.place.data());
    must_be_sound(&series.finish(), "at rest");
}
