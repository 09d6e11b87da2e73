//! What text protocols of brokers have in common: lines, and blocks of so many bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A connection with a buffer in each direction.
pub struct Lines {
    input: BufReader<TcpStream>,
    output: TcpStream,
    /// What goes out with the next [`Lines::flush`].
    pub pending: Vec<u8>,
}

impl Lines {
    /// Connects to a server that is starting.
    pub fn connect(port: u16) -> Result<Self> {
        let began = Instant::now();
        let output = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > Duration::from_secs(10) => {
                    return Err(error).context("the server does not listen");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        output.set_nodelay(true)?;
        output.set_read_timeout(Some(Duration::from_secs(30)))?;
        let input = BufReader::with_capacity(256 << 10, output.try_clone()?);
        Ok(Self { input, output, pending: Vec::new() })
    }

    /// Sends what is pending.
    pub fn flush(&mut self) -> Result<()> {
        self.output.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            bail!("the server has closed the connection");
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    /// The next `len` bytes, and the end of line behind them.
    pub fn block(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut block = vec![0; len + 2];
        self.input.read_exact(&mut block)?;
        block.truncate(len);
        Ok(block)
    }

    /// Whether more has arrived than was read.
    pub fn has_more(&self) -> bool {
        !self.input.buffer().is_empty()
    }
}

/// A port that is free now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A server of ours, ended when dropped.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The payload of every event.
pub fn payload() -> Vec<u8> {
    (0..crate::EVENT_BYTES).map(|at| b'a' + (at * 7 % 26) as u8).collect()
}
