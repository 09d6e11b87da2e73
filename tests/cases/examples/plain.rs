//! What the example plugins should say, written down without windows, panes or watermarks: keep
//! everything, look at all of it.

use super::Said;

/// An alert of `fraud-alert`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fraud {
    pub(super) to_ms: u64,
    pub(super) payments: u64,
    pub(super) sum: u64,
}

/// An alert of `temperature`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) from_ms: u64,
    pub(super) measurements: u64,
    pub(super) sum: u64,
}

/// An alert of `login-guard`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suspected {
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    pub(super) success_ms: u64,
}

/// What is at most so much older than the newest before it, in the order of arrival.
fn in_time(stream: &[Said], lateness_ms: u64) -> Vec<Said> {
    let mut newest_ms = 0;
    let mut kept = Vec::new();
    for said in stream {
        if said.time_ms + lateness_ms >= newest_ms {
            newest_ms = newest_ms.max(said.time_ms);
            kept.push(*said);
        }
    }
    kept
}

/// More than 10,000 within 300 seconds; alerts that have no second in common.
pub(super) fn frauds(stream: &[Said]) -> Vec<Fraud> {
    let payments = in_time(stream, 60_000);
    let mut frauds: Vec<Fraud> = Vec::new();
    for n in 1..=payments.len() {
        let so_far = &payments[..n];
        let second = payments[n - 1].time_ms / 1000;
        let mut lasts: Vec<u64> = so_far.iter().map(|payment| payment.time_ms / 1000).collect();
        lasts.sort_unstable();
        for last in lasts {
            let window: Vec<&Said> = (so_far.iter())
                .filter(|said| said.time_ms / 1000 <= last && said.time_ms / 1000 + 300 > last)
                .collect();
            let sum = window.iter().map(|said| said.number).sum::<u64>();
            let to_ms = (last + 1) * 1000;
            let is_new = frauds.iter().all(|other| other.to_ms.abs_diff(to_ms) >= 300_000);
            if (second..second + 300).contains(&last) && sum > 10_000 && is_new {
                frauds.push(Fraud { to_ms, payments: window.len() as u64, sum });
            }
        }
    }
    frauds
}

/// Windows of 300 seconds with an average above 30, as long as something came 60 s after their end.
pub(super) fn exceeded(stream: &[Said]) -> Vec<Exceeded> {
    let measured = in_time(stream, 60_000);
    let newest_ms = measured.iter().map(|said| said.time_ms).max().unwrap_or_default();
    let mut starts: Vec<u64> =
        measured.iter().map(|said| said.time_ms / 300_000 * 300_000).collect();
    starts.sort_unstable();
    starts.dedup();
    starts.retain(|start| start + 360_000 <= newest_ms);
    let all = starts.into_iter().map(|from_ms| {
        let window: Vec<u64> = (measured.iter())
            .filter(|said| said.time_ms / 300_000 * 300_000 == from_ms)
            .map(|said| said.number)
            .collect();
        Exceeded { from_ms, measurements: window.len() as u64, sum: window.iter().sum() }
    });
    all.filter(|window| window.sum > window.measurements * 30).collect()
}

/// Whether a login of a stream fails.
pub(super) fn fails(said: Said) -> bool {
    said.number != 9
}

/// Five failures in a row within 60 seconds, then a success within 60 seconds, where a login may be 60 late.
pub(super) fn suspected(stream: &[Said]) -> Vec<Suspected> {
    let mut logins = in_time(stream, 60_000);
    logins.sort_by_key(|said| said.time_ms);
    let mut suspected = Vec::new();
    let mut run: Vec<u64> = Vec::new();
    // The last one only makes the others old enough.
    for login in &logins[..logins.len() - 1] {
        if fails(*login) {
            run.push(login.time_ms);
            continue;
        }
        let five = run.windows(5).rfind(|five| five[4] - five[0] <= 60_000);
        if let Some(five) = five.filter(|five| login.time_ms - five[4] <= 60_000) {
            let (first_ms, last_ms) = (five[0], five[4]);
            suspected.push(Suspected { first_ms, last_ms, success_ms: login.time_ms });
        }
        run.clear();
    }
    suspected
}
