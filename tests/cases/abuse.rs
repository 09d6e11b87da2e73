//! Clients that do harm, or try to: each is refused or let go of, and others are served.

mod http2;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Host, HostOptions, Place, Process, Raw, event, wait_until};

/// How long the host may take to let go of clients that do nothing: a header has 10 s.
const GONE_MAX: Duration = Duration::from_secs(60);
/// What abuse may cost the host at most, in memory.
const HELD_BYTES_MAX: u64 = 64 << 20;

/// Of the tokens `admin`, `operate`, `read` and `publish`, each with the role of its name.
const TOKENS: &str = r#"
[[tokens]]
name = "a"
sha256 = "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918"
roles = ["admin"]
[[tokens]]
name = "o"
sha256 = "2c29d39181de8f853de5e48ba983a5c88612b9dbaa5ab32c7748800a0840aeb8"
roles = ["operate"]
[[tokens]]
name = "r"
sha256 = "3316348dbadfb7b11c7c2ea235949419e23f9fa898ad2c198f999617912a9925"
roles = ["read"]
[[tokens]]
name = "p"
sha256 = "a5d47a4311d759db69e576d9eedd6a02fcfd9cd214129fa8492ee1e9c7343def"
roles = ["publish"]
"#;
/// Which roles may, beside `admin`, who may everything.
const PROBE: &[&str] = &["", "publish", "read", "operate"];
const PUBLISH: &[&str] = &["publish"];
const READ: &[&str] = &["read", "operate"];
const OPERATE: &[&str] = &["operate"];
const ADMIN: &[&str] = &[];
/// Every route by hand: one that is new is in no row, and fails the test.
const ROUTES: &[(&str, &str, &[&str])] = &[
    ("GET", "/healthz", PROBE),
    ("GET", "/readyz", PROBE),
    ("GET", "/metrics", READ),
    ("GET", "/openapi.json", READ),
    ("GET", "/v1/buses", READ),
    ("POST", "/v1/buses/{bus}/follow-clock", OPERATE),
    ("GET", "/v1/dead-letters", READ),
    ("GET", "/v1/dead-letters/{id}", READ),
    ("GET", "/v1/dead-letters/{id}/delivery", READ),
    ("POST", "/v1/dead-letters/discard", OPERATE),
    ("POST", "/v1/dead-letters/redrive", OPERATE),
    ("GET", "/v1/events", READ),
    ("POST", "/v1/events", PUBLISH),
    ("GET", "/v1/events/stream", READ),
    ("GET", "/v1/events/{position}", READ),
    ("GET", "/v1/events/{position}/tree", READ),
    ("GET", "/v1/plugins", READ),
    ("GET", "/v1/plugins/{plugin}", READ),
    ("DELETE", "/v1/plugins/{plugin}", ADMIN),
    ("POST", "/v1/plugins/{plugin}/command/{name}", PUBLISH),
    ("POST", "/v1/plugins/{plugin}/diff", OPERATE),
    ("GET", "/v1/plugins/{plugin}/keys", READ),
    ("POST", "/v1/plugins/{plugin}/keys/hold", OPERATE),
    ("POST", "/v1/plugins/{plugin}/keys/release", OPERATE),
    ("GET", "/v1/plugins/{plugin}/logs", READ),
    ("POST", "/v1/plugins/{plugin}/pause", OPERATE),
    ("GET", "/v1/plugins/{plugin}/query/{path}", READ),
    ("POST", "/v1/plugins/{plugin}/query/{path}", READ),
    ("POST", "/v1/plugins/{plugin}/rename", OPERATE),
    ("POST", "/v1/plugins/{plugin}/resume", OPERATE),
    ("POST", "/v1/plugins/{plugin}/rewind", OPERATE),
    ("POST", "/v1/plugins/{plugin}/rollback", OPERATE),
    ("GET", "/v1/plugins/{plugin}/state", READ),
    ("GET", "/v1/plugins/{plugin}/timers", READ),
    ("GET", "/v1/status", READ),
    ("GET", "/v1/types", READ),
];
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// Status and words of one request with this header, on a connection of its own.
fn ask(host: &Host, method: &str, path: &str, header: &str) -> (u16, String) {
    let mut raw = Raw::connect(host);
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    raw.write(
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n")
            .as_bytes(),
    );
    let head = raw.read_head();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    // A stream that was opened goes on: only what was refused has an end to wait for.
    let body = if status >= 400 { raw.read_to_end() } else { String::new() };
    let error: Value = serde_json::from_str(&body).unwrap_or_default();
    (status, error["error"]["message"].as_str().unwrap_or_default().to_owned())
}

