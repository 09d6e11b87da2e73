use std::fs;
use std::path::Path;

use super::find::{By, is_plugin_name, module_name};
use super::{BuildError, Found, Language, Outcome, build_all, find, publish, target};

const PACKAGE: &str = "[package]\nname = \"x\"\n";

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn folder_of_plugins_is_searched_one_deep() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("Cargo.toml"), "[workspace]\nmembers = [\"b\"]\n");
    write(&root.join("b/Cargo.toml"), PACKAGE);
    write(&root.join("a/go.mod"), "");
    write(&root.join("c/asconfig.json"), "");
    write(&root.join("c/package.json"), "");
    write(&root.join("d/main.c"), "");
    write(&root.join("bare/plugin.toml"), "");
    write(&root.join(".hidden/Cargo.toml"), PACKAGE);
    write(&root.join("target/debug/Cargo.toml"), PACKAGE);
    let found: Vec<_> = find(root).unwrap().into_iter().map(|f| (f.name, f.language)).collect();
    let expected = [
        ("a".to_owned(), Language::Go),
        ("b".to_owned(), Language::Rust),
        ("c".to_owned(), Language::AssemblyScript),
        ("d".to_owned(), Language::C),
    ];
    assert_eq!(found, expected);
    let itself = find(&root.join("b")).unwrap();
    assert_eq!((itself.len(), itself[0].by), (1, By::Name));
}

#[test]
fn folders_without_sources_are_errors_that_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let none = build_all(&[dir.path().join("nowhere")], &mut |_| ()).unwrap_err();
    assert!(matches!(none, BuildError::NoFolder { .. }));
    let empty = build_all(&[dir.path().to_owned()], &mut |_| ()).unwrap_err();
    assert!(empty.to_string().contains("Cargo.toml"), "{empty}");
}

#[test]
fn names_of_plugins_are_checked() {
    for good in ["a", "0", "order-saga", &"a".repeat(63)] {
        assert!(is_plugin_name(good), "{good}");
    }
    for bad in ["", "-a", "A", "a_b", "a.b", &"a".repeat(64)] {
        assert!(!is_plugin_name(bad), "{bad}");
    }
}

#[test]
fn module_goes_where_the_manifest_says_but_not_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = Found {
        name: "totals".to_owned(),
        dir: dir.path().to_owned(),
        language: Language::Rust,
        by: By::Name,
    };
    assert_eq!(module_name(&plugin.dir, &plugin.name), "totals.wasm");
    write(&dir.path().join("plugin.toml"), "module = \"other.wasm\"");
    assert_eq!(module_name(&plugin.dir, &plugin.name), "other.wasm");
    write(&dir.path().join("plugin.toml"), "module = \"../other.wasm\"");
    assert_eq!(module_name(&plugin.dir, &plugin.name), "totals.wasm");
}

#[test]
fn same_bytes_leave_the_module_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join("x.wasm");
    assert!(publish(&module, b"one").unwrap());
    assert!(!publish(&module, b"one").unwrap());
    assert!(publish(&module, b"two").unwrap());
    assert_eq!(fs::read(&module).unwrap(), b"two");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn output_of_another_package_of_the_same_name_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let claim = |manifest| target::claim(dir.path(), "t", "a-b.wasm", Path::new(manifest)).unwrap();
    let outputs = ["t/release/a-b.wasm", "t/release/deps/a_b.wasm"].map(|o| dir.path().join(o));
    claim("/one/Cargo.toml");
    outputs.iter().for_each(|output| write(output, "of one"));
    claim("/one/Cargo.toml");
    assert!(outputs.iter().all(|output| output.exists()));
    claim("/two/Cargo.toml");
    assert!(!outputs.iter().any(|output| output.exists()));
}

#[test]
fn a_missing_tool_skips_one_of_many_and_fails_the_one_asked_for() {
    let missing = |by| {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("p/p.c"), "");
        let mut plugin = find(dir.path()).unwrap().remove(0);
        plugin.by = by;
        let error = BuildError::ToolMissing { tool: "zig".into(), install: "get zig".into() };
        super::outcome(&plugin, Err(error))
    };
    let Outcome::Skipped(why) = missing(By::Scan) else { panic!("not skipped") };
    assert_eq!(why, "C: `zig` is missing; install it with: get zig");
    assert!(matches!(missing(By::Name), Outcome::Failed(_)));
}
