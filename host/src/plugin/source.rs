//! A plugin's files, read as a whole: the module, its digest and its manifest.

use bytes::Bytes;
use std::path::{Path, PathBuf};

use super::file::{ReadError, read_regular};
use super::folder::{FOLDER_MANIFEST, SourceFiles, Stamped};
use super::manifest::Manifest;
use crate::config::Invalid;
use crate::event::{Digest, is_attribute_name};
use crate::limits;

/// One version of a plugin, as its author left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The plugin.
    pub name: String,
    /// What identifies the source: its module file, or its folder.
    pub path: PathBuf,
    /// The module's bytes.
    pub wasm: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// The manifest, before the operator's word on it.
    pub manifest: Manifest,
    /// Its text as written; empty where there is none.
    pub manifest_text: String,
}

/// Why a plugin's files are no version of it.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// They changed while they were read; try again.
    #[error("its files changed while they were read")]
    Changed,
    /// A file cannot be read.
    #[error("{} `{file}` {error}", .what)]
    Unreadable {
        /// `module` or `manifest`.
        what: &'static str,
        /// Its name for people.
        file: String,
        /// What is wrong.
        #[source]
        error: ReadError,
    },
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] Invalid),
    /// The manifest beside a module names another one.
    #[error("manifest `{manifest}`: `module` is \"{named}\", but it belongs to `{module}`")]
    OtherModule {
        /// The manifest.
        manifest: String,
        /// The module it names.
        named: String,
        /// The module it stands beside.
        module: String,
    },
    /// The subscription asks for what no event can have.
    #[error(
        "manifest `{manifest}`: `subscribe.where` asks for `{name}`, and no event can have such an \
         attribute; names have 1 to {} of a-z and 0-9",
        limits::ATTRIBUTE_NAME_BYTES_MAX
    )]
    NoAttribute {
        /// The manifest.
        manifest: String,
        /// What it asks for.
        name: String,
    },
}

impl Source {
    /// Reads the files as they were seen.
    ///
    /// # Errors
    /// [`SourceError`]; with [`SourceError::Changed`] they have to be looked at again.
    pub fn read(files: &SourceFiles, module_bytes_max: u64) -> Result<Self, SourceError> {
        let wasm = read_regular(&files.module.path, &files.module.stamp, module_bytes_max)
            .map_err(|error| unreadable("module", file_name(&files.module.path), error))?;
        let (manifest, manifest_text) = match &files.manifest {
            None => (Manifest::default(), String::new()),
            Some(stamped) => {
                let label = manifest_label(files, &stamped.path);
                let (manifest, text) = read_manifest(&label, stamped)?;
                refuse_other_module(files, &manifest, label)?;
                (manifest, text)
            }
        };
        Ok(Self {
            name: files.name.clone(),
            path: files.path.clone(),
            digest: Digest::of(&wasm),
            wasm: wasm.into(),
            manifest,
            manifest_text,
        })
    }
}

/// Reads a manifest as it was seen, with its text; `label` is its name for people.
///
/// Stricter than [`Manifest::parse`], which has to read what stands in a log.
///
/// # Errors
/// [`SourceError`]; with [`SourceError::Changed`] it has to be looked at again.
pub fn read_manifest(label: &str, file: &Stamped) -> Result<(Manifest, String), SourceError> {
    let bytes_max = limits::MANIFEST_BYTES_MAX as u64;
    let bytes = read_regular(&file.path, &file.stamp, bytes_max)
        .map_err(|error| unreadable("manifest", label.to_owned(), error))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8");
        unreadable("manifest", label.to_owned(), ReadError::Io(error))
    })?;
    let manifest = Manifest::parse(label, &text)?;
    match manifest.subscribe.attributes.keys().find(|name| !is_attribute_name(name)) {
        Some(name) => {
            let (manifest, name) = (label.to_owned(), name.clone());
            Err(SourceError::NoAttribute { manifest, name })
        }
        None => Ok((manifest, text)),
    }
}

fn unreadable(what: &'static str, file: String, error: ReadError) -> SourceError {
    match error {
        ReadError::Changed => SourceError::Changed,
        error => SourceError::Unreadable { what, file, error },
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn manifest_label(files: &SourceFiles, manifest: &Path) -> String {
    if is_in_folder(files) {
        format!("{}/{FOLDER_MANIFEST}", files.name)
    } else {
        file_name(manifest)
    }
}

fn is_in_folder(files: &SourceFiles) -> bool {
    files.path != files.module.path
}

/// A folder's module was found by its manifest; beside a module file, the key can only confirm.
fn refuse_other_module(
    files: &SourceFiles,
    manifest: &Manifest,
    label: String,
) -> Result<(), SourceError> {
    let module = file_name(&files.module.path);
    match &manifest.module {
        Some(named) if !is_in_folder(files) && *named != module => {
            Err(SourceError::OtherModule { manifest: label, named: named.clone(), module })
        }
        _ => Ok(()),
    }
}
