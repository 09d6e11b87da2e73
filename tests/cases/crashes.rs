//! `kill -9` at any moment, on one data folder, judged by the oracle after each.

use crate::crashes::{Series, must_be_sound};
use crate::harness::{Place, Sources, put, seed};

/// Kills; `TIDEGATE_CYCLES` says another number.
const CYCLES: u64 = 6;

#[test]
fn hosts_killed_at_any_moment_keep_every_promise() {
    let cycles = std::env::var("TIDEGATE_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let rng = seed("hosts_killed_at_any_moment_keep_every_promise");
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let mut series = Series::new(place, rng);
    let (mut starts, mut reloads, mut stops, mut redrives) = (0, 0, 0, 0);
    for cycle in 0..cycles {
        if series.rng.u8(..6) == 0 {
            // In the middle of a start: the log is being read again, plugins are being compiled.
            series.place.start_and_kill();
            starts += 1;
            must_be_sound(&series.judge(), &format!("cycle {cycle}, killed at its start"));
        }
        let host = series.start();
        let load = series.load(&host);
        let more = series.rng.usize(..120);
        series.wait_acknowledged(&load, more);
        match series.rng.u8(..5) {
            0 => {
                // What fails works from now on, or does not any more.
                let works = series.rng.bool();
                series.mend(works);
                reloads += 1;
            }
            1 => {
                series.redrive(&host);
                redrives += 1;
            }
            2 => {
                // In the middle of a stop: deliveries end, the log is sealed, a checkpoint written.
                host.signal_term();
                stops += 1;
            }
            _ => {}
        }
        let more = series.rng.usize(..20);
        series.wait_acknowledged(&load, more);
        host.kill();
        load.join();
        must_be_sound(&series.judge(), &format!("cycle {cycle}"));
    }
    must_be_sound(&series.finish(), "at rest");
    let (events, commits) = series.size();
    println!(
        "{} ends without order ({starts} in a start, {stops} in a stop, {reloads} in a reload, \
         {redrives} in a redrive): {events} events acknowledged, {commits} commits, nothing wrong",
        series.ended
    );
}
