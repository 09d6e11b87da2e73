//! What a dropped file is, told from its bytes and never from its name.
//!
//! The order of the questions matters: a typed core module may also export `_start` (C and Go
//! toolchains leave it in), so its types are looked for first.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, ExternalKind, Parser, Payload};

use super::refusal::Refusal;
use super::typing::called_by;

/// What a module is, which decides how it is loaded and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    /// A component, run as it is.
    Component,
    /// A core module that carries its component types, encoded into a component at load.
    Core,
    /// A WASI preview-1 command: one run a delivery, JSON lines in and out.
    Stdio,
}

impl ModuleKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Component, Self::Core, Self::Stdio];

    /// The wire name: `component`, `core`, `stdio`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Core => "core",
            Self::Stdio => "stdio",
        }
    }

    /// The kind in a sentence.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Component => "a component",
            Self::Core => "a core module with component types, encoded at load",
            Self::Stdio => "a stdio module (WASI command): one run for each delivery",
        }
    }
}

impl fmt::Display for ModuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The binary form of a module and what it is.
#[derive(Debug)]
pub struct Recognised<'a> {
    /// What it is.
    pub kind: ModuleKind,
    /// The module in binary form.
    pub binary: Cow<'a, [u8]>,
    /// Whether the file was text.
    pub text: bool,
}

/// Says what `bytes` are; text is turned into its binary form. Looks only at the section
/// headers and exports: the module may still turn out invalid.
///
/// # Errors
/// [`Refusal::Precompiled`], [`Refusal::NotWasm`], [`Refusal::Text`], [`Refusal::Invalid`] where
/// the sections are malformed, [`Refusal::Untyped`] for a core module that cannot be run.
pub fn recognise(bytes: &[u8]) -> Result<Recognised<'_>, Refusal> {
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(Refusal::Precompiled);
    }
    let text = is_text(bytes);
    let binary = if text { from_text(bytes)? } else { Cow::Borrowed(bytes) };
    let kind = if Parser::is_component(&binary) {
        ModuleKind::Component
    } else if Parser::is_core_wasm(&binary) {
        kind_of_core(&binary)?
    } else {
        return Err(Refusal::NotWasm { found: describe_foreign(&binary) });
    };
    Ok(Recognised { kind, binary, text })
}

/// Whether this is the text form: past white space, a parenthesis or a `;;` comment.
fn is_text(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    bytes.starts_with(b"(") || bytes.starts_with(b";;")
}

fn from_text(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| Refusal::Text {
        why: format!("not UTF-8 at byte {}", error.valid_up_to()),
    })?;
    let text = text.trim_start_matches('\u{feff}');
    match wat::parse_str(text) {
        Ok(binary) => Ok(Cow::Owned(binary)),
        Err(error) => Err(Refusal::Text { why: error.to_string().trim_end().to_owned() }),
    }
}

fn kind_of_core(binary: &[u8]) -> Result<ModuleKind, Refusal> {
    let mut exports = Vec::new();
    let mut start = false;
    for payload in Parser::new(0).parse_all(binary) {
        match payload.map_err(|error| Refusal::at(&error))? {
            Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                return Ok(ModuleKind::Core);
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(|error| Refusal::at(&error))?;
                    if export.kind == ExternalKind::Func {
                        if called_by(export.name).is_some() {
                            return Ok(ModuleKind::Core);
                        }
                        start |= export.name == "_start";
                        exports.push(export.name);
                    }
                }
            }
            Payload::Version { encoding: Encoding::Component, .. } => break,
            _ => {}
        }
    }
    if start {
        return Ok(ModuleKind::Stdio);
    }
    Err(Refusal::Untyped { why: describe_untyped(&exports) })
}

fn describe_untyped(exports: &[&str]) -> String {
    let listed: Vec<String> = exports.iter().take(5).map(|name| format!("`{name}`")).collect();
    let listed = if listed.is_empty() { "no function".to_owned() } else { listed.join(", ") };
    format!(
        "it exports {listed}; build it with the SDK of your language or wit-bindgen against \
         `tidegate:plugin`, or as a WASI command (wasm32-wasip1)"
    )
}

/// What a file that is not WebAssembly looks like, and what its author may have meant.
fn describe_foreign(bytes: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"\x7fELF", "an ELF program for this machine; build for a wasm32 target"),
        (b"MZ", "a Windows program; build for a wasm32 target"),
        (b"\xcf\xfa\xed\xfe", "a macOS program; build for a wasm32 target"),
        (b"\x1f\x8b", "a gzip archive; unpack it first"),
        (b"PK\x03\x04", "a zip archive; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
        (b"BC\xc0\xde", "LLVM bitcode: link it into a module first (build without `-flto`)"),
        (b"!<arch>\n", "a static library: link it into a module first"),
        (b"#!", "a script; only its compiled module can be a plugin"),
    ];
    if bytes.is_empty() {
        return "the file is empty".to_owned();
    }
    if let Some((_, what)) = KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return (*what).to_owned();
    }
    let first: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let first = first.join(" ");
    if bytes.starts_with(b"\0asm") {
        if bytes.len() < 8 {
            return format!("the file ends within its header ({} of 8 bytes)", bytes.len());
        }
        return format!("the version in its header is unknown (first bytes {first})");
    }
    if b"\0asm".starts_with(bytes) {
        return format!("the file ends within its header ({} of 8 bytes)", bytes.len());
    }
    if let Some(line) = first_line(bytes) {
        return format!(
            "it is text that begins `{line}`; where that is source code, `tidegate build DIR` makes \
             the module"
        );
    }
    format!("at offset 0 it begins with {first}, a module begins with 00 61 73 6d")
}

/// The beginning of the first line of a text, with something to see in it.
fn first_line(bytes: &[u8]) -> Option<String> {
    const SHOWN_MAX: usize = 40;
    let beginning = bytes.get(..bytes.len().min(4 * SHOWN_MAX))?;
    let text = match std::str::from_utf8(beginning) {
        Ok(text) => text,
        // A character may be cut in two, but nothing else.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(beginning.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let line = text.trim().lines().next()?;
    let printable = !text.contains(|c: char| c.is_control() && !c.is_whitespace());
    (printable && !line.is_empty()).then(|| line.chars().take(SHOWN_MAX).collect())
}

#[cfg(test)]
mod tests;
