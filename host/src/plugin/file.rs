//! Reading a file that others may be writing.
//!
//! What comes out is the whole of one version of a regular file, or an error: never a mix of two,
//! never more than the limit, never a wait for a FIFO.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::folder::Stamp;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It changed before or while it was read; try again.
    #[error("changed while it was read")]
    Changed,
    /// It is not a regular file.
    #[error("is not a regular file")]
    Irregular,
    /// It is larger than allowed.
    #[error("has {actual} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Bytes found.
        actual: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The system says no.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads the version of a file that has this stamp.
///
/// # Errors
/// [`ReadError`]; with [`ReadError::Changed`] it may be a matter of time.
pub fn read_regular(path: &Path, stamp: &Stamp, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    // Without NONBLOCK opening a FIFO would wait for a writer, for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(ReadError::Irregular),
        Err(rustix::io::Errno::NOENT) => return Err(ReadError::Changed),
        Err(error) => return Err(ReadError::Io(error.into())),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Irregular);
    }
    if Stamp::of(&metadata) != *stamp {
        return Err(ReadError::Changed);
    }
    if metadata.len() > bytes_max {
        return Err(ReadError::TooLarge { actual: metadata.len(), limit: bytes_max });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    Read::by_ref(&mut file).take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    let unchanged = Stamp::of(&file.metadata()?) == *stamp;
    if unchanged && bytes.len() as u64 == stamp.size_bytes {
        Ok(bytes)
    } else {
        Err(ReadError::Changed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn stamp(path: &Path) -> Stamp {
        Stamp::of(&std::fs::metadata(path).unwrap())
    }

    #[test]
    fn only_the_version_that_was_seen_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        std::fs::write(&path, "first").unwrap();
        let first = stamp(&path);
        assert_eq!(read_regular(&path, &first, 5).unwrap(), b"first");
        std::fs::write(&path, "second").unwrap();
        assert!(matches!(read_regular(&path, &first, 10), Err(ReadError::Changed)));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_regular(&path, &first, 10), Err(ReadError::Changed)));
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        std::fs::write(&path, "12345").unwrap();
        let error = read_regular(&path, &stamp(&path), 4).unwrap_err();
        assert_eq!(error.to_string(), "has 5 bytes; at most 4 are allowed");
    }

    #[test]
    fn a_fifo_a_link_and_a_folder_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("real"), "x").unwrap();
        let real = stamp(&path("real"));
        symlink(path("real"), path("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::RWXU).unwrap();
        for irregular in [path("link"), path("fifo"), folder.path().to_owned()] {
            let error = read_regular(&irregular, &real, 10).unwrap_err();
            assert!(matches!(error, ReadError::Irregular), "{}: {error}", irregular.display());
        }
    }
}
