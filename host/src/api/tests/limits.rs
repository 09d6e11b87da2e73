//! Every bound of the server, from outside.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Fixture, PATIENCE, read_answer};
use crate::api::ServerOptions;

/// Small in size; patient, so that a busy machine changes nothing.
fn small() -> ServerOptions {
    ServerOptions {
        body_bytes_max: 1000,
        headers_bytes_max: 2000,
        headers_count_max: 20,
        header_timeout: PATIENCE,
        body_timeout: PATIENCE,
        write_stall_max: PATIENCE,
        ..ServerOptions::default()
    }
}

/// One that says nothing had its place for as long as a header may take, and so had a thousand of them.
#[tokio::test]
async fn who_waits_for_a_place_gets_that_of_the_oldest_connection_that_says_nothing() {
    let silent_max = Duration::from_millis(20);
    let options = ServerOptions { connections_max: 4, silent_max, ..small() };
    let server = Fixture::start(options).await;
    let mut open = Vec::new();
    for said in ["GET", "", "", "P"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        open.push(stream);
        // Those of one millisecond are of one age.
        let begun = Instant::now();
        while open.len() == 2 && begun.elapsed() < Duration::from_millis(5) {
            assert_eq!(server.get("/healthz").await.status, 200);
        }
    }
    let [mut first, mut oldest, mut silent, mut last] =
        <[TcpStream; 4]>::try_from(open).expect("as many as there are places");
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(closes(&mut oldest).await, b"");
    let rest = |method: &str| format!("{method} /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    for (stream, text) in [
        (&mut first, rest("").trim_start_matches("GET").to_owned()),
        (&mut silent, rest("GET")),
        (&mut last, rest("UT")),
    ] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).await.expect("it is still there");
        assert_eq!(&answer, b"HTTP/1.1 ");
    }
}

/// The server closes the connection, whatever it says first.
async fn closes(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    let _ = read.await.expect("the server gives up on the client");
    bytes
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_limit_and_actual() {
    let server = Fixture::start(small()).await;
    let json = [("content-type", "application/cloudevents+json")];
    let error = server.post("/v1/events", &json, &[b' '; 3000]).await;
    assert_eq!((error.status, error.code().as_str()), (413, "too_large"));
    let error = error.json()["error"].clone();
    assert_eq!((error["limit"].as_u64(), error["actual"].as_u64()), (Some(1000), Some(3000)));

    let head = "POST /v1/events HTTP/1.1\r\ncontent-type: application/cloudevents+json\r\n\
                transfer-encoding: chunked";
    let chunked = format!("5dc\r\n{}\r\n0\r\n\r\n", " ".repeat(1500));
    let error = server.send(head, chunked.as_bytes()).await;
    assert_eq!((error.status, error.json()["error"]["actual"].as_u64()), (413, Some(1500)));
}

/// It was once waited for, and the answer was that it did not come.
#[tokio::test]
async fn a_body_that_is_announced_over_the_limit_is_refused_before_it_comes() {
    let server = Fixture::start(small()).await;
    for path in ["/v1/events", "/v1/plugins/totals/command/open?key=k"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000\r\n\r\n ");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}}") {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await;
            assert!(read.expect("the answer comes in time").unwrap() > 0, "{seen:?}");
        }
        let said = String::from_utf8(seen).unwrap();
        assert!(said.starts_with("HTTP/1.1 413") && said.contains(r#""actual":3000"#), "{said}");
        // Who goes on to send it is not cut off, and can ask again.
        stream.write_all(&[b' '; 2999]).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut next = [0; 12];
        stream.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"HTTP/1.1 200");
    }
}

/// Who sends much with a request that is refused for what its head says was once cut off, and saw no answer.
#[tokio::test]
async fn a_request_that_is_refused_by_its_head_is_answered_and_its_body_read_on() {
    let server = Fixture::default().await;
    let body = vec![b' '; 4 << 20];
    for (path, status) in [
        ("/v1/events?nothing=1", 422),
        ("/v1/plugins/totals/command/open?key=", 422),
        ("/v1/plugins/totals/pause?nothing=1", 422),
        ("/v1/nothing", 404),
        ("/v1/types", 405),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}}") {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await;
            assert!(read.expect("the answer comes in time").unwrap() > 0, "{path}: {seen:?}");
        }
        assert!(seen.starts_with(format!("HTTP/1.1 {status}").as_bytes()), "{path}: {seen:?}");
        stream.write_all(&body).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut next = [0; 12];
        stream.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"HTTP/1.1 200", "{path}");
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_wherever_it_is_sent() {
    let server = Fixture::default().await;
    let gzip = [("content-type", "application/cloudevents+json"), ("content-encoding", "gzip")];
    let binary = [("ce-id", "1"), ("ce-type", "a"), ("content-encoding", "gzip")];
    for (path, headers) in [
        ("/v1/events", &gzip[..]),
        ("/v1/events", &binary),
        ("/v1/plugins/totals/command/open?key=k", &gzip),
        ("/v1/plugins/totals/query/all", &gzip),
    ] {
        let answer = server.post(path, headers, b"\x1f\x8b").await;
        assert_eq!((answer.status, &*answer.code()), (415, "unsupported_media_type"), "{path}");
        assert!(answer.body.contains("`gzip`"), "{answer:?}");
    }
    assert!(server.host.events().is_empty());
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let server = Fixture::start(small()).await;
    let long = server.get(&format!("/v1/events?type={}", "x".repeat(3000))).await;
    assert_eq!((long.status, long.code().as_str()), (431, "headers_too_large"));
    assert_eq!(long.json()["error"]["limit"], 2000);
    let mut many = "GET /v1/events HTTP/1.1".to_owned();
    (0..30).for_each(|n| many.push_str(&format!("\r\nx-{n}: 1")));
    let many = server.send(&many, b"").await;
    assert_eq!((many.status, many.json()["error"]["actual"].as_u64()), (431, Some(32)));
    let huge = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(200_000));
    assert_eq!(server.send(&huge, b"").await.status, 431);
}

