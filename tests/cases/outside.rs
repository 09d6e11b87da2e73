//! Guests that ask servers with `wasi:http` and wait for the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::event::Digest;

use crate::harness::{
    Cli, Flaky, Host, HostOptions, Place, Reply, bare_guest, event, fixture, seed, wait_until,
};

const ENDED_MAX: Duration = Duration::from_secs(60);
const ASKED: usize = 60;
const KILLS: usize = 3;

/// What stands in the manifest of a plugin that may ask `host`.
fn manifest(host: &str, timeout: &str) -> String {
    format!(
        "[subscribe]\nstart = \"earliest\"\ntypes = [\"ask\"]\n\
         [limits]\ntimeout = \"{timeout}\"\n\
         [retry]\nbackoff = \"20ms\"\ngive-up-after = \"100ms\"\non-failure = \"continue\"\n\
         [grants]\nhttp = [\"{host}\"]\n"
    )
}

fn put(place: &Place, name: &str, manifest: &str) -> PathBuf {
    let file = place.plugins().join(format!("{name}.wasm"));
    std::fs::write(&file, fixture("asking-guest")).unwrap();
    std::fs::write(file.with_extension("toml"), manifest).unwrap();
    file
}

fn options(config: &str) -> HostOptions {
    HostOptions { config: Some(config.to_owned()), ..HostOptions::default() }
}

fn ask(id: &str, lines: &str) -> Value {
    let mut event = event("ask", id, Some("k"), json!(lines));
    event["datacontenttype"] = "text/plain".into();
    event
}

/// What the guest said of each of its requests, in order.
fn said(host: &Host) -> Vec<String> {
    let events = host.http.events("type=asked");
    events.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_granted_host_is_asked_and_everything_else_is_an_error_in_the_guests_hands() {
    let elsewhere = Flaky::start(|_| Reply::Status(200, ""));
    let moved: &'static str = format!("location: http://127.0.0.1:{}/\r\n", elsewhere.port).leak();
    let server = Flaky::start(move |asked| match asked.line.split(' ').nth(1) {
        Some("/moved") => Reply::Status(302, moved),
        Some("/large") => Reply::Large(2 * 1024 * 1024),
        Some("/fits") => Reply::Large(1024 * 1024),
        Some("/drop") => Reply::Drop,
        _ => Reply::Status(200, ""),
    });
    let (port, other) = (server.port, elsewhere.port);
    let place = Place::new();
    let granted = format!("127.0.0.1:{port}");
    put(&place, "asking", &manifest(&granted, "20s"));
    let config = format!("[plugins.asking]\nallow.http = [\"{granted}\"]\n");
    let host = place.start_with(&options(&config));
    let at = format!("http://{granted}");
    host.http.publish(&[
        ask("1", &format!("GET {at}/\nPOST {at}/post data\nGET {at}/moved")),
        ask("2", &format!("GET http://127.0.0.1:{other}/\nGET {at}/large\nGET {at}/drop")),
        ask("3", &format!("GET {at}/fits\nPOST {at}/ *600000\nFLOOD {at}/ 100")),
        ask("4", &format!("LEAVE {at}/left\nGET http://user@127.0.0.1:{port}/\nCONNECT {at}/")),
    ]);
    host.wait_rest("asking", 0);
    let said = said(&host);
    let fits = format!("200 {}", "x".repeat(100));
    // 600,000 bytes are more than `limits.output`; of the requests of a delivery 64 are sent, and two
    // are gone by then.
    assert_eq!(
        said[..9],
        [
            "200 ok",
            "200 ok",
            "302 ok",
            "error: ErrorCode::HttpRequestDenied",
            "error: ErrorCode::HttpResponseBodySize(None)",
            "error: ErrorCode::ConnectionRefused",
            &fits,
            "error: ErrorCode::HttpRequestBodySize(None)",
            "62 of 100",
        ]
    );
    assert_eq!(said[9..], ["200 ok", "error: ErrorCode::HttpRequestMethodInvalid"], "{said:?}");
    assert_eq!(elsewhere.count(), 0, "a redirect was followed, or an ungranted host asked");
    assert_eq!(host.plugin("asking")["dead_letters"], 0);

    let asked = server.asked();
    let post = asked.iter().find(|asked| asked.line.starts_with("POST /post")).unwrap();
    assert_eq!((post.body.as_slice(), &*post.headers["x-asked"]), (&b"data"[..], "by a guest"));
    assert_eq!(post.headers["host"], granted);
    assert!(post.headers.contains_key("idempotency-key"), "{post:?}");
    assert!(!asked[0].headers.contains_key("idempotency-key"), "a GET is safe: {asked:?}");
    let logs = host.cli(&["plugins", "logs", "asking"]).run().expect_done();
    for words in ["is not in `grants.http`", "more than 64 requests", "more than 1048576 bytes"] {
        assert!(logs.contains(words), "no `{words}` in:\n{logs}");
    }

    what_is_run_again_asks_nobody(&host, &server, &place);
    host.stop();
}

fn what_is_run_again_asks_nobody(host: &Host, server: &Flaky, place: &Place) {
    let before = server.count();
    let words = ["plugins", "diff", "asking", "--output", "json"];
    let run = host.cli(&words).run();
    assert_eq!(run.code, 1, "nothing was compared: {}", run.stderr);
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found["not_replayable"], 4, "{found}");
    assert_eq!((&found["equal"], &found["different"]), (&json!(0), &json!(0)), "{found}");
    let why = host.cli(&["plugins", "rewind", "asking"]).run().expect_failed();
    assert!(why.contains("`wasi:http`: the answers are not recorded"), "{why}");

    let file = place.path().join("event.json");
    let again = ask("9", &format!("GET http://127.0.0.1:{}/", server.port));
    std::fs::write(&file, again.to_string()).unwrap();
    let module = place.plugins().join("asking.wasm");
    let tested = Cli::new(&["test"]).arg(&module).arg("--event").arg(&file).run().expect_done();
    assert!(tested.contains("ErrorCode::HttpRequestDenied"), "{tested}");
    assert!(tested.contains("nothing is asked outside here"), "{tested}");
    assert_eq!(server.count(), before);
}

