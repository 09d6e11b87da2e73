use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, KeySequence};
use crate::wasm::Upcast;

/// Lifts to the version in `to`, and notes that in the data; `fails` instead, where set.
struct Lifter {
    to: u32,
    fails: Option<Outcome>,
    asked: AtomicUsize,
}

impl Lifter {
    fn to(version: u32) -> Arc<Self> {
        Arc::new(Self { to: version, fails: None, asked: AtomicUsize::new(0) })
    }

    fn failing(outcome: Outcome) -> Arc<Self> {
        Arc::new(Self { to: 2, fails: Some(outcome), asked: AtomicUsize::new(0) })
    }
}

impl Invoker for Lifter {
    fn invoke<'a>(&'a self, _: &'a mut Slot, _: Delivery<'a>) -> BoxFuture<'a, Box<Invocation>> {
        unreachable!("an upcaster is handed no events")
    }

    fn upcast<'a>(
        &'a self,
        _: &'a mut Slot,
        delivery: Delivery<'a>,
        _: u32,
    ) -> BoxFuture<'a, Upcast> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut data = delivery.event.data.to_vec();
        data.extend_from_slice(format!(">{}", self.to).as_bytes());
        let lifted =
            Lifted { version: self.to, content_type: "text/new".into(), data: data.into() };
        let upcast = match &self.fails {
            Some(outcome) => {
                Upcast { invocation: Box::new(Invocation::unrun(outcome.clone())), lifted: None }
            }
            None => Upcast { invocation: Box::default(), lifted: Some(lifted) },
        };
        Box::pin(std::future::ready(upcast))
    }
}

fn kinds(versions: &[u32]) -> Kinds {
    [("order.created".to_owned(), versions.to_vec())].into()
}

fn upcaster(id: u32, versions: &[u32], invoker: Arc<Lifter>) -> Upcaster {
    Upcaster {
        instance: InstanceId(id),
        name: format!("up-{id}").into(),
        kinds: kinds(versions),
        invoker,
        limits: Arc::default(),
        config: Arc::default(),
        log_id: Uuid::nil(),
        log: Arc::default(),
        idle: Idle::default(),
    }
}

fn event(position: u64, kind: &str, version: u32) -> Arc<Event> {
    let body = NewEvent {
        kind: kind.into(),
        data: Bytes::from_static(b"d"),
        schema_version: version,
        ..NewEvent::default()
    };
    Arc::new(Event {
        position: Position(position),
        sequence: KeySequence(1),
        recorded_ms: 1,
        commit: CommitNumber(1),
        body,
    })
}

async fn lifted(upcasters: &Upcasters, event: &Arc<Event>) -> (u32, String) {
    let lifted = upcasters.lift(event).await.unwrap();
    (lifted.schema_version, String::from_utf8(lifted.data.to_vec()).unwrap())
}

#[tokio::test]
async fn versions_are_lifted_one_after_the_other_to_the_newest() {
    let upcasters = Upcasters::default();
    upcasters.serve(upcaster(1, &[1], Lifter::to(2)));
    upcasters.serve(upcaster(2, &[2], Lifter::to(5)));
    let old = event(1, "order.created", 1);
    assert_eq!(lifted(&upcasters, &old).await, (5, "d>2>5".to_owned()));
    assert_eq!((old.schema_version, &*old.data), (1, &b"d"[..]));
    assert_eq!(lifted(&upcasters, &event(2, "order.created", 2)).await, (5, "d>5".to_owned()));
    for newest in [event(3, "order.created", 3), event(4, "order.paid", 1)] {
        let same = upcasters.lift(&newest).await.unwrap();
        assert!(Arc::ptr_eq(&same, &newest), "nobody lifts it");
    }
}

#[tokio::test]
async fn an_event_that_says_no_version_is_of_the_first() {
    let upcasters = Upcasters::default();
    upcasters.serve(upcaster(1, &[2], Lifter::to(3)));
    let unsaid = event(1, "order.created", 0);
    assert_eq!(lifted(&upcasters, &unsaid).await, (0, "d".to_owned()));
    upcasters.serve(upcaster(1, &[1, 2], Lifter::to(3)));
    assert_eq!(lifted(&upcasters, &unsaid).await, (3, "d>3".to_owned()));
}

