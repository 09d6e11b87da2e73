//! What `tidegate check` tells an author about a module: what it is, what it wants, what it would
//! get, and what to change.
//!
//! The verdict is the loader's own: the module is compiled for real, by the same child under the
//! same limits, and the code thrown away.

mod fit;
mod look;
mod words;

use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use serde::Serialize;
use wasmtime::Engine;

use super::compile::{CompileLimits, Description};
use super::engine::{HostEngineOptions, host_config};
use super::load::{Compiler, LoadError, Loaded, compile, deserialize, outcome};
use super::module::{Module, Needed};
use super::recognise::ModuleKind;
use super::refusal::Refusal;
use super::sandbox::Linkers;
use super::shape::{INCOMING_HANDLER, MemoryShape, Shape, Verdict, verdict};
use crate::event::Digest;
use crate::plugin::{Grants, Manifest};
use look::{Look, look};

/// What is known of a module, and whether it would be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleReport {
    /// Digest of the file.
    pub digest: Digest,
    /// Bytes of the file.
    pub size_bytes: usize,
    /// What it is; none: not understood.
    pub kind: Option<ModuleKind>,
    /// What it is all the same, in words, where it is not understood; none: no WebAssembly.
    pub what: Option<&'static str>,
    /// Tools that made it, as far as it says.
    pub made_by: Vec<String>,
    /// Whether the file is text (`.wat`).
    pub text: bool,
    /// Which of `handler`, `command`, `query`, `upcaster` it exports; for a stdio module, all it may be asked.
    pub exports: Vec<&'static str>,
    /// What else it exports, where this host calls nothing of it.
    pub other_exports: Vec<String>,
    /// What it imports, and what it would get.
    pub imports: Vec<ImportReport>,
    /// Its largest linear memory, if any.
    pub memory: Option<MemoryShape>,
    /// Milliseconds it took to compile; none: it was not.
    pub compile_ms: Option<u64>,
    /// What its manifest makes of it.
    pub manifest: Vec<String>,
    /// Why it would be refused, one sentence each; empty: it would be loaded.
    pub problems: Vec<String>,
    /// What its author could do about that.
    pub advice: Vec<String>,
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
    inspect(wasm, &Manifest::default(), &Compiler::InProcess, &CompileLimits::default())
}

/// Reports on a module with this manifest, that `compiler` compiles under `limits`. Blocks for as long
/// as that takes.
#[must_use]
pub fn inspect(
    wasm: &[u8],
    manifest: &Manifest,
    compiler: &Compiler,
    limits: &CompileLimits,
) -> ModuleReport {
    let mut description = None;
    let compiled = try_load(wasm, compiler, limits, &mut description);
    ModuleReport::new(wasm, manifest, description.as_ref(), compiled)
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
        manifest: &Manifest,
        description: Option<&Description>,
        compiled: Result<Duration, LoadError>,
    ) -> Self {
        let mut report = Self {
            digest: Digest::of(wasm),
            size_bytes: wasm.len(),
            kind: description.map(|known| known.kind),
            what: None,
            made_by: Vec::new(),
            text: description.is_some_and(|known| known.text),
            exports: Vec::new(),
            other_exports: Vec::new(),
            imports: Vec::new(),
            memory: None,
            compile_ms: None,
            manifest: Vec::new(),
            problems: Vec::new(),
            advice: Vec::new(),
            notes: Vec::new(),
        };
        let seen = look(wasm);
        report.made_by.clone_from(&seen.made_by);
        match description {
            Some(known) => {
                report.describe(known.kind, &known.shape, manifest);
                report.fit(manifest);
            }
            None => report.describe_unknown(seen, &compiled),
        }
        match compiled {
            Ok(took) => report.compile_ms = u64::try_from(took.as_millis()).ok(),
            // Said already, and in more words: the loader stops at the first of them.
            Err(LoadError::Refused(
                Refusal::Import { .. } | Refusal::Unsupported { .. } | Refusal::NoExport { .. },
            )) if !report.problems.is_empty() => {}
            Err(error) => report.problems.push(error.to_string()),
        }
        report
    }

    /// Of what the loader did not get to understand.
    fn describe_unknown(&mut self, seen: Look, compiled: &Result<Duration, LoadError>) {
        self.what = seen.what;
        if let Err(LoadError::Refused(Refusal::Untyped { .. })) = compiled {
            self.advice.push(seen.advice());
            for name in seen.imports {
                let verdict = verdict(ModuleKind::Stdio, &name);
                self.imports.push(ImportReport { name, verdict });
            }
        }
        self.other_exports = seen.exports;
    }

    fn describe(&mut self, kind: ModuleKind, shape: &Shape, manifest: &Manifest) {
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
                Verdict::NeedsGrant { grant, why } => {
                    self.judge_grant(name, (grant, why), &manifest.grants);
                }
            }
            self.imports.push(ImportReport { name: name.clone(), verdict });
        }
        if self.exports.is_empty() {
            self.other_exports.clone_from(&shape.exports);
            // What it lacks is said beside what it wants and does not get.
            let offers = Shape { exports: shape.exports.clone(), ..Shape::default() };
            self.problems.extend(offers.check(kind).err().map(|refusal| refusal.to_string()));
        }
        self.memory = shape.memory;
        self.notes.extend(note_on_wasi(&self.imports));
        self.notes.extend(note_on_kind(kind));
        self.notes.extend(note_on_messaging(shape));
    }

    /// Once for each grant: several imports are behind one.
    fn judge_grant(&mut self, import: &str, (grant, why): (&'static str, &str), asked: &Grants) {
        let is_new = |verdict: &Verdict| !matches!(verdict, Verdict::NeedsGrant { grant: known, .. } if *known == grant);
        if !self.imports.iter().all(|known| is_new(&known.verdict)) {
            return;
        }
        if asked.http.is_empty() {
            let needed = Needed { import: import.to_owned(), grant, why: why.to_owned() };
            self.problems.push(needed.to_string());
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
}

fn note_on_wasi(imports: &[ImportReport]) -> Option<String> {
    let any = imports.iter().any(|import| import.verdict == Verdict::Empty);
    any.then(|| {
        "WASI is there so that it links: no files or sockets, no environment that is not granted, \
         the clock stands at the event's time, randomness is seeded by the delivery"
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

#[cfg(test)]
mod tests;
