//! An HTTP server that misbehaves, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whether it was answered with success.
    pub(crate) taken: bool,
}

/// What it does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Closes the connection without a word.
    Drop,
    /// Answers with this status and these further header lines.
    Status(u16, &'static str),
    /// Answers with success, after a while.
    Slow(Duration),
    /// Answers with success and a body of this many bytes.
    Large(usize),
    /// Answers with success and a body without end.
    Endless,
    /// The same, a byte at a time.
    Drip(Duration),
    /// Answers with headers of this many bytes.
    Headers(usize),
}

/// A running server; ends with the test.
pub(crate) struct Flaky {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Flaky {
    /// Starts one that answers each request as `decide` says.
    pub(crate) fn start(decide: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (into, decide) = (Arc::clone(&asked), Arc::new(decide));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (into, decide) = (Arc::clone(&into), Arc::clone(&decide));
                // A host that is killed breaks its connections: that is nobody's failure.
                std::thread::spawn(move || drop(serve(stream, &into, &*decide)));
            }
        });
        Self { port, asked }
    }

    /// Everything that was asked so far, in the order in which it was read.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn serve(
    mut stream: TcpStream,
    asked: &Mutex<Vec<Asked>>,
    decide: &dyn Fn(&Asked) -> Reply,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(mut request) = read(&mut reader)? {
        let reply = decide(&request);
        request.taken =
            matches!(reply, Reply::Slow(_) | Reply::Large(_) | Reply::Status(200..300, _));
        // Noted before the answer: who has that can rely on it.
        asked.lock().unwrap().push(request);
        let (status, more) = match reply {
            Reply::Drop => return Ok(()),
            Reply::Status(status, more) => (status, more),
            Reply::Large(bytes) => {
                write!(stream, "HTTP/1.1 200 Said\r\ncontent-length: {bytes}\r\n\r\n")?;
                stream.write_all(&vec![b'x'; bytes])?;
                continue;
            }
            Reply::Endless => return without_end(stream, &[b'x'; 16 * 1024], Duration::ZERO),
            Reply::Drip(pause) => return without_end(stream, b"x", pause),
            Reply::Headers(bytes) => {
                stream.write_all(b"HTTP/1.1 200 Said\r\ncontent-length: 0\r\n")?;
                for n in 0..bytes / 1024 {
                    write!(stream, "x-{n}: {}\r\n", "y".repeat(1024))?;
                }
                stream.write_all(b"\r\n")?;
                continue;
            }
            Reply::Slow(pause) => {
                std::thread::sleep(pause);
                (200, "")
            }
        };
        write!(stream, "HTTP/1.1 {status} Said\r\ncontent-length: 2\r\n{more}\r\nok")?;
    }
    Ok(())
}

/// A body in parts, until the other end has enough.
fn without_end(mut stream: TcpStream, part: &[u8], pause: Duration) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Said\r\ntransfer-encoding: chunked\r\n\r\n")?;
    loop {
        write!(stream, "{:x}\r\n", part.len())?;
        stream.write_all(part)?;
        stream.write_all(b"\r\n")?;
        std::thread::sleep(pause);
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Asked { line: line.trim_end().to_owned(), headers, body, taken: false }))
}
