//! What the bytes of a file show where the loader did not take it: who made it, what it has to offer,
//! and what its author could do.
//!
//! Reads section headers, imports and exports; validates and compiles nothing.

use wasmparser::{Encoding, ExternalKind, Parser, Payload, ProducersSectionReader};

/// Names of makers, imports and exports that are kept of each.
const KEPT_MAX: usize = 50;
/// What AssemblyScript's library leaves in the data of a module: `~lib/` in UTF-16.
const ASSEMBLYSCRIPT: &[u8] = b"~\0l\0i\0b\0/\0";

/// What shows.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// In words; none: no WebAssembly.
    pub(super) what: Option<&'static str>,
    /// Tools that say that they had a part in it: `rustc 1.95.0`.
    pub(super) made_by: Vec<String>,
    /// `module.name` of a core module.
    pub(super) imports: Vec<String>,
    /// Functions of a core module, anything of a component.
    pub(super) exports: Vec<String>,
    maker: Maker,
}

/// What it was written in, as far as that shows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Rust,
    C,
    GoForBrowsers,
    AssemblyScript,
    #[default]
    Unknown,
}

/// Looks at a file, as far as it makes sense.
pub(super) fn look(bytes: &[u8]) -> Look {
    let mut look = Look::default();
    if !bytes.starts_with(b"\0asm") || bytes.len() < 8 {
        return look;
    }
    look.what = Some("a core module (plain WebAssembly)");
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        match payload {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && encoding == Encoding::Component {
                    look.what = Some("a component");
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if section.name() == "producers" => {
                let reader = wasmparser::BinaryReader::new(section.data(), section.data_offset());
                look.read_producers(reader);
            }
            Payload::ImportSection(section) if depth == 1 => {
                let imports = section.into_imports().map_while(Result::ok);
                let names = imports.map(|import| format!("{}.{}", import.module, import.name));
                look.imports.extend(names.take(KEPT_MAX));
            }
            Payload::ExportSection(section) if depth == 1 => {
                let exports = section.into_iter().map_while(Result::ok);
                let functions = exports.filter(|export| export.kind == ExternalKind::Func);
                look.exports.extend(functions.map(|export| export.name.to_owned()).take(KEPT_MAX));
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                let exports = section.into_iter().map_while(Result::ok);
                let names = exports.map(|export| export.name.name.to_owned());
                look.exports.extend(names.take(KEPT_MAX));
            }
            _ => {}
        }
    }
    look.guess(bytes);
    look
}

impl Look {
    fn read_producers(&mut self, reader: wasmparser::BinaryReader<'_>) {
        let Ok(fields) = ProducersSectionReader::new(reader) else { return };
        for field in fields.into_iter().map_while(Result::ok) {
            for value in field.values.into_iter().map_while(Result::ok) {
                match (field.name, value.name) {
                    ("language", "Rust") => self.maker = Maker::Rust,
                    ("language", _) => {}
                    (_, name) => {
                        if name == "clang" && self.maker == Maker::Unknown {
                            self.maker = Maker::C;
                        }
                        let version = value.version.split(" (").next().unwrap_or_default();
                        let tool = format!("{name} {version}").trim_end().to_owned();
                        if !self.made_by.contains(&tool) && self.made_by.len() < KEPT_MAX {
                            self.made_by.push(tool);
                        }
                    }
                }
            }
        }
    }

    fn guess(&mut self, bytes: &[u8]) {
        if self.maker != Maker::Unknown {
            return;
        }
        if self.imports.iter().any(|import| import.starts_with("gojs.")) {
            self.maker = Maker::GoForBrowsers;
        } else if self.imports.iter().any(|import| import == "env.abort")
            || bytes.windows(ASSEMBLYSCRIPT.len()).any(|window| window == ASSEMBLYSCRIPT)
        {
            self.maker = Maker::AssemblyScript;
        }
    }

    /// What the author of a core module that cannot be called could do.
    pub(super) fn advice(&self) -> String {
        let begin = |lang: &str, more: &str| {
            format!(
                "`tidegate new NAME --lang {lang}` shows a handler that `tidegate build` builds{more}"
            )
        };
        match self.maker {
            Maker::Rust => begin(
                "rust",
                "; or make it a program (`fn main`) for `--target wasm32-wasip1`, as `--lang stdio` does",
            ),
            Maker::C => begin(
                "c",
                "; or make it a program (`main`) for the target wasm32-wasi, see wit/STDIO.md",
            ),
            Maker::GoForBrowsers => {
                begin("go", "; this one is for browsers: build with `GOOS=wasip1 GOARCH=wasm`")
            }
            Maker::AssemblyScript => begin("assemblyscript", ", with the names this host calls"),
            Maker::Unknown => begin(
                "rust|js|ts|python|c|go|assemblyscript",
                "; a program of any other language is a stdio module once it is built for WASI preview 1 \
                 (see wit/STDIO.md)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_at(text: &str) -> Look {
        look(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn imports_and_exports_show_without_types() {
        let look = look_at(
            r#"(module (import "env" "db" (func)) (memory (export "memory") 1) (func (export "go")))"#,
        );
        assert_eq!(look.what, Some("a core module (plain WebAssembly)"));
        assert_eq!(
            (&*look.imports, &*look.exports),
            (&["env.db".to_owned()][..], &["go".to_owned()][..])
        );
        assert!(look.advice().contains("--lang rust|js|ts"), "{}", look.advice());
    }

    #[test]
    fn the_advice_fits_the_language() {
        let abort = r#"(module (import "env" "abort" (func)))"#;
        assert!(look_at(abort).advice().contains("--lang assemblyscript"));
        let go = r#"(module (import "gojs" "runtime.wasmExit" (func)))"#;
        assert!(look_at(go).advice().contains("GOOS=wasip1"));
        // One field, `language`, with one value, `Rust`.
        let rust = r#"(module (@custom "producers" "\01\08language\01\04Rust\00"))"#;
        assert!(look_at(rust).advice().contains("--lang stdio"), "{:?}", look_at(rust));
        let clang = r#"(module (@custom "producers" "\01\0cprocessed-by\01\05clang\0421.1"))"#;
        let clang = look_at(clang);
        assert_eq!(clang.made_by, ["clang 21.1"]);
        assert!(clang.advice().contains("--lang c"));
    }

    #[test]
    fn what_ends_early_shows_what_came_before() {
        let whole =
            wat::parse_str(r#"(module (func (export "go")) (func (nop) (nop) (nop)))"#).unwrap();
        for end in 0..whole.len() {
            let look = look(&whole[..end]);
            assert!(look.exports.len() <= 1, "{look:?}");
        }
        assert_eq!(look(b"hello").what, None);
    }
}
