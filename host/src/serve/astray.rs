//! What the configuration names and the folders do not have, and the other way around: most often a
//! name that is spelt otherwise, or a file that is not the one that was meant.
//!
//! Rule: nothing of it keeps a host from starting, but for what would go on beside a log as if that
//! were not there.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::ServeError;
use super::start::at;
use crate::api::view::PluginsView;
use crate::config::{Bus, Config};

/// Where buses lie.
fn buses_dir(config: &Config) -> PathBuf {
    config.data.join("buses")
}

/// Refuses a memory bus where a durable one has its log, and warns of logs that no bus is for.
///
/// # Errors
/// [`ServeError::MemoryOverLog`], or the folder cannot be read.
pub(super) fn check_logs(config: &Config) -> Result<(), ServeError> {
    let dir = buses_dir(config);
    for name in logs(&dir).map_err(at(&dir))? {
        match config.buses.get(&name) {
            Some(Bus::Durable(_)) => {}
            Some(Bus::Memory(_)) => {
                let dir = dir.join(&name);
                return Err(ServeError::MemoryOverLog { bus: name, dir });
            }
            None => {
                let dir = dir.join(&name);
                tracing::warn!(
                    bus = name, dir = %dir.display(),
                    "there is a log of a bus that is not configured: it is left alone, and nothing of it \
                     is served"
                );
            }
        }
    }
    Ok(())
}

/// Buses that have a log, by name.
fn logs(dir: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        let has_log = entry.path().join("log").read_dir().is_ok_and(|mut log| log.next().is_some());
        names.extend(entry.file_name().into_string().ok().filter(|_| has_log));
    }
    Ok(names)
}

/// Sections of plugins for which nothing stands in the folder, by name.
pub(super) fn unused_words<'c>(
    config: &'c Config,
    view: &'c PluginsView,
) -> impl Iterator<Item = &'c str> {
    let has_file = |name: &str| {
        view.plugins.iter().any(|plugin| plugin.name == name && plugin.file.is_some())
            || view.skipped.iter().any(|skipped| skipped.path.contains(name))
    };
    config.words.keys().map(String::as_str).filter(move |name| !has_file(name))
}
