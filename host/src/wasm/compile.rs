//! From the bytes of a module to machine code: recognise, validate, encode, check, generate.
//!
//! This runs in the compiling child, because hostile modules make compilers take minutes and
//! gigabytes, and can make a decoder recurse until its stack is gone. The rule that must not break:
//! outside the child, [`prepare`] and [`generate`] run only where somebody vouches for the module
//! (`Compiler::InProcess`).

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmparser::{KnownCustom, Name, Parser, Payload, Validator, WasmFeatures};
use wasmtime::Engine;

use super::encode::encode;
use super::recognise::{ModuleKind, recognise};
use super::refusal::Refusal;
use super::shape::{Shape, shape};
use crate::limits;

/// What one compile may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of address space of the child, and of the code it writes. `compile.memory`.
    pub memory_bytes: u64,
    /// CPU time of the child; its parent waits ten times as long. `compile.time`.
    pub time: Duration,
    /// Bytes of the module, and of the component it is encoded into. `compile.module-max`.
    pub module_bytes_max: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            time: Duration::from_secs(60),
            module_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// A module that this host would run, ready for code generation.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// What the file was.
    pub kind: ModuleKind,
    /// Whether the file was text.
    pub text: bool,
    /// The component, or the core module of a stdio module. Validated.
    pub binary: Cow<'a, [u8]>,
    /// What it imports and exports.
    pub shape: Shape,
}

/// What stays known of a module beside its code. Written beside it, so that a module from the
/// cache is described without being parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What the file was.
    pub kind: ModuleKind,
    /// Whether the file was text.
    pub text: bool,
    /// What it imports and exports.
    pub shape: Shape,
}

impl Prepared<'_> {
    /// What stays known once the code is generated.
    #[must_use]
    pub fn description(&self) -> Description {
        Description { kind: self.kind, text: self.text, shape: self.shape.clone() }
    }
}

/// Recognises, validates for the features of `engine` and encodes a module; does not judge its imports (see [`Shape::check`]).
///
/// # Errors
/// Any [`Refusal`] but those of imports, exports and the engine.
pub fn prepare<'a>(
    engine: &Engine,
    wasm: &'a [u8],
    module_bytes_max: u64,
) -> Result<Prepared<'a>, Refusal> {
    check_size(wasm, module_bytes_max)?;
    let recognised = recognise(wasm)?;
    check_size(&recognised.binary, module_bytes_max)?;
    let features = engine.get_wasm_features();
    validate(&recognised.binary, features)?;
    let binary = if recognised.kind == ModuleKind::Core {
        let component = encode(&recognised.binary)?;
        validate(&component, features).map_err(in_encoded)?;
        Cow::Owned(component)
    } else {
        recognised.binary
    };
    check_function_names(&binary)?;
    let shape = shape(recognised.kind, &binary)?;
    Ok(Prepared { kind: recognised.kind, text: recognised.text, binary, shape })
}

/// Generates the code of a prepared module: what `Component::deserialize` or
/// `Module::deserialize` takes.
///
/// # Errors
/// The refusals of [`Shape::check`] and of the engine, and [`CompileError::OutOfMemory`].
pub fn generate(engine: &Engine, prepared: &Prepared<'_>) -> Result<Vec<u8>, CompileError> {
    prepared.shape.check(prepared.kind)?;
    let code = if prepared.kind == ModuleKind::Stdio {
        engine.precompile_module(&prepared.binary)
    } else {
        engine.precompile_component(&prepared.binary)
    };
    code.map_err(|error| {
        if error.is::<wasmtime::OutOfMemory>() {
            CompileError::OutOfMemory
        } else {
            CompileError::Refused(Refusal::Unsupported { why: format!("{error:#}") })
        }
    })
}

/// Why there is no code, as far as the compiling side knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CompileError {
    /// The module is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An allocation failed.
    #[error("out of memory")]
    OutOfMemory,
    /// The compiler hit one of its own assertions.
    #[error("the compiler panicked: {said}")]
    Panicked {
        /// What it said, and where.
        said: String,
    },
    /// The compiling child could not do its work.
    #[error("{why}")]
    Child {
        /// What failed.
        why: String,
    },
}

fn check_size(wasm: &[u8], limit: u64) -> Result<(), Refusal> {
    let bytes = u64::try_from(wasm.len()).unwrap_or(u64::MAX);
    if bytes > limit { Err(Refusal::TooLarge { bytes, limit }) } else { Ok(()) }
}

fn validate(binary: &[u8], features: WasmFeatures) -> Result<(), Refusal> {
    Validator::new_with_features(features)
        .validate_all(binary)
        .map(drop)
        .map_err(|error| Refusal::at(&error))
}

/// Refuses names of which a few would fill the memory of the host: each trap takes a copy of those on its
/// stack. Where names are malformed, the engine passes over them too.
fn check_function_names(binary: &[u8]) -> Result<(), Refusal> {
    let limit = limits::FUNCTION_NAME_BYTES_MAX;
    for payload in Parser::new(0).parse_all(binary) {
        let payload = payload.map_err(|error| Refusal::at(&error))?;
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Name(names) = section.as_known() else { continue };
        let functions = names.filter_map(|names| match names {
            Ok(Name::Function(functions)) => Some(functions),
            _ => None,
        });
        for naming in functions.flatten().flatten() {
            let (function, bytes) = (naming.index, naming.name.len());
            if bytes > limit {
                return Err(Refusal::FunctionName { function, bytes, limit });
            }
        }
    }
    Ok(())
}

/// Offsets into a component that the author never saw would mislead.
fn in_encoded(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Invalid { offset, why } => Refusal::Encoding {
            why: format!("{why} (at offset {offset} of the encoded component)"),
        },
        other => other,
    }
}
