//! TLS, with real handshakes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::api::tls::{Identity, read_authorities};

const NEVER: Duration = Duration::from_secs(3600);

/// A test certificate (`one.pem`), or its key (`one.key`).
pub(crate) fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tls").join(name)
}

fn identity() -> Identity {
    Identity::load(&pem("one.pem"), &pem("one.key")).unwrap()
}

pub(crate) fn with_tls() -> ServerOptions {
    ServerOptions { tls: Some(Arc::new(identity())), ..ServerOptions::default() }
}

/// Connects as a client that trusts one certificate and speaks `protocols`.
async fn connect(
    server: &Fixture,
    trusted: &str,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_authorities(&pem(trusted)).unwrap() {
        roots.add(certificate).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(PATIENCE, shaken).await.expect("a handshake takes no time")
}

async fn healthy(server: &Fixture) -> bool {
    let Ok(mut stream) = connect(server, "one.pem", &["http/1.1"]).await else { return false };
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.is_ok() && read_answer(&mut stream).await.status == 200
}

/// The server closes the connection, whatever it says first.
async fn closes(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    let _ = read.await.expect("the server gives up on the client");
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_over_tls() {
    let server = Fixture::start(with_tls()).await;
    assert!(healthy(&server).await);
    let mut stream = connect(&server, "one.pem", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // The preface and empty settings; the answer begins with settings.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "{frame:?}");
}

#[tokio::test]
async fn a_client_that_ends_its_half_is_answered_over_tls_too() {
    let server = Fixture::start(with_tls()).await;
    let mut stream = connect(&server, "one.pem", &["http/1.1"]).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so_and_hurts_nobody() {
    let server = Fixture::start(with_tls()).await;
    for answer in [server.get("/healthz").await, server.publish_keyed(1, "k").await] {
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"));
        assert!(answer.body.contains("this port speaks TLS: use https://"), "{answer:?}");
    }
    assert!(server.host.events().is_empty());
    for garbage in [&b"\0\0\0\0\r\n\r\n"[..], b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        closes(&mut stream).await;
    }
    assert!(connect(&server, "other.pem", &[]).await.is_err());
    assert!(healthy(&server).await);
}

#[tokio::test]
async fn a_slow_handshake_is_dropped_and_its_place_is_free_again() {
    let options = ServerOptions {
        handshake_timeout: Duration::from_millis(200),
        header_timeout: Duration::from_millis(200),
        connections_max: 1,
        ..with_tls()
    };
    let server = Fixture::start(options).await;
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01", b"GET / HT"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        closes(&mut stream).await;
    }
    // On a busy machine an honest client may be too slow as well, once.
    let served = async { while !healthy(&server).await {} };
    tokio::time::timeout(PATIENCE, served).await.expect("there is a place");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_handshakes() {
    let options = ServerOptions { handshake_timeout: NEVER, grace: NEVER, ..with_tls() };
    let mut server = Fixture::start(options).await;
    let mut begun = TcpStream::connect(server.address).await.unwrap();
    begun.write_all(b"\x16").await.unwrap();
    // Accepted in order: once this one is served, the other is in its handshake.
    assert!(healthy(&server).await);
    server.stop.take().unwrap().send(()).unwrap();
    let ended = tokio::time::timeout(PATIENCE, server.serving).await;
    ended.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_request_in_progress_over_tls_ends_well_at_a_stop() {
    let mut server = Fixture::start(with_tls()).await;
    let mut stream = connect(&server, "one.pem", &[]).await.unwrap();
    let event = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"a.b"}"#;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\
         content-type: application/cloudevents+json\r\nexpect: 100-continue\r\n\r\n",
        event.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_ahead = [0; 25];
    stream.read_exact(&mut go_ahead).await.unwrap();
    assert!(go_ahead.starts_with(b"HTTP/1.1 100"), "{go_ahead:?}");
    server.stop.take().unwrap().send(()).unwrap();
    stream.write_all(event.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    let ended = tokio::time::timeout(PATIENCE, server.serving).await;
    ended.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_also_over_tls() {
    let write_stall_max = Duration::from_millis(200);
    let server = Fixture::start(ServerOptions { write_stall_max, ..with_tls() }).await;
    let mut stream = connect(&server, "one.pem", &[]).await.unwrap();
    let head = b"GET /v1/events/stream?from=1 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let all = ServerOptions::default().streams_max;
    server.free_streams_become(all - 1).await;
    // More than the buffers of both ends hold.
    let data = "x".repeat(500_000);
    (0..40).for_each(|id| server.host.put(id, &data));
    server.free_streams_become(all).await;
    drop(stream);
}

#[tokio::test]
async fn files_read_again_count_from_then_on_unless_they_are_broken() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    let put = |name: &str| {
        std::fs::copy(pem(&format!("{name}.pem")), &cert).unwrap();
        std::fs::copy(pem(&format!("{name}.key")), &key).unwrap();
    };
    put("one");
    let identity = Arc::new(Identity::load(&cert, &key).unwrap());
    let tls = Some(Arc::clone(&identity));
    let server = Fixture::start(ServerOptions { tls, ..ServerOptions::default() }).await;
    assert!(connect(&server, "one.pem", &[]).await.is_ok());
    put("other");
    assert!(connect(&server, "one.pem", &[]).await.is_ok());
    identity.reload().unwrap();
    assert!(connect(&server, "one.pem", &[]).await.is_err());
    assert!(connect(&server, "other.pem", &[]).await.is_ok());
    std::fs::write(&key, "gone").unwrap();
    assert!(identity.reload().is_err());
    assert!(connect(&server, "other.pem", &[]).await.is_ok());
}

#[test]
fn files_that_make_no_sense_are_refused_with_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (cert, key) = (pem("one.pem"), pem("one.key"));
    let text = std::fs::read_to_string(&key).unwrap();
    let cut = file("cut", &text.as_bytes()[..100]);
    let garbage = file("garbage", b"\0\xff\n garbage");
    let passphrase = text.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let passphrase = file("passphrase", passphrase.as_bytes());
    let noise =
        file("noise", b"-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n");
    let letters = file("letters", b"-----BEGIN CERTIFICATE-----\n?!\n-----END CERTIFICATE-----\n");
    let der = file("der", b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n");
    let missing = dir.path().join("missing");
    for (cert, key, file, says) in [
        (&missing, &key, &missing, "cannot read `{}`: No such file or directory"),
        (&cert, &missing, &missing, "cannot read `{}`: No such file or directory"),
        (&garbage, &key, &garbage, "`{}` holds no certificate"),
        (&key, &key, &key, "`{}` holds no certificate"),
        (&letters, &key, &letters, "`{}` is not PEM: what stands between the dashes"),
        (&der, &key, &der, "a certificate in `{}` cannot be used: "),
        (&cert, &garbage, &garbage, "`{}` holds no private key"),
        (&cert, &passphrase, &passphrase, "`{}` holds no private key that can be used"),
        (&cert, &cut, &cut, "`{}` is not PEM: a `-----BEGIN` has no `-----END`"),
        (&cert, &noise, &noise, "the private key in `{}` cannot be used: "),
        (&cert, &pem("other.key"), &pem("other.key"), "in `{}` is not that of the first"),
    ] {
        let error = Identity::load(cert, key).unwrap_err().to_string();
        let says = says.replace("{}", &file.display().to_string());
        assert!(error.contains(&says), "{error}\n{says}");
    }
}
