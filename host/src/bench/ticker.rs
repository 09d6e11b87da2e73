//! Keeps the processors from going idle.
//!
//! A virtual processor that went idle wakes at its kernel's next tick: a lone fdatasync takes 4 ms
//! then, whatever the disk. Something that wakes 10,000 times a second takes that out of the
//! figures, for the limit and for the host alike.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::BenchError;

/// The name under which the child is started.
pub const SUBCOMMAND: &str = "tick";
/// Time between two wakes.
const PERIOD: Duration = Duration::from_micros(100);

/// What keeps the processors awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Ticker {
    /// A process of its own: its time is not the host's
    #[default]
    Process,
    /// A thread of this process
    Thread,
    /// Nothing
    Off,
}

/// Runs until dropped.
pub(super) enum Ticking {
    Process(Child),
    Thread(Arc<AtomicBool>, Option<JoinHandle<()>>),
    Off,
}

impl Ticker {
    /// Begins.
    pub(super) fn start(self) -> Result<Ticking, BenchError> {
        let failed = |source| BenchError::Io { path: "the ticker".into(), source };
        Ok(match self {
            Self::Process => {
                let this = std::env::current_exe().map_err(failed)?;
                let mut command = Command::new(this);
                command.args(["bench", SUBCOMMAND]).stdin(Stdio::piped());
                Ticking::Process(command.spawn().map_err(failed)?)
            }
            Self::Thread => {
                let stop = Arc::new(AtomicBool::new(false));
                let seen = Arc::clone(&stop);
                let thread = std::thread::Builder::new().name("ticker".to_owned());
                let thread = thread.spawn(move || tick_until(|| seen.load(Ordering::Relaxed)));
                Ticking::Thread(stop, Some(thread.map_err(failed)?))
            }
            Self::Off => Ticking::Off,
        })
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        match self {
            Self::Process(child) => {
                // It ends by itself when its standard input does.
                drop(child.stdin.take());
                let _ = child.wait();
            }
            Self::Thread(stop, thread) => {
                stop.store(true, Ordering::Relaxed);
                if let Some(thread) = thread.take() {
                    let _ = thread.join();
                }
            }
            Self::Off => {}
        }
    }
}

/// What the child process does: ticks until its standard input ends, however its parent died.
pub fn run_child() {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    let waiting = std::thread::Builder::new().spawn(move || {
        // Nothing is ever written to it.
        let _ = std::io::stdin().read(&mut [0]);
        ended.store(true, Ordering::Relaxed);
    });
    if waiting.is_ok() {
        tick_until(|| seen.load(Ordering::Relaxed));
    }
}

fn tick_until(over: impl Fn() -> bool) {
    // The default slack of 50 us would make it 6,600 wakes a second; refused, it still ticks.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1000));
    while !over() {
        std::thread::sleep(PERIOD);
    }
}
