//! What the writer takes at once: all that waits, or where that is too much a share of each lane.

use std::collections::VecDeque;

use super::{State, Taken};
use crate::limits::GROUP_BYTES_MAX;

impl State {
    /// What makes one group.
    pub(super) fn take_group(&mut self) -> Taken {
        let bytes = self.effects_bytes + self.ingest_bytes;
        if bytes <= GROUP_BYTES_MAX {
            return self.take_all();
        }
        let mut taken = Taken::default();
        if self.ingest_skipped {
            self.take_ingest_while(&mut taken, |taken, _| taken.ingest.is_empty());
        }
        let kept_for_ingest = self.ingest_bytes.min(GROUP_BYTES_MAX / 4);
        while let Some(bytes) = self.effects.front().map(|entry| entry.commit.bytes()) {
            let fits = taken.bytes + bytes + kept_for_ingest <= GROUP_BYTES_MAX;
            if !fits && taken.bytes > 0 {
                break;
            }
            let Some(entry) = self.effects.pop_front() else { break };
            self.effects_bytes -= bytes;
            taken.bytes += bytes;
            taken.effects.push(entry);
        }
        self.take_ingest_while(&mut taken, |taken, bytes| {
            taken.bytes == 0 || taken.bytes + bytes <= GROUP_BYTES_MAX
        });
        self.ingest_skipped = !self.ingest.is_empty() && taken.ingest.is_empty();
        taken
    }

    /// Everything, without touching it one by one: whoever publishes waits for the lock meanwhile.
    fn take_all(&mut self) -> Taken {
        let bytes =
            std::mem::take(&mut self.effects_bytes) + std::mem::take(&mut self.ingest_bytes);
        self.ingest_skipped = false;
        Taken { effects: emptied(&mut self.effects), ingest: emptied(&mut self.ingest), bytes }
    }

    /// Moves what is first in the ingest lane to what was taken, while `goes_on` says so of that and of the
    /// bytes that come next.
    pub(super) fn take_ingest_while(
        &mut self,
        taken: &mut Taken,
        goes_on: impl Fn(&Taken, usize) -> bool,
    ) {
        while let Some(bytes) = self.ingest.front().map(|entry| entry.batch.commit.bytes())
            && goes_on(taken, bytes)
        {
            let Some(entry) = self.ingest.pop_front() else { break };
            self.ingest_bytes -= bytes;
            taken.bytes += bytes;
            taken.ingest.push(entry);
        }
    }
}

/// Takes all of a lane. Hardly ever more than twice as much comes next: who pushes that waits until there is
/// room, and others for the lock meanwhile.
fn emptied<T>(lane: &mut VecDeque<T>) -> Vec<T> {
    let next = VecDeque::with_capacity(2 * lane.len());
    std::mem::replace(lane, next).into()
}
