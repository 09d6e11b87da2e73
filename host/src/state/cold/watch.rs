//! Ends the host where a call of the state store does not come back.
//!
//! sled 0.34 waits for ever for a write that failed: whoever asked holds what others wait for, and in the
//! end nothing answers. What the store holds is not relied upon, so that a start goes on without it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How often it is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Ticks that a call may take. Not a time: while the process stood still no call could go on.
const TICKS_MAX: u32 = 30;

/// Calls under way.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    begun: u64,
    /// Ticks that each has seen.
    ticks: BTreeMap<u64, u32>,
}

/// A call under way, until it is dropped.
pub(super) struct Call<'a> {
    calls: &'a Calls,
    number: u64,
}

impl Calls {
    /// Notes that a call begins.
    pub(super) fn begin(&self) -> Call<'_> {
        let mut under_way = self.lock();
        under_way.begun += 1;
        let number = under_way.begun;
        under_way.ticks.insert(number, 0);
        Call { calls: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a tick; says whether some call has seen too many.
    fn tick(&self) -> bool {
        let mut under_way = self.lock();
        under_way.ticks.values_mut().for_each(|ticks| *ticks += 1);
        under_way.ticks.values().any(|ticks| *ticks > TICKS_MAX)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.lock().ticks.remove(&self.number);
    }
}

/// Starts a thread that looks at them for as long as they are there.
///
/// # Errors
/// The system gives no thread.
pub(super) fn start(calls: &Arc<Calls>, path: PathBuf) -> io::Result<()> {
    let calls = Arc::downgrade(calls);
    let stuck = move || {
        tracing::error!(
            path = %path.display(), seconds = TICKS_MAX,
            "the state store does not come back from a call, as when the disk is full: the host ends; \
             nothing is lost, the next start makes the store anew"
        );
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("cold-watch".to_owned());
    thread.spawn(move || watch(&calls, TICK, stuck)).map(drop)
}

fn watch(calls: &Weak<Calls>, tick: Duration, stuck: impl FnOnce()) {
    loop {
        std::thread::sleep(tick);
        match calls.upgrade() {
            None => return,
            Some(calls) if calls.tick() => return stuck(),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_come_back_is_found_and_no_other() {
        let calls = Calls::default();
        let stuck = calls.begin();
        for _ in 0..TICKS_MAX {
            drop(calls.begin());
            assert!(!calls.tick());
        }
        assert!(calls.tick());
        drop(stuck);
        assert!(!calls.tick());
    }

    #[test]
    fn the_thread_tells_once_and_ends_with_what_it_looks_at() {
        let calls = Arc::new(Calls::default());
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let watched = |calls: &Arc<Calls>| {
            let (calls, tell) = (Arc::downgrade(calls), tell.clone());
            let tick = Duration::from_millis(1);
            std::thread::spawn(move || watch(&calls, tick, || tell.send(()).unwrap()))
        };
        let call = calls.begin();
        watched(&calls).join().unwrap();
        told.try_recv().unwrap();
        drop(call);
        let thread = watched(&calls);
        drop(calls);
        thread.join().unwrap();
        told.try_recv().unwrap_err();
    }
}
