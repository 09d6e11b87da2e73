//! Connections whose bytes a test writes itself, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Host;

/// Longest wait for what must come, or must end.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) fn connect(host: &Host) -> Self {
        let address = host.url().rsplit('/').next().expect("a URL has an address");
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Lets a write that nobody takes fail soon: the other end may well stop to read.
    pub(crate) fn give_up_soon(&self) {
        self.0.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    }

    /// Writes, unless the other end has closed: what it says meanwhile is still there to be read.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Everything that comes until the other end closes.
    ///
    /// # Panics
    /// Where it does not within [`PATIENCE`].
    pub(crate) fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let so_far = String::from_utf8_lossy(&bytes);
                panic!("the host keeps a connection that it should end, after: {so_far}")
            }
            // A reset is an end too.
            _ => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// The head of one answer.
    pub(crate) fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && self.0.read(&mut byte).is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        String::from_utf8_lossy(&head).into_owned()
    }
}
