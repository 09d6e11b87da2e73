//! What the ledger makes of records about keys and dead letters, sensible ones and others.

use super::*;
use crate::effects::OutcomeKind;
use crate::event::{Digest, Key};
use crate::log::record::{AttemptRecord, Control, DeadLetterRecord, LostDeliveries};
use crate::state::KeyState;
use crate::state::letters::Tried;

const PLUGIN: InstanceId = InstanceId(1);

struct Log {
    ledger: Ledger,
    commit: u64,
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

impl Log {
    fn new() -> Self {
        let mut log = Self { ledger: Ledger::default(), commit: 0 };
        let (name, after) = ("p".to_owned(), Position(0));
        log.control(Control::Register { instance: PLUGIN, name, after });
        log
    }

    fn at(&mut self) -> At {
        self.commit += 1;
        At { commit: CommitNumber(self.commit), time_ms: self.commit * 10 }
    }

    fn control(&mut self, control: Control) {
        let at = self.at();
        self.ledger.apply_control(at, &ControlRecord { actor: "ops".into(), control });
    }

    fn end(&mut self, position: u64, key: Option<&str>, attempt: u32, outcome: OutcomeKind) {
        let dead = DeadLetterRecord {
            reason: "first line\nsecond".to_owned(),
            backtrace: String::new(),
            logs: Vec::new(),
            first_ms: 5,
            module: Digest::default(),
        };
        let done = Completed {
            instance: PLUGIN,
            generation: Generation(0),
            position: Position(position),
            key,
            attempt,
            outcome,
            dead: (outcome != OutcomeKind::Ok).then_some(&dead),
        };
        let at = self.at();
        self.ledger.apply_completion(at, &done);
    }

    fn ok(&mut self, position: u64, key: &str) {
        self.end(position, Some(key), 1, OutcomeKind::Ok);
    }

    fn park(&mut self, position: u64, name: &str, attempt: u32) {
        self.end(position, Some(name), attempt, OutcomeKind::Trap);
        let (key, position) = (key(name), Position(position));
        self.control(Control::Park { instance: PLUGIN, key, position });
    }

    fn redrive(&mut self, position: u64) {
        self.control(Control::Redrive { instance: PLUGIN, position: Position(position) });
    }

    fn discard(&mut self, position: u64) {
        let (position, reason) = (Position(position), "old".to_owned());
        self.control(Control::Discard { instance: PLUGIN, position, reason });
    }

    fn plugin(&self) -> &Instance {
        self.ledger.instance(PLUGIN).unwrap()
    }

    fn state(&self, name: &str) -> &KeyState {
        &self.plugin().keys[&key(name)]
    }

