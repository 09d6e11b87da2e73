//! What `tidegate check` tells an author about a module: what it is, what it wants, what it would
//! get, and what to change.
//!
//! The verdict is the loader's own: the module is compiled for real, by the same child under the
//! same limits, and the code thrown away.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use serde::Serialize;
use wasmtime::Engine;

use super::compile::{CompileLimits, Description};
use super::engine::{HostEngineOptions, host_config};
use super::load::{Compiler, LoadError, Loaded, compile, deserialize, outcome};
use super::module::Module;
use super::recognise::ModuleKind;
use super::refusal::Refusal;
use super::sandbox::Linkers;
use super::shape::{INCOMING_HANDLER, MemoryShape, Shape, Verdict, verdict};
use crate::event::Digest;
use crate::plugin::Grants;

/// `limits.memory` where the manifest says nothing, in bytes.
const MEMORY_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// What is known of a module, and whether it would be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleReport {
    /// Digest of the file.
    pub digest: Digest,
    /// Bytes of the file.
    pub size_bytes: usize,
    /// What it is; none: not understood.
    pub kind: Option<ModuleKind>,
    /// Whether the file is text (`.wat`).
    pub text: bool,
    /// Which of `handler`, `command`, `query`, `upcaster` it exports; for a stdio module, all it may be asked.
    pub exports: Vec<&'static str>,
    /// What it imports, and what it would get.
    pub imports: Vec<ImportReport>,
    /// Its largest linear memory, if any.
    pub memory: Option<MemoryShape>,
    /// Milliseconds it took to compile; none: it was not.
    pub compile_ms: Option<u64>,
    /// Why it would be refused, one sentence each; empty: it would be loaded.
    pub problems: Vec<String>,
    /// What its author may want to know.
    pub notes: Vec<String>,
}

/// One import, and what the host says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// An interface of a component, `module.name` of a stdio module.
    pub name: String,
    /// Whether it is granted.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Reports on a module within this process, so without the limits of a child: only for modules
/// somebody vouches for. Blocks for as long as it compiles.
#[must_use]
pub fn report(wasm: &[u8]) -> ModuleReport {
    inspect(wasm, &Grants::default(), &Compiler::InProcess, &CompileLimits::default())
}

/// Reports on a module that `compiler` compiles under `limits`, whose manifest asks for `asked`.
/// Blocks for as long as that takes.
#[must_use]
pub fn inspect(
    wasm: &[u8],
    asked: &Grants,
    compiler: &Compiler,
    limits: &CompileLimits,
) -> ModuleReport {
    let mut description = None;
    let compiled = try_load(wasm, compiler, limits, &mut description);
    ModuleReport::new(wasm, asked, description.as_ref(), compiled)
}

/// Compiles, loads and links a module, and throws it away: how long compiling took.
fn try_load(
    wasm: &[u8],
    compiler: &Compiler,
    limits: &CompileLimits,
    description: &mut Option<Description>,
) -> Result<Duration, LoadError> {
    let cannot = |why: String| LoadError::Compiler { why };
    // The smallest pool: its limits for one instance are those of the running host.
    let pool = HostEngineOptions { workers: 1, plugins_max: 1, ..Default::default() };
    let engine = Engine::new(&host_config(pool)).map_err(|error| cannot(error.to_string()))?;
    let mut out = tempfile::tempfile().map_err(|error| cannot(error.to_string()))?;
    let start = Instant::now();
    let ended = compile(&engine, wasm, &out, compiler, limits);
    description.clone_from(&ended.description);
    let Description { kind, shape, .. } = outcome(ended, limits)?;
    let took = start.elapsed();
    let mut code = Vec::new();
    out.seek(SeekFrom::Start(0))
        .and_then(|_| out.read_to_end(&mut code))
        .map_err(|error| cannot(error.to_string()))?;
    let loaded = Loaded {
        digest: Digest::of(wasm),
        kind,
        code: deserialize(&engine, kind, &code)?,
        imports: shape.imports,
        exports: shape.exports,
        size_bytes: wasm.len(),
        compile: took,
        from_cache: false,
    };
    // The names of its imports and exports are known by now; here their types are compared.
    let linkers = Linkers::new(&engine).map_err(|error| cannot(error.to_string()))?;
    Module::link(&linkers, loaded)?;
    Ok(took)
}

impl ModuleReport {
    /// Whether the module would be loaded.
    #[must_use]
    pub fn would_load(&self) -> bool {
        self.problems.is_empty()
    }

    fn new(
        wasm: &[u8],
        asked: &Grants,
        description: Option<&Description>,
        compiled: Result<Duration, LoadError>,
    ) -> Self {
        let mut report = Self {
            digest: Digest::of(wasm),
            size_bytes: wasm.len(),
            kind: description.map(|known| known.kind),
            text: description.is_some_and(|known| known.text),
            exports: Vec::new(),
            imports: Vec::new(),
            memory: None,
            compile_ms: None,
            problems: Vec::new(),
            notes: Vec::new(),
        };
        if let Some(known) = description {
            report.describe(known.kind, &known.shape, asked);
        }
        match compiled {
            Ok(took) => report.compile_ms = u64::try_from(took.as_millis()).ok(),
            // Said already, and in more words: the loader stops at the first of them.
            Err(LoadError::Refused(Refusal::Import { .. } | Refusal::Unsupported { .. }))
                if !report.problems.is_empty() => {}
            Err(error) => report.problems.push(error.to_string()),
        }
        report
    }

