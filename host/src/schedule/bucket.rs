//! A token bucket on the log clock: what "so many a second" means, in whole numbers.
//!
//! Pure: it is told the time. Over any stretch of time it gives out at most its burst and what the
//! rate adds, and what is spent beyond that (fuel is known only afterwards) is paid back before
//! anything more is given.

/// A bucket holds what its rate adds in a tenth of a second, so that a second's worth is never
/// spent at once.
const BURSTS_A_SECOND: i128 = 10;
/// Tokens are counted in thousandths: what a rate of one a second adds in a millisecond.
const TOKEN: i128 = 1000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    per_second: u64,
    /// Thousandths of a token; negative: debt.
    level: i128,
    filled_ms: u64,
}

impl Bucket {
    /// A full bucket. `per_second` is above 0.
    #[must_use]
    pub fn new(per_second: u64, now_ms: u64) -> Self {
        let mut bucket = Self { per_second: per_second.max(1), level: 0, filled_ms: now_ms };
        bucket.level = bucket.burst();
        bucket
    }

    /// What it adds in a second.
    #[must_use]
    pub const fn per_second(&self) -> u64 {
        self.per_second
    }

    fn burst(&self) -> i128 {
        (i128::from(self.per_second) * TOKEN / BURSTS_A_SECOND).max(TOKEN)
    }

    /// Adds what the time since it was filled last brings. A clock that went back adds nothing.
    pub fn fill(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.filled_ms);
        if elapsed_ms > 0 {
            self.filled_ms = now_ms;
            let added = i128::from(elapsed_ms) * i128::from(self.per_second);
            self.level = (self.level + added).min(self.burst());
        }
    }

    /// Whole tokens there are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        usize::try_from(self.level.max(0) / TOKEN).unwrap_or(usize::MAX)
    }

    /// Takes tokens, whether they are there or not.
    pub fn spend(&mut self, tokens: u64) {
        self.level -= i128::from(tokens) * TOKEN;
    }

    /// When there is a token again; none: there is one.
    #[must_use]
    pub fn ready_ms(&self) -> Option<u64> {
        let missing = TOKEN - self.level;
        if missing <= 0 {
            return None;
        }
        let rate = i128::from(self.per_second);
        let wait_ms = u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX);
        Some(self.filled_ms.saturating_add(wait_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_gives_a_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(100, 0);
        let mut given = 0;
        for now_ms in 0..2000 {
            bucket.fill(now_ms);
            while bucket.tokens() > 0 {
                bucket.spend(1);
                given += 1;
            }
        }
        assert_eq!(given, 10 + 199);
    }

    #[test]
    fn debt_is_paid_back_first() {
        let mut bucket = Bucket::new(1000, 0);
        bucket.spend(5100);
        assert_eq!(bucket.tokens(), 0);
        assert_eq!(bucket.ready_ms(), Some(5001));
        bucket.fill(5000);
        assert_eq!(bucket.tokens(), 0);
        bucket.fill(5001);
        assert_eq!((bucket.tokens(), bucket.ready_ms()), (1, None));
    }

    #[test]
    fn a_slow_rate_still_gives_one_at_a_time() {
        let mut bucket = Bucket::new(1, 0);
        assert_eq!(bucket.tokens(), 1);
        bucket.spend(1);
        assert_eq!(bucket.ready_ms(), Some(1000));
        bucket.fill(u64::MAX);
        assert_eq!(bucket.tokens(), 1);
    }

    proptest! {
        #[test]
        fn over_any_window_it_gives_its_burst_and_its_rate_at_most(
            per_second in 1_u64..5000,
            steps in prop::collection::vec((0_u64..200, 0_usize..50), 1..200),
        ) {
            let mut bucket = Bucket::new(per_second, 0);
            let (mut now_ms, mut given) = (0, Vec::new());
            for (wait_ms, wanted) in steps {
                now_ms += wait_ms;
                bucket.fill(now_ms);
                for _ in 0..wanted.min(bucket.tokens()) {
                    bucket.spend(1);
                    given.push(now_ms);
                }
                if let Some(ready_ms) = bucket.ready_ms() {
                    prop_assert!(ready_ms > now_ms);
                    let mut then = bucket.clone();
                    then.fill(ready_ms - 1);
                    prop_assert_eq!(then.tokens(), 0);
                    then.fill(ready_ms);
                    prop_assert!(then.tokens() > 0);
                }
            }
            let burst = (per_second / 10).max(1);
            for (first, from) in given.iter().enumerate() {
                for (last, to) in given.iter().enumerate().skip(first) {
                    let most = burst + (to - from) * per_second / 1000 + 1;
                    prop_assert!((last - first + 1) as u64 <= most);
                }
            }
        }
    }
}
