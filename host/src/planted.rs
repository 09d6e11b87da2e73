//! Defects on purpose, to test the tests: the oracle in `tests/` has to catch each of them.
//!
//! Rule: a build without the feature `planted-bugs` has nothing of this. There `planted!(Bug)` is the
//! literal `false`, wherever it stands.

/// Whether a defect is planted.
#[cfg(not(feature = "planted-bugs"))]
macro_rules! planted {
    ($($bug:ident)|+) => {
        false
    };
}

/// Whether a defect is planted.
#[cfg(feature = "planted-bugs")]
macro_rules! planted {
    ($($bug:ident)|+) => {
        ($($crate::planted::is($crate::planted::Bug::$bug))||+)
    };
}

#[cfg(feature = "planted-bugs")]
pub use choice::{Bug, VARIABLE, hits, is, plant};

#[cfg(feature = "planted-bugs")]
mod choice {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    /// The variable of the environment that names the defect a process runs with.
    pub const VARIABLE: &str = "TIDEGATE_PLANTED_BUG";

    macro_rules! bugs {
        ($($(#[$doc:meta])* $bug:ident,)*) => {
            /// A defect that can be planted.
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum Bug { $($(#[$doc])* $bug,)* }

            impl Bug {
                /// All of them.
                pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

                /// As [`VARIABLE`] has it.
                #[must_use]
                pub const fn name(self) -> &'static str {
                    match self { $(Self::$bug => stringify!($bug),)* }
                }
            }
        };
    }

    bugs! {
        /// A frame is acknowledged once it is written; the next one's sync covers it.
        AcknowledgesBeforeSync,
        /// Frames are never synced.
        NeverSyncs,
        /// The seal of a segment is not synced.
        SkipsSealSync,
        /// The name of a new segment is not made durable.
        SkipsDirectorySync,
        /// A sync that failed is tried again, and believed.
        RetriesFailedSync,
        /// What a start finds is shown before it is known to be on the disk.
        SkipsRewrite,
        /// Recovery takes the last whole frame for a torn one.
        CutsTooMuch,
        /// What was published before is new.
        ForgetsIdentities,
        /// The end of a delivery is committed twice.
        CommitsTwice,
        /// The end of a delivery is applied twice.
        AppliesTwice,
        /// A delivery's last emitted event is left out.
        DropsAnEmit,
        /// Emitted events get an id of their own each time.
        RandomEmitIds,
        /// A cancelled timer stays.
        LosesTimerCancel,
        /// Timers fire two seconds before they are due.
        FiresEarly,
        /// What comes late of an earlier generation is applied.
        AcceptsOldGeneration,
        /// The events of a batch are recorded in reverse.
        ReordersABatch,
        /// Two events of a key change places on the way to their handler.
        ReordersAKey,
        /// A key goes on past the event that parked it.
        ForgetsToPark,
        /// A dead letter is not noted.
        ForgetsDeadLetters,
        /// The end of a delivery is dropped where the disk is full.
        DropsWhatHasNoRoom,
        /// A checkpoint claims a commit more than it holds.
        CheckpointsAhead,
    }

    /// 0: to be read from the environment; 1: none; else a bug, counted from 2.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);
    static HITS: AtomicU64 = AtomicU64::new(0);

    fn of_environment() -> usize {
        static READ: OnceLock<usize> = OnceLock::new();
        *READ.get_or_init(|| {
            let name = std::env::var(VARIABLE).unwrap_or_default();
            Bug::ALL.iter().position(|bug| bug.name() == name).map_or(1, |at| at + 2)
        })
    }

    /// Whether this defect is planted in this process.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        let chosen = match CHOSEN.load(Ordering::SeqCst) {
            0 => of_environment(),
            chosen => chosen,
        };
        let is = Bug::ALL.get(chosen.wrapping_sub(2)) == Some(&bug);
        HITS.fetch_add(u64::from(is), Ordering::SeqCst);
        is
    }

    /// How often a planted defect was come by in this process: one that never is proves nothing.
    #[must_use]
    pub fn hits() -> u64 {
        HITS.load(Ordering::SeqCst)
    }

    /// Chooses the defect of this process, whatever the environment says.
    pub fn plant(bug: Option<Bug>) {
        let chosen = bug.and_then(|bug| Bug::ALL.iter().position(|other| *other == bug));
        CHOSEN.store(chosen.map_or(1, |at| at + 2), Ordering::SeqCst);
        HITS.store(0, Ordering::SeqCst);
    }
}
