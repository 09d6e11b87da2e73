//! `wit/STDIO.md`, sentence by sentence: what is printed against what becomes of it.

use serde_json::{Value, json};

use super::*;
use crate::effects::{Draft, TimerChange, ends_at};
use crate::plugin::grants::HostPattern;

const STDIO: &str = include_str!("../../../../../wit/STDIO.md");

/// A plugin that has all grants and buses the document's examples speak of.
async fn printing(out: &str, end: &str) -> Plugin {
    let mut plugin = Plugin::load(command(out, "", end)).await;
    plugin.limits.buses = ["archive".to_owned()].into();
    plugin.limits.http = ["pay.example.com".parse::<HostPattern>().unwrap()].into();
    plugin.limits.secrets = ["PAY".parse().unwrap()].into();
    plugin
}

async fn printed(out: &str) -> Invocation {
    printing(out, "").await.deliver(".").await
}

async fn emitted(out: &str) -> Draft {
    let done = printed(out).await;
    assert_ok(&done);
    done.effects.emits.into_iter().next().unwrap()
}

/// Why the delivery trapped.
async fn trap(out: &str) -> String {
    let done = printed(out).await;
    assert_eq!(done.outcome.kind(), OutcomeKind::Trap, "{out}: {:?}", done.outcome);
    assert!(done.effects.is_empty());
    done.outcome.reason().to_owned()
}

fn request(operation: &str) -> Request {
    Request {
        operation: operation.to_owned(),
        key: Some(Key::new("k").unwrap()),
        principal: "alice".to_owned(),
        content_type: "application/json".to_owned(),
        data: Bytes::from_static(b"{\"n\":1}"),
        attributes: vec![("dry".to_owned(), "1".to_owned())],
    }
}

async fn execute(plugin: &mut Plugin) -> Invocation {
    let given = plugin.given(".");
    *plugin.module.execute(&mut plugin.slot, given.delivery(), request("reserve")).await
}

async fn ask(plugin: &mut Plugin) -> Invocation {
    let values = Values::of(&[("count", "41")]);
    let question = Question {
        request: request("balance"),
        now_ms: 5,
        seed: seed(),
        config: plugin.config.clone(),
        limits: Arc::new(plugin.limits.clone()),
        state: values.clone(),
        keys: values,
    };
    *plugin.module.read(&mut plugin.slot, question).await
}

/// The two lines a run is handed, which [`ECHO`] repeats in the log.
fn handed(done: &Invocation) -> [Value; 2] {
    let lines: Vec<Value> =
        done.logs.iter().map(|line| serde_json::from_str(&line.message).unwrap()).collect();
    lines.try_into().unwrap()
}

#[tokio::test]
async fn every_example_of_the_document_is_taken() {
    let known = ["emit", "state", "timer", "call", "log", "outcome", "response"];
    let mut seen = std::collections::BTreeSet::new();
    let (_, written) = STDIO.split_once("## Standard output").unwrap();
    for line in written.lines().filter_map(|line| line.strip_prefix("    {")) {
        let line = format!("{{{line}\n");
        let Ok(Value::Object(object)) = serde_json::from_str(&line) else { continue };
        let Some(member) = known.into_iter().find(|name| object.contains_key(*name)) else {
            continue;
        };
        seen.insert(member);
        let mut plugin = printing(&line, "").await;
        let done = match member {
            "response" => execute(&mut plugin).await,
            _ => plugin.deliver(".").await,
        };
        let kind = done.outcome.kind();
        let chosen = [OutcomeKind::Ok, OutcomeKind::Retry, OutcomeKind::Reject];
        assert!(chosen.contains(&kind), "{line}: {:?}", done.outcome);
    }
    assert_eq!(seen.len(), known.len(), "{seen:?}");
}

#[tokio::test]
async fn the_lines_that_are_read_have_the_members_the_document_lists() {
    let mut plugin = printing("", ECHO).await;
    let mut names = Vec::new();
    for done in [plugin.deliver(".").await, execute(&mut plugin).await, ask(&mut plugin).await] {
        let [event, rest] = handed(&done);
        names.extend(event.as_object().unwrap().keys().cloned());
        names.extend(rest.as_object().unwrap().keys().cloned());
        if let Some(request) = rest["request"].as_object() {
            names.extend(request.keys().cloned());
        }
    }
    for name in names {
        assert!(STDIO.contains(&format!("`{name}`")), "{name} is not in the document");
    }
}

