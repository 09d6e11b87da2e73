use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::api::errors::ErrorDetail;
use crate::cli::client::ConnectArgs;

fn event(id: u64) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"a"}}"#)
}

fn refused(code: &str, index: Option<usize>) -> ClientError {
    let detail = ErrorDetail { code: code.to_owned(), index, ..ErrorDetail::default() };
    ClientError::Refused { detail: Box::new(detail) }
}

fn gone() -> ClientError {
    ClientError::NoHost { url: "http://h".to_owned() }
}

/// Publishes a text against a host that answers each request with what `answers` says of it.
fn publish(
    text: &str,
    answers: impl FnMut(usize, &[serde_json::Value]) -> Result<Vec<bool>, ClientError>,
) -> (Result<(), BatchError>, Summary, Vec<usize>, Duration) {
    publish_from(text.as_bytes(), answers)
}

fn publish_from(
    source: impl Read,
    mut answers: impl FnMut(usize, &[serde_json::Value]) -> Result<Vec<bool>, ClientError>,
) -> (Result<(), BatchError>, Summary, Vec<usize>, Duration) {
    let (mut sizes, mut waited) = (Vec::new(), Duration::ZERO);
    let mut publisher = Publisher {
        send: &mut |chunk| {
            let events: Vec<serde_json::Value> = serde_json::from_slice(&chunk.body).unwrap();
            assert_eq!(events.len(), chunk.lines.len());
            sizes.push(events.len());
            let duplicates = answers(sizes.len(), &events)?;
            let views = duplicates.into_iter().map(|duplicate| AppendedView {
                source: String::new(),
                id: String::new(),
                position: 0,
                sequence: 0,
                duplicate,
            });
            Ok(views.collect())
        },
        wait: &mut |pause| waited += pause,
        patience: Duration::from_secs(60),
        progress: &ProgressBar::hidden(),
        summary: Summary::default(),
    };
    let result = publisher.publish(source);
    let summary = publisher.summary;
    (result, summary, sizes, waited)
}

#[test]
fn chunks_keep_order_and_bounds() {
    let lines: Vec<_> = (0..1201).map(event).collect();
    let mut seen = Vec::new();
    let (result, summary, sizes, _) = publish(&lines.join("\r\n"), |_, events| {
        seen.extend(events.iter().map(|e| e["id"].as_str().unwrap().parse::<u64>().unwrap()));
        Ok(vec![false; events.len()])
    });
    result.unwrap();
    assert_eq!(sizes, [500, 500, 201]);
    assert_eq!(seen, (0..1201).collect::<Vec<_>>());
    assert_eq!(summary, Summary { acknowledged: 1201, appended: 1201, duplicates: 0 });
}

#[test]
fn a_byte_order_mark_in_front_is_no_part_of_the_first_line() {
    let text = format!("\u{feff}{}", event(1));
    let (result, summary, ..) = publish(&text, |_, events| Ok(vec![false; events.len()]));
    result.unwrap();
    assert_eq!(summary.appended, 1);
    let text = format!("{}\n\u{feff}{}", event(1), event(2));
    publish(&text, |_, events| Ok(vec![false; events.len()])).0.unwrap_err();
}

#[test]
fn large_events_make_small_chunks() {
    let large = |id: u64| {
        let data = "x".repeat(400 * 1024);
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"a","data":"{data}"}}"#)
    };
    let text = [large(1), large(2), large(3), large(4), event(5)].join("\n");
    let (result, _, sizes, _) = publish(&text, |_, events| Ok(vec![false; events.len()]));
    result.unwrap();
    assert_eq!(sizes, [2, 3]);
    // One event over the bound of a chunk still travels, alone.
    let mut chunker = Chunker::default();
    assert_eq!(chunker.push(1, b"{}"), None);
    let first = chunker.push(2, &vec![b' '; CHUNK_BYTES_MAX]).unwrap();
    assert_eq!((first.body, first.lines), (b"[{}]".to_vec(), vec![1]));
    assert_eq!(chunker.push(3, b"{}").unwrap().lines, [2]);
}

