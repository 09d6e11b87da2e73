use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Wake;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

use super::super::core::{Finish, Finished};
use super::*;
use crate::event::Key;
use crate::schedule::pool::GuestPool;

mod lease;

const BOUNDS: Bounds =
    Bounds { in_flight_count_max: 64, in_flight_bytes_max: 1 << 20, waiting_max: 1000 };

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap()
}

fn real_clock() -> NowMs {
    let start = Instant::now();
    Arc::new(move || u64::try_from(start.elapsed().as_millis()).unwrap())
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it never came")
}

fn entry(position: u64, name: Option<u64>) -> Entry<u64> {
    let key = name.map(|name| Key::new(&format!("k{name}")).unwrap());
    Entry { position: Position(position), key, weight: 10, item: position }
}

fn offer(queue: &PluginQueue<u64>, entries: impl IntoIterator<Item = Entry<u64>>) -> bool {
    let mut batch: VecDeque<_> = entries.into_iter().collect();
    let scanned = batch.back().unwrap().position;
    queue.offer_all(&mut batch, scanned)
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    fn rings(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// One sleeping taker.
struct Sleeper<'a> {
    bell: Arc<Bell>,
    take: std::pin::Pin<Box<Take<'a, u64>>>,
}

impl<'a> Sleeper<'a> {
    fn new(queue: &'a PluginQueue<u64>) -> Self {
        let mut sleeper = Self { bell: Arc::default(), take: Box::pin(queue.take()) };
        assert!(sleeper.poll().is_pending());
        sleeper
    }

    fn poll(&mut self) -> Poll<Option<Lease<u64>>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.take.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[test]
fn exactly_as_many_takers_are_woken_as_there_is_work() {
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    let mut sleepers: Vec<_> = (0..4).map(|_| Sleeper::new(&queue)).collect();
    offer(&queue, [entry(1, Some(1)), entry(2, Some(1)), entry(3, Some(2))]);
    let rung = |sleepers: &[Sleeper<'_>]| {
        sleepers.iter().map(|sleeper| sleeper.bell.rings()).collect::<Vec<_>>()
    };
    assert_eq!(rung(&sleepers), [0, 0, 1, 1], "two keys, two takers");
    queue.with(|_| ());
    assert_eq!(rung(&sleepers), [0, 0, 1, 1], "they are called already");
    drop(sleepers.pop());
    assert_eq!(rung(&sleepers), [0, 1, 1], "a call that was dropped goes to another");
    let Poll::Ready(Some(lease)) = sleepers[2].poll() else { panic!("it was called") };
    assert_eq!(lease.assignment().item, Some(1));
    assert_eq!(lease.finish(Finish::Done), Finished::Released);
    assert_eq!(rung(&sleepers), [1, 1, 1], "the next event of the key is ready");
}

#[test]
fn a_dropped_lease_makes_the_same_attempt_ready_again() {
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    offer(&queue, [entry(1, Some(1))]);
    let mut taker = pin!(queue.take());
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Some(lease)) = taker.as_mut().poll(&mut context) else { panic!("ready") };
    drop(lease);
    let mut again = pin!(queue.take());
    let Poll::Ready(Some(lease)) = again.as_mut().poll(&mut context) else { panic!("ready") };
    let assignment = lease.assignment();
    assert_eq!((assignment.position.0, assignment.attempt, assignment.item), (1, 1, None));
}

#[test]
fn a_retry_wakes_one_sleeper_when_it_is_due() {
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, real_clock());
    let now_ms = Arc::clone(&queue.0.now_ms);
    offer(&queue, [entry(1, Some(1))]);
    runtime.block_on(soon(async {
        let lease = queue.take().await.unwrap();
        let other = tokio::spawn({
            let queue = queue.clone();
            async move { queue.take().await.map(|lease| lease.assignment().attempt) }
        });
        let at_ms = now_ms() + 5;
        lease.finish(Finish::RetryAt { at_ms, first_ms: 0 });
        assert_eq!(other.await.unwrap(), Some(2));
        assert!(now_ms() >= at_ms);
    }));
}

