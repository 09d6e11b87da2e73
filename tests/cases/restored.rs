//! Copies of a data folder that are put back: what was made of another history of a log is not taken for its
//! own.

use std::path::Path;

use serde_json::json;

use crate::harness::{Place, Sources, copy_folder, event, put};

/// Starts a host, has it handle an event for each of these keys, and stops it.
fn go_on(place: &Place, history: &str, keys: &[&str]) {
    let host = place.start();
    for (n, key) in keys.iter().enumerate() {
        let id = format!("{history}-{n}");
        host.http.publish(&[event("a.b", &id, Some(key), json!(n))]);
    }
    host.wait_rest("case-progress", 0);
    host.stop();
}

/// Puts a copy in the place of a folder.
fn put_back(copy: &Path, folder: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
    copy_folder(copy, folder);
}

/// It has the log's id, and no more commits than the log: its state was once believed.
#[test]
fn a_checkpoint_of_what_another_copy_of_the_log_went_on_to_is_set_aside() {
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    go_on(&place, "both", &["k-both"]);
    let copies = place.path().join("copies");
    copy_folder(&place.data(), &copies.join("before"));
    go_on(&place, "first", &["k-first", "k-first"]);
    copy_folder(&place.data(), &copies.join("first"));
    put_back(&copies.join("before"), &place.data());
    go_on(&place, "second", &["k-second", "k-second"]);

    let checkpoints = Path::new("buses/main/checkpoints");
    put_back(&copies.join("first").join(checkpoints), &place.data().join(checkpoints));
    let host = place.start();
    let events = |key| host.state("case-progress", key, "events");
    let found = ["k-both", "k-first", "k-second"].map(events);
    assert_eq!(found, [Some("1".to_owned()), None, Some("2".to_owned())]);
    assert!(host.said().contains("another history of the log"), "{}", host.said());
    host.stop();
}
