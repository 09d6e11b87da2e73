//! The compiling child as the host runs it: this crate's own executable under limits.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: all of it may fail"
)]

use std::fmt::Write;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::wasm::engine::{HostEngineOptions, host_config};
use tidegate::wasm::load::{Code, Compiler, LoadError, Loaded, Loader, LoaderOptions};
use tidegate::wasm::refusal::Refusal;
use wasmtime::Engine;

const STDIO: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const 0))))"#;

const COMPONENT: &str = r#"(component
  (import "tidegate:plugin/context@0.1.0" (instance (export "now-ms" (func (result u64)))))
  (core module $m (func (export "f")))
  (core instance $i (instantiate $m))
  (func $f (canon lift (core func $i "f")))
  (instance $h (export "handle" (func $f)))
  (export "tidegate:plugin/handler@0.1.0" (instance $h)))"#;

fn exe() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tidegate"))
}

fn options(dir: &Path) -> LoaderOptions {
    LoaderOptions::new(dir.join("cache"), Compiler::Child(exe()))
}

fn loader(options: LoaderOptions) -> Loader {
    let pool = HostEngineOptions { workers: 1, plugins_max: 1, ..Default::default() };
    Loader::new(Engine::new(&host_config(pool)).unwrap(), options).unwrap()
}

async fn load_with(
    wasm: &[u8],
    change: impl FnOnce(&mut LoaderOptions),
) -> Result<Loaded, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    change(&mut options);
    let loaded = loader(options).load("test", Bytes::copy_from_slice(wasm)).await;
    let published = std::fs::read_dir(dir.path().join("cache")).unwrap().count();
    assert_eq!(published, usize::from(loaded.is_ok()), "only good code is left behind");
    loaded
}

/// A command with one function that is hard to compile: many values that are all alive at the end,
/// over many blocks.
fn bomb(rounds: usize) -> Vec<u8> {
    let mut text = String::from("(module (func (export \"_start\") (local i64 i64 i64 i64)\n");
    for n in 0..rounds {
        let (a, b) = (n % 4, (n + 1) % 4);
        writeln!(
            text,
            "(if (i64.eqz (local.get {a})) (then (local.set {b} (i64.mul (local.get {a}) \
             (i64.const {n})))) (else (local.set {a} (i64.div_u (local.get {b}) (i64.const {n})))))"
        )
        .unwrap();
    }
    text.push_str("))");
    wat::parse_str(&text).unwrap()
}

#[tokio::test]
async fn a_child_compiles_every_kind() {
    let loaded = load_with(COMPONENT.as_bytes(), |_| ()).await.unwrap();
    assert!(matches!(loaded.code, Code::Component(_)));
    let loaded = load_with(STDIO.as_bytes(), |_| ()).await.unwrap();
    assert!(matches!(loaded.code, Code::Stdio(_)));
    assert!(!loaded.from_cache);
}