#[test]
fn one_sleeper_keeps_the_time_for_whatever_is_due_first() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    offer(&queue, (1..=3).map(|position| entry(position, None)));
    let mut leases: Vec<_> = (0..3).map(|_| runtime.block_on(queue.take()).unwrap()).collect();
    let mut retry = |at_ms| {
        leases.pop().unwrap().finish(Finish::RetryAt { at_ms, first_ms: 0 });
    };
    let (mut first, mut second) = (Sleeper::new(&queue), Sleeper::new(&queue));
    let mut rings = |retried: u64| {
        let rung = first.bell.rings() + second.bell.rings();
        assert!(first.poll().is_pending() && second.poll().is_pending());
        let timers = [&first, &second].iter().filter(|sleeper| sleeper.take.keeps()).count();
        assert_eq!(timers, 1, "after the retry at {retried}");
        rung
    };
    retry(1 << 40);
    assert_eq!(rings(1 << 40), 1);
    retry(1 << 41);
    assert_eq!(rings(1 << 41), 1, "later than what the keeper waits for");
    retry(1 << 39);
    assert_eq!(rings(1 << 39), 2, "earlier");
}

#[test]
fn a_step_of_the_log_clock_is_noticed() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let now_ms = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&now_ms);
    let queue = PluginQueue::new(BOUNDS, Arc::new(move || clock.load(Ordering::SeqCst)));
    offer(&queue, [entry(1, Some(1))]);
    let lease = runtime.block_on(queue.take()).unwrap();
    lease.finish(Finish::RetryAt { at_ms: 1 << 40, first_ms: 0 });
    let mut sleeper = Sleeper::new(&queue);
    now_ms.store(1 << 40, Ordering::SeqCst);
    queue.clock_stepped();
    assert_eq!(sleeper.bell.rings(), 1);
    assert!(sleeper.poll().is_ready());
}

#[test]
fn the_feeder_is_woken_for_a_batch_and_not_for_each_event() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let queue = PluginQueue::new(BOUNDS, Arc::new(|| 0));
    let mut batch: VecDeque<_> = (1..=100).map(|position| entry(position, None)).collect();
    assert!(!queue.offer_all(&mut batch, Position(100)));
    assert_eq!((batch.len(), queue.cursor().scanned.0), (36, 0));
    let bell = Arc::<Bell>::default();
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    let mut room = pin!(queue.room());
    assert!(room.as_mut().poll(&mut context).is_pending());
    let done = |count| {
        for _ in 0..count {
            runtime.block_on(queue.take()).unwrap().finish(Finish::Done);
        }
    };
    done(15);
    assert_eq!(bell.rings(), 0);
    done(1);
    assert_eq!(bell.rings(), 1);
    assert_eq!(room.as_mut().poll(&mut context), Poll::Ready(Some(16)));
}

#[test]
fn a_slow_key_with_a_long_queue_does_not_keep_others_out() {
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, real_clock());
    runtime.block_on(soon(async {
        assert!(offer(&queue, (1..=64).map(|position| entry(position, Some(1)))));
        let slow = queue.take().await.unwrap();
        assert!(!offer(&queue, [entry(65, Some(2))]));
        assert!(queue.room().await.unwrap() > 32);
        assert!(offer(&queue, [entry(65, Some(2))]));
        assert_eq!(queue.take().await.unwrap().assignment().position.0, 65);
        slow.finish(Finish::Done);
        assert_eq!(queue.next_drain().await.unwrap().from.0, 2);
    }));
}

#[test]
fn closing_ends_all_waiting() {
    let runtime = runtime();
    let queue = PluginQueue::<u64>::new(BOUNDS, real_clock());
    runtime.block_on(soon(async {
        let waiting = async { tokio::join!(queue.take(), queue.next_drain(), queue.take()) };
        let (waited, ()) = tokio::join!(waiting, async { queue.close() });
        assert!(waited.0.is_none() && waited.1.is_none() && waited.2.is_none());
        assert_eq!(queue.room().await, None);
    }));
}

#[test]
fn a_paused_plugin_gets_quiet_and_goes_on_where_it_was() {
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, real_clock());
    offer(&queue, [entry(1, Some(1)), entry(2, Some(2))]);
    runtime.block_on(soon(async {
        let lease = queue.take().await.unwrap();
        queue.pause();
        let finish = async { lease.finish(Finish::Done) };
        tokio::join!(queue.quiet(), finish);
        let resume = async { queue.resume() };
        let (taken, (), ()) = tokio::join!(queue.take(), queue.resumed(), resume);
        taken.unwrap().finish(Finish::Done);
        queue.idle().await;
        assert_eq!(queue.cursor().low.0, 2);
    }));
}

