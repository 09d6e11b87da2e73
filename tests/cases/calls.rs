//! Outgoing calls: every one at least once with a stable key, none for what was not committed, each
//! answer once; secrets nowhere but on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Flaky, Host, HostOptions, Place, Reply, Sources, caller, event, put, seed, wait_until,
};

const SECRET: &str = "tok-5f2c9e71-never-written";
const EVENTS: usize = 120;
const KEYS: usize = 12;
const KILLS: usize = 4;
const ANSWERED_MAX: Duration = Duration::from_secs(90);

/// Puts `webhook-out` in place, quicker with its attempts, and gives the configuration for a port.
fn webhook_out(place: &Place, port: u16, give_up_after: &str) -> HostOptions {
    put(Sources::WEBHOOK_OUT, &place.plugins());
    let file = place.plugins().join("webhook-out/plugin.toml");
    let manifest = std::fs::read_to_string(&file)
        .unwrap()
        .replace("backoff-max = \"30s\"", "backoff-max = \"200ms\"")
        .replace("give-up-after = \"15m\"", &format!("give-up-after = \"{give_up_after}\""));
    std::fs::write(&file, manifest).unwrap();
    let config = format!(
        "[plugins.webhook-out]\n\
         allow.http = [\"127.0.0.1:{port}\"]\n\
         allow.secrets = [\"WEBHOOK_TOKEN\"]\n\
         config.url = \"http://127.0.0.1:{port}/hook\"\n\
         config.tries = \"100\"\n\
         [secrets]\n\
         WEBHOOK_TOKEN.env = \"HOOK_TOKEN\"\n"
    );
    let environment = vec![("HOOK_TOKEN", SECRET.to_owned())];
    HostOptions { config: Some(config), environment, ..HostOptions::default() }
}

fn orders() -> Vec<Value> {
    let order = |n: usize| {
        let key = format!("o-{}", n % KEYS);
        event("order.created", &format!("e-{n:04}"), Some(&key), json!({ "n": n }))
    };
    (0..EVENTS).map(order).collect()
}

/// The ids of the webhooks that ended so, each as often as it did.
fn ended(host: &Host, kind: &str) -> Vec<String> {
    let events = host.http.events(&format!("type={kind}"));
    events.iter().map(|event| event["data"]["id"].as_str().unwrap().to_owned()).collect()
}

fn assert_nowhere(folder: &Path, secret: &str) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_nowhere(&path, secret);
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the secret is in {}", path.display());
        }
    }
}

/// Every request has the secret and a key of its own, and those of one key of the plugin were begun in
/// order.
fn check_requests(server: &Flaky) {
    let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut first: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for asked in server.asked() {
        assert_eq!(asked.headers["authorization"], format!("Bearer {SECRET}"));
        assert_eq!(asked.line, "POST /hook HTTP/1.1");
        let id = asked.headers["webhook-id"].clone();
        let body = bodies.entry(asked.headers["idempotency-key"].clone());
        let body = body.or_insert_with(|| asked.body.clone());
        assert_eq!(*body, asked.body, "one key, two requests");
        let sent: Value = serde_json::from_slice(&asked.body).unwrap();
        let order = first.entry(sent["key"].as_str().unwrap().to_owned()).or_default();
        if !order.contains(&id) {
            order.push(id);
        }
    }
    assert!(first.values().all(|ids| ids.is_sorted()), "calls of a key overtook: {first:?}");
    assert_eq!(first.values().map(Vec::len).sum::<usize>(), EVENTS);
}

#[test]
fn killed_hosts_send_every_call_with_one_key_and_deliver_each_answer_once() {
    let mut rng = seed("killed_hosts_send_every_call_with_one_key_and_deliver_each_answer_once");
    let turn = AtomicU64::new(rng.u64(..1000));
    let server = Flaky::start(move |asked| {
        if asked.headers.get("webhook-id").is_some_and(|id| id.ends_with("7")) {
            return Reply::Status(302, "location: http://127.0.0.1:1/elsewhere\r\n");
        }
        match turn.fetch_add(1, Ordering::Relaxed) % 10 {
            0 => Reply::Drop,
            1 => Reply::Status(503, "retry-after: 0\r\n"),
            2 => Reply::Status(500, ""),
            3 | 4 => Reply::Slow(Duration::from_millis(30)),
            _ => Reply::Status(200, ""),
        }
    });
    let place = Place::new();
    let options = webhook_out(&place, server.port, "15m");
    let orders = orders();
    let mut said = String::new();
    for kill in 0..KILLS {
        let host = place.start_with(&options);
        let chunk = EVENTS / KILLS;
        host.http.publish(&orders[kill * chunk..(kill + 1) * chunk]);
        let enough = server.count() + rng.usize(1..chunk);
        wait_until("some are sent", ANSWERED_MAX, || {
            let count = server.count();
            if count >= enough { Ok(()) } else { Err(count) }
        });
        said.push_str(&host.said());
        host.kill();
    }

    let host = place.start_with(&options);
    wait_until("all are answered", ANSWERED_MAX, || {
        let over = ended(&host, "webhook.delivered").len() + ended(&host, "webhook.failed").len();
        let open = host.plugin("webhook-out")["open_calls"].clone();
        if over >= EVENTS && open == 0 { Ok(()) } else { Err((over, open)) }
    });
    host.wait_rest("webhook-out", 0);
    let (delivered, failed) = (ended(&host, "webhook.delivered"), ended(&host, "webhook.failed"));
    let expected = |moved: bool| -> BTreeSet<String> {
        let ids = orders.iter().map(|order| order["id"].as_str().unwrap());
        ids.filter(|id| id.ends_with('7') == moved).map(ToOwned::to_owned).collect()
    };
    assert_eq!(delivered.iter().cloned().collect::<BTreeSet<_>>(), expected(false));
    assert_eq!(failed.iter().cloned().collect::<BTreeSet<_>>(), expected(true));
    assert_eq!(delivered.len() + failed.len(), EVENTS, "an answer was delivered twice");

    check_requests(&server);

    let dump = host.cli(&["events", "list", "--limit", "1000"]).run().expect_done();
    said.push_str(&dump);
    let (status, last) = host.terminate();
    assert_eq!(status.code(), Some(0), "{last}");
    said.push_str(&last);
    assert!(!said.contains(SECRET), "the secret was said");
    assert_nowhere(&place.data(), SECRET);
    assert_nowhere(&place.plugins(), SECRET);
}

