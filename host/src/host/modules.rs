//! Modules that have served, by digest: what a rollback goes back to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::event::Digest;
use crate::log::disk::{Disk, publish_file};

/// The folder `DATA/modules`.
pub struct ModuleStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// One at a time: two plugins may come with the same module at once.
    keeping: Mutex<()>,
}

impl ModuleStore {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        disk.create_dir_all(dir)?;
        Ok(Self { disk, dir: dir.to_owned(), keeping: Mutex::default() })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Keeps a module: durable once this returns. Blocks.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, digest: Digest, wasm: &[u8]) -> io::Result<()> {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(digest);
        match self.load(digest) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a kept module is written anew"),
        }
        publish_file(&*self.disk, &path, wasm)
    }

    /// A module that was kept. Blocks.
    ///
    /// # Errors
    /// It was not, cannot be read, or is damaged.
    pub fn load(&self, digest: Digest) -> io::Result<Bytes> {
        let wasm = std::fs::read(self.path(digest))?;
        if Digest::of(&wasm) != digest {
            let path = self.path(digest);
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}` is damaged: its digest is another", path.display()),
            ));
        }
        Ok(wasm.into())
    }
}
