//! The world of one plugin: toolchains want to know beforehand which exports to make.

use std::path::{Path, PathBuf};

use super::BuildError;

/// What a plugin may export.
pub(super) const EXPORTS: [&str; 4] = ["handler", "command", "query", "upcaster"];

const PLUGIN_WIT: &str = include_str!("../../../wit/plugin.wit");
const NAME: &str = "made";

/// A world that stands in a file.
#[derive(Debug)]
pub(super) struct World {
    /// The file.
    pub(super) wit: PathBuf,
    /// Its name there.
    pub(super) name: &'static str,
}

/// Writes the contract with a world of exactly these exports into a folder.
///
/// # Errors
/// [`BuildError::NoExports`], naming `script`, where there is none.
pub(super) fn write(folder: &Path, exports: &[&str], script: &Path) -> Result<World, BuildError> {
    if exports.is_empty() {
        return Err(BuildError::NoExports { script: script.to_owned() });
    }
    let exports: String = exports.iter().map(|name| format!(" export {name};")).collect();
    let text = format!("{PLUGIN_WIT}\nworld {NAME} {{ include plugin-imports;{exports} }}\n");
    let wit = folder.join("plugin.wit");
    std::fs::write(&wit, text).map_err(BuildError::io(&wit))?;
    Ok(World { wit, name: NAME })
}
