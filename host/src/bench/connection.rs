//! One keep-alive HTTP/1.1 connection of a bench: sends what was put together before, reads as much
//! of the answer as it takes to know that all went well.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an answer.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a connection takes to be made.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an answer takes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `127.0.0.1:7411`.
    pub(super) authority: String,
    /// `/v1/events`.
    pub(super) path: String,
    /// Sent with each request.
    pub(super) token: Option<String>,
}

/// A connection, and buffers that are used again.
pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// Status and body of an answer.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

impl Connection {
    /// Connects.
    pub(super) async fn open(target: &Target) -> std::io::Result<Self> {
        let stream = timeout(CONNECT_TIME_MAX, TcpStream::connect(&*target.authority)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::new(), answer: Vec::new() })
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// The system's, and `TimedOut`.
    pub(super) async fn post(
        &mut self,
        target: &Target,
        media_type: &str,
        body: &[u8],
    ) -> std::io::Result<Answer<'_>> {
        let Target { authority, path, token } = target;
        self.request.clear();
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: {media_type}\r\n\
             content-length: {}\r\n",
            body.len()
        );
        if let Some(token) = token {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(b"\r\n");
        self.request.extend_from_slice(body);
        let exchange = async {
            self.stream.write_all(&self.request).await?;
            self.answer().await
        };
        let none = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer for a minute");
        timeout(ANSWER_TIME_MAX, exchange).await.map_err(none)?
    }

    async fn answer(&mut self) -> std::io::Result<Answer<'_>> {
        self.answer.clear();
        let mut looked = 0;
        let body_at = loop {
            if let Some(at) = find(self.answer.get(looked..).unwrap_or_default(), b"\r\n\r\n") {
                break looked + at + 4;
            }
            looked = self.answer.len().saturating_sub(3);
            if self.answer.len() > HEAD_BYTES_MAX {
                return Err(broken("its head does not end"));
            }
            self.read().await?;
        };
        let head = std::str::from_utf8(self.answer.get(..body_at).unwrap_or_default());
        let head = head.map_err(|_| broken("its head is not text"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken("it is not HTTP"))?;
        let length = head.lines().filter_map(|line| line.split_once(':'));
        let length = length
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .find_map(|(_, value)| value.trim().parse::<usize>().ok())
            .filter(|length| *length <= BODY_BYTES_MAX)
            .ok_or_else(|| broken("it does not say how long it is"))?;
        while self.answer.len() < body_at + length {
            self.read().await?;
        }
        let body = self.answer.get(body_at..body_at + length).unwrap_or_default();
        Ok(Answer { status, body })
    }

    async fn read(&mut self) -> std::io::Result<()> {
        if self.stream.read_buf(&mut self.answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn broken(why: &str) -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        format!("the answer makes no sense: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn served(answer: &'static [&'static [u8]]) -> (Target, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            for part in answer {
                stream.write_all(part).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        let target = Target { authority, path: "/v1/events".to_owned(), token: None };
        let connection = Connection::open(&target).await.unwrap();
        (target, connection)
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_put_together() {
        let parts: &[&[u8]] =
            &[b"HTTP/1.1 200 OK\r\nContent-", b"Length: 5\r\n\r", b"\nab", b"cde"];
        let (target, mut connection) = served(parts).await;
        let answer = connection.post(&target, "text/plain", b"x").await.unwrap();
        assert_eq!((answer.status, answer.body), (200, &b"abcde"[..]));
    }

    #[tokio::test]
    async fn an_answer_that_ends_early_is_an_error() {
        let (target, mut connection) =
            served(&[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"]).await;
        assert!(connection.post(&target, "text/plain", b"x").await.is_err());
    }
}
