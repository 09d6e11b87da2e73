//! From a plugin's source folder to its module: what `tidegate build` and `tidegate dev` share.
//!
//! Blocking, and free of any runtime: it waits for compilers. Nothing in a source folder changes but
//! the module, and that only when its bytes do, so that a watcher sees one change for one change.

mod assemblyscript;
mod c;
mod find;
mod fresh;
mod go;
mod js;
mod python;
mod rust;
mod target;
mod tool;
pub mod watch;
mod world;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use find::{By, Found, Language, find};
pub(crate) use find::{is_plugin_name, module_name};
pub use target::TARGET_VARIABLE;

/// A module that stands in its source folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Built {
    /// The plugin: the name of its folder.
    pub name: String,
    /// The module, beside `plugin.toml`.
    pub module: PathBuf,
    /// Size of the module.
    pub bytes: u64,
    /// How long it took.
    #[serde(rename = "took_ms", serialize_with = "as_ms")]
    pub took: Duration,
    /// Whether the bytes differ from those that stood there.
    pub changed: bool,
}

/// How it went for one plugin.
#[derive(Debug)]
pub enum Outcome {
    /// The module is there.
    Built(Built),
    /// It is none of this command's business: why, in one line.
    Skipped(String),
    /// There is no new module; an old one is left alone.
    Failed(BuildError),
}

