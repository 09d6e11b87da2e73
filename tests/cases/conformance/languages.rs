//! The languages, and how the handler of each becomes a module.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Cli, guest_target, root};

/// One language.
pub(super) struct Language {
    /// The folder of its handler.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    /// What `tidegate build` makes of it, for people.
    pub(super) made: &'static str,
    /// Its SDK: below `guest-sdk`, and where it goes beside the handler.
    sdk: &'static [(&'static str, &'static str)],
    /// Whether it has upcasters.
    pub(super) lifts: bool,
    /// What its log says of the trap that the case asks for; none: nothing.
    pub(super) last_words: Option<&'static str>,
}

const JS: &[(&str, &str)] =
    &[("js/tidegate.js", "tidegate.js"), ("js/tidegate.d.ts", "tidegate.d.ts")];

impl Language {
    pub(super) const ALL: [Self; 8] = [
        Self {
            name: "rust",
            title: "Rust",
            made: "core module",
            sdk: &[],
            lifts: true,
            last_words: Some("on purpose"),
        },
        Self {
            name: "c",
            title: "C",
            made: "core module",
            sdk: &[("c/tidegate.h", "tidegate.h")],
            lifts: true,
            last_words: None,
        },
        Self {
            name: "assemblyscript",
            title: "AssemblyScript",
            made: "core module",
            sdk: &[("assemblyscript/tidegate.ts", "assembly/tidegate.ts")],
            lifts: true,
            last_words: Some("on purpose"),
        },
        Self {
            name: "js",
            title: "JavaScript",
            made: "component with QuickJS",
            sdk: JS,
            lifts: true,
            last_words: Some("onPurpose"),
        },
        Self {
            name: "ts",
            title: "TypeScript",
            made: "component with QuickJS",
            sdk: JS,
            lifts: true,
            last_words: Some("onPurpose"),
        },
        Self {
            name: "python",
            title: "Python",
            made: "component with CPython",
            sdk: &[("python/tidegate.py", "tidegate.py")],
            lifts: true,
            last_words: Some("on purpose"),
        },
        Self {
            name: "go",
            title: "Go",
            made: "stdio module",
            sdk: &[("go/tidegate.go", "tidegate/tidegate.go")],
            lifts: false,
            last_words: Some("on purpose"),
        },
        Self {
            name: "stdio",
            title: "no SDK (Rust)",
            made: "stdio module",
            sdk: &[],
            lifts: false,
            last_words: Some("on purpose"),
        },
    ];

    /// What the reason of that trap says. What is printed to standard error is in the log alone.
    pub(super) fn reason(&self) -> &'static str {
        self.last_words.filter(|_| self.name != "stdio").unwrap_or_default()
    }

    /// The name of its plugin.
    pub(super) fn plugin(&self) -> String {
        format!("conf-{}", self.name)
    }
}

/// A handler as a module.
pub(super) struct Built {
    pub(super) language: &'static Language,
    pub(super) module: PathBuf,
    pub(super) bytes: u64,
}

impl Built {
    /// Puts it into a plugins folder with a manifest; returns its name.
    pub(super) fn put(&self, plugins: &Path, manifest: &str) -> String {
        let name = self.language.plugin();
        self.put_as(&name, plugins, manifest);
        name
    }

    /// The same under another name.
    pub(super) fn put_as(&self, name: &str, plugins: &Path, manifest: &str) {
        let folder = plugins.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(&self.module, folder.join(format!("{name}.wasm"))).unwrap();
        std::fs::write(folder.join("plugin.toml"), manifest).unwrap();
    }
}

/// Where handlers are built, with what can be used again.
pub(super) fn place() -> PathBuf {
    guest_target().join("conformance")
}

/// Builds the handler of a language with the host's own `tidegate build`.
///
/// # Errors
/// The command that installs what is missing.
pub(super) fn build(language: &'static Language) -> Result<Built, String> {
    let folder = place().join(language.plugin());
    // Copied, so that the SDK is a file beside the handler, as `tidegate new` puts it.
    sync(&root().join("tests/conformance").join(language.name), &folder);
    let sdk = root().join("guest-sdk");
    for (from, to) in language.sdk {
        write(&folder.join(to), &std::fs::read(sdk.join(from)).unwrap());
    }
    if folder.join("Cargo.toml").is_file() {
        write(&folder.join("Cargo.lock"), &std::fs::read(root().join("Cargo.lock")).unwrap());
    }
    let run = Cli::new(&["--output", "json", "build"]).arg(&folder).run();
    if run.code != 0 {
        let said: Value = serde_json::from_str(&run.stdout).unwrap();
        let why = said["error"].as_str().unwrap_or_default();
        let install = why.split_once("is missing; install it with");
        let Some((_, install)) = install else { panic!("{why}\n{}", run.stderr) };
        return Err(install.trim().to_owned());
    }
    let built: Value = serde_json::from_str(&run.stdout).unwrap();
    let module = PathBuf::from(built["module"].as_str().unwrap());
    Ok(Built { language, module, bytes: built["bytes"].as_u64().unwrap() })
}

/// Copies a folder's files where they differ, so that compilers see what has changed.
fn sync(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            sync(&from, &to);
            continue;
        }
        let mut bytes = std::fs::read(&from).unwrap();
        if entry.file_name() == "Cargo.toml" {
            let sdk = root().join("guest-sdk").display().to_string();
            bytes = String::from_utf8(bytes).unwrap().replace("../../../guest-sdk", &sdk).into();
        }
        write(&to, &bytes);
    }
}

fn write(path: &Path, bytes: &[u8]) {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
