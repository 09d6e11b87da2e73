//! The commands, as they are typed, against a server with a host in memory.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::*;
use crate::api::tests::Fixture;
use crate::api::tests::tls::{pem, with_tls};

/// Keeps what a command prints.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a command line against a server; what it prints, or why it fails.
async fn tidegate(server: &Fixture, line: &[&str]) -> Result<String, String> {
    let url = format!("http://{}", server.address);
    command(&[&["--url", &url], line].concat()).await
}

/// Runs a command line; what it prints, or why it fails.
async fn command(line: &[&str]) -> Result<String, String> {
    let words = [&["tidegate"], line].concat();
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let printed = Printed::default();
    let mut out = Out::to(printed.clone());
    let ran = tokio::task::spawn_blocking(move || run(&cli, &mut out).map(drop));
    ran.await.unwrap().map_err(|error| format!("{error:#}"))?;
    let bytes = printed.0.lock().unwrap().clone();
    Ok(String::from_utf8(bytes).unwrap())
}

#[test]
fn the_command_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for line in [
        "tidegate",
        "tidegate publish",
        "tidegate publish a.b --batch f",
        "tidegate publish a.b --data 1 --file f",
        "tidegate state get p",
        "tidegate keys show p",
        "tidegate dead-letters redrive",
        "tidegate dead-letters redrive 1 --all",
        "tidegate dead-letters redrive --all --plugin p",
        "tidegate dead-letters discard 1",
        "tidegate dead-letters redrive --outcome broken",
        "tidegate dead-letters list --outcome broken",
        "tidegate events get one",
        "tidegate events list --from nonsense",
        "tidegate events tail --to 2026-13-01T00:00:00Z",
        "tidegate events list --type **x",
        "tidegate state get p k n --at zz",
        "tidegate state list p k --at zz",
        "tidegate plugins rewind p --to zz",
        "tidegate plugins rewind p --to latest",
        "tidegate run --listen foo",
        "tidegate dev --listen localhost:",
        "tidegate --output yaml status",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    let error = Cli::try_parse_from(["tidegate", "events", "list", "--from", "x"]).unwrap_err();
    let says = "'x' for '--from <POINT>': is neither a position nor an RFC 3339 time";
    assert!(error.to_string().contains(says), "{error}");
    for line in [
        "tidegate publish --batch -",
        "tidegate publish a.b --key k --attr x=1 --attr y=2 --expected-sequence 0",
        "tidegate events tail --type a.* --output json --url http://h:1",
        "tidegate events list --from 7 --to 2026-01-31T08:00:00Z --type ** --source /a*",
        "tidegate plugins rename old new",
        "tidegate plugins rewind p --to 2026-01-31T08:00:00Z",
        "tidegate state get p k n --at 7",
        "tidegate run --listen localhost:0",
        "tidegate dead-letters redrive --plugin p --outcome trap",
        "tidegate completions bash",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
    }
}

/// It was wrong use with some commands, and a failure with others.
#[test]
fn a_file_that_cannot_be_read_is_a_failure() {
    for words in [
        &["publish", "a.b", "--file", "/no/such"][..],
        &["publish", "--batch", "/no/such"],
        &["status", "--token-file", "/no/such"],
        &["status", "--ca-cert", "/no/such"],
        &["check", "/no/such"],
    ] {
        let cli = Cli::try_parse_from([&["tidegate"], words].concat()).unwrap();
        let error = run(&cli, &mut Out::to(io::sink())).unwrap_err();
        assert!(format!("{error:#}").contains("`/no/such`"), "{words:?}: {error:#}");
        assert!(error.downcast_ref::<out::UsageError>().is_none(), "{words:?}: {error:#}");
    }
}

#[tokio::test]
async fn a_range_that_ends_before_it_begins_is_a_usage_error() {
    let (early, late) = ("2026-01-31T08:00:00Z", "2026-01-31T11:00:00+02:00");
    for words in [&["events", "list"][..], &["events", "tail"], &["plugins", "diff", "totals"]] {
        let ask = |from, to| [&["tidegate"], words, &["--from", from, "--to", to]].concat();
        let times = [(late, early)].into_iter().filter(|_| words[0] == "events");
        for (from, to) in [("9", "3")].into_iter().chain(times) {
            let cli = Cli::try_parse_from(ask(from, to)).unwrap();
            let error = run(&cli, &mut Out::to(io::sink())).unwrap_err();
            let error = error.downcast::<out::UsageError>().unwrap().to_string();
            assert!(error.contains(&format!("`--from` is {from}")), "{error}");
        }
    }
    let server = Fixture::default().await;
    for (from, to) in [("1", "1"), (early, late), ("9", early)] {
        let line = ["events", "list", "--from", from, "--to", to];
        assert_eq!(tidegate(&server, &line).await, Ok(String::new()), "{from} {to}");
    }
}

