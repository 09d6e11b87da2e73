//! Many durations in little memory: what percentiles are read from.

use std::time::Duration;

use super::report::Percentiles;

/// Buckets of one power of two: a duration is known to within 1.6 %.
const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
const BUCKETS: usize = STEPS * (64 - STEP_BITS as usize + 1);

/// Counts of durations, by nanoseconds in steps that grow with them.
#[derive(Clone)]
pub(super) struct Latencies {
    counts: Box<[u64]>,
    count: u64,
    sum_ns: u128,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), count: 0, sum_ns: 0 }
    }
}

impl Latencies {
    /// Adds one.
    pub(super) fn add(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.count += 1;
        self.sum_ns += u128::from(ns);
    }

    /// Adds all of another.
    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
    }

    /// The duration that `share` of all do not exceed, microseconds.
    fn quantile_us(&self, share: f64) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let rank = (self.count as f64 * share).ceil().max(1.0);
        let mut seen = 0.0;
        for (index, count) in self.counts.iter().enumerate() {
            #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
            let here = *count as f64;
            seen += here;
            if seen >= rank {
                return upper_ns(index) / 1000.0;
            }
        }
        0.0
    }

    /// Mean, microseconds.
    #[allow(clippy::cast_precision_loss, reason = "a mean needs no more digits")]
    pub(super) fn mean_us(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 / 1000.0 }
    }

    /// What is reported of them; none where there are none.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        (self.count > 0).then(|| Percentiles {
            mean_us: self.mean_us(),
            p50_us: self.quantile_us(0.5),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
        })
    }
}

fn bucket(ns: u64) -> usize {
    let high = ns.checked_ilog2().unwrap_or(0);
    let shift = high.saturating_sub(STEP_BITS);
    // Below the first power of two that has more values than steps each value has its own bucket.
    let within = usize::try_from(ns >> shift).unwrap_or(0);
    let power = shift as usize;
    if power == 0 { within } else { power * STEPS + within }
}

/// The largest value of a bucket, nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "a bucket is wider than what is lost")]
fn upper_ns(index: usize) -> f64 {
    if index < 2 * STEPS {
        return index as f64;
    }
    let power = index / STEPS - 1;
    let within = index % STEPS + STEPS;
    (within as f64 + 1.0) * 2_f64.powi(i32::try_from(power).unwrap_or(0)) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_known_to_within_two_percent() {
        for ns in (0..2000).chain([5_000, 123_456, 1_000_000, 4_000_000_000, u64::MAX / 2]) {
            let upper = upper_ns(bucket(ns));
            let exact = ns as f64;
            assert!(upper >= exact && upper <= exact * 1.016 + 1.0, "{ns}: {upper}");
        }
    }

    #[test]
    fn percentiles_count_from_the_slow_end() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.add(Duration::from_micros(us));
        }
        let found = latencies.percentiles().unwrap();
        for (found, exact) in [(found.p50_us, 500.0), (found.p99_us, 990.0), (found.p999_us, 999.0)]
        {
            assert!((found - exact).abs() <= exact * 0.02, "{found} is not about {exact}");
        }
        assert!((found.mean_us - 500.5).abs() < 0.01);
    }
}
