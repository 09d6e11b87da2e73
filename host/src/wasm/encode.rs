//! Typed core modules become components.
//!
//! The types come from the module's own custom sections, or from the names of its exports; WASI preview-1 calls, which most
//! toolchains leave in, are met by the reactor adapter. Nothing is granted here: the encoded
//! component names what it wants, and the host decides.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::refusal::Refusal;
use super::typing;

/// Digest of what encoding depends on beside the module: a new adapter means new code.
#[must_use]
pub fn adapter_digest() -> blake3::Hash {
    blake3::hash(WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
}

/// Encodes a validated core module with component types into a component.
///
/// # Errors
/// [`Refusal::Import`] for an import that no interface describes, [`Refusal::Encoding`] where the
/// types do not fit the module.
pub fn encode(core: &[u8]) -> Result<Vec<u8>, Refusal> {
    let wasi = check_imports(core)?;
    let typed = typing::typed(core)?;
    let core = typed.as_deref().unwrap_or(core);
    // The encoder decodes the type sections of a stranger; should it hit one of its own
    // assertions, the module is at fault and not the host.
    let encoded = catch_unwind(AssertUnwindSafe(|| {
        let mut encoder = ComponentEncoder::default().validate(false).module(core)?;
        if wasi {
            encoder = encoder.adapter(
                WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )?;
        }
        encoder.encode()
    }));
    match encoded {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(error)) => Err(Refusal::Encoding { why: format!("{error:#}") }),
        Err(_) => {
            Err(Refusal::Encoding { why: "the encoder failed on its type section".to_owned() })
        }
    }
}

/// Refuses imports that no interface can describe, by name; says whether WASI preview 1 is among
/// them.
fn check_imports(core: &[u8]) -> Result<bool, Refusal> {
    let mut wasi = false;
    for payload in Parser::new(0).parse_all(core) {
        let Payload::ImportSection(section) = payload.map_err(|error| Refusal::at(&error))? else {
            continue;
        };
        for import in section.into_imports() {
            let import = import.map_err(|error| Refusal::at(&error))?;
            if import.module == WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME {
                wasi = true;
            } else if !is_typed_import(import.module) {
                return Err(foreign_import(import.module, import.name));
            }
        }
    }
    Ok(wasi)
}

/// Whether the name of an import's module is one that component types give.
fn is_typed_import(module: &str) -> bool {
    module.contains(':') || module.starts_with(['$', '[']) || module.starts_with("cm32p2")
}

/// An import of a core module that this host does not have, with what usually causes it.
pub(super) fn foreign_import(module: &str, name: &str) -> Refusal {
    let why = match module {
        "env" if name == "abort" => {
            "AssemblyScript's default way out; build with `--use abort=` or the SDK's `asconfig.json`"
        }
        "env" if name == "memory" => {
            "the module wants its memory from outside; link without `--import-memory`"
        }
        "env" => {
            "the linker left it undefined; link the library that has it, and without \
             `--allow-undefined`"
        }
        "wasi_unstable" => "a WASI older than preview 1; build with a newer toolchain",
        "gojs" | "go" => "built for a browser; build with `GOOS=wasip1`",
        _ if module.starts_with("__wbindgen") || module.starts_with("wbg") => {
            "built for JavaScript with wasm-bindgen, often through a crate's `js` feature; turn \
             that feature off"
        }
        _ if module.starts_with("wasi") => "this host does not provide that WASI interface",
        _ => "neither `tidegate:plugin` nor WASI; nothing on this host answers it",
    };
    Refusal::Import { name: format!("{module}.{name}"), why: why.to_owned() }
}
