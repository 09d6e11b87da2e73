//! What wit-bindgen makes of `plugin.wit`: one module for the imports, and one world for each export
//! whose export macro the macros of this crate call.
//!
//! The worlds share the types of the imports (`with`), so that a module with several exports has
//! one `event` type. Only an export macro that is really called puts anything into a module.

#![allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unsafe_code,
    unreachable_pub,
    reason = "generated code"
)]

pub mod imports {
    wit_bindgen::generate!({
        path: "../wit",
        world: "plugin-imports",
        generate_all,
    });
}

pub mod reactor {
    wit_bindgen::generate!({
        path: "../wit",
        world: "reactor",
        export_macro_name: "export_handler",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::__private::reactor",
        with: {
            "tidegate:plugin/types@0.1.0": crate::bindings::imports::tidegate::plugin::types,
            "tidegate:plugin/bus@0.1.0": crate::bindings::imports::tidegate::plugin::bus,
            "tidegate:plugin/state@0.1.0": crate::bindings::imports::tidegate::plugin::state,
            "tidegate:plugin/keys@0.1.0": crate::bindings::imports::tidegate::plugin::keys,
            "tidegate:plugin/timers@0.1.0": crate::bindings::imports::tidegate::plugin::timers,
            "tidegate:plugin/calls@0.1.0": crate::bindings::imports::tidegate::plugin::calls,
            "tidegate:plugin/context@0.1.0": crate::bindings::imports::tidegate::plugin::context,
        },
    });
}

pub mod commander {
    wit_bindgen::generate!({
        path: "../wit",
        world: "commander",
        export_macro_name: "export_command",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::__private::commander",
        with: {
            "tidegate:plugin/types@0.1.0": crate::bindings::imports::tidegate::plugin::types,
            "tidegate:plugin/bus@0.1.0": crate::bindings::imports::tidegate::plugin::bus,
            "tidegate:plugin/state@0.1.0": crate::bindings::imports::tidegate::plugin::state,
            "tidegate:plugin/keys@0.1.0": crate::bindings::imports::tidegate::plugin::keys,
            "tidegate:plugin/timers@0.1.0": crate::bindings::imports::tidegate::plugin::timers,
            "tidegate:plugin/calls@0.1.0": crate::bindings::imports::tidegate::plugin::calls,
            "tidegate:plugin/context@0.1.0": crate::bindings::imports::tidegate::plugin::context,
        },
    });
}

pub mod reader {
    wit_bindgen::generate!({
        path: "../wit",
        world: "reader",
        export_macro_name: "export_query",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::__private::reader",
        with: {
            "tidegate:plugin/types@0.1.0": crate::bindings::imports::tidegate::plugin::types,
            "tidegate:plugin/bus@0.1.0": crate::bindings::imports::tidegate::plugin::bus,
            "tidegate:plugin/state@0.1.0": crate::bindings::imports::tidegate::plugin::state,
            "tidegate:plugin/keys@0.1.0": crate::bindings::imports::tidegate::plugin::keys,
            "tidegate:plugin/timers@0.1.0": crate::bindings::imports::tidegate::plugin::timers,
            "tidegate:plugin/calls@0.1.0": crate::bindings::imports::tidegate::plugin::calls,
            "tidegate:plugin/context@0.1.0": crate::bindings::imports::tidegate::plugin::context,
        },
    });
}

pub mod upgrader {
    wit_bindgen::generate!({
        path: "../wit",
        world: "upgrader",
        export_macro_name: "export_upcaster",
        pub_export_macro: true,
        default_bindings_module: "tidegate_sdk::__private::upgrader",
        with: {
            "tidegate:plugin/types@0.1.0": crate::bindings::imports::tidegate::plugin::types,
            "tidegate:plugin/bus@0.1.0": crate::bindings::imports::tidegate::plugin::bus,
            "tidegate:plugin/state@0.1.0": crate::bindings::imports::tidegate::plugin::state,
            "tidegate:plugin/keys@0.1.0": crate::bindings::imports::tidegate::plugin::keys,
            "tidegate:plugin/timers@0.1.0": crate::bindings::imports::tidegate::plugin::timers,
            "tidegate:plugin/calls@0.1.0": crate::bindings::imports::tidegate::plugin::calls,
            "tidegate:plugin/context@0.1.0": crate::bindings::imports::tidegate::plugin::context,
        },
    });
}
