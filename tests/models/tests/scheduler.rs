//! The scheduler's driver in many interleavings: the host's own code, on locks and tasks of the model
//! checker, which decides at each of them who goes on, and which fails where everybody waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shuttle::future::{block_on, spawn};
use shuttle::sync::{Arc, Mutex};
use tidegate_models::event::{Key, Position};
use tidegate_models::schedule::core::{Bounds, Entry, Finish, Refill};
use tidegate_models::schedule::driver::PluginQueue;

/// Schedules that are tried of each test; `TIDEGATE_SCHEDULES` says another number.
const SCHEDULES: usize = 1500;
/// Keys of the events; the fourth of every four has none.
const KEYS: u64 = 3;
const WORKERS: usize = 3;

fn schedules() -> usize {
    std::env::var("TIDEGATE_SCHEDULES").map_or(SCHEDULES, |text| text.parse().unwrap())
}

fn key_of(position: u64) -> Option<u64> {
    let lane = position % (KEYS + 1);
    (lane < KEYS).then_some(lane)
}

fn entry(position: u64) -> Entry<u64> {
    let key = key_of(position).map(|lane| Key::new(&format!("k{lane}")));
    Entry { position: Position(position), key, weight: 10, item: position }
}

/// What workers did, and what must hold of it at every moment.
#[derive(Default)]
struct Done {
    running: BTreeSet<u64>,
    attempts: BTreeMap<u64, u32>,
    done: BTreeSet<u64>,
}

impl Done {
    fn begin(&mut self, position: u64) {
        assert!(!self.done.contains(&position), "{position} is done already");
        if let Some(lane) = key_of(position) {
            assert!(self.running.insert(lane), "key {lane} has two owners");
            let before = (1..position).filter(|other| key_of(*other) == Some(lane));
            let open: Vec<u64> = before.filter(|other| !self.done.contains(other)).collect();
            assert!(open.is_empty(), "{position} runs before {open:?} of its key");
        }
        *self.attempts.entry(position).or_default() += 1;
    }

    fn end(&mut self, position: u64, finished: bool) {
        if let Some(lane) = key_of(position) {
            assert!(self.running.remove(&lane));
        }
        if finished {
            assert!(self.done.insert(position));
        }
    }
}

type Queue = PluginQueue<u64>;

async fn feed(queue: Queue, events: u64) {
    let mut next = 1;
    while next <= events {
        let last = (next + 2).min(events);
        let mut batch: VecDeque<_> = (next..=last).map(entry).collect();
        while !queue.offer_all(&mut batch, Position(last)) {
            if queue.room().await.is_none() {
                return;
            }
        }
        next = last + 1;
    }
}

/// Events that a worker has in hand at most.
const IN_HAND: usize = 3;

/// Takes what comes, several at once where there are many. Of every event with a number that `fails`
/// knows, the first attempt fails and waits; of every one that `drops` knows, the worker is cancelled
/// once, with all it has in hand. Of every other event it is going to wait, and lets go of the rest.
async fn work(
    queue: Queue,
    done: Arc<Mutex<Done>>,
    fails: fn(u64) -> bool,
    drops: fn(u64) -> bool,
) {
    let mut lease = queue.take().await;
    while let Some(mut taken) = lease {
        let position = taken.assignment().position.0;
        let first = {
            let mut done = done.lock().unwrap();
            done.begin(position);
            done.attempts[&position] == 1
        };
        if position.is_multiple_of(2) {
            taken.let_go();
        }
        shuttle::thread::yield_now();
        if first && drops(position) {
            done.lock().unwrap().end(position, false);
            drop(taken);
            lease = queue.take().await;
            continue;
        }
        let fails = first && fails(position);
        done.lock().unwrap().end(position, !fails);
        if !fails && taken.advance() {
            lease = Some(taken);
            continue;
        }
        let finish =
            if fails { Finish::RetryAt { at_ms: 1000, first_ms: 0 } } else { Finish::Done };
        lease = taken.finish_then_take(finish, IN_HAND).await.1;
    }
}

