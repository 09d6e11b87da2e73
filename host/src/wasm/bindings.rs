//! The Rust side of `wit/plugin.wit`: the exports generated from world `everything`, the imports
//! lifted without a copy.
//!
//! Imports take their arguments as cursors into the guest's memory ([`WasmStr`], [`WasmList`]), so
//! that lengths are checked against the budgets before the host allocates anything. That the types
//! below still say what the WIT says is checked when a component that imports them is linked.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the unsafe parts are wasmtime's own"
)]

use wasmtime::component::{ComponentType, Lift, WasmList, WasmStr};

wasmtime::component::bindgen!({
    path: "../wit/plugin.wit",
    world: "everything",
    ownership: Borrowing { duplicate_if_necessary: true },
    exports: { default: async },
});

/// `handler` once more, for calls that begin on the caller's stack and so cannot yield.
pub(super) mod direct {
    wasmtime::component::bindgen!({
        path: "../wit/plugin.wit",
        inline: "package tidegate:direct; world direct { export tidegate:plugin/handler@0.1.0; }",
        world: "tidegate:direct/direct",
        ownership: Borrowing { duplicate_if_necessary: true },
        with: { "tidegate:plugin/types@0.1.0": super::tidegate::plugin::types },
    });
}

/// `types.attributes` as an argument of an import; also the headers of a call.
pub(super) type AttributesArg = WasmList<(WasmStr, WasmStr)>;

/// `types.draft` as an argument of an import.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct DraftArg {
    #[component(name = "type")]
    pub(super) kind: WasmStr,
    pub(super) key: Option<WasmStr>,
    pub(super) bus: Option<WasmStr>,
    #[component(name = "content-type")]
    pub(super) content_type: WasmStr,
    pub(super) data: WasmList<u8>,
    pub(super) attributes: AttributesArg,
}

/// `calls.outgoing` as an argument of an import.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct OutgoingArg {
    pub(super) name: WasmStr,
    pub(super) method: WasmStr,
    pub(super) url: WasmStr,
    pub(super) headers: AttributesArg,
    pub(super) body: WasmList<u8>,
    #[component(name = "timeout-ms")]
    pub(super) timeout_ms: u32,
}