#[test]
fn a_killed_host_asks_again_with_the_same_key_and_records_each_answer_once() {
    let mut rng = seed("a_killed_host_asks_again_with_the_same_key_and_records_each_answer_once");
    let server = Flaky::start(|_| Reply::Slow(Duration::from_millis(30)));
    let place = Place::new();
    let granted = format!("127.0.0.1:{}", server.port);
    put(&place, "asking", &manifest(&granted, "20s"));
    let options = options(&format!("[plugins.asking]\nallow.http = [\"{granted}\"]\n"));
    let host = place.start_with(&options);
    let asks = |n: usize| ask(&format!("e-{n}"), &format!("POST http://{granted}/ order-{n}"));
    host.http.publish(&(0..ASKED).map(asks).collect::<Vec<_>>());
    let mut host = host;
    for kill in 1..=KILLS {
        let enough = rng.usize(ASKED * (kill - 1) / (KILLS + 1)..ASKED * kill / (KILLS + 1)) + 1;
        wait_until("some are asked", ENDED_MAX, || {
            let count = server.count();
            if count >= enough { Ok(()) } else { Err(count) }
        });
        host.kill();
        host = place.start_with(&options);
    }
    host.wait_rest("asking", 0);
    assert_eq!(said(&host), vec!["200 ok"; ASKED]);
    let mut keys: BTreeMap<Vec<u8>, BTreeSet<String>> = BTreeMap::new();
    for asked in server.asked() {
        let key = asked.headers["idempotency-key"].clone();
        keys.entry(asked.body).or_default().insert(key);
    }
    assert_eq!(keys.len(), ASKED, "every order was asked for");
    assert!(keys.values().all(|keys| keys.len() == 1), "one order, two keys: {keys:?}");
    let all: BTreeSet<&String> = keys.values().flatten().collect();
    assert_eq!(all.len(), ASKED, "two orders, one key");
    host.stop();
}

