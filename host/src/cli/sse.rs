//! Server-sent events, as the HTML standard has them ("9.2.6 Interpreting an event stream").
//!
//! Rule: a line ends with CR, LF or both. The host passes on data as it was published, and JSON may
//! have either between its tokens.

use std::io::{self, BufRead, BufReader, Read};

use super::client::ClientError;

/// Bytes of one line of a stream: an event in JSON, escaped.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Server-sent events.
pub struct Items {
    reader: BufReader<Box<dyn Read>>,
    /// The last line ended with CR: a LF that comes next belongs to it. It is not waited for, because
    /// it may not come before the next item.
    after_cr: bool,
    url: String,
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Where to go on after it.
    pub id: Option<String>,
    /// What it says; its lines are joined by LF. None: it only says where to go on.
    pub data: Option<String>,
}

impl Items {
    pub(super) fn new(reader: impl Read + 'static, url: String) -> Self {
        Self { reader: BufReader::new(Box::new(reader)), after_cr: false, url }
    }

    /// The next one; none: the stream has ended.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub fn next_item(&mut self) -> Result<Option<Item>, ClientError> {
        let mut item = Item::default();
        // What stands before a blank line that never came is not an item.
        while let Some(line) = self.line().map_err(|error| self.broken(&error))? {
            if line.is_empty() && item != Item::default() {
                return Ok(Some(item));
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => {
                    if let Some(data) = &mut item.data {
                        data.push('\n');
                        data.push_str(value);
                    } else {
                        item.data = Some(value.to_owned());
                    }
                }
                "id" => item.id = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next line, without its end; none: the stream has ended, maybe within a line.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            let buffered = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffered => buffered?,
            };
            let Some(first) = buffered.first() else { return Ok(None) };
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                self.reader.consume(1);
                continue;
            }
            let end = buffered.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let (part, rest) = buffered.split_at(end.unwrap_or(buffered.len()));
            line.extend_from_slice(part);
            self.after_cr = rest.first() == Some(&b'\r');
            let taken = part.len() + usize::from(end.is_some());
            self.reader.consume(taken);
            if line.len() > LINE_BYTES_MAX {
                let why = format!("a line has over {LINE_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if end.is_some() {
                let text = String::from_utf8(line);
                return text
                    .map(Some)
                    .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }

    fn broken(&self, error: &io::Error) -> ClientError {
        ClientError::Broken { url: self.url.clone(), why: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time, as a slow network does.
    struct Trickle(&'static [u8]);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let one = buffer.len().min(1);
            self.0.read(&mut buffer[..one])
        }
    }

    /// Id and data of each.
    fn read(text: &'static str) -> Vec<(String, String)> {
        let all = |mut items: Items| {
            std::iter::from_fn(|| items.next_item().unwrap())
                .map(|Item { id, data }| {
                    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                    (shown(id), shown(data))
                })
                .collect::<Vec<_>>()
        };
        let whole = all(Items::new(text.as_bytes(), String::new()));
        assert_eq!(all(Items::new(Trickle(text.as_bytes()), String::new())), whole);
        whole
    }

    #[test]
    fn items_are_put_together_from_their_lines() {
        let items = read(":keep\n\nid: 1-2\ndata: {\ndata: }\n\nevent: x\ndata:y\n\ndata: cut");
        let pair = |id: &str, data: &str| (id.to_owned(), data.to_owned());
        assert_eq!(items, [pair("1-2", "{\n}"), pair("-", "y")]);
        let said = read("id: 1-2\n\n\nevent: x\n\ndata:\n\n");
        assert_eq!(said, [pair("1-2", "-"), pair("-", "")]);
    }

    #[test]
    fn a_line_ends_with_either_or_both() {
        for text in ["id: 1\rdata: {\rdata: }\r\r", "id: 1\r\ndata: {\r\ndata: }\r\n\r\n"] {
            assert_eq!(read(text), [("1".to_owned(), "{\n}".to_owned())], "{text:?}");
        }
        // As the host sends `{CR LF}`.
        let mixed = read("data: {\rdata: \ndata: }\n\ndata: 2\r\n\n");
        assert_eq!(
            mixed,
            [("-", "{\n\n}"), ("-", "2")].map(|(id, data)| (id.to_owned(), data.to_owned()))
        );
    }

    #[test]
    fn the_end_of_an_item_is_not_waited_for_longer_than_needed() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("nothing more may be asked for"))
            }
        }
        let mut items = Items::new(b"data: 1\r\r".chain(Fails), String::new());
        assert_eq!(items.next_item().unwrap().unwrap().data.as_deref(), Some("1"));
        assert!(items.next_item().is_err());
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut items = Items::new(io::repeat(b'x'), String::new());
        let error = items.next_item().unwrap_err();
        assert!(error.to_string().contains("a line has over"), "{error}");
    }
}
