//! Whether the writer lingers: hands a few events to deliveries before it writes them, and waits a moment
//! for what comes of them, to write and sync all of it at once. Pure.
//!
//! Rule: it waits no longer than a sync takes, which is what it saves, and the more seldom the more often
//! in a row nothing came.

use std::time::Duration;

use super::options::Linger;

/// Events that are waited for. More of them take longer than a sync, and share it anyway.
const EVENTS_MAX: u32 = 4;
/// Bytes that may join them.
pub(super) const JOINING_BYTES_MAX: usize = 64 << 10;
/// However long syncs take.
const PAUSE_MAX: Duration = Duration::from_micros(200);
/// Groups that are written at once after nothing came so often.
const AT_ONCE_MAX: u32 = 255;

/// What the writer remembers of it.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    linger: Linger,
    synced_in: Duration,
    /// Groups to be written at once.
    at_once: u32,
    /// How many of them the next miss makes.
    after_miss: u32,
}

impl Lingering {
    pub(super) fn new(linger: Linger) -> Self {
        Self { linger, ..Self::default() }
    }

    /// Notes how long a sync took.
    pub(super) fn synced(&mut self, took: Duration) {
        self.synced_in = took;
    }

    /// How long to wait for what comes of so many events; none: not at all.
    pub(super) fn pause(&mut self, events: u32) -> Option<Duration> {
        if !(1..=EVENTS_MAX).contains(&events) {
            return None;
        }
        if self.at_once > 0 {
            self.at_once -= 1;
            return None;
        }
        match self.linger {
            Linger::AsSyncsTake => Some(self.synced_in.min(PAUSE_MAX)),
            Linger::For(pause) => Some(pause),
        }
    }

    /// Notes whether something came.
    pub(super) fn waited(&mut self, came: bool) {
        self.after_miss = if came { 0 } else { (2 * self.after_miss + 1).min(AT_ONCE_MAX) };
        self.at_once = self.after_miss;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_a_few_events_and_as_long_as_a_sync() {
        let mut lingering = Lingering::default();
        lingering.synced(Duration::from_micros(90));
        assert_eq!(lingering.pause(0), None);
        assert_eq!(lingering.pause(1), Some(Duration::from_micros(90)));
        assert_eq!(lingering.pause(EVENTS_MAX + 1), None);
        lingering.synced(Duration::from_secs(1));
        assert_eq!(lingering.pause(EVENTS_MAX), Some(PAUSE_MAX));
        let always = Linger::For(Duration::from_millis(7));
        assert_eq!(Lingering::new(always).pause(1), Some(Duration::from_millis(7)));
    }

    #[test]
    fn where_nothing_comes_hardly_anything_is_waited_for() {
        let mut lingering = Lingering::default();
        let mut waits = |groups: u32, came: bool| {
            let waited = (0..groups).filter(|_| {
                let pauses = lingering.pause(1).is_some();
                if pauses {
                    lingering.waited(came);
                }
                pauses
            });
            waited.count()
        };
        assert!((35..50).contains(&waits(10_000, false)));
        assert!(waits(1000, true) > 1000 - 256);
        // One miss is not held against it for long.
        assert_eq!((waits(1, false), waits(2, true), waits(10, true)), (1, 1, 10));
    }
}