/// What must be true of deliveries, seen by the workers that make them.
struct Oracle {
    keys: Vec<Option<u64>>,
    by_key: BTreeMap<u64, Vec<u64>>,
    owned: Vec<AtomicBool>,
    last: Vec<AtomicU64>,
    done: Vec<AtomicBool>,
    failed: Vec<AtomicU64>,
    left: AtomicU64,
}

const KEYS: u64 = 40;

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn at(position: u64) -> usize {
    usize::try_from(position).unwrap()
}

impl Oracle {
    fn new(events: u64) -> Self {
        let key =
            |position: u64| (!mix(position).is_multiple_of(10)).then_some(mix(position + 7) % KEYS);
        let keys: Vec<_> = (0..=events).map(key).collect();
        let mut by_key: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for position in 1..=events {
            if let Some(key) = keys[at(position)] {
                by_key.entry(key).or_default().push(position);
            }
        }
        Self {
            by_key,
            owned: (0..KEYS).map(|_| AtomicBool::new(false)).collect(),
            last: (0..KEYS).map(|_| AtomicU64::new(0)).collect(),
            done: keys.iter().map(|_| AtomicBool::new(false)).collect(),
            failed: keys.iter().map(|_| AtomicU64::new(0)).collect(),
            left: AtomicU64::new(events),
            keys,
        }
    }

    fn entry(&self, position: u64) -> Entry<u64> {
        entry(position, self.keys[at(position)])
    }

    /// What a driver finds in the index: without what is complete.
    fn find(&self, drain: &Drain) -> (Vec<Entry<u64>>, Position) {
        let name: u64 = drain.key.as_str()[1..].parse().unwrap();
        let range = |p: &&u64| (drain.from.0..=drain.to.0).contains(*p);
        let open = |p: &&u64| !self.done[at(**p)].load(Ordering::SeqCst);
        let mut found: Vec<_> = self.by_key[&name].iter().filter(range).filter(open).collect();
        let reached = found.get(drain.limit).map_or(drain.to.0, |next| **next - 1);
        found.truncate(drain.limit);
        (found.into_iter().map(|p| self.entry(*p)).collect(), Position(reached))
    }

    /// One delivery; what comes of it depends on position and attempt alone.
    async fn deliver(&self, queue: &PluginQueue<u64>, mut lease: Lease<u64>) -> Option<Lease<u64>> {
        let position = lease.assignment().position.0;
        let key = self.keys[at(position)];
        let failed = self.failed[at(position)].load(Ordering::SeqCst);
        assert!(!self.done[at(position)].load(Ordering::SeqCst), "{position} came twice");
        assert_eq!(u64::from(lease.assignment().attempt), failed + 1);
        if let Some(key) = key {
            assert!(!self.owned[at(key)].swap(true, Ordering::SeqCst), "two own {key}");
            assert!(self.last[at(key)].load(Ordering::SeqCst) < position, "out of order");
        }
        let dice = mix(position * 31 + failed);
        if dice.is_multiple_of(3) {
            lease.let_go();
            tokio::task::yield_now().await;
        }
        let free = || key.map(|key| self.owned[at(key)].store(false, Ordering::SeqCst));
        let finish = match dice % 64 {
            0 if failed < 3 => {
                let at_ms = (queue.0.now_ms)() + dice % 3;
                Finish::RetryAt { at_ms, first_ms: 0 }
            }
            1 if failed < 3 && key.is_some() => Finish::Park,
            _ => Finish::Done,
        };
        if finish != Finish::Done {
            self.failed[at(position)].fetch_add(1, Ordering::SeqCst);
        } else {
            self.done[at(position)].store(true, Ordering::SeqCst);
            if let Some(key) = key {
                self.last[at(key)].store(position, Ordering::SeqCst);
            }
            if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                free();
                lease.finish(finish);
                queue.close();
                return None;
            }
        }
        free();
        if finish == Finish::Park {
            let key = lease.assignment().key.clone().unwrap();
            assert_eq!(lease.finish(finish), Finished::Waits);
            assert!(queue.with(|core| core.redrive(&key)));
            return queue.take().await;
        }
        if finish == Finish::Done && lease.advance() {
            return Some(lease);
        }
        let count = at(dice % 5);
        lease.finish_then_take(finish, count).await.1
    }

    async fn work(self: Arc<Self>, queue: PluginQueue<u64>, cancels: bool) {
        let mut next = None;
        loop {
            let lease = match next.take() {
                Some(lease) => Some(lease),
                None if cancels => tokio::select! {
                    biased;
                    lease = queue.take() => lease,
                    () = tokio::task::yield_now() => continue,
                },
                None => queue.take().await,
            };
            let Some(lease) = lease else { return };
            next = self.deliver(&queue, lease).await;
        }
    }

    async fn feed(self: Arc<Self>, queue: PluginQueue<u64>) {
        let end = self.keys.len() as u64 - 1;
        let mut fed = 0;
        while fed < end {
            let upto = end.min(fed + 1 + mix(fed) % 200);
            let mut batch: VecDeque<_> = (fed + 1..=upto).map(|p| self.entry(p)).collect();
            while !queue.offer_all(&mut batch, Position(upto)) {
                if queue.room().await.is_none() {
                    return;
                }
            }
            fed = upto;
        }
    }

    async fn drain(self: Arc<Self>, queue: PluginQueue<u64>) {
        while let Some(first) = queue.next_drain().await {
            // As many more as there are, up to three.
            let more = std::iter::from_fn(|| queue.try_next_drain()).take(3);
            let drains: Vec<_> = std::iter::once(first).chain(more).collect();
            tokio::task::yield_now().await;
            for drain in &drains {
                let (found, reached) = self.find(drain);
                queue.refill(drain, found, reached);
            }
        }
    }
}

