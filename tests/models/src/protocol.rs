//! The protocol of the log: append, sync, acknowledge, deliver, commit, crash, recover.
//!
//! The words are those of the host. What is left out: bytes (a frame is whole or not there, which
//! recovery proves by its checksums), time, attempts that fail, and more than one plugin. Keys are
//! independent of each other but for the frame they share, so their order in it is left out too.

use std::hash::Hash;

use stateright::{Model, Property, Representative};

/// How far the model goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub keys: usize,
    /// Events that are published for each key.
    pub events: u8,
    pub crashes: u8,
    /// How often clients give up waiting, all together.
    pub hangups: u8,
    /// Whether queries look on.
    pub queries: bool,
}

/// What is wrong with a host that the model must not find sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Acknowledged when written, before the sync.
    AckBeforeSync,
    /// A duplicate is acknowledged though the commit it speaks of is not durable.
    AckDuplicateBeforeSync,
    /// What is published again after a crash is appended again.
    NoDedup,
    /// The sync is left out, and taken for done.
    NoSync,
    /// The key is released when the guest returns, before its commit is in the lane.
    ReleaseBeforeCommit,
    /// A restart delivers from where it was told in memory, not from what is complete.
    DeliverAgain,
    /// The completion and its effects are two commits.
    SplitCommit,
    /// Effects of a guest that has not returned are committed.
    CommitWithoutReturn,
    /// Queries see what is not durable.
    ReadAboveDurable,
    /// What recovery found unsynced is shown before it is written again and synced.
    ShowBeforeRewrite,
    /// Recovery takes an unsynced frame that survived for damage, and cuts back what is whole.
    CutTooMuch,
}

impl Fault {
    pub const ALL: [Self; 11] = [
        Self::AckBeforeSync,
        Self::AckDuplicateBeforeSync,
        Self::NoDedup,
        Self::NoSync,
        Self::ReleaseBeforeCommit,
        Self::DeliverAgain,
        Self::SplitCommit,
        Self::CommitWithoutReturn,
        Self::ReadAboveDurable,
        Self::ShowBeforeRewrite,
        Self::CutTooMuch,
    ];
}

/// A host with its clients, of which one publishes to each key.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    pub bounds: Bounds,
    pub fault: Option<Fault>,
}

/// Records of one key: numbers of events, of deliveries that are complete, and what they had as effect:
/// the number of the event, and the count that the handler made of the state it saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Records {
    events: Vec<u8>,
    done: Vec<u8>,
    effects: Vec<(u8, u8)>,
}

impl Records {
    fn append(&mut self, mut more: Self) {
        self.events.append(&mut more.events);
        self.done.append(&mut more.done);
        self.effects.append(&mut more.effects);
    }
}

/// One key: its client, its records, and its deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Events acknowledged to the client.
    acked: u8,
    /// The next one is in the ingest lane.
    queued: bool,
    /// It has left the lane, and is to be acknowledged once it is durable.
    waiting: bool,
    durable: Records,
    /// In the frame that is written and not synced.
    written: Records,
    /// The effects lane.
    lane: Vec<Records>,
    /// The delivery under way: event, and the count that it saw.
    running: Option<(u8, u8)>,
    /// A delivery that returned, whose commit is not in the lane yet.
    returned: Option<(u8, u8)>,
    /// The highest count that a query was told.
    told: u8,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    keys: Vec<Key>,
    crashes: u8,
    hangups: u8,
    /// A frame is written and not synced.
    unsynced: bool,
    /// The host is reading what a crash left; nothing is served.
    recovering: bool,
    /// What is not synced is shown as if it were.
    shown: bool,
}

/// One step of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The client of a key publishes its next event, or again the one that was not acknowledged.
    Publish(usize),
    /// The writer takes all that waits and writes a frame.
    Write,
    /// The frame is synced.
    Sync,
    Acknowledge(usize),
    /// The client waits no longer for its answer; it will publish the same again.
    HangUp(usize),
    Deliver(usize),
    Return(usize),
    Commit(usize),
    Query(usize),
    /// Power fails. What was not synced is lost, or was written back by chance.
    Crash {
        lost: bool,
    },
    /// Recovery has read everything, written the last frame again and synced it.
    Recovered,
}

impl Key {
    fn known(&self, number: u8) -> bool {
        self.durable.events.contains(&number) || self.written.events.contains(&number)
    }

