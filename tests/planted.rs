//! The oracle on trial: hosts with a defect planted on purpose, each of which it has to catch, and
//! hosts without one, of which it must not complain.
//!
//!     cargo test -p tidegate-tests --features planted-bugs --test planted

#![allow(dead_code, reason = "the simulation has more in it than a trial needs")]

mod oracle;
mod simulation;

use oracle::{Rule, Verdict};
use simulation::trace::{Step, trace};
use simulation::{Plan, operations, run, run_full, runtime};
use tidegate::log::disk::sim::{Crash, Fault};
use tidegate::planted::{Bug, hits, plant};

/// Where a defect shows.
#[derive(Debug, Clone, Copy)]
enum Shows {
    /// Without any fault.
    Always,
    /// After a power cut.
    PowerCut(Crash),
    /// After a sync that failed, and a power cut.
    FailedSync,
    /// After a start and a power cut right after it.
    StartAndCut,
    /// On a full disk.
    FullDisk,
}

/// Each defect: where it shows, and promises of which it breaks at least one.
const TRIALS: &[(Bug, Shows, &[Rule])] = {
    use Shows::{Always, FailedSync, FullDisk, PowerCut, StartAndCut};
    const CUT: Shows = PowerCut(Crash::LosesAll);
    &[
        (Bug::AcknowledgesBeforeSync, CUT, &[Rule::Acknowledged]),
        (Bug::NeverSyncs, CUT, &[Rule::Acknowledged, Rule::Starts]),
        (Bug::SkipsSealSync, CUT, &[Rule::Starts]),
        (Bug::SkipsDirectorySync, CUT, &[Rule::Starts, Rule::Acknowledged]),
        (Bug::RetriesFailedSync, FailedSync, &[Rule::Acknowledged, Rule::Starts]),
        (Bug::SkipsRewrite, StartAndCut, &[Rule::Shown, Rule::Starts]),
        (Bug::CutsTooMuch, PowerCut(Crash::KeepsAll), &[Rule::Acknowledged, Rule::Shown]),
        (Bug::ForgetsIdentities, Always, &[Rule::Identity]),
        (Bug::CommitsTwice, Always, &[Rule::Deliveries, Rule::Identity]),
        (Bug::AppliesTwice, Always, &[Rule::State]),
        (Bug::DropsAnEmit, Always, &[Rule::Counts]),
        (Bug::RandomEmitIds, Always, &[Rule::Effects]),
        (Bug::LosesTimerCancel, Always, &[Rule::Timers]),
        (Bug::FiresEarly, Always, &[Rule::Timers]),
        (Bug::AcceptsOldGeneration, Always, &[Rule::State]),
        (Bug::ReordersABatch, Always, &[Rule::KeyOrder]),
        (Bug::ReordersAKey, Always, &[Rule::Deliveries, Rule::Delivered]),
        (Bug::ForgetsToPark, Always, &[Rule::Deliveries]),
        (Bug::ForgetsDeadLetters, Always, &[Rule::DeadLetters, Rule::Delivered, Rule::Counts]),
        (Bug::DropsWhatHasNoRoom, FullDisk, &[Rule::Counts, Rule::Delivered]),
        (Bug::CheckpointsAhead, CUT, &[Rule::State, Rule::Counts, Rule::Deliveries]),
    ]
};
/// Places of a fault that are tried for each defect, at most.
const PLACES: u64 = 40;

async fn verdict(steps: &[Step], shows: Shows, at: u64) -> Verdict {
    let plan = |fault, crash, twice| Plan { fault: Some(fault), crash, twice };
    match shows {
        Shows::Always => {
            run(steps, Plan { fault: None, crash: Crash::LosesAll, twice: false }).await
        }
        Shows::PowerCut(crash) => run(steps, plan(Fault::PowerOffAt(at), crash, false)).await,
        Shows::FailedSync => run(steps, plan(Fault::FailsAt(at), Crash::LosesAll, false)).await,
        Shows::StartAndCut => {
            run(steps, plan(Fault::PowerOffAt(at), Crash::ProcessDies, true)).await
        }
        Shows::FullDisk => run_full(steps, at).await.0,
    }
}

#[test]
fn every_planted_bug_is_caught_and_nothing_else() {
    runtime().block_on(async {
        let steps = trace(7, 70);
        plant(None);
        let operations = operations(&steps).await;
        let places = || (1..PLACES).map(|place| 10 + place * 37 % (operations - 10));
        for shows in [Shows::Always, Shows::FailedSync, Shows::StartAndCut, Shows::FullDisk] {
            for at in places().take(3) {
                let verdict = verdict(&steps, shows, at).await;
                assert!(verdict.is_sound(), "no bug, {shows:?} at {at}:\n{verdict}");
            }
        }
        for bug in Bug::ALL {
            assert!(TRIALS.iter().any(|(tried, ..)| tried == bug), "{bug:?} is not tried");
        }
        let mut missed = Vec::new();
        for (bug, shows, rules) in TRIALS {
            let mut tried = 0;
            let mut caught = None;
            for at in places() {
                tried += 1;
                plant(Some(*bug));
                let verdict = verdict(&steps, *shows, at).await;
                let found = verdict.rules();
                if hits() > 0 && rules.iter().any(|rule| found.contains(rule)) {
                    caught = Some(verdict);
                    break;
                }
            }
            match caught {
                Some(verdict) => {
                    let rules = verdict.rules();
                    println!("{:<24} caught at place {tried}: {rules:?}", bug.name());
                }
                None => missed.push(bug),
            }
        }
        plant(None);
        assert!(missed.is_empty(), "not caught: {missed:?}");
    });
}