/// How it went for one plugin, and which.
#[derive(Debug)]
pub struct Report {
    /// The plugin: the name of its folder.
    pub name: String,
    /// Its source folder.
    pub dir: PathBuf,
    /// How it went.
    pub outcome: Outcome,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A plugin's turn has come.
    Started {
        /// The plugin.
        name: &'a str,
        /// Its number, from 1.
        number: usize,
        /// Of how many.
        total: usize,
    },
    /// A tool says something: `Compiling serde v1.0.229`.
    Line {
        /// The plugin.
        name: &'a str,
        /// One line, trimmed.
        line: &'a str,
    },
    /// A plugin is through.
    Finished(&'a Report),
}

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The folder to build is not there, or is no folder.
    #[error("`{dir}` is not a folder")]
    NoFolder {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder holds no sources.
    #[error(
        "`{dir}` holds no plugin sources: neither it nor a folder in it has one of {}",
        find::FILES
    )]
    NoSources {
        /// The folder.
        dir: PathBuf,
    },
    /// The name of the folder is no name of a plugin.
    #[error(
        "`{name}` is no plugin name: 1 to 63 of a-z, 0-9 and `-`, not beginning with `-`; \
         rename the folder"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A tool is not installed.
    #[error("`{tool}` is missing; install it with\n    {install}")]
    ToolMissing {
        /// The tool.
        tool: String,
        /// The one command that installs it.
        install: String,
    },
    /// The package makes no module.
    #[error(
        "`{manifest}` makes no module: a plugin has `[lib] crate-type = [\"cdylib\"]`, \
         a stdio plugin one `src/main.rs`"
    )]
    NoModule {
        /// The `Cargo.toml`.
        manifest: PathBuf,
    },
    /// The manifest names no script that is there.
    #[error("`{manifest}` leads to no script: {hint}")]
    NoScript {
        /// The manifest.
        manifest: PathBuf,
        /// Where it is looked for.
        hint: &'static str,
    },
    /// The script makes no plugin.
    #[error("`{script}` exports nothing that a plugin may: handler, command, query, upcaster")]
    NoExports {
        /// The script.
        script: PathBuf,
    },
    /// The compiler refuses.
    #[error("`{command}` failed\n{said}")]
    Compiler {
        /// What was run, shortened.
        command: String,
        /// The end of what it said.
        said: String,
    },
    /// A tool answers in a way this version does not understand.
    #[error("`{command}` answered something else than expected: {why}")]
    Tool {
        /// What was run, shortened.
        command: String,
        /// What is odd.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BuildError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Builds the plugins in `dirs`, one after the other: each is a plugin's folder, or a folder of
/// them. The reports are in the order of the building; every one was also handed to `progress`.
///
/// # Errors
/// Where a folder is not there or holds no plugin sources; then nothing is built. What fails for
/// one plugin stands in its report.
pub fn build_all(
    dirs: &[PathBuf],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Report>, BuildError> {
    let mut found = Vec::new();
    for dir in dirs {
        let here = find(dir)?;
        if here.is_empty() {
            return Err(BuildError::NoSources { dir: dir.clone() });
        }
        found.extend(here);
    }
    let total = found.len();
    let mut reports = Vec::with_capacity(total);
    for (index, plugin) in found.into_iter().enumerate() {
        progress(Progress::Started { name: &plugin.name, number: index + 1, total });
        let report = build_one(plugin, progress);
        progress(Progress::Finished(&report));
        reports.push(report);
    }
    Ok(reports)
}

/// Builds one plugin that [`find`] found.
pub fn build_one(plugin: Found, progress: &mut dyn FnMut(Progress<'_>)) -> Report {
    let built = try_build(&plugin, progress);
    let outcome = outcome(&plugin, built);
    Report { name: plugin.name, dir: plugin.dir, outcome }
}

/// What it means for a plugin that it was built, or was not.
fn outcome(plugin: &Found, built: Result<Built, BuildError>) -> Outcome {
    match built {
        Ok(built) => Outcome::Built(built),
        Err(BuildError::NoModule { .. }) if plugin.is_helper() => {
            Outcome::Skipped("a library of the others, no plugin".to_owned())
        }
        // Of many plugins, those in other languages must not stand in the way of one's own.
        Err(BuildError::ToolMissing { tool, install }) if plugin.by == By::Scan => {
            Outcome::Skipped(format!(
                "{}: `{tool}` is missing; install it with: {install}",
                plugin.language.name()
            ))
        }
        Err(error) => Outcome::Failed(error),
    }
}

fn try_build(plugin: &Found, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Built, BuildError> {
    if !find::is_plugin_name(&plugin.name) {
        return Err(BuildError::Name { name: plugin.name.clone() });
    }
    let start = Instant::now();
    let target = target::folder(&plugin.dir)?;
    let _turn = target::turn(&target, plugin)?;
    let artifact = match plugin.language {
        Language::Rust => rust::build(plugin, &target, progress)?,
        Language::C => c::build(plugin, &target, progress)?,
        Language::JavaScript => js::build(plugin, &target, progress)?,
        Language::Python => python::build(plugin, &target, progress)?,
        Language::Go => go::build(plugin, &target, progress)?,
        Language::AssemblyScript => assemblyscript::build(plugin, &target, progress)?,
    };
    let wasm = std::fs::read(&artifact).map_err(BuildError::io(&artifact))?;
    let module = plugin.dir.join(module_name(&plugin.dir, &plugin.name));
    let changed = publish(&module, &wasm)?;
    let bytes = wasm.len() as u64;
    Ok(Built { name: plugin.name.clone(), module, bytes, took: start.elapsed(), changed })
}

/// Puts the module in place whole or not at all, and only where its bytes are new.
fn publish(module: &Path, wasm: &[u8]) -> Result<bool, BuildError> {
    if std::fs::read(module).is_ok_and(|there| there == wasm) {
        return Ok(false);
    }
    // Hidden, and no `.wasm`: whoever scans the folder meanwhile does not take it for a module.
    let file_name = module.file_name().unwrap_or_default().to_string_lossy();
    let temporary = module.with_file_name(format!(".{file_name}.{}.new", std::process::id()));
    let put = std::fs::write(&temporary, wasm).and_then(|()| std::fs::rename(&temporary, module));
    if put.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    put.map_err(BuildError::io(module))?;
    Ok(true)
}

/// Where code that tools compile from modules in `dir` is kept: a folder beside what compilers keep.
/// None: there is no such place.
#[must_use]
pub fn code_folder(dir: &Path) -> Option<PathBuf> {
    let folder = target::folder(dir).ok()?.join("code");
    // Another user's folder, or one nobody can write to, is no place for code.
    crate::wasm::cache::is_usable(&folder).then_some(folder)
}

fn as_ms<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
