use super::*;
use crate::wasm::fixtures::typed_core;

/// A line that sets a state value, and one that emits an event.
const EMITS: &str = r#"{"state":{"set":{"seen":true}}}
{"emit":{"type":"order.done","data":{"n":1}}}
"#;

/// A line that sets a timer, a minute from now.
const REMINDS: &str = "{\"timer\":{\"set\":\"t\",\"after_ms\":60000}}\n";

/// A line that says what is wrong, in two lines.
const FAILS: &str = "{\"log\":{\"level\":\"error\",\"message\":\"boom\\n  at work\"}}\n";

/// A stdio module that never ends.
const SPINS: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.created",
  "subject":"o-1","time":"2024-05-01T00:00:00Z","data":{"amount":40}}"#;

/// A stdio module that prints this and ends with an exit code.
fn prints(text: &str, code: i32) -> String {
    let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let length = text.len();
    let end = if code == 0 { String::new() } else { format!("(call $exit (i32.const {code}))") };
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{bytes}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const {length}))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    {end}))"#
    )
}

struct Case {
    dir: tempfile::TempDir,
    args: TestArgs,
}

fn case(module: &str, events: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("m.wat"), module).unwrap();
    std::fs::write(path("events.ndjson"), events).unwrap();
    let args = TestArgs {
        path: path("m.wat"),
        events: Some(path("events.ndjson")),
        ..TestArgs::default()
    };
    Case { dir, args }
}

async fn run_case(case: &Case, output: Output) -> anyhow::Result<(String, bool)> {
    let sandbox = sandbox(case.dir.path(), Compiler::InProcess)?;
    let mut out = Vec::new();
    let code = test(&case.args, None, output, &sandbox, &mut out).await?;
    Ok((String::from_utf8(out)?, code == ExitCode::SUCCESS))
}

fn one_line(event: &str) -> String {
    event.replace('\n', " ")
}

#[tokio::test]
async fn effects_are_printed_for_people() {
    let case = case(&prints(EMITS, 0), &one_line(EVENT));
    let (text, ok) = run_case(&case, Output::Text).await.unwrap();
    assert!(ok, "{text}");
    assert!(text.starts_with("#1 order.created o-1 ok  "), "{text}");
    assert!(text.contains("\n   -> order.done o-1 {\"n\":1}\n"), "{text}");
    assert!(text.contains("\n   state seen = true\n"), "{text}");
}

