//! Builds Rust packages with cargo: a `cdylib` becomes a typed core module, a program a stdio module.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{BuildError, Found, Progress, target};

const RUSTUP_INSTALL: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh";
/// What is kept of what cargo says, for the report of a failure.
const SAID_LINES_MAX: usize = 200;

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
    let mut command = cargo(&plugin.dir);
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
    let messages = run(plugin, command, "cargo build", progress)?;
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
    let mut command = cargo(dir);
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let json = ask(command, "cargo metadata")?;
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
    let mut rustc = tool("rustc", &plugin.dir);
    rustc.args(["--print", "target-libdir", "--target", triple]);
    if Path::new(ask(rustc, "rustc --print target-libdir")?.trim()).is_dir() {
        return Ok(());
    }
    let mut rustup = tool("rustup", &plugin.dir);
    rustup.args(["target", "add", triple]);
    match run(plugin, rustup, &format!("rustup target add {triple}"), progress) {
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

fn cargo(dir: &Path) -> Command {
    let mut command = tool("cargo", dir);
    // What the author sets for native code, say a processor, is wrong for wasm.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
    command
}

/// In the plugin's folder, so that its `rust-toolchain.toml` and `.cargo/config.toml` count.
fn tool(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn missing_or(command: &Command, error: std::io::Error) -> BuildError {
    let tool = command.get_program().to_string_lossy().into_owned();
    if error.kind() == ErrorKind::NotFound {
        return BuildError::ToolMissing { tool, install: RUSTUP_INSTALL.to_owned() };
    }
    BuildError::Io { path: tool.into(), source: error }
}

/// The standard output of a short command.
fn ask(mut command: Command, short: &str) -> Result<String, BuildError> {
    let output = command.output().map_err(|error| missing_or(&command, error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        return Err(BuildError::Compiler { command: short.to_owned(), said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The standard output of a long command; what it says on standard error is progress.
fn run(
    plugin: &Found,
    mut command: Command,
    short: &str,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<String, BuildError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| missing_or(&command, error))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Both pipes are read at once, or the tool would wait for whichever is full.
    let (answer, said) = std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            let mut text = String::new();
            stdout.map(|mut pipe| pipe.read_to_string(&mut text)).transpose().map(|_| text)
        });
        let said = stderr.map(|pipe| listen(plugin, BufReader::new(pipe), progress));
        (answer.join(), said.unwrap_or_default())
    });
    let io = |source| BuildError::Io { path: short.into(), source };
    let status = child.wait().map_err(io)?;
    if !status.success() {
        return Err(BuildError::Compiler { command: short.to_owned(), said });
    }
    match answer {
        Ok(text) => text.map_err(io),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Passes every line on, and keeps the last ones but for cargo's own progress.
fn listen(
    plugin: &Found,
    mut pipe: impl BufRead,
    progress: &mut dyn FnMut(Progress<'_>),
) -> String {
    let mut said = VecDeque::new();
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.trim().is_empty() {
            progress(Progress::Line { name: &plugin.name, line: text.trim() });
        }
        if !is_progress(text) {
            if said.len() == SAID_LINES_MAX {
                said.pop_front();
            }
            said.push_back(text.to_owned());
        }
        line.clear();
    }
    Vec::from(said).join("\n").trim().to_owned()
}

/// `   Compiling serde v1.0.229`: a word that ends in the twelfth column.
fn is_progress(line: &str) -> bool {
    let word = line.trim_start();
    let indent = line.len() - word.len();
    let first = word.split(' ').next().unwrap_or_default();
    indent > 0 && indent + first.len() == 12 && first.starts_with(|c: char| c.is_uppercase())
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

    use super::{BuildError, Metadata, Plan, artifact, is_progress, plan};

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

    #[test]
    fn cargo_progress_is_told_from_what_the_compiler_says() {
        assert!(is_progress("   Compiling serde v1.0.229"));
        assert!(is_progress("    Finished `release` profile"));
        assert!(!is_progress("error[E0425]: cannot find value `x`"));
        assert!(!is_progress("   | ^^^^"));
        assert!(!is_progress(""));
    }
}
