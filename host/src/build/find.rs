//! Which folders hold plugin sources, and in which language.

use std::path::{Path, PathBuf};

use super::BuildError;
use crate::config::depth::too_deep;

/// The files that tell a language, for people.
pub(super) const FILES: &str =
    "Cargo.toml, asconfig.json, package.json, pyproject.toml, go.mod, *.c";

const NAME_BYTES_MAX: usize = 63;

/// A folder with plugin sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name of the folder.
    pub name: String,
    /// The folder, absolute.
    pub dir: PathBuf,
    /// What it is written in.
    pub language: Language,
    /// How it was found.
    pub by: By,
}

/// How a folder with sources was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// It was asked for.
    Name,
    /// It stands in a folder that was asked for.
    Scan,
}

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `Cargo.toml`.
    Rust,
    /// `asconfig.json`.
    AssemblyScript,
    /// `package.json`.
    JavaScript,
    /// `pyproject.toml`.
    Python,
    /// `go.mod`.
    Go,
    /// Any `*.c`.
    C,
}

impl Language {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::AssemblyScript => "AssemblyScript",
            Self::JavaScript => "JavaScript",
            Self::Python => "Python",
            Self::Go => "Go",
            Self::C => "C",
        }
    }

    /// The language of the sources in a folder, if it holds any.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        // A `Cargo.toml` without a package only binds other folders together.
        if is_package(&dir.join("Cargo.toml")) {
            return Some(Self::Rust);
        }
        // AssemblyScript projects have a `package.json` too, so its own file decides first.
        let told = [
            ("asconfig.json", Self::AssemblyScript),
            ("package.json", Self::JavaScript),
            ("pyproject.toml", Self::Python),
            ("go.mod", Self::Go),
        ];
        let told = told.into_iter().find(|(file, _)| dir.join(file).is_file());
        told.map(|(_, language)| language)
            .or_else(|| (has_c(dir) || has_c(&dir.join("src"))).then_some(Self::C))
    }
}

impl Found {
    /// Whether it may be a library that plugins share: nobody asked for it, and it is no plugin.
    pub(super) fn is_helper(&self) -> bool {
        self.by == By::Scan && !self.dir.join("plugin.toml").is_file()
    }
}

/// The plugins at `dir`: itself where it holds sources, else the folders in it that do, by name.
///
/// # Errors
/// Where it is no folder, or cannot be read.
pub fn find(dir: &Path) -> Result<Vec<Found>, BuildError> {
    if !dir.is_dir() {
        return Err(BuildError::NoFolder { dir: dir.to_owned() });
    }
    // Absolute, so that `.` has a name too, and the tools may run elsewhere.
    let dir = &dir.canonicalize().map_err(BuildError::io(dir))?;
    if let Some(language) = Language::of(dir) {
        return Ok(vec![found(dir, language, By::Name)]);
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(BuildError::io(dir))? {
        let entry = entry.map_err(BuildError::io(dir))?;
        // Not through links: the host does not follow them either.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_ours = !entry.file_name().to_string_lossy().starts_with('.');
        if is_folder && is_ours {
            all.extend(Language::of(&entry.path()).map(|l| found(&entry.path(), l, By::Scan)));
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn found(dir: &Path, language: Language, by: By) -> Found {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Found { name, dir: dir.to_owned(), language, by }
}

/// Whether it may be the name of a plugin: `[a-z0-9][a-z0-9-]{0,62}`.
pub(crate) fn is_plugin_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The file name of the module of the plugin in `dir`: what its manifest says, else `NAME.wasm`.
pub(crate) fn module_name(dir: &Path, name: &str) -> String {
    let manifest = read_toml(&dir.join("plugin.toml")).unwrap_or_default();
    let said = manifest.get("module").and_then(toml::Value::as_str);
    // Only a plain name: the manifest does not decide about files elsewhere.
    let plain = said.filter(|name| Path::new(name).file_name() == Some(name.as_ref()));
    plain.map_or_else(|| format!("{name}.wasm"), ToOwned::to_owned)
}

fn is_package(manifest: &Path) -> bool {
    // One that cannot be read as TOML is left to cargo, which says why.
    manifest.is_file() && read_toml(manifest).is_none_or(|table| table.contains_key("package"))
}

pub(super) fn read_toml(file: &Path) -> Option<toml::Table> {
    let text = std::fs::read_to_string(file).ok()?;
    if too_deep(&text).is_some() {
        return None;
    }
    text.parse().ok()
}

fn has_c(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.path().extension() == Some("c".as_ref())))
    })
}
