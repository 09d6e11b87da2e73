use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;

/// Lays out files (paths ending in `/` are folders) and says what is found, one line each.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    lines(folder.path())
}

fn lines(folder: &Path) -> Vec<String> {
    let short = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
    let line = |found: &Found| match found {
        Found::Source(SourceFiles { name, path, module, manifest }) => {
            let manifest = manifest.as_ref().map_or("-".into(), |manifest| short(&manifest.path));
            format!("{name} at {}: {} {manifest}", short(path), short(&module.path))
        }
        Found::Unbuilt { name, path, why, .. } => {
            let why = why.replace(&folder.display().to_string(), "plugins");
            format!("{name} at {}: unbuilt: {why}", short(path))
        }
        Found::Broken { name, path, why } => format!("{name} at {}: broken: {why}", short(path)),
        Found::Skipped { path, why } => format!("{}: skipped: {why}", short(path)),
    };
    scan(folder).unwrap().found.iter().map(line).collect()
}

#[test]
fn modules_stand_alone_or_with_a_manifest() {
    let files = [("a.wasm", ""), ("b.wat", ""), ("b.toml", ""), ("c.wasm", ""), ("README.md", "")];
    assert_eq!(
        found(&files),
        ["a at a.wasm: a.wasm -", "b at b.wat: b.wat b.toml", "c at c.wasm: c.wasm -"]
    );
}

#[test]
fn a_folder_has_one_module_or_names_it() {
    let named = "module = \"out/b.wasm\"";
    let files = [
        ("a/plugin.toml", ""),
        ("a/x.wasm", ""),
        ("b/plugin.toml", named),
        ("b/out/b.wasm", ""),
        ("b/other.wasm", ""),
        ("c/plugin.toml", ""),
        ("c/x.wasm", ""),
        ("c/y.wasm", ""),
        ("d/only.wat", ""),
    ];
    assert_eq!(
        found(&files),
        [
            "a at a: a/x.wasm a/plugin.toml",
            "b at b: b/out/b.wasm b/plugin.toml",
            "c at c: broken: the folder has several modules, `x.wasm`, `y.wasm`; name one: \
             `module = \"...\"` in `plugin.toml`",
            "d at d: d/only.wat -",
        ]
    );
}

#[test]
fn a_source_folder_without_a_module_is_unbuilt_and_others_are_none_of_our_business() {
    let files = [
        ("a/plugin.toml", ""),
        ("a/src/lib.rs", ""),
        ("b/plugin.toml", "module = \"b.wasm\""),
        ("Shared_Code/src/lib.rs", ""),
        ("Cargo.toml", "[workspace]"),
        ("rustfmt.toml", "max_width = 100"),
        (".hidden.wasm", ""),
        ("a.wasm.part", ""),
    ];
    assert_eq!(
        found(&files),
        [
            "a at a: unbuilt: there is no module yet: `tidegate build plugins/a` makes it, as `dev` \
             does",
            "b at b: unbuilt: `module` is \"b.wasm\", which is not there: `tidegate build plugins/b` \
             makes it, as `dev` does",
        ]
    );
}

#[test]
fn a_named_module_that_is_not_there_is_told_of_with_those_that_are() {
    let files = [
        ("a/plugin.toml", "module = \"A.wasm\""),
        ("a/a.wasm", ""),
        ("b/plugin.toml", "module = \"out/B.wasm\""),
        ("b/out/b.wasm", ""),
    ];
    assert_eq!(
        found(&files),
        [
            "a at a: broken: `module` is \"A.wasm\", which is not there; the folder has `a.wasm`",
            "b at b: broken: `module` is \"out/B.wasm\", which is not there; the folder has \
             `out/b.wasm`",
        ]
    );
}

#[test]
fn what_looks_like_a_plugin_and_cannot_be_one_is_skipped_with_a_reason() {
    let not_a_name = "is not a name: 1 to 63 of a-z, 0-9 and `-`, not starting with `-`";
    assert_eq!(
        found(&[("My_Plugin.wasm", ""), ("Folder/x.wasm", ""), ("lone.toml", "")]),
        [
            format!("Folder: skipped: `Folder` {not_a_name}; rename the folder"),
            format!("My_Plugin.wasm: skipped: `My_Plugin` {not_a_name}; rename the file"),
            "lone.toml: skipped: there is no module for this manifest: `lone.wasm` or `lone.wat`"
                .to_owned(),
        ]
    );
}

#[test]
fn nothing_but_files_and_folders_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("real.wasm"), "").unwrap();
    symlink(path.join("real.wasm"), path.join("link.wasm")).unwrap();
    symlink(path, path.join("loop")).unwrap();
    symlink("README.txt", path.join("README.md")).unwrap();
    let _socket = UnixListener::bind(path.join("socket.wasm")).unwrap();
    let fifo = path.join("fifo.wasm");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    fs::create_dir(path.join("inner")).unwrap();
    symlink(path.join("real.wasm"), path.join("inner/x.wasm")).unwrap();
    assert_eq!(
        lines(path),
        [
            "fifo.wasm: skipped: it is a FIFO; only files and folders are read",
            "inner at inner: broken: `x.wasm` is a symlink; only regular files are read",
            "link.wasm: skipped: it is a symlink; only files and folders are read",
            "loop: skipped: it is a symlink; only files and folders are read",
            "real at real.wasm: real.wasm -",
            "socket.wasm: skipped: it is a socket; only files and folders are read",
        ]
    );
}

#[test]
fn a_named_module_behind_a_symlink_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let (plugin, outside) = (folder.path().join("a"), tempfile::tempdir().unwrap());
    fs::create_dir(&plugin).unwrap();
    fs::write(outside.path().join("x.wasm"), "").unwrap();
    fs::write(plugin.join("plugin.toml"), "module = \"out/x.wasm\"").unwrap();
    symlink(outside.path(), plugin.join("out")).unwrap();
    assert_eq!(
        lines(folder.path()),
        ["a at a: broken: `module` is \"out/x.wasm\", and `out` in it is a symlink; only files \
          within the plugin's folder are read"]
    );
}

#[test]
fn two_sources_for_one_name_are_both_found() {
    assert_eq!(
        found(&[("a.wasm", ""), ("a/x.wasm", ""), ("a.wat", "")]),
        ["a at a: a/x.wasm -", "a at a.wasm: a.wasm -", "a at a.wat: a.wat -"]
    );
}

#[test]
fn a_broken_manifest_of_a_folder_is_told_of() {
    let files = [("a/plugin.toml", "limits.memry = 1"), ("a/x.wasm", "")];
    assert_eq!(
        found(&files),
        ["a at a: broken: manifest `a/plugin.toml`: `limits.memry` is not a key; did you mean \
          `limits.memory`?"]
    );
}
