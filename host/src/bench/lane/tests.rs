use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::oneshot;

use super::*;
use crate::event::KeySequence;

type Reply = Result<Vec<Appended>, AppendError>;

/// A log that answers when it is told to.
#[derive(Default)]
struct Fake {
    /// What has no answer yet, in the order it came.
    waiting: RefCell<VecDeque<(u64, oneshot::Sender<Reply>)>>,
    /// Every number that was published, each time it was.
    called: RefCell<Vec<u64>>,
    /// How many it refuses before it takes any.
    full: Cell<u64>,
}

fn at(number: u64) -> Reply {
    let (position, sequence) = (Position(1000 + number), KeySequence(0));
    Ok(vec![Appended { position, sequence, duplicate: false }])
}

impl Fake {
    async fn publish(self: Rc<Self>, turn: Turn) -> Answer {
        self.called.borrow_mut().push(turn.number);
        if let Some(left) = self.full.get().checked_sub(1) {
            self.full.set(left);
            return (turn, Err(AppendError::QueueFull { limit: 1 }));
        }
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().push_back((turn.number, sender));
        (turn, answer.await.unwrap())
    }

    /// Answers so many of the oldest.
    fn answer(&self, count: usize) {
        for (number, sender) in self.waiting.borrow_mut().drain(..count) {
            let _ = sender.send(at(number));
        }
    }

    fn waiting(&self) -> Vec<u64> {
        self.waiting.borrow().iter().map(|(number, _)| *number).collect()
    }

    /// Until so many wait for an answer.
    async fn until(&self, count: usize) {
        let begun = Instant::now();
        while self.waiting.borrow().len() < count {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", self.waiting());
            tokio::task::yield_now().await;
        }
    }
}

/// Runs one lane against `fake` while `drive` tells that what to do.
async fn run<T>(
    window: Window,
    numbers: Range<u64>,
    fake: &Rc<Fake>,
    drive: impl Future<Output = T>,
) -> (Result<Sent, BenchError>, T) {
    let lane = Lane::new(window, 1, numbers.end - numbers.start);
    let turns = Turns::new(numbers, None);
    tokio::join!(lane.run(&turns, |turn| Rc::clone(fake).publish(turn)), drive)
}

fn positions(sent: &Sent) -> Vec<u64> {
    sent.begun.iter().map(|(position, _)| position.0).collect()
}

#[tokio::test]
async fn what_is_durable_makes_room_for_as_many() {
    let fake = Rc::new(Fake::default());
    let drive = async {
        fake.until(3).await;
        assert_eq!(fake.waiting(), [5, 6, 7]);
        fake.answer(2);
        fake.until(3).await;
        assert_eq!(fake.waiting(), [7, 8, 9]);
        fake.answer(3);
        fake.until(2).await;
        fake.answer(2);
    };
    let (sent, ()) = run(Window::Durable(3), 5..12, &fake, drive).await;
    let sent = sent.unwrap();
    assert!(sent.latencies.percentiles().is_some());
    assert_eq!(*fake.called.borrow(), (5..12).collect::<Vec<_>>());
    assert!(sent.begun.is_empty(), "it is not asked for");
}

#[tokio::test]
async fn who_is_let_in_publishes_and_leaves_room_for_the_others_to_see_the_end() {
    let (fake, window) = (Rc::new(Fake::default()), Arc::new(Semaphore::new(2)));
    let drive = async {
        fake.until(2).await;
        fake.answer(2);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(fake.waiting(), [0; 0], "nobody let it in");
        window.add_permits(1);
        fake.until(1).await;
        window.add_permits(1);
        fake.answer(1);
    };
    let given = Window::Elsewhere(Arc::clone(&window));
    let (sent, ()) = run(given, 0..3, &fake, drive).await;
    let sent = sent.unwrap();
    assert_eq!(positions(&sent), [1000, 1001, 1002]);
    assert_eq!(window.available_permits(), 1);
}

