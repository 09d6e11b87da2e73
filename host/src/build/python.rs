//! Builds Python plugins: `CPython` and the modules of the folder become one component.

use std::path::{Path, PathBuf};

use super::tool::{Tool, find_tool};
use super::{BuildError, Found, Progress, find, fresh, target, world};

const INSTALL: &str = "python3 -m pip install componentize-py";
/// The module that is built where `pyproject.toml` names none.
const MODULE: &str = "main";
/// The module that is handed to the tool: it imports the plugin and what the SDK exports for it.
const ENTRY: &str = "tidegate_entry";

/// Builds the folder's modules and returns the component.
pub(super) fn build(
    plugin: &Found,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let scratch = target::scratch(target, plugin, "python")?;
    let name = module(&plugin.dir);
    let file = plugin.dir.join(format!("{name}.py"));
    if !file.is_file() {
        return Err(BuildError::NoScript {
            manifest: plugin.dir.join("pyproject.toml"),
            hint: "`[tool.tidegate] module` names the module; the usual one is `main.py`",
        });
    }
    let exports = exports(&sources(&plugin.dir)?);
    let world = world::write(&scratch, &exports, &file)?;
    let classes: Vec<String> = exports.iter().map(|name| class(name)).collect();
    let entry = scratch.join(format!("{ENTRY}.py"));
    let text = format!(
        "import {name}  # noqa: F401\nfrom tidegate import {}  # noqa: F401\n",
        classes.join(", ")
    );
    std::fs::write(&entry, text).map_err(BuildError::io(&entry))?;
    let output = scratch.join("module.wasm");
    let mut command = tool(&plugin.dir)?;
    command.arg("--wit-path").arg(&world.wit).args(["--world", world.name, "componentize"]);
    command.arg("--python-path").arg(&plugin.dir).arg("--python-path").arg(&scratch);
    // WASI stays in: with a stub, `print` and the traceback of an exception would be traps without a
    // word.
    command.args([ENTRY, "--output"]).arg(&output);
    let made_of: [&Path; 2] = [&world.wit, &entry];
    fresh::make(&output, command, (&plugin.dir, &made_of), plugin, progress)?;
    Ok(output)
}

/// `componentize-py` of a virtual environment around the plugin, else of the path.
fn tool(dir: &Path) -> Result<Tool, BuildError> {
    let own = if cfg!(windows) { ".venv/Scripts" } else { ".venv/bin" };
    find_tool("componentize-py", dir, own, INSTALL)
}

fn module(dir: &Path) -> String {
    let manifest = find::read_toml(&dir.join("pyproject.toml")).unwrap_or_default();
    let said = manifest
        .get("tool")
        .and_then(|tool| tool.get("tidegate")?.get("module")?.as_str())
        .unwrap_or(MODULE);
    said.to_owned()
}

/// The text of every module beside `pyproject.toml` but the SDK.
fn sources(dir: &Path) -> Result<String, BuildError> {
    let mut all = String::new();
    for entry in std::fs::read_dir(dir).map_err(BuildError::io(dir))? {
        let path = entry.map_err(BuildError::io(dir))?.path();
        let is_sdk = path.file_stem() == Some("tidegate".as_ref());
        if path.extension() == Some("py".as_ref()) && !is_sdk {
            all.push_str(&std::fs::read_to_string(&path).map_err(BuildError::io(&path))?);
            all.push('\n');
        }
    }
    Ok(all)
}

/// What the decorators of the SDK register.
fn exports(source: &str) -> Vec<&'static str> {
    let decorated = |names: &[&str]| {
        source.lines().filter_map(|line| line.trim_start().strip_prefix('@')).any(|decorator| {
            // Of whatever the SDK is imported as; without parentheses the SDK says what is missing.
            let called = decorator.split(['(', ' ', '#']).next().unwrap_or_default();
            let word = called.rsplit('.').next().unwrap_or_default();
            names.contains(&word)
        })
    };
    let exported = |export: &&str| match *export {
        "handler" => decorated(&["handler", "timer", "response"]),
        other => decorated(&[other]),
    };
    world::EXPORTS.into_iter().filter(exported).collect()
}

fn class(export: &str) -> String {
    let mut letters = export.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::{class, exports};

    #[test]
    fn decorators_tell_what_is_exported() {
        let source =
            "@handler(\"order.created\")\ndef a(e): ...\n\n@tidegate.query()\ndef q(r): ...";
        assert_eq!(exports(source), ["handler", "query"]);
        assert_eq!(exports("@timer(\"t\")\n"), ["handler"]);
        assert_eq!(
            exports("@t.handler(\"a.b\")\n@query\n@sdk.tg.command ()\n"),
            ["handler", "command", "query"]
        );
        assert_eq!(exports("# @command()\n@commander()\n"), [""; 0]);
        assert_eq!(class("upcaster"), "Upcaster");
    }
}
