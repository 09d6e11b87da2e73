//! `tidegate new NAME --lang L`: a small project that builds, with a handler, a test and a sample.
//!
//! Projects need nothing but this binary: the SDK they build against is written into them.

mod lock;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use super::{Output, valid};
use crate::build::is_plugin_name;
use crate::plugin::TypePattern;

/// The SDK and its WIT, as they stood when this binary was built: path below `.tidegate`, text.
static SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/embedded_sdk.rs"));

/// The package of the SDK, which lies in each Rust project.
const SDK_PACKAGE: &str = "tidegate-sdk";
/// A plugin of this name would emit types that it must not.
const HOST: &str = "tidegate";

/// Path in the project, text with `{{name}}` and its like.
type Template = (&'static str, &'static str);

/// What every project has.
const COMMON: &[Template] = &[
    ("plugin.toml", include_str!("new/plugin.toml.in")),
    ("events/sample.json", include_str!("new/sample.json.in")),
    ("tests/amounts-add-up.toml", include_str!("new/case.toml.in")),
    ("README.md", include_str!("new/README.md.in")),
    (".gitignore", include_str!("new/gitignore.in")),
];

const RUST: &[Template] = &[
    ("Cargo.toml", include_str!("new/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("new/rust/lib.rs.in")),
];

const STDIO: &[Template] = &[
    ("Cargo.toml", include_str!("new/stdio/Cargo.toml.in")),
    ("src/main.rs", include_str!("new/stdio/main.rs.in")),
];

const JS: &[Template] = &[
    ("package.json", include_str!("new/js/package.json.in")),
    ("index.js", include_str!("new/js/index.js.in")),
    ("tidegate.js", include_str!("../../../guest-sdk/js/tidegate.js")),
    ("tidegate.d.ts", include_str!("../../../guest-sdk/js/tidegate.d.ts")),
];

const TS: &[Template] = &[
    ("package.json", include_str!("new/ts/package.json.in")),
    ("tsconfig.json", include_str!("new/ts/tsconfig.json.in")),
    ("index.ts", include_str!("new/ts/index.ts.in")),
    ("tidegate.js", include_str!("../../../guest-sdk/js/tidegate.js")),
    ("tidegate.d.ts", include_str!("../../../guest-sdk/js/tidegate.d.ts")),
];

const PYTHON: &[Template] = &[
    ("pyproject.toml", include_str!("new/python/pyproject.toml.in")),
    ("main.py", include_str!("new/python/main.py.in")),
    ("tidegate.py", include_str!("../../../guest-sdk/python/tidegate.py")),
];

const C: &[Template] = &[
    ("{{name}}.c", include_str!("new/c/main.c.in")),
    ("tidegate.h", include_str!("../../../guest-sdk/c/tidegate.h")),
];

const GO: &[Template] = &[
    ("go.mod", include_str!("new/go/go.mod.in")),
    ("main.go", include_str!("new/go/main.go.in")),
    ("main_test.go", include_str!("new/go/main_test.go.in")),
    ("tidegate/tidegate.go", include_str!("../../../guest-sdk/go/tidegate.go")),
];

const ASSEMBLYSCRIPT: &[Template] = &[
    ("package.json", include_str!("new/assemblyscript/package.json.in")),
    ("asconfig.json", include_str!("new/assemblyscript/asconfig.json.in")),
    ("assembly/index.ts", include_str!("new/assemblyscript/index.ts.in")),
    ("assembly/tidegate.ts", include_str!("../../../guest-sdk/assemblyscript/tidegate.ts")),
];

/// Makes a new plugin: a small project with a manifest, a handler, a test and a sample event
#[derive(Debug, Clone, clap::Args)]
pub struct NewArgs {
    /// Its name: 1 to 63 of a-z, 0-9 and `-`, not beginning with `-`
    #[arg(value_parser = plugin_name)]
    pub name: String,
    /// What to write it in
    #[arg(long, value_enum)]
    pub lang: Lang,
    /// The event type it takes; `*` stands for one segment, `**` for any number
    #[arg(long, value_name = "TYPE", default_value = "order.created", value_parser = event_type)]
    pub on: String,
    /// The folder to make it in [default: `plugins` where there is one, else here]
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// What a plugin can be begun in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Lang {
    /// Rust with the SDK
    Rust,
    /// JavaScript, run by `QuickJS`
    Js,
    /// TypeScript, likewise
    Ts,
    /// Python, run by `CPython`
    Python,
    /// C with one header
    C,
    /// Go, as a program that reads stdin and writes stdout
    Go,
    /// `AssemblyScript`
    #[value(name = "assemblyscript")]
    AssemblyScript,
    /// A program that reads stdin and writes stdout, in Rust; no SDK
    Stdio,
}

impl Lang {
    const fn templates(self) -> &'static [Template] {
        match self {
            Self::Rust => RUST,
            Self::Js => JS,
            Self::Ts => TS,
            Self::Python => PYTHON,
            Self::C => C,
            Self::Go => GO,
            Self::AssemblyScript => ASSEMBLYSCRIPT,
            Self::Stdio => STDIO,
        }
    }

    /// Where the handler stands.
    const fn source(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::Stdio => "src/main.rs",
            Self::Js => "index.js",
            Self::Ts => "index.ts",
            Self::Python => "main.py",
            Self::C => "{{name}}.c",
            Self::Go => "main.go",
            Self::AssemblyScript => "assembly/index.ts",
        }
    }

    /// The line about the tests that the language's own tools run, where the project has some.
    const fn native_test(self) -> &'static str {
        match self {
            Self::Rust | Self::Stdio => "\n    cargo test             # the tests beside the code",
            Self::Go => "\n    go test .              # the test beside the code",
            _ => "",
        }
    }
}

