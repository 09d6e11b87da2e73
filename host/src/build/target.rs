//! Where compilers keep what they have compiled: one folder for all guests, so that the SDK and its
//! dependencies are compiled once.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{BuildError, Found, find};

/// Names the folder for compiled guests, above all other rules.
pub const TARGET_VARIABLE: &str = "TIDEGATE_GUEST_TARGET";

/// The folder for what is compiled for the plugin in `dir`: as [`TARGET_VARIABLE`] says, else
/// `guests` in cargo's target folder where that is set, else `target/guests` of the workspace around
/// the plugin, else the user's cache.
pub(super) fn folder(dir: &Path) -> Result<PathBuf, BuildError> {
    let said = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = if let Some(folder) = said(TARGET_VARIABLE) {
        PathBuf::from(folder)
    } else if let Some(target) = said("CARGO_TARGET_DIR") {
        PathBuf::from(target).join("guests")
    } else if let Some(root) = workspace_around(dir) {
        root.join("target/guests")
    } else {
        cache().unwrap_or_else(|| dir.join("target")).join("tidegate/guests")
    };
    std::path::absolute(&folder).map_err(BuildError::io(&folder))
}

/// The nearest folder above `dir` that is a workspace. Not `dir` itself: a project of its own shares
/// the folder with the projects beside it.
fn workspace_around(dir: &Path) -> Option<&Path> {
    dir.ancestors().skip(1).find(|above| {
        find::read_toml(&above.join("Cargo.toml")).is_some_and(|t| t.contains_key("workspace"))
    })
}

fn cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || folder("HOME");
    if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))
    }
}

/// A folder for what one plugin's tools leave behind, of its own whatever others are called; made
/// where missing.
pub(super) fn scratch(
    target: &Path,
    plugin: &Found,
    language: &str,
) -> Result<PathBuf, BuildError> {
    let digest = crate::event::Digest::of(plugin.dir.as_os_str().as_encoded_bytes()).to_string();
    let own = digest.get(..12).unwrap_or_default();
    let folder = target.join(language).join(format!("{}-{own}", plugin.name));
    std::fs::create_dir_all(&folder).map_err(BuildError::io(&folder))?;
    Ok(folder)
}

/// Waits until no other process builds the plugin, and holds off others until it is dropped: `dev` and
/// somebody who types `build` often build the same at once, in the same scratch folder.
///
/// A file system without locks holds off nobody.
pub(super) fn turn(target: &Path, plugin: &Found) -> Result<File, BuildError> {
    let file = scratch(target, plugin, "locks")?.join("lock");
    let lock = File::create(&file).map_err(BuildError::io(&file))?;
    let _ = lock.lock();
    Ok(lock)
}

/// Sees to it that cargo does not take another package's output for this one's.
///
/// Cargo gives modules no hash in their names, and calls an output fresh by its time alone: of two
/// packages with one name, say a plugin and its copy, the first would get the module of the second.
/// So the output of another package is removed before, which makes cargo build it anew.
pub(super) fn claim(
    target: &Path,
    triple: &str,
    file: &str,
    manifest: &Path,
) -> Result<(), BuildError> {
    let owner = target.join("owners").join(triple).join(file);
    let manifest = manifest.to_string_lossy();
    if std::fs::read(&owner).is_ok_and(|there| there == manifest.as_bytes()) {
        return Ok(());
    }
    let release = target.join(triple).join("release");
    for output in [release.join(file), release.join("deps").join(file.replace('-', "_"))] {
        match std::fs::remove_file(&output) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BuildError::Io { path: output, source: error });
            }
            _ => {}
        }
    }
    let folder = owner.parent().unwrap_or(target);
    std::fs::create_dir_all(folder).map_err(BuildError::io(folder))?;
    std::fs::write(&owner, manifest.as_bytes()).map_err(BuildError::io(&owner))
}
