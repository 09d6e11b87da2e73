//! The bodies of requests: in bounded memory, from clients that do send them.
//!
//! Rule: a client holds as much of the memory for bodies as it has sent, whatever it announces. Else a
//! few that announce much and send little keep all others out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::app::App;
use super::errors::{ApiError, Code};

/// Share of the memory for bodies that even an empty one takes: it bounds how many there are.
const SHARE_BYTES_MIN: usize = 4 * 1024;
/// Share that is taken before a byte has come.
const SHARE_BYTES_FIRST: usize = 64 * 1024;
/// A body that nobody wants is read on up to this many times the limit.
const REFUSED_FACTOR: usize = 4;
/// Longest time between two parts of a body, and before it has to come at [`RATE_BYTES_MIN`].
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Bytes a second that a body has to come at.
const RATE_BYTES_MIN: u64 = 4 * 1024;

/// The body of a request, read on beside the answer where whoever was to read it stopped: a client that
/// is cut off while it sends would not see the answer.
struct Sent {
    body: Body,
    /// Of the body that was read.
    seen: usize,
    pace: Pace,
    rest: Rest,
    /// Whether there is something to read on.
    is_coming: bool,
}

/// What reading on goes by.
struct Rest {
    limit: usize,
    bodies: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Until when the next part of a body is waited for.
#[derive(Clone, Copy)]
struct Pace {
    begun: Instant,
    /// The last part came.
    last: Instant,
    all: Duration,
}

impl Pace {
    fn new(all: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, last: begun, all }
    }

    fn until(&self, seen_bytes: usize) -> Instant {
        let earned = Duration::from_millis(seen_bytes as u64 * 1000 / RATE_BYTES_MIN);
        let by_rate = self.begun + (IDLE_MAX + earned).min(self.all);
        by_rate.min(self.last + IDLE_MAX)
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // From here on a client that waited for `100 Continue` sends, too.
        self.is_coming = true;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.pace.last = Instant::now();
                self.seen += frame.data_ref().map_or(0, Bytes::len);
            }
            Some(Err(_)) | None => self.is_coming = false,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if !self.is_coming || self.body.is_end_stream() {
            return;
        }
        // Where the host is being taken apart, connections end anyway.
        let Ok(runtime) = Handle::try_current() else { return };
        let (mut body, mut seen) = (std::mem::take(&mut self.body), self.seen);
        let Rest { limit, bodies, stop } = &self.rest;
        let Ok(share) = share(bodies, SHARE_BYTES_MIN.min(*limit)) else { return };
        let (most, stop, mut pace) =
            (limit.saturating_mul(REFUSED_FACTOR), stop.clone(), self.pace);
        let rest = async move {
            let _share = share;
            while seen <= most
                && let Ok(Some(chunk)) = next(&mut body, pace.until(seen), &pace).await
            {
                pace.last = Instant::now();
                seen += chunk.len();
            }
        };
        runtime.spawn(async move { stop.run_until_cancelled(rest).await });
    }
}

impl App {
    /// Has what is not read of the body of a request read on once nobody wants it.
    pub(super) fn read_on(&self, request: Request) -> Request {
        if request.body().is_end_stream() {
            return request;
        }
        let is_coming = !request.headers().contains_key(header::EXPECT);
        let rest = Rest {
            limit: self.options.body_bytes_max,
            bodies: Arc::clone(&self.bodies),
            stop: self.stop.clone(),
        };
        let pace = Pace::new(self.options.body_timeout);
        request.map(|body| Body::new(Sent { body, seen: 0, pace, rest, is_coming }))
    }