#[tokio::test]
async fn an_event_is_lifted_once_for_all_plugins_until_an_upcaster_changes() {
    let upcasters = Upcasters::default();
    let (old, new) = (Lifter::to(2), Lifter::to(3));
    upcasters.serve(upcaster(1, &[1], Arc::clone(&old)));
    let input = event(1, "order.created", 1);
    for _ in 0..3 {
        assert_eq!(lifted(&upcasters, &input).await.0, 2);
    }
    assert_eq!(old.asked.load(Ordering::SeqCst), 1);
    upcasters.serve(upcaster(1, &[1], new));
    assert_eq!(lifted(&upcasters, &input).await.0, 3);
}

#[tokio::test]
async fn a_lift_that_fails_fails_the_delivery_and_names_the_upcaster() {
    let reject = Outcome::Reject { reason: "no amount".to_owned() };
    for (fails, expected) in [
        (reject, OutcomeKind::Trap),
        (Outcome::Fuel, OutcomeKind::Trap),
        (Outcome::Timeout, OutcomeKind::Retry),
    ] {
        let upcasters = Upcasters::default();
        upcasters.serve(upcaster(7, &[1], Lifter::failing(fails)));
        let failed = upcasters.lift(&event(1, "order.created", 1)).await.unwrap_err();
        assert_eq!(failed.outcome.kind(), expected);
        let words = failed.outcome.reason();
        assert!(words.contains("`up-7`") && words.contains("`order.created` version 1"), "{words}");
    }
}

#[tokio::test]
async fn a_chain_ends() {
    let upcasters = Upcasters::default();
    for id in 1..=100 {
        upcasters.serve(upcaster(id, &[id], Lifter::to(id + 1)));
    }
    let failed = upcasters.lift(&event(1, "order.created", 1)).await.unwrap_err();
    assert_eq!(failed.outcome.kind(), OutcomeKind::Trap);
    assert_eq!(lifted(&upcasters, &event(2, "order.created", 60)).await.0, 101);
}

#[tokio::test]
async fn an_upcaster_that_is_still_loading_is_waited_for_and_one_that_is_gone_is_named() {
    let upcasters = Upcasters::default();
    upcasters.expect(InstanceId(1), "up-1", kinds(&[1]));
    let input = event(1, "order.created", 1);
    let mut lifting = Box::pin(upcasters.lift(&input));
    assert!(lifting.as_mut().now_or_never().is_none());
    upcasters.serve(upcaster(1, &[1], Lifter::to(2)));
    assert_eq!(lifting.await.unwrap().schema_version, 2);

    upcasters.leave(InstanceId(1));
    let failed = upcasters.lift(&input).await.unwrap_err();
    assert_eq!(failed.outcome.kind(), OutcomeKind::Retry);
    assert!(failed.outcome.reason().contains("`up-1` does not run"));
    upcasters.withdraw(InstanceId(1));
    assert!(Arc::ptr_eq(&upcasters.lift(&input).await.unwrap(), &input));
}

#[test]
fn one_type_and_version_has_one_upcaster() {
    let upcasters = Upcasters::default();
    upcasters.expect(InstanceId(1), "up-1", kinds(&[1, 2]));
    let words = upcasters.conflict(Some(InstanceId(2)), &kinds(&[2, 3])).unwrap();
    assert!(words.contains("version 2") && words.contains("`up-1`"), "{words}");
    assert_eq!(upcasters.conflict(None, &kinds(&[3])), None);
    assert_eq!(upcasters.conflict(Some(InstanceId(1)), &kinds(&[2])), None);
}

#[test]
fn the_cache_forgets_the_oldest() {
    let mut cache = Cache::default();
    let count = u64::try_from(UPCAST_CACHE_EVENTS_MAX).unwrap();
    for position in 1..=count + 1 {
        cache.keep(&event(position, "order.created", 2));
    }
    assert_eq!(cache.lifted.len(), UPCAST_CACHE_EVENTS_MAX);
    assert!(!cache.lifted.contains_key(&Position(1)));
}
