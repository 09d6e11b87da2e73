//! Builds C plugins with the clang that comes with zig: every `*.c` of the folder, one module.

use std::path::{Path, PathBuf};

use super::tool::Tool;
use super::{BuildError, Found, Progress, target};

const INSTALL: &str = "python3 -m pip install ziglang";

/// A reactor: the host calls its exports, nothing runs at start but constructors.
const FLAGS: [&str; 9] = [
    "-target",
    "wasm32-wasi",
    "-mexec-model=reactor",
    "-std=c11",
    "-Os",
    "-Wall",
    "-Wextra",
    // Names stay in, for the backtrace of a trap; and a stack of zig's 16 MiB would be a guest's
    // whole memory.
    "-Wl,--strip-debug",
    "-Wl,-z,stack-size=262144",
];

/// Builds the sources in the folder and returns the module.
pub(super) fn build(
    plugin: &Found,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let sources = sources(&plugin.dir)?;
    let module = target::scratch(target, plugin, "c")?.join("module.wasm");
    let mut command = compiler(&plugin.dir)?;
    command.args(FLAGS).arg("-o").arg(&module).args(sources);
    command.run(plugin, progress)?;
    Ok(module)
}

/// `zig cc`, as a program or as the Python package.
fn compiler(dir: &Path) -> Result<Tool, BuildError> {
    let known: [&[&str]; 3] =
        [&["zig"], &["python3", "-m", "ziglang"], &["python", "-m", "ziglang"]];
    for words in known {
        let tool = |rest: &str| {
            let (program, before) = words.split_first()?;
            let mut tool = Tool::new(program, dir, "zig cc", INSTALL);
            tool.args(before).arg(rest);
            Some(tool)
        };
        if tool("version").is_some_and(Tool::runs)
            && let Some(compiler) = tool("cc")
        {
            return Ok(compiler);
        }
    }
    Err(BuildError::ToolMissing { tool: "zig".to_owned(), install: INSTALL.to_owned() })
}

/// The C files beside the manifest and in `src`, by name.
fn sources(dir: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut sources = Vec::new();
    for folder in [dir.to_owned(), dir.join("src")] {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder).map_err(BuildError::io(&folder))? {
            let path = entry.map_err(BuildError::io(&folder))?.path();
            if path.extension() == Some("c".as_ref()) {
                sources.push(path);
            }
        }
    }
    sources.sort();
    Ok(sources)
}
