//! Old events in their newest form: for every plugin of the bus, and never in the log.

use std::fs::{remove_file, rename, write};

use serde_json::{Value, json};

use crate::harness::{Host, Place, echo, event, handler, upcaster};

/// Puts an upcaster of `order.created` from `version` to the next into the folder.
fn put_upcaster(place: &Place, name: &str, version: u32, mark: &str, lenient: bool) {
    let plugins = place.plugins();
    let manifest = format!("[upcast]\n\"order.created\" = [{version}]\n");
    write(plugins.join(format!("{name}.toml")), manifest).unwrap();
    let module = upcaster(version + 1, mark, lenient);
    write(plugins.join(format!("{name}.new")), module).unwrap();
    rename(plugins.join(format!("{name}.new")), plugins.join(format!("{name}.wasm"))).unwrap();
}

/// Puts a plugin into the folder that emits the data it is handed.
fn put_echo(place: &Place, name: &str) {
    let kind = format!("{name}.got");
    let module = handler(&kind, &echo(&kind), "");
    let manifest = "[subscribe]\ntypes = [\"order.*\"]\n[retry]\nattempts-fault = 1\n\
                    backoff = \"50ms\"\nbackoff-max = \"50ms\"\n";
    write(place.plugins().join(format!("{name}.toml")), manifest).unwrap();
    write(place.plugins().join(format!("{name}.wasm")), module).unwrap();
}

/// An order with its id as data.
fn order(id: &str, key: &str, version: Option<u32>) -> Value {
    let mut order = event("order.created", id, Some(key), json!(id));
    if let Some(version) = version {
        order["schemaversion"] = json!(version);
    }
    order
}