#[tokio::test]
async fn commands_print_text_for_people() {
    let server = Fixture::default().await;
    let publish =
        ["publish", "order.created", "--key", "o-1", "--id", "1", "--data", r#"{"a": 1}"#];
    let printed = tidegate(&server, &publish).await.unwrap();
    assert!(printed.starts_with("#1 order.created o-1/1  durable "), "{printed}");
    assert!(printed.ends_with("nobody subscribes to this type yet\n"), "{printed}");
    let again = tidegate(&server, &publish).await.unwrap();
    assert!(again.contains("duplicate"), "{again}");
    for (attribute, id) in [("partitionkey=zz", "2"), ("subject=zz", "3")] {
        let keyed = ["publish", "a.b", "--id", id, "--attr", attribute];
        let printed = tidegate(&server, &keyed).await.unwrap();
        assert!(printed.contains(" a.b zz/"), "{printed}");
    }

    for (line, says) in [
        (&["events", "list"][..], r#"order.created  o-1/1  {"a": 1}"#),
        (&["events", "get", "1"], "\n{\"a\": 1}\n"),
        (
            &["events", "tail", "--from", "1", "--limit", "1"],
            "#1 order.created o-1/1  {\"a\": 1}\n",
        ),
        (&["events", "tree", "1"], "* #1 order.created o-1/1\n"),
        (&["types", "list"], "order.created      1  -          nobody\n"),
        (&["plugins", "list"], "totals  live"),
        (&["plugins", "show", "totals"], "description    Adds up\n"),
        (&["plugins", "show", "totals"], "\non-failure = \"park\"\n"),
        (&["dead-letters", "show", "1"], "\nattempts\n1-4   not kept\n5     1970-"),
        (&["plugins", "logs", "totals", "--recent", "1"], "line 0\n"),
        (&["plugins", "pause", "totals", "--reason", "why not"], "totals paused  why not\n"),
        (&["plugins", "resume", "totals"], "totals live\n"),
        (&["plugins", "rename", "totals", "sums"], "sums live\n"),
        (&["plugins", "rollback", "totals"], "totals live\n"),
        (
            &["plugins", "rewind", "totals", "--to", "3"],
            "totals live  events #3 to #20 once more; generation 0 is seen until then   \
             -> tidegate plugins show totals\n",
        ),
        (
            &["plugins", "rewind", "totals", "--to", "21"],
            "totals live  generation 1 is rebuilt already\n",
        ),
        (&["state", "get", "totals", "k", "count"], "25\n"),
        (&["state", "get", "totals", "k", "raw"], "/wA=\n"),
        (&["state", "list", "totals", "k"], "count   2 B  -        25\n"),
        (&["dead-letters", "list"], "unreachable"),
        (&["dead-letters", "show", "1"], "outcome    trap\n"),
        (&["dead-letters", "redrive", "1"], "redriving 1 dead letter\n"),
        (&["dead-letters", "redrive", "--all"], "redriving 1 dead letter\n"),
        (
            &["dead-letters", "discard", "--plugin", "totals", "--key", "k", "--reason", "old"],
            "discarded 1 dead letter\n",
        ),
        (&["keys", "show", "totals", "k 1"], "totals k 1 parked\n"),
        (&["timers", "list", "totals"], "2023-11-14T22:13:20.000Z  k 1  pay    2 B  #9"),
        (&["keys", "show", "totals", "k"], "-> tidegate dead-letters redrive 1"),
        (&["keys", "hold", "totals", "k", "--reason", "why"], "totals k held\n"),
        (&["keys", "release", "totals", "k"], "totals k live\n"),
        (&["buses", "list"], "main (default)  durable  open"),
        (
            &["buses", "follow-clock", "main"],
            "main goes on from 1970-01-01T01:00:00.000Z, 1 h 0 min after 1970-01-01T00:00:00.000Z\n",
        ),
        (&["status"], "tidegate 0.1.0   ready"),
        (&["completions", "bash"], "_tidegate"),
    ] {
        let printed = tidegate(&server, line).await.unwrap();
        assert!(printed.contains(says), "{line:?}\n{printed}");
    }
}

/// Such an event once ended `tail`, because a line of its data ends with CR.
#[tokio::test]
async fn tail_prints_json_with_any_line_break_on_one_line() {
    let server = Fixture::default().await;
    for (id, end) in [(1, "\r"), (2, "\r\n"), (3, "\n")] {
        let lines = ["{", r#"  "a": "b\r\nc""#, "}"].join(end);
        let id = id.to_string();
        tidegate(&server, &["publish", "a.b", "--id", &id, "--data", &lines]).await.unwrap();
    }
    let tail = ["--output", "json", "events", "tail", "--from", "1", "--limit", "3"];
    let printed = tidegate(&server, &tail).await.unwrap();
    assert_eq!(printed.lines().count(), 3, "{printed}");
    for line in printed.split_terminator('\n') {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["data"]["a"], "b\r\nc", "{line}");
        assert!(!line.contains('\r'), "{line}");
    }
}

#[test]
fn a_limit_of_nothing_is_a_usage_error() {
    for words in [
        &["events", "list", "--limit", "0"][..],
        &["events", "tail", "--limit", "0"],
        &["dead-letters", "list", "--limit", "0"],
        &["timers", "list", "totals", "--limit", "0"],
    ] {
        let error = Cli::try_parse_from([&["tidegate"], words].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words:?}: {error}");
    }
}

#[tokio::test]
async fn commands_print_one_json_document() {
    let server = Fixture::default().await;
    server.publish_keyed(1, "k").await;
    for line in [
        &["publish", "a.b"][..],
        &["events", "list"],
        &["events", "list", "--type", "none"],
        &["events", "get", "1"],
        &["events", "tail", "--from", "1", "--limit", "1"],
        &["events", "tree", "1"],
        &["types", "list"],
        &["plugins", "list"],
        &["plugins", "show", "totals"],
        &["plugins", "pause", "totals"],
        &["plugins", "logs", "totals", "--recent", "1"],
        &["state", "get", "totals", "k", "count"],
        &["state", "list", "totals", "k"],
        &["dead-letters", "list"],
        &["dead-letters", "show", "1"],
        &["dead-letters", "redrive", "1"],
        &["keys", "show", "totals", "k"],
        &["timers", "list", "totals"],
        &["buses", "list"],
        &["buses", "follow-clock", "main"],
        &["status"],
    ] {
        let printed = tidegate(&server, &[line, &["--output", "json"]].concat()).await.unwrap();
        let parsed = serde_json::from_str::<serde_json::Value>(&printed);
        assert!(parsed.is_ok(), "{line:?}: {printed}");
    }
}

#[tokio::test]
async fn timers_are_one_document() {
    let server = Fixture::default().await;
    let list = ["timers", "list", "totals", "--output", "json"];
    let printed = tidegate(&server, &list).await.unwrap();
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(document["timers"].as_array().map(Vec::len), Some(1), "{printed}");
}

#[tokio::test]
async fn nothing_is_called_durable_on_a_memory_bus() {
    let server = Fixture::default().await;
    let printed = tidegate(&server, &["publish", "a.b", "--bus", "live"]).await.unwrap();
    assert!(printed.starts_with("#1 a.b  taken ") && !printed.contains("durable"), "{printed}");
}

#[tokio::test]
async fn errors_say_what_to_do_next() {
    let server = Fixture::default().await;
    for (line, says) in [
        (&["plugins", "show", "other"][..], "there is no plugin `other`"),
        (&["plugins", "forget", "totals"], "remove it first"),
        (&["state", "get", "totals", "k", "none"], "there is no state `none` of key `k`"),
        (&["events", "list", "--from", "now"], "'--from <POINT>': is neither a position nor"),
        (&["publish", "a.b", "--data", "{"], "not JSON: quote it for your shell"),
        (&["publish", "tidegate.x"], "`type` is reserved"),
        (&["publish", "--batch", "/no/such/file"], "cannot open `/no/such/file`"),
    ] {
        let error = tidegate(&server, line).await.unwrap_err();
        assert!(error.contains(says), "{line:?}: {error}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let args = ConnectArgs { url: Some(format!("http://{free}")), ..ConnectArgs::default() };
    let answer = tokio::task::spawn_blocking(move || {
        let client = Client::new(&args).unwrap();
        status::status(&client, Output::Text, &mut Out::to(io::sink())).unwrap_err().to_string()
    });
    let error = answer.await.unwrap();
    assert!(error.contains("start one with `tidegate run`"), "{error}");
}

/// It once was asked again and again, without a word.
#[tokio::test]
async fn what_answers_with_no_stream_is_told_from_a_host() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
    });
    let error = command(&["--url", &url, "events", "tail"]).await.unwrap_err();
    assert!(error.contains("is not a tidegate host of this version"), "{error}");
    serving.join().unwrap();
}

#[tokio::test]
async fn a_batch_is_published_once() {
    let server = Fixture::default().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let samples = include_str!("../api/tests/samples.ndjson");
    std::fs::write(file.path(), samples).unwrap();
    let path = file.path().to_str().unwrap();
    let count = samples.lines().count();
    let first = tidegate(&server, &["publish", "--batch", path]).await.unwrap();
    let expected = format!("{{\"acknowledged\":{count},\"appended\":{count},\"duplicates\":0}}\n");
    assert_eq!(first, expected);
    let again = tidegate(&server, &["publish", "--batch", path]).await.unwrap();
    let expected = format!("{{\"acknowledged\":{count},\"appended\":0,\"duplicates\":{count}}}\n");
    assert_eq!(again, expected);
    assert_eq!(server.host.events().len(), count);
}

#[tokio::test]
async fn hosts_are_believed_over_tls_where_their_authority_is_known() {
    let server = Fixture::start(with_tls()).await;
    let one = pem("one.pem").display().to_string();
    let other = pem("other.pem").display().to_string();
    let (port, none) = (server.address.port(), "/no/ca.pem".to_owned());
    for (url, ca_cert, says) in [
        (format!("https://localhost:{port}"), Some(&one), Ok("tidegate 0.1.0   ready")),
        (format!("https://127.0.0.1:{port}"), Some(&one), Ok("tidegate 0.1.0   ready")),
        (format!("https://localhost:{port}"), None, Err("--ca-cert or TIDEGATE_CA_CERT")),
        (format!("https://localhost:{port}"), Some(&other), Err("is not trusted: ")),
        (format!("https://localhost:{port}"), Some(&none), Err("cannot read `/no/ca.pem`: ")),
        (format!("http://localhost:{port}"), None, Err("this port speaks TLS: use https://")),
    ] {
        let mut line = vec!["--url", &url, "status"];
        if let Some(file) = ca_cert {
            line.extend(["--ca-cert", file]);
        }
        let answer = command(&line).await;
        match says {
            Ok(says) => assert!(answer.as_ref().is_ok_and(|a| a.contains(says)), "{answer:?}"),
            Err(says) => assert!(answer.as_ref().is_err_and(|a| a.contains(says)), "{answer:?}"),
        }
    }
    let plain = Fixture::default().await;
    let url = format!("https://localhost:{}", plain.address.port());
    let error = command(&["--url", &url, "status"]).await.unwrap_err();
    assert!(error.contains("does not speak TLS: use http://"), "{error}");
}

#[tokio::test]
async fn what_only_the_host_sees_to_make_no_sense_is_a_usage_error_too() {
    let server = Fixture::default().await;
    let url = format!("http://{}", server.address);
    for (line, code) in [
        (&["events", "list", "--key", ""][..], 2),
        (&["command", "totals", "open", "--key", ""], 2),
        (&["query", "totals", "all", "--key", ""], 2),
        (&["plugins", "rename", "totals", "Bad_"], 2),
        (&["command", "totals", "reject", "--key", "k"], 1),
        (&["plugins", "show", "other"], 1),
    ] {
        let words = [&["tidegate", "--url", &url], line].concat();
        let cli = Cli::try_parse_from(words).unwrap();
        let run = move || run(&cli, &mut Out::to(io::sink()));
        let error = tokio::task::spawn_blocking(run).await.unwrap().unwrap_err();
        assert_eq!(out::failed(&error), ExitCode::from(code), "{line:?}: {error:#}");
    }
}
