//! What operators ask of a plugin while a delivery of it takes its time.

use std::fs::{remove_file, rename, write};

use serde_json::{Value, json};

use crate::harness::{Host, Place, Raw, emitter, event, handler};

/// Emits `seen.it` with the id of the input, and takes seconds for it where that begins with `s`.
fn slow() -> Vec<u8> {
    let body = format!(
        "(if (i32.eq (i32.load8_u (i32.load (local.get $event))) (i32.const 115)) (then
           (local.set $i (i32.const 2000000000))
           (loop $on (br_if $on (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))))
         {}",
        emitter("seen.it")
    );
    handler("seen.it", &body, "")
}

/// A host whose plugin `old` is at work on the event `s-1`.
fn busy(place: &Place) -> Host {
    let limits = "[limits]\nfuel = 1_000_000_000_000\ntimeout = \"2m\"\n";
    write(place.plugins().join("old.wasm"), slow()).unwrap();
    write(place.plugins().join("old.toml"), limits).unwrap();
    let host = place.start();
    publish(&host, "s-1");
    host.wait_plugin("old", "at work", |view| view["in_flight"] == 1);
    host
}

fn publish(host: &Host, id: &str) {
    host.http.publish(&[event("a.b", id, Some("k"), json!(1))]);
}

/// How often an input was answered.
fn answered(host: &Host, id: &str) -> usize {
    host.http.events("type=seen.it").iter().filter(|event| event["data"] == id).count()
}

/// Whether the plugin has a runner.
fn runs(view: &Value) -> bool {
    !view["manifest"].is_null()
}

/// The old runner once went on under the old name, beside the one under the new name.
#[test]
fn a_plugin_renamed_before_its_runner_was_stopped_runs_once() {
    let place = Place::new();
    let host = busy(&place);
    let http = host.http.clone();
    let rewind = std::thread::spawn(move || http.post("/v1/plugins/old/rewind", "text/plain", b""));
    host.wait_plugin("old", "stopped for its rewind", |view| !runs(view));
    // In turn: the rewind, the new name, and what comes of the file that is gone.
    let http = host.http.clone();
    let renaming =
        std::thread::spawn(move || http.post("/v1/plugins/old/rename?to=new", "text/plain", b""));
    for end in ["wasm", "toml"] {
        let file = |name: &str| place.plugins().join(format!("{name}.{end}"));
        rename(file("old"), file("new")).unwrap();
    }
    assert_eq!(rewind.join().unwrap().status, 200);
    if renaming.join().unwrap().status != 200 {
        // It came too early, and the file was there.
        host.wait_plugin("new", "waits", |view| view["state"] == "waiting");
        host.cli(&["plugins", "rename", "old", "new"]).run().expect_done();
    }
    host.wait_plugin("new", "live", |view| view["state"] == "live");
    publish(&host, "e-2");
    host.wait_rest("new", 0);
    assert_eq!((answered(&host, "s-1"), answered(&host, "e-2")), (1, 1));
    host.stop();
}

/// The entry of what was forgotten went with all it had, the file that had just come back too: it was in
/// the folder, and no plugin.
#[test]
fn a_file_that_comes_back_while_its_plugin_is_forgotten_is_a_new_plugin() {
    let place = Place::new();
    let host = busy(&place);
    let http = host.http.clone();
    let rewind = std::thread::spawn(move || http.post("/v1/plugins/old/rewind", "text/plain", b""));
    host.wait_plugin("old", "stopped for its rewind", |view| !runs(view));
    // In turn: the rewind, this, and what comes of the file that is gone.
    let http = host.http.clone();
    let forget = std::thread::spawn(move || http.send("DELETE", "/v1/plugins/old", &[], b""));
    let file = place.plugins().join("old.wasm");
    remove_file(&file).unwrap();
    host.wait_plugin("old", "without its file", |view| view["file"].is_null());
    assert_eq!(rewind.join().unwrap().status, 200);
    write(&file, slow()).unwrap();
    let forgotten = forget.join().unwrap().unwrap();
    assert!(forgotten.status < 300, "{forgotten:?}");
    let view = host.wait_plugin("old", "live", |view| view["state"] == "live");
    assert_eq!((&view["instance"], &view["generation"]), (&json!(2), &json!(0)), "{view}");
    host.stop();
}

/// The runner was stopped, and nobody was left to start the next one.
#[test]
fn a_rewind_goes_on_where_its_client_leaves() {
    let place = Place::new();
    let host = busy(&place);
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let len = u8::try_from(payload.len()).unwrap();
        [&[0, 0, len, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // Over HTTP/2 by hand: settings, and a POST of `http` at `localhost` without a body.
    let request = b"\x83\x86\x04\x16/v1/plugins/old/rewind\x41\x09localhost";
    let mut client = Raw::connect(&host);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client.write(&[preface, &*frame(4, 0, 0, &[]), &frame(1, 5, 1, request)].concat());
    host.wait_plugin("old", "stopped for its rewind", |view| !runs(view));
    drop(client);
    host.wait_plugin("old", "rewound", |view| runs(view) && view["generation"] == 1);
    publish(&host, "e-2");
    host.wait_rest("old", 0);
    assert_eq!((answered(&host, "s-1"), answered(&host, "e-2")), (1, 1));
    host.stop();
}