#[test]
fn nothing_is_sent_for_a_delivery_that_fails_nor_to_a_host_that_is_not_granted() {
    let server = Flaky::start(|_| Reply::Status(200, ""));
    let place = Place::new();
    let url = format!("http://127.0.0.1:{}/x", server.port);
    let manifest = "[subscribe]\nstart = \"earliest\"\ntypes = [\"a.b\"]\n\
                    [retry]\nattempts-fault = 2\non-failure = \"continue\"\n\
                    [grants]\nhttp = [\"127.0.0.1:*\"]\n";
    for (name, then) in [("fails", "unreachable"), ("sends", ""), ("ungranted", "")] {
        let wasm = caller(&url, "call.denied", then);
        std::fs::write(place.plugins().join(format!("{name}.wasm")), wasm).unwrap();
        std::fs::write(place.plugins().join(format!("{name}.toml")), manifest).unwrap();
    }
    let config = "[plugins.fails]\nallow.http = [\"127.0.0.1:*\"]\n\
                  [plugins.sends]\nallow.http = [\"127.0.0.1:*\"]\n\
                  [plugins.ungranted]\nallow.http = [\"127.0.0.1:1\", \"example.com\"]\n";
    let options = HostOptions { config: Some(config.to_owned()), ..HostOptions::default() };
    let host = place.start_with(&options);
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.wait_plugin("sends", "answered", |view| {
        view["open_calls"] == 0 && view["deliveries"]["ok"] == 2
    });
    for name in ["fails", "sends", "ungranted"] {
        host.wait_rest(name, 0);
    }
    let answered = [("plugin", "sends"), ("result", "answered")];
    assert_eq!(host.metric("tidegate_calls_total", &answered), 1);
    assert_eq!(host.metric("tidegate_calls_open", &[("plugin", "sends")]), 0);
    assert_eq!(host.dead_letters("fails").len(), 1);
    assert_eq!(host.http.events("type=call.denied").len(), 1);
    let asked = server.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].body, b"text/plain");

    // Nothing changes after a restart: no answer is outstanding, and none comes again.
    host.kill();
    let host = place.start_with(&options);
    host.wait_rest("sends", 0);
    assert_eq!(host.plugin("sends")["open_calls"], 0);
    assert_eq!(server.count(), 1);
    host.stop();
}

#[test]
fn a_call_to_nobody_stays_open_and_is_given_up_in_time() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = Place::new();
    let host = place.start_with(&webhook_out(&place, closed, "2s"));
    host.http.publish(&[event("order.created", "e-1", Some("o-1"), json!({}))]);
    host.wait_plugin("webhook-out", "a call is open", |view| view["open_calls"] == 1);
    let status = host.cli(&["status"]).run().expect_done();
    let shown = host.cli(&["plugins", "show", "webhook-out"]).run().expect_done();
    assert!(shown.contains("open calls"), "{shown}\n{status}");
    let failed = wait_until("it is given up", ANSWERED_MAX, || {
        host.http.events("type=webhook.failed").pop().ok_or("not yet")
    });
    assert_eq!(failed["data"], json!({ "id": "e-1", "status": 0, "tries": 1, "why": "connect" }));
    assert_eq!(host.plugin("webhook-out")["open_calls"], 0);
    host.stop();
}

#[test]
fn calls_that_were_made_on_a_bus_that_the_plugin_has_left_are_shown() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = Place::new();
    let put = |bus: &str| {
        let manifest = format!(
            "[subscribe]\nbus = \"{bus}\"\nstart = \"latest\"\ntypes = [\"a.b\"]\n\
             [grants]\nhttp = [\"127.0.0.1:*\"]\n"
        );
        std::fs::write(place.plugins().join("sends.toml"), manifest).unwrap();
    };
    let wasm = caller(&format!("http://127.0.0.1:{closed}/x"), "call.denied", "");
    std::fs::write(place.plugins().join("sends.wasm"), wasm).unwrap();
    put("main");
    let config = "[buses.main]\nkind = \"durable\"\n[buses.audit]\nkind = \"durable\"\n\
                  [plugins.sends]\nallow.http = [\"127.0.0.1:*\"]\n";
    let config = Some(config.to_owned());
    let host = place.start_with(&HostOptions { config, ..HostOptions::default() });
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.wait_plugin("sends", "a call is open", |view| view["open_calls"] == 1);
    put("audit");
    let view = host.wait_plugin("sends", "moved", |view| {
        view["subscription"]["bus"] == "audit" && view["state"] == "live"
    });
    assert_eq!(view["open_calls"], 1, "{view}");
    assert_eq!(host.metric("tidegate_calls_open", &[("plugin", "sends")]), 1);
    let status = host.cli(&["status"]).run().expect_done();
    assert!(status.contains("open calls: sends 1"), "{status}");
    host.stop();
}
