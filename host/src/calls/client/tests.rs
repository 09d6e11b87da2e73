use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::config::SecretSource;

/// Answers each connection with one of `answers`, and gives what was asked.
fn server(answers: Vec<Vec<u8>>) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, asked) = sync_channel(16);
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let head: Vec<String> = (reader.by_ref().lines().map(Result::unwrap))
                .take_while(|line| !line.is_empty())
                .collect();
            // Closing a connection with something unread in it resets it, answer and all.
            reader.read_exact(&mut [0; 2]).unwrap();
            tell.send(head.join("\n")).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    (port, asked)
}

fn client(http: &[&str], private: &[&str], secrets: &[&str]) -> Client {
    let hosts = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let grants = Grants {
        http: hosts(http),
        private: hosts(private),
        secrets: secrets.iter().map(|name| name.parse().unwrap()).collect(),
        env: Vec::new(),
    };
    Client::new(grants, Resolving::InTime)
}

fn call(url: &str) -> OutgoingCall {
    OutgoingCall {
        idempotency_key: "key-1".into(),
        name: "n".into(),
        method: "POST".into(),
        url: url.into(),
        headers: Vec::new(),
        body: bytes::Bytes::from_static(b"{}"),
        timeout_ms: 5000,
    }
}

fn fault(client: &Client, call: &OutgoingCall) -> Fault {
    client.send(call, &Secrets::default()).unwrap_err().fault
}

#[test]
fn an_answer_comes_back_and_redirects_are_answers() {
    let (port, asked) = server(vec![
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\
          content-type: text/plain\r\nconnection: close\r\n\r\nhi"
            .to_vec(),
    ]);
    let client = client(&["127.0.0.1:*"], &["127.0.0.1:*"], &[]);
    let url = format!("http://127.0.0.1:{port}/a?b=c#d");
    let answer = client.send(&call(&url), &Secrets::default()).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (302, b"hi".as_slice()));
    assert_eq!(answer.content_type, "text/plain");
    let asked = asked.recv().unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("post /a?b=c http/1.1\n"), "{asked}");
    assert!(asked.contains("\nidempotency-key: key-1"), "{asked}");
    assert!(asked.contains("\ncontent-length: 2"), "{asked}");
}

#[test]
fn what_is_not_public_takes_the_operators_word() {
    let denied = client(&["*:*"], &["10.0.0.1"], &[]);
    for url in [
        "http://127.0.0.1:9/",
        "http://localhost:9/",
        "http://[::1]:9/",
        "http://2130706433:9/",
        "http://0x7f.1:9/",
        "http://[::ffff:127.0.0.1]:9/",
        "http://0.0.0.0:9/",
    ] {
        assert_eq!(fault(&denied, &call(url)), Fault::Denied, "{url}");
    }
    let never = client(&["0.0.0.0:9"], &["0.0.0.0:9"], &[]);
    assert_eq!(fault(&never, &call("http://0.0.0.0:9/")), Fault::Denied);
    let other = client(&["api.example.com"], &[], &[]);
    assert_eq!(fault(&other, &call("http://127.0.0.1:9/")), Fault::Denied);
}

#[test]
fn a_body_is_cut_where_too_much_comes() {
    let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
    answer.resize(answer.len() + CALL_ANSWER_BYTES_MAX + 10, b'x');
    let (port, _asked) = server(vec![answer]);
    let client = client(&["localhost:*"], &["localhost:*"], &[]);
    let answer =
        client.send(&call(&format!("http://localhost:{port}/")), &Secrets::default()).unwrap();
    assert!(answer.truncated);
    assert_eq!(answer.body.len(), CALL_ANSWER_BYTES_MAX);
}

#[test]
fn a_secret_is_sent_and_what_the_server_repeats_of_it_is_struck() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pay"), "s3cret-value\n").unwrap();
    let mut secrets = Secrets::default();
    secrets.insert(&"PAY".parse().unwrap(), SecretSource::File(dir.path().join("pay")));
    let (port, asked) =
        server(vec![b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nyou said s3cret-value".to_vec()]);
    let client = client(&["127.0.0.1:*"], &["127.0.0.1:*"], &["PAY"]);
    let headers = vec![("authorization".into(), "Bearer {secret:PAY}".into())];
    let call = OutgoingCall { headers, ..call(&format!("http://127.0.0.1:{port}/")) };
    let answer = client.send(&call, &secrets).unwrap();
    assert_eq!(answer.body, b"you said {secret:PAY}");
    assert!(asked.recv().unwrap().contains("Bearer s3cret-value"));
    assert_eq!(fault(&client, &call), Fault::Secret);
}

#[test]
fn what_goes_wrong_has_a_name() {
    let (port, _asked) = server(vec![Vec::new(), b"nonsense\r\n\r\n".to_vec()]);
    let client = client(&["*:*"], &["*:*"], &[]);
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(fault(&client, &call(&url)), Fault::Connect);
    assert_eq!(fault(&client, &call(&url)), Fault::Protocol);
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", held.local_addr().unwrap());
    assert_eq!(fault(&client, &OutgoingCall { timeout_ms: 50, ..call(&url) }), Fault::Timeout);
    drop(held);
    assert_eq!(fault(&client, &call(&url)), Fault::Connect);
    assert_eq!(fault(&client, &call("http://no-such-host.invalid/")), Fault::Dns);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let after = |pairs: &[(HeaderName, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        retry_after_ms(&pairs.collect())
    };
    assert_eq!(after(&[(header::RETRY_AFTER, "7")]), Some(7000));
    let (later, now) = ("Wed, 21 Oct 2015 07:28:10 GMT", "Wed, 21 Oct 2015 07:28:00 GMT");
    assert_eq!(after(&[(header::RETRY_AFTER, later), (header::DATE, now)]), Some(10_000));
    assert_eq!(after(&[(header::RETRY_AFTER, now), (header::DATE, later)]), None);
    assert_eq!(after(&[(header::RETRY_AFTER, later)]), None);
    assert_eq!(after(&[(header::RETRY_AFTER, "soon")]), None);
}