    fn settle(&mut self, low: u64, seen: u64, back: &[&str]) {
        let back = back.iter().map(|name| key(name)).collect();
        let settled =
            Settled { low: Position(low), seen: Position(seen), back, ..Settled::default() };
        self.ledger.settle(PLUGIN, &settled);
    }
}

#[test]
fn a_parked_delivery_is_not_completed_until_it_succeeds() {
    let mut log = Log::new();
    log.ok(1, "a");
    log.park(2, "a", 2);
    assert!(!log.plugin().is_completed(Position(2)));
    assert_eq!(log.state("a").from, Position(2));
    assert_eq!(log.state("a").parked.unwrap().position, Position(2));
    assert_eq!(log.ledger.dead_letter(1).unwrap().reason, "first line");
    log.redrive(2);
    assert!(log.state("a").parked.is_none() && log.state("a").redriven);
    assert!(log.plugin().redriving.contains(&Position(2)));
    assert!(!log.plugin().is_completed(Position(2)));
    log.end(2, Some("a"), 3, OutcomeKind::Ok);
    assert!(log.plugin().is_completed(Position(2)));
    assert!(log.plugin().redriving.is_empty() && log.plugin().letters.is_empty());
    assert_eq!((log.state("a").from, log.ledger.dead_letters().count()), (Position(3), 0));
    assert_eq!(log.ledger.ignored(), 0);
}

#[test]
fn a_dead_letter_keeps_its_number_and_its_attempts_through_redrives() {
    let mut log = Log::new();
    log.control(Control::Attempt(AttemptRecord {
        instance: PLUGIN,
        generation: Generation(0),
        position: Position(1),
        key: Some(key("a")),
        attempt: 1,
        first_ms: 5,
        outcome: OutcomeKind::Timeout,
        reason: String::new(),
        due_ms: 9,
    }));
    log.park(1, "a", 2);
    for attempt in 3..20 {
        log.redrive(1);
        log.park(1, "a", attempt);
    }
    let letter = log.ledger.dead_letter(1).unwrap();
    assert_eq!((letter.attempts, letter.first_ms, letter.tried.len()), (19, 5, Tried::KEPT));
    assert_eq!(letter.tried.last().unwrap().attempt, 19);
    assert!(log.plugin().attempts.is_empty());
    assert_eq!(log.plugin().parked_keys(), 1);
}

#[test]
fn discard_and_release_complete_what_parked_the_key() {
    let mut log = Log::new();
    log.park(1, "a", 2);
    log.park(2, "b", 2);
    log.discard(1);
    log.control(Control::Release { instance: PLUGIN, key: key("b") });
    assert!(log.plugin().is_completed(Position(1)) && log.plugin().is_completed(Position(2)));
    assert_eq!(log.plugin().parked_keys(), 0);
    let left: Vec<_> = log.ledger.dead_letters().map(|letter| letter.position.0).collect();
    assert_eq!(left, [2]);
    // It can run again, and its key is not parked by it any more.
    log.redrive(2);
    log.end(2, Some("b"), 3, OutcomeKind::Trap);
    assert!(log.plugin().redriving.is_empty() && log.plugin().is_completed(Position(2)));
    assert_eq!(log.ledger.ignored(), 0);
}

#[test]
fn records_that_make_no_sense_are_ignored_and_counted() {
    let mut log = Log::new();
    log.park(1, "a", 2);
    log.redrive(1);
    let before = serde_json::to_value(log.plugin()).unwrap();
    log.redrive(1);
    log.redrive(7);
    log.discard(1);
    log.discard(7);
    log.control(Control::Release { instance: PLUGIN, key: key("b") });
    log.control(Control::Hold { instance: InstanceId(9), key: key("b"), reason: String::new() });
    assert_eq!(log.ledger.ignored(), 6);
    assert_eq!(serde_json::to_value(log.plugin()).unwrap(), before);
}

#[test]
fn keys_are_forgotten_once_they_have_caught_up_and_not_before() {
    let mut log = Log::new();
    log.park(1, "a", 2);
    log.control(Control::Hold { instance: PLUGIN, key: key("b"), reason: String::new() });
    log.settle(0, 50, &[]);
    assert_eq!((log.plugin().low, log.plugin().seen), (Position(0), Position(50)));
    log.discard(1);
    // Noted while the key still has a backlog below what was seen.
    log.settle(1, 1, &["a"]);
    assert_eq!(log.plugin().seen, Position(50));
    assert!(log.plugin().keys.contains_key(&key("a")));
    log.settle(60, 60, &["a", "b"]);
    assert!(!log.plugin().keys.contains_key(&key("a")));
    assert!(log.plugin().keys.contains_key(&key("b")), "it is still held");
}

#[test]
fn the_ledger_survives_a_checkpoint_with_its_keys() {
    let mut log = Log::new();
    log.ok(1, "z");
    log.park(2, "a", 2);
    log.control(Control::Hold { instance: PLUGIN, key: key("b"), reason: "why".to_owned() });
    log.settle(1, 40, &[]);
    let json = |ledger: &Ledger| serde_json::to_value(ledger).unwrap();
    for bytes in [rmp_serde::to_vec(&log.ledger), rmp_serde::to_vec_named(&log.ledger)] {
        let back: Ledger = rmp_serde::from_slice(&bytes.unwrap()).unwrap();
        assert_eq!(json(&back), json(&log.ledger));
    }
}

#[test]
fn a_rewind_forgets_dead_letters_of_what_is_delivered_anew_and_keeps_holds() {
    let mut log = Log::new();
    log.park(1, "a", 2);
    log.park(5, "b", 2);
    log.control(Control::Hold { instance: PLUGIN, key: key("b"), reason: String::new() });
    let (generation, after, until) = (Generation(1), Position(3), Position(9));
    log.control(Control::Rewind { instance: PLUGIN, generation, after, until, done: until });
    assert_eq!(log.plugin().parked_keys() + log.plugin().letters.len(), 1);
    assert_eq!((log.state("b").from, log.plugin().held_keys()), (Position(4), 1));
}

#[test]
fn calls_are_open_only_of_plugins_that_are_there_and_of_their_generation() {
    let mut log = Log::new();
    let call = |instance: u32, generation: u32| OpenCall {
        place: crate::state::CallPlace {
            commit: CommitNumber(9),
            index: instance * 10 + generation,
        },
        instance: InstanceId(instance),
        generation: Generation(generation),
        position: Position(4),
        key: Some(key("k")),
        idempotency_key: format!("{instance}-{generation}").into(),
        opened_ms: 90,
        request: None,
    };
    assert_eq!(log.ledger.apply_calls(vec![call(1, 0), call(1, 1), call(2, 0)]), 1);
    assert_eq!(log.ledger.apply_calls(vec![call(1, 0)]), 0, "it is open already");

    // A checkpoint in between changes nothing.
    let bytes = rmp_serde::to_vec_named(&log.ledger).unwrap();
    log.ledger = rmp_serde::from_slice(&bytes).unwrap();
    assert_eq!(log.ledger.calls().count(PLUGIN), 1);
    assert!(log.ledger.apply_response(PLUGIN, "response-1-0"));
    assert!(!log.ledger.apply_response(PLUGIN, "response-1-0"), "once");

    log.ledger.apply_calls(vec![call(1, 0)]);
    log.control(Control::Forget { instance: PLUGIN });
    assert!(log.ledger.calls().is_empty());
}

#[test]
fn of_a_lost_stretch_identities_are_not_given_again_and_what_is_over_stays_over() {
    let mut log = Log::new();
    let over = |generation, positions| LostDeliveries {
        instance: PLUGIN,
        generation: Generation(generation),
        positions,
    };
    let run = |first, last| (Position(first), Position(last));
    log.control(Control::Lost {
        first: CommitNumber(2),
        last: CommitNumber(4),
        events: 0,
        instances: InstanceId(7),
        over: vec![over(0, vec![run(3, 4), run(6, 6)]), over(1, vec![run(9, 9)])],
    });
    assert_eq!(log.ledger.next_instance(), InstanceId(8));
    let plugin = log.ledger.instance(PLUGIN).unwrap();
    let ended: Vec<u64> = (1..10).filter(|n| plugin.is_completed(Position(*n))).collect();
    assert_eq!(ended, [3, 4, 6]);
    // What no repair writes is counted, and costs nothing.
    log.control(Control::Lost {
        first: CommitNumber(0),
        last: CommitNumber(u64::MAX),
        events: u64::MAX,
        instances: InstanceId(0),
        over: vec![over(0, vec![run(0, u64::MAX), run(9, 2)])],
    });
    assert_eq!((log.ledger.next_instance(), log.ledger.ignored()), (InstanceId(8), 1));
}

fn activation(n: u64, types: &str) -> Control {
    Control::Activate {
        instance: PLUGIN,
        generation: Generation(0),
        module: Digest::of(&n.to_le_bytes()),
        environment: Digest::default(),
        manifest: format!("[subscribe]\ntypes = [\"{types}\"]\n"),
        after: Position(n * 100),
        unpins: false,
    }
}

/// Whether the subscription that judges a position is known, and is to these types.
fn judges(log: &Log, position: u64, types: &str) -> bool {
    let activations = log.ledger.instance(PLUGIN).unwrap().activations.iter();
    let in_force = activations.rev().find(|activation| activation.after < Position(position));
    in_force.is_some_and(|activation| activation.manifest.contains(&format!("\"{types}\"")))
}

#[test]
fn an_activation_that_still_judges_is_kept_however_many_follow() {
    let mut log = Log::new();
    log.control(activation(0, "a"));
    // Nothing is settled: a key may be parked at 5 for as long as nobody redrives it.
    for n in 1..=200 {
        log.control(activation(n, if n % 2 == 0 { "b" } else { "c" }));
    }
    assert!(judges(&log, 5, "a") && judges(&log, 150, "c") && judges(&log, 250, "b"));
    let settled = Settled { low: Position(18_000), seen: Position(18_000), ..Settled::default() };
    log.ledger.settle(PLUGIN, &settled);
    log.control(activation(201, "c"));
    assert!(judges(&log, 18_001, "b") && judges(&log, 20_101, "c"));
    assert_eq!(log.ledger.instance(PLUGIN).unwrap().activations.len(), 64);
}

#[test]
fn of_activations_that_judge_alike_few_are_kept() {
    let mut log = Log::new();
    log.control(activation(0, "a"));
    for n in 1..=200 {
        log.control(activation(n, "b"));
    }
    let plugin = log.ledger.instance(PLUGIN).unwrap();
    assert_eq!(plugin.activations.len(), 64);
    assert_eq!(plugin.active().unwrap().module, Digest::of(&200_u64.to_le_bytes()));
    assert!(judges(&log, 5, "a") && judges(&log, 101, "b") && judges(&log, 20_001, "b"));
}
