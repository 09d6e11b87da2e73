//! Where a host listens: an address that is its own before anything is touched, and that lets nobody in
//! before the host can answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::api::{BindError, Place};

/// How long an address that somebody has is tried again.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// How often.
const POLL: Duration = Duration::from_millis(20);

/// Takes an address; one that is taken is tried again for a moment, as the lock of a log is: the system may
/// still be taking the host apart that was killed before this start.
///
/// # Errors
/// [`BindError`].
pub(super) async fn take(address: SocketAddr) -> Result<Place, BindError> {
    let begun = Instant::now();
    loop {
        match Place::take(address) {
            Err(BindError::Taken(_)) if begun.elapsed() < WAIT_MAX => {
                tokio::time::sleep(POLL).await;
            }
            taken => return taken,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn who_leaves_is_waited_for_and_nobody_is_let_in_early() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let waiting = tokio::spawn(take(address));
        // It has found the address taken by then.
        tokio::task::yield_now().await;
        drop(other);
        let place = waiting.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).is_err());
        drop(place);
    }
}