/// Finds deferred events again, as the host does through its index.
async fn drain(queue: Queue, done: Arc<Mutex<Done>>) {
    while let Some(drain) = queue.next_drain().await {
        let found: Vec<Entry<u64>> = {
            let done = done.lock().unwrap();
            (drain.from.0..=drain.to.0)
                .map(entry)
                .filter(|found| found.key.as_ref() == Some(&drain.key))
                .filter(|found| !done.done.contains(&found.position.0))
                .take(drain.limit)
                .collect()
        };
        let full = found.len() == drain.limit;
        let reached = found.last().filter(|_| full).map_or(drain.to, |last| last.position);
        let _: Refill = queue.refill(&drain, found, reached);
    }
}

struct World {
    queue: Queue,
    done: Arc<Mutex<Done>>,
    now: Arc<Mutex<u64>>,
}

impl World {
    fn new(in_flight_count_max: usize) -> Self {
        let now = Arc::new(Mutex::new(0));
        let clock = Arc::clone(&now);
        let bounds = Bounds { in_flight_count_max, in_flight_bytes_max: 1000, waiting_max: 100 };
        let queue = PluginQueue::new(bounds, Arc::new(move || *clock.lock().unwrap()));
        Self { queue, done: Arc::default(), now }
    }

    /// Everybody at work, with what else somebody does meanwhile.
    fn run(
        &self,
        events: u64,
        fails: fn(u64) -> bool,
        drops: fn(u64) -> bool,
        meanwhile: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut tasks = Vec::new();
        for _ in 0..WORKERS {
            tasks.push(spawn(work(self.queue.clone(), Arc::clone(&self.done), fails, drops)));
        }
        tasks.push(spawn(drain(self.queue.clone(), Arc::clone(&self.done))));
        let fed = spawn(feed(self.queue.clone(), events));
        let meanwhile = spawn(meanwhile);
        block_on(async move {
            fed.await.unwrap();
            meanwhile.await.unwrap();
        });
        // Keys that wait go on once their time has come: the clock is stepped, and everybody told.
        loop {
            block_on(self.queue.idle());
            let done = self.done.lock().unwrap().done.len() as u64;
            if done == events {
                break;
            }
            *self.now.lock().unwrap() += 1000;
            self.queue.clock_stepped();
        }
        self.queue.close();
        block_on(async move {
            for task in tasks {
                task.await.unwrap();
            }
        });
        assert_eq!(self.queue.cursor().low, Position(events));
        assert_eq!(self.queue.cursor().in_flight, 0);
    }
}

fn never(_: u64) -> bool {
    false
}

fn some(position: u64) -> bool {
    position % 3 == 1
}

#[test]
fn workers_and_feeder_never_wait_for_each_other() {
    let check = || World::new(4).run(9, never, never, async {});
    shuttle::check_random(check, schedules());
    shuttle::check_pct(check, schedules(), 3);
}

#[test]
fn cancelled_workers_give_back_what_they_had() {
    shuttle::check_random(|| World::new(4).run(9, never, some, async {}), schedules());
}

#[test]
fn workers_with_several_in_hand_lose_nothing() {
    shuttle::check_random(|| World::new(8).run(14, never, some, async {}), schedules());
    shuttle::check_random(|| World::new(8).run(14, some, never, async {}), schedules());
}

#[test]
fn keys_that_wait_come_back_in_order() {
    shuttle::check_random(|| World::new(6).run(10, some, never, async {}), schedules());
}

#[test]
fn a_pause_ends_with_everybody_at_work() {
    let check = || {
        let world = World::new(4);
        let queue = world.queue.clone();
        let done = Arc::clone(&world.done);
        world.run(9, never, some, async move {
            queue.pause();
            queue.quiet().await;
            assert!(done.lock().unwrap().running.is_empty(), "nobody runs in a quiet pause");
            queue.resume();
        });
    };
    shuttle::check_random(check, schedules());
}

/// The checker finds what it is there for: with a feeder that tells nobody, everybody waits.
#[test]
#[should_panic(expected = "deadlock")]
fn an_event_that_nobody_was_told_of_is_found() {
    let check = || {
        let world = World::new(4);
        let queue = world.queue.clone();
        let taker =
            spawn(async move { queue.take().await.map(|lease| lease.finish(Finish::Done)) });
        // Takes the call away from the worker that was woken for it, and gives it to nobody.
        let queue = world.queue.clone();
        block_on(async move {
            let mut batch = VecDeque::from([entry(1)]);
            queue.offer_all(&mut batch, Position(1));
            let stolen = queue.take().await;
            std::mem::forget(stolen);
            taker.await.unwrap();
        });
    };
    shuttle::check_random(check, 200);
}
