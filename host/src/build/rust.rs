//! Builds Rust packages with cargo: a `cdylib` becomes a typed core module, a program a stdio module.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::tool::Tool;
use super::{BuildError, Found, Progress, target};

const INSTALL: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh";

/// Small modules that load fast, without a profile in the author's `Cargo.toml`. Function names stay
/// in: without them the backtrace of a trap says nothing.
const PROFILE: [&str; 6] = [
    "profile.release.opt-level='s'",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic='abort'",
    "profile.release.debug=false",
    "profile.release.strip='debuginfo'",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    /// Unlike the name never ambiguous, whatever else stands in the lock file.
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// What to ask cargo for.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    package_id: String,
    triple: &'static str,
    /// `--lib`, or `--bin` and its name.
    which: Vec<String>,
    /// The file cargo makes.
    file: String,
}

/// One line of cargo's JSON messages, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Builds the package in the folder and returns the module that cargo made.
pub(super) fn build(
    plugin: &Found,
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let manifest = plugin.dir.join("Cargo.toml");
    let plan = plan(&manifest, &metadata(&plugin.dir)?)?;
    add_triple(plugin, plan.triple, progress)?;
    target::claim(target, plan.triple, &plan.file, &manifest)?;
    let mut command = cargo(&plugin.dir, "cargo build");
    command
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(["--package", &plan.package_id, "--target", plan.triple])
        .args(&plan.which)
        .arg("--target-dir")
        .arg(target)
        .args(PROFILE.iter().flat_map(|setting| ["--config", setting]));
    if let Some(setting) = without_home(plan.triple) {
        command.args(["--config", &setting]);
    }
    let messages = command.run(plugin, progress)?;
    artifact(&messages, &manifest).ok_or_else(|| BuildError::Tool {
        command: "cargo build".to_owned(),
        why: format!("it names no `{}`", plan.file),
    })
}

/// Which module a package makes. A `cdylib` goes first: a plugin may have a program for its tests.
fn plan(manifest: &Path, metadata: &Metadata) -> Result<Plan, BuildError> {
    let package = metadata.packages.iter().find(|package| package.manifest_path == manifest);
    let no_module = || BuildError::NoModule { manifest: manifest.to_owned() };
    let package = package.ok_or_else(no_module)?;
    let of_kind = |kind: &'static str| {
        package.targets.iter().filter(move |target| target.kind.iter().any(|k| k == kind))
    };
    if let Some(library) = of_kind("cdylib").next() {
        return Ok(Plan {
            package_id: package.id.clone(),
            triple: "wasm32-unknown-unknown",
            which: vec!["--lib".to_owned()],
            file: format!("{}.wasm", library.name.replace('-', "_")),
        });
    }
    let program = of_kind("bin").find(|target| target.name == package.name);
    let program = program.or_else(|| of_kind("bin").next()).ok_or_else(no_module)?;
    Ok(Plan {
        package_id: package.id.clone(),
        triple: "wasm32-wasip1",
        which: vec!["--bin".to_owned(), program.name.clone()],
        file: format!("{}.wasm", program.name),
    })
}

fn metadata(dir: &Path) -> Result<Metadata, BuildError> {
    let mut command = cargo(dir, "cargo metadata");
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let json = command.ask()?;
    serde_json::from_str(&json).map_err(|error| BuildError::Tool {
        command: "cargo metadata".to_owned(),
        why: error.to_string(),
    })
}

/// Sees to it that the standard library for `triple` is there.
fn add_triple(
    plugin: &Found,
    triple: &str,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), BuildError> {
    let mut rustc = Tool::new("rustc", &plugin.dir, "rustc --print target-libdir", INSTALL);
    rustc.args(["--print", "target-libdir", "--target", triple]);
    if Path::new(rustc.ask()?.trim()).is_dir() {
        return Ok(());
    }
    let short = format!("rustup target add {triple}");
    let mut rustup = Tool::new("rustup", &plugin.dir, short, INSTALL);
    rustup.args(["target", "add", triple]);
    match rustup.run(plugin, progress) {
        // Not every Rust comes from rustup; then only its owner knows how to add a target.
        Err(BuildError::ToolMissing { .. }) => Err(BuildError::ToolMissing {
            tool: format!("the Rust target {triple}"),
            install: format!("rustup target add {triple}"),
        }),
        other => other.map(drop),
    }
}

/// Keeps the author's home folder out of the module, which also makes it the same everywhere.
fn without_home(triple: &str) -> Option<String> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    let flag = format!("--remap-path-prefix={}=/cargo", home.to_str()?);
    Some(format!("target.{triple}.rustflags=[{}]", toml::Value::String(flag)))
}

fn cargo(dir: &Path, short: &str) -> Tool {
    let mut command = Tool::new("cargo", dir, short, INSTALL);
    // What the author sets for native code, say a processor, is wrong for wasm.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
    command
}

/// The module among the files that cargo says it made for this package.
fn artifact(messages: &str, manifest: &Path) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| message.manifest_path.as_deref() == Some(manifest))
        .flat_map(|message| message.filenames)
        .find(|file| file.extension() == Some("wasm".as_ref()))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{BuildError, Metadata, Plan, artifact, plan};

    fn planned(targets: &str) -> Result<Plan, BuildError> {
        let json = format!(
            r#"{{"packages":[{{"id":"path+file:///p#1","name":"my-plugin","manifest_path":"/p/Cargo.toml","targets":[{targets}]}}]}}"#
        );
        let metadata: Metadata = serde_json::from_str(&json).unwrap();
        plan(Path::new("/p/Cargo.toml"), &metadata)
    }

    #[test]
    fn library_is_a_typed_module_even_beside_a_program() {
        let plan = planned(
            r#"{"name":"tool","kind":["bin"]},{"name":"my_plugin","kind":["cdylib","rlib"]}"#,
        );
        let plan = plan.unwrap();
        assert_eq!((plan.triple, plan.file.as_str()), ("wasm32-unknown-unknown", "my_plugin.wasm"));
    }

    #[test]
    fn program_is_a_stdio_module() {
        let plan = planned(r#"{"name":"aaa","kind":["bin"]},{"name":"my-plugin","kind":["bin"]}"#)
            .unwrap();
        assert_eq!((plan.triple, plan.file.as_str()), ("wasm32-wasip1", "my-plugin.wasm"));
        assert_eq!(plan.which, ["--bin", "my-plugin"]);
    }

    #[test]
    fn plain_library_is_no_plugin() {
        let plan = planned(r#"{"name":"my_plugin","kind":["lib"]}"#);
        assert!(matches!(plan, Err(BuildError::NoModule { .. })));
    }

    #[test]
    fn module_is_the_one_of_the_package_that_was_asked_for() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/x/Cargo.toml","filenames":["/t/x.wasm"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","filenames":["/t/p.wasm"]}"#,
            "\nnot json\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = artifact(messages, Path::new("/p/Cargo.toml"));
        assert_eq!(found, Some(PathBuf::from("/t/p.wasm")));
    }
}
