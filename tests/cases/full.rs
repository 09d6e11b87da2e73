//! A disk without room, as far as that can be had without one: the host is to keep more free than
//! there is. `full_disk.rs` fills real ones. And a host that begins with few files that it may open.

use std::net::TcpStream;

use serde_json::json;

use crate::harness::{HostOptions, OpenFiles, Place, emitter, event, handler};

const NO_ROOM: &str = "[buses.main]\nkeep-free = \"1000000GiB\"\n";

#[test]
fn without_room_publishers_and_commands_are_refused_and_reads_go_on() {
    let place = Place::new();
    let done = handler("thing.done", &emitter("thing.done"), "");
    std::fs::write(place.plugins().join("done.wasm"), done).unwrap();
    let manifest = "[subscribe]\ntypes = [\"thing.begun\"]\n";
    std::fs::write(place.plugins().join("done.toml"), manifest).unwrap();
    let one = |id: &str| event("thing.begun", id, Some("k"), json!(1));
    let host = place.start();
    host.http.publish(&[one("1"), one("2")]);
    host.wait_rest("done", 0);
    host.stop();

    let config = Some(NO_ROOM.to_owned());
    let host = place.start_with(&HostOptions { config, ..HostOptions::default() });
    let body = serde_json::to_vec(&one("3")).unwrap();
    for _ in 0..3 {
        let refused = host.http.post("/v1/events", "application/cloudevents+json", &body);
        assert_eq!((refused.status, &*refused.code()), (507, "storage_full"), "{refused:?}");
    }
    let said = host.cli(&["publish", "thing.begun", "--key", "k"]).run();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("storage_full") || said.stderr.contains("disk"), "{said:?}");
    assert_eq!(host.http.get("/v1/buses").expect_ok()["buses"][0]["state"], "storage_full");
    assert_eq!(host.http.events("type=thing.done").len(), 2);
    assert_eq!(host.http.get("/readyz").status, 200);
    assert_eq!(host.plugin("done")["state"], "live");
    assert_eq!(host.metric("tidegate_dead_letters", &[("plugin", "done")]), 0);
    // Who reads is not cut off by an operator's word that cannot be written down either.
    let paused = host.http.post("/v1/plugins/done/pause", "application/json", b"");
    assert_eq!((paused.status, &*paused.code()), (507, "storage_full"), "{paused:?}");
    host.stop();

    let config = Some(String::new());
    let host = place.start_with(&HostOptions { config, ..HostOptions::default() });
    host.http.publish(&[one("3")]);
    host.wait_rest("done", 0);
    assert_eq!(host.http.events("type=thing.done").len(), 3);
    host.stop();
}

#[test]
fn a_module_that_could_not_be_kept_serves_once_it_can_be() {
    let place = Place::new();
    let host = place.start();
    let (modules, away) = (place.data().join("modules"), place.data().join("away"));
    std::fs::rename(&modules, &away).unwrap();
    std::fs::write(&modules, "in the way").unwrap();
    let done = handler("thing.done", &emitter("thing.done"), "");
    std::fs::write(place.plugins().join("done.wasm"), done).unwrap();
    let refused = host.wait_plugin("done", "refused", |view| view["state"] == "refused");
    assert!(refused["reason"].as_str().unwrap().contains("cannot be kept"), "{refused}");
    std::fs::remove_file(&modules).unwrap();
    std::fs::rename(&away, &modules).unwrap();
    let live = host.wait_plugin("done", "live", |view| view["state"] == "live");
    let reloads = live["history"].as_array().unwrap();
    let results: Vec<_> = reloads.iter().map(|reload| &reload["result"]).collect();
    assert_eq!(results, ["ok", "refused"], "{live}");
    host.stop();
}

#[test]
fn clients_and_segments_do_not_use_up_the_files_that_a_log_needs() {
    let place = Place::new();
    let config = Some("[buses.main]\nsegment = \"4MiB\"\n".to_owned());
    let few =
        HostOptions { config, open_files: Some(OpenFiles::AtFirst(64)), ..HostOptions::default() };
    let host = place.start_with(&few);
    let address = host.url().trim_start_matches("http://").to_owned();
    let _clients: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let payload = "x".repeat(1_000_000);
    for id in 0..10 {
        host.http.publish(&[event("thing.begun", &format!("{id}"), Some("k"), json!(payload))]);
    }
    assert!(place.segments("main").len() > 1);
    host.stop();
}

#[test]
fn a_long_log_needs_no_more_files_than_a_short_one() {
    let place = Place::new();
    let config = Some("[buses.main]\nsegment = \"4MiB\"\n".to_owned());
    let few =
        HostOptions { config, open_files: Some(OpenFiles::Ever(40)), ..HostOptions::default() };
    let host = place.start_with(&few);
    let payload = "x".repeat(1_000_000);
    for id in 0..150 {
        host.http.publish(&[event("thing.begun", &format!("{id}"), Some("k"), json!(payload))]);
    }
    assert!(place.segments("main").len() > 30);
    host.stop();
    let host = place.start_with(&few);
    for position in [1, 70, 140] {
        assert_eq!(host.http.get(&format!("/v1/events/{position}")).status, 200, "{position}");
    }
    host.stop();
}