fn bearer(token: &str) -> String {
    if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}") }
}

/// A host that knows the tokens `admin`, `operate`, `read` and `publish`.
pub(super) fn with_tokens(place: &Place) -> Host {
    std::fs::write(place.path().join("tokens.toml"), TOKENS).unwrap();
    let config = "[auth]\ntokens-file = \"tokens.toml\"\n".to_owned();
    place.start_with(&HostOptions { config: Some(config), ..HostOptions::default() })
}

#[test]
fn every_route_is_refused_without_a_token_and_to_each_role_that_may_not() {
    let place = Place::new();
    let host = with_tokens(&place);
    let admin = bearer("admin");
    let headers = [("authorization", "Bearer admin")];
    let document = host.http.send("GET", "/openapi.json", &headers, &[]).unwrap().json();
    let mut documented = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            documented.insert((method.to_uppercase(), path.clone()), ());
        }
    }
    let listed: BTreeMap<_, _> =
        ROUTES.iter().map(|(m, p, _)| (((*m).to_owned(), (*p).to_owned()), ())).collect();
    assert_eq!(documented, listed, "a route is not in the table of this test, or gone");

    let (_, refused) = ask(&host, "GET", "/v1/status", "");
    for (method, template, roles) in ROUTES {
        let path = template.replace(['{', '}'], "");
        let path = path.replace("position", "1").replace("/id", "/1");
        for wrong in ["", &bearer("wrong"), "authorization: Basic admin", "authorization: Bearer"] {
            let (status, words) = ask(&host, method, &path, wrong);
            let open = roles.contains(&"");
            assert_eq!(status == 401, !open, "{method} {template} with `{wrong}`: {status}");
            assert!(open || words == refused, "{method} {template} with `{wrong}`: {words}");
        }
        for role in ["publish", "read", "operate"] {
            let (status, words) = ask(&host, method, &path, &bearer(role));
            let may = roles.contains(&role);
            assert_eq!(status != 403, may, "{method} {template} as {role}: {status} {words}");
            assert_ne!(status, 401, "{method} {template} as {role}");
        }
        let (status, words) = ask(&host, method, &path, &admin);
        assert!(![401, 403].contains(&status), "{method} {template}: {status} {words}");
        // What is not documented is not open either.
        for method in METHODS {
            let probe = roles.contains(&"") && ["GET", "HEAD"].contains(&method);
            let (status, _) = ask(&host, method, &path, "");
            assert_eq!(status == 401, !probe, "{method} {template}: {status}");
        }
    }
    host.stop();
}

#[test]
fn other_ways_to_write_an_address_open_nothing() {
    let place = Place::new();
    let host = with_tokens(&place);
    for path in [
        "//v1/status",
        "/v1/status/",
        "/V1/STATUS",
        "/v1/%73tatus",
        "/healthz/../v1/status",
        "/healthz/..%2fv1/status",
        "/healthz%00/v1/status",
        "/healthz;/v1/status",
        "/readyz//",
        "http://localhost/v1/status",
        "http://healthz/v1/status",
        "/console",
        "/console/",
        "/console/none.js",
        "/console/../v1/status",
        "/console/main.js/../../v1/status",
        "*",
        "/no/such/route",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let (status, _) = ask(&host, method, path, "");
            assert!(status == 401 || status == 400, "{method} {path}: {status}");
        }
    }
    // The web console is the same for all, and asks for a token itself.
    for (method, path) in [("GET", "/"), ("HEAD", "/"), ("GET", "/console/main.js")] {
        assert_eq!(ask(&host, method, path, "").0, 200, "{method} {path}");
    }
    for (method, path) in [("POST", "/"), ("DELETE", "/console/main.js")] {
        assert_eq!(ask(&host, method, path, "").0, 401, "{method} {path}");
    }
    for header in ["x-original-url: /healthz", "x-rewrite-url: /healthz", "x-http-method: GET"] {
        assert_eq!(ask(&host, "GET", "/v1/status", header).0, 401, "{header}");
    }
    host.stop();
}

const EVENT: &str = r#"{"specversion":"1.0","id":"s","source":"/s","type":"smuggled"}"#;

