//! The `tidegate` command.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Events and their effects are made on one thread and freed on another, frames by the hundred kilobytes: with
/// the system's allocator an event takes a tenth more processor time.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // Before anything else: the child limits itself while it is one thread with nothing open.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == tidegate::wasm::child::SUBCOMMAND) {
        return tidegate::wasm::run_compile_child();
    }
    tidegate::cli::main()
}
