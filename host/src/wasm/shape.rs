//! What a module imports, exports and needs, read from its bytes without compiling anything, and
//! what this host says to each import.
//!
//! The rule that must not break: what is not known is refused. A guest gets what
//! `tidegate:plugin` offers; WASI is there so that toolchains link, with nothing behind it.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmparser::{ComponentTypeRef, ExternalKind, MemoryType, Parser, Payload, TypeBounds};

use super::encode::foreign_import;
use super::recognise::ModuleKind;
use super::refusal::Refusal;
use super::small;

/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 * 1024;
/// The package this host speaks.
const PACKAGE: &str = "tidegate:plugin";
/// Version of [`PACKAGE`] this host offers; guests of the same minor version run.
const PACKAGE_VERSION: (u64, u64) = (0, 1);
/// Interfaces of [`PACKAGE`] that a guest may import.
const OFFERED: [&str; 7] = ["types", "bus", "state", "keys", "timers", "calls", "context"];
/// What a component for `wasi:messaging` exports.
pub(super) const INCOMING_HANDLER: &str = "wasi:messaging/incoming-handler@0.2.0-draft";
/// Drafts of WASI that are served: package, versions, interfaces.
const DRAFTS: [(&str, &[&str], &[&str]); 2] = [
    ("wasi:messaging", &["0.2.0-draft"], &["types", "producer", "request-reply"]),
    ("wasi:keyvalue", &["0.2.0-draft", "0.2.0-draft2"], &["store", "atomics", "batch"]),
];
/// Interfaces of [`PACKAGE`] that a guest may export.
pub(super) const CALLED: [&str; 4] = ["handler", "command", "query", "upcaster"];
/// WASI 0.2 packages that are linked, with nothing behind them.
const WASI_EMPTY: [&str; 6] =
    ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];

/// What a module wants and offers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shape {
    /// Interfaces of a component, `module.name` of a stdio module; ascending, without repetition.
    pub imports: Vec<String>,
    /// Interfaces of a component, functions of a stdio module; ascending.
    pub exports: Vec<String>,
    /// The largest linear memory of the module, if it has any.
    pub memory: Option<MemoryShape>,
}

/// What a linear memory asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryShape {
    /// Bytes it starts with.
    pub minimum_bytes: u64,
    /// Bytes it limits itself to; none: what `limits.memory` allows.
    pub maximum_bytes: Option<u64>,
}

/// What this host says to an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// Answered by the host.
    Granted,
    /// Linked, so that the module loads; there is nothing behind it.
    Empty,
    /// Only for plugins with this grant.
    NeedsGrant {
        /// The manifest key: `grants.http`.
        grant: &'static str,
        /// What to do.
        why: String,
    },
    /// Never.
    Refused {
        /// Why not, and what to do.
        why: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted => f.write_str("granted"),
            Self::Empty => f.write_str("linked, with nothing behind it"),
            Self::NeedsGrant { grant, why } => write!(f, "needs `{grant}`: {why}"),
            Self::Refused { why } => write!(f, "refused: {why}"),
        }
    }
}

/// Reads the shape of a validated binary.
///
/// # Errors
/// [`Refusal::Invalid`] where the binary is malformed after all.
pub fn shape(kind: ModuleKind, binary: &[u8]) -> Result<Shape, Refusal> {
    let mut shape = Shape::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(binary) {
        let payload = payload.map_err(|error| Refusal::at(&error))?;
        match &payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    shape.grow(memory.map_err(|error| Refusal::at(&error))?);
                }
            }
            _ => {}
        }
        if depth == 1 {
            read_surface(&mut shape, kind, payload).map_err(|error| Refusal::at(&error))?;
        }
    }
    shape.imports.sort();
    shape.imports.dedup();
    shape.exports.sort();
    Ok(shape)
}