/// Requests of which two ends could think different things. `GOOD` stands for a request that nobody
/// sent: were it answered, it was smuggled.
#[test]
fn what_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read() {
    let place = Place::new();
    let host = place.start();
    let good = format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents+json\r\n\
         content-length: {}\r\n\r\n{EVENT}",
        EVENT.len()
    );
    let post =
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents+json";
    for (what, head, body) in [
        ("two lengths", "content-length: 5\r\ncontent-length: 6", "abcde"),
        ("a list of lengths", "content-length: 5, 6", "abcde"),
        ("length and chunks", "content-length: 5\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ("chunks and length", "transfer-encoding: chunked\r\ncontent-length: 5", "0\r\n\r\n"),
        ("a negative length", "content-length: -5", ""),
        ("a length with a sign", "content-length: +5", "abcde"),
        ("a length in hexadecimal", "content-length: 0x5", "abcde"),
        ("a length beyond numbers", "content-length: 99999999999999999999999", "abcde"),
        ("chunks that are not last", "transfer-encoding: chunked, gzip", "0\r\n\r\n"),
        ("an encoding nobody knows", "transfer-encoding: xchunked", "0\r\n\r\n"),
        ("a hidden encoding", "transfer-encoding : chunked", "0\r\n\r\n"),
        ("a folded header", "transfer-encoding:\r\n chunked", "0\r\n\r\n"),
        ("a chunk without a size", "transfer-encoding: chunked", "\r\nabc\r\n0\r\n\r\n"),
        ("a size that is none", "transfer-encoding: chunked", "zz\r\nabc\r\n0\r\n\r\n"),
        ("a size that overflows", "transfer-encoding: chunked", "ffffffffffffffff1\r\nabc\r\n"),
        ("a chunk longer than its size", "transfer-encoding: chunked", "3\r\nabcdef\r\n0\r\n\r\n"),
        ("a header without a colon", "content-length 5", "abcde"),
        ("a header with a null", "x: a\0b", ""),
        ("a space before a colon", "content-length : 5", "abcde"),
        ("a space before a header", " content-length: 5", "abcde"),
    ] {
        let mut raw = Raw::connect(&host);
        raw.write(format!("{post}\r\n{head}\r\n\r\n{body}{good}").as_bytes());
        let said = raw.read_to_end();
        let answers = said.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{what}: {said}");
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {said}");
        assert!(host.http.events("type=smuggled").is_empty(), "{what} carried something in");
    }
    // What nobody could smuggle in is taken where it is asked for.
    let mut raw = Raw::connect(&host);
    raw.write(good.replacen("host:", "connection: close\r\nhost:", 1).as_bytes());
    let said = raw.read_to_end();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert_eq!(host.http.events("type=smuggled").len(), 1);
    for line in [
        "GET /healthz\r\n\r\n",
        "GET  /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET /healthz HTTP/1.1 \r\nhost: localhost\r\n\r\n",
        "GET /healthz HTTP/3.7\r\nhost: localhost\r\n\r\n",
        "GET /heal thz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "G\0T /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
    ] {
        let mut raw = Raw::connect(&host);
        raw.write(line.as_bytes());
        let said = raw.read_to_end();
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 400");
        assert!(refused, "{line:?}: {said}");
    }
    host.stop();
}

#[test]
fn requests_that_come_at_once_are_answered_in_turn() {
    const REQUESTS: usize = 200;
    let place = Place::new();
    let host = place.start();
    let mut raw = Raw::connect(&host);
    let mut requests = String::new();
    for n in 0..REQUESTS {
        let close = if n + 1 == REQUESTS { "connection: close\r\n" } else { "" };
        requests.push_str(&format!(
            "GET /v1/events/{} HTTP/1.1\r\nhost: localhost\r\nx-request-id: r-{n}\r\n{close}\r\n",
            n + 1
        ));
    }
    raw.write(requests.as_bytes());
    let said = raw.read_to_end();
    let ids: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    let expected: Vec<String> = (0..REQUESTS).map(|n| format!("r-{n}")).collect();
    assert_eq!(ids, expected);
    host.stop();
}

