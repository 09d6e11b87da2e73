//! The server over real connections, against a host in memory.

mod cloudevents;
mod errors;
pub(crate) mod fake;
mod limits;
mod requests;
mod routes;
mod stream;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Place, Server, ServerHandle, ServerOptions};
use fake::FakeHost;

/// Longest a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a free port, which ends with it.
pub(crate) struct Fixture {
    pub(crate) address: SocketAddr,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) handle: ServerHandle,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) serving: tokio::task::JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Fixture {
    pub(crate) async fn start(options: ServerOptions) -> Self {
        let host = FakeHost::new();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let place = Place::take(any).unwrap();
        let server = Server::listen(place, options, Arc::clone(&host) as _).unwrap();
        let (address, handle) = (server.local_addr(), server.handle());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Self { address, host, handle, stop: Some(stop), serving }
    }

    pub(crate) async fn default() -> Self {
        Self::start(ServerOptions::default()).await
    }

    /// Sends one request on a connection of its own. `head` has no line break at its end.
    pub(crate) async fn send(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{head}\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses may close before it has read everything.
        let _ = stream.write_all(body).await;
        read_answer(&mut stream).await
    }

    /// The same, from a client that ends its half of the connection before it reads.
    pub(crate) async fn send_and_end(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{head}\r\nhost: localhost\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        read_answer(&mut stream).await
    }

    pub(crate) async fn free_streams_become(&self, wanted: usize) {
        let wait = async {
            while self.handle.streams_free() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("{} free, not {wanted}", self.handle.streams_free()));
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1"), b"").await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}", body.len());
        for (name, value) in headers {
            head.push_str(&format!("\r\n{name}: {value}"));
        }
        self.send(&head, body).await
    }

    /// Publishes one event in structured mode.
    pub(crate) async fn publish(&self, json: &str) -> Answer {
        let content_type = [("content-type", "application/cloudevents+json")];
        self.post("/v1/events", &content_type, json.as_bytes()).await
    }

    /// Publishes an event of a key.
    pub(crate) async fn publish_keyed(&self, id: u32, key: &str) -> Answer {
        self.publish(&format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"order.created",
                "partitionkey":"{key}","data":{{"n": {id}}}}}"#
        ))
        .await
    }
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Answer {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await;
        match read.expect("the answer comes in time") {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