/// Makes the project and says what to do next.
///
/// # Errors
/// There is such a folder already, or a file cannot be written.
pub fn run(args: &NewArgs, output: Output) -> anyhow::Result<ExitCode> {
    let here = args.dir.clone().unwrap_or_else(default_dir);
    let folder = create(args, &here)?;
    let mut out = std::io::stdout().lock();
    // As people write it: `totals`, not `./totals`.
    let folder = folder.strip_prefix(".").unwrap_or(&folder);
    let shown = folder.display().to_string();
    let parent = if here.as_os_str().is_empty() { Path::new(".") } else { &here };
    let parent = parent.display().to_string();
    let width = shown.len().max(parent.len());
    match output {
        Output::Json => writeln!(out, "{}", json!({ "name": args.name, "folder": folder }))?,
        Output::Text => writeln!(
            out,
            "made {shown}\n  \
             tidegate build {shown:width$}   makes {name}.wasm\n  \
             tidegate test {shown:width$}    runs its tests\n  \
             tidegate dev {parent:width$}     runs it, and builds and loads it again on every change",
            name = args.name,
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

fn default_dir() -> PathBuf {
    let plugins = PathBuf::from("plugins");
    if plugins.is_dir() { plugins } else { PathBuf::new() }
}

/// Makes the project's folder below `dir` and everything in it; returns the folder.
fn create(args: &NewArgs, dir: &Path) -> anyhow::Result<PathBuf> {
    let folder = dir.join(&args.name);
    if folder.symlink_metadata().is_ok() {
        bail!("`{}` is there already: take another name, or remove it", folder.display());
    }
    for (path, text) in COMMON.iter().chain(args.lang.templates()) {
        write(&folder.join(fill(path, args)), &fill(text, args))?;
    }
    let roots: &[&str] = match args.lang {
        Lang::Rust => {
            for (path, text) in SDK {
                write(&folder.join(".tidegate").join(path), text)?;
            }
            &["tidegate-sdk", "serde_json"]
        }
        Lang::Stdio => &["serde", "serde_json"],
        _ => return Ok(folder),
    };
    if let Some(lock) = lock::cut(include_str!(env!("TIDEGATE_LOCK_FILE")), roots) {
        write(&folder.join("Cargo.lock"), &lock)?;
    }
    Ok(folder)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

fn fill(template: &str, args: &NewArgs) -> String {
    // Cargo takes no package name that begins with a digit, nor two packages of the same name; Go no
    // path through `vendor`.
    let begins_with_digit = args.name.starts_with(|c: char| c.is_ascii_digit());
    let package = if begins_with_digit || [SDK_PACKAGE, "vendor"].contains(&&*args.name) {
        format!("plugin-{}", args.name)
    } else {
        args.name.clone()
    };
    let sample = args.on.replace("**", "example").replace('*', "example");
    template
        .replace("{{source}}", args.lang.source())
        .replace("{{native}}", args.lang.native_test())
        .replace("{{name}}", &args.name)
        .replace("{{package}}", &package)
        .replace("{{type}}", &args.on)
        .replace("{{sample-type}}", &sample)
}

fn plugin_name(text: &str) -> Result<String, String> {
    if text == HOST {
        return Err(format!("`{text}` is the host: types `{text}.*` are its own"));
    }
    if is_plugin_name(text) {
        return Ok(text.to_owned());
    }
    Err("a plugin's name has 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`".to_owned())
}

/// Types go into strings of TOML, JSON and every language, so that what would end one is refused.
fn event_type(text: &str) -> Result<String, String> {
    let quotes = |c: char| c.is_control() || "\"'\\{}".contains(c);
    if text.contains(quotes) {
        return Err(
            "an event type for source files has no quotes, braces or backslashes".to_owned()
        );
    }
    valid::<TypePattern>(text)
}

#[cfg(test)]
mod tests;
