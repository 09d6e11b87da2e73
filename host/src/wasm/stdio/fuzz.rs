//! What a program printed, whatever it is.

use std::sync::Arc;

use super::output;
use crate::wasm::GuestLimits;
use crate::wasm::context::Access;
use crate::wasm::fixtures::context;
use crate::wasm::session::Session;

/// Takes lines of standard output: of an event's delivery, and as the answer to a command.
pub(crate) fn fuzz_printed(bytes: &[u8]) {
    for asked in [false, true] {
        let context = context(Some("k"), GuestLimits::default(), Arc::new(()), Access::Write);
        let mut session = Session::new(context);
        let _ = output::take(&mut session, bytes, asked);
        output::take_logs(&mut session, bytes);
    }
}
