//! What the program asks of the system's allocator.

/// Bytes at the end of an arena that the allocator keeps instead of giving them back.
#[cfg(target_env = "gnu")]
const KEPT_BYTES_MAX: i32 = 64 << 20;

/// Makes the allocator keep freed memory for what comes next; to be called before there is a second
/// thread.
///
/// Frames and events come and go by the megabyte, made on one thread and freed on another. Left
/// alone, glibc gives each megabyte back to the system at once and asks for it again page by page: a
/// tenth of what an event costs.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "two numbers are set, before there is a second thread")]
pub fn keep_freed() {
    // One that is not taken leaves the default, which is right but slower.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES_MAX / 2);
    }
}

/// Makes the allocator keep freed memory: only glibc's has to be asked.
#[cfg(not(target_env = "gnu"))]
pub const fn keep_freed() {}