/// A host with a smaller bound once refused the same chunk for ever.
#[test]
fn a_host_that_takes_less_at_a_time_gets_less() {
    let too_large = |actual: usize| {
        let mut error = refused("too_large", None);
        if let ClientError::Refused { detail } = &mut error {
            detail.actual = Some(actual as u64);
        }
        error
    };
    let text = |count: u64| (1..=count).map(event).collect::<Vec<_>>().join("\n");
    for of_events in [true, false] {
        let mut seen: Vec<u64> = Vec::new();
        let (result, summary, sizes, _) = publish(&text(1100), |_, events| {
            let bytes = serde_json::to_vec(events).unwrap().len();
            if of_events && events.len() > 100 {
                return Err(too_large(events.len()));
            } else if !of_events && bytes > 10_000 {
                return Err(too_large(bytes));
            }
            let ids =
                events.iter().map(|event| event["id"].as_str().unwrap().parse::<u64>().unwrap());
            seen.extend(ids);
            Ok(vec![false; events.len()])
        });
        result.unwrap();
        assert_eq!(seen, (1..=1100).collect::<Vec<_>>());
        assert_eq!((summary.acknowledged, summary.appended), (1100, 1100));
        assert!(sizes.len() < 30, "what was learned is kept: {sizes:?}");
    }
    let (result, summary, sizes, _) = publish(&text(4), |_, _| Err(too_large(1)));
    assert_eq!(result.unwrap_err().to_string(), "lines 1 to 1: ");
    assert_eq!((summary, sizes), (Summary::default(), vec![4, 2, 1]));
}

/// What asks a host for something, up to the body, and the bytes of that.
fn head(reader: &mut BufReader<TcpStream>) -> (String, usize) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let length = length.parse().unwrap();
    (head, length)
}

/// The host cuts off a body that is far beyond its bound, and with it went what it had answered.
#[test]
fn a_host_that_cuts_a_body_off_is_asked_before_the_next_is_sent() {
    const BYTES_MAX: usize = 64 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let client = Client::new(&ConnectArgs { url, ..ConnectArgs::default() }).unwrap();
    let chunk = |bytes: usize| Chunk { body: vec![b' '; bytes], ..Chunk::default() };
    let served = std::thread::spawn(move || {
        let answer = |stream: TcpStream| {
            let mut reader = BufReader::new(stream);
            let (head, bytes) = head(&mut reader);
            let asked = head.contains("expect: 100-continue");
            if bytes > BYTES_MAX && !asked {
                // A connection that is closed before all of it was read is reset.
                return (bytes, asked);
            }
            let (status, body) = if bytes > BYTES_MAX {
                ("413 Content Too Large", r#"{"error":{"code":"too_large","message":"no"}}"#)
            } else {
                if asked {
                    reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
                }
                reader.read_exact(&mut vec![0; bytes]).unwrap();
                ("200 OK", "[]")
            };
            let headers = format!("content-length: {}\r\nconnection: close", body.len());
            let answer = format!("HTTP/1.1 {status}\r\n{headers}\r\n\r\n{body}");
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            (bytes, asked)
        };
        listener.incoming().take(4).map(|stream| answer(stream.unwrap())).collect::<Vec<_>>()
    });
    let mut send = sender(&client, None);
    let large = chunk(CHUNK_BYTES_MAX);
    let broken = send(&large).unwrap_err();
    assert!(matches!(broken, ClientError::Broken { .. }), "{broken:?}");
    let refused = send(&large).unwrap_err();
    assert!(too_large(&refused).is_some(), "{refused:?}");
    for _ in 0..2 {
        send(&chunk(BYTES_MAX)).unwrap();
    }
    let asked = served.join().unwrap();
    let large = CHUNK_BYTES_MAX;
    assert_eq!(asked, [(large, false), (large, true), (BYTES_MAX, true), (BYTES_MAX, true)]);
}

#[test]
fn a_lost_host_is_waited_for_and_the_same_chunk_sent_again() {
    let (result, summary, sizes, waited) =
        publish(&[event(1), event(2)].join("\n"), |attempt, _| match attempt {
            1 => Err(gone()),
            2 => Err(refused("queue_full", None)),
            3 => Err(refused("shutting_down", None)),
            _ => Ok(vec![true, false]),
        });
    result.unwrap();
    assert_eq!(sizes, [2, 2, 2, 2]);
    assert_eq!(summary, Summary { acknowledged: 2, appended: 1, duplicates: 1 });
    assert!(waited > Duration::from_millis(300) && waited < Duration::from_secs(1), "{waited:?}");
}

#[test]
fn patience_ends() {
    let (result, summary, _, waited) = publish(&event(1), |_, _| Err(gone()));
    let text = result.unwrap_err().to_string();
    assert!(text.contains("lines 1 to 1") && text.contains("tidegate run"), "{text}");
    assert_eq!(summary, Summary::default());
    assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(66), "{waited:?}");
}

