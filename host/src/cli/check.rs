//! `tidegate check MODULE`: what a module is, what it imports, what it would be granted, what is
//! missing.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use super::Output;
use crate::build::Language;
use crate::plugin::Manifest;
use crate::plugin::folder::{FOLDER_MANIFEST, Found, in_folder, stamped};
use crate::plugin::source::{self, SourceError};
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
    let files = Files::at(&args.module)?;
    let module = &files.module;
    let wasm = read_module(module, limits.module_bytes_max)?;
    let manifest = match &args.manifest {
        Some(named) => Some(read_manifest(named)?),
        None => files.read_manifest()?,
    };
    let report = inspect(&wasm, &manifest.unwrap_or_default(), compiler, &limits);
    match output {
        Output::Text => writeln!(out, "{report}")?,
        Output::Json => {
            let would_load = report.would_load();
            let document = Document { module, would_load, report: &report };
            serde_json::to_writer(&mut *out, &document)?;
            writeln!(out)?;
        }
    }
    Ok(if report.would_load() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files that a host would make a plugin of.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// The module.
    pub(super) module: PathBuf,
    /// Its manifest, where there is one.
    pub(super) manifest: Option<PathBuf>,
}

impl Files {
    /// Those of a module, or of a plugin's folder.
    ///
    /// # Errors
    /// It is the folder of no plugin, or the plugin is not built, or a host would not know its module.
    pub(super) fn at(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            return Ok(Self::of_module(path));
        }
        let shown = path.display();
        let folder = path.canonicalize().with_context(|| shown.to_string())?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        match in_folder(&name, path) {
            Some(Found::Source(files)) => Ok(Self {
                module: files.module.path,
                manifest: files.manifest.map(|manifest| manifest.path),
            }),
            Some(
                Found::Broken { why, .. } | Found::Unbuilt { why, .. } | Found::Skipped { why, .. },
            ) => {
                bail!("`{shown}`: {why}")
            }
            None if Language::of(&folder).is_some() => {
                bail!("there is no module yet: `tidegate build {shown}` makes it from its sources")
            }
            None => bail!("`{shown}` is not the folder of a plugin: name one, or a module"),
        }
    }

    /// A module, with the manifest beside it.
    pub(super) fn of_module(module: &Path) -> Self {
        let manifest = [module.with_extension("toml"), module.with_file_name(FOLDER_MANIFEST)]
            .into_iter()
            .find(|path| path.is_file());
        Self { module: module.to_owned(), manifest }
    }

    /// Reads the manifest as a host would.
    ///
    /// # Errors
    /// It cannot be read, is not right, or is that of another module.
    pub(super) fn read_manifest(&self) -> anyhow::Result<Option<Manifest>> {
        let Some(path) = &self.manifest else { return Ok(None) };
        let manifest = read_manifest(path)?;
        match &manifest.module {
            Some(named) if path.with_file_name(named) != self.module => {
                let (manifest, named) = (path.display().to_string(), named.clone());
                let module = self.module.display().to_string();
                Err(SourceError::OtherModule { manifest, named, module }.into())
            }
            _ => Ok(Some(manifest)),
        }
    }
}

/// Reads a manifest; a host follows no symlinks, either.
///
/// # Errors
/// It cannot be read, or is not right.
fn read_manifest(path: &Path) -> anyhow::Result<Manifest> {
    let file = stamped(path).map_err(|why| anyhow!("manifest {why}"))?;
    Ok(source::read_manifest(&path.display().to_string(), &file)?.0)
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

    /// A host refuses these, and `check` said that it would load them.
    #[test]
    fn a_manifest_that_a_host_refuses_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let check_file = |module: PathBuf| {
            let args = CheckArgs { module, manifest: None };
            let checked = check(&args, Output::Text, &Compiler::InProcess, &mut Vec::new());
            checked.unwrap_err().to_string()
        };
        file("t.toml", "module = \"zzz.wasm\"");
        let error = check_file(file("t.wat", STDIO));
        assert!(error.contains("`module` is \"zzz.wasm\", but it belongs to `"), "{error}");
        file("plugin.toml", "module = \"Shop.wat\"");
        let error = check_file(file("shop.wat", STDIO));
        assert!(error.contains("`module` is \"Shop.wat\", but it belongs to `"), "{error}");
        let error = check_file(dir.path().to_owned());
        assert!(error.contains("`module` is \"Shop.wat\", which is not there; "), "{error}");
        file("u.toml", "[subscribe]\nwhere = { BAD = \"x\" }");
        let error = check_file(file("u.wat", STDIO));
        assert!(error.contains("`subscribe.where` asks for `BAD`, and no event can "), "{error}");
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
