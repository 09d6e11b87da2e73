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

/// A client that goes on with it passed over as many events as the log had lost.
#[test]
fn a_cursor_beyond_the_end_of_the_log_is_refused() {
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    go_on(&place, "both", &["k"]);
    let before = place.path().join("before");
    copy_folder(&place.data(), &before);
    let host = place.start();
    let events: Vec<_> = (0..5).map(|n| event("a.b", &format!("e-{n}"), None, json!(n))).collect();
    host.http.publish(&events);
    let page = host.http.get("/v1/events?limit=5");
    let cursor = page.header("tidegate-cursor").unwrap().to_owned();
    assert_eq!(host.http.get(&format!("/v1/events?cursor={cursor}")).status, 200);
    host.stop();

    put_back(&before, &place.data());
    let host = place.start();
    let page = host.http.get(&format!("/v1/events?cursor={cursor}"));
    let headers = [("last-event-id", &*cursor)];
    let stream = host.http.send("GET", "/v1/events/stream", &headers, &[]).unwrap();
    for answer in [page, stream] {
        assert_eq!((answer.status, answer.code()), (422, "invalid_field".to_owned()));
    }
    host.stop();
}

/// Whoever remembers ids of what came of lost events, and keys of calls, must not take the new ones for them.
#[test]
fn what_comes_of_events_that_take_the_place_of_lost_ones_has_other_ids() {
    let place = Place::new();
    put(Sources::ORDER_SAGA, &place.plugins());
    place.start().stop();
    let before = place.path().join("before");
    copy_folder(&place.data(), &before);
    let emitted = |order: &str| {
        let host = place.start();
        let data = json!({ "sku": order, "quantity": 1, "amount": 40 });
        host.http.publish(&[event("order.created", order, Some(order), data)]);
        host.wait_rest("order-saga", 0);
        let events = host.http.events("source=/tidegate/main/order-saga");
        host.stop();
        let id = |event: &serde_json::Value| (event["position"].clone(), event["id"].clone());
        id(events.first().expect("it emits an event"))
    };
    let lost = emitted("o-1");
    put_back(&before, &place.data());
    let new = emitted("o-2");
    assert_eq!(lost.0, new.0);
    assert_ne!(lost.1, new.1);
}
