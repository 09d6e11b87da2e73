//! Stands in for tokio where the model checker is the runtime: time never passes, so that nothing is
//! woken by a timer that should have been woken by somebody.

/// The part of `tokio::time` that the scheduler's driver uses.
pub mod time {
    use std::future::{Future, Pending, pending};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    /// A sleep that has no end.
    #[derive(Debug)]
    pub struct Sleep(Pending<()>);

    impl Future for Sleep {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            Pin::new(&mut self.0).poll(context)
        }
    }

    /// Sleeps for ever.
    pub fn sleep(_duration: Duration) -> Sleep {
        Sleep(pending())
    }

    /// What is never said.
    #[derive(Debug)]
    pub struct Elapsed;

    /// Waits as long as it takes.
    ///
    /// # Errors
    /// Never.
    pub async fn timeout<F: Future>(_limit: Duration, work: F) -> Result<F::Output, Elapsed> {
        Ok(work.await)
    }
}
