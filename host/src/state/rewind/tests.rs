use super::*;
use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Digest, InstanceId, Key};
use crate::log::record::{AttemptRecord, Control, ControlRecord};
use crate::state::Ledger;
use crate::state::ledger::Completed;

const PLUGIN: InstanceId = InstanceId(1);

struct Log {
    ledger: Ledger,
    commit: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { ledger: Ledger::default(), commit: 0 };
        let (name, after) = ("sums".to_owned(), Position(0));
        log.take(Control::Register { instance: PLUGIN, name, after });
        log
    }

    fn take(&mut self, control: Control) {
        self.commit += 1;
        let at = At { commit: CommitNumber(self.commit), time_ms: self.commit * 100 };
        self.ledger.apply_control(at, &ControlRecord { actor: "test".into(), control });
    }

    fn rewind(&mut self, generation: u32, after: u64, until: u64) {
        let (generation, after, until) = (Generation(generation), Position(after), Position(until));
        let done = until;
        self.take(Control::Rewind { instance: PLUGIN, generation, after, until, done });
    }

    fn complete(&mut self, generation: u32, position: u64) {
        let done = Completed {
            instance: PLUGIN,
            generation: Generation(generation),
            position: Position(position),
            key: None,
            attempt: 1,
            outcome: OutcomeKind::Ok,
            dead: None,
        };
        let at = At { commit: CommitNumber(self.commit), time_ms: 1 };
        self.ledger.apply_completion(at, &done);
    }

    fn rebuilt(&mut self, generation: u32) {
        self.take(Control::Rebuilt { instance: PLUGIN, generation: Generation(generation) });
    }

    fn plugin(&self) -> &Instance {
        self.ledger.instance(PLUGIN).unwrap()
    }
}

#[test]
fn the_generation_before_serves_until_the_new_one_is_rebuilt() {
    let mut log = Log::new();
    log.rewind(1, 0, 50);
    assert_eq!((log.plugin().generation, log.plugin().serving()), (Generation(1), Generation(0)));
    assert!(log.plugin().repeats(Position(50)) && !log.plugin().repeats(Position(51)));
    log.rebuilt(1);
    assert_eq!(log.plugin().serving(), Generation(1));
    assert!(log.plugin().rebuilding().is_none());
    assert!(log.plugin().repeats(Position(50)), "a late redrive emits nothing twice");
}

#[test]
fn a_rewind_of_a_rewind_leaves_the_one_that_serves() {
    let mut log = Log::new();
    log.rewind(1, 0, 50);
    log.rewind(2, 0, 60);
    assert_eq!(log.plugin().serving(), Generation(0));
    log.rebuilt(1);
    assert_eq!((log.plugin().serving(), log.ledger.ignored()), (Generation(0), 1));
    log.rebuilt(2);
    assert_eq!(log.plugin().serving(), Generation(2));
}

#[test]
fn records_that_make_no_sense_are_passed_over() {
    let mut log = Log::new();
    log.rewind(0, 0, 5);
    log.rewind(1, 6, 5);
    log.rebuilt(1);
    log.take(Control::Carried { instance: PLUGIN, generation: Generation(1) });
    assert_eq!((log.plugin().generation, log.ledger.ignored()), (Generation(0), 4));
}

#[test]
fn state_is_carried_over_unless_it_begins_empty() {
    let mut log = Log::new();
    log.rewind(1, 0, 50);
    assert!(log.plugin().rebuilding().unwrap().carried);
    log.rewind(2, 10, 50);
    assert!(!log.plugin().rebuilding().unwrap().carried);
    log.take(Control::Carried { instance: PLUGIN, generation: Generation(2) });
    assert!(log.plugin().rebuilding().unwrap().carried);
}

#[test]
fn the_past_is_that_of_the_generation_it_was_seen_in() {
    let mut log = Log::new();
    log.rewind(1, 30, 50);
    assert_eq!(log.plugin().generation_after(Position(40)), Generation(0), "it serves still");
    log.rebuilt(1);
    log.rewind(2, 20, 60);
    log.rebuilt(2);
    for (position, generation) in [(10, 0), (19, 0), (20, 2), (25, 2), (35, 2)] {
        let found = log.plugin().generation_after(Position(position));
        assert_eq!(found, Generation(generation), "{position}");
    }
    // Commits 3 and 5 let the generations serve.
    for (ms, generation) in [(0, 0), (299, 0), (300, 1), (499, 1), (500, 2), (9999, 2)] {
        assert_eq!(log.plugin().generation_at(ms), Generation(generation), "{ms}");
    }
}

