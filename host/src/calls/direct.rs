//! Direct requests: a guest waits for the answer, under the same checks as calls and outside of the
//! log.
//!
//! Rule: there are never more threads that send for a plugin than [`DIRECT_SENDING_MAX`], whoever still
//! waits for them; and each ends by the deadline of its delivery, unless the system takes longer to find
//! the address of the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::client::{Client, Resolving, Waits};
use crate::config::Secrets;
use crate::limits::{CALL_CONNECT_MS_MAX, CALL_TIMEOUT_MS_MAX, DIRECT_SENDING_MAX};
use crate::plugin::Grants;
use crate::wasm::{DirectAnswer, DirectFault, DirectRequest, Outside, Unanswered};

/// Sends the direct requests of one version of a plugin.
pub struct Direct {
    client: Arc<Client>,
    secrets: Arc<Secrets>,
    places: Arc<Semaphore>,
}

impl Direct {
    /// For a plugin with these grants, as both sides agree on them.
    #[must_use]
    pub fn new(grants: Grants, secrets: Secrets) -> Self {
        let places = Arc::new(Semaphore::new(DIRECT_SENDING_MAX));
        Self {
            client: Arc::new(Client::new(grants, Resolving::InPlace)),
            secrets: Arc::new(secrets),
            places,
        }
    }
}

impl Outside for Direct {
    fn ask(&self, request: DirectRequest) -> BoxFuture<'static, Result<DirectAnswer, Unanswered>> {
        let (client, secrets) = (Arc::clone(&self.client), Arc::clone(&self.secrets));
        let places = Arc::clone(&self.places);
        Box::pin(async move {
            let failed = |why: String| Unanswered { fault: DirectFault::Connect, why };
            let place = places.acquire_owned().await;
            let place = place.map_err(|error| failed(error.to_string()))?;
            let (tell, told) = oneshot::channel();
            let ask = move || {
                let waits = waits(&request, Instant::now());
                // Nobody waits any more where the delivery has ended.
                let _ = tell.send(client.ask(&request, waits, &secrets));
                drop(place);
            };
            let thread = std::thread::Builder::new().name("direct".to_owned()).spawn(ask);
            thread.map_err(|error| failed(format!("no thread to send it: {error}")))?;
            told.await.unwrap_or_else(|_| Err(failed("sending it panicked".to_owned())))
        })
    }
}

/// How long each part of a request may take, from `now` on.
fn waits(request: &DirectRequest, now: Instant) -> Waits {
    let most = |ms: u32| Duration::from_millis(u64::from(ms));
    let whole = request.deadline.saturating_duration_since(now).min(most(CALL_TIMEOUT_MS_MAX));
    let connect = request.connect.unwrap_or(Duration::MAX).min(most(CALL_CONNECT_MS_MAX));
    Waits {
        whole,
        connect: connect.min(whole),
        first_byte: request.first_byte,
        between_bytes: request.between_bytes,
    }
}

#[cfg(test)]
mod tests;
