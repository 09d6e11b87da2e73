//! Whether what a tool made last is still what it would make.
//!
//! Interpreters are put into a component by running them, which takes seconds and gives other bytes
//! each time: a host that builds at its start would take every start for a new version. So a module
//! is made again only where something that goes into it has changed.

use std::path::{Path, PathBuf};

use super::tool::Tool;
use super::{BuildError, Found, Progress};
use crate::event::Digest;

/// The file beside a module that says what it was made of.
const NOTE: &str = "made-of";
/// Larger files count by their size and time, like those of installed packages.
const READ_BYTES_MAX: u64 = 1024 * 1024;
/// A folder with more is never taken for unchanged.
const FILES_MAX: usize = 50_000;

/// Runs a tool that makes `module` of the folder `dir` and of the files that were `written` for it,
/// unless the module is there as that would make it.
pub(super) fn make(
    module: &Path,
    tool: Tool,
    (dir, written): (&Path, &[&Path]),
    plugin: &Found,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), BuildError> {
    let inputs = Inputs::of(&tool, dir, written);
    if !inputs.made(module) {
        tool.run(plugin, progress)?;
        inputs.keep(module);
    }
    Ok(())
}

/// Everything that goes into a module, as one digest; none: too much to tell.
struct Inputs(Option<Digest>);

impl Inputs {
    /// Of a tool, its arguments, the plugin's folder and the files that were written for the tool.
    fn of(tool: &std::process::Command, dir: &Path, written: &[&Path]) -> Self {
        let mut seen = Seen { hasher: blake3::Hasher::new(), files: 0 };
        seen.text(env!("CARGO_PKG_VERSION"));
        seen.tool(Path::new(tool.get_program()));
        tool.get_args().for_each(|arg| seen.text(&arg.to_string_lossy()));
        let whole = seen.folder(dir, Trust::Contents).and_then(|()| {
            written.iter().try_for_each(|path| seen.file(path, &path.metadata()?, Trust::Contents))
        });
        Self(whole.ok().map(|()| Digest(*seen.hasher.finalize().as_bytes())))
    }

    /// Whether `module` is there as it was made of just these.
    fn made(&self, module: &Path) -> bool {
        let note = std::fs::read_to_string(note(module)).ok();
        note.is_some() && note == self.note_on(module)
    }

    /// Notes that `module` was made of these. Without a note it is made again, so that nothing is
    /// lost where the disk is full.
    fn keep(&self, module: &Path) {
        let written = self.note_on(module).map(|text| std::fs::write(note(module), text));
        if !matches!(written, Some(Ok(()))) {
            let _ = std::fs::remove_file(note(module));
        }
    }

    fn note_on(&self, module: &Path) -> Option<String> {
        let bytes = std::fs::read(module).ok()?;
        self.0.map(|inputs| format!("{inputs} {}\n", Digest::of(&bytes)))
    }
}

fn note(module: &Path) -> PathBuf {
    module.with_file_name(NOTE)
}

/// How a file is told from an earlier one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Contents,
    SizeAndTime,
}

struct Seen {
    hasher: blake3::Hasher,
    files: usize,
}

impl Seen {
    fn text(&mut self, text: &str) {
        // With its length, so that texts do not run into each other.
        self.hasher.update(&text.len().to_le_bytes());
        self.hasher.update(text.as_bytes());
    }

    /// The program, and the package around it: npm gives all files of all versions the same time.
    fn tool(&mut self, program: &Path) {
        let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        self.text(&program.to_string_lossy());
        if let Ok(known) = program.metadata() {
            let _ = self.file(&program, &known, Trust::SizeAndTime);
        }
        let package = program.ancestors().map(|above| above.join("package.json"));
        if let Some(text) = package.filter_map(|file| std::fs::read_to_string(file).ok()).next() {
            self.text(&text);
        }
    }

    fn folder(&mut self, dir: &Path, trust: Trust) -> std::io::Result<()> {
        let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            let is_output = path.extension() == Some("wasm".as_ref()) || name == "target";
            if name.starts_with('.') || name == "__pycache__" || is_output {
                continue;
            }
            self.text(&name);
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                self.text(&std::fs::read_link(&path)?.to_string_lossy());
            } else if kind.is_dir() {
                let trust = if name == "node_modules" { Trust::SizeAndTime } else { trust };
                self.folder(&path, trust)?;
                self.text("");
            } else {
                self.file(&path, &entry.metadata()?, trust)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        known: &std::fs::Metadata,
        trust: Trust,
    ) -> std::io::Result<()> {
        self.files += 1;
        if self.files > FILES_MAX {
            return Err(std::io::Error::other("too many files"));
        }
        if trust == Trust::Contents && known.len() <= READ_BYTES_MAX {
            let bytes = std::fs::read(path)?;
            self.hasher.update(&bytes.len().to_le_bytes());
            self.hasher.update(&bytes);
            return Ok(());
        }
        let changed = known.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.hasher.update(&known.len().to_le_bytes());
        self.hasher.update(&changed.as_nanos().to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::Inputs;

    #[test]
    fn a_module_is_made_again_where_something_in_it_changed() {
        let root = tempfile::tempdir().unwrap();
        let (dir, scratch) = (root.path().join("plugin"), root.path().join("scratch"));
        std::fs::create_dir_all(dir.join("node_modules/a")).unwrap();
        std::fs::create_dir(&scratch).unwrap();
        let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
        write("plugin/index.js", "one");
        write("plugin/node_modules/a/a.js", "a");
        write("scratch/plugin.wit", "world");
        write("scratch/module.wasm", "module");
        let (module, wit) = (scratch.join("module.wasm"), scratch.join("plugin.wit"));
        let mut tool = Command::new("/bin/sh");
        tool.arg("--sync");
        let inputs = |tool: &Command| Inputs::of(tool, &dir, &[&wit]);
        assert!(!inputs(&tool).made(&module), "nothing is noted yet");
        inputs(&tool).keep(&module);
        assert!(inputs(&tool).made(&module));

        for changed in ["plugin/index.js", "plugin/node_modules/a/a.js", "scratch/plugin.wit"] {
            write(changed, "other text");
            assert!(!inputs(&tool).made(&module), "{changed}");
            inputs(&tool).keep(&module);
        }
        for output in ["plugin/plugin.wasm", "plugin/.hidden"] {
            write(output, "made");
            assert!(inputs(&tool).made(&module), "{output}");
        }
        write("plugin/more.js", "");
        assert!(!inputs(&tool).made(&module), "a new file");
        inputs(&tool).keep(&module);
        tool.arg("--other");
        assert!(!inputs(&tool).made(&module), "another argument");
        inputs(&tool).keep(&module);
        write("scratch/module.wasm", "somebody else's");
        assert!(!inputs(&tool).made(&module), "not the module that was made");
        std::fs::remove_file(&module).unwrap();
        assert!(!inputs(&tool).made(&module));
    }
}
