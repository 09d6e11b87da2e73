//! What a delivery is made of, and what it waits for before its guest runs.

use std::sync::Arc;

use super::work::Stopped;
use super::worker::Delivered;
use super::{Runner, Version};
use crate::bus::{Outbox, deliver};
use crate::event::Event;
use crate::log::ReadError;
use crate::schedule::core::Assignment;
use crate::state::cold::ColdError;
use crate::state::{Handle, KeyView, Owner, Values};
use crate::wasm::{Delivery, Invocation, Seed, StateView};

/// Bytes that the lane must have room for beside `limits.output`: the completion itself.
const COMPLETION_BYTES: usize = 1024;

impl StateView for KeyView {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        Self::get(self, name)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        Self::list(self, prefix, after, limit)
    }

    fn all(&self, bytes_max: usize) -> Option<Vec<(String, Vec<u8>)>> {
        Self::all(self, bytes_max)
    }

    fn grow(&self, name: &str, own: Option<usize>, new: usize) -> Result<(), &'static str> {
        Self::grow(self, name, own, new)
    }

    fn start_over(&self) {
        Self::start_over(self);
    }

    fn other_timers(&self, name: &str) -> usize {
        Self::other_timers(self, name)
    }
}

/// Bytes that a delivery may take in the lane.
pub(super) fn commit_bytes(version: &Version) -> usize {
    version.limits.output_bytes_max + COMPLETION_BYTES
}

/// As [`commit_bytes`], of a certain event.
fn commit_bytes_for(version: &Version, event: &Event) -> usize {
    let emits_max = version.limits.emits_max;
    let long = deliver::long_taken_over(&version.deliverer, event, emits_max);
    commit_bytes(version).saturating_add(long)
}

impl Runner {
    /// The event to be delivered; none: a memory bus dropped it.
    pub(super) async fn input(
        &self,
        assignment: &Assignment<Arc<Event>>,
    ) -> Result<Option<Arc<Event>>, ReadError> {
        if let Some(event) = &assignment.item {
            return Ok(Some(Arc::clone(event)));
        }
        // It waits after an attempt that may have failed before it was durable.
        self.bus.until_durable(assignment.position).await?;
        self.bus.event(assignment.position).await
    }

    /// Waits for what a delivery goes on from, and for room for what it may send and record. Gives the
    /// bytes of that in the lane.
    pub(super) async fn room(
        &self,
        version: &Version,
        event: &Event,
        outbox: &Outbox,
    ) -> Result<usize, Stopped> {
        // First of all: this can take a while after a start, and hours where the disk is full, in which
        // others can use the room.
        let values = self.bus.values();
        if event.key.is_some() && !(values.is_filled() && values.has_room()) {
            // Boxed: it is seldom needed, and a delivery in hand is to be small.
            Box::pin(self.state_room()).await?;
        }
        if !version.limits.http.is_empty() {
            tokio::select! {
                () = self.bus.calls_room(self.instance) => {}
                () = self.stop.cancelled() => return Err(Stopped::Closing),
            }
        }
        let bytes = commit_bytes_for(version, event);
        self.bus.reserve_in(outbox, (self.instance, bytes)).await?;
        Ok(bytes)
    }

    /// Waits for the keys that a start reads, and for room in memory for one more. Whoever stops does not wait.
    async fn state_room(&self) -> Result<(), Stopped> {
        let values = self.bus.values();
        let ready = async {
            values.filled().await?;
            values.room().await;
            Ok(())
        };
        tokio::select! {
            biased;
            ready = ready => ready,
            () = self.stop.cancelled() => Err(Stopped::Closing),
        }
    }

    /// The newest form of an event, or how its delivery fails. Whoever stops does not wait for an upcaster
    /// that is not there yet.
    pub(super) async fn newest(
        &self,
        event: &Arc<Event>,
    ) -> Result<Result<Arc<Event>, Box<Invocation>>, Stopped> {
        tokio::select! {
            biased;
            shape = self.bus.upcasters().lift(event) => Ok(shape),
            () = self.stop.cancelled() => Err(Stopped::Closing),
        }
    }

    /// Ends the delivery of an event that a memory bus dropped: in the ledger, too, or what that knows of it
    /// would stay for good.
    pub(super) fn pass_over_dropped(&self, assignment: &Assignment<Arc<Event>>) -> Delivered {
        let position = assignment.position;
        if assignment.redriven {
            self.say(
                "warn",
                format!("the event at {position} is gone and cannot be delivered again"),
            );
        }
        self.bus.end_dropped(self.instance, self.generation, position);
        Delivered::passed_over()
    }

    pub(super) fn view(
        &self,
        (version, values): (&Version, &Handle),
        event: &Event,
    ) -> Result<Option<Arc<KeyView>>, ColdError> {
        let Some(key) = event.key.clone() else { return Ok(None) };
        let owner = Owner { instance: self.instance, generation: self.generation, key };
        let view = Values::view_with(values, owner, event.recorded_ms)?;
        Ok(Some(Arc::new(view.within(version.state))))
    }

    pub(super) fn delivery<'a>(
        &self,
        version: &'a Version,
        event: &'a Arc<Event>,
        (attempt, redriven): (u32, bool),
        view: Option<&Arc<KeyView>>,
    ) -> Delivery<'a> {
        let state: Arc<dyn StateView> = match view {
            Some(view) => Arc::<KeyView>::clone(view),
            None => Arc::new(()),
        };
        Delivery {
            event,
            attempt,
            redriven,
            seed: Seed {
                log_id: self.bus.log_id(),
                instance: self.instance,
                generation: self.generation,
                recorded_ms: event.recorded_ms,
            },
            config: &version.config,
            limits: &version.limits,
            state,
            // What is rebuilt reaches nothing outside.
            outside: version.outside.as_ref().filter(|_| !self.repeats(event.position)),
        }
    }
}
