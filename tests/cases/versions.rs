//! What operators do to plugins, and that it outlives a restart.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::event::Digest;

use crate::harness::{Host, Place, emitter, event, handler, wait_until};

fn version(number: usize) -> Vec<u8> {
    let kind = format!("seen.{number}");
    handler(&kind, &emitter(&kind), "")
}

fn digest(number: usize) -> Value {
    Digest::of(&version(number)).to_string().into()
}

fn put(plugins: &Path, name: &str, number: usize) {
    std::fs::write(plugins.join(format!("{name}.wasm")), version(number)).unwrap();
}

fn publish(host: &Host, ids: &[&str]) {
    let events: Vec<_> = ids.iter().map(|id| event("a.b", id, Some("k"), json!(1))).collect();
    host.http.publish(&events);
}

/// (version, input) of everything that was handled, in order.
fn handled(host: &Host) -> Vec<(String, String)> {
    let emitted = host.http.events("type=seen.*");
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    emitted.iter().map(|event| (text(event, "type"), text(event, "data"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect()
}

fn wait_live(host: &Host, name: &str, number: usize) -> Value {
    let digest = digest(number);
    host.wait_plugin(name, "live on its module", |view| {
        view["state"] == "live" && view["module"]["digest"] == digest
    })
}

#[test]
fn a_renamed_file_waits_until_the_plugin_is_renamed_and_goes_on_where_it_was() {
    let place = Place::new();
    put(&place.plugins(), "old", 1);
    let host = place.start();
    publish(&host, &["1"]);
    host.wait_rest("old", 0);
    let instance = host.plugin("old")["instance"].clone();

    std::fs::rename(place.plugins().join("old.wasm"), place.plugins().join("new.wasm")).unwrap();
    let waiting = host.wait_plugin("new", "waits", |view| view["state"] == "waiting");
    assert!(waiting["reason"].as_str().unwrap().contains("plugins rename old new"), "{waiting}");
    assert_eq!(host.plugin("old")["state"], "removed");
    publish(&host, &["2"]);

    host.cli(&["plugins", "rename", "old", "new"]).run().expect_done();
    let renamed = wait_live(&host, "new", 1);
    assert_eq!(renamed["instance"], instance);
    host.wait_rest("new", 0);
    assert_eq!(handled(&host), pairs(&[("seen.1", "1"), ("seen.1", "2")]));
    assert_eq!(host.http.get("/v1/plugins/old").status, 404);
    host.stop();

    let host = place.start();
    assert_eq!(host.plugin("new")["instance"], instance);
    host.wait_rest("new", 0);
    assert_eq!(handled(&host).len(), 2);
    host.stop();
}

#[test]
fn a_renamed_file_may_also_become_a_plugin_of_its_own() {
    let place = Place::new();
    put(&place.plugins(), "old", 1);
    let host = place.start();
    publish(&host, &["1"]);
    host.wait_rest("old", 0);
    std::fs::rename(place.plugins().join("old.wasm"), place.plugins().join("new.wasm")).unwrap();
    host.wait_plugin("new", "waits", |view| view["state"] == "waiting");
    host.cli(&["plugins", "resume", "new"]).run().expect_done();
    let view = wait_live(&host, "new", 1);
    assert_ne!(view["instance"], host.plugin("old")["instance"]);
    host.wait_rest("new", 0);
    // From the beginning of the log: the same input, handled by another plugin.
    assert_eq!(handled(&host), pairs(&[("seen.1", "1"), ("seen.1", "1")]));
    host.stop();
}

#[test]
fn a_changed_manifest_holds_from_where_it_was_changed() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let manifest = place.plugins().join("seen.toml");
    std::fs::write(&manifest, "description = \"first\"\n").unwrap();
    let host = place.start();
    publish(&host, &["1"]);
    host.wait_rest("seen", 0);
    std::fs::write(&manifest, "description = \"second\"\n[subscribe]\ntypes = [\"c.d\"]\n")
        .unwrap();
    host.wait_plugin("seen", "has the new manifest", |view| view["description"] == "second");
    publish(&host, &["2"]);
    host.http.publish(&[event("c.d", "3", Some("k"), json!(1))]);
    host.wait_rest("seen", 0);
    assert_eq!(handled(&host), pairs(&[("seen.1", "1"), ("seen.1", "3")]));

    // One that makes no sense leaves the last one in force.
    std::fs::write(&manifest, "[subscribe]\ntipes = []\n").unwrap();
    let refused = host.wait_plugin("seen", "says what is wrong", |view| {
        view.to_string().contains("did you mean `subscribe.types`?")
    });
    assert_eq!(refused["description"], "second", "{refused}");
    host.http.publish(&[event("c.d", "4", Some("k"), json!(1))]);
    host.wait_rest("seen", 0);
    assert_eq!(handled(&host).len(), 3);
    host.stop();
}

#[test]
fn a_rollback_holds_across_a_restart_until_the_file_changes() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    publish(&host, &["1"]);
    put(&place.plugins(), "seen", 2);
    wait_live(&host, "seen", 2);
    publish(&host, &["2"]);
    host.wait_rest("seen", 0);

    host.cli(&["plugins", "rollback", "seen"]).run().expect_done();
    let back = wait_live(&host, "seen", 1);
    assert_eq!(back["module"]["pinned"], true, "{back}");
    publish(&host, &["3"]);
    host.wait_rest("seen", 0);
    host.kill();

    let host = place.start();
    let back = wait_live(&host, "seen", 1);
    assert_eq!(back["module"]["pinned"], true, "{back}");
    publish(&host, &["4"]);
    host.wait_rest("seen", 0);
    put(&place.plugins(), "seen", 3);
    let next = wait_live(&host, "seen", 3);
    assert_eq!(next["module"]["pinned"], false, "{next}");
    publish(&host, &["5"]);
    host.wait_rest("seen", 0);
    let expected =
        [("seen.1", "1"), ("seen.2", "2"), ("seen.1", "3"), ("seen.1", "4"), ("seen.3", "5")];
    assert_eq!(handled(&host), pairs(&expected));
    host.stop();
}

/// Nothing told such an activation from one that leaves the pin alone.
#[test]
fn a_rollback_ends_also_where_the_file_becomes_the_module_it_went_back_to() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    let pinned = |host: &Host, number: usize, is: bool| {
        host.wait_plugin("seen", "live, pinned or not", |view| {
            let module = &view["module"];
            view["state"] == "live" && module["digest"] == digest(number) && module["pinned"] == is
        });
    };
    let roll_back = |host: &Host| {
        put(&place.plugins(), "seen", 2);
        pinned(host, 2, false);
        host.cli(&["plugins", "rollback", "seen"]).run().expect_done();
        pinned(host, 1, true);
    };
    roll_back(&host);
    put(&place.plugins(), "seen", 1);
    pinned(&host, 1, false);

    // The same where the file changes while no host runs.
    roll_back(&host);
    host.stop();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    pinned(&host, 1, false);
    host.stop();
    let host = place.start();
    pinned(&host, 1, false);
    put(&place.plugins(), "seen", 2);
    pinned(&host, 2, false);
    host.stop();
}