#[test]
fn what_still_waits_before_a_point_forbids_to_go_back_to_it() {
    let mut log = Log::new();
    let seen = Position(100);
    assert_eq!(log.plugin().cannot_rewind(Position(99), seen), None);
    assert!(log.plugin().cannot_rewind(Position(101), seen).unwrap().contains("100"));
    let attempt = AttemptRecord {
        instance: PLUGIN,
        generation: Generation(0),
        position: Position(40),
        key: None,
        attempt: 1,
        first_ms: 1,
        outcome: OutcomeKind::Retry,
        reason: String::new(),
        due_ms: 5,
    };
    log.take(Control::Attempt(attempt));
    assert!(log.plugin().cannot_rewind(Position(40), seen).unwrap().contains("40"));
    assert_eq!(log.plugin().cannot_rewind(Position(39), seen), None);
    let key = Key::new("k").unwrap();
    log.take(Control::Park { instance: PLUGIN, key, position: Position(30) });
    let words = log.plugin().cannot_rewind(Position(35), seen).unwrap();
    assert!(words.contains("`k` waits at 30"), "{words}");
    assert_eq!(log.plugin().cannot_rewind(Position(29), seen), None);
}

/// Its key waits in the generation that serves, and nobody would ever deliver what is behind it.
#[test]
fn what_waits_where_state_is_seen_forbids_to_go_back_past_a_rewind_under_way() {
    let mut log = Log::new();
    let seen = Position(100);
    let key = Key::new("k").unwrap();
    log.take(Control::Park { instance: PLUGIN, key, position: Position(30) });
    log.rewind(1, 9, 100);
    let words = log.plugin().cannot_rewind(Position(86), seen).unwrap();
    assert!(words.contains("to just after 9 is not over"), "{words}");
    assert_eq!(log.plugin().cannot_rewind(Position(9), seen), None);
    log.rebuilt(1);
    assert_eq!(log.plugin().cannot_rewind(Position(86), seen), None);
}

#[test]
fn only_what_had_ended_before_is_repeated() {
    let mut log = Log::new();
    for position in [11, 13] {
        log.complete(0, position);
    }
    let (generation, after, until) = (Generation(1), Position(0), Position(20));
    let done = Position(10);
    log.take(Control::Rewind { instance: PLUGIN, generation, after, until, done });
    let repeats = |log: &Log| (9..15).filter(|p| log.plugin().repeats(Position(*p))).collect();
    let repeated: Vec<u64> = repeats(&log);
    assert_eq!(repeated, [9, 10, 11, 13]);
    // A rewind before the end of that one has not forgotten it.
    log.complete(1, 12);
    log.rewind(2, 0, 9);
    let repeated: Vec<u64> = repeats(&log);
    assert_eq!(repeated, [9, 10, 11, 12, 13]);
}

#[test]
fn what_serves_until_a_rewind_is_over_is_not_forgotten() {
    let mut log = Log::new();
    let activate = |log: &mut Log, generation: u32, module: u8| {
        log.take(Control::Activate {
            instance: PLUGIN,
            generation: Generation(generation),
            module: Digest([module; 32]),
            environment: Digest::default(),
            manifest: String::new(),
            after: Position(100),
            unpins: false,
        });
    };
    let served = |log: &Log| log.plugin().served().map(|served| served.module.0[0]);
    assert_eq!(served(&log), None);
    activate(&mut log, 0, 1);
    activate(&mut log, 0, 2);
    log.rewind(1, 0, 100);
    for module in 10..110 {
        activate(&mut log, 1, module);
    }
    assert_eq!(served(&log), Some(2));
    log.rewind(2, 0, 100);
    activate(&mut log, 2, 3);
    assert_eq!(served(&log), Some(2), "nothing of the rewind before that was ever seen");
    log.rebuilt(2);
    assert_eq!(served(&log), Some(3));
    for module in 10..110 {
        activate(&mut log, 2, module);
    }
    assert!(log.plugin().activations.iter().all(|activation| activation.module.0[0] > 3));
}
