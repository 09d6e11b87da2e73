//! What a memory bus says of itself, with a plugin at work on it and without.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::handlers::Handler;
use super::world::{PLUGIN, Script, start};
use crate::bus::clocks::FollowError;
use crate::bus::memory::{MemoryOptions, Order, Over, Overflow};
use crate::bus::operate::{self, Act};
use crate::bus::private::{self, Content, RESPONSE};
use crate::bus::replay::{Again, Verdict};
use crate::bus::runner::{Pin, Runner, Version};
use crate::bus::{Bus, Ticket};
use crate::clock::SystemClock;
use crate::effects::{Draft, Effects, Outcome, OutcomeKind, OutgoingCall, StateWrite};
use crate::event::{Addressee, Digest, Event, Generation, Key, NewEvent, Position};
use crate::limits::CALLS_OPEN_MEMORY_MAX;
use crate::log::record::{Completion, Control, ControlRecord, DeliveryCommit, Mode};
use crate::log::{AppendError, Publish};
use crate::plugin::HostPattern;
use crate::schedule::pool::GuestPool;
use crate::state::calls::response_id;
use crate::state::{Instance, Owner, StateQuota};
use crate::wasm::{Delivery, GuestLimits};

const PATIENCE: Duration = Duration::from_secs(60);

fn memory_bus(capacity: usize, overflow: Overflow) -> Arc<Bus> {
    let options = MemoryOptions { capacity, overflow, order: Order::Key };
    let bus = Arc::new(Bus::memory("m", options, Arc::new(SystemClock::new())));
    let control = Control::Register { instance: PLUGIN, name: "lister".into(), after: Position(0) };
    drop(bus.control(&[ControlRecord { actor: "test".into(), control }]));
    bus
}

/// `a1` is an event of key `a`.
fn event(id: &str) -> NewEvent {
    NewEvent {
        id: id.into(),
        key: Key::new(id.trim_end_matches(|c: char| c.is_ascii_digit())).ok(),
        kind: "thing.happened".into(),
        ..NewEvent::default()
    }
}

/// A plugin at work on a memory bus.
struct Live {
    bus: Arc<Bus>,
    runner: Arc<Runner>,
    script: Arc<Script>,
    _pool: Arc<GuestPool>,
}

impl Live {
    async fn new(capacity: usize, overflow: Overflow) -> Self {
        let bus = memory_bus(capacity, overflow);
        let script = Arc::default();
        let pool = GuestPool::new(2, &tokio::runtime::Handle::current()).unwrap();
        let runner = start(&bus, &script, &pool, "").await;
        Self { bus, runner, script, _pool: Arc::new(pool) }
    }

    /// With another handler.
    async fn with(self, handler: fn(&Delivery<'_>) -> (Outcome, Effects)) -> Self {
        let (invoker, serves) = (Arc::new(Handler(handler)), self.runner.version());
        let version = Version { invoker, ..Version::clone(&serves) };
        let subscription = Arc::new(version.manifest.subscribe.clone());
        self.runner.swap(Arc::new(version), subscription, "ops".into(), Pin::Stays).await.unwrap();
        self
    }

    async fn publish(&self, ids: &[&str]) {
        let batch = ids.iter().map(|id| Publish { event: event(id), expected: None }).collect();
        self.bus.publish(batch).await.unwrap();
    }

    fn plugin(&self) -> Instance {
        self.bus.ledger().instance(PLUGIN).unwrap().clone()
    }

    /// Waits until something is so. Not all of it is told.
    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let so = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let so = tokio::time::timeout(PATIENCE, so).await;
        assert!(so.is_ok(), "never: {what}; {:?} {:?}", self.runner.cursor(), self.plugin());
    }

    async fn until_completed(&self, position: u64) {
        let completed = self.runner.until_completed(Position(position));
        tokio::time::timeout(PATIENCE, completed).await.unwrap().unwrap();
    }

    /// What was emitted, as far as the ring has it.
    fn emitted(&self) -> Vec<String> {
        let events = self.bus.ring().unwrap().after(Position(0), usize::MAX);
        let text = |event: &Arc<Event>| String::from_utf8(event.data.to_vec()).unwrap();
        events.iter().filter(|event| event.emitter.is_some()).map(text).collect()
    }
}

fn owner(key: &str) -> Owner {
    Owner { instance: PLUGIN, generation: Generation(0), key: Key::new(key).unwrap() }
}

