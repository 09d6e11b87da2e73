//! What lies in the plugins folder: a pure reading of names and kinds of files.
//!
//! Nothing but regular files is ever opened, and nothing is followed: a symlink, a FIFO or a device
//! with the name of a module is skipped, and [`Found::Skipped`] says why.

use std::collections::BTreeMap;
use std::fs::{DirEntry, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::check_name;
use super::file::{ReadError, read_regular};
use super::manifest::Manifest;
use crate::limits;

/// The manifest within a plugin's own folder.
pub const FOLDER_MANIFEST: &str = "plugin.toml";

/// One thing in the plugins folder that concerns plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A module, with its manifest where there is one.
    Source(SourceFiles),
    /// A folder with a manifest and no module yet: somebody is going to build it.
    Unbuilt {
        /// The plugin.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// The module that its manifest names.
        module: Option<PathBuf>,
        /// What is missing, and what to do.
        why: String,
    },
    /// A plugin whose files do not go together.
    Broken {
        /// The plugin.
        name: String,
        /// The module file or folder.
        path: PathBuf,
        /// What is wrong, and what to change.
        why: String,
    },
    /// Something that cannot be a plugin, though it looks as if it was meant to.
    Skipped {
        /// What it is.
        path: PathBuf,
        /// What is wrong with it, and what to change.
        why: String,
    },
}

/// The files of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFiles {
    /// The plugin.
    pub name: String,
    /// What identifies the source: its module file, or its folder.
    pub path: PathBuf,
    /// The module.
    pub module: Stamped,
    /// The manifest.
    pub manifest: Option<Stamped>,
}

/// A regular file as it was seen: it changed if this changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// The file.
    pub path: PathBuf,
    /// Its state.
    pub stamp: Stamp,
}

/// What changes when a file does. The change time is in it because a copy may bring its old
/// modification time along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Size.
    pub size_bytes: u64,
    /// Modification time in nanoseconds since the Unix epoch.
    pub modified_ns: i128,
    changed_ns: i128,
    device: u64,
    inode: u64,
}

impl Stamp {
    /// The stamp of a file with this metadata.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let ns = |secs: i64, ns: i64| i128::from(secs) * 1_000_000_000 + i128::from(ns);
        Self {
            size_bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// A stamp like no other with another `version`.
    #[cfg(test)]
    pub(super) fn of_version(version: u64, modified_ns: i128) -> Self {
        Self { size_bytes: version, modified_ns, changed_ns: 0, device: 0, inode: 0 }
    }

    /// Whether it is the same file, though maybe with other content.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

impl Found {
    /// The file or folder it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Source(source) => &source.path,
            Self::Unbuilt { path, .. } | Self::Broken { path, .. } | Self::Skipped { path, .. } => {
                path
            }
        }
    }

    /// The plugin it is about.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Source(source) => Some(&source.name),
            Self::Unbuilt { name, .. } | Self::Broken { name, .. } => Some(name),
            Self::Skipped { .. } => None,
        }
    }
}

/// The plugins folder at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// What concerns plugins, in the order of paths. Two sources for one name both stand here.
    pub found: Vec<Found>,
    /// The folders that were looked into, without the plugins folder itself.
    pub folders: Vec<PathBuf>,
}

/// Reads the plugins folder.
///
/// # Errors
/// The folder cannot be read; it is not there, for one. What cannot be read within it is told of
/// in [`Scan::found`].
pub fn scan(folder: &Path) -> io::Result<Scan> {
    let mut entries = Entries::default();
    for entry in std::fs::read_dir(folder)? {
        entries.place(&entry?);
    }
    let Entries { modules, manifests, folders, mut found } = entries;
    let mut lone = manifests.clone();
    for (path, name) in modules {
        lone.remove(&name);
        let manifest = manifests.get(&name).map(PathBuf::as_path);
        found.push(read_pair(&name, &path, &path, manifest));
    }
    for (path, name) in &folders {
        found.extend(read_folder(name, path));
    }
    for (name, path) in lone.into_iter().filter(|(name, path)| is_manifest(name, path)) {
        let why = format!("there is no module for this manifest: `{name}.wasm` or `{name}.wat`");
        found.push(Found::Skipped { path, why });
    }
    found.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(Scan { found, folders: folders.into_keys().collect() })
}

/// Whether a file without a module is meant to be a manifest. It may be anything else: `Cargo.toml`
/// or `deny.toml` for two.
fn is_manifest(name: &str, path: &Path) -> bool {
    let read = |stamped: Stamped| {
        read_regular(&stamped.path, &stamped.stamp, limits::MANIFEST_BYTES_MAX as u64).ok()
    };
    let text = || stamped(path).ok().and_then(read).and_then(|bytes| String::from_utf8(bytes).ok());
    check_name(name).is_ok() && text().is_some_and(|text| Manifest::parse(name, &text).is_ok())
}

