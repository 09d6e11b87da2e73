//! Rewinds: deliveries that repeat earlier ones, and the moment from which their outcome is what
//! people see.
//!
//! What must not break: no event after the end of a rewind is offered before the new generation
//! serves; and nothing that an earlier delivery emitted or called happens twice, however late a key
//! comes to it. Events that were still to be delivered are so as if there were no rewind. Up to where
//! nothing was, every event counts as delivered, also one to which only the present manifest
//! subscribes: which of them an earlier one had wanted is not known any more.

use std::collections::VecDeque;
use std::time::Duration;

use roaring::RoaringTreemap;
use tokio::sync::mpsc;

use super::{Runner, Swap};
use crate::bus::Bus;
use crate::bus::source::Batch;
use crate::event::{InstanceId, Position};
use crate::log::ReadError;
use crate::log::record::{Control, ControlRecord, Mode};
use crate::state::rewind::repeats;

/// How often it is looked whether the end is reached, where nothing says so.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What of a plugin's events was delivered to an earlier generation.
#[derive(Default)]
pub(super) struct Rebuilt {
    low: Position,
    ended: RoaringTreemap,
    given_up: RoaringTreemap,
    /// The end of the rewind, unless the generation serves already.
    awaited: Option<Position>,
}

impl Rebuilt {
    pub(super) fn of(bus: &Bus, instance: InstanceId) -> Self {
        let ledger = bus.ledger();
        let Some(plugin) = ledger.instance(instance) else { return Self::default() };
        Self {
            low: plugin.repeats_low,
            ended: plugin.repeats.clone(),
            given_up: plugin.given_up.clone(),
            awaited: plugin.rebuilding().map(|rewound| rewound.until),
        }
    }

    /// The end that is to be reached before later events are delivered.
    pub(super) fn awaited(&self) -> Option<Position> {
        self.awaited
    }

    fn has(&self, position: Position) -> bool {
        repeats(position, self.low, &self.ended, &self.given_up)
    }
}

impl Runner {
    /// Whether a delivery of the event at a position repeats one to an earlier generation.
    pub(super) fn repeats(&self, position: Position) -> bool {
        self.rebuilt.has(position)
    }

    /// How a delivery of the event at a position runs.
    pub(super) fn mode(&self, position: Position, redriven: bool) -> Mode {
        match (self.repeats(position), redriven) {
            (true, true) => Mode::RebuildRedrive,
            (true, false) => Mode::Rebuild,
            (false, true) => Mode::Redrive,
            (false, false) => Mode::Live,
        }
    }

    /// Where the end of a rewind is reached with some events that were read, offers those up to it and
    /// lets the new generation serve. The rest of them is for the caller to offer; what was offered
    /// here is known. False: the runner stops.
    ///
    /// # Errors
    /// The events cannot be read; nothing was done then.
    pub(super) async fn rebuild_to(
        &self,
        end: &mut Option<Position>,
        reached: Position,
        batch: Option<&Batch>,
        swaps: &mut mpsc::Receiver<Swap>,
    ) -> Result<bool, ReadError> {
        let Some(until) = end.filter(|until| reached >= *until) else { return Ok(true) };
        let again = batch.map_or_else(|| Ok(VecDeque::new()), |batch| self.judge(batch, until));
        self.offer(again?, until, swaps).await;
        *end = None;
        Ok(self.let_serve(until, swaps).await)
    }

    /// Waits until everything up to the end of the rewind is delivered, but for keys that wait for a
    /// person, and lets the new generation serve. False: the runner stops.
    async fn let_serve(&self, until: Position, swaps: &mut mpsc::Receiver<Swap>) -> bool {
        self.queue.with(|core| core.scanned(until));
        let mut applied = self.bus.applied();
        // Asked in this order: a delivery that is over is submitted before.
        while self.cursor().seen < until || self.progress.outstanding() > 0 {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                Some(swap) = swaps.recv() => self.perform(swap, until).await,
                _ = applied.changed() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            self.note_progress();
        }
        let (instance, generation) = (self.instance, self.generation);
        let control = Control::Rebuilt { instance, generation };
        let record = ControlRecord { actor: "host".into(), control };
        let Ok(committed) = self.bus.control(&[record]).done().await else { return false };
        self.bus.until_applied(committed.commit).await;
        tracing::info!(plugin = %self.name, %generation, %until, "rebuilt: the new state serves");
        self.say("info", format!("rebuilt up to {until}: the new state serves"));
        true
    }
}
