//! A connection whose client must take what it asked for: one that reads nothing for a while, or a
//! little now and then, is dropped, so that nothing has to be kept for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes a second at which a client that is waited for makes up for it.
const RATE_BYTES_MIN: u64 = 16 * 1024;

/// Whether a client has sent anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<AtomicBool>);

impl Heard {
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A TCP connection with a limit on how long a write may stall.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: TcpStream,
    heard: Heard,
    patience: Patience,
    /// Since when a write waits, and until when.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// How long a client may be waited for.
#[derive(Debug)]
struct Patience {
    most: Duration,
    /// What of it is used up.
    used: Duration,
}

impl Patience {
    fn left(&self) -> Duration {
        self.most.saturating_sub(self.used)
    }

    /// The client was waited for, and has taken some bytes then.
    fn took(&mut self, bytes: usize, waited: Duration) {
        let earned = Duration::from_millis(bytes as u64 * 1000 / RATE_BYTES_MIN);
        self.used = self.used.saturating_add(waited).saturating_sub(earned);
    }
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, stall_max: Duration, heard: Heard) -> Self {
        let patience = Patience { most: stall_max, used: Duration::ZERO };
        Self { stream, heard, patience, stalled: None }
    }

    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(ended) = &wrote {
            let since = self.stalled.take().map(|(since, _)| since.elapsed());
            let bytes = ended.as_ref().map_or(0, |bytes| *bytes);
            self.patience.took(bytes, since.unwrap_or_default());
            return wrote;
        }
        let left = self.patience.left();
        let (_, until) =
            self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        ready!(until.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.0.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_little_now_and_then_is_not_waited_for_for_ever() {
        let second = Duration::from_secs(1);
        let after = |bytes_a_second: usize, seconds: u32| {
            let mut patience = Patience { most: 30 * second, used: Duration::ZERO };
            (0..seconds).for_each(|_| patience.took(bytes_a_second, second));
            patience.left()
        };
        assert_eq!(after(0, 29), second);
        assert_eq!(after(4096, 40), Duration::ZERO);
        assert_eq!(after(16 * 1024, 100_000), 30 * second, "slow, and steady");
    }
}
