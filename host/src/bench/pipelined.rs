//! Requests of one client that does not wait for an answer before it sends the next request.
//!
//! Rule: the oldest request without an answer is polled with the waker of its task before that task
//! sleeps. Those behind it are polled once, which sends them, and their answers wake nobody: answers
//! come in groups and in order, and a wake for each costs about as much as to publish an event.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Requests on their way, the oldest first.
pub(super) struct Pipelined<F: Future> {
    waiting: VecDeque<Pin<Box<F>>>,
    /// Memory of requests that were answered, for the next ones.
    spare: Vec<Pin<Box<F>>>,
}

impl<F: Future> Default for Pipelined<F> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), spare: Vec::new() }
    }
}

impl<F: Future> Pipelined<F> {
    /// Sends a request. Gives its answer where that is there at once; any other is taken in turn.
    pub(super) fn begin(&mut self, request: F) -> Option<F::Output> {
        let mut place = match self.spare.pop() {
            Some(mut place) => {
                place.as_mut().set(request);
                place
            }
            None => Box::pin(request),
        };
        match place.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => {
                self.spare.push(place);
                Some(answer)
            }
            Poll::Pending => {
                self.waiting.push_back(place);
                None
            }
        }
    }

    /// How many have no answer yet that was taken.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether all answers were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Waits for the answer to the oldest request, and adds it to `answers` with all behind it up to the
    /// first that is not there yet. Never ends where no request is on its way. Cancel safe: what was not
    /// taken is taken by the next call.
    pub(super) async fn take(&mut self, answers: &mut Vec<F::Output>) {
        poll_fn(|context| self.poll_take(context, answers)).await;
    }

    fn poll_take(&mut self, context: &mut Context<'_>, answers: &mut Vec<F::Output>) -> Poll<()> {
        let before = answers.len();
        while let Some(mut place) = self.waiting.pop_front() {
            let Poll::Ready(answer) = place.as_mut().poll(context) else {
                self.waiting.push_front(place);
                break;
            };
            answers.push(answer);
            self.spare.push(place);
        }
        if answers.len() > before { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use tokio::sync::oneshot::{self, Receiver, Sender};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn three() -> ([Sender<u32>; 3], Pipelined<Receiver<u32>>) {
        let mut all = Pipelined::default();
        let senders = [(); 3].map(|()| {
            let (sender, receiver) = oneshot::channel();
            assert!(all.begin(receiver).is_none());
            sender
        });
        (senders, all)
    }

    #[test]
    fn a_group_of_answers_is_taken_with_one_wake() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let context = &mut Context::from_waker(&waker);
        let ([first, second, third], mut all) = three();
        let mut answers = Vec::new();
        assert!(all.poll_take(context, &mut answers).is_pending());

        second.send(2).unwrap();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "it is not the oldest");
        assert!(all.poll_take(context, &mut answers).is_pending(), "answers come in order");
        first.send(1).unwrap();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(all.poll_take(context, &mut answers).is_ready());
        assert_eq!(std::mem::take(&mut answers), [Ok(1), Ok(2)]);

        assert_eq!(all.len(), 1);
        third.send(3).unwrap();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2, "the oldest by now wakes its task");
        assert!(all.poll_take(context, &mut answers).is_ready());
        assert_eq!(answers, [Ok(3)]);
        assert!(all.is_empty());
    }

    #[test]
    fn a_failure_in_the_middle_is_an_answer_in_its_turn() {
        let context = &mut Context::from_waker(Waker::noop());
        let ([first, second, third], mut all) = three();
        drop(second);
        third.send(3).unwrap();
        let mut answers = Vec::new();
        assert!(all.poll_take(context, &mut answers).is_pending());
        first.send(1).unwrap();
        assert!(all.poll_take(context, &mut answers).is_ready());
        let answers: Vec<_> = answers.into_iter().map(Result::ok).collect();
        assert_eq!(answers, [Some(1), None, Some(3)]);
    }

    #[test]
    fn an_answer_at_once_waits_for_none_before_it_and_its_memory_is_used_again() {
        let context = &mut Context::from_waker(Waker::noop());
        let ([first, second, third], mut all) = three();
        let (at_once, request) = oneshot::channel();
        at_once.send(4).unwrap();
        assert_eq!(all.begin(request), Some(Ok(4)));
        assert_eq!((all.len(), all.spare.len()), (3, 1));
        [first, second, third].into_iter().zip(1..).for_each(|(one, n)| one.send(n).unwrap());
        let mut answers = Vec::new();
        assert!(all.poll_take(context, &mut answers).is_ready());
        assert_eq!(answers.len(), 3);
        let (later, request) = oneshot::channel();
        assert!(all.begin(request).is_none());
        assert_eq!((all.len(), all.spare.len()), (1, 3));
        later.send(5).unwrap();
        assert!(all.poll_take(context, &mut answers).is_ready());
        assert_eq!(answers.last(), Some(&Ok(5)));
    }

    #[test]
    fn no_request_is_no_answer() {
        let context = &mut Context::from_waker(Waker::noop());
        let mut all = Pipelined::<Receiver<u32>>::default();
        assert!(all.poll_take(context, &mut Vec::new()).is_pending());
    }
}
