use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::wasm::engine::{HostEngineOptions, host_config};
use crate::wasm::fixtures::{COMPONENT, STDIO, binary, importing, typed_core, untyped_core};

fn options(dir: &Path) -> LoaderOptions {
    LoaderOptions::new(dir.join("cache"), Compiler::InProcess)
}

fn loader(options: LoaderOptions) -> Loader {
    let engine = HostEngineOptions { workers: 1, plugins_max: 1, memory_bytes_max: 1 << 20 };
    Loader::new(Engine::new(&host_config(engine)).unwrap(), options).unwrap()
}

async fn load(wasm: &[u8]) -> Result<Loaded, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    loader(options(dir.path())).load("test", Bytes::copy_from_slice(wasm)).await
}

async fn refusal(wasm: &[u8]) -> Refusal {
    match load(wasm).await.unwrap_err() {
        LoadError::Refused(refusal) => refusal,
        other => panic!("not refused but: {other}"),
    }
}

#[tokio::test]
async fn every_kind_is_loaded() {
    for (wasm, kind) in [
        (binary(COMPONENT), ModuleKind::Component),
        (COMPONENT.as_bytes().to_vec(), ModuleKind::Component),
        (typed_core(""), ModuleKind::Core),
        (binary(STDIO), ModuleKind::Stdio),
    ] {
        let loaded = load(&wasm).await.unwrap();
        assert_eq!((loaded.kind, loaded.size_bytes), (kind, wasm.len()));
        assert_eq!(loaded.digest, Digest::of(&wasm));
        assert_eq!(matches!(loaded.code, Code::Stdio(_)), kind == ModuleKind::Stdio);
        assert!(!loaded.from_cache && loaded.compile > Duration::ZERO);
    }
}

#[tokio::test]
async fn imports_and_exports_are_those_of_the_component() {
    let loaded = load(&typed_core("")).await.unwrap();
    assert!(loaded.imports.contains(&"tidegate:plugin/context@0.1.0".to_owned()));
    assert_eq!(loaded.exports, ["tidegate:plugin/handler@0.1.0"]);
    let loaded = load(STDIO.as_bytes()).await.unwrap();
    assert_eq!(loaded.imports, ["wasi_snapshot_preview1.proc_exit"]);
    assert_eq!(loaded.exports, ["_start"]);
}

#[tokio::test]
async fn a_typed_module_with_wasi_calls_gets_the_adapter() {
    let wasi = r#"(import "wasi_snapshot_preview1" "fd_write"
        (func (param i32 i32 i32 i32) (result i32)))"#;
    let loaded = load(&typed_core(wasi)).await.unwrap();
    assert_eq!(loaded.kind, ModuleKind::Core);
    assert!(loaded.imports.iter().any(|import| import.starts_with("wasi:io/streams@0.2")));
}

#[tokio::test]
async fn a_known_module_is_loaded_from_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let wasm = Bytes::from(binary(COMPONENT));
    let first = loader(options(dir.path())).load("test", wasm.clone()).await.unwrap();
    let again = loader(options(dir.path())).load("test", wasm).await.unwrap();
    assert!(again.from_cache && again.compile == Duration::ZERO);
    assert_eq!((again.kind, again.imports), (first.kind, first.imports));
}

#[tokio::test]
async fn an_import_that_is_not_granted_is_named() {
    for (name, words) in [
        ("acme:db/store@1.0.0", "nothing on this host answers it"),
        ("wasi:http/types@0.3.0", "this host has WASI 0.2"),
        ("wasi:keyvalue/store@0.2.0", "store, atomics, batch of wasi:keyvalue 0.2.0-draft and"),
        ("wasi:messaging/consumer@0.2.0-draft", "types, producer, request-reply of"),
        ("wasi:blobstore/types@0.2.0", "does not provide that WASI interface"),
        ("wasi:io/streams@0.3.0", "this host has WASI 0.2"),
        ("tidegate:plugin/bus@0.2.0", "this host speaks tidegate:plugin 0.1"),
        ("tidegate:plugin/files@0.1.0", "offers types, bus, state"),
    ] {
        let refusal = refusal(importing(name).as_bytes()).await;
        let Refusal::Import { name: named, why } = &refusal else { panic!("{refusal}") };
        assert_eq!(named, name);
        assert!(why.contains(words), "`{why}` does not say `{words}`");
    }
}

