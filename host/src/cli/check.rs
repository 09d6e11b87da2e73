//! `tidegate check MODULE`: what a module is, what it imports, what it would be granted, what is
//! missing.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;

use super::Output;
use super::test::manifest_path;
use crate::build::Language;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::plugin::Manifest;
use crate::wasm::compile::CompileLimits;
use crate::wasm::load::Compiler;
use crate::wasm::refusal::Refusal;
use crate::wasm::report::{ModuleReport, inspect};

/// Says what a module is, what it imports, what it would be granted, what is missing and what to do.
/// Exit code 1: a host would refuse it
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CheckArgs {
    /// The module, or the folder of a plugin that is built
    pub module: PathBuf,
    /// Its manifest [default: `NAME.toml` or `plugin.toml` beside it]
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    module: &'a Path,
    would_load: bool,
    #[serde(flatten)]
    report: &'a ModuleReport,
}

/// Checks a module and prints the report to standard output: exit code 1 where the host would
/// refuse it.
///
/// # Errors
/// The file cannot be read, or the output not written.
pub fn run(args: &CheckArgs, output: Output) -> anyhow::Result<ExitCode> {
    let exe = std::env::current_exe().context("cannot find this executable to compile with")?;
    check(args, output, &Compiler::Child(exe), &mut std::io::stdout().lock())
}

/// [`run`] with a compiler and a place to print to.
///
/// # Errors
/// The file cannot be read, or the output not written.
pub fn check(
    args: &CheckArgs,
    output: Output,
    compiler: &Compiler,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let limits = CompileLimits::default();
    let module = module_at(&args.module)?;
    let wasm = read_module(&module, limits.module_bytes_max)?;
    let named = args.manifest.clone().or_else(|| manifest_path(&module));
    let manifest = named.as_deref().map(read_manifest).transpose()?;
    let report = inspect(&wasm, &manifest.unwrap_or_default(), compiler, &limits);
    match output {
        Output::Text => writeln!(out, "{report}")?,
        Output::Json => {
            let would_load = report.would_load();
            let document = Document { module: &module, would_load, report: &report };
            serde_json::to_writer(&mut *out, &document)?;
            writeln!(out)?;
        }
    }
    Ok(if report.would_load() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A module, or the one in a plugin's folder.
///
/// # Errors
/// It is the folder of no plugin, or the plugin is not built.
pub(super) fn module_at(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let folder = path.canonicalize().with_context(|| path.display().to_string())?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let module = path.join(crate::build::module_name(&folder, &name));
    let is_plugin = folder.join("plugin.toml").is_file() || Language::of(&folder).is_some();
    if !module.is_file() && !is_plugin {
        bail!("`{}` is not the folder of a plugin: name one, or a module", path.display());
    }
    if !module.is_file() {
        let (shown, module) = (path.display(), module.display());
        bail!("there is no `{module}` yet: `tidegate build {shown}` makes it from its sources");
    }
    Ok(module)
}

/// Reads a manifest.
///
/// # Errors
/// It cannot be read, or is not right.
pub(super) fn read_manifest(path: &Path) -> anyhow::Result<Manifest> {
    let named = || format!("cannot read manifest `{}`", path.display());
    let meta = std::fs::metadata(path).with_context(named)?;
    if meta.len() > MANIFEST_BYTES_MAX as u64 {
        bail!("manifest `{}` has more than {MANIFEST_BYTES_MAX} bytes", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(named)?;
    Ok(Manifest::parse(&path.display().to_string(), &text)?)
}

/// Reads a module from a file of at most `bytes_max` bytes.
///
/// # Errors
/// It is not there, not a regular file, or too large.
pub(crate) fn read_module(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let named = || format!("cannot read module `{}`", path.display());
    let meta = std::fs::metadata(path).with_context(named)?;
    if meta.is_dir() {
        bail!("`{}` is a folder; name the module in it", path.display());
    }
    // A FIFO would wait for its writer for ever.
    if !meta.is_file() {
        bail!("`{}` is not a regular file", path.display());
    }
    if meta.len() > bytes_max {
        let refusal = Refusal::TooLarge { bytes: meta.len(), limit: bytes_max };
        return Err(refusal).with_context(named);
    }
    let mut wasm = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max).read_to_end(&mut wasm))
        .with_context(named)?;
    Ok(wasm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::fixtures::STDIO;

    fn check_text(wasm: &str, output: Output) -> (String, bool) {
        let dir = tempfile::tempdir().unwrap();
        let args = CheckArgs { module: dir.path().join("m.wat"), ..CheckArgs::default() };
        std::fs::write(&args.module, wasm).unwrap();
        let mut out = Vec::new();
        let code = check(&args, output, &Compiler::InProcess, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), code == ExitCode::SUCCESS)
    }

    #[test]
    fn a_good_module_exits_with_success() {
        let (text, ok) = check_text(STDIO, Output::Text);
        assert!(ok && text.ends_with("would be loaded\n"), "{text}");
    }

    #[test]
    fn a_module_that_would_be_refused_exits_with_failure() {
        let (text, ok) = check_text("(module)", Output::Json);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(!ok);
        assert_eq!(document["would_load"], false);
        assert!(document["problems"][0].as_str().unwrap().contains("without component types"));
    }

    #[test]
    fn a_plugins_folder_stands_for_its_module_and_its_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let check_folder = |manifest: Option<PathBuf>| {
            let args = CheckArgs { module: dir.path().to_owned(), manifest };
            let mut out = Vec::new();
            check(&args, Output::Text, &Compiler::InProcess, &mut out)
                .map(|_| String::from_utf8(out).unwrap())
        };
        let manifest = "module = \"m.wat\"\n[subscribe]\ntypes = [\"order.created\"]\n";
        std::fs::write(dir.path().join("plugin.toml"), manifest).unwrap();
        let error = check_folder(None).unwrap_err().to_string();
        assert!(error.contains("`tidegate build "), "{error}");
        std::fs::write(dir.path().join("m.wat"), STDIO).unwrap();
        let text = check_folder(None).unwrap();
        assert!(text.contains("\nmanifest gets `order.created` of the bus `main`\n"), "{text}");
        let other = dir.path().join("other.toml");
        std::fs::write(&other, "").unwrap();
        let text = check_folder(Some(other)).unwrap();
        assert!(text.contains("\nmanifest gets every published event"), "{text}");
    }

    #[test]
    fn folders_and_missing_files_are_errors_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let folder = read_module(dir.path(), 10).unwrap_err();
        assert!(folder.to_string().contains("is a folder; name the module in it"));
        let missing = read_module(&dir.path().join("x.wasm"), 10).unwrap_err();
        assert!(missing.to_string().contains("cannot read module"));
        std::fs::write(dir.path().join("big.wasm"), [0; 11]).unwrap();
        let big = read_module(&dir.path().join("big.wasm"), 10).unwrap_err();
        assert!(format!("{big:#}").contains("module has 11 bytes, at most 10 are allowed"));
    }
}