/// The library once refused them itself, with no body that says the limit.
#[tokio::test]
async fn headers_over_the_limit_are_refused_in_words_over_http_2_too() {
    let server = Fixture::start(small()).await;
    // GET http / of localhost, and a header `x` of 3000 bytes.
    let mut block = b"\x82\x86\x84\x01\x09localhost\x00\x01x\x7f\xb9\x16".to_vec();
    block.extend([b'x'; 3000]);
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    request.extend(&u32::try_from(block.len()).unwrap().to_be_bytes()[1..]);
    // HEADERS that end both themselves and stream 1.
    request.extend(b"\x01\x05\0\0\0\x01");
    request.extend(block);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(r#""code":"headers_too_large""#) {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await;
        assert!(read.expect("the answer comes in time").unwrap() > 0, "{seen:?}");
    }
}

#[tokio::test]
async fn a_client_that_never_asks_is_dropped() {
    let header_timeout = Duration::from_millis(200);
    let server = Fixture::start(ServerOptions { header_timeout, ..small() }).await;
    // Nothing at all; the beginning of either version; headers that never end; a second request
    // that does not come.
    for begun in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: ",
        "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        closes(&mut stream).await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let body_timeout = Duration::from_millis(200);
    let server = Fixture::start(ServerOptions { body_timeout, ..small() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-length: 50\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
}

#[tokio::test]
async fn bodies_share_a_bound() {
    let server = Fixture::start(ServerOptions { bodies_bytes_max: 1000, ..small() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\
                expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The go-ahead comes when the body is about to be read: its share is taken by then.
    let mut go_ahead = [0; 12];
    stream.read_exact(&mut go_ahead).await.unwrap();
    assert_eq!(&go_ahead, b"HTTP/1.1 100");
    let answer = server.publish_keyed(1, "k").await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "queue_full"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(stream);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let write_stall_max = Duration::from_millis(200);
    let server = Fixture::start(ServerOptions { write_stall_max, ..small() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "GET /v1/events/stream?from=1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // More than the buffers of both ends hold.
    let data = "x".repeat(500_000);
    let all = ServerOptions::default().streams_max;
    server.free_streams_become(all - 1).await;
    (0..40).for_each(|id| server.host.put(id, &data));
    server.free_streams_become(all).await;
    drop(stream);
}

/// It was once taken for gone: most such requests were carried out, and hardly one was answered.
#[tokio::test]
async fn a_client_that_ends_its_half_after_a_request_is_answered() {
    let server = Fixture::default().await;
    let publish = |id: u32| {
        let event = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"a"}}"#);
        let head = format!(
            "POST /v1/events HTTP/1.1\r\ncontent-type: application/cloudevents+json\r\n\
             content-length: {}",
            event.len()
        );
        (head, event)
    };
    for id in 0..50 {
        let (head, event) = publish(id);
        assert_eq!(server.send_and_end(&head, event.as_bytes()).await.status, 200, "{id}");
    }
    let command = "POST /v1/plugins/totals/command/open?key=k HTTP/1.1\r\ncontent-length: 0";
    assert_eq!(server.send_and_end(command, b"").await.status, 200);
    assert_eq!(server.host.events().len(), 50);
    let (head, event) = publish(50);
    let cut = server.send_and_end(&head, &event.as_bytes()[..20]).await;
    assert_ne!(cut.status, 200, "{cut:?}");
    assert_eq!(server.host.events().len(), 50, "what did not arrive whole is not taken");
}

#[tokio::test]
async fn what_a_client_sent_whole_before_it_went_away_is_carried_out() {
    let server = Fixture::default().await;
    for id in 0..50 {
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nce-specversion: 1.0\r\nce-id: {id}\r\n\
             ce-source: /s\r\nce-type: a\r\ncontent-length: 0\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let carried_out = async {
        while server.host.events().len() < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = tokio::time::timeout(PATIENCE, carried_out).await;
    all.unwrap_or_else(|_| panic!("{} of 50", server.host.events().len()));
}

#[tokio::test]
async fn a_stream_ends_for_who_is_gone_and_goes_on_for_who_only_ends_its_half() {
    let alive_every = Duration::from_millis(50);
    let server = Fixture::start(ServerOptions { alive_every, ..small() }).await;
    let all = ServerOptions::default().streams_max;
    let head = "GET /v1/events/stream HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    server.free_streams_become(all - 1).await;
    let mut seen = Vec::new();
    // Several signs of life, none of which takes it for gone.
    while seen.iter().filter(|byte| **byte == b':').count() < 20 {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await;
        assert!(read.expect("the stream goes on").unwrap() > 0, "{seen:?}");
    }
    assert_eq!(server.handle.streams_free(), all - 1);
    drop(stream);
    server.free_streams_become(all).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_counted_and_let_go_of() {
    let write_stall_max = Duration::from_secs(2);
    let options = ServerOptions { write_stall_max, answers_bytes_max: 30_000_000, ..small() };
    let server = Fixture::start(options).await;
    (0..50).for_each(|id| server.host.put(id, &"x".repeat(500_000)));
    let page = "/v1/events?limit=100";
    assert_eq!(server.get(page).await.status, 200);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let ask = format!("GET {page} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    let refused = server.get(page).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "queue_full"));
    assert_eq!(server.get("/healthz").await.status, 200, "small ones are answered");
    let waited = async {
        while server.get(page).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("the client is given up");
    drop(stream);
}

#[tokio::test]
async fn smuggled_and_malformed_requests_get_400_and_a_closed_connection() {
    let server = Fixture::start(small()).await;
    for request in [
        "POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        "GET /healthz HTTP/1.1\r\nhost: a\r\ntransfer-encoding: bogus\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let bytes = closes(&mut stream).await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 400"), "{request:?}: {text}");
    }
    assert_eq!(server.get("/healthz").await.status, 200);
}

/// Which of two is looked at must not decide who is asked, and who asks.
#[tokio::test]
async fn a_request_has_one_host_and_at_most_one_authorization() {
    let server = Fixture::default().await;
    let ask = async |head: &str| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!("{head}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        read_answer(&mut stream).await
    };
    let get = "GET /v1/events HTTP/1.1\r\n";
    for (headers, field) in [
        ("x: y", "Host"),
        ("host: localhost\r\nhost: localhost", "Host"),
        ("host: localhost\r\nhost: evil.example", "Host"),
        ("host: localhost\r\nauthorization: Bearer a\r\nauthorization: Bearer a", "Authorization"),
    ] {
        let refused = ask(&format!("{get}{headers}")).await;
        assert_eq!((refused.status, &*refused.code()), (400, "invalid_request"), "{headers}");
        assert_eq!(refused.json()["error"]["field"], field, "{refused:?}");
    }
    for fine in [
        "GET /v1/events HTTP/1.0\r\nx: y",
        &format!("{get}host: localhost\r\nauthorization: Bearer a"),
    ] {
        assert_eq!(ask(fine).await.status, 200, "{fine}");
    }
}
