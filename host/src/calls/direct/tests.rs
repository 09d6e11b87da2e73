use std::io::{Read, Write};
use std::net::TcpListener;

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::config::SecretSource;
use crate::plugin::grants::GrantName;

fn request(url: &str, deadline: Instant) -> DirectRequest {
    DirectRequest {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: vec![("x-own".to_owned(), Bytes::from_static(b"\xff1"))],
        body: Bytes::new(),
        deadline,
        connect: None,
        first_byte: None,
        between_bytes: None,
        answer_bytes_max: 10,
    }
}

fn direct(http: &str, private: &str) -> Direct {
    let hosts = |text: &str| text.parse().into_iter().collect();
    let grants = Grants { http: hosts(http), private: hosts(private), ..Grants::default() };
    Direct::new(grants, Secrets::default())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Answers each connection with these bytes; nothing: it is left open.
fn server(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(answer).unwrap();
            if answer.is_empty() {
                open.push(stream);
            }
        }
    });
    port
}

#[tokio::test]
async fn an_answer_is_whole_or_an_error() {
    let port = server(b"HTTP/1.1 302 Found\r\nlocation: http://other/\r\nx-a: b\r\nconnection: close\r\n\r\n0123456789");
    let asking = direct("127.0.0.1:*", "127.0.0.1:*");
    let url = format!("http://127.0.0.1:{port}/");
    let answer = asking.ask(request(&url, soon())).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (302, &b"0123456789"[..]));
    assert!(answer.headers.contains(&("x-a".to_owned(), Bytes::from_static(b"b"))));

    let port = server(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n01234567890");
    let url = format!("http://127.0.0.1:{port}/");
    let large = asking.ask(request(&url, soon())).await.unwrap_err();
    assert_eq!(large.fault, DirectFault::TooLarge, "{}", large.why);
}

#[tokio::test]
async fn hosts_and_addresses_are_those_of_calls() {
    let port = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let url = format!("http://127.0.0.1:{port}/");
    let ungranted = direct("a.example", "127.0.0.1:*").ask(request(&url, soon())).await;
    let ungranted = ungranted.unwrap_err();
    assert_eq!(ungranted.fault, DirectFault::Denied);
    assert_eq!(ungranted.why, "`127.0.0.1` is not in `grants.http`");
    let private = direct("*:*", "10.0.0.1").ask(request(&url, soon())).await.unwrap_err();
    assert_eq!(private.fault, DirectFault::Address, "{}", private.why);
}

#[tokio::test]
async fn a_secret_goes_out_and_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "tok-9f3a").unwrap();
    let name: GrantName = "TOKEN".parse().unwrap();
    let mut secrets = Secrets::default();
    secrets.insert(&name, SecretSource::File(file));
    let hosts = || "127.0.0.1:*".parse().into_iter().collect();
    let grants = |secrets| Grants { http: hosts(), private: hosts(), secrets, ..Grants::default() };
    let port = server(
        b"HTTP/1.1 200 OK\r\nx-seen: tok-9f3a\r\ncontent-length: 8\r\nconnection: close\r\n\r\ntok-9f3a",
    );
    let request = || DirectRequest {
        headers: vec![("authorization".to_owned(), Bytes::from_static(b"{secret:TOKEN}"))],
        answer_bytes_max: 100,
        ..request(&format!("http://127.0.0.1:{port}/"), soon())
    };
    let asking = Direct::new(grants(vec![name]), secrets.clone());
    let answer = asking.ask(request()).await.unwrap();
    assert_eq!(answer.body, "{secret:TOKEN}");
    assert!(answer.headers.contains(&("x-seen".to_owned(), Bytes::from_static(b"{secret:TOKEN}"))));
    assert!(answer.headers.iter().all(|(name, _)| name != "content-length"), "{answer:?}");
    let refused = Direct::new(grants(Vec::new()), secrets).ask(request()).await.unwrap_err();
    assert_eq!(refused.fault, DirectFault::Denied, "{}", refused.why);
}

#[tokio::test]
async fn who_does_not_answer_holds_a_thread_no_longer_than_the_deadline() {
    let port = server(b"");
    let asking = direct("127.0.0.1:*", "127.0.0.1:*");
    let url = format!("http://127.0.0.1:{port}/");
    let deadline = Instant::now() + Duration::from_millis(300);
    // More than have a place, and nobody waits for them.
    for _ in 0..DIRECT_SENDING_MAX {
        assert!(asking.ask(request(&url, deadline)).now_or_never().is_none());
    }
    assert_eq!(asking.places.available_permits(), 0);
    let late = asking.ask(request(&url, deadline)).await.unwrap_err();
    assert_eq!(late.fault, DirectFault::Timeout, "{}", late.why);
    // All places come back by themselves.
    let all = u32::try_from(DIRECT_SENDING_MAX).unwrap();
    let back = asking.places.acquire_many(all);
    let back = tokio::time::timeout(Duration::from_secs(20), back).await;
    assert!(back.is_ok_and(|permits| permits.is_ok()));
}