#[tokio::test]
async fn lanes_of_one_window_end_together() {
    let (fake, window) = (Rc::new(Fake::default()), Arc::new(Semaphore::new(0)));
    let turns = Turns::new(0..3, None);
    let lanes = Window::Elsewhere(Arc::clone(&window)).shares(2).into_iter();
    let lanes = lanes
        .map(|window| Lane::new(window, 2, 3).run(&turns, |turn| Rc::clone(&fake).publish(turn)));
    let drive = async {
        for _ in 0..3 {
            window.add_permits(1);
            fake.until(1).await;
            fake.answer(1);
        }
        window.add_permits(1);
    };
    let (sent, ()) = tokio::join!(futures_util::future::try_join_all(lanes), drive);
    let sent = Sent::all(sent.unwrap());
    let mut found = positions(&sent);
    found.sort_unstable();
    assert_eq!(found, [1000, 1001, 1002]);
}

#[tokio::test]
async fn a_full_log_is_tried_again_and_nothing_is_sent_meanwhile() {
    let (fake, window) = (Rc::new(Fake::default()), Arc::new(Semaphore::new(9)));
    let drive = async {
        fake.until(9).await;
        assert_eq!(fake.waiting(), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        fake.full.set(3);
        let begun = Instant::now();
        window.add_permits(4);
        // No answer wakes it: what is behind those that wait goes on all the same.
        fake.until(13).await;
        let took = begun.elapsed();
        window.add_permits(1);
        fake.answer(13);
        took
    };
    let (sent, took) = run(Window::Elsewhere(Arc::clone(&window)), 0..13, &fake, drive).await;
    let again: Vec<_> = (0..9).chain([9; 4]).chain(10..13).collect();
    assert_eq!(*fake.called.borrow(), again);
    assert!(took >= FULL_WAIT * 3, "{took:?}");
    let sent = sent.unwrap();
    assert_eq!(positions(&sent), (1000..1013).collect::<Vec<_>>());
    // All four were let in at once: that they had to wait is part of what they took.
    let let_in = sent.begun[12].1.duration_since(sent.begun[9].1);
    assert!(let_in + FULL_WAIT * 2 <= took, "{let_in:?} of {took:?}");
}

#[tokio::test]
async fn an_answer_that_the_log_is_full_is_tried_again_too() {
    let fake = Rc::new(Fake::default());
    let drive = async {
        fake.until(3).await;
        let (_, second) = fake.waiting.borrow_mut().remove(1).unwrap();
        second.send(Err(AppendError::QueueFull { limit: 1 })).unwrap();
        fake.answer(2);
        fake.until(1).await;
        assert_eq!(fake.waiting(), [1]);
        fake.answer(1);
    };
    let (sent, ()) = run(Window::Durable(3), 0..3, &fake, drive).await;
    sent.unwrap();
    assert_eq!(*fake.called.borrow(), [0, 1, 2, 1]);
}

#[tokio::test]
async fn a_failure_in_the_middle_ends_it() {
    let fake = Rc::new(Fake::default());
    let drive = async {
        fake.until(4).await;
        let (_, third) = fake.waiting.borrow_mut().remove(2).unwrap();
        third.send(Err(AppendError::ShuttingDown)).unwrap();
        fake.answer(2);
    };
    let (sent, ()) = run(Window::Durable(4), 0..100, &fake, drive).await;
    assert!(matches!(sent, Err(BenchError::Append(AppendError::ShuttingDown))));
    assert!(fake.called.borrow().len() < 10, "it goes on: {:?}", fake.called);
}

#[test]
fn shares_of_a_window_are_together_as_wide() {
    for (all, lanes) in [(256, 2), (7, 3), (1, 4), (10_000, 64)] {
        let shares = Window::Durable(all).shares(lanes).into_iter().map(|share| match share {
            Window::Durable(share) => share,
            Window::Elsewhere(_) => unreachable!(),
        });
        let shares: Vec<_> = shares.collect();
        assert_eq!((shares.len(), shares.iter().sum()), (lanes, all));
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
    }
}

#[tokio::test]
async fn a_share_of_nothing_publishes_nothing() {
    let fake = Rc::new(Fake::default());
    let (sent, ()) = run(Window::Durable(0), 0..9, &fake, async {}).await;
    assert!(sent.unwrap().latencies.percentiles().is_none());
    assert!(fake.called.borrow().is_empty());
}