#[test]
fn a_bad_line_is_named_and_what_stands_before_it_is_published() {
    for (bad, says) in [
        ("{\"id\":", "line 4: not valid JSON at column 6"),
        ("{\"specversion\":\"1.0\"}", "line 4: `id` is missing"),
        ("42", "line 4: not a CloudEvent"),
    ] {
        let text = format!("{}\n\n{}\n{bad}\n{}", event(1), event(2), event(3));
        let (result, summary, sizes, _) = publish(&text, |_, e| Ok(vec![false; e.len()]));
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
        assert_eq!((summary.acknowledged, sizes), (2, vec![2]));
    }
}

#[test]
fn what_the_host_refuses_is_named_by_line() {
    let text = format!("{}\n\n{}\n", event(1), event(2));
    let (result, ..) = publish(&text, |_, _| Err(refused("id_conflict", Some(1))));
    assert!(result.unwrap_err().to_string().starts_with("line 3: "));
}

/// A full disk is no reason to take the file apart, nor to give it up.
#[test]
fn who_mends_what_keeps_the_host_from_taking_a_file_is_told_to_publish_it_again() {
    for (code, again) in [("storage_full", true), ("unauthorized", true), ("not_found", false)] {
        let (result, ..) = publish(&event(1), |_, _| Err(refused(code, None)));
        let text = result.unwrap_err().to_string();
        assert_eq!(text.contains("publish the same file again"), again, "{text}");
    }
}

/// Gives one part after the other, and pauses between them.
struct Parts(Vec<String>, bool);

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if !self.1 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let part = if self.0.is_empty() { String::new() } else { self.0.remove(0) };
        part.as_bytes().read(buffer)
    }
}

#[test]
fn what_is_there_is_sent_in_a_pause_and_lines_keep_their_numbers() {
    let (half, rest) = (event(3), event(3).split_off(20));
    let parts = [
        format!("\u{feff}{}\n{}\n{}", event(1), event(2), &half[..20]),
        String::from(&rest[..5]),
        format!("{}\n\n", &rest[5..]),
        format!("{}\n{{}}\n{}", event(4), event(5)),
    ];
    let mut seen = Vec::new();
    let (result, summary, sizes, _) = publish_from(Parts(parts.to_vec(), true), |_, events| {
        seen.extend(events.iter().map(|e| e["id"].as_str().unwrap().to_owned()));
        Ok(vec![false; events.len()])
    });
    assert_eq!((sizes, seen.concat().as_str()), (vec![2, 1, 1], "1234"));
    assert_eq!(summary.acknowledged, 4);
    let error = result.unwrap_err().to_string();
    assert!(error.starts_with("line 6: `specversion` is missing"), "{error}");
    // The end of the source is the end of the last line, also where it paused before.
    let parts = vec![event(1), String::new()];
    let (result, summary, ..) = publish_from(Parts(parts, true), |_, e| Ok(vec![false; e.len()]));
    result.unwrap();
    assert_eq!(summary.acknowledged, 1);
}

#[test]
fn a_pipe_tells_of_a_pause_once_and_a_file_of_none() {
    let (reader, mut writer) = io::pipe().unwrap();
    let mut pipe = Pausing::new(std::os::fd::OwnedFd::from(reader).into());
    let mut buffer = [0; 8];
    for _ in 0..2 {
        assert_eq!(pipe.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        io::Write::write_all(&mut writer, b"{}").unwrap();
        assert_eq!(pipe.read(&mut buffer).unwrap(), 2);
    }
    drop(writer);
    assert_eq!(pipe.read(&mut buffer).unwrap(), 0);
    let mut file = Pausing::new(tempfile::tempfile().unwrap());
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
}

#[test]
fn a_line_without_end_is_refused() {
    let endless = io::repeat(b'x');
    let mut lines = Lines::new(endless);
    assert!(matches!(lines.next(), Err(BatchError::TooLong { line: 1 })));
}