/// Takes in what one outermost section imports or exports.
fn read_surface(
    shape: &mut Shape,
    kind: ModuleKind,
    payload: Payload<'_>,
) -> Result<(), wasmparser::BinaryReaderError> {
    match payload {
        Payload::ComponentImportSection(section) => {
            for import in section {
                let import = import?;
                // A type that is equal to another one is a name, nothing to be provided.
                if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                    shape.imports.push(import.name.name.to_owned());
                }
            }
        }
        Payload::ComponentExportSection(section) => {
            for export in section {
                shape.exports.push(export?.name.name.to_owned());
            }
        }
        Payload::ImportSection(section) if kind == ModuleKind::Stdio => {
            for import in section.into_imports() {
                let import = import?;
                shape.imports.push(format!("{}.{}", import.module, import.name));
            }
        }
        Payload::ExportSection(section) if kind == ModuleKind::Stdio => {
            for export in section {
                let export = export?;
                if export.kind == ExternalKind::Func {
                    shape.exports.push(export.name.to_owned());
                }
            }
        }
        _ => {}
    }
    Ok(())
}

impl Shape {
    fn grow(&mut self, memory: MemoryType) {
        let page = memory.page_size_log2.map_or(PAGE_BYTES, |log2| 1_u64 << log2.min(16));
        let found = MemoryShape {
            minimum_bytes: memory.initial.saturating_mul(page),
            maximum_bytes: memory.maximum.map(|pages| pages.saturating_mul(page)),
        };
        if self.memory.is_none_or(|known| known.minimum_bytes < found.minimum_bytes) {
            self.memory = Some(found);
        }
    }

    /// Which of `handler`, `command`, `query`, `upcaster` a component exports for this host.
    #[must_use]
    pub fn called(&self) -> Vec<&'static str> {
        CALLED.into_iter().filter(|name| self.exports.iter().any(|e| is_called(e, name))).collect()
    }

    /// Checks that this host can run a module of this shape.
    ///
    /// # Errors
    /// [`Refusal::Import`] for the first import that is not granted, [`Refusal::NoExport`] where
    /// there is nothing to call.
    pub fn check(&self, kind: ModuleKind) -> Result<(), Refusal> {
        for import in &self.imports {
            match verdict(kind, import) {
                // What a plugin is granted is not known from its bytes.
                Verdict::Granted | Verdict::Empty | Verdict::NeedsGrant { .. } => {}
                Verdict::Refused { why } => {
                    return Err(Refusal::Import { name: import.clone(), why });
                }
            }
        }
        if kind != ModuleKind::Stdio && self.called().is_empty() {
            return Err(Refusal::NoExport { why: describe_exports(&self.exports) });
        }
        Ok(())
    }
}

fn is_called(export: &str, name: &str) -> bool {
    let (package, interface, version) = split(export);
    let is_own = package == PACKAGE && interface == name && speaks(version);
    is_own || (name == "handler" && export == INCOMING_HANDLER)
}

/// What this host says to one import of a module of this kind.
#[must_use]
pub fn verdict(kind: ModuleKind, import: &str) -> Verdict {
    if kind == ModuleKind::Stdio {
        let (module, name) = import.split_once('.').unwrap_or((import, ""));
        if module == "wasi_snapshot_preview1" {
            return Verdict::Granted;
        }
        return match foreign_import(module, name) {
            Refusal::Import { why, .. } => Verdict::Refused { why },
            other => Verdict::Refused { why: other.to_string() },
        };
    }
    let (package, interface, version) = split(import);
    if package == PACKAGE {
        return verdict_own(interface, version);
    }
    if package == "wasi:http" {
        return verdict_http(interface, version);
    }
    if WASI_EMPTY.contains(&package) {
        if version.is_some_and(|version| version.starts_with("0.2.")) {
            return Verdict::Empty;
        }
        let why = "this host has WASI 0.2; build with a toolchain for that version";
        return Verdict::Refused { why: why.to_owned() };
    }
    if let Some(draft) = DRAFTS.iter().find(|(name, ..)| *name == package) {
        return verdict_draft(draft, interface, version);
    }
    if small::LOGGING.contains(&import) || small::CONFIG.contains(&import) {
        return Verdict::Granted;
    }
    let why = if package.starts_with("wasi:") {
        "this host does not provide that WASI interface; events, state, timers and calls come \
         from `tidegate:plugin`"
    } else {
        "neither `tidegate:plugin` nor WASI; nothing on this host answers it (compose it in with \
         `wac plug`, if it is a component of yours)"
    };
    Verdict::Refused { why: why.to_owned() }
}

