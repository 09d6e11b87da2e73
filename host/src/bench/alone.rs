//! The code of each stage of a delivery, called alone: what it costs when nothing else runs. Timed in
//! a run's report, and counted in instructions by `.ci/instructions`.

use std::sync::Arc;
use std::time::Duration;

use ecow::EcoBytes;

use crate::bus::deliver::{self, Deliverer, Ended};
use crate::effects::{Draft, Effects, OutcomeKind, StateWrite};
use crate::event::{Digest, Event, Generation, InstanceId, KeySequence, Position};
use crate::log::Frame;
use crate::log::codec::{Encoded, Header, Salt, StateRef};
use crate::log::dedup::IdHasher;
use crate::log::frame::FrameBuilder;
use crate::log::heads::{Head, Heads};
use crate::log::index::{SegmentBase, SegmentIndexBuilder};
use crate::log::record::Mode;
use crate::schedule::core::{Bounds, Entry, Finish, KeyScheduler};
use crate::state::{Owner, Values};

use super::events::Events;
use super::invoke::event;
use super::{BenchError, Settings};

/// Events of a frame.
const FRAME_EVENTS: u64 = 64;

/// Processor time of this thread so far.
pub(super) type Clock = fn() -> Duration;
/// What a guest did in one call.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The names of the values that it read.
    pub(super) read: Vec<String>,
    /// What it asked for.
    pub(super) effects: Effects,
}

/// One stage: so many turns of it, and the time they took by this clock.
pub(super) type Stage = fn(&Events, u64, Clock) -> Duration;

/// Every stage with its name.
pub(super) const STAGES: [(&str, Stage); 8] = [
    ("encode", encode),
    ("frame", frame),
    ("heads", heads),
    ("index", index),
    ("decode", decode),
    ("schedule", schedule),
    ("state", state),
    ("effects", effects),
];

/// Runs one stage, for whoever counts what that takes.
///
/// # Errors
/// There is no such stage.
pub fn run(name: &str, turns: u64) -> Result<(), BenchError> {
    let found = STAGES.iter().find(|(known, _)| *known == name);
    let (_, stage) = found.ok_or_else(|| BenchError::Stage { name: name.to_owned() })?;
    let events = Events::new(&Settings { size: 256, keys: 1000, ..Settings::default() });
    // The clock is not asked: under valgrind the system's is out of reach.
    stage(&events, turns, || Duration::ZERO);
    Ok(())
}

pub(super) fn encode(events: &Events, turns: u64, clock: Clock) -> Duration {
    let made: Vec<_> = (0..turns).map(|number| events.event(number)).collect();
    let mut encoded = Encoded::default();
    let begun = clock();
    for event in &made {
        encoded.clear();
        // Such an event has been taken by a log before.
        let _ = encoded.event(event).and_then(|()| encoded.finish());
        std::hint::black_box(&encoded);
    }
    clock().saturating_sub(begun)
}

fn encoded(events: &Events, number: u64) -> Encoded {
    let mut encoded = Encoded::default();
    let _ = encoded.event(&events.event(number)).and_then(|()| encoded.finish());
    encoded
}

fn frame(events: &Events, turns: u64, clock: Clock) -> Duration {
    let commits: Vec<_> = (0..FRAME_EVENTS).map(|number| encoded(events, number)).collect();
    let salt = Salt::new([7; 16], 1);
    let metadata = commits.iter().map(|commit| commit.metadata.len()).sum();
    let payload = commits.iter().map(|commit| commit.payload.len()).sum();
    let mut builder = FrameBuilder::default();
    let begun = clock();
    for _ in 0..turns.div_ceil(FRAME_EVENTS) {
        builder.begin(0, metadata, payload);
        for commit in &commits {
            builder.push(commit, std::iter::once(KeySequence(1)));
        }
        let frame = builder.build(Header::default(), salt);
        std::hint::black_box(frame.chain());
    }
    clock().saturating_sub(begun)
}

