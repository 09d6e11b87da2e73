//! Guests: the example plugins, somebody else's, and modules written here as text.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, UnresolvedPackageGroup};

use super::Cli;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository")
}

/// Where guests are compiled: beside the program under test, so that they are compiled once.
pub(crate) fn guest_target() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_tidegate-under-test"));
    let target = program.parent().and_then(Path::parent);
    target.expect("cargo's target folder").join("guests")
}

/// A plugin that stands somewhere with its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guest(&'static str);

/// The example plugins; building them once is part of the test.
pub(crate) struct Sources;

impl Sources {
    pub(crate) const ANALYTICS: Guest = Guest("analytics");
    pub(crate) const AUDIT_TRAIL: Guest = Guest("audit-trail");
    pub(crate) const BANK_ACCOUNT: Guest = Guest("bank-account");
    pub(crate) const CASE_PROGRESS: Guest = Guest("case-progress");
    pub(crate) const CSV_AUDIT: Guest = Guest("csv-audit");
    pub(crate) const FRAUD_ALERT: Guest = Guest("fraud-alert");
    pub(crate) const LOGIN_GUARD: Guest = Guest("login-guard");
    pub(crate) const NOTIFY: Guest = Guest("notify");
    pub(crate) const ORDER_SAGA: Guest = Guest("order-saga");
    pub(crate) const WEBHOOK_OUT: Guest = Guest("webhook-out");
    pub(crate) const TEMPERATURE: Guest = Guest("temperature");
}

/// The module of an example plugin, built by the host's own `tidegate build`.
pub(crate) fn built(guest: Guest) -> Vec<u8> {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        Cli::new(&["build"]).arg(root().join("plugins")).run().expect_done();
    });
    let Guest(name) = guest;
    std::fs::read(root().join("plugins").join(name).join(format!("{name}.wasm"))).unwrap()
}

/// Puts an example plugin with its manifest into a plugins folder.
pub(crate) fn put(guest: Guest, plugins: &Path) {
    let wasm = built(guest);
    let Guest(name) = guest;
    let folder = plugins.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = root().join("plugins").join(name).join("plugin.toml");
    std::fs::copy(manifest, folder.join("plugin.toml")).unwrap();
    std::fs::write(folder.join(format!("{name}.wasm")), wasm).unwrap();
}

/// The guest written against `wit/` alone, as a core module for wasm32-unknown-unknown.
pub(crate) fn bare_guest() -> Vec<u8> {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    let build = || {
        let folder = root().join("tests/fixtures/bare-guest");
        Cli::new(&["build"]).arg(&folder).run().expect_done();
        std::fs::read(folder.join("bare-guest.wasm")).unwrap()
    };
    BUILT.get_or_init(build).clone()
}

/// A guest that stands in `fixtures/`, written with the SDK. One is built at a time: two builds of the
/// same would write the same file.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = root().join("tests/fixtures").join(name);
    Cli::new(&["build"]).arg(&folder).run().expect_done();
    std::fs::read(folder.join(format!("{name}.wasm"))).unwrap()
}

