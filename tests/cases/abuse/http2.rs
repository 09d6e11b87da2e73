//! HTTP/2 by hand: frames that no client would send.

use serde_json::json;

use super::HELD_BYTES_MAX;
use crate::harness::{Host, Place, Process, Raw, event};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET /openapi.json` (a large answer), and `POST /v1/events`, of `http` and `localhost`, in HPACK.
const GET: &[u8] = b"\x82\x86\x04\x0d/openapi.json\x41\x09localhost";
const POST: &[u8] = b"\x83\x86\x04\x0a/v1/events\x41\x09localhost";
/// Frames of a flood.
const MANY: u32 = 20_000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// Every attack: what it is, and its bytes after preface and settings.
fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let get = |n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET);
    let post = |n| frame(HEADERS, END_HEADERS, stream(n), POST);
    let reset = |n| frame(RESET, 0, stream(n), &[0, 0, 0, 8]);
    let flood = |make: &dyn Fn(u32) -> Vec<u8>| (0..MANY).flat_map(make).collect::<Vec<u8>>();
    // A literal header of 16 KiB, without an end.
    let mut filler = vec![0, 1, b'x', 0x7f, 0x81, 0x7f];
    filler.resize(16_000, b'a');
    // One header of 4 KB into the table, and then one byte for each time it is meant again.
    let mut bomb = GET.to_vec();
    bomb.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1e]);
    bomb.resize(bomb.len() + 4000, b'a');
    bomb.resize(16_000, 0xbe);
    vec![
        ("rapid reset", flood(&|n| [get(n), reset(n)].concat())),
        ("rapid reset of requests with a body", flood(&|n| [post(n), reset(n)].concat())),
        ("streams without an end", flood(&post)),
        ("pings", flood(&|_| frame(PING, 0, 0, &[0; 8]))),
        ("settings", flood(&|_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]))),
        ("empty data", [post(0), flood(&|_| frame(DATA, 0, 1, &[]))].concat()),
        ("data of nobody", flood(&|n| frame(DATA, 0, stream(n), b"x"))),
        (
            "headers without an end",
            [
                frame(HEADERS, END_STREAM, 1, GET),
                (0..500).flat_map(|_| frame(CONTINUATION, 0, 1, &filler)).collect(),
            ]
            .concat(),
        ),
        (
            "empty continuations",
            [frame(HEADERS, END_STREAM, 1, GET), flood(&|_| frame(CONTINUATION, 0, 1, &[]))]
                .concat(),
        ),
        (
            "a header meant ten thousand times",
            (0..100)
                .flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &bomb))
                .collect(),
        ),
        ("a window that overflows", frame(WINDOW, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2)),
        ("a window of nothing", frame(WINDOW, 0, 0, &[0; 4])),
        ("an even stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, GET)),
        ("streams backwards", [get(7), get(3), get(1)].concat()),
        ("garbage in HPACK", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 100])),
        (
            "a frame too large",
            [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 60_000]].concat(),
        ),
        ("frames nobody knows", flood(&|_| frame(0xee, 0xff, 1, b"what?"))),
        (
            "answers that are not taken",
            [
                frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
                (0..128)
                    .flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), GET))
                    .collect(),
            ]
            .concat(),
        ),
    ]
}

/// What stands here as bytes is HTTP/2 that the host answers, where it is right.
fn check_control(host: &Host) {
    let mut client = Raw::connect(host);
    let get = b"\x82\x86\x04\x08/healthz\x41\x09localhost";
    let get = frame(HEADERS, END_STREAM | END_HEADERS, 1, get);
    let bye = frame(GOAWAY, 0, 0, &[0; 8]);
    client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &get, &bye].concat());
    let said = client.read_to_end();
    assert!(said.contains("application/json") || said.contains("ok"), "{said:?}");
}

fn check_served(host: &Host, what: &str) {
    assert_eq!(host.http.get("/healthz").status, 200, "beside {what}");
    assert_eq!(host.http.get("/v1/status").status, 200, "beside {what}");
}

#[test]
fn frames_that_no_client_sends_cost_little_and_keep_nobody_out() {
    let place = Place::new();
    let mut host = place.start();
    let process = Process::new(host.pid());
    check_served(&host, "nothing");
    check_control(&host);
    for (what, bytes) in attacks() {
        let before = process.memory_bytes();
        process.reset_peak();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Raw::connect(&host);
            client.give_up_soon();
            client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes].concat());
            check_served(&host, what);
            clients.push(client);
        }
        let held = process.peak_bytes().saturating_sub(before);
        println!("{what}: {} KiB held at most", held >> 10);
        assert!(held < HELD_BYTES_MAX, "{what}: {held} bytes held");
        drop(clients);
        check_served(&host, what);
    }
    assert!(host.is_alive());
    host.stop();
}

/// Large answers that a client asks for and does not allow to be sent: the connection is read, so that
/// nothing stalls but they.
#[test]
fn answers_that_are_never_allowed_are_bounded_and_let_go_of() {
    const ANSWERS_BYTES_MAX: u64 = 256 << 20;
    let place = Place::new();
    let host = place.start();
    let process = Process::new(host.pid());
    let data = "x".repeat(500_000);
    for n in 0..16 {
        host.http.publish(&[event("a.b", &n.to_string(), None, json!(data))]);
    }
    let before = process.memory_bytes();
    process.reset_peak();
    let page = b"\x82\x86\x04\x14/v1/events?limit=100\x41\x09localhost";
    let gets = (0..128).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), page));
    let nothing = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut client = Raw::connect(&host);
    client.write(&[PREFACE, &nothing, &gets.collect::<Vec<u8>>()].concat());
    let mut readers: Vec<Raw> = (0..40).map(|_| Raw::connect(&host)).collect();
    for reader in &mut readers {
        reader.write(b"GET /v1/events?limit=100 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    }
    check_served(&host, "answers that are never taken");
    // Until the host lets go of it.
    client.read_to_end();
    let held = process.peak_bytes().saturating_sub(before);
    println!("answers that are never taken: {} MiB held at most", held >> 20);
    // Beside them what is being made of a page.
    assert!(held < ANSWERS_BYTES_MAX + 2 * HELD_BYTES_MAX, "{held} bytes held");
    drop(readers);
    assert_eq!(host.http.events("type=a.b").len(), 16);
    host.stop();
}