/// Frames that follow on one another, of so many events together at least.
fn frames(events: &Events, turns: u64) -> Vec<Frame> {
    let salt = Salt::new([7; 16], 1);
    let mut builder = FrameBuilder::default();
    let mut made = Vec::new();
    for first in (0..turns).step_by(usize::try_from(FRAME_EVENTS).unwrap_or(1)) {
        for number in first..first + FRAME_EVENTS {
            builder.push(&encoded(events, number), std::iter::once(KeySequence(number + 1)));
        }
        let header =
            Header { first_commit: first + 1, first_position: first + 1, ..Header::default() };
        made.push(builder.build(header, salt));
    }
    made
}

fn heads(events: &Events, turns: u64, clock: Clock) -> Duration {
    let keys: Vec<_> =
        (0..turns).filter_map(|number| Some(events.key(number)?.hash128())).collect();
    let heads = Heads::new();
    let begun = clock();
    for (key, number) in keys.into_iter().zip(1..) {
        let sequence = heads.get(key).map_or(KeySequence(1), |head| head.sequence);
        heads.advance(key, Head { sequence, position: Position(number) });
    }
    clock().saturating_sub(begun)
}

fn index(events: &Events, turns: u64, clock: Clock) -> Duration {
    let frames = frames(events, turns);
    let hasher = IdHasher::new(&[7; 16]);
    let Some(first) = frames.first() else { return Duration::ZERO };
    let mut index = SegmentIndexBuilder::new(SegmentBase::of(first.header()));
    let begun = clock();
    for (frame, offset) in frames.iter().zip((0..).step_by(32 << 10)) {
        let _ = index.add_frame(frame, offset, &hasher);
    }
    std::hint::black_box(index.ids());
    clock().saturating_sub(begun)
}

pub(super) fn decode(events: &Events, turns: u64, clock: Clock) -> Duration {
    let frames = frames(events, turns);
    let begun = clock();
    for frame in &frames {
        std::hint::black_box(frame.events().map(|events| events.len()).unwrap_or_default());
    }
    clock().saturating_sub(begun)
}

fn schedule(events: &Events, turns: u64, clock: Clock) -> Duration {
    let bounds =
        Bounds { in_flight_count_max: 256, in_flight_bytes_max: 1 << 20, waiting_max: 100 };
    let mut core = KeyScheduler::new(bounds);
    let begun = clock();
    for number in 0..turns {
        let position = Position(number + 1);
        let entry = Entry { position, key: events.key(number).cloned(), weight: 300, item: () };
        let _ = core.offer(entry);
        if let Some(taken) = core.take() {
            core.finish(taken.ticket, Finish::Done);
        }
        core.scanned(position);
    }
    std::hint::black_box(core.cursor());
    clock().saturating_sub(begun)
}

fn state(events: &Events, turns: u64, clock: Clock) -> Duration {
    states(events, turns, clock, &["n".to_owned()], || written(events))
}

/// The state of a delivery, for who reads these names and writes that.
fn states(
    events: &Events,
    turns: u64,
    clock: Clock,
    read: &[String],
    written: impl Fn() -> Vec<StateWrite>,
) -> Duration {
    let values = Arc::new(Values::default());
    let owners: Vec<_> = (0..turns)
        .filter_map(|number| {
            let key = events.key(number)?.clone();
            Some(Owner { instance: InstanceId(1), generation: Generation(0), key })
        })
        .collect();
    let begun = clock();
    for (owner, position) in owners.into_iter().zip(1..) {
        let (position, key) = (Position(position), owner.key.clone());
        let Ok(view) = values.view(owner, 1) else { continue };
        for name in read {
            std::hint::black_box(view.get(name));
        }
        let (pending, logged) = (written(), written());
        if logged.is_empty() {
            continue;
        }
        view.push_pending(position, pending);
        let owner = (InstanceId(1), Generation(0));
        let logged: Vec<_> = logged.iter().map(StateRef::of).collect();
        // Without a cold store nothing fails.
        let _ = values.apply_logged(owner, (key.as_str(), key.hash128()), (position, &logged));
    }
    clock().saturating_sub(begun)
}

fn written(events: &Events) -> Vec<StateWrite> {
    let value = events.data().iter().take(8).copied().collect();
    vec![StateWrite { name: "n".into(), value: Some(value), expires_ms: None }]
}

fn effects(events: &Events, turns: u64, clock: Clock) -> Duration {
    made(events, turns, clock, |number| asked_for(events, number))
}

