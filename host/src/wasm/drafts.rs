//! The Rust side of `wit/wasi/`: draft interfaces of WASI that components of other hosts use.
//!
//! Other than in `bindings.rs`, arguments are copied out of the guest first: one call copies no more
//! than its fuel for host calls allows.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the unsafe parts are wasmtime's own"
)]

/// `wasi:messaging@0.2.0-draft`.
pub(super) mod messaging {
    wasmtime::component::bindgen!({
        path: "../wit/wasi/messaging.wit",
        world: "messaging-request-reply",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "wasi:messaging/types.client": crate::wasm::messaging::Client,
            "wasi:messaging/types.message": crate::wasm::messaging::Message,
            "wasi:messaging/request-reply.request-options": crate::wasm::messaging::Options,
        },
    });
}

/// `wasi:keyvalue@0.2.0-draft`.
pub(super) mod keyvalue_draft {
    wasmtime::component::bindgen!({
        path: "../wit/wasi/keyvalue-draft.wit",
        world: "imports",
        imports: { default: trappable },
        with: { "wasi:keyvalue/store.bucket": crate::wasm::keyvalue::Bucket },
    });
}

/// `wasi:keyvalue@0.2.0-draft2`.
pub(super) mod keyvalue_draft2 {
    wasmtime::component::bindgen!({
        path: "../wit/wasi/keyvalue-draft2.wit",
        world: "imports",
        imports: { default: trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::wasm::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::wasm::keyvalue::Cas,
        },
    });
}
