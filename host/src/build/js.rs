//! Builds JavaScript and TypeScript plugins: QuickJS and the script become one component.

use std::path::{Path, PathBuf};

use super::tool::find_tool;
use super::{BuildError, Found, Progress, fresh, target, world};

const COMPONENTIZE: &str = "componentize-qjs";
/// What this command is tested with.
const INSTALL: &str = "npm install --global componentize-qjs@0.4 typescript";

/// Builds the script that `package.json` names and returns the module.
pub(super) fn build(
    plugin: &Found,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let scratch = target::scratch(target, plugin, "js")?;
    let main = main(&plugin.dir)?;
    let typescript = main.extension() == Some("ts".as_ref());
    let root = if typescript { transpile(plugin, &scratch, progress)? } else { plugin.dir.clone() };
    let script = root.join(main.with_extension("js"));
    let source = std::fs::read_to_string(&script).map_err(BuildError::io(&script))?;
    let world = world::write(&scratch, &exports(&source), &script)?;
    let module = scratch.join("module.wasm");
    let mut command = find_tool(COMPONENTIZE, &plugin.dir, "node_modules/.bin", INSTALL)?;
    command.arg("--wit").arg(&world.wit).args(["--world", world.name]);
    command.arg("--js").arg(&script).arg("--module-root").arg(&root);
    // Asynchrony is not to be had. WASI stays in: `Date` shows the time of the input, where a stub would
    // be a trap.
    command.arg("--sync").arg("--output").arg(&module);
    fresh::make(&module, command, (&root, &[&world.wit]), plugin, progress)?;
    Ok(module)
}

/// `main` of `package.json`, else the usual file that is there.
fn main(dir: &Path) -> Result<PathBuf, BuildError> {
    let manifest = dir.join("package.json");
    let text = std::fs::read_to_string(&manifest).map_err(BuildError::io(&manifest))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        BuildError::Tool { command: "reading package.json".to_owned(), why: error.to_string() }
    })?;
    let said = json.get("main").and_then(serde_json::Value::as_str).map(PathBuf::from);
    let usual = ["index.ts", "src/index.ts", "index.js", "src/index.js"].map(PathBuf::from);
    let there = |file: &PathBuf| dir.join(file).is_file();
    said.into_iter().chain(usual).find(there).ok_or(BuildError::NoScript {
        manifest,
        hint: "`main` names the script; the usual one is `index.js` or `index.ts`",
    })
}

/// Checks types and leaves JavaScript in a folder of its own, with the scripts beside it.
fn transpile(
    plugin: &Found,
    scratch: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let out = scratch.join("js");
    // What was deleted from the sources must not live on here.
    match std::fs::remove_dir_all(&out) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(BuildError::io(&out)(error));
        }
        _ => {}
    }
    let mut command = find_tool("tsc", &plugin.dir, "node_modules/.bin", INSTALL)?;
    command.args(["--project", ".", "--rootDir", ".", "--outDir"]).arg(&out);
    command.run(plugin, progress)?;
    for entry in std::fs::read_dir(&plugin.dir).map_err(BuildError::io(&plugin.dir))? {
        let path = entry.map_err(BuildError::io(&plugin.dir))?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension() == Some("js".as_ref())) {
            std::fs::copy(&path, out.join(name)).map_err(BuildError::io(&path))?;
        }
    }
    Ok(out)
}

/// What a script exports, of what a plugin may.
fn exports(source: &str) -> Vec<&'static str> {
    let declares = |line: &str, name: &str| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
        let mut words = words.by_ref().filter(|word| !word.is_empty());
        let kinds = ["const", "let", "var", "class", "function"];
        words.next() == Some("export")
            && words.next().is_some_and(|kind| kinds.contains(&kind))
            && words.next() == Some(name)
    };
    let lists = |name: &str| {
        source.split("export {").skip(1).any(|rest| {
            let list = rest.split('}').next().unwrap_or_default();
            list.split(',').any(|item| item.split_whitespace().last() == Some(name))
        })
    };
    let exported = |name: &&str| {
        source.lines().any(|line| line.starts_with("export") && declares(line, name)) || lists(name)
    };
    world::EXPORTS.into_iter().filter(exported).collect()
}

#[cfg(test)]
mod tests {
    use super::exports;

    #[test]
    fn exports_are_found_however_they_are_written() {
        let source = "import x from './y.js';\nexport const handler = handlers({});\n\
                      const q = 1;\nexport { q as query, other };\nexport function execute() {}\n";
        assert_eq!(exports(source), ["handler", "query"]);
        assert_eq!(exports("export class upcaster {}"), ["upcaster"]);
        assert_eq!(exports("// export const handlers\nexport const handlers = 1;"), [""; 0]);
    }
}
