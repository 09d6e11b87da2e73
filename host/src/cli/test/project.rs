//! Which modules there are to test, and whether they have to be built first.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::super::build::BuildBar;
use super::super::check::Files;
use crate::build::{BuildError, Found, Language, Outcome, build_one, find, module_name};
use crate::plugin::folder::FOLDER_MANIFEST;

/// Files of one plugin that are looked at.
const FILES_MAX: usize = 10_000;

/// A plugin with its sources, or a module alone.
#[derive(Debug, Clone)]
pub(super) struct Project {
    /// The folder with manifest, sources and tests; of a module alone, the one it stands in.
    pub(super) folder: PathBuf,
    pub(super) name: String,
    pub(super) files: Files,
    /// What it is built from.
    sources: Option<Found>,
}

/// Whether there is a module now.
pub(super) enum Ready {
    /// It stands there, as new as its sources.
    Built,
    /// It is left out of a folder of many: why, in one line.
    Skipped(String),
}

impl Project {
    /// A module that somebody names.
    pub(super) fn of_module(module: &Path) -> Self {
        let folder = module.parent().unwrap_or(module).to_owned();
        let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self { folder, name, files: Files::of_module(module), sources: None }
    }

    /// The plugins at `folder`: itself, or those in it.
    ///
    /// # Errors
    /// There is none, or the folder cannot be read.
    pub(super) fn in_folder(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let found = find(folder)?;
        if found.is_empty() {
            return Ok(vec![Self::of_built(folder)?]);
        }
        Ok(found
            .into_iter()
            .map(|found| Self {
                folder: found.dir.clone(),
                name: found.name.clone(),
                files: files_in(&found.dir, &found.name),
                sources: Some(found),
            })
            .collect())
    }

    /// A folder with a manifest and a module, and no sources.
    fn of_built(folder: &Path) -> anyhow::Result<Self> {
        let absolute = folder.canonicalize().with_context(|| folder.display().to_string())?;
        let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = files_in(&absolute, &name);
        if !files.module.is_file() {
            bail!(BuildError::NoSources { dir: folder.to_owned() });
        }
        Ok(Self { folder: absolute, name, files, sources: None })
    }

    /// Builds the module where its sources are newer.
    ///
    /// # Errors
    /// It does not build.
    pub(super) fn build(&self) -> anyhow::Result<Ready> {
        let Some(found) = self.sources.as_ref().filter(|_| self.is_stale()) else {
            return Ok(Ready::Built);
        };
        let bar = BuildBar::new();
        let report = build_one(found.clone(), &mut |progress| bar.show(&progress));
        bar.finish();
        match report.outcome {
            Outcome::Built(_) => Ok(Ready::Built),
            Outcome::Skipped(why) => Ok(Ready::Skipped(why)),
            Outcome::Failed(error) => Err(error.into()),
        }
    }

    fn is_stale(&self) -> bool {
        // Cargo knows, also of what lies outside the folder.
        if self.sources.as_ref().is_some_and(|found| found.language == Language::Rust) {
            return true;
        }
        let built = std::fs::metadata(&self.files.module).and_then(|meta| meta.modified());
        let Ok(built) = built else { return true };
        let newer = |path: &PathBuf| {
            std::fs::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|at| at > built)
        };
        self.source_files().iter().any(newer)
    }

    /// The files a build reads. Empty for a module alone.
    pub(super) fn source_files(&self) -> Vec<PathBuf> {
        if self.sources.is_none() {
            return Vec::new();
        }
        crate::build::watch::sources(&self.folder, FILES_MAX)
    }

    /// Its tests, by name.
    pub(super) fn cases(&self) -> Vec<PathBuf> {
        self.files_in("tests", "toml")
    }

    /// Events that tests may name.
    pub(super) fn samples(&self) -> Vec<PathBuf> {
        self.files_in("events", "json")
    }

    fn files_in(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let Ok(listing) = std::fs::read_dir(self.folder.join(folder)) else { return Vec::new() };
        let paths = listing.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files: Vec<PathBuf> =
            paths.filter(|path| path.extension() == Some(ending.as_ref())).collect();
        files.sort();
        files
    }
}

/// The files of a plugin with a folder of its own; the module is yet to be built, maybe.
fn files_in(folder: &Path, name: &str) -> Files {
    let module = folder.join(module_name(folder, name));
    let manifest = Some(folder.join(FOLDER_MANIFEST)).filter(|path| path.is_file());
    Files { manifest, ..Files::of_module(&module) }
}
