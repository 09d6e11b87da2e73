//! Plugins as files: what a manifest says, what lies in the plugins folder, what a change of it
//! means. Running them is the business of others.

pub mod file;
pub mod folder;
pub mod grants;
pub mod identity;
pub mod manifest;
pub mod pattern;
pub mod source;
pub mod subscription;
mod tracker;
pub mod watch;

pub use grants::{GrantName, Grants, HostPattern};
pub use manifest::{Instance, Limits, Manifest, OnFailure, OnReject, PrefixLimit, Retry, Run};
pub use pattern::{SourcePattern, TypePattern};
pub use source::Source;
pub use subscription::{DEFAULT_BUS, Start, Subscription};
pub use watch::{Change, WatchOptions, Watcher};

/// Bytes of a plugin's or bus's name.
pub const NAME_BYTES_MAX: usize = 63;

/// The text is not the name of a plugin or a bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is not a name: 1 to {NAME_BYTES_MAX} of a-z, 0-9 and `-`, not starting with `-`"
)]
pub struct InvalidName {
    /// What was found.
    pub found: String,
}

/// Checks the name of a plugin or a bus: `[a-z0-9][a-z0-9-]{0,62}`.
///
/// # Errors
/// [`InvalidName`] with the name.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let length = (1..=NAME_BYTES_MAX).contains(&name.len());
    if letters && length && !name.starts_with('-') {
        Ok(())
    } else {
        Err(InvalidName { found: name.to_owned() })
    }
}
