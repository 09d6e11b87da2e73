//! Processor time: of this process, of this thread, and of the threads of this process by name.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time this process has used, children not counted.
pub(super) fn process() -> Duration {
    read(ClockId::ProcessCPUTime)
}

/// Processor time this thread has used.
pub(super) fn thread() -> Duration {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Processor time of the threads that run now, by name; numbers at the end of a name are dropped,
/// so that a pool is one. Empty where the system does not say.
pub(super) fn threads() -> BTreeMap<String, Duration> {
    let mut all = BTreeMap::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return all };
    for task in tasks.flatten() {
        let path = task.path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let spent = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let Some(ns) = spent.split(' ').next().and_then(|ns| ns.parse().ok()) else { continue };
        let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
        *all.entry(name.to_owned()).or_default() += Duration::from_nanos(ns);
    }
    all
}

/// What each kind of thread used between two looks.
pub(super) fn between(
    before: &BTreeMap<String, Duration>,
    after: BTreeMap<String, Duration>,
) -> BTreeMap<String, Duration> {
    let spent = after.into_iter().map(|(name, after)| {
        let used = after.saturating_sub(before.get(&name).copied().unwrap_or_default());
        (name, used)
    });
    spent.filter(|(_, used)| !used.is_zero()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_under_the_name_of_its_thread() {
        let work = || {
            let begun = thread();
            while thread() - begun < Duration::from_millis(2) {}
            threads()
        };
        let before = threads();
        let after = std::thread::Builder::new().name("worker-7".to_owned()).spawn(work).unwrap();
        let spent = between(&before, after.join().unwrap());
        assert!(spent["worker"] >= Duration::from_millis(1), "{spent:?}");
        assert!(process() >= Duration::from_millis(2));
    }
}