async fn pauses(queue: PluginQueue<u64>) {
    for _ in 0..200 {
        queue.pause();
        tokio::task::yield_now().await;
        queue.resume();
        tokio::task::yield_now().await;
    }
}

fn check_done(oracle: &Oracle, queue: &PluginQueue<u64>, events: u64) {
    let cursor = queue.cursor();
    assert_eq!((cursor.low.0, cursor.scanned.0), (events, events), "{cursor:?}");
    assert_eq!((cursor.in_flight, cursor.waiting, cursor.deferred), (0, 0, 0), "{cursor:?}");
    assert_eq!(oracle.left.load(Ordering::SeqCst), 0);
}

#[test]
fn many_workers_lose_nothing_and_keep_order() {
    const EVENTS: u64 = 30_000;
    let runtime = runtime();
    let queue = PluginQueue::new(BOUNDS, real_clock());
    let oracle = Arc::new(Oracle::new(EVENTS));
    runtime.block_on(soon(async {
        let mut tasks = Vec::new();
        for number in 0..12 {
            tasks.push(tokio::spawn(Arc::clone(&oracle).work(queue.clone(), number % 4 == 0)));
        }
        tasks.push(tokio::spawn(Arc::clone(&oracle).feed(queue.clone())));
        tasks.push(tokio::spawn(Arc::clone(&oracle).drain(queue.clone())));
        tasks.push(tokio::spawn(pauses(queue.clone())));
        for task in tasks {
            task.await.unwrap();
        }
    }));
    check_done(&oracle, &queue, EVENTS);
}

#[test]
fn the_same_on_the_guest_pool_fed_from_outside() {
    const EVENTS: u64 = 30_000;
    let runtime = runtime();
    let pool = GuestPool::new(2, runtime.handle()).unwrap();
    let tenant = pool.tenant("plugin");
    let queue = PluginQueue::new(BOUNDS, real_clock());
    let oracle = Arc::new(Oracle::new(EVENTS));
    runtime.block_on(soon(async {
        let work = |_| tenant.spawn(Arc::clone(&oracle).work(queue.clone(), false));
        let workers: Vec<_> = (0..4).map(work).collect();
        let feeder = tokio::spawn(Arc::clone(&oracle).feed(queue.clone()));
        let drainer = tokio::spawn(Arc::clone(&oracle).drain(queue.clone()));
        for worker in workers {
            worker.await.unwrap();
        }
        feeder.await.unwrap();
        drainer.await.unwrap();
    }));
    check_done(&oracle, &queue, EVENTS);
}