fn set(name: &str, value: &'static str) -> StateWrite {
    StateWrite { name: name.into(), value: Some(value.as_bytes().into()), expires_ms: None }
}

/// The end of a delivery that emits one event and writes this.
fn commit(position: u64, key: &str, state: Vec<StateWrite>) -> DeliveryCommit {
    let emit = NewEvent { kind: "thing.handled".into(), emitter: Some(PLUGIN), ..event("e1") };
    DeliveryCommit {
        completion: Completion {
            instance: PLUGIN,
            generation: Generation(0),
            position: Position(position),
            key: Key::new(key).ok(),
            environment: Digest::default(),
            attempt: 1,
            mode: Mode::Live,
            outcome: OutcomeKind::Ok,
            fuel: 1,
            response: None,
        },
        emits: vec![emit],
        state,
        timers: Vec::new(),
        calls: Vec::new(),
        dead_letter: None,
        park: false,
    }
}

/// A bus whose one place is taken by an event that its plugin still needs.
fn full_bus() -> Arc<Bus> {
    let bus = memory_bus(1, Overflow::Reject);
    let ring = bus.ring().unwrap();
    ring.add_consumer(PLUGIN, Box::new(|| Position(0)));
    ring.append(vec![event("k1")], Over::Nothing).unwrap();
    bus
}

#[test]
fn of_a_delivery_whose_events_are_dropped_nothing_is_seen() {
    let bus = full_bus();
    let progress = bus.progress(PLUGIN);
    for untold in [true, false] {
        let view = bus.values().view(owner("k"), 0).unwrap();
        let write = |writes| view.push_pending(Position(1), writes);
        let dropped = commit(1, "k", vec![set("n", "dropped")]);
        progress.submit();
        if untold {
            bus.commit_untold(&bus.outbox(), dropped, write);
        } else {
            let ticket = bus.commit(bus.outbox().permit(), dropped, write);
            assert!(matches!(ticket, Ticket::Memory(Err(_))));
        }
        assert_eq!(bus.values().get(&owner("k"), "n", 0).unwrap(), None, "as people see it");
        let next = bus.values().view(owner("k"), 0).unwrap();
        assert_eq!(next.get("n"), None, "as the next delivery sees it");
        assert!(bus.ledger().instance(PLUGIN).unwrap().is_completed(Position(1)), "it is over");
        assert_eq!(progress.outstanding(), 0, "nothing waits for its commit");
    }
}

