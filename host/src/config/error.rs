//! Why there is no configuration: every sentence says what to change.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Invalid;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration `{}` cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// The file, the environment or the flags are wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The listener could be reached by others, with nothing to keep them out.
    #[error(
        "`http.listen` is {listen}, which other machines can reach, without {missing}; set them, \
         listen on 127.0.0.1, or type `--insecure`"
    )]
    Exposed {
        /// The listener.
        listen: SocketAddr,
        /// What is not set.
        missing: &'static str,
    },
    /// A folder is to be where something else is.
    #[error("`{key}` is `{}`, which is not a folder: name another", path.display())]
    NoFolderThere {
        /// `data` or `plugins`.
        key: &'static str,
        /// What it names.
        path: PathBuf,
    },
    /// What the host keeps would be taken for plugins.
    #[error(
        "`data` is `{}` and `plugins` is `{}`: plugins cannot lie among what the host keeps for itself; \
         name another folder for one of them",
        data.display(),
        plugins.display()
    )]
    Entangled {
        /// The data folder.
        data: PathBuf,
        /// The plugins folder.
        plugins: PathBuf,
    },
    /// The working folder is gone.
    #[error("the working folder cannot be found: {0}")]
    NoFolder(#[source] std::io::Error),
}
