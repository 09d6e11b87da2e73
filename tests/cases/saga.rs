//! A choreography of plugins that know nothing of each other.

use serde_json::{Value, json};

use crate::harness::{Host, Place, Sources, event, put};

fn order(id: &str, amount: u64) -> Value {
    let data = json!({ "sku": "lamp", "quantity": 1, "amount": amount });
    event("order.created", id, Some(id), data)
}

fn story(host: &Host, key: &str) -> Vec<String> {
    let events = host.http.events(&format!("key={key}"));
    events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

const PAID: [&str; 3] = ["order.created", "inventory.reserved", "payment.processed"];
const UNPAID: [&str; 5] = [
    "order.created",
    "inventory.reserved",
    "payment.failed",
    "inventory.released",
    "order.cancelled",
];

#[test]
fn orders_go_through_stock_and_payment_or_are_undone_step_by_step() {
    let place = Place::new();
    put(Sources::ORDER_SAGA, &place.plugins());
    put(Sources::NOTIFY, &place.plugins());
    let host = place.start();
    let orders: Vec<Value> =
        (0..100).map(|n| order(&format!("o-{n}"), if n % 4 == 0 { 5000 } else { 40 })).collect();
    let answers = host.http.publish(&orders);
    host.wait_rest("order-saga", 0);
    host.wait_rest("notify", 0);
    // At rest means everybody: one may have made work for the other meanwhile.
    host.wait_rest("order-saga", 0);

    for n in 0..100 {
        let key = format!("o-{n}");
        let (expected, status): (&[&str], _) =
            if n % 4 == 0 { (&UNPAID, "\"cancelled\"") } else { (&PAID, "\"paid\"") };
        assert_eq!(story(&host, &key), expected, "{key}");
        assert_eq!(host.state("order-saga", &key, "status").as_deref(), Some(status), "{key}");
    }
    let requested = host.http.events("type=notification.requested");
    assert_eq!(requested.len(), 100);
    assert!(requested.iter().all(|event| event["partitionkey"] == "mail"));
    assert!(host.dead_letters("order-saga").is_empty());

    // One tree of causes and consequences, and one correlation through all of it.
    let position = answers[0]["position"].to_string();
    let tree = host.cli(&["--output", "json", "events", "tree", &position]).run().json();
    let kinds: Vec<_> =
        tree["events"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    for kind in UNPAID.iter().chain(&["notification.requested"]) {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    let steps = host.http.events("key=o-0");
    assert!(steps[1..].iter().all(|step| step["correlationid"] == "o-0"), "{steps:?}");
    for pair in steps.windows(2) {
        assert_eq!(pair[1]["causationid"], pair[0]["id"]);
    }
    host.stop();
}

#[test]
fn a_killed_choreography_goes_on_where_it_stood() {
    let place = Place::new();
    put(Sources::ORDER_SAGA, &place.plugins());
    let host = place.start();
    let orders: Vec<Value> = (0..500).map(|n| order(&format!("o-{n}"), 5000)).collect();
    host.http.publish(&orders);
    // The sagas have just begun.
    host.kill();
    let host = place.start();
    host.wait_rest("order-saga", 0);
    for n in 0..500 {
        assert_eq!(story(&host, &format!("o-{n}")), UNPAID, "o-{n}");
    }
    assert!(host.dead_letters("order-saga").is_empty());
    host.stop();
}
