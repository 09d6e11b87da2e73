//! Waiting for conditions, and randomness that can be repeated.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(15);

/// Waits until `look` returns something, and returns it.
///
/// # Panics
/// After `limit`, with `what` and what was seen last.
pub(crate) fn wait_until<T, S: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= deadline => {
                panic!("waited {limit:?} for: {what}; last seen: {seen:?}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A random generator whose seed is printed where the test fails; `TIDEGATE_TEST_SEED` repeats it.
pub(crate) fn seed(test: &str) -> fastrand::Rng {
    let given = std::env::var("TIDEGATE_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("{test}: TIDEGATE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