/// Copies a folder, but for what was built in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != "target" {
                copy_folder(&from, &to);
            }
        } else if from.extension().is_none_or(|extension| extension != "wasm") {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// Emits, an allocator that starts over after each delivery, and a content type at 2900.
const PRELUDE: &str = r#"
  (import "tidegate:plugin/bus@0.1.0" "emit" (func $emit
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/context@0.1.0" "attempt" (func $attempt (result i32)))
  (data (i32.const 2900) "text/plain")
  (global $top (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get 2))))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (block $enough (loop $more
      (br_if $enough (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
      (br $more)))
    (local.get $at))
"#;

/// Wraps a core module's text into component type information of a world, as a compiler would.
fn encode(text: &str, world: &str) -> Vec<u8> {
    encode_with(text, "", world)
}

/// The same, with `more` worlds and packages behind the plugin's own.
pub(crate) fn encode_with(text: &str, more: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = format!("{}{more}", include_str!("../../wit/plugin.wit"));
    let group = UnresolvedPackageGroup::parse("plugin.wit", &wit).unwrap();
    let package = resolve.push_group(group).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// A handler that runs `body` and returns ok. `kind` is at 3000; `$event` points at the event, and
/// there is a local `$i`.
pub(crate) fn handler(kind: &str, body: &str, more: &str) -> Vec<u8> {
    encode(&handler_text(kind, body, more), "reactor")
}

fn handler_text(kind: &str, body: &str, more: &str) -> String {
    format!(
        r#"(module $guest {PRELUDE} (memory (export "memory") 2)
        (data (i32.const 3000) "{kind}") {more}
        (func $handle (export "tidegate:plugin/handler@0.1.0#handle")
          (param $event i32) (result i32) (local $i i32)
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          {body}
          (i32.const 2048))
        (func (export "cabi_post_tidegate:plugin/handler@0.1.0#handle") (param i32)
          (global.set $top (i32.const 65536))))"#
    )
}

/// A handler that sets `word` to a word, and a query that answers with it. On the state of another word
/// the query traps, as on a layout that it does not know.
pub(crate) fn keeper(word: &str) -> Vec<u8> {
    let len = word.len();
    let text = format!(
        r#"(module $guest
        (import "tidegate:plugin/state@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32 i64 i32)))
        (import "tidegate:plugin/state@0.1.0" "get" (func $get (param i32 i32 i32)))
        (memory (export "memory") 2)
        (data (i32.const 2900) "text/plain") (data (i32.const 3000) "word") (data (i32.const 3100) "{word}")
        (global $top (mut i32) (i32.const 65536))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
          (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
          (global.set $top (i32.add (local.get $at) (local.get 3)))
          (local.get $at))
        (func (export "tidegate:plugin/handler@0.1.0#handle") (param $event i32) (result i32)
          (call $set (i32.const 3000) (i32.const 4) (i32.const 3100) (i32.const {len})
            (i32.const 0) (i64.const 0) (i32.const 1024))
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          (i32.const 2048))
        (func (export "cabi_post_tidegate:plugin/handler@0.1.0#handle") (param i32)
          (global.set $top (i32.const 65536)))
        (func (export "tidegate:plugin/query@0.1.0#read")
          (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
          (call $get (i32.const 3000) (i32.const 4) (i32.const 1024))
          (if (i32.or (i32.eqz (i32.load8_u (i32.const 1024)))
                      (i32.ne (i32.load8_u (i32.load (i32.const 1028))) (i32.load8_u (i32.const 3100))))
            (then unreachable))
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 64))
          (i32.store (i32.const 2056) (i32.const 2900)) (i32.store (i32.const 2060) (i32.const 10))
          (i32.store (i32.const 2064) (i32.load (i32.const 1028)))
          (i32.store (i32.const 2068) (i32.load (i32.const 1032)))
          (i32.const 2048))
        (func (export "cabi_post_tidegate:plugin/query@0.1.0#read") (param i32)
          (global.set $top (i32.const 65536))))"#
    );
    let world = "world keeper { include plugin-imports; export handler; export query; }";
    encode_with(&text, world, "keeper")
}

/// An upcaster that lifts everything to version `to`, by adding `mark` to the data; data with a `!`
/// as its second byte it refuses to lift with the words "no amount", unless `lenient`.
pub(crate) fn upcaster(to: u32, mark: &str, lenient: bool) -> Vec<u8> {
    let (mark_len, refused) = (mark.len(), if lenient { 0 } else { 0x21 });
    let text = format!(
        r#"(module $guest (memory (export "memory") 2)
        (data (i32.const 2900) "text/plain") (data (i32.const 3000) "{mark}")
        (data (i32.const 3100) "no amount")
        (global $top (mut i32) (i32.const 65536))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
          (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
          (global.set $top (i32.add (local.get $at) (local.get 3)))
          (local.get $at))
        (func (export "tidegate:plugin/upcaster@0.1.0#upcast") (param $event i32) (result i32)
          (local $len i32)
          (local.set $len (i32.load offset=92 (local.get $event)))
          (if (i32.eq (i32.load8_u offset=1 (i32.load offset=88 (local.get $event)))
                      (i32.const {refused}))
            (then
              (i32.store (i32.const 2048) (i32.const 1))
              (i32.store (i32.const 2052) (i32.const 3100))
              (i32.store (i32.const 2056) (i32.const 9))
              (return (i32.const 2048))))
          (memory.copy (i32.const 4096) (i32.load offset=88 (local.get $event)) (local.get $len))
          (memory.copy (i32.add (i32.const 4096) (local.get $len)) (i32.const 3000)
            (i32.const {mark_len}))
          (i32.store (i32.const 2048) (i32.const 0))
          (i32.store (i32.const 2052) (i32.const {to}))
          (i32.store (i32.const 2056) (i32.const 2900))
          (i32.store (i32.const 2060) (i32.const 10))
          (i32.store (i32.const 2064) (i32.const 4096))
          (i32.store (i32.const 2068) (i32.add (local.get $len) (i32.const {mark_len})))
          (i32.const 2048))
        (func (export "cabi_post_tidegate:plugin/upcaster@0.1.0#upcast") (param i32)
          (global.set $top (i32.const 65536))))"#
    );
    encode(&text, "upgrader")
}

/// One emit of `kind` with the id of the input as its data, for [`handler`].
pub(crate) fn emitter(kind: &str) -> String {
    let len = kind.len();
    format!(
        "(call $emit (i32.const 3000) (i32.const {len})
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 2900) (i32.const 10)
           (i32.load (local.get $event)) (i32.load offset=4 (local.get $event))
           (i32.const 0) (i32.const 0) (i32.const 2200))"
    )
}

/// As [`emitter`], with the data of the input as its data.
pub(crate) fn echo(kind: &str) -> String {
    emitter(kind).replace(
        "(i32.load (local.get $event)) (i32.load offset=4 (local.get $event))",
        "(i32.load offset=88 (local.get $event)) (i32.load offset=92 (local.get $event))",
    )
}

/// A handler that calls `url`, emits `denied` where it may not, and then does `then`. It takes answers
/// without a word.
pub(crate) fn caller(url: &str, denied: &str, then: &str) -> Vec<u8> {
    let import = "(import \"tidegate:plugin/calls@0.1.0\" \"send\" (func $send (param i32 i32 i32 \
                  i32 i32 i32 i32 i32 i32 i32 i32 i32)))";
    let (len, emit) = (url.len(), emitter(denied));
    // The type of an answer is longer than what is handed to it here: its second letter tells.
    let body = format!(
        "(if (i32.eq (i32.load8_u offset=1 (i32.load offset=16 (local.get $event))) (i32.const 46))
          (then
            (call $send (i32.const 3000) (i32.const 4) (i32.const 3200) (i32.const 4)
              (i32.const 3300) (i32.const {len}) (i32.const 0) (i32.const 0)
              (i32.const 2900) (i32.const 10) (i32.const 5000) (i32.const 1024))
            (if (i32.load8_u (i32.const 1024)) (then {emit}))
            {then}))"
    );
    let more = format!("(data (i32.const 3200) \"POST\") (data (i32.const 3300) \"{url}\")");
    let text = handler_text(denied, &body, &more);
    encode(&text.replacen("(import", &format!("{import}\n  (import"), 1), "reactor")
}
