//! The call stack of a guest that was stopped, as text for people.
//!
//! Rule: names are the guest's, and a short one may stand for gigabytes once it is demangled, so nothing
//! is written that is not kept. C++ names stay as they are: their demangling has no such bound.

use std::fmt::{self, Write};

use wasmtime::{FrameInfo, WasmBacktrace};

use super::check;
use crate::limits;

/// Bytes that one name takes: it must not push out who called.
const NAME_SHOWN_BYTES_MAX: usize = 1024;

/// Text that takes no more than fits.
struct Bounded {
    text: String,
    bytes_left: usize,
}

impl Bounded {
    const fn new(bytes_max: usize) -> Self {
        Self { text: String::new(), bytes_left: bytes_max }
    }
}

impl Write for Bounded {
    /// An error where not all of it fits, so that whoever writes stops.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = check::cut(text, self.bytes_left);
        self.text.push_str(taken);
        if taken.len() < text.len() {
            self.bytes_left = 0;
            return Err(fmt::Error);
        }
        self.bytes_left -= taken.len();
        Ok(())
    }
}

/// One line a frame, innermost first, names readable.
pub(super) fn of(error: &wasmtime::Error) -> String {
    let mut out = Bounded::new(limits::BACKTRACE_BYTES_MAX);
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    for (number, frame) in frames.iter().enumerate() {
        if write_frame(&mut out, number, frame).is_err() {
            break;
        }
    }
    out.text
}

fn write_frame(out: &mut Bounded, number: usize, frame: &FrameInfo) -> fmt::Result {
    if number > 0 {
        out.write_char('\n')?;
    }
    write!(out, "{number:>3}: ")?;
    if let Some(offset) = frame.module_offset() {
        write!(out, "{offset:#8x} - ")?;
    }
    write!(out, "{}!", readable(frame.module().name().unwrap_or("<unknown>")))?;
    match frame.func_name() {
        Some(name) => out.write_str(&readable(name)),
        None => write!(out, "<wasm function {}>", frame.func_index()),
    }
}

/// A name as its author wrote it, where it is one of Rust's, and no longer than it may be.
fn readable(name: &str) -> String {
    let name = check::cut(name, limits::BACKTRACE_BYTES_MAX);
    let mut out = Bounded::new(NAME_SHOWN_BYTES_MAX);
    if write!(out, "{}", rustc_demangle::demangle(name)).is_err() {
        out.text.push_str("...");
    }
    out.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rust_are_readable_and_others_stay_as_they_are() {
        let legacy = "_ZN4core9panicking5panic17h0123456789abcdefE";
        assert_eq!(readable(legacy), "core::panicking::panic::h0123456789abcdef");
        assert_eq!(readable("_RNvC6plugin6handle"), "plugin::handle");
        for name in ["", "handle", "wasi:x/y@0.2.0#z", "_Z3addii", "ä".repeat(512).as_str()] {
            assert_eq!(readable(name), name);
        }
    }

    #[test]
    fn a_name_takes_no_more_than_its_share_whatever_it_stands_for() {
        // A pair of pairs of pairs, each by a reference to the one before: two to the sixtieth texts.
        let mut nested = "_RIC1aTuuE".to_owned();
        let mut last = 4;
        for _ in 0..60 {
            let next = nested.len() - 2;
            let reference = backref(last);
            nested.push_str(&format!("T{reference}{reference}E"));
            last = next;
        }
        nested.push('E');
        assert!(readable(&nested).starts_with("a::<((), ())"), "{}", readable(&nested));
        for name in [nested, "x".repeat(100_000), "ä".repeat(100_000)] {
            let shown = readable(&name);
            assert!(shown.ends_with("..."), "{shown}");
            assert!(shown.len() <= NAME_SHOWN_BYTES_MAX + 3, "{}", shown.len());
        }
    }

    /// A reference to what stands at a place behind the prefix, as mangled names write it.
    fn backref(place: usize) -> String {
        const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let Some(mut number) = place.checked_sub(1) else { return "B_".to_owned() };
        let mut digits = String::new();
        loop {
            digits.insert(0, char::from(DIGITS[number % 62]));
            number /= 62;
            if number == 0 {
                return format!("B{digits}_");
            }
        }
    }
}
