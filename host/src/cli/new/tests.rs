use std::fs;
use std::path::Path;

use clap::Parser;

use super::{Lang, NewArgs, SDK_PACKAGE, create, lock};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    new: NewArgs,
}

fn args(line: &str) -> Result<NewArgs, clap::Error> {
    Cli::try_parse_from(std::iter::once("new").chain(line.split(' '))).map(|cli| cli.new)
}

fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|file| format!("{name}/{file}")));
        } else {
            all.push(name.to_owned());
        }
    }
    all.sort();
    all
}

#[test]
fn project_carries_all_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    for (line, source) in
        [("totals --lang rust --on payment.*", "src/lib.rs"), ("2nd --lang stdio", "src/main.rs")]
    {
        let args = args(line).unwrap();
        let folder = create(&args, dir.path()).unwrap();
        let files = files(&folder);
        let common =
            ["plugin.toml", "events/sample.json", "tests/amounts-add-up.toml", "README.md"];
        for file in common.into_iter().chain(["Cargo.toml", "Cargo.lock", source]) {
            assert!(files.iter().any(|f| f == file), "{file} of {line}: {files:?}");
        }
        let has_sdk = files.iter().any(|f| f == ".tidegate/sdk/src/lib.rs");
        assert_eq!(has_sdk, args.lang == Lang::Rust);
        for file in files.iter().filter(|f| !f.starts_with(".tidegate")) {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            assert!(!text.contains("{{"), "{file} has a hole in it");
        }
        let manifest: toml::Table = read(&folder.join("Cargo.toml"));
        assert!(manifest.contains_key("workspace"));
        read(&folder.join("plugin.toml"));
    }
    let sample = fs::read_to_string(dir.path().join("totals/events/sample.json")).unwrap();
    assert!(sample.contains("\"payment.example\""));
    assert!(
        fs::read_to_string(dir.path().join("2nd/Cargo.toml")).unwrap().contains("\"plugin-2nd\"")
    );
}

/// Cargo refused it for its second package of that name: the SDK that lies in it.
#[test]
fn project_of_the_sdks_name_has_another_package() {
    let dir = tempfile::tempdir().unwrap();
    let folder = create(&args("tidegate-sdk --lang rust").unwrap(), dir.path()).unwrap();
    let names = ["Cargo.toml", ".tidegate/sdk/Cargo.toml"]
        .map(|file| read(&folder.join(file))["package"]["name"].as_str().unwrap().to_owned());
    assert_eq!(names, ["plugin-tidegate-sdk", SDK_PACKAGE]);
}

/// Go takes what has no dot for its own: `fmt/tidegate`, `std/tidegate`.
#[test]
fn go_project_of_any_name_finds_the_sdk_in_it() {
    let dir = tempfile::tempdir().unwrap();
    for (name, module) in [("fmt", "example.com/fmt"), ("vendor", "example.com/plugin-vendor")] {
        let folder = create(&args(&format!("{name} --lang go")).unwrap(), dir.path()).unwrap();
        let text = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        assert!(text("go.mod").starts_with(&format!("module {module}\n")));
        assert!(text("main.go").contains(&format!("\"{module}/tidegate\"")));
    }
}

fn read(path: &Path) -> toml::Table {
    fs::read_to_string(path).unwrap().parse().unwrap()
}

#[test]
fn existing_folder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("totals")).unwrap();
    let error = create(&args("totals --lang rust").unwrap(), dir.path()).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("totals")).unwrap().count(), 0);
}

#[test]
fn wrong_arguments_say_what_is_supported() {
    let other = args("totals --lang cobol").unwrap_err();
    assert_eq!(other.exit_code(), 2);
    assert!(other.to_string().contains("rust, js, ts, python, c, go"), "{other}");
    assert!(args("Totals --lang rust").is_err());
    let host = args("tidegate --lang go").unwrap_err();
    assert!(host.to_string().contains("types `tidegate.*` are its own"), "{host}");
    for on in ["a\"b", "it's", "BAD..x", "a.b*", "."] {
        assert!(args(&format!("totals --lang rust --on {on}")).is_err(), "{on}");
    }
}

#[test]
fn lock_file_keeps_what_is_needed_and_no_more() {
    let lock = r#"
version = 4
[[package]]
name = "a"
version = "1.0.0"
dependencies = ["b 2.0.0", "c"]
[[package]]
name = "b"
version = "1.0.0"
source = "registry"
[[package]]
name = "b"
version = "2.0.0"
source = "registry"
checksum = "x"
[[package]]
name = "c"
version = "1.0.0"
[[package]]
name = "d"
version = "1.0.0"
"#;
    let cut = lock::cut(lock, &["a"]).unwrap().parse::<toml::Table>().unwrap();
    let kept: Vec<_> =
        cut["package"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(kept, ["a", "b", "c"]);
    assert_eq!(cut["package"][1]["version"].as_str(), Some("2.0.0"));
    assert_eq!(lock::cut("no lock file", &["a"]), None);
}