/// What a plugin was handed, in order.
fn got(host: &Host, name: &str) -> Vec<String> {
    let emitted = host.http.events(&format!("type={name}.got"));
    emitted.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn handlers_get_the_newest_form_and_the_log_keeps_the_old_one() {
    let place = Place::new();
    put_echo(&place, "one");
    put_echo(&place, "two");
    put_upcaster(&place, "up-1", 1, ">2", false);
    put_upcaster(&place, "up-2", 2, ">3", false);
    let host = place.start();
    let orders = [
        order("a", "k", None),
        order("b", "k", Some(1)),
        order("c", "k", Some(2)),
        order("d", "k", Some(3)),
    ];
    host.http.publish(&orders);
    let expected = ["\"a\">2>3", "\"b\">2>3", "\"c\">3", "\"d\""];
    for name in ["one", "two"] {
        host.wait_rest(name, 0);
        assert_eq!(got(&host, name), expected);
    }
    let stored = host.http.events("type=order.created");
    let shown = |event: &Value| (event["data"].clone(), event["schemaversion"].clone());
    assert_eq!(shown(&stored[0]), (json!("a"), Value::Null));
    assert_eq!(shown(&stored[2]), (json!("c"), json!("2")));
    assert_eq!(host.plugin("up-1")["module"]["exports"], json!(["upcaster"]));

    // A later upcaster holds for later deliveries.
    put_upcaster(&place, "up-2", 2, ">three", false);
    host.wait_plugin("up-2", "reloaded", |view| view["history"].as_array().unwrap().len() == 2);
    host.http.publish(&[order("e", "k", Some(1))]);
    host.wait_rest("one", 0);
    assert_eq!(got(&host, "one").last().unwrap(), "\"e\">2>three");

    // No start hands old forms over, however soon the handlers are there.
    host.kill();
    for id in ["f", "g", "h"] {
        let host = place.start();
        host.http.publish(&[order(id, "k", None)]);
        host.kill();
    }
    let host = place.start();
    for name in ["one", "two"] {
        host.wait_rest(name, 0);
        let got = got(&host, name);
        assert_eq!(got[5..], ["\"f\">2>three", "\"g\">2>three", "\"h\">2>three"]);
    }
    host.stop();
}

#[test]
fn an_event_that_cannot_be_lifted_is_a_dead_letter_of_its_receiver() {
    let place = Place::new();
    put_echo(&place, "one");
    put_upcaster(&place, "up", 1, ">2", false);
    let host = place.start();
    host.http.publish(&[order("!", "bad", Some(1)), order("a", "good", Some(1))]);
    host.wait_plugin("one", "gave up", |view| view["dead_letters"] == 1);
    let letter = host.dead_letters("one").remove(0);
    assert_eq!(letter["outcome"], "trap", "{letter}");
    let reason = letter["reason"].as_str().unwrap();
    assert_eq!(reason, "upcaster `up` cannot lift `order.created` version 1: no amount");
    host.wait_plugin("one", "handled the other key", |_| got(&host, "one") == ["\"a\">2"]);

    // Nothing is lost: once the upcaster is right, the delivery is made.
    put_upcaster(&place, "up", 1, ">2", true);
    host.wait_plugin("up", "reloaded", |view| view["history"].as_array().unwrap().len() == 2);
    host.cli(&["dead-letters", "redrive", "--plugin", "one"]).run().expect_done();
    host.wait_plugin("one", "handled it", |view| view["dead_letters"] == 0);
    host.wait_rest("one", 0);
    assert_eq!(got(&host, "one"), ["\"a\">2", "\"!\">2"]);
    host.stop();
}

#[test]
fn an_upcaster_whose_file_is_gone_is_waited_for() {
    let place = Place::new();
    put_echo(&place, "one");
    put_upcaster(&place, "up", 1, ">2", false);
    let host = place.start();
    host.http.publish(&[order("a", "k", Some(1))]);
    host.wait_rest("one", 0);
    remove_file(place.plugins().join("up.wasm")).unwrap();
    host.wait_plugin("up", "gone", |view| view["state"] == "removed");
    host.http.publish(&[order("b", "k", Some(1)), order("c", "k", Some(2))]);
    let view = host.wait_plugin("one", "says why", |view| view["last_error"].is_object());
    assert!(view["last_error"].to_string().contains("`up` does not run"), "{view}");
    // What was handed over then is not to be had, which is no difference.
    let run = host.cli(&["plugins", "diff", "one", "--output", "json"]).run();
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    let counts = ["equal", "different", "not_replayable"].map(|name| found[name].as_u64());
    assert_eq!((run.code, counts), (1, [Some(0), Some(0), Some(1)]), "{found}");
    assert!(found["obstacles"].to_string().contains("upcaster does not run"), "{found}");
    host.stop();

    let host = place.start();
    host.wait_plugin("one", "waits still", |view| view["last_error"].is_object());
    assert_eq!(got(&host, "one"), ["\"a\">2"]);
    put_upcaster(&place, "up", 1, ">two", false);
    host.wait_rest("one", 0);
    assert_eq!(got(&host, "one"), ["\"a\">2", "\"b\">two", "\"c\""]);
    host.stop();
}

#[test]
fn one_type_and_version_is_lifted_by_one_plugin_alone() {
    let place = Place::new();
    put_upcaster(&place, "up", 1, ">2", false);
    let host = place.start();
    host.wait_plugin("up", "live", |view| view["state"] == "live");
    put_upcaster(&place, "again", 1, ">2", true);
    let view = host.wait_plugin("again", "refused", |view| view["state"] == "refused");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("version 1, which `up` lifts already"), "{reason}");
    write(place.plugins().join("deaf.toml"), "[upcast]\n\"a.b\" = [1]\n").unwrap();
    write(place.plugins().join("deaf.wasm"), handler("a.c", "", "")).unwrap();
    let view = host.wait_plugin("deaf", "refused", |view| view["state"] == "refused");
    assert!(view["reason"].as_str().unwrap().contains("exports no `upcaster`"), "{view}");

    // It was told what to do, and that is all there is to do.
    write(place.plugins().join("up.toml"), "[upcast]\n\"order.created\" = [2]\n").unwrap();
    host.wait_plugin("again", "live", |view| view["state"] == "live");
    put_upcaster(&place, "third", 1, ">third", true);
    host.wait_plugin("third", "refused", |view| view["state"] == "refused");
    for file in ["again.toml", "again.wasm"] {
        remove_file(place.plugins().join(file)).unwrap();
    }
    host.wait_plugin("again", "removed", |view| view["state"] == "removed");
    host.cli(&["plugins", "forget", "again"]).run().expect_done();
    host.wait_plugin("third", "live", |view| view["state"] == "live");
    host.stop();
}
