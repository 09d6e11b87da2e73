//! What is known of the items of a window, in constant space.

use serde::{Deserialize, Serialize};

/// Count, sum, least and greatest of numbers. Stored as `[count,sum,min,max]`.
///
/// Sums are exact for whole numbers up to 2^53.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats(u64, f64, f64, f64);

impl Stats {
    /// Adds a number; what is none (NaN) is left out.
    pub fn add(&mut self, value: f64) {
        if !value.is_nan() {
            let value = finite(value);
            self.merge(&Self(1, value, value, value));
        }
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Self) {
        if self.0 == 0 || other.0 == 0 {
            if self.0 == 0 {
                *self = *other;
            }
            return;
        }
        self.0 = self.0.saturating_add(other.0);
        self.1 = finite(self.1 + other.1);
        self.2 = self.2.min(other.2);
        self.3 = self.3.max(other.3);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0
    }

    /// Their sum; 0 where there is none.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.1
    }

    /// Their mean; 0 where there is none.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts over 2^53 are not reached")]
    pub fn average(&self) -> f64 {
        if self.0 == 0 { 0.0 } else { self.1 / self.0 as f64 }
    }

    /// The least; 0 where there is none.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.2
    }

    /// The greatest; 0 where there is none.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.3
    }
}

/// JSON has no infinity, and state that cannot be read again would hold up the key for good.
fn finite(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX)
}

/// A span of time and what was in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Where it begins, in milliseconds since the Unix epoch: the first time in it.
    pub start_ms: u64,
    /// Where it ends: the first time after it. For a session its last item, which is in it.
    pub end_ms: u64,
    /// Its items.
    pub stats: Stats,
}

/// Stats by the beginning of their pane, ascending; only panes with items.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Panes(Vec<(u64, Stats)>);

impl Panes {
    /// Adds a number to the pane that begins at `start_ms`.
    pub(super) fn add(&mut self, start_ms: u64, value: f64) {
        let at = self.0.partition_point(|(start, _)| *start < start_ms);
        match self.0.get_mut(at) {
            Some((start, stats)) if *start == start_ms => stats.add(value),
            _ => {
                let mut stats = Stats::default();
                stats.add(value);
                self.0.insert(at, (start_ms, stats));
            }
        }
    }

    /// All panes that begin in `from_ms..to_ms`, together.
    pub(super) fn merged(&self, from_ms: u64, to_ms: u64) -> Stats {
        let from = self.0.partition_point(|(start_ms, _)| *start_ms < from_ms);
        let within = self.0.iter().skip(from).take_while(|(start_ms, _)| *start_ms < to_ms);
        let mut merged = Stats::default();
        within.for_each(|(_, stats)| merged.merge(stats));
        merged
    }

    /// Drops the panes that begin before this.
    pub(super) fn drop_before(&mut self, start_ms: u64) {
        self.0.retain(|(start, _)| *start >= start_ms);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Where the panes begin, ascending.
    pub(super) fn starts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|(start_ms, _)| *start_ms)
    }
}