#[tokio::test]
async fn json_is_one_object_a_delivery() {
    let events = format!("{}\n\n{}\n", one_line(EVENT), one_line(EVENT).replace("o-1", "o-2"));
    let case = case(&prints(EMITS, 0), &events);
    let (text, ok) = run_case(&case, Output::Json).await.unwrap();
    assert!(ok, "{text}");
    let documents: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[1]["position"], 2);
    assert_eq!(documents[1]["key"], "o-2");
    assert_eq!(documents[1]["outcome"], "ok");
    assert_eq!(documents[1]["effects"]["emits"][0]["data"]["n"], 1);
    assert_eq!(documents[1]["effects"]["state"][0]["name"], "seen");
    assert!(documents[1]["fuel"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_failed_delivery_is_a_failure() {
    let (text, ok) =
        run_case(&case(&prints(FAILS, 3), &one_line(EVENT)), Output::Text).await.unwrap();
    assert!(!ok);
    assert!(text.starts_with("#1 order.created o-1 trap  "), "{text}");
    assert!(text.contains("   exited with code 3: boom at work\n"), "{text}");
    assert!(text.contains("\n   log error: boom\n         at work\n"), "{text}");
}

#[tokio::test]
async fn limits_of_the_manifest_hold() {
    let case = case(SPINS, &one_line(EVENT));
    std::fs::write(case.dir.path().join("m.toml"), "[limits]\nfuel = 3000\n").unwrap();
    let (text, ok) = run_case(&case, Output::Text).await.unwrap();
    assert!(!ok && text.starts_with("#1 order.created o-1 fuel  "), "{text}");
}

/// The clock once said what time it was: no run was like the one before.
#[tokio::test]
async fn an_event_without_a_time_comes_with_the_one_before() {
    let event = |key: &str, time: &str| {
        let event = one_line(EVENT).replace("o-1", key);
        let time = if time.is_empty() { String::new() } else { format!("\"time\":\"{time}\",") };
        event.replace("\"time\":\"2024-05-01T00:00:00Z\",", &time)
    };
    let dues = async |events: &[String]| {
        let (text, ok) =
            run_case(&case(&prints(REMINDS, 0), &events.join("\n")), Output::Text).await.unwrap();
        assert!(ok, "{text}");
        let due = |line: &str| line.split_once(", due ").map(|(_, due)| due.to_owned());
        text.lines().filter_map(due).collect::<Vec<_>>()
    };
    let at_first = "2024-01-01T00:01:00.000Z";
    assert_eq!(dues(&[event("a", ""), event("b", "")]).await, [at_first, at_first]);
    let old = [event("a", "2020-01-01T00:00:00Z"), event("b", "")];
    assert_eq!(dues(&old).await, ["2020-01-01T00:01:00.000Z"; 2]);
}

#[tokio::test]
async fn one_event_may_span_lines() {
    let mut case = case(&prints(EMITS, 0), EVENT);
    case.args.event = case.args.events.take();
    assert!(run_case(&case, Output::Text).await.unwrap().1);
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_place() {
    let bad_line = format!("{}\n{{\"id\":1\n", one_line(EVENT));
    let error = run_case(&case(&prints(EMITS, 0), &bad_line), Output::Text).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("events.ndjson`: line 2, column 7: not valid JSON"),
        "{error:#}"
    );
    let broken =
        run_case(&case(&prints(EMITS, 0), &format!("{}\n{{no", one_line(EVENT))), Output::Text)
            .await;
    let error = format!("{:#}", broken.unwrap_err());
    assert!(error.ends_with("line 2, column 2: not valid JSON: key must be a string"), "{error}");
    let error = run_case(&case(&prints(EMITS, 0), "\n \n"), Output::Text).await.unwrap_err();
    assert!(
        error.to_string().ends_with("has no events: it takes one CloudEvent a line"),
        "{error}"
    );
    let error = run_case(&case("(module)", &one_line(EVENT)), Output::Text).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("m.wat` is refused: a core module without"), "{error}");
    let bad_manifest = case(&prints(EMITS, 0), &one_line(EVENT));
    std::fs::write(bad_manifest.dir.path().join("m.toml"), "[limits]\nfule = 3\n").unwrap();
    let error = format!("{:#}", run_case(&bad_manifest, Output::Text).await.unwrap_err());
    assert!(error.contains("limits.fule"), "{error}");
}

/// A stdio module that writes what line 2 of its input says of state into its log, and sets `n`.
const COUNTS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{\"state\":{\"set\":{\"n\":7}}}\n{\"emit\":{\"type\":\"order.done\",\"data\":{\"n\":1}}}\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 72))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// A plugin's folder with a ready module and one test.
fn folder(test: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("counts");
    std::fs::create_dir_all(plugin.join("tests")).unwrap();
    std::fs::write(plugin.join("plugin.toml"), "module = \"counts.wat\"").unwrap();
    std::fs::write(plugin.join("counts.wat"), COUNTS).unwrap();
    std::fs::write(plugin.join("tests/it-counts.toml"), test).unwrap();
    let args = TestArgs { path: plugin, ..TestArgs::default() };
    Case { dir, args }
}

#[tokio::test]
async fn tests_of_a_folder_pass_where_all_is_as_expected() {
    let case = folder(
        r#"state.k.old = "x"
        [[step]]
        event = { type = "a", key = "k" }
        expect.state = { n = 7, old = "x" }
        expect.emits = [{ type = "order.done", key = "k", data = { n = 1 } }]"#,
    );
    let (text, ok) = run_case(&case, Output::Text).await.unwrap();
    assert!(ok, "{text}");
    assert!(text.starts_with("counts\n  ok    it-counts   1 step   "), "{text}");
    assert!(text.ends_with("\n1 test, 0 failed\n"), "{text}");
}

#[tokio::test]
async fn a_mismatch_is_shown_as_a_difference_and_is_a_failure() {
    let case = folder(
        r#"[[step]]
        event = { type = "a", key = "k" }
        expect.state = { n = 8 }
        expect.emits = [{ type = "order.done", data = { n = 2 } }, { type = "more" }]"#,
    );
    let (text, ok) = run_case(&case, Output::Text).await.unwrap();
    assert!(!ok && text.contains("  FAIL  it-counts\n        step 1: a k "), "{text}");
    assert!(text.contains("state.n\n            - 8\n            + 7\n"), "{text}");
    assert!(text.contains("emits[0].data.n\n            - 2\n            + 1\n"), "{text}");
    assert!(text.contains("emits[1]\n            - more\n            + nothing\n"), "{text}");
    let (text, _) = run_case(&case, Output::Json).await.unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["test"], &lines[0]["passed"]), (&"it-counts".into(), &false.into()));
    assert_eq!(lines[0]["failure"]["differences"].as_array().unwrap().len(), 3, "{text}");
    assert_eq!(lines[1], serde_json::json!({ "tests": 1, "failed": 1 }));
}

#[tokio::test]
async fn what_cannot_happen_fails_the_test_in_words() {
    let case = folder("[[step]]\ntimer = { name = \"remind\", key = \"k\" }");
    let (text, ok) = run_case(&case, Output::Text).await.unwrap();
    assert!(!ok && text.contains("no timer `remind` of `k` is pending; pending: none"), "{text}");
    let case = folder("[[step]]\ncommand = { name = \"close\", key = \"k\" }");
    std::fs::write(case.args.path.join("counts.wat"), typed_core("")).unwrap();
    let (text, _) = run_case(&case, Output::Text).await.unwrap();
    assert!(text.contains("step 1: the module does not export `command`"), "{text}");
    let case = folder("[[step]]\nevnt = { type = \"a\" }");
    let (text, _) = run_case(&case, Output::Text).await.unwrap();
    assert!(text.contains("did you mean `step.0.event`?"), "{text}");
}

#[tokio::test]
async fn a_folder_without_tests_says_where_they_go() {
    let case = folder("");
    std::fs::remove_dir_all(case.args.path.join("tests")).unwrap();
    let error = run_case(&case, Output::Text).await.unwrap_err().to_string();
    assert!(error.contains("folder `tests`"), "{error}");
}

#[test]
fn a_change_of_a_test_is_seen() {
    let case = folder("");
    let seen = watch::look(&case.args);
    assert!(seen.iter().any(|(path, _)| path.ends_with("tests/it-counts.toml")), "{seen:?}");
    assert_eq!(watch::look(&case.args), seen);
    std::fs::write(case.args.path.join("tests/it-counts.toml"), "# changed").unwrap();
    assert_ne!(watch::look(&case.args), seen);
}
