//! How many files a host may have open.
//!
//! Rule: a log that gets no file ends, and a host keeps one open for each sealed segment. So it takes all that
//! it may have, and clients cannot use them up.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections take one in so many of the files, at most.
const CONNECTIONS_SHARE: u64 = 2;

/// Takes all the files that this process may have open: systems mostly begin with 1,024 and allow more. Says how
/// many that are; none: there is no limit.
pub(super) fn take_all() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused, what there was still holds.
    if setrlimit(Resource::Nofile, all).is_ok() { limit.maximum } else { limit.current }
}

/// Connections at the same time, of as many as are wanted.
pub(super) fn connections_max(files: Option<u64>, wanted: usize) -> usize {
    let share = files.and_then(|files| usize::try_from(files / CONNECTIONS_SHARE).ok());
    share.map_or(wanted, |share| wanted.min(share.max(1)))
}

#[cfg(test)]
mod tests {
    use super::connections_max;

    #[test]
    fn connections_leave_the_logs_half_of_the_files() {
        for (files, connections) in
            [(None, 1024), (Some(4096), 1024), (Some(256), 128), (Some(1), 1)]
        {
            assert_eq!(connections_max(files, 1024), connections, "{files:?}");
        }
    }
}