#[tokio::test]
async fn a_core_import_that_is_not_granted_is_named() {
    let stray = r#"(import "env" "frobnicate" (func))"#;
    let refusal_of_core = refusal(&typed_core(stray)).await.to_string();
    assert!(refusal_of_core.contains("imports `env.frobnicate`"), "{refusal_of_core}");
    let stdio = STDIO.replacen("(module", &format!("(module {stray}"), 1);
    let refusal_of_stdio = refusal(stdio.as_bytes()).await.to_string();
    assert!(refusal_of_stdio.contains("imports `env.frobnicate`"), "{refusal_of_stdio}");
}

#[tokio::test]
async fn a_later_patch_of_the_interface_is_loaded() {
    load(importing("tidegate:plugin/bus@0.1.7").as_bytes()).await.unwrap();
    load(importing("wasi:clocks/wall-clock@0.2.9").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_module_with_nothing_to_call_is_refused() {
    let none = refusal(b"(component)").await.to_string();
    assert!(
        none.contains("it exports nothing; a plugin exports at least one of `handler`"),
        "{none}"
    );
    let newer = COMPONENT.replace("handler@0.1.0", "handler@0.2.0");
    let newer = refusal(newer.as_bytes()).await.to_string();
    assert!(newer.contains("`tidegate:plugin/handler@0.2.0` is not of"), "{newer}");
}

#[tokio::test]
async fn an_async_guest_is_told_how_to_build_otherwise() {
    let wasm = "(component (core func (canon context.get i32 0)))";
    let refusal = refusal(wasm.as_bytes()).await.to_string();
    assert!(refusal.contains("componentize-qjs --sync"), "{refusal}");
}

#[tokio::test]
async fn an_invalid_module_is_refused_with_the_offset() {
    let mut wasm = binary(STDIO);
    wasm.truncate(wasm.len() - 3);
    let refusal = refusal(&wasm).await;
    let Refusal::Invalid { offset, .. } = refusal else { panic!("{refusal}") };
    assert!(offset > 8 && offset <= wasm.len() as u64, "offset {offset}");
}

#[tokio::test]
async fn a_memory_larger_than_a_slot_is_refused() {
    let refusal = refusal(COMPONENT.replace("(memory 2 4)", "(memory 99)").as_bytes()).await;
    assert!(matches!(refusal, Refusal::Unsupported { .. }), "{refusal}");
}

#[tokio::test]
async fn a_module_over_the_size_limit_is_refused_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.limits.module_bytes_max = 64;
    let error = loader(options).load("test", binary(COMPONENT).into()).await.unwrap_err();
    let LoadError::Refused(Refusal::TooLarge { bytes, limit }) = error else { panic!("{error}") };
    assert_eq!((bytes, limit), (binary(COMPONENT).len() as u64, 64));
}

#[tokio::test]
async fn every_prefix_of_a_module_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let loader = loader(options(dir.path()));
    let plain = untyped_core("").len();
    for (wasm, whole) in [(binary(COMPONENT), 0), (binary(STDIO), 0), (typed_core(""), plain)] {
        for end in 0..wasm.len() {
            let prefix = Bytes::copy_from_slice(&wasm[..end]);
            let loaded = loader.load("test", prefix).await;
            // Custom sections at the end may be missing: the rest is a whole module then, and the
            // host knows the types of the contract.
            let custom = if whole > 0 { whole } else { wasm.len() / 2 };
            assert!(loaded.is_err() || end >= custom, "{end} of {} bytes", wasm.len());
            if let Err(error) = loaded {
                assert!(error.is_fault_of_module(), "{error}");
            }
        }
    }
}

#[test]
fn a_changed_byte_never_panics() {
    let engine = Engine::new(&crate::wasm::engine::compile_config()).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    // Not the type section of a typed module: a package in it that depends on itself makes the
    // decoder recurse until the stack is gone. That is what the child is for, and its test.
    for wasm in [binary(COMPONENT), binary(STDIO)] {
        for at in 0..wasm.len() {
            let mut changed = wasm.clone();
            changed[at] = random.u8(..);
            let _ = crate::wasm::compile::prepare(&engine, &changed, 1 << 20);
        }
    }
}

#[tokio::test]
async fn the_cache_folder_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    loader(options(dir.path())).load("test", binary(STDIO).into()).await.unwrap();
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&cache).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let loader = loader(options(dir.path()));
    let wasm = Bytes::from(binary(STDIO));
    loader.load("test", wasm.clone()).await.unwrap();
    let entry = std::fs::read_dir(dir.path().join("cache")).unwrap().next().unwrap().unwrap();
    let mut code = std::fs::read(entry.path()).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 1;
    std::fs::write(entry.path(), &code).unwrap();
    assert!(!loader.load("test", wasm.clone()).await.unwrap().from_cache);
    assert!(loader.load("test", wasm).await.unwrap().from_cache);
}
