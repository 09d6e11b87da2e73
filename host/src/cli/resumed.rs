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
    let open = |last: Option<&str>| client.stream(path, query, last);
    follow_opened(&open, at_end, show, &mut |line| note(line))
}

/// As [`follow`], of streams that `open` opens after an item; `tell` takes what people are told.
fn follow_opened(
    open: &dyn Fn(Option<&str>) -> Result<Items, ClientError>,
    at_end: AtEnd,
    show: &mut dyn FnMut(&str) -> anyhow::Result<ControlFlow<()>>,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let mut last: Option<String> = None;
    let mut waited = Duration::ZERO;
    // A stream that ended is mostly there again at once: only who has to wait is told.
    let mut told = false;
    loop {
        let ended = match open(last.as_deref()) {
            Ok(items) => {
                waited = Duration::ZERO;
                if std::mem::take(&mut told) {
                    tell("connected again");
                }
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
            Ended::Broken(error) if !told => {
                told = true;
                tell(&format!("{error}; trying again for {} s", PATIENCE.as_secs()));
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
        let shown = item.data.map_or(Ok(ControlFlow::Continue(())), |data| show(&data))?;
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

    /// What became of following a server.
    struct Followed {
        shown: Vec<String>,
        told: Vec<String>,
        result: anyhow::Result<()>,
        /// What the server was asked.
        asked: Vec<String>,
    }

    /// Follows what a server sends on one connection after the other.
    fn follow_all(answers: &[&str], at_end: AtEnd) -> Followed {
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
            let (mut shown, mut told) = (Vec::new(), Vec::new());
            let open = |last: Option<&str>| client.stream(&["s"], &[], last);
            let mut show = |text: &str| {
                shown.push(text.to_owned());
                let enough = text == "enough";
                Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
            let mut tell = |line: &str| told.push(line.to_owned());
            let result = follow_opened(&open, at_end, &mut show, &mut tell);
            Followed { shown, told, result, asked: asked.join().unwrap() }
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
        let Followed { shown, told, result, asked } =
            follow_all(&[&one, &away, &away, &two], AtEnd::GoOn);
        result.unwrap();
        assert_eq!(shown, ["a", "b", "enough"]);
        assert_eq!(told, ["no; trying again for 60 s", "connected again"]);
        assert!(!asked[0].contains("last-event-id"), "{asked:?}");
        for again in &asked[1..] {
            assert!(again.contains("last-event-id: 7-2\r\n"), "{asked:?}");
        }
    }

    /// Events that came while the host was away were once passed over where none had come before.
    #[test]
    fn a_stream_on_which_nothing_was_shown_is_taken_up_where_it_began() {
        let one = format!("{STREAM}id: 7-4\n\n");
        let two = format!("{STREAM}id: 8-5\ndata: enough\n\n");
        let Followed { shown, result, asked, .. } = follow_all(&[&one, &two], AtEnd::GoOn);
        result.unwrap();
        assert_eq!(shown, ["enough"]);
        assert!(asked[1].contains("last-event-id: 7-4\r\n"), "{asked:?}");
    }

    #[test]
    fn a_refusal_and_the_end_of_all_that_can_come_end_it() {
        let one = format!("{STREAM}id: 7-1\ndata: a\n\n");
        let gone = refusal("404 Not Found", "not_found");
        let refused = follow_all(&[&one, &gone], AtEnd::GoOn);
        assert_eq!(refused.result.unwrap_err().to_string(), "no");
        let ended = follow_all(&[&one], AtEnd::Stop);
        ended.result.unwrap();
        assert_eq!((ended.shown, ended.told), (vec!["a".to_owned()], vec![]));
    }
}
