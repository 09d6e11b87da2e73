//! `kill -9` at any moment, on one data folder, judged by the oracle after each.

use std::collections::BTreeMap;

use crate::crashes::{Series, must_be_sound};
use crate::harness::{Place, Sources, put, seed};

/// Kills of each test; `TIDEGATE_CYCLES` says another number.
const CYCLES: u64 = 8;

fn cycles() -> u64 {
    std::env::var("TIDEGATE_CYCLES").map_or(CYCLES, |text| text.parse().unwrap())
}

/// What a host is in the middle of when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum During {
    Start,
    Load,
    Reload,
    Redrive,
    Stop,
    Roll,
    Checkpoint,
    Rewind,
}

/// One life of a host, ended by a kill.
fn cycle(series: &mut Series, during: During) {
    let host = series.start();
    let load = series.load(&host);
    let more = series.rng.usize(..120);
    series.wait_acknowledged(&load, more);
    match during {
        During::Start | During::Load => {}
        During::Reload => {
            // What fails works from now on, or does not any more.
            let works = series.rng.bool();
            series.mend(works);
        }
        During::Redrive => series.redrive(&host),
        // Deliveries end, the log is sealed, a checkpoint written.
        During::Stop => host.signal_term(),
        During::Roll => series.wait_for_file(&host, "log"),
        During::Checkpoint => series.wait_for_file(&host, "checkpoints"),
        During::Rewind => drop(series.rewind(&host)),
    }
    if !matches!(during, During::Roll | During::Checkpoint) {
        let more = series.rng.usize(..20);
        series.wait_acknowledged(&load, more);
    }
    host.kill();
    load.join();
}

#[test]
fn hosts_killed_at_any_moment_keep_every_promise() {
    const MOMENTS: [During; 8] = [
        During::Load,
        During::Load,
        During::Start,
        During::Reload,
        During::Redrive,
        During::Stop,
        During::Roll,
        During::Checkpoint,
    ];
    let rng = seed("hosts_killed_at_any_moment_keep_every_promise");
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let mut series = Series::new(place, rng);
    let mut ended = BTreeMap::new();
    for number in 0..cycles() {
        // All of them in turn, in an order of its own: so that few cycles meet each.
        let during = MOMENTS[(number * 5 % 8) as usize];
        if during == During::Start {
            // The log is being read again, plugins are being compiled.
            series.place.start_and_kill();
            must_be_sound(&series.judge(), &format!("cycle {number}, killed at its start"));
        } else {
            cycle(&mut series, during);
            must_be_sound(&series.judge(), &format!("cycle {number}, {during:?}"));
        }
        *ended.entry(during).or_insert(0) += 1;
    }
    must_be_sound(&series.finish(), "at rest");
    let (events, commits) = series.size();
    println!(
        "{} ends without order {ended:?}: {events} events acknowledged, {commits} commits, \
         nothing wrong",
        series.ended
    );
}

/// What fails is not part of it: it would fail again, and count less.
#[test]
fn hosts_killed_while_they_rebuild_state_keep_every_promise() {
    let rng = seed("hosts_killed_while_they_rebuild_state_keep_every_promise");
    let mut series = Series::new(Place::new(), rng);
    series.mend(true);
    for number in 0..cycles() {
        let during = [During::Rewind, During::Checkpoint, During::Load][(number % 3) as usize];
        cycle(&mut series, during);
        must_be_sound(&series.judge(), &format!("cycle {number}, {during:?}"));
    }
    must_be_sound(&series.finish(), "at rest");
    let (events, commits) = series.size();
    println!("{} kills: {events} events acknowledged, {commits} commits", series.ended);
}
