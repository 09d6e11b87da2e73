//! Why a module is refused: everything that is the module's own fault, in words for its author.
//!
//! These cross the pipe between the compiling child and the host, and stand in `plugins show`: they
//! say what was found, where, and what to change.

use serde::{Deserialize, Serialize};

/// Why a module cannot be a plugin. The same bytes are always refused for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The file is larger than `compile.module-max`.
    #[error("module has {bytes} bytes, at most {limit} are allowed (`compile.module-max`)")]
    TooLarge {
        /// Bytes found.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The file is something else.
    #[error("not a WebAssembly module: {found}")]
    NotWasm {
        /// What it looks like, and what to do.
        found: String,
    },
    /// The file holds compiled machine code.
    #[error(
        "holds machine code that wasmtime compiled earlier, which is never loaded from a file; \
         drop the `.wasm` it was made from"
    )]
    Precompiled,
    /// The text form does not parse.
    #[error("not valid WebAssembly text: {why}")]
    Text {
        /// What the parser says, with line and column.
        why: String,
    },
    /// The binary is truncated, malformed, or uses a feature this host does not have.
    #[error("invalid at offset {offset} (0x{offset:x}): {why}")]
    Invalid {
        /// Bytes from the start of the binary module.
        offset: u64,
        /// What is wrong there, and what to do where that is known.
        why: String,
    },
    /// A core module that is neither typed nor a command.
    #[error("a core module without component types and without `_start`: {why}")]
    Untyped {
        /// What it exports, and what to do.
        why: String,
    },
    /// The component type information does not fit the module.
    #[error("its component types do not fit: {why}")]
    Encoding {
        /// What the encoder says.
        why: String,
    },
    /// The module wants something this host does not give.
    #[error("imports `{name}`: {why}")]
    Import {
        /// The import, as the module names it.
        name: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The module offers nothing this host can call.
    #[error("exports nothing to call: {why}")]
    NoExport {
        /// What it exports, and what to do.
        why: String,
    },
    /// The name of a function is longer than a trap may take.
    #[error(
        "the name of function {function} has {bytes} bytes, at most {limit} are allowed; leave names out \
         of the module (`wasm-tools strip`)"
    )]
    FunctionName {
        /// Which one, in its own module.
        function: u32,
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Valid, but beyond what this engine supports or has room for.
    #[error("not supported: {why}")]
    Unsupported {
        /// What the engine says.
        why: String,
    },
}

impl Refusal {
    /// A refusal at the place where the binary parser or validator stopped.
    pub(super) fn at(error: &wasmparser::BinaryReaderError) -> Self {
        let why = error.message();
        let hint = hint_of(why).map(|hint| format!("; {hint}")).unwrap_or_default();
        Self::Invalid {
            offset: u64::try_from(error.offset()).unwrap_or(u64::MAX),
            why: format!("{why}{hint}"),
        }
    }
}

/// What to do about a message of the validator. The text only adds advice: nothing is decided by
/// it, and a message that changes loses its advice, no more.
fn hint_of(message: &str) -> Option<&'static str> {
    if message.contains("component model async") {
        return Some(
            "this host calls guests synchronously: build with `componentize-qjs --sync`, or \
             without the async exports of your toolchain",
        );
    }
    if message.contains("unexpected end") {
        return Some("the file ends too early: was it copied while still being written?");
    }
    if message.contains("threads must be enabled") || message.contains("shared memor") {
        return Some("a delivery has one thread: build without threads and atomics");
    }
    if message.contains("exceptions") {
        return Some("build without WebAssembly exceptions");
    }
    if message.contains("gc must be enabled") || message.contains("gc proposal") {
        return Some("garbage-collected guests need a toolchain that brings its own collector");
    }
    if message.contains("memory64") {
        return Some("build for wasm32");
    }
    None
}