/// The ends of deliveries that asked for this.
fn made(events: &Events, turns: u64, clock: Clock, asked_for: impl Fn(u64) -> Effects) -> Duration {
    let by = Deliverer {
        instance: InstanceId(1),
        generation: Generation(0),
        environment: Digest::default(),
        bus: "main".into(),
        source: deliver::source("main", "bench"),
    };
    let input: Event = event(events);
    let made: Vec<_> = (0..turns).map(asked_for).collect();
    let mut encoded = Encoded::default();
    let begun = clock();
    for mut effects in made {
        let ended = Ended {
            attempt: 1,
            outcome: OutcomeKind::Ok,
            fuel: 1000,
            mode: Mode::Live,
            dead_letter: None,
            park: false,
        };
        let commit = deliver::commit(&by, &input, ended, &mut effects);
        encoded.clear();
        let _ = encoded.delivery(&commit).and_then(|()| encoded.finish());
        std::hint::black_box(&encoded);
    }
    clock().saturating_sub(begun)
}

fn asked_for(events: &Events, number: u64) -> Effects {
    let draft = Draft {
        id: Events::id(number),
        kind: "bench.counted".into(),
        key: events.key(number).cloned(),
        bus: None,
        content_type: "application/json".into(),
        data: events.data().clone(),
        attributes: Vec::new(),
    };
    Effects { emits: vec![draft], state: written(events), ..Effects::default() }
}

impl Asked {
    /// The state of a delivery, where each reads and writes what this one did.
    pub(super) fn state(&self, events: &Events, turns: u64, clock: Clock) -> Duration {
        states(events, turns, clock, &self.read, || self.written())
    }

    /// The ends of deliveries, where each asks for what this one did.
    pub(super) fn effects(&self, events: &Events, turns: u64, clock: Clock) -> Duration {
        made(events, turns, clock, |number| self.again(events, number))
    }

    /// In memory of its own, as a call leaves it.
    fn written(&self) -> Vec<StateWrite> {
        let again = |write: &StateWrite| StateWrite {
            name: write.name.as_str().into(),
            value: write.value.as_deref().map(EcoBytes::from),
            ..*write
        };
        self.effects.state.iter().map(again).collect()
    }

    /// The same for the event of this number: under its key, where it was under the one of its own.
    fn again(&self, events: &Events, number: u64) -> Effects {
        let again = |draft: &Draft| Draft {
            id: Events::id(number),
            kind: apart(&draft.kind),
            key: match &draft.key {
                key if key.as_ref() == events.key(0) => events.key(number).cloned(),
                key => key.clone(),
            },
            content_type: apart(&draft.content_type),
            ..draft.clone()
        };
        let emits = self.effects.emits.iter().map(again).collect();
        Effects { emits, state: self.written(), ..self.effects.clone() }
    }
}

fn apart(text: &str) -> Arc<str> {
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_did_is_what_is_measured() {
        let events = Events::new(&Settings { size: 16, keys: 10, ..Settings::default() });
        let effects = asked_for(&events, 0);
        let asked = Asked { read: vec!["n".to_owned()], effects };
        // It emitted under the key of the event, so it does for another one.
        let other = (1..).find(|number| events.key(*number) != events.key(0)).unwrap();
        assert_eq!(asked.again(&events, other), asked_for(&events, other));
        assert!(Asked::default().again(&events, other).is_empty());
        for asked in [asked, Asked::default()] {
            assert!(asked.state(&events, 500, crate::bench::cpu::thread) > Duration::ZERO);
            assert!(asked.effects(&events, 500, crate::bench::cpu::thread) > Duration::ZERO);
        }
    }

    #[test]
    fn every_stage_alone_does_something() {
        for (name, stage) in STAGES {
            run(name, 100).unwrap();
            let events = Events::new(&Settings { size: 256, keys: 10, ..Settings::default() });
            let took = stage(&events, 5000, crate::bench::cpu::thread);
            assert!(took > Duration::from_micros(25), "{name} took {took:?}");
        }
        let error = run("no such stage", 1).unwrap_err();
        assert!(error.to_string().contains("encode, frame"), "{error}");
    }
}
