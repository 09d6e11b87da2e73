//! Several events in one hand.

use super::*;
use crate::schedule::core::{Quota, Quotas};

/// Takes as many at once as there are, of an event first that makes the others ready.
fn taken_together(runtime: &Runtime, queue: &PluginQueue<u64>, count: usize) -> Lease<u64> {
    let first = runtime.block_on(queue.take()).unwrap();
    runtime.block_on(first.finish_then_take(Finish::Done, count)).1.unwrap()
}

#[test]
fn of_many_events_half_are_taken_at_once_and_finished_together() {
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    offer(&queue, (1..=10).map(|position| entry(position, Some(position))));
    let mut lease = taken_together(&runtime, &queue, 16);
    assert_eq!(queue.cursor().running, 5, "one, and half of the eight behind it");
    let mut positions = vec![lease.assignment().position.0];
    while lease.advance() {
        positions.push(lease.assignment().position.0);
    }
    assert_eq!(positions, [2, 3, 4, 5, 6]);
    let cursor = queue.cursor();
    assert_eq!((cursor.running, cursor.low.0), (5, 1), "none of their keys is free yet");
    lease.finish(Finish::Done);
    let cursor = queue.cursor();
    assert_eq!((cursor.running, cursor.low.0, cursor.ready), (0, 6, 4));
}

#[test]
fn no_more_are_taken_than_asked_for_and_one_alone_where_there_is_a_limit() {
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    offer(&queue, (1..=20).map(|position| entry(position, Some(position))));
    for (count, running) in [(0, 1), (1, 1), (3, 3)] {
        drop(taken_together(&runtime, &queue, count));
        let lease = taken_together(&runtime, &queue, count);
        assert_eq!(queue.cursor().running, running, "{count}");
        drop(lease);
    }
    let quota = Quota { rate: 0, concurrency: 8 };
    let quotas = Quotas { all: quota, ..Default::default() };
    queue.with(|core| core.set_quotas(&quotas, 0));
    let _lease = taken_together(&runtime, &queue, 16);
    assert_eq!(queue.cursor().running, 1, "what is taken counts as begun");
}

#[test]
fn who_lets_go_keeps_the_event_it_is_at() {
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    offer(&queue, (1..=10).map(|position| entry(position, Some(position))));
    let mut lease = taken_together(&runtime, &queue, 16);
    assert!(lease.advance());
    let mut sleeper = Box::pin(queue.take());
    lease.let_go();
    let cursor = queue.cursor();
    assert_eq!((cursor.running, cursor.low.0, cursor.ready), (1, 2, 7));
    // Others get them whole: they need not be read again.
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Some(other)) = sleeper.as_mut().poll(&mut context) else { panic!("ready") };
    assert_eq!((other.assignment().position.0, other.assignment().item), (4, Some(4)));
    let cursor = queue.cursor();
    let next = taken_together(&runtime, &queue, 1);
    assert_eq!(next.assignment().position.0, 6, "in the order in which they were taken");
    assert_eq!(cursor.ready, 6);
    drop(next);
    assert!(!lease.advance(), "it has nothing else");
    assert_eq!(lease.assignment().position.0, 3);
    lease.finish(Finish::Done);
    assert_eq!(queue.cursor().low.0, 3);
}

#[test]
fn dropped_on_the_way_what_was_done_stays_done_and_the_rest_is_ready_again() {
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    offer(&queue, (1..=10).map(|position| entry(position, Some(position))));
    let mut lease = taken_together(&runtime, &queue, 16);
    assert!(lease.advance() && lease.advance());
    drop(lease);
    let cursor = queue.cursor();
    assert_eq!((cursor.running, cursor.low.0, cursor.ready), (0, 3, 7));
    let mut found = Vec::new();
    for _ in 0..7 {
        let lease = runtime.block_on(queue.take()).unwrap();
        assert_eq!(lease.assignment().attempt, 1);
        found.push(lease.assignment().position.0);
        lease.finish(Finish::Done);
    }
    found.sort_unstable();
    assert_eq!(found, [4, 5, 6, 7, 8, 9, 10]);
}
