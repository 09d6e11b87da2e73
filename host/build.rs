//! Lists the sources that `tidegate new` writes into projects, so that the binary carries them: the
//! SDK, the WIT it is generated from, and the lock file that says which versions were tested.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let host = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let root = host.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut files = Vec::new();
    for (from, to) in [
        ("guest-sdk/Cargo.toml", "sdk/Cargo.toml"),
        ("guest-sdk/src", "sdk/src"),
        ("wit/plugin.wit", "wit/plugin.wit"),
    ] {
        list(&root.join(from), to, &mut files)?;
    }
    let mut code = "&[\n".to_owned();
    for (from, to) in &files {
        let _ = writeln!(code, "    ({to:?}, include_str!({from:?})),");
    }
    code.push_str("]\n");
    fs::write(out.join("embedded_sdk.rs"), code)?;
    let lock = root.join("Cargo.lock");
    println!("cargo::rustc-env=TIDEGATE_LOCK_FILE={}", lock.display());
    println!("cargo::rerun-if-changed={}", lock.display());
    Ok(())
}

/// Adds every file at or below `from`, and has cargo watch it.
fn list(from: &Path, to: &str, files: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", from.display());
    if from.is_file() {
        files.push((from.to_owned(), to.to_owned()));
        return Ok(());
    }
    let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        list(&entry.path(), &format!("{to}/{}", entry.file_name().to_string_lossy()), files)?;
    }
    Ok(())
}