/// It put the refused manifest in force on the old state, and what came next was taken without a rewind.
#[test]
fn a_rollback_is_no_way_around_the_version_of_the_state() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    put(&place.plugins(), "seen", 2);
    wait_live(&host, "seen", 2);
    let refused = |host: &Host, count: usize| {
        host.wait_plugin("seen", "says what to do", |view| {
            let tried = view["history"].as_array().unwrap().iter();
            let refused = tried.filter(|tried| tried["result"] == "refused").count();
            refused == count && view["last_error"].to_string().contains("plugins rewind seen")
        })
    };
    std::fs::write(place.plugins().join("seen.toml"), "[run]\nstate-version = 2\n").unwrap();
    refused(&host, 1);
    host.cli(&["plugins", "rollback", "seen"]).run().expect_done();
    let back = wait_live(&host, "seen", 1);
    assert!(back["manifest"].as_str().unwrap().contains("state-version = 1"), "{back}");
    put(&place.plugins(), "seen", 3);
    let view = refused(&host, 2);
    assert_eq!(view["module"]["digest"], digest(1), "{view}");
    host.stop();
}

#[test]
fn what_served_goes_on_across_a_restart_where_the_folder_has_nothing_to_take_its_place() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let module = place.plugins().join("seen.wasm");
    let manifest = place.plugins().join("seen.toml");
    let host = place.start();
    publish(&host, &["1"]);
    host.wait_rest("seen", 0);
    let of_one = host.plugin("seen")["instance"].clone();
    std::fs::write(&module, &version(2)[..200]).unwrap();
    host.wait_plugin("seen", "says what is wrong", |view| !view["last_error"].is_null());
    host.kill();

    // A module that is none, and a manifest that makes no sense.
    let host = place.start();
    let view = wait_live(&host, "seen", 1);
    assert_eq!(view["instance"], of_one);
    assert!(!view["last_error"].is_null(), "{view}");
    publish(&host, &["2"]);
    host.wait_rest("seen", 0);
    host.stop();
    put(&place.plugins(), "seen", 2);
    std::fs::write(&manifest, "[subscribe]\ntipes = []\n").unwrap();
    let host = place.start();
    let view = wait_live(&host, "seen", 1);
    assert!(view["last_error"].to_string().contains("did you mean"), "{view}");
    publish(&host, &["3"]);
    host.wait_rest("seen", 0);
    for words in [["forget", "seen"].as_slice(), &["rename", "seen", "other"]] {
        let refused = host.cli(&[&["plugins"], words].concat()).run().expect_failed();
        assert!(refused.contains("the file of `seen` is there"), "{refused}");
    }

    std::fs::remove_file(&manifest).unwrap();
    wait_live(&host, "seen", 2);
    publish(&host, &["4"]);
    host.wait_rest("seen", 0);
    let expected = [("seen.1", "1"), ("seen.1", "2"), ("seen.1", "3"), ("seen.2", "4")];
    assert_eq!(handled(&host), pairs(&expected));
    // What was taken away is not brought back.
    std::fs::remove_file(&module).unwrap();
    host.wait_plugin("seen", "removed", |view| view["state"] == "removed");
    std::fs::write(&module, b"nothing").unwrap();
    host.wait_plugin("seen", "refused", |view| view["state"] == "refused");
    host.stop();
}

