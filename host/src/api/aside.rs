//! Work on large bodies, beside all else that the runtime does.
//!
//! Rule: what takes longer the more a client sends or asks for is not done where everybody waits for it. There
//! are few threads for HTTP and for reading logs: one on two processors.

use std::future::poll_fn;
use std::pin::pin;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// Bodies with fewer bytes are dealt with where they come in: a tenth of a millisecond, about.
const LARGE_BYTES: usize = 64 * 1024;

/// Further threads that deal with large ones at a time. Beyond them others do wait: what is being made of a body
/// takes memory, and more at once would not be done sooner.
const FURTHER_MAX: usize = 4;
static FURTHER: Semaphore = Semaphore::const_new(FURTHER_MAX);

/// Does what is to be done about a body of so many bytes. About a large one others need not wait for it: its
/// thread is a further one meanwhile.
pub(super) async fn aside<F: Future>(bytes: usize, work: F) -> F::Output {
    aside_among(&FURTHER, bytes, work).await
}

async fn aside_among<F: Future>(further: &Semaphore, bytes: usize, work: F) -> F::Output {
    // A runtime of one thread has no further ones.
    if bytes < LARGE_BYTES || Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work.await;
    }
    let mut work = pin!(work);
    poll_fn(|context| {
        let mut poll = || work.as_mut().poll(context);
        match further.try_acquire() {
            Ok(_place) => tokio::task::block_in_place(poll),
            Err(_) => poll(),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    static NONE: Semaphore = Semaphore::const_new(0);

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_beside_a_large_body() {
        let (to, from) = std::sync::mpsc::sync_channel(1);
        // Keeps its thread until the other one has had one.
        let large = tokio::spawn(async move {
            let work = async move { from.recv_timeout(Duration::from_secs(60)) };
            aside_among(&Semaphore::new(1), LARGE_BYTES, work).await
        });
        let other = tokio::spawn(async move { to.send(()) });
        large.await.unwrap().unwrap();
        other.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn where_enough_are_dealt_with_it_is_done_in_turn() {
        let work = async { std::thread::current().id() };
        let large = tokio::spawn(aside_among(&NONE, LARGE_BYTES, work));
        let other = tokio::spawn(async { std::thread::current().id() });
        assert_eq!(large.await.unwrap(), other.await.unwrap());
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_has_no_other_place() {
        assert_eq!(aside(LARGE_BYTES, async { 7 }).await, 7);
    }
}