    /// The whole body of a request, and its share of the memory for bodies, to be held as long as
    /// the events in it are.
    pub(super) async fn body(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<(Bytes, OwnedSemaphorePermit), ApiError> {
        let limit = self.options.body_bytes_max;
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        let announced = announced.and_then(|text| text.parse::<u64>().ok());
        let mut pace = Pace::new(self.options.body_timeout);
        if let Some(actual) = announced.filter(|actual| *actual > limit as u64) {
            return Err(too_large(limit, actual));
        }
        let most = announced.map_or(limit, |n| usize::try_from(n).unwrap_or(limit).min(limit));
        let first = most.min(SHARE_BYTES_FIRST);
        let mut permit = share(&self.bodies, first.max(SHARE_BYTES_MIN.min(limit)))?;
        let mut bytes = BytesMut::with_capacity(first);
        let mut seen: usize = 0;
        while let Some(chunk) = next(&mut body, pace.until(seen), &pace).await? {
            pace.last = Instant::now();
            seen += chunk.len();
            if seen > limit {
                return Err(too_large(limit, seen as u64));
            }
            let held = permit.num_permits();
            if seen > held {
                // Twice as much each time, as the buffer grows, but no more than announced.
                let wanted = (2 * held).min(most).max(seen);
                permit.merge(share(&self.bodies, wanted - held)?);
                bytes.reserve(wanted - bytes.len());
            }
            bytes.extend_from_slice(&chunk);
        }
        // Only now, so that the client sees the answer.
        check_encoding(headers)?;
        Ok((bytes.freeze(), permit))
    }
}

fn share(bodies: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Arc::clone(bodies)
        .try_acquire_many_owned(bytes)
        .map_err(|_| ApiError::new(Code::QueueFull, "too many events are on their way in"))
}

/// The next part of a body; none: that was all.
async fn next(body: &mut Body, until: Instant, pace: &Pace) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout_at(until, body.frame()).await.map_err(|_| {
            let waited = pace.begun.elapsed().as_secs();
            let all = pace.all;
            let message = format!(
                "the body did not arrive within {all:?}, or too slowly: given up after {waited} s"
            );
            ApiError::new(Code::RequestTimeout, message)
        })?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|_| ApiError::new(Code::InvalidRequest, "the body broke off"))?;
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
}

/// A body is taken as it is: one that is compressed would be stored as what it is not.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    for (name, what, plain) in [
        (header::CONTENT_ENCODING, "content", "identity"),
        (header::TRANSFER_ENCODING, "transfer", "chunked"),
    ] {
        for value in headers.get_all(name) {
            let text = String::from_utf8_lossy(value.as_bytes());
            let known = |coding: &&str| coding.is_empty() || coding.eq_ignore_ascii_case(plain);
            if let Some(coding) = text.split(',').map(str::trim).find(|coding| !known(coding)) {
                let coding = coding.escape_debug();
                let message =
                    format!("{what} encoding `{coding}` is not supported: send the body as it is");
                return Err(ApiError::new(Code::UnsupportedMediaType, message));
            }
        }
    }
    Ok(())
}

fn too_large(limit: usize, actual: u64) -> ApiError {
    let limit = limit as u64;
    let message = format!("the body has {actual} bytes, at most {limit} are allowed");
    ApiError::over(Code::TooLarge, message, limit, actual)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn an_encoding_that_would_have_to_be_undone_is_refused() {
        let with = |values: &[&'static str]| {
            let name = header::CONTENT_ENCODING;
            values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
        };
        for fine in [&[][..], &["identity"], &["Identity, identity"], &[""]] {
            assert!(check_encoding(&with(fine)).is_ok(), "{fine:?}");
        }
        for (wrong, named) in
            [(&["gzip"][..], "`gzip`"), (&["identity", "identity, br"], "`br`"), (&["x\t"], "`x`")]
        {
            let error = check_encoding(&with(wrong)).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedMediaType);
            assert!(error.detail.message.contains(named), "{wrong:?}: {}", error.detail.message);
        }
        let transfer = |coding: &'static str| {
            [(header::TRANSFER_ENCODING, HeaderValue::from_static(coding))].into_iter().collect()
        };
        assert!(check_encoding(&transfer("Chunked")).is_ok());
        let error = check_encoding(&transfer("gzip, chunked")).unwrap_err();
        assert!(error.detail.message.contains("transfer encoding `gzip`"), "{error:?}");
    }

    #[test]
    fn who_sends_is_waited_for_and_who_trickles_is_not() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let until =
            |last, seen| Pace { begun, last: at(last), all: Duration::from_secs(60) }.until(seen);
        assert_eq!(until(0, 0), at(10), "nothing came");
        assert!(until(9, 9) < at(11), "a byte a second");
        assert_eq!(until(9, 40 * 1024), at(19), "then nothing more");
        assert_eq!(until(55, 8 << 20), at(60), "but not for ever");
    }
}
