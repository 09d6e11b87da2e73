//! Server-sent events: where they begin, go on and end.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Fixture, PATIENCE};
use crate::api::ServerOptions;
use crate::api::auth::Tokens;

/// An open stream.
struct Stream {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

impl Stream {
    async fn open(server: &Fixture, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close{headers}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await.unwrap().unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        let mut opened = Self { lines };
        // From here on the host has been asked.
        while opened.line().await.is_some_and(|line| !line.is_empty()) {}
        opened
    }

    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("the next line comes in time").ok().flatten()
    }

    /// The next line that begins like this, without that; none: the stream has ended.
    async fn next(&mut self, field: &str) -> Option<String> {
        while let Some(line) = self.line().await {
            if let Some(value) = line.strip_prefix(field) {
                return Some(value.to_owned());
            }
        }
        None
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_id_seen() {
    let server = Fixture::default().await;
    for id in 1..=3 {
        server.publish_keyed(id, "k").await;
    }
    let mut first = Stream::open(&server, "/v1/events/stream?from=1&key=k", "").await;
    let one = first.next("id: ").await.unwrap();
    let two = first.next("id: ").await.unwrap();
    assert_ne!(one, two);
    drop(first);
    let header = format!("\r\nlast-event-id: {two}");
    let mut again = Stream::open(&server, "/v1/events/stream?from=1&key=k", &header).await;
    let data = again.next("data: ").await.unwrap();
    assert!(data.contains(r#""id":"3""#), "{data}");
    server.publish_keyed(4, "k").await;
    let data = again.next("data: ").await.unwrap();
    assert!(data.contains(r#""id":"4""#), "{data}");
}

#[tokio::test]
async fn a_stream_without_a_start_begins_with_the_next_event() {
    let server = Fixture::default().await;
    server.publish_keyed(1, "k").await;
    let path = "/v1/events/stream?type=order.*";
    let mut stream = Stream::open(&server, path, "").await;
    let began = stream.next("id: ").await.unwrap();
    assert_eq!((&*began, stream.line().await.as_deref()), ("3-1", Some("")));
    server.publish_keyed(2, "k").await;
    // Whoever lost the connection before that sees it all the same.
    let mut again = Stream::open(&server, path, &format!("\r\nlast-event-id: {began}")).await;
    for stream in [&mut stream, &mut again] {
        let data = stream.next("data: ").await.unwrap();
        assert!(data.contains(r#""id":"2""#), "{data}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_limit_and_with_the_host() {
    let mut server = Fixture::default().await;
    server.publish_keyed(1, "k").await;
    let mut limited = Stream::open(&server, "/v1/events/stream?from=1&limit=1", "").await;
    assert!(limited.next("data: ").await.is_some());
    assert_eq!(limited.next("data: ").await, None);
    let mut endless = Stream::open(&server, "/v1/events/stream", "").await;
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(endless.next("data: ").await, None);
    tokio::time::timeout(PATIENCE, &mut server.serving).await.unwrap().unwrap();
}

/// Of `secret` and of `other`.
const TOKENS: [&str; 2] = [
    "[[tokens]]\nname = 'one'\nroles = ['read']\n\
     sha256 = '2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b'\n",
    "[[tokens]]\nname = 'two'\nroles = ['read']\n\
     sha256 = 'd9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa'\n",
];

/// A token that was taken away once let its holder read on for as long as the stream was kept open.
#[tokio::test]
async fn a_stream_ends_with_the_right_to_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKENS.concat()).unwrap();
    let tokens = std::sync::Arc::new(Tokens::load(file.path()).unwrap());
    let options = ServerOptions { tokens: Some(tokens.clone()), ..ServerOptions::default() };
    let server = Fixture::start(options).await;
    let of = |secret: &str| format!("\r\nauthorization: Bearer {secret}");
    let mut one = Stream::open(&server, "/v1/events/stream", &of("secret")).await;
    let mut two = Stream::open(&server, "/v1/events/stream", &of("other")).await;
    tokens.reload().unwrap();
    server.host.put(1, "1");
    assert!(one.next("data: ").await.is_some(), "nothing is changed");

    let renamed = TOKENS[1].replace("two", "three");
    std::fs::write(file.path(), TOKENS[0].replace("read", "publish") + &renamed).unwrap();
    tokens.reload().unwrap();
    assert_eq!(one.next("data: ").await, None);
    server.host.put(2, "1");
    assert!(two.next("data: ").await.is_some() && two.next("data: ").await.is_some());
}

#[tokio::test]
async fn log_lines_are_json() {
    let server = Fixture::default().await;
    let path = "/v1/plugins/totals/logs?recent=2&follow=false";
    let mut stream = Stream::open(&server, path, "").await;
    let line: serde_json::Value =
        serde_json::from_str(&stream.next("data: ").await.unwrap()).unwrap();
    assert_eq!(line["message"], "line 0");
    let last = "\r\nlast-event-id: 7-2";
    let mut again = Stream::open(&server, path, last).await;
    for id in ["7-2", "7-3"] {
        assert_eq!(again.next("id: ").await.as_deref(), Some(id));
    }
    assert!(again.next("data: ").await.unwrap().contains("line 2"));
    assert_eq!(again.next("data: ").await, None);
}

#[tokio::test]
async fn streams_are_bounded() {
    let options = crate::api::ServerOptions { streams_max: 1, ..Default::default() };
    let server = Fixture::start(options).await;
    let first = Stream::open(&server, "/v1/events/stream", "").await;
    let second = server.get("/v1/events/stream").await;
    assert_eq!((second.status, second.code().as_str()), (429, "too_many_streams"));
    drop(first);
}