/// A start had nothing to compare with, and let the refused version serve.
#[test]
fn a_version_that_its_trial_refused_does_not_serve_after_a_restart() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    std::fs::write(place.plugins().join("seen.toml"), "[run]\nshadow = 1\n").unwrap();
    let host = place.start();
    publish(&host, &["1"]);
    host.wait_rest("seen", 0);
    let refused = |host: &Host, id: &str| {
        host.wait_plugin("seen", "runs the new one beside", |view| {
            view["reason"].as_str().is_some_and(|reason| reason.contains("shadow 0/1"))
        });
        publish(host, &[id]);
        let view = host.wait_plugin("seen", "refused", |view| {
            view["history"][0]["result"] == "refused" && view["reason"].is_null()
        });
        assert_eq!(view["module"]["digest"], digest(1), "{view}");
        host.wait_rest("seen", 0);
    };
    put(&place.plugins(), "seen", 2);
    refused(&host, "2");
    host.stop();

    let host = place.start();
    assert_eq!(host.plugin("seen")["module"]["digest"], digest(1));
    refused(&host, "3");
    assert_eq!(handled(&host), pairs(&[("seen.1", "1"), ("seen.1", "2"), ("seen.1", "3")]));

    // One that nobody wants to compare serves at the start.
    host.stop();
    std::fs::write(place.plugins().join("seen.toml"), "").unwrap();
    let host = place.start();
    wait_live(&host, "seen", 2);
    host.stop();
}

