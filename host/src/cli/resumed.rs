//! Streams that go on where they were when the host comes back.

use std::ops::ControlFlow;
use std::time::Duration;

use super::client::{Client, ClientError};
use super::out::note;
use super::sse::Items;

/// How long is waited in all for a host that went away.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// What it means that the host ends the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// Nothing more will ever come.
    Stop,
    /// It stops, and is expected back.
    GoOn,
}

/// How a connection ended.
enum Ended {
    Enough,
    ByHost,
    Broken(ClientError),
}

/// Hands the items of a stream to `show`, until that has enough or the host stays away.
///
/// # Errors
/// As of `show`; [`ClientError`] where trying again makes no sense, or did not help.
pub(super) fn follow(
    client: &Client,
    path: &[&str],
    query: &[(&str, &str)],
    at_end: AtEnd,
    show: &mut dyn FnMut(&str) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<()> {
    let mut last: Option<String> = None;
    let mut waited = Duration::ZERO;
    loop {
        let ended = match client.stream(path, query, last.as_deref()) {
            Ok(items) => {
                waited = Duration::ZERO;
                read(items, &mut last, show)?
            }
            Err(error) => Ended::Broken(error),
        };
        match ended {
            Ended::Enough => return Ok(()),
            Ended::ByHost if at_end == AtEnd::Stop => return Ok(()),
            Ended::Broken(error) if !error.may_pass() || waited >= PATIENCE => {
                return Err(error.into());
            }
            Ended::Broken(error) if waited.is_zero() => {
                note(format_args!("{error}; trying again"));
            }
            Ended::Broken(_) | Ended::ByHost => {}
        }
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
}

/// Shows what comes over one connection, and notes how far that is.
fn read(
    mut items: Items,
    last: &mut Option<String>,
    show: &mut dyn FnMut(&str) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<Ended> {
    loop {
        let item = match items.next_item() {
            Ok(Some(item)) => item,
            Ok(None) => return Ok(Ended::ByHost),
            Err(error) => return Ok(Ended::Broken(error)),
        };
        let shown = show(&item.data)?;
        *last = item.id.or_else(|| last.take());
        if shown.is_break() {
            return Ok(Ended::Enough);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::cli::client::ConnectArgs;

    /// Follows what a server sends on one connection after the other; what is shown, how that ends, and
    /// what the server was asked.
    fn follow_all(
        answers: &[&str],
        at_end: AtEnd,
    ) -> (Vec<String>, anyhow::Result<()>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Some(format!("http://{}", listener.local_addr().unwrap()));
        let client = Client::new(&ConnectArgs { url, ..ConnectArgs::default() }).unwrap();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let answer = |answer: &&str| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut head = [0; 4096];
                    let read = stream.read(&mut head).unwrap();
                    stream.write_all(answer.as_bytes()).unwrap();
                    String::from_utf8_lossy(&head[..read]).to_lowercase()
                };
                answers.iter().map(answer).collect::<Vec<_>>()
            });
            let mut shown = Vec::new();
            let result = follow(&client, &["s"], &[], at_end, &mut |text| {
                shown.push(text.to_owned());
                let enough = text == "enough";
                Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            (shown, result, asked.join().unwrap())
        })
    }

    const STREAM: &str =
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";

    fn refusal(status: &str, code: &str) -> String {
        let body = format!(r#"{{"error":{{"code":"{code}","message":"no","request_id":"1"}}}}"#);
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    #[test]
    fn a_stream_that_ended_is_taken_up_after_the_last_item() {
        let one = format!("{STREAM}id: 7-1\ndata: a\n\nid: 7-2\ndata: b\n\nid: 7-3\ndata: cut");
        let two = format!("{STREAM}id: 8-1\ndata: enough\n\nid: 8-2\ndata: more\n\n");
        let away = refusal("503 Service Unavailable", "shutting_down");
        let (shown, result, asked) = follow_all(&[&one, &away, &two], AtEnd::GoOn);
        result.unwrap();
        assert_eq!(shown, ["a", "b", "enough"]);
        assert!(!asked[0].contains("last-event-id"), "{asked:?}");
        for again in &asked[1..] {
            assert!(again.contains("last-event-id: 7-2\r\n"), "{asked:?}");
        }
    }

    #[test]
    fn a_refusal_and_the_end_of_all_that_can_come_end_it() {
        let one = format!("{STREAM}id: 7-1\ndata: a\n\n");
        let gone = refusal("404 Not Found", "not_found");
        let (_, result, _) = follow_all(&[&one, &gone], AtEnd::GoOn);
        assert_eq!(result.unwrap_err().to_string(), "no");
        let (shown, result, _) = follow_all(&[&one], AtEnd::Stop);
        result.unwrap();
        assert_eq!(shown, ["a"]);
    }
}