#[test]
fn a_delivery_whose_events_are_dropped_gives_back_its_room() {
    let bus = full_bus();
    let quota = StateQuota { bytes: 100, keys: 0, key_bytes: 0 };
    for n in 1..=30 {
        let key = format!("k{n}");
        let view = bus.values().view(owner(&key), 0).unwrap().within(quota);
        assert_eq!(view.grow("n", None, 11), Ok(()), "delivery {n}");
        let dropped = commit(n, &key, vec![set("n", "0123456789")]);
        bus.commit_untold(&bus.outbox(), dropped, |writes| view.push_pending(Position(n), writes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_on_a_full_bus_has_all_of_its_effects_or_none() {
    let live = Live::new(4, Overflow::Reject).await;
    live.publish(&["a1", "a2", "a3", "a4"]).await;
    for position in 1..=4 {
        live.until_completed(position).await;
    }
    // The first finds no room: what makes some is its own end.
    assert_eq!(live.emitted(), ["a2", "a3", "a4"]);
    let listed = live.bus.values().get(&owner("a"), "ids", 0).unwrap().unwrap();
    assert_eq!(listed.bytes, b"a2 a3 a4");
    assert_eq!(live.bus.progress(PLUGIN).outstanding(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_whose_event_is_gone_can_be_given_up_after_a_redrive() {
    let live = Live::new(2, Overflow::DropOldest).await;
    live.script.rejected.lock().unwrap().insert("a1".to_owned());
    live.publish(&["a1"]).await;
    live.until("it is given up", |live| !live.plugin().letters.is_empty()).await;
    let number = live.plugin().letters[&Position(1)];
    for id in ["b1", "b2", "b3"] {
        live.publish(&[id]).await;
        live.until_completed(live.bus.last_position().0).await;
    }
    assert!(live.bus.event(Position(1)).await.unwrap().is_none(), "the ring dropped it");
    let act = async |act: Act| {
        let runner = Some(&*live.runner);
        operate::act(&live.bus, PLUGIN, runner, &[number], &act, "ops").await.unwrap()
    };
    assert_eq!(act(Act::Redrive).await.count, 1);
    live.until("the redrive is over", |live| live.plugin().redriving.is_empty()).await;
    assert_eq!(live.plugin().letters.len(), 1, "it stays a dead letter");
    let given_up = act(Act::Discard("gone".to_owned())).await;
    assert_eq!((given_up.count, live.plugin().letters.len()), (1, 0), "{:?}", given_up.left);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_at_events_that_are_gone_are_forgotten() {
    let live = Live::new(4, Overflow::DropOldest).await;
    let again = |_: &Delivery<'_>| {
        let reason = "not yet".to_owned();
        (Outcome::Retry { reason, after_ms: Some(10) }, Effects::default())
    };
    let live = live.with(again).await;
    for n in 1..=50 {
        // Each of a key of its own.
        live.publish(&[&format!("{}1", "k".repeat(n))]).await;
        let tried = |live: &Live| live.plugin().attempts.contains_key(&Position(n as u64));
        live.until("it is tried", tried).await;
    }
    live.until("those that are gone are over", |live| live.plugin().attempts.len() <= 4).await;
    for position in 1..=46 {
        assert!(live.plugin().is_completed(Position(position)), "{position}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_never_fits_is_refused_for_that() {
    let bus = memory_bus(2, Overflow::Reject);
    let publish = async |ids: &[&str]| {
        bus.publish(ids.iter().map(|id| Publish { event: event(id), expected: None }).collect())
            .await
    };
    let refused = publish(&["a1", "a2", "a3"]).await;
    assert_eq!(refused, Err(AppendError::TooMany { limit: 2, actual: 3 }));
    assert_eq!(publish(&["a1", "a2"]).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_with_more_events_than_the_bus_holds_is_a_dead_letter_that_says_so() {
    let emit = |delivery: &Delivery<'_>| {
        let draft = |n| Draft {
            id: delivery.seed.event_id(delivery.event.position, n),
            kind: "thing.handled".into(),
            key: None,
            bus: None,
            content_type: "text/plain".into(),
            data: Bytes::from(delivery.event.id.to_string()),
            attributes: Vec::new(),
        };
        let count = if &*delivery.event.id == "a1" { 3 } else { 1 };
        (Outcome::Ok, Effects { emits: (0..count).map(draft).collect(), ..Effects::default() })
    };
    let live = Live::new(2, Overflow::Reject).await.with(emit).await;
    live.publish(&["a1"]).await;
    live.until("it is given up", |live| !live.plugin().letters.is_empty()).await;
    let letter = live.bus.ledger().dead_letters().next().unwrap().clone();
    assert_eq!(letter.outcome, OutcomeKind::Output);
    assert!(letter.reason.contains("capacity = 2"), "{}", letter.reason);
    live.until("its place is free", |live| live.runner.cursor().low >= Position(1)).await;
    live.publish(&["b1"]).await;
    live.until_completed(2).await;
    assert_eq!(live.emitted(), ["b1"]);
}

/// Calls as often as a plugin may for the event `a1`, and for each other event once.
fn call(delivery: &Delivery<'_>) -> (Outcome, Effects) {
    let count = if &*delivery.event.id == "a1" { CALLS_OPEN_MEMORY_MAX } else { 1 };
    let call = |n| OutgoingCall {
        idempotency_key: format!("{}-{n}", delivery.event.id).into(),
        name: "hook".into(),
        method: "POST".into(),
        url: "http://127.0.0.1:1/".into(),
        headers: Vec::new(),
        body: Bytes::new(),
        timeout_ms: 1000,
    };
    let calls = (0..count).filter(|_| &*delivery.event.kind == "thing.happened").map(call);
    (Outcome::Ok, Effects { calls: calls.collect(), ..Effects::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_wait_for_answers_get_them_though_the_bus_is_full_of_their_events() {
    let live = Live::new(10, Overflow::Reject).await.with(call).await;
    let mut version = Version::clone(&live.runner.version());
    let granted = "127.0.0.1:1".parse::<HostPattern>().unwrap();
    let limits = GuestLimits { http: [granted].into(), ..GuestLimits::clone(&version.limits) };
    version.limits = Arc::new(limits);
    let (to, subscription) = (version.deliverer.clone(), version.manifest.subscribe.clone());
    let subscription = Arc::new(subscription);
    live.runner.swap(Arc::new(version), subscription, "ops".into(), Pin::Stays).await.unwrap();
    live.publish(&["a1"]).await;
    live.until("its place is free", |live| live.runner.cursor().low >= Position(1)).await;
    let waiting: Vec<_> = (1..=10).map(|n| format!("{}1", "k".repeat(n))).collect();
    live.publish(&waiting.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let more = vec![Publish { event: event("b1"), expected: None }];
    let full = Err(AppendError::QueueFull { limit: 10 });
    assert_eq!(live.bus.publish(more.clone()).await, full);

    let answers: Vec<_> = live.bus.ledger().calls().after(None).map(Arc::clone).collect();
    for call in answers {
        let content = Content {
            kind: RESPONSE,
            id: response_id(&call.idempotency_key),
            key: call.key.clone(),
            content_type: "".into(),
            data: Bytes::new(),
            attributes: Vec::new(),
        };
        let answer = private::event(&to, content);
        live.bus.append_private(vec![answer]).done().await.unwrap();
    }
    live.until_completed(11 + CALLS_OPEN_MEMORY_MAX as u64).await;
    assert_eq!(live.bus.ledger().calls().count(PLUGIN), 10, "those of the events that waited");
    assert_eq!(live.bus.publish(more).await.unwrap().len(), 1);
}

/// Emits what is too much: by the number of events for the bus that it runs on, by their bytes for any.
fn emit_too_much(delivery: &Delivery<'_>) -> (Outcome, Effects) {
    let bytes = if &*delivery.event.id == "a1" { 0 } else { 30 << 20 };
    let draft = |n| Draft {
        id: delivery.seed.event_id(delivery.event.position, n),
        kind: "thing.handled".into(),
        key: None,
        bus: None,
        content_type: "".into(),
        data: vec![0; bytes].into(),
        attributes: Vec::new(),
    };
    (Outcome::Ok, Effects { emits: (0..3).map(draft).collect(), ..Effects::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_ends_alike_when_it_runs_again() {
    for (capacity, id) in [(2, "a1"), (100, "b1")] {
        let live = Live::new(capacity, Overflow::Reject).await.with(emit_too_much).await;
        live.publish(&[id]).await;
        live.until("it is given up", |live| !live.plugin().letters.is_empty()).await;
        let letter = live.bus.ledger().dead_letters().next().unwrap().clone();
        let version = live.runner.version();
        let mut done = commit(1, id.trim_end_matches('1'), Vec::new());
        done.emits.clear();
        done.completion.outcome = letter.outcome;
        done.completion.environment = version.deliverer.environment;
        let input = live.bus.event(Position(1)).await.unwrap().unwrap();
        let (bus, seen) = (Arc::clone(&live.bus), Arc::default());
        let judged = Again { bus, version, input, done, seen }.run().await;
        assert!(
            matches!(judged.verdict, Verdict::Equal),
            "{:?}: {:?}",
            letter.reason,
            judged.verdict
        );
    }
}

#[test]
fn what_was_applied_once_stays_so_whoever_else_appends() {
    let bus = memory_bus(1000, Overflow::DropOldest);
    let append = || {
        for _ in 0..20_000 {
            let appended =
                bus.ring().unwrap().append(vec![NewEvent::default()], Over::Nothing).unwrap();
            let Ticket::Memory(Ok(committed)) = bus.control(&[]) else { panic!("it was refused") };
            let (position, applied) = (bus.last_position(), *bus.applied().borrow());
            assert!(
                position >= appended[0].position,
                "{position} after {:?}",
                appended[0].position
            );
            assert!(committed.commit.0 >= appended[0].position.0, "{committed:?}");
            assert!(applied >= committed.commit, "{applied} after {committed:?}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(append);
        }
    });
}

#[tokio::test]
async fn a_memory_bus_has_no_time_of_its_own_that_could_follow_the_clock() {
    let bus = memory_bus(10, Overflow::Reject);
    let refused = bus.follow_clock("ops").await;
    assert!(matches!(refused, Err(FollowError::NoLog { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_event_that_goes_to_another_bus_is_of_no_type_of_this_one() {
    let bus = memory_bus(10, Overflow::Reject);
    let there = NewEvent { addressee: Some(Addressee::Bus("other".into())), ..event("a1") };
    bus.append_private(vec![there, event("a2")]).done().await.unwrap();
    let ledger = bus.ledger();
    let counts: Vec<_> = ledger.types().map(|(kind, counted)| (kind, counted.count)).collect();
    assert_eq!(counts, [("thing.happened", 1)]);
    assert_eq!(ledger.outbound("other"), Position(1));
}
