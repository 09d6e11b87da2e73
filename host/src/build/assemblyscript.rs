//! Builds AssemblyScript plugins: a core module against the contract's canonical ABI.
//!
//! The language exports identifiers only, so the functions that the SDK's entry defines get their
//! names of the contract here.

use std::path::{Path, PathBuf};

use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ExternalKind, Parser, Payload};

use super::tool::find_tool;
use super::{BuildError, Found, Progress, target};

const INSTALL: &str = "npm install --global assemblyscript";
/// The script that registers, beside `asconfig.json` or in `assembly`.
const SCRIPTS: [&str; 2] = ["assembly/index.ts", "index.ts"];

/// What is registered, what the SDK calls it, what the host calls it.
const EXPORTS: [(&str, &str, &str); 4] = [
    ("on", "handle", "tidegate:plugin/handler@0.1.0#handle"),
    ("command", "execute", "tidegate:plugin/command@0.1.0#execute"),
    ("query", "read", "tidegate:plugin/query@0.1.0#read"),
    ("upcaster", "upcast", "tidegate:plugin/upcaster@0.1.0#upcast"),
];

/// Builds the script and returns the module.
pub(super) fn build(
    plugin: &Found,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let scratch = target::scratch(target, plugin, "assemblyscript")?;
    let script = SCRIPTS.iter().map(|s| plugin.dir.join(s)).find(|script| script.is_file());
    let script = script.ok_or_else(|| BuildError::NoScript {
        manifest: plugin.dir.join("asconfig.json"),
        hint: "the script is `assembly/index.ts` or `index.ts`",
    })?;
    let sources = script.parent().unwrap_or(&plugin.dir);
    let entry = scratch.join("entry.ts");
    let text = entry_of(&read_all(sources)?, &script)?;
    // Everything goes where the entry is: the compiler resolves no path that is absolute.
    copy_scripts(sources, &scratch)?;
    std::fs::write(&entry, text).map_err(BuildError::io(&entry))?;
    let compiled = scratch.join("compiled.wasm");
    let mut command = find_tool("asc", &plugin.dir, "node_modules/.bin", INSTALL)?;
    command.current_dir(&scratch);
    command.args(["entry.ts", "--outFile", "compiled.wasm", "--optimize"]);
    // Collected between deliveries only, where nothing is on the stack; names for backtraces.
    command.args(["--runtime", "minimal", "--debug", "--use", "abort=tidegate/onAbort"]);
    command.run(plugin, progress)?;
    let wasm = std::fs::read(&compiled).map_err(BuildError::io(&compiled))?;
    let module = scratch.join("module.wasm");
    let renamed = rename(&wasm)
        .map_err(|error| BuildError::Tool { command: "asc".to_owned(), why: error.to_string() })?;
    std::fs::write(&module, renamed).map_err(BuildError::io(&module))?;
    Ok(module)
}

/// The entry: the plugin's script, and an export for each kind of thing it registers.
fn entry_of(source: &str, script: &Path) -> Result<String, BuildError> {
    let registers = |name: &str| {
        let after = |at: usize| source.get(at + name.len()..).unwrap_or_default();
        let before = |at: usize| source.get(..at).and_then(|text| text.chars().next_back());
        source.match_indices(name).any(|(at, _)| {
            after(at).trim_start().starts_with('(')
                && before(at).is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == '$'))
        })
    };
    let names: Vec<_> = EXPORTS.iter().filter(|(on, ..)| registers(on)).map(|e| e.1).collect();
    if names.is_empty() {
        return Err(BuildError::NoExports { script: script.to_owned() });
    }
    let exports: String = names.iter().map(|name| format!(", {name}, {name}After")).collect();
    let stem = script.file_stem().unwrap_or_default().to_string_lossy();
    Ok(format!("import \"./{stem}\";\nexport {{ cabi_realloc{exports} }} from \"./tidegate\";\n"))
}

fn scripts(dir: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(BuildError::io(dir))? {
        let path = entry.map_err(BuildError::io(dir))?.path();
        if path.extension() == Some("ts".as_ref()) {
            found.push(path);
        }
    }
    Ok(found)
}

fn read_all(dir: &Path) -> Result<String, BuildError> {
    let mut all = String::new();
    for path in scripts(dir)? {
        if path.file_stem() != Some("tidegate".as_ref()) {
            all.push_str(&std::fs::read_to_string(&path).map_err(BuildError::io(&path))?);
        }
    }
    Ok(all)
}

fn copy_scripts(from: &Path, to: &Path) -> Result<(), BuildError> {
    for old in scripts(to)? {
        std::fs::remove_file(&old).map_err(BuildError::io(&old))?;
    }
    for path in scripts(from)? {
        let copy = to.join(path.file_name().unwrap_or_default());
        std::fs::copy(&path, &copy).map_err(BuildError::io(&path))?;
    }
    Ok(())
}

/// The name of the contract for a name of the SDK; others keep theirs.
fn contract_name(export: &str) -> String {
    let known = EXPORTS.iter().find_map(|(_, name, contract)| match export.strip_prefix(name) {
        Some("") => Some((*contract).to_owned()),
        Some("After") => Some(format!("cabi_post_{contract}")),
        _ => None,
    });
    known.unwrap_or_else(|| export.to_owned())
}

/// The module with the contract's names on its exports.
fn rename(wasm: &[u8]) -> Result<Vec<u8>, wasmparser::BinaryReaderError> {
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if let Payload::ExportSection(section) = &payload {
            let mut renamed = ExportSection::new();
            for export in section.clone() {
                let export = export?;
                let kind = match export.kind {
                    ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
                    ExternalKind::Table => ExportKind::Table,
                    ExternalKind::Memory => ExportKind::Memory,
                    ExternalKind::Global => ExportKind::Global,
                    ExternalKind::Tag => ExportKind::Tag,
                };
                renamed.export(&contract_name(export.name), kind, export.index);
            }
            module.section(&renamed);
        } else if let Some((id, range)) = payload.as_section()
            && let Some(data) = wasm.get(range)
        {
            module.section(&RawSection { id, data });
        }
    }
    Ok(module.finish())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{contract_name, entry_of, rename};

    #[test]
    fn entry_exports_what_is_registered() {
        let entry = entry_of("tidegate.on(\"a\", f);\nquery (\"q\", g);", Path::new("index.ts"));
        let expected = "import \"./index\";\nexport { cabi_realloc, handle, handleAfter, read, \
                        readAfter } from \"./tidegate\";\n";
        assert_eq!(entry.unwrap(), expected);
        assert!(entry_of("button(1); onward(2);", Path::new("index.ts")).is_err());
    }

    #[test]
    fn exports_get_the_names_of_the_contract_and_the_rest_stays() {
        let text = r#"(module (memory (export "memory") 1)
            (func (export "handle") (param i32) (result i32) local.get 0)
            (func (export "handleAfter") (param i32))
            (func (export "handles")))"#;
        let renamed = rename(&wat::parse_str(text).unwrap()).unwrap();
        wasmparser::validate(&renamed).unwrap();
        let names = ["tidegate:plugin/handler@0.1.0#handle", "handles", "memory"];
        for name in names {
            assert!(String::from_utf8_lossy(&renamed).contains(name), "{name}");
        }
        assert!(contract_name("readAfter").starts_with("cabi_post_tidegate:plugin/query"));
    }
}
