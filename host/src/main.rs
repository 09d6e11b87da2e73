//! The `tidegate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the child limits itself while it is one thread with nothing open.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == tidegate::wasm::child::SUBCOMMAND) {
        return tidegate::wasm::run_compile_child();
    }
    keep_freed_memory();
    tidegate::cli::main()
}

/// Bytes at the end of an arena that the allocator keeps instead of giving them back.
#[cfg(target_env = "gnu")]
const KEPT_BYTES_MAX: i32 = 64 << 20;

/// Frames and events come and go by the megabyte, made on one thread and freed on another. Left
/// alone, glibc gives each megabyte back to the system at once and asks for it again page by page:
/// a tenth of what an event costs.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "two numbers are set, before there is a second thread")]
fn keep_freed_memory() {
    // One that is not taken leaves the default, which is right but slower.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES_MAX / 2);
    }
}

#[cfg(not(target_env = "gnu"))]
const fn keep_freed_memory() {}