    fn describe(&mut self, kind: ModuleKind, shape: &Shape, asked: &Grants) {
        self.exports = match kind {
            ModuleKind::Stdio => vec!["handler", "command", "query"],
            ModuleKind::Component | ModuleKind::Core => shape.called(),
        };
        for name in &shape.imports {
            let verdict = verdict(kind, name);
            match &verdict {
                Verdict::Granted | Verdict::Empty => {}
                Verdict::Refused { why } => {
                    self.problems.push(format!("imports `{name}`: {why}"));
                }
                Verdict::NeedsGrant { grant, why } => self.judge_grant(name, (grant, why), asked),
            }
            self.imports.push(ImportReport { name: name.clone(), verdict });
        }
        self.memory = shape.memory;
        self.notes.extend(note_on_wasi(&self.imports));
        self.notes.extend(note_on_kind(kind));
        self.notes.extend(note_on_messaging(shape));
        self.notes.extend(note_on_upcaster(&self.exports));
        if let Some(memory) = shape.memory {
            self.judge_memory(memory);
        }
    }

    /// Once for each grant: several imports are behind one.
    fn judge_grant(&mut self, import: &str, (grant, why): (&'static str, &str), asked: &Grants) {
        let is_new = |verdict: &Verdict| !matches!(verdict, Verdict::NeedsGrant { grant: known, .. } if *known == grant);
        if !self.imports.iter().all(|known| is_new(&known.verdict)) {
            return;
        }
        if asked.http.is_empty() {
            self.problems.push(format!("imports `{import}`, which needs `{grant}`: {why}"));
        } else {
            let hosts: Vec<String> = asked.http.iter().map(|host| format!("\"{host}\"")).collect();
            self.notes.push(format!(
                "asks servers and waits for their answers: it is refused until the operator allows \
                 some of the hosts that its manifest asks for, as in `[plugins.NAME] \
                 allow.http = [{}]`",
                hosts.join(", ")
            ));
        }
    }

    fn judge_memory(&mut self, memory: MemoryShape) {
        if memory.minimum_bytes > MEMORY_BYTES_DEFAULT {
            self.notes.push(format!(
                "its memory starts at {}, above the default of `limits.memory` ({}): raise that in \
                 its manifest, or every delivery ends as `memory`",
                bytes_in_words(memory.minimum_bytes),
                bytes_in_words(MEMORY_BYTES_DEFAULT)
            ));
        }
    }
}

fn note_on_wasi(imports: &[ImportReport]) -> Option<String> {
    let any = imports.iter().any(|import| import.verdict == Verdict::Empty);
    any.then(|| {
        "WASI is there so that it links: no files, sockets or environment, the clock stands at \
         the event's time, randomness is seeded by the delivery"
            .to_owned()
    })
}

fn note_on_kind(kind: ModuleKind) -> Option<String> {
    (kind == ModuleKind::Stdio).then(|| {
        "each delivery is a run of its own (event on stdin, effects on stdout): simple, and slower \
         than a module built with an SDK"
            .to_owned()
    })
}

fn note_on_messaging(shape: &Shape) -> Option<String> {
    shape.exports.iter().any(|export| export == INCOMING_HANDLER).then(|| {
        "a handler for `wasi:messaging`: events come as messages, an error is a retry, what it sends \
         is emitted with the delivery, and its buckets are the state of the event's key \
         (`wit/MESSAGING.md` says what differs from other hosts)"
            .to_owned()
    })
}

fn note_on_upcaster(exports: &[&'static str]) -> Option<String> {
    exports.contains(&"upcaster").then(|| {
        "lifts old events for every plugin of its bus: `[upcast]` of its manifest must list the \
         types and the versions they are lifted from, as in `\"order.created\" = [1]`"
            .to_owned()
    })
}

/// Bytes for people: `1.5 MiB`.
fn bytes_in_words(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 {
                format!("{whole} {name}")
            } else {
                format!("{whole}.{tenth} {name}")
            };
        }
    }
    format!("{bytes} bytes")
}

impl fmt::Display for ModuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.map_or("not a module this host knows", ModuleKind::in_words);
        let text = if self.text { ", as text" } else { "" };
        writeln!(f, "kind     {kind}{text}")?;
        writeln!(f, "digest   {}", self.digest)?;
        writeln!(f, "size     {}", bytes_in_words(self.size_bytes as u64))?;
        if self.kind.is_some() {
            let exports =
                if self.exports.is_empty() { "none".to_owned() } else { self.exports.join(", ") };
            writeln!(f, "exports  {exports}")?;
        }
        if let Some(memory) = self.memory {
            let most = memory.maximum_bytes.map(bytes_in_words);
            let most = most.unwrap_or_else(|| "`limits.memory`".to_owned());
            let least = bytes_in_words(memory.minimum_bytes);
            writeln!(f, "memory   from {least}, up to {most}")?;
        }
        if let Some(compile_ms) = self.compile_ms {
            writeln!(f, "compile  {compile_ms} ms")?;
        }
        let width = self.imports.iter().map(|import| import.name.len()).max().unwrap_or(0);
        for (n, import) in self.imports.iter().enumerate() {
            let head = if n == 0 { "imports" } else { "" };
            writeln!(f, "{head:<8} {:<width$}  {}", import.name, short(&import.verdict))?;
        }
        for note in &self.notes {
            writeln!(f, "note     {note}")?;
        }
        for problem in &self.problems {
            writeln!(f, "problem  {problem}")?;
        }
        f.write_str(if self.would_load() { "would be loaded" } else { "would be refused" })
    }
}

/// The verdict in a column; why stands under `problem`.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Granted => "granted".to_owned(),
        Verdict::Empty => "linked, nothing behind it".to_owned(),
        Verdict::NeedsGrant { grant, .. } => format!("needs `{grant}`"),
        Verdict::Refused { .. } => "refused".to_owned(),
    }
}

#[cfg(test)]
mod tests;