/// More connections than the host takes, of clients that say little or nothing: they are let go of,
/// and whoever asks meanwhile is answered.
#[test]
fn a_flood_of_connections_that_never_ask_does_not_keep_others_out() {
    const CONNECTIONS: usize = 1500;
    let place = Place::new();
    let host = place.start();
    let process = Process::new(host.pid());
    let before = (process.memory_bytes(), process.descriptors().len());
    let mut flood = Vec::new();
    for n in 0..CONNECTIONS {
        let mut raw = Raw::connect(&host);
        raw.write(
            ["", "G", "GET / HTTP/1.1\r\nhost: localhost\r\nx: ", "PRI * HTTP/2.0"][n % 4]
                .as_bytes(),
        );
        flood.push(raw);
    }
    assert!(process.descriptors().len() <= 1024 + 64, "connections are bounded");
    // It may have to wait until some of them are given up, not longer.
    assert_eq!(host.http.get("/healthz").status, 200);
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    for raw in &mut flood {
        raw.read_to_end();
    }
    let held = process.memory_bytes().saturating_sub(before.0);
    assert!(held < HELD_BYTES_MAX, "{held} bytes");
    wait_until("all are gone", GONE_MAX, || {
        let open = process.descriptors().len();
        if open <= before.1 + 8 { Ok(()) } else { Err(open) }
    });
    host.stop();
}

/// A header has 10 s; nobody waits that long for a place of somebody who has not begun one.
#[test]
fn a_flood_of_silent_connections_holds_others_up_for_a_moment() {
    const CONNECTIONS: usize = 1100;
    let place = Place::new();
    let host = place.start();
    let begun = Instant::now();
    let flood: Vec<_> = (0..CONNECTIONS).map(|_| Raw::connect(&host)).collect();
    for _ in 0..20 {
        assert_eq!(host.http.get("/healthz").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    drop(flood);
    host.stop();
}

/// Headers that come a byte at a time would never be late for a limit between two bytes.
#[test]
fn headers_that_never_end_are_not_waited_for() {
    const CLIENTS: usize = 100;
    let place = Place::new();
    let host = place.start();
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| Raw::connect(&host)).collect();
    for client in &mut clients {
        client.write(b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nx: ");
    }
    wait_until("all are given up", GONE_MAX, || {
        clients.retain_mut(|client| client.write(b"x"));
        assert_eq!(host.http.get("/healthz").status, 200);
        if clients.is_empty() { Ok(()) } else { Err(clients.len()) }
    });
    host.stop();
}

/// Streams that nobody reads cost what one page costs, and hold back nobody.
#[test]
fn streams_that_are_not_read_hold_nothing_up() {
    const STREAMS: usize = 50;
    const EVENTS: usize = 100;
    let place = Place::new();
    let host = place.start();
    let process = Process::new(host.pid());
    let mut streams: Vec<Raw> = (0..STREAMS).map(|_| Raw::connect(&host)).collect();
    for stream in &mut streams {
        stream.write(b"GET /v1/events/stream?from=1 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    }
    let before = process.memory_bytes();
    let data = "x".repeat(400_000);
    for n in 0..EVENTS {
        host.http.publish(&[event("a.b", &n.to_string(), Some("k"), json!(data))]);
    }
    let all = host.http.send("GET", &format!("/v1/events/stream?from=1&limit={EVENTS}"), &[], &[]);
    assert_eq!(all.unwrap().body.windows(4).filter(|four| four == b"id: ").count(), EVENTS);
    let held = process.memory_bytes().saturating_sub(before);
    println!("{STREAMS} streams that are not read: {} MiB more than before", held >> 20);
    // The recent frames of the log, and a page of each stream.
    let page = 1 << 20;
    assert!(held < 2 * HELD_BYTES_MAX + STREAMS as u64 * 2 * page, "{held} bytes");
    host.stop();
}

/// Bodies that are announced and do not come were once given the memory for bodies at once: a few
/// dozen clients kept all others out.
#[test]
fn bodies_that_come_a_byte_a_second_keep_nobody_out_and_are_given_up() {
    const CLIENTS: usize = 100;
    let place = Place::new();
    let host = place.start();
    let process = Process::new(host.pid());
    let before = process.memory_bytes();
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\n\
                content-type: application/cloudevents+json\r\ncontent-length: 8000000\r\n\r\n";
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| Raw::connect(&host)).collect();
    for client in &mut clients {
        client.write(head.as_bytes());
    }
    let begun = std::time::Instant::now();
    let mut published = 0;
    while begun.elapsed() < Duration::from_secs(8) {
        for client in &mut clients {
            assert!(client.write(b" "), "nobody is given up at once");
        }
        host.http.publish(&[event("a.b", &published.to_string(), Some("k"), json!(1))]);
        published += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    let held = process.memory_bytes().saturating_sub(before);
    assert!(held < HELD_BYTES_MAX, "{held} bytes");
    for client in &mut clients {
        let said = client.read_to_end();
        let told = said.is_empty() || said.starts_with("HTTP/1.1 408");
        assert!(told, "{said}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(host.http.events("type=a.b").len(), published);
    host.stop();
}