fn verdict_http(interface: &str, version: Option<&str>) -> Verdict {
    if !version.is_some_and(|version| version.starts_with("0.2.")) {
        let why = "this host has WASI 0.2; build with a toolchain for that version";
        return Verdict::Refused { why: why.to_owned() };
    }
    // Who serves HTTP elsewhere has the types too, and can send nothing with them.
    if interface == "types" {
        return Verdict::Empty;
    }
    let why = "name the hosts it asks in `[grants] http = [\"api.example.com\"]` of its manifest, and \
               let the operator allow them in `[plugins.NAME] allow.http` of `tidegate.toml` \
               (JavaScript that asks nobody: build with `--disable http`)";
    Verdict::NeedsGrant { grant: "grants.http", why: why.to_owned() }
}

fn verdict_draft(
    (package, versions, interfaces): &(&str, &[&str], &[&str]),
    interface: &str,
    version: Option<&str>,
) -> Verdict {
    let is_served = version.is_some_and(|version| versions.contains(&version));
    if is_served && interfaces.contains(&interface) {
        return Verdict::Granted;
    }
    let why = format!(
        "this host has {} of {package} {}; build against one of these",
        interfaces.join(", "),
        versions.join(" and ")
    );
    Verdict::Refused { why }
}

fn verdict_own(interface: &str, version: Option<&str>) -> Verdict {
    if !speaks(version) {
        let (major, minor) = PACKAGE_VERSION;
        let why = format!(
            "this host speaks {PACKAGE} {major}.{minor}; build against its `wit/plugin.wit`, or \
             run a newer host"
        );
        return Verdict::Refused { why };
    }
    if OFFERED.contains(&interface) {
        return Verdict::Granted;
    }
    let why = format!("{PACKAGE} offers {} to import", OFFERED.join(", "));
    Verdict::Refused { why }
}

/// Package, interface and version of `package/interface@version`; parts that are not there are
/// empty.
fn split(name: &str) -> (&str, &str, Option<&str>) {
    let (path, version) = match name.split_once('@') {
        Some((path, version)) => (path, Some(version)),
        None => (name, None),
    };
    let (package, interface) = path.split_once('/').unwrap_or((path, ""));
    (package, interface, version)
}

/// Whether a guest built against this version of [`PACKAGE`] runs here: for 0.x the minor version
/// decides, as in semantic versioning.
fn speaks(version: Option<&str>) -> bool {
    let mut numbers = version.unwrap_or_default().split('.').map(|part| part.parse::<u64>().ok());
    (numbers.next().flatten(), numbers.next().flatten())
        == (Some(PACKAGE_VERSION.0), Some(PACKAGE_VERSION.1))
}

fn describe_exports(exports: &[String]) -> String {
    let (major, minor) = PACKAGE_VERSION;
    if let Some(other) = exports.iter().find(|export| split(export).0 == PACKAGE) {
        return format!("`{other}` is not of {PACKAGE} {major}.{minor}, which this host speaks");
    }
    if let Some(other) = exports.iter().find(|export| split(export).0 == "wasi:messaging") {
        return format!("`{other}` is not `{INCOMING_HANDLER}`, which this host calls");
    }
    if exports.iter().any(|export| split(export).0 == "wasi:cli") {
        return "it is a WASI 0.2 command; build for wasm32-wasip1 to use it as a stdio module"
            .to_owned();
    }
    let listed: Vec<String> = exports.iter().take(5).map(|name| format!("`{name}`")).collect();
    let listed = if listed.is_empty() { "nothing".to_owned() } else { listed.join(", ") };
    format!(
        "it exports {listed}; a plugin exports at least one of {} of {PACKAGE}@{major}.{minor}",
        CALLED.map(|name| format!("`{name}`")).join(", ")
    )
}
