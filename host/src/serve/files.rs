//! How many files a host may have open.
//!
//! Rule: a log that gets no file for its next segment takes nothing more. So a host takes all the files that it may
//! have, and neither clients nor the indexes of old segments use them up.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::INDEX_FILES_OPEN_MAX;

/// Connections take one in so many of the files, at most.
const CONNECTIONS_SHARE: u64 = 2;
/// Index files that are open take one in so many.
const INDEX_SHARE: u64 = 8;

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

/// Index files that each of so many logs has open at a time.
pub(super) fn index_files_max(files: Option<u64>, logs: usize) -> usize {
    let share = files.and_then(|files| usize::try_from(files / INDEX_SHARE).ok());
    let each = share.and_then(|share| share.checked_div(logs));
    each.map_or(INDEX_FILES_OPEN_MAX, |each| each.clamp(1, INDEX_FILES_OPEN_MAX))
}

#[cfg(test)]
mod tests {
    use super::{connections_max, index_files_max};

    #[test]
    fn connections_leave_the_logs_half_of_the_files() {
        for (files, connections) in
            [(None, 1024), (Some(4096), 1024), (Some(256), 128), (Some(1), 1)]
        {
            assert_eq!(connections_max(files, 1024), connections, "{files:?}");
        }
    }

    #[test]
    fn logs_share_an_eighth_of_the_files_for_their_indexes() {
        for (files, logs, each) in [
            (None, 1, 64),
            (Some(20_000), 1, 64),
            (Some(1024), 8, 16),
            (Some(1024), 64, 2),
            (Some(64), 64, 1),
            (Some(64), 0, 64),
        ] {
            assert_eq!(index_files_max(files, logs), each, "{files:?} files, {logs} logs");
        }
    }
}