#[test]
fn a_private_address_takes_the_operators_word_and_a_hung_server_is_a_timeout() {
    let server = Flaky::start(|_| Reply::Slow(Duration::from_secs(3)));
    let place = Place::new();
    put(&place, "anywhere", &manifest("*:*", "20s"));
    put(&place, "hangs", &manifest("127.0.0.1:*", "300ms"));
    let config = "[plugins.anywhere]\nallow.http = [\"*:*\"]\n\
                  [plugins.hangs]\nallow.http = [\"127.0.0.1:*\"]\n";
    let host = place.start_with(&options(config));
    host.http.publish(&[ask("1", &format!("GET http://127.0.0.1:{}/", server.port))]);
    for name in ["anywhere", "hangs"] {
        host.wait_rest(name, 0);
    }
    assert_eq!(said(&host), ["error: ErrorCode::DestinationIpProhibited"]);
    let letters = host.dead_letters("hangs");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["outcome"], "timeout", "{letters:?}");
    let attempts = server.count();
    assert!(attempts > 0, "only the plugin that may has asked");

    // No thread that waits for it stays: they end by the deadline of their delivery.
    let threads = || {
        let names = std::fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap();
        let names =
            names.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "direct").count()
    };
    wait_until("no thread asks", ENDED_MAX, || match threads() {
        0 => Ok(()),
        some => Err(some),
    });
    host.stop();
}

#[test]
fn there_is_no_rollback_to_a_module_that_is_not_granted_what_it_needs_any_more() {
    let place = Place::new();
    let options = options("[plugins.asking]\nallow.http = [\"a.example\"]\n");
    let asking = put(&place, "asking", &manifest("a.example", "1s"));
    let host = place.start_with(&options);
    host.wait_plugin("asking", "live", |view| view["state"] == "live");
    std::fs::write(asking.with_extension("toml"), "").unwrap();
    std::fs::write(&asking, bare_guest()).unwrap();
    let serves = |host: &Host, what| {
        host.wait_plugin("asking", what, |view| {
            view["state"] == "live"
                && view["module"]["digest"] == Digest::of(&bare_guest()).to_string()
        })
    };
    serves(&host, "the other module");

    let refused = host.cli(&["plugins", "rollback", "asking"]).run().expect_failed();
    assert!(refused.contains("which needs `grants.http`"), "{refused}");
    assert_eq!(serves(&host, "the same after it")["module"]["pinned"], false);
    host.stop();
    let host = place.start_with(&options);
    assert_eq!(serves(&host, "the same after a restart")["module"]["pinned"], false);
    host.stop();
}

#[test]
fn a_module_that_asks_is_refused_until_both_sides_grant_it_and_check_says_so() {
    let place = Place::new();
    let bare = place.plugins().join("asking.wasm");
    std::fs::write(&bare, fixture("asking-guest")).unwrap();
    let host = place.start_with(&options("[plugins.asking]\nallow.http = [\"a.example\"]\n"));
    let refused = |view: &Value| view["state"] == "refused";
    let view = host.wait_plugin("asking", "refused", refused);
    let checked = Cli::new(&["check"]).arg(&bare).run();
    assert_eq!(checked.code, 1, "{}", checked.stdout);
    let checked = checked.stdout;
    for (who, words) in [("host", view.to_string()), ("check", checked)] {
        assert!(words.contains("which needs `grants.http`"), "{who}: {words}");
        assert!(words.contains("[grants] http = "), "{who}: {words}");
    }
    assert!(view.to_string().contains("[plugins.asking] allow.http"), "{view}");

    // Asked for, but not what the operator allows.
    std::fs::write(bare.with_extension("toml"), manifest("b.example", "1s")).unwrap();
    let checked = Cli::new(&["check"]).arg(&bare).run().expect_done();
    assert!(checked.contains("allow.http = [\"b.example\"]"), "{checked}");
    host.wait_plugin("asking", "refused again", |view| {
        refused(view) && view["history"].as_array().is_some_and(|history| history.len() > 1)
    });
    std::fs::write(bare.with_extension("toml"), manifest("a.example", "1s")).unwrap();
    host.wait_plugin("asking", "live", |view| view["state"] == "live");
    host.stop();
}