/// The entries of the plugins folder by what they could be; paths with names.
#[derive(Default)]
struct Entries {
    modules: BTreeMap<PathBuf, String>,
    manifests: BTreeMap<String, PathBuf>,
    folders: BTreeMap<PathBuf, String>,
    found: Vec<Found>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Manifest,
}

fn kind_of(path: &Path) -> Option<Kind> {
    match path.extension()?.to_str()? {
        "wasm" | "wat" => Some(Kind::Module),
        "toml" => Some(Kind::Manifest),
        _ => None,
    }
}

impl Entries {
    fn place(&mut self, entry: &DirEntry) {
        let path = entry.path();
        let file_name = entry.file_name();
        if file_name.as_encoded_bytes().starts_with(b".") {
            return;
        }
        let kind = kind_of(&path);
        let file_type = match entry.file_type() {
            Ok(file_type) => file_type,
            Err(error) => return self.skip(path, format!("it cannot be read: {error}")),
        };
        let concerns = kind.is_some() || (file_type.is_symlink() && path.extension().is_none());
        if let Some(what) = irregular(file_type) {
            if concerns {
                self.skip(path, format!("it is {what}; only files and folders are read"));
            }
            return;
        }
        if file_type.is_dir() {
            if let Some(name) = file_name.to_str() {
                self.folders.insert(path, name.to_owned());
            }
            return;
        }
        let (Some(kind), Some(stem)) = (kind, path.file_stem()) else { return };
        match (kind, stem.to_str()) {
            (Kind::Manifest, Some(name)) => {
                self.manifests.insert(name.to_owned(), path);
            }
            (Kind::Module, Some(name)) => match check_name(name) {
                Ok(()) => {
                    self.modules.insert(path.clone(), name.to_owned());
                }
                Err(invalid) => self.skip(path.clone(), format!("{invalid}; rename the file")),
            },
            (Kind::Module, None) => {
                self.skip(path.clone(), "its name is not UTF-8; rename the file".to_owned());
            }
            (Kind::Manifest, None) => {}
        }
    }

    fn skip(&mut self, path: PathBuf, why: String) {
        self.found.push(Found::Skipped { path, why });
    }
}

/// What a file is that is neither a regular file nor a folder.
fn irregular(file_type: FileType) -> Option<&'static str> {
    if file_type.is_symlink() {
        Some("a symlink")
    } else if file_type.is_fifo() {
        Some("a FIFO")
    } else if file_type.is_socket() {
        Some("a socket")
    } else if file_type.is_char_device() || file_type.is_block_device() {
        Some("a device")
    } else {
        None
    }
}

/// A regular file as it is now, or what else it is.
pub(crate) fn stamped(path: &Path) -> Result<Stamped, String> {
    let shown = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let metadata = std::fs::symlink_metadata(path)
        .map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
    match irregular(metadata.file_type()) {
        Some(what) => Err(format!("`{shown}` is {what}; only regular files are read")),
        None if metadata.is_dir() => Err(format!("`{shown}` is a folder, not a file")),
        None => Ok(Stamped { path: path.to_owned(), stamp: Stamp::of(&metadata) }),
    }
}

fn read_pair(name: &str, path: &Path, module: &Path, manifest: Option<&Path>) -> Found {
    let broken = |why| Found::Broken { name: name.to_owned(), path: path.to_owned(), why };
    let module = match stamped(module) {
        Ok(module) => module,
        Err(why) => return broken(why),
    };
    match manifest.map(stamped).transpose() {
        Ok(manifest) => {
            let (name, path) = (name.to_owned(), path.to_owned());
            Found::Source(SourceFiles { name, path, module, manifest })
        }
        Err(why) => broken(why),
    }
}

/// None: the folder has nothing to do with plugins.
fn read_folder(name: &str, path: &Path) -> Option<Found> {
    let (modules, manifest) = match list_folder(path) {
        Ok(listed) => listed,
        Err(error) => {
            let why = format!("the folder cannot be read: {error}");
            let (name, path) = (name.to_owned(), path.to_owned());
            let is_name = check_name(&name).is_ok();
            // A plugin that runs from there keeps running.
            let broken = |name, path, why| Found::Broken { name, path, why };
            return is_name.then(|| broken(name, path, why));
        }
    };
    if modules.is_empty() && manifest.is_none() {
        return None;
    }
    if let Err(invalid) = check_name(name) {
        let why = format!("{invalid}; rename the folder");
        return Some(Found::Skipped { path: path.to_owned(), why });
    }
    Some(found_in(name, path, &modules, manifest.as_deref()))
}

