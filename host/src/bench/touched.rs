//! Memory that is there before the clock starts.
//!
//! Rule: what grows by event while a bench measures has room for all of them before. To move a vector
//! of a million and to get its pages from the system costs a host nothing, and would be counted as its.

/// An empty vector with room for so many, in memory that was written to: the system gives memory page by
/// page, when it is first written.
pub(super) fn touched<T: Copy>(count: usize, any: T) -> Vec<T> {
    let mut room = Vec::with_capacity(count);
    room.resize(count, any);
    // Looked at, so that no compiler leaves out writing what is cleared next.
    std::hint::black_box(&mut room).clear();
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that this thread was the first to write; none: the system does not say.
    fn faults() -> Option<u64> {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(7)?.parse().ok()
    }

    #[test]
    fn filling_it_takes_no_new_pages() {
        const COUNT: usize = 1 << 20;
        let mut room = touched(COUNT, 0_u64);
        assert!(room.is_empty() && room.capacity() >= COUNT);
        let Some(before) = faults() else { return };
        room.extend(0..COUNT as u64);
        let new = faults().unwrap() - before;
        // 8 MiB are 2048 pages.
        assert!(new < 200, "{new} pages");
        std::hint::black_box(room);
    }
}
