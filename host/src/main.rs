//! The `tidegate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the child limits itself while it is one thread with nothing open.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == tidegate::wasm::child::SUBCOMMAND) {
        return tidegate::wasm::run_compile_child();
    }
    tidegate::memory::keep_freed();
    tidegate::cli::main()
}