#[tokio::test]
async fn emitted_data_follow_their_media_type() {
    let emit = emitted(r#"{"emit":{"type":"a","data":{"n": 1.10}}}"#).await;
    assert_eq!((&*emit.content_type, &*emit.data), ("application/json", &b"{\"n\": 1.10}"[..]));
    let emit = emitted(r#"{"emit":{"type":"a"}}"#).await;
    assert_eq!((&*emit.content_type, &*emit.data), ("", &b""[..]));
    let emit = emitted(r#"{"emit":{"type":"a","data":null,"key":null}}"#).await;
    assert_eq!((&*emit.content_type, &*emit.data), ("", &b""[..]), "null is left out");
    let text = r#"{"emit":{"type":"a","datacontenttype":"text/plain","data":"caf\u00e9"}}"#;
    assert_eq!(&*emitted(text).await.data, "café".as_bytes());
    let json = r#"{"emit":{"type":"a","datacontenttype":"application/x+json","data":"x"}}"#;
    assert_eq!(&*emitted(json).await.data, b"\"x\"");
    let binary = r#"{"emit":{"type":"a","data_base64":"/w=="}}"#;
    assert_eq!(&*emitted(binary).await.data, b"\xff");
    let full = r#"{"emit":{"type":"a","key":"o","bus":"archive","attributes":{"b":"2","a":"1"}}}"#;
    let emit = emitted(full).await;
    assert_eq!(emit.key, Some(Key::new("o").unwrap()));
    assert_eq!(emit.bus.as_deref(), Some("archive"));
    let attributes: Vec<_> = emit.attributes.iter().map(|(name, _)| &**name).collect();
    assert_eq!(attributes, ["a", "b"]);
}

#[tokio::test]
async fn state_is_set_then_deleted_and_can_end() {
    let out = r#"{"state":{"set":{"a":null,"b":[ 1 ]},"delete":["b"]}}
        {"state":{"set":{"c":true},"ttl_ms":60}}"#;
    let done = printed(out).await;
    assert_ok(&done);
    let found: Vec<_> = (done.effects.state.iter())
        .map(|write| (&*write.name, write.value.as_deref(), write.expires_ms))
        .collect();
    let end = Some(ends_at(1_700_000_000_060));
    assert_eq!(
        found,
        [("a", Some(&b"null"[..]), None), ("b", None, None), ("c", Some(&b"true"[..]), end)]
    );
}

#[tokio::test]
async fn timers_are_set_for_a_moment_or_a_while_and_cancelled() {
    let out = r#"{"timer":{"set":"a","due_ms":9,"data":{"n":1}}}
        {"timer":{"set":"b","after_ms":60}}
        {"timer":{"cancel":"c"}}
        {"timer":{"set":"d","due_ms":9,"data_base64":"/w=="}}"#;
    let done = printed(out).await;
    assert_ok(&done);
    let set = |name: &str, due_ms, data: &'static [u8]| TimerChange::Set {
        name: name.into(),
        due_ms,
        data: Bytes::from_static(data),
    };
    let cancel = TimerChange::Cancel { name: "c".into() };
    let expected =
        [set("a", 9, b"{\"n\":1}"), set("b", 1_700_000_000_060, b""), cancel, set("d", 9, b"\xff")];
    assert_eq!(done.effects.timers, expected);
}

#[tokio::test]
async fn calls_have_what_the_document_says_where_nothing_is_said() {
    let out = r#"{"call":{"name":"a","url":"https://pay.example.com/v1","data":[1]}}
        {"call":{"name":"b","url":"https://pay.example.com/v1","method":"GET","timeout_ms":5,
         "headers":{"Content-Type":"text/plain","x":"{secret:PAY}"},"data_base64":"eA=="}}"#
        .replace("5,\n", "5,");
    let done = printed(&out).await;
    assert_ok(&done);
    let [first, second] = done.effects.calls.as_slice() else { panic!("{:?}", done.effects) };
    assert_eq!((&*first.method, first.timeout_ms, &*first.body), ("POST", 10_000, &b"[1]"[..]));
    assert_eq!(first.headers, [("content-type".into(), "application/json".into())]);
    assert_eq!((&*second.method, second.timeout_ms, &*second.body), ("GET", 5, &b"x"[..]));
    assert_eq!(second.headers.len(), 2, "no other content type is added");
}

#[tokio::test]
async fn log_lines_are_kept_in_their_order_however_it_ends() {
    let out = r#"{"log":{"message":"one"}}
        {"log":{"level":"warn","message":"two"}}"#;
    for (more, end) in [
        ("", ""),
        ("\nno json\n{\"log\":{\"message\":\"three\"}}", ""),
        ("\n{\"outcome\":\"reject\"}", "(call $exit (i32.const 3))"),
        ("\n{\"log\":{\"mess", "unreachable"),
        ("", "(loop $forever (br $forever))"),
    ] {
        let wasm = command(&format!("{out}{more}"), "three", end);
        let done = Plugin::load(wasm).await.deliver(".").await;
        let said: Vec<_> = done.logs.iter().map(|line| (&*line.level, &*line.message)).collect();
        assert_eq!(said, [("info", "one"), ("warn", "two"), ("info", "three")], "{more} {end}");
    }
}

#[tokio::test]
async fn an_outcome_counts_more_than_the_code_and_less_than_a_stop() {
    let ok = "{\"outcome\":\"ok\"}";
    for (out, end, expected) in [
        ("", "(call $exit (i32.const 0))", OutcomeKind::Ok),
        ("", "(call $exit (i32.const 3))", OutcomeKind::Trap),
        (ok, "(call $exit (i32.const 125))", OutcomeKind::Ok),
        (ok, "(call $exit (i32.const 126))", OutcomeKind::Trap),
        (ok, "unreachable", OutcomeKind::Trap),
        ("{\"outcome\":\"reject\"}", "(call $exit (i32.const 9))", OutcomeKind::Reject),
        ("{\"outcome\":\"retry\"}\n{\"emit\":{\"type\":\"a\"}}", "", OutcomeKind::Retry),
        ("{\"outcome\":\"ok\"}\n{\"emit\":{\"type\":\"a\"}}\n\n", "", OutcomeKind::Ok),
    ] {
        let done = printing(out, end).await.deliver(".").await;
        assert_eq!(done.outcome.kind(), expected, "{out} {end}");
        let emits = usize::from(expected == OutcomeKind::Ok && out.contains("emit"));
        assert_eq!(done.effects.emits.len(), emits, "{out}: wherever the outcome stands");
    }
}

#[tokio::test]
async fn a_line_that_makes_no_sense_is_named() {
    for (out, reason) in [
        ("\n\n{\"emit\":}\n", "standard output, line 3, column 9: expected value"),
        ("\"text\"", "standard output, line 1, column 6: "),
        (
            "{\"outcome\":\"ok\"}\n{\"outcome\":\"ok\"}",
            "standard output, line 2: a second `outcome`",
        ),
        ("{\"response\":{}}", "standard output, line 1: a `response`, but nothing was asked"),
        ("{}", "standard output, line 1: expected exactly one of"),
        ("\u{feff}{\"outcome\":\"ok\"}", "standard output, line 1, column 1: "),
        (r#"{"emit":{"type":"tidegate.a"}}"#, "standard output, line 1: `type` is `tidegate.a`"),
        (r#"{"emit":{"type":"a","bus":"b"}}"#, "standard output, line 1: there is no bus `b`"),
        (r#"{"emit":{"type":"a","data":1,"data_base64":"eA=="}}"#, "exclude each other"),
        (r#"{"emit":{"type":"a","data_base64":"e"}}"#, "`data_base64`"),
        (r#"{"state":{"ttl_ms":5}}"#, "`ttl_ms` is about"),
        (r#"{"state":{"set":{"":1}}}"#, "a name must have 1 to 255 bytes"),
        (r#"{"timer":{"set":"a"}}"#, "`due_ms` or `after_ms` is missing"),
        (r#"{"timer":{"set":"a","due_ms":1,"after_ms":1}}"#, "exclude each other"),
        (r#"{"timer":{"cancel":"a","data":1}}"#, "`cancel` alone"),
        (r#"{"timer":{}}"#, "`cancel` alone"),
        (r#"{"call":{"name":"a","url":"https://other.example.com"}}"#, "`grants.http`"),
        (r#"{"call":{"name":"a","url":"https://pay.example.com","timeout_ms":0}}"#, "1 to 60000"),
    ] {
        let why = trap(out).await;
        assert!(why.contains(reason), "{out}: {why}");
    }
}

#[tokio::test]
async fn what_needs_a_key_is_refused_without_one() {
    for out in [r#"{"state":{"set":{"a":1}}}"#, r#"{"timer":{"set":"a","due_ms":1}}"#] {
        let mut plugin = printing(out, "").await;
        plugin.key = None;
        let done = plugin.deliver(".").await;
        let why = "standard output, line 1: the event has no key, so no state";
        assert_eq!(done.outcome, Outcome::Trap { reason: why.to_owned() });
    }
}

#[tokio::test]
async fn a_command_is_read_and_answered() {
    let out = "{\"response\":{\"data\":{\"sum\":42},\"attributes\":{\"cached\":\"no\"}}}\n\
               {\"state\":{\"set\":{\"sum\":42}}}\n";
    let mut plugin = printing(out, ECHO).await;
    let done = execute(&mut plugin).await;
    assert_ok(&done);
    let [event, rest] = handed(&done);
    assert_eq!(event["partitionkey"], "k");
    let expected = json!({ "kind": "command", "operation": "reserve", "principal": "alice",
                           "parameters": { "dry": "1" } });
    assert_eq!(rest["request"], expected);
    assert_eq!(done.effects.state.len(), 1);
    let answer = done.effects.response.unwrap();
    assert_eq!((&*answer.content_type, &*answer.data), ("application/json", &b"{\"sum\":42}"[..]));
    assert_eq!(answer.attributes, [("cached".into(), "no".into())]);
    plugin.limits.output_bytes_max = 20;
    assert_eq!(execute(&mut plugin).await.outcome.kind(), OutcomeKind::Output);
}

#[tokio::test]
async fn a_program_that_does_not_answer_leaves_nothing_behind() {
    for out in ["{\"state\":{\"set\":{\"a\":1}}}\n", "{\"outcome\":\"ok\"}\n"] {
        let done = execute(&mut printing(out, "").await).await;
        let why = "the command `reserve` was not answered: no `response` was printed";
        assert_eq!(done.outcome, Outcome::Reject { reason: why.to_owned() });
        assert!(done.effects.is_empty());
    }
    let retry = execute(&mut printing("{\"outcome\":\"retry\"}", "").await).await;
    assert_eq!(retry.outcome.kind(), OutcomeKind::Retry);
    let twice = execute(&mut printing("{\"response\":{}}\n{\"response\":{}}", "").await).await;
    assert!(twice.outcome.reason().contains("line 2: a second `response`"), "{twice:?}");
}

#[tokio::test]
async fn a_question_is_read_and_has_no_effects() {
    let mut plugin = printing("{\"response\":{\"data\":41}}", ECHO).await;
    let done = ask(&mut plugin).await;
    assert_ok(&done);
    let [event, rest] = handed(&done);
    let expected = json!({ "specversion": "1.0", "id": "query", "source": "/tidegate",
                           "type": "tidegate.query", "partitionkey": "k",
                           "datacontenttype": "application/json", "data": { "n": 1 } });
    assert_eq!(event, expected);
    assert_eq!(rest["state"], json!({ "count": 41 }));
    assert_eq!((&rest["request"]["kind"], &rest["recorded_ms"]), (&json!("query"), &json!(5)));
    assert_eq!(&*done.effects.response.unwrap().data, b"41");
    for out in [
        r#"{"emit":{"type":"a"}}"#,
        r#"{"state":{"set":{"a":1}}}"#,
        r#"{"timer":{"cancel":"a"}}"#,
        r#"{"call":{"name":"a","url":"https://pay.example.com"}}"#,
    ] {
        let done = ask(&mut printing(&format!("{out}\n{{\"response\":{{}}}}"), "").await).await;
        assert_eq!(done.outcome.kind(), OutcomeKind::Trap, "{out}");
        assert!(done.outcome.reason().contains("line 1: nothing can be written"), "{done:?}");
    }
}

#[tokio::test]
async fn state_that_cannot_be_handed_over_is_a_trap_that_says_so() {
    let large = format!("\"{}\"", "x".repeat(crate::limits::STDIO_STATE_BYTES_MAX));
    let mut plugin = printing("", "").await;
    plugin.state = Values::of(&[("large", &large)]);
    let done = plugin.deliver(".").await;
    assert_eq!(done.outcome.kind(), OutcomeKind::Trap);
    assert!(done.outcome.reason().contains("bytes of state"), "{:?}", done.outcome);
}

#[tokio::test]
async fn the_world_of_a_run_is_empty() {
    // How many arguments and variables there are, and whether anything is open beyond the streams.
    let text = r#"(module
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get"
          (func $environ (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_prestat_get"
          (func $open (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (drop (call $args (i32.const 0) (i32.const 4)))
          (drop (call $environ (i32.const 8) (i32.const 12)))
          (if (i32.ne (i32.load (i32.const 0)) (i32.const 1)) (then unreachable))
          (if (i32.ne (i32.load (i32.const 4)) (i32.const 7)) (then unreachable))
          (if (i32.load (i32.const 8)) (then unreachable))
          (if (i32.eqz (call $open (i32.const 3) (i32.const 16))) (then unreachable))))"#;
    assert_ok(&Plugin::load(text.as_bytes().to_vec()).await.deliver(".").await);
}