    /// Deliveries that are committed, durable or not.
    fn committed(&self) -> usize {
        let lane: usize = self.lane.iter().map(|records| records.done.len()).sum();
        self.durable.done.len() + self.written.done.len() + lane
    }

    /// The state that the next delivery of the key sees: its own pending layer over the durable one.
    fn count(&self) -> u8 {
        let lane = self.lane.iter().rev().flat_map(|records| records.effects.last());
        let newest = lane.chain(self.written.effects.last()).chain(self.durable.effects.last());
        newest.map(|(_, count)| *count).next().unwrap_or(0)
    }
}

impl Protocol {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The next event of a key that may be delivered.
    fn next(&self, state: &State, key: &Key) -> Option<u8> {
        if key.running.is_some() {
            return None;
        }
        if key.returned.is_some() && !self.has(Fault::ReleaseBeforeCommit) {
            return None;
        }
        let behind = usize::from(key.returned.is_some());
        let next = u8::try_from(key.committed() + behind + 1).ok()?;
        let durable = key.durable.events.contains(&next);
        (durable || (state.shown && key.written.events.contains(&next))).then_some(next)
    }

    fn may_acknowledge(&self, state: &State, key: &Key) -> bool {
        let number = key.acked + 1;
        let durable = key.durable.events.contains(&number);
        let early = self.has(Fault::AckBeforeSync) || state.shown;
        key.waiting && (durable || (early && key.written.events.contains(&number)))
    }

    fn write(&self, state: &mut State) {
        let mut wrote = false;
        for key in &mut state.keys {
            if std::mem::take(&mut key.queued) {
                let number = key.acked + 1;
                if !key.known(number) || self.has(Fault::NoDedup) {
                    key.written.events.push(number);
                    wrote = true;
                }
                key.waiting = true;
            }
            let taken = if self.has(Fault::SplitCommit) { 1 } else { key.lane.len() };
            for records in key.lane.drain(..taken.min(key.lane.len())) {
                key.written.append(records);
                wrote = true;
            }
        }
        state.unsynced = wrote;
        if wrote && self.has(Fault::NoSync) {
            state.shown = true;
        }
    }

    fn sync(state: &mut State) {
        for key in &mut state.keys {
            let written = std::mem::take(&mut key.written);
            key.durable.append(written);
        }
        state.unsynced = false;
        state.shown = false;
    }

    fn crash(&self, state: &mut State, lost: bool) {
        state.crashes += 1;
        state.recovering = true;
        state.shown = false;
        for key in &mut state.keys {
            let fresh = Key {
                acked: key.acked,
                told: key.told,
                durable: std::mem::take(&mut key.durable),
                written: if lost { Records::default() } else { std::mem::take(&mut key.written) },
                ..Key::default()
            };
            *key = fresh;
            if self.has(Fault::CutTooMuch) && !lost && state.unsynced {
                key.written = Records::default();
                key.durable.events.pop();
            }
            if self.has(Fault::DeliverAgain) {
                key.durable.done.pop();
            }
        }
        state.unsynced &= !lost;
    }