/// With what served before gone, the next change of a file that was refused let it serve.
#[test]
fn a_version_that_cannot_be_compared_stays_refused_until_nobody_wants_to_compare_it() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let manifest = place.plugins().join("seen.toml");
    std::fs::write(&manifest, "[run]\nshadow = 1\n").unwrap();
    let host = place.start();
    wait_live(&host, "seen", 1);
    host.stop();
    put(&place.plugins(), "seen", 2);
    let kept = format!("{}.wasm", digest(1).as_str().unwrap());
    std::fs::remove_file(place.data().join("modules").join(kept)).unwrap();

    let host = place.start();
    let refused = |number: usize| {
        host.wait_plugin("seen", "refused", |view| {
            view["state"] == "refused" && view["history"][0]["digest"] == digest(number)
        });
    };
    refused(2);
    put(&place.plugins(), "seen", 3);
    refused(3);
    std::fs::write(&manifest, "").unwrap();
    wait_live(&host, "seen", 3);
    host.stop();
}

#[test]
fn a_paused_plugin_stays_paused_across_a_restart_until_it_is_resumed() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    host.cli(&["plugins", "pause", "seen", "--reason", "the tide is out"]).run().expect_done();
    let paused = host.plugin("seen");
    assert_eq!(
        (&paused["state"], &paused["reason"]),
        (&json!("paused"), &json!("the tide is out"))
    );
    publish(&host, &["1"]);
    host.stop();

    let host = place.start();
    assert_eq!(host.plugin("seen")["state"], "paused");
    publish(&host, &["2"]);
    assert_eq!(handled(&host), []);
    host.cli(&["plugins", "resume", "seen"]).run().expect_done();
    host.wait_rest("seen", 0);
    assert_eq!(handled(&host), pairs(&[("seen.1", "1"), ("seen.1", "2")]));
    host.stop();
}

#[test]
fn a_plugin_is_forgotten_only_once_its_file_is_gone() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    publish(&host, &["1"]);
    host.wait_rest("seen", 0);
    let refused = host.cli(&["plugins", "forget", "seen"]).run().expect_failed();
    assert!(refused.contains("seen.wasm") && refused.contains("remove it first"), "{refused}");
    std::fs::remove_file(place.plugins().join("seen.wasm")).unwrap();
    host.wait_plugin("seen", "removed", |view| view["state"] == "removed");
    host.cli(&["plugins", "forget", "seen"]).run().expect_done();
    assert_eq!(host.http.get("/v1/plugins/seen").status, 404);
    host.stop();

    // Nobody remembers it: the same file is a new plugin, and begins at the beginning.
    let host = place.start();
    put(&place.plugins(), "seen", 1);
    wait_live(&host, "seen", 1);
    host.wait_rest("seen", 0);
    assert_eq!(handled(&host), pairs(&[("seen.1", "1"), ("seen.1", "1")]));
    host.stop();
}

#[test]
fn nothing_follows_from_a_missing_file_before_the_folder_was_read() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    publish(&host, &["1"]);
    host.wait_rest("seen", 0);
    host.kill();
    // What takes a while to be read, and is no module in the end.
    for number in 0..8 {
        let large = std::fs::File::create(place.plugins().join(format!("large-{number}.wasm")));
        large.unwrap().set_len(60 << 20).unwrap();
    }
    let view = place.first_answer("GET", "/v1/plugins/seen").expect_ok();
    assert_ne!(view["state"], "removed", "{view}");
    let forgotten = place.first_answer("DELETE", "/v1/plugins/seen");
    assert_eq!(forgotten.status, 409, "{}", forgotten.code());
    let host = place.start();
    host.wait_rest("seen", 0);
    assert_eq!(handled(&host), pairs(&[("seen.1", "1")]));
    host.stop();
}

#[test]
fn a_second_source_for_a_name_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    put(&place.plugins(), "seen", 1);
    let host = place.start();
    let folder = place.plugins().join("seen");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("seen.wasm"), version(2)).unwrap();
    wait_until("the second source is told of", Duration::from_secs(60), || {
        let listed = host.cli(&["plugins", "list"]).run().expect_done();
        if listed.contains("`seen` is the plugin in") { Ok(()) } else { Err(listed) }
    });
    wait_live(&host, "seen", 1);
    publish(&host, &["1"]);
    host.wait_rest("seen", 0);
    assert_eq!(handled(&host), pairs(&[("seen.1", "1")]));
    host.stop();
}