/// What a host makes of a folder if it is that of the plugin `name`; none: it has nothing to do with
/// plugins, or cannot be read.
#[must_use]
pub fn in_folder(name: &str, path: &Path) -> Option<Found> {
    let (modules, manifest) = list_folder(path).ok()?;
    let concerns = !modules.is_empty() || manifest.is_some();
    concerns.then(|| found_in(name, path, &modules, manifest.as_deref()))
}

fn found_in(name: &str, path: &Path, modules: &[PathBuf], manifest: Option<&Path>) -> Found {
    let broken = |why| Found::Broken { name: name.to_owned(), path: path.to_owned(), why };
    let named = match manifest.map(|manifest| named_module(name, manifest)).transpose() {
        Ok(named) => named.flatten(),
        Err(why) => return broken(why),
    };
    let module = match (&named, modules) {
        (Some(named), _) => match inside(path, named) {
            Ok(Some(module)) => module,
            Ok(None) => return missing(name, path, named, modules),
            Err(why) => return broken(why),
        },
        (None, []) => return unbuilt(name, path, None),
        (None, [module]) => module.clone(),
        (None, several) => {
            return broken(format!(
                "the folder has several modules, {}; name one: `module = \"...\"` in \
                 `{FOLDER_MANIFEST}`",
                shown_in(path, several)
            ));
        }
    };
    read_pair(name, path, &module, manifest)
}

/// A manifest names a module that is not there. Where others are, here or where it would be, the name
/// is wrong; where none is, it is not built yet.
fn missing(name: &str, path: &Path, named: &str, modules: &[PathBuf]) -> Found {
    let mut others = modules.to_vec();
    let beside = path.join(named).parent().filter(|folder| *folder != path).map(list_folder);
    others.extend(beside.into_iter().flatten().flat_map(|(modules, _)| modules));
    if others.is_empty() {
        return unbuilt(name, path, Some(named));
    }
    let why = format!("{}; the folder has {}", not_there(named), shown_in(path, &others));
    Found::Broken { name: name.to_owned(), path: path.to_owned(), why }
}

fn unbuilt(name: &str, path: &Path, named: Option<&str>) -> Found {
    let what = named.map_or_else(|| "there is no module yet".to_owned(), not_there);
    Found::Unbuilt {
        name: name.to_owned(),
        path: path.to_owned(),
        module: named.map(|named| path.join(named)),
        why: format!("{what}: `tidegate build {}` makes it, as `dev` does", path.display()),
    }
}

/// What there is to say of a module that only a manifest knows.
fn not_there(named: &str) -> String {
    format!("`module` is \"{named}\", which is not there")
}

/// Modules as their folder's manifest would name them.
fn shown_in(folder: &Path, modules: &[PathBuf]) -> String {
    let shown = |path: &PathBuf| {
        let path = path.strip_prefix(folder).unwrap_or(path);
        format!("`{}`", path.display())
    };
    modules.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Modules, in the order of their names, and the manifest.
fn list_folder(path: &Path) -> io::Result<(Vec<PathBuf>, Option<PathBuf>)> {
    let (mut modules, mut manifest) = (Vec::new(), None);
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name() == FOLDER_MANIFEST {
            manifest = Some(path);
        } else if kind_of(&path) == Some(Kind::Module)
            && !entry.file_name().as_encoded_bytes().starts_with(b".")
            && !entry.file_type()?.is_dir()
        {
            modules.push(path);
        }
    }
    modules.sort();
    Ok((modules, manifest))
}

/// The module that a folder's manifest names. A manifest that is not right is told of here, because
/// without it nobody knows which module is meant.
fn named_module(name: &str, manifest: &Path) -> Result<Option<String>, String> {
    let Stamped { path, stamp } = stamped(manifest)?;
    let bytes = match read_regular(&path, &stamp, limits::MANIFEST_BYTES_MAX as u64) {
        Ok(bytes) => bytes,
        // It is being written: whatever it says now is not what it is going to say.
        Err(ReadError::Changed) => return Ok(None),
        Err(error) => return Err(format!("manifest `{name}/{FOLDER_MANIFEST}` {error}")),
    };
    let text = String::from_utf8_lossy(&bytes);
    let manifest = Manifest::parse(&format!("{name}/{FOLDER_MANIFEST}"), &text);
    manifest.map(|manifest| manifest.module).map_err(|invalid| invalid.to_string())
}

/// The path of a module named by a manifest; none where it is not there (yet).
fn inside(folder: &Path, module: &str) -> Result<Option<PathBuf>, String> {
    let mut path = folder.to_owned();
    for part in module.split('/') {
        path.push(part);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                return Err(format!(
                    "`module` is \"{module}\", and `{part}` in it is a symlink; only files within \
                     the plugin's folder are read"
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("`module` \"{module}\" cannot be read: {error}")),
        }
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests;