    fn commit(&self, key: &mut Key, (number, count): (u8, u8)) {
        let done = Records { done: vec![number], ..Records::default() };
        let effects = Records { effects: vec![(number, count + 1)], ..Records::default() };
        if self.has(Fault::SplitCommit) {
            key.lane.extend([done, effects]);
        } else {
            key.lane.push(Records { effects: effects.effects, ..done });
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            keys: vec![Key::default(); self.bounds.keys],
            crashes: 0,
            hangups: 0,
            unsynced: false,
            recovering: false,
            shown: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.crashes < self.bounds.crashes {
            steps.push(Step::Crash { lost: true });
            if state.unsynced {
                steps.push(Step::Crash { lost: false });
            }
        }
        if state.recovering {
            steps.push(Step::Recovered);
            return;
        }
        if state.unsynced {
            steps.push(Step::Sync);
        } else if state.keys.iter().any(|key| key.queued || !key.lane.is_empty()) {
            steps.push(Step::Write);
        }
        for (at, key) in state.keys.iter().enumerate() {
            if key.acked < self.bounds.events && !key.queued && !key.waiting {
                steps.push(Step::Publish(at));
            }
            if self.may_acknowledge(state, key) {
                steps.push(Step::Acknowledge(at));
            }
            if key.waiting && state.hangups < self.bounds.hangups {
                steps.push(Step::HangUp(at));
            }
            if self.next(state, key).is_some() {
                steps.push(Step::Deliver(at));
            }
            if key.running.is_some() && (key.returned.is_none()) {
                steps.push(Step::Return(at));
            }
            if key.returned.is_some() {
                steps.push(Step::Commit(at));
            }
            if self.bounds.queries {
                steps.push(Step::Query(at));
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Publish(at) => {
                let key = &mut state.keys[at];
                if self.has(Fault::AckDuplicateBeforeSync) && key.known(key.acked + 1) {
                    key.acked += 1;
                } else {
                    key.queued = true;
                }
            }
            Step::Write => self.write(&mut state),
            Step::Sync => Self::sync(&mut state),
            Step::Acknowledge(at) => {
                state.keys[at].waiting = false;
                state.keys[at].acked += 1;
            }
            Step::HangUp(at) => {
                state.keys[at].waiting = false;
                state.hangups += 1;
            }
            Step::Deliver(at) => {
                let number = self.next(last, &last.keys[at])?;
                let count = last.keys[at].count();
                state.keys[at].running = Some((number, count));
                if self.has(Fault::CommitWithoutReturn) {
                    self.commit(&mut state.keys[at], (number, count));
                }
            }
            Step::Return(at) => state.keys[at].returned = state.keys[at].running.take(),
            Step::Commit(at) => {
                let returned = state.keys[at].returned.take()?;
                self.commit(&mut state.keys[at], returned);
            }
            Step::Query(at) => {
                let shown = state.shown || self.has(Fault::ReadAboveDurable);
                let key = &mut state.keys[at];
                let durable = key.durable.effects.last().map_or(0, |(_, count)| *count);
                let seen = if shown { key.count() } else { durable };
                key.told = key.told.max(seen);
            }
            Step::Crash { lost } => self.crash(&mut state, lost),
            Step::Recovered => {
                state.recovering = false;
                if self.has(Fault::ShowBeforeRewrite) {
                    state.shown = state.unsynced;
                } else {
                    Self::sync(&mut state);
                }
            }
        }
        (state != *last).then_some(state)
    }

    /// A host that appends the same again and again would go on for ever.
    fn within_boundary(&self, state: &State) -> bool {
        let most = usize::from(self.bounds.events) + 1;
        state.keys.iter().all(|key| key.durable.events.len() <= most)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn all(state: &State, holds: impl Fn(&Key) -> bool) -> bool {
            state.keys.iter().all(holds)
        }
        fn counts(numbers: &[u8]) -> bool {
            numbers.iter().copied().eq(1..=u8::try_from(numbers.len()).unwrap_or(u8::MAX))
        }
        vec![
            Property::always("what is acknowledged is durable", |_, state| {
                all(state, |key| (1..=key.acked).all(|n| key.durable.events.contains(&n)))
            }),
            Property::always("events of a key stand once, in order, without a gap", |_, state| {
                all(state, |key| counts(&key.durable.events))
            }),
            Property::always(
                "deliveries are complete once, in order, of durable events",
                |_, state| {
                    all(state, |key| {
                        counts(&key.durable.done)
                            && key.durable.done.len() <= key.durable.events.len()
                    })
                },
            ),
            Property::always(
                "effects stand with their completion, once, and are exact",
                |_, state| {
                    all(state, |key| {
                        let expected = key.durable.done.iter().map(|number| (*number, *number));
                        key.durable.effects.iter().copied().eq(expected)
                    })
                },
            ),
            Property::always("what was seen stays", |_, state| {
                all(state, |key| usize::from(key.told) <= key.durable.effects.len())
            }),
            Property::always(
                "who comes to rest has done everything",
                |model: &Self, state: &State| {
                    let mut steps = Vec::new();
                    model.actions(state, &mut steps);
                    steps.retain(|step| !matches!(step, Step::Query(_)));
                    let all_done = |key: &Key| {
                        key.acked == model.bounds.events
                            && key.durable.done.len() == usize::from(model.bounds.events)
                    };
                    !steps.is_empty() || all(state, all_done)
                },
            ),
            Property::sometimes(
                "everything is done after every crash",
                |model: &Self, state: &State| {
                    state.crashes == model.bounds.crashes
                        && all(state, |key| {
                            key.durable.done.len() == usize::from(model.bounds.events)
                        })
                },
            ),
        ]
    }
}

/// Keys are alike: states that differ in their order alone are one.
impl Representative for State {
    fn representative(&self) -> Self {
        let mut same = self.clone();
        same.keys.sort();
        same
    }
}
