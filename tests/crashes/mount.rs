//! File systems for tests: mounted on a folder, gone when dropped. Needs root.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a program of the system, which must succeed.
fn system(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {} {said}", output.status);
}

/// A mounted file system.
pub(crate) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Mounts ext4 from a file, which is made if it is not there.
    pub(crate) fn ext4(image: &Path, bytes: u64, at: &Path) -> Self {
        if !image.exists() {
            File::create(image).unwrap().set_len(bytes).unwrap();
            system("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()]);
        }
        std::fs::create_dir_all(at).unwrap();
        system("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), at.as_ref()]);
        Self { at: at.to_owned() }
    }

    /// Mounts memory of a size.
    pub(crate) fn memory(mib: u64, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m");
        let words: [&OsStr; 6] = [
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "-o".as_ref(),
            size.as_ref(),
            "tidegate".as_ref(),
            at.as_ref(),
        ];
        system("mount", &words);
        Self { at: at.to_owned() }
    }

    /// Gives one that is memory another size.
    pub(crate) fn resize(&self, mib: u64) {
        let options = format!("remount,size={mib}m");
        system("mount", &["-o".as_ref(), options.as_ref(), self.at.as_ref()]);
    }

    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Lets a file that nobody needs grow until only so many bytes are free.
    pub(crate) fn fill(&self, free_bytes: u64) {
        let path = self.at.join("ballast");
        let mut ballast = File::options().append(true).create(true).open(path).unwrap();
        let block = vec![1; 64 << 10];
        while self.free_bytes() > free_bytes {
            let more = usize::try_from(self.free_bytes() - free_bytes).unwrap().min(block.len());
            if ballast.write_all(&block[..more]).is_err() {
                break;
            }
        }
    }

    /// Takes that file away.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.at.join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}
