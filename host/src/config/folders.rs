//! Whether the folders of data and of plugins can be what they are named to be.
//!
//! What the host keeps for itself must never lie where it looks for plugins: a module that it kept
//! would be a plugin at the next look.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError};

/// What the host has in its data folder.
const OWN: [&str; 3] = ["buses", "cache", "modules"];

/// Refuses folders that are files, and those of which one is the host's own and the other is not.
///
/// # Errors
/// [`ConfigError::NoFolderThere`], [`ConfigError::Entangled`].
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    for (key, path) in [("data", &config.data), ("plugins", &config.plugins)] {
        if path.metadata().is_ok_and(|there| !there.is_dir()) {
            return Err(ConfigError::NoFolderThere { key, path: path.clone() });
        }
    }
    let (data, plugins) = (real(&config.data), real(&config.plugins));
    let is_own = |folder: &Path| OWN.iter().any(|own| folder.starts_with(data.join(own)));
    if data == plugins || is_own(&plugins) {
        let (data, plugins) = (config.data.clone(), config.plugins.clone());
        return Err(ConfigError::Entangled { data, plugins });
    }
    Ok(())
}

/// A path without symlinks, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let there = |at: &Path| Some(at.canonicalize().ok()?.join(path.strip_prefix(at).ok()?));
    path.ancestors().find_map(there).unwrap_or_else(|| path.to_owned())
}
