//! Power cuts, failing disks and full ones, on a simulated disk under the real log, fold,
//! checkpoints, scheduler and timers. See `README.md`.

mod oracle;
mod simulation;

use std::future::Future;
use std::time::Instant;

use oracle::Verdict;
use simulation::trace::{Step, trace};
use simulation::{Plan, operations, run, run_full, run_nested, runtime};
use tidegate::log::disk::sim::{Crash, Fault};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// The trace that faults are put into everywhere.
const SEED: u64 = 7;
/// Hosts at the same time.
const AT_ONCE: usize = 16;

/// A number from the environment.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The trace, and of how many of its operations one is tried.
fn size() -> (Vec<Step>, u64) {
    let events = number("TIDEGATE_SIM_EVENTS", 70);
    let steps = trace(number("TIDEGATE_SIM_SEED", SEED), usize::try_from(events).unwrap());
    (steps, number("TIDEGATE_SIM_EVERY", 8))
}

/// Runs a case for each number; some at once.
async fn all<F>(what: &str, numbers: impl Iterator<Item = u64>, case: impl Fn(u64) -> F)
where
    F: Future<Output = Verdict> + Send + 'static,
{
    // One test at a time: hosts that wait for a processor look like hosts that never come to rest.
    static ONE: Mutex<()> = Mutex::const_new(());
    let _one = ONE.lock().await;
    let begun = Instant::now();
    let (mut running, mut count) = (JoinSet::new(), 0);
    for number in numbers {
        if running.len() >= AT_ONCE {
            judge(running.join_next().await.unwrap().unwrap());
        }
        let case = case(number);
        running.spawn(async move { (number, case.await) });
        count += 1;
    }
    while let Some(ended) = running.join_next().await {
        judge(ended.unwrap());
    }
    println!("{what}: {count} cases in {:?}", begun.elapsed());
}

fn judge((number, verdict): (u64, Verdict)) {
    let rules = verdict.rules();
    assert!(verdict.is_sound(), "case {number} breaks {rules:?}:\n{verdict}");
}

/// What a crash leaves, different from place to place.
fn crash(at: u64) -> Crash {
    match at % 4 {
        0 => Crash::LosesAll,
        1 => Crash::KeepsAll,
        _ => Crash::Random(at),
    }
}

#[test]
fn nothing_is_wrong_where_nothing_fails() {
    runtime().block_on(async {
        all("seeds", 0..4, |seed| async move {
            run(&trace(seed, 60), Plan { fault: None, crash: Crash::LosesAll, twice: false }).await
        })
        .await;
    });
}

#[test]
fn a_power_cut_at_every_operation_breaks_no_promise() {
    runtime().block_on(async {
        let (steps, every) = size();
        let operations = operations(&steps).await;
        println!("the trace has {operations} operations");
        assert!(operations > 400, "{operations}");
        all("power cuts", (1..=operations).filter(|at| at % every == 0), |at| {
            let steps = steps.clone();
            async move { run(&steps, Plan::power_off(at, crash(at))).await }
        })
        .await;
    });
}

#[test]
fn a_failure_of_every_operation_breaks_no_promise() {
    runtime().block_on(async {
        let (steps, every) = size();
        let operations = operations(&steps).await;
        all("failures", (1..=operations).filter(|at| at % every == 0), |at| {
            let steps = steps.clone();
            let crash = if at % 2 == 0 { Crash::ProcessDies } else { Crash::LosesAll };
            let fault = Some(Fault::FailsAt(at));
            async move { run(&steps, Plan { fault, crash, twice: false }).await }
        })
        .await;
    });
}

#[test]
fn a_disk_that_is_full_from_any_operation_on_stops_nothing_for_good() {
    runtime().block_on(async {
        let (steps, every) = size();
        let operations = operations(&steps).await;
        all("full disks", (1..=operations).filter(|at| at % (2 * every) == 0), |at| {
            let steps = steps.clone();
            async move { run_full(&steps, at).await.0 }
        })
        .await;
    });
}

#[test]
fn power_cuts_at_every_operation_of_recovery_break_no_promise() {
    runtime().block_on(async {
        let (steps, every) = size();
        let operations = operations(&steps).await;
        all("nested cuts", (1..=operations).filter(|at| at % (3 * every) == 0), |at| {
            let steps = steps.clone();
            async move { run_nested(&steps, at, at).await }
        })
        .await;
    });
}

#[test]
fn what_a_start_has_shown_survives_a_power_cut_right_after_it() {
    runtime().block_on(async {
        let (steps, every) = size();
        let operations = operations(&steps).await;
        all("starts", (1..=operations).filter(|at| at % (2 * every) == 0), |at| {
            let steps = steps.clone();
            let fault = Some(Fault::PowerOffAt(at));
            async move { run(&steps, Plan { fault, crash: Crash::ProcessDies, twice: true }).await }
        })
        .await;
    });
}

#[test]
fn random_traces_with_random_faults_break_no_promise() {
    runtime().block_on(async {
        let seed = number("TIDEGATE_TEST_SEED", fastrand::u64(..));
        println!("TIDEGATE_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let runs: Vec<u64> = (0..number("TIDEGATE_SIM_RUNS", 12)).map(|_| random.u64(..)).collect();
        all("random runs", runs.into_iter(), |seed| async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let steps = trace(seed, random.usize(20..200));
            let at = random.u64(1..1500);
            match random.u8(..4) {
                0 => run_full(&steps, at).await.0,
                1 => run_nested(&steps, at, seed).await,
                2 => {
                    let fault = Some(Fault::FailsAt(at));
                    run(&steps, Plan { fault, crash: Crash::Random(seed), twice: false }).await
                }
                _ => run(&steps, Plan::power_off(at, Crash::Random(seed))).await,
            }
        })
        .await;
    });
}
