//! Answers on their way to clients: in bounded memory, and to clients that do take them.
//!
//! Who asks for much and reads nothing costs the memory of all of it. Over HTTP/2 that needs no
//! connection that is left unread, which [`super::io`] would notice: a client may read everything but
//! allow for nothing to be sent.
//!
//! Rule: an answer that is worth counting takes its share of the memory for answers until the client
//! has all of it, and a connection on which one gets nowhere is dropped.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep_until};

use super::app::App;
use super::errors::{ApiError, Code};

/// Bytes of an answer that costs less than what is kept of its connection anyway.
const COUNTED_BYTES_MIN: u64 = 4 * 1024;
/// Bytes that are handed on at a time. They are copies, so that nothing keeps the rest of an answer.
const PART_BYTES: usize = 64 * 1024;
/// Bytes a second at which an answer has to be taken.
const RATE_BYTES_MIN: u64 = 16 * 1024;

/// The counted answers of one connection.
#[derive(Debug)]
pub(super) struct Answers {
    stall_max: Duration,
    open: Mutex<Open>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    /// By number: until when the client is waited for.
    until: BTreeMap<u64, Instant>,
}

/// How long an answer may still take.
#[derive(Debug, Clone, Copy)]
struct Pace {
    begun: Instant,
    stall_max: Duration,
}

impl Pace {
    /// Until when the part after so many bytes is to be taken, the last one being taken `now`.
    fn until(self, now: Instant, taken_bytes: u64) -> Instant {
        let earned = Duration::from_millis(taken_bytes * 1000 / RATE_BYTES_MIN);
        (self.begun + self.stall_max + earned).min(now + self.stall_max)
    }
}

impl Answers {
    /// `stall_max`: how long a client may take nothing of an answer.
    pub(super) fn new(stall_max: Duration) -> Arc<Self> {
        Arc::new(Self { stall_max, open: Mutex::default(), begun: Notify::new() })
    }

    /// Resolves once an answer of the connection gets nowhere.
    pub(super) async fn stalled(&self) {
        loop {
            let begun = self.begun.notified();
            let until = self.open().until.values().min().copied();
            match until {
                Some(until) if until <= Instant::now() => return,
                // Others end later than what is waited for now.
                Some(until) => sleep_until(until).await,
                None => begun.await,
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing under this lock can be left half-done by a panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, rest: Bytes, share: OwnedSemaphorePermit) -> Held {
        let begun = Instant::now();
        let pace = Pace { begun, stall_max: self.stall_max };
        let mut open = self.open();
        open.last += 1;
        let number = open.last;
        open.until.insert(number, pace.until(begun, 0));
        drop(open);
        self.begun.notify_one();
        Held { rest, taken: 0, number, pace, of: Arc::clone(self), _share: share }
    }
}

/// What a client has not taken yet of an answer.
struct Held {
    rest: Bytes,
    taken: u64,
    number: u64,
    pace: Pace,
    of: Arc<Answers>,
    _share: OwnedSemaphorePermit,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(PART_BYTES);
        let part = Bytes::copy_from_slice(&self.rest.split_to(len));
        self.taken += len as u64;
        let until = self.pace.until(Instant::now(), self.taken);
        self.of.open().until.insert(self.number, until);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.open().until.remove(&self.number);
    }
}

impl App {
    /// Counts an answer until it is taken. One that only reads is refused where there is no room;
    /// others wait for it, since what they tell of is done.
    pub(super) async fn count(
        &self,
        method: &Method,
        answers: &Arc<Answers>,
        response: Response,
    ) -> Result<Response, ApiError> {
        let bytes = response.body().size_hint().exact().unwrap_or_default();
        if bytes < COUNTED_BYTES_MIN {
            return Ok(response);
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let share = u32::try_from(bytes.min(self.options.answers_bytes_max)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.answers);
        let share = if method.is_safe() {
            room.try_acquire_many_owned(share).ok()
        } else {
            room.acquire_many_owned(share).await.ok()
        };
        let full = || ApiError::new(Code::QueueFull, "too many answers wait to be read");
        let share = share.ok_or_else(full)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| {
            ApiError::new(Code::Internal, format!("an answer broke off: {error}"))
        })?;
        Ok(Response::from_parts(head, Body::new(answers.begin(body.to_bytes(), share))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_an_answer_slowly_is_waited_for_and_who_stops_is_not() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let pace = Pace { begun, stall_max: Duration::from_secs(30) };
        assert_eq!(pace.until(begun, 0), at(30), "nothing is taken");
        assert_eq!(pace.until(at(29), 16 * 1024), at(31), "too slowly");
        assert_eq!(pace.until(at(5), 8 << 20), at(35), "much, and then nothing");
        assert_eq!(pace.until(at(300), 8 << 20), at(330), "slow, and steady");
    }
}