#[tokio::test]
async fn a_refusal_comes_through_with_its_type() {
    let stray = STDIO.replacen("(module", r#"(module (import "env" "frobnicate" (func))"#, 1);
    let error = load_with(stray.as_bytes(), |_| ()).await.unwrap_err();
    let LoadError::Refused(Refusal::Import { name, .. }) = error else { panic!("{error}") };
    assert_eq!(name, "env.frobnicate");
}

#[tokio::test]
async fn a_bomb_is_stopped_by_the_limit_of_time() {
    let start = Instant::now();
    let limit = Duration::from_millis(300);
    let error = load_with(&bomb(100_000), |options| options.limits.time = limit).await.unwrap_err();
    assert!(matches!(error, LoadError::TimedOut { limit: said } if said == limit), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_bomb_is_stopped_by_the_limit_of_memory() {
    let bytes = 256 << 20;
    let bomb = bomb(100_000);
    let error = load_with(&bomb, |options| options.limits.memory_bytes = bytes).await.unwrap_err();
    assert!(matches!(error, LoadError::OutOfMemory { limit } if limit == bytes), "{error}");
}

/// Its report was cut once, and taken for a crash of the compiler, with four megabytes of it as the reason.
#[tokio::test]
async fn a_module_with_endless_names_is_refused_in_few_words() {
    let names = |count: usize, bytes: usize| {
        let exports = (0..count).map(|n| format!("(export \"{n:08}{}\")", "e".repeat(bytes)));
        STDIO.replacen(
            "(export \"_start\")",
            &format!("(export \"_start\") {}", exports.collect::<String>()),
            1,
        )
    };
    load_with(names(60, 100).as_bytes(), |_| ()).await.unwrap();
    let import = STDIO.replacen("\"proc_exit\"", &format!("\"{}\"", "p".repeat(90_000)), 1);
    let import = import.replacen("wasi_snapshot_preview1", "env", 1);
    let foreign = import.replacen("pppp", &"p".repeat(2_000_000), 1);
    for module in [names(60, 90_000), import, foreign] {
        let error = load_with(module.as_bytes(), |_| ()).await.unwrap_err();
        assert!(matches!(error, LoadError::Refused(_)), "{:.200}", error.to_string());
        assert!(error.to_string().len() <= 4096, "{:.200}", error.to_string());
    }
}

#[tokio::test]
async fn the_runtime_goes_on_while_a_child_compiles() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.limits.time = Duration::from_secs(1);
    let loader = loader(options);
    let compile =
        tokio::spawn(async move { loader.load("bomb", bomb(100_000).into()).await.is_err() });
    let mut turns = 0;
    while !compile.is_finished() {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(compile.await.unwrap());
    assert!(turns > 1_000, "{turns} turns of the only thread");
}

#[tokio::test]
async fn a_type_section_that_crashes_the_decoder_leaves_the_host_alive() {
    // One interface in another package makes the two packages depend on one another. wit-parser
    // 0.254 recurses over that cycle until its stack is gone; a later one may refuse it.
    let mut wasm = typed_core();
    let name = b"tidegate:plugin/calls";
    let places: Vec<usize> =
        (0..wasm.len()).filter(|at| wasm[*at..].starts_with(name.as_slice())).collect();
    assert!(!places.is_empty());
    for at in places {
        wasm[at] = b'x';
    }
    let error = load_with(&wasm, |_| ()).await.unwrap_err();
    assert!(error.is_fault_of_module(), "{error}");
    assert!(matches!(error, LoadError::Crashed { .. } | LoadError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_changed_byte_of_a_typed_module_is_survived() {
    let typed = typed_core();
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..40 {
        let mut changed = typed.clone();
        let at = random.usize(0..typed.len());
        changed[at] = random.u8(..);
        if let Err(error) = load_with(&changed, |_| ()).await {
            assert!(error.is_fault_of_module(), "byte {at}: {error}");
        }
    }
}

#[tokio::test]
async fn a_child_that_cannot_be_run_is_not_the_fault_of_the_module() {
    for program in ["/nonexistent/tidegate", "/bin/true"] {
        let compiler = Compiler::Child(PathBuf::from(program));
        let error = load_with(STDIO.as_bytes(), |o| o.compiler = compiler).await.unwrap_err();
        assert!(matches!(error, LoadError::Compiler { .. }), "{error}");
        assert!(!error.is_fault_of_module());
    }
}

#[tokio::test]
async fn many_loads_at_once_all_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let loader = loader(options(dir.path()));
    let loads = (0..8).map(|_| {
        let loader = loader.clone();
        tokio::spawn(async move { loader.load("test", Bytes::from_static(STDIO.as_bytes())).await })
    });
    let mut cached = 0;
    for load in loads.collect::<Vec<_>>() {
        cached += usize::from(load.await.unwrap().unwrap().from_cache);
    }
    assert!(cached >= 6, "at most two compile, the others find what they made: {cached}");
}

#[test]
fn the_child_limits_itself_before_it_reads() {
    let mut child = Command::new(exe())
        .args(["compile-child", "536870912", "7", "1000"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let limits = PathBuf::from(format!("/proc/{}/limits", child.id()));
    let deadline = Instant::now() + Duration::from_secs(10);
    // It blocks on its input, which stays open and empty until the limits have been seen.
    let row = |name: &str| {
        let text = std::fs::read_to_string(&limits).unwrap();
        let row = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let words: Vec<&str> = row[name.len()..].split_whitespace().collect();
        (words[0].to_owned(), words[1].to_owned())
    };
    while row("Max cpu time").0 != "7" {
        assert!(Instant::now() < deadline, "the limits never came");
        std::thread::yield_now();
    }
    assert_eq!(row("Max address space"), ("536870912".into(), "536870912".into()));
    assert_eq!(row("Max file size"), ("536870912".into(), "536870912".into()));
    assert_eq!(row("Max core file size"), ("0".into(), "0".into()));
    assert_eq!(row("Max open files"), ("16".into(), "16".into()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    child.stdin.take().unwrap().write_all(b"garbage").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("not-wasm"));
    assert!(output.status.success());
}

/// A core module with the component types of world `reactor`.
fn typed_core() -> Vec<u8> {
    let mut module = wat::parse_str(
        r#"(module
          (memory (export "memory") 1)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
          (func (export "tidegate:plugin/handler@0.1.0#handle") (param i32) (result i32)
            i32.const 2048))"#,
    )
    .unwrap();
    let text = include_str!("../../wit/plugin.wit");
    let mut resolve = wit_parser::Resolve::default();
    let group = wit_parser::UnresolvedPackageGroup::parse("plugin.wit", text).unwrap();
    let package = resolve.push_group(group).unwrap();
    let world = resolve.select_world(&[package], Some("reactor")).unwrap();
    wit_component::embed_component_metadata(
        &mut module,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
    )
    .unwrap();
    module
}
