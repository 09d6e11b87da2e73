use super::*;
use crate::wasm::fixtures::{COMPONENT, STDIO, importing, typed_core};

#[test]
fn a_good_module_is_told_as_such() {
    let report = report(&typed_core(""));
    assert!(report.would_load(), "{report}");
    assert_eq!((report.kind, report.text), (Some(ModuleKind::Core), false));
    assert_eq!(report.exports, ["handler"]);
    assert!(report.imports.iter().all(|import| import.verdict == Verdict::Granted));
    let memory = MemoryShape { minimum_bytes: 64 * 1024, maximum_bytes: None };
    assert_eq!(report.memory, Some(memory));
    assert!(report.compile_ms.is_some());
}

#[test]
fn the_text_names_what_an_author_looks_for() {
    let text = report(COMPONENT.as_bytes()).to_string();
    for words in [
        "kind     a component, as text",
        "exports  handler",
        "memory   from 128 KiB, up to 256 KiB",
        "imports  tidegate:plugin/context@0.1.0  granted",
    ] {
        assert!(text.contains(words), "no `{words}` in:\n{text}");
    }
}

#[test]
fn a_handler_of_another_type_is_a_problem() {
    let report = report(COMPONENT.as_bytes());
    assert!(!report.would_load(), "{report}");
    assert!(report.problems[0].contains("handler"), "{report}");
}

#[test]
fn every_import_that_is_not_granted_is_a_problem() {
    let wasm = importing("acme:db/store@1.0.0");
    let wasm = wasm.replacen(
        "(component",
        r#"(component (import "wasi:http/handler@0.2.3" (instance))"#,
        1,
    );
    let report = report(wasm.as_bytes());
    assert!(!report.would_load());
    assert_eq!(report.problems.len(), 2, "{report}");
    let text = report.to_string();
    assert!(text.contains("wasi:http/handler@0.2.3        needs `grants.http`"), "{text}");
    assert!(text.contains("acme:db/store@1.0.0            refused"), "{text}");
    assert!(text.ends_with("would be refused"), "{text}");
}

#[test]
fn a_grant_that_the_manifest_asks_for_is_the_operators_to_give() {
    let wasm = typed_core("");
    let http = |why: &str| report_of(&wasm, why);
    let import = "wasi:http/outgoing-handler@0.2.3";
    let without = http("");
    assert_eq!(without.problems.len(), 1, "{without}");
    assert!(without.problems[0].contains("`[grants] http = "), "{without}");
    let with = http("api.example.com");
    assert!(with.problems.is_empty(), "{with}");
    assert!(with.notes[0].contains("allow.http = [\"api.example.com\"]"), "{with}");
    assert!(with.to_string().contains(&format!("{import}  needs `grants.http`")), "{with}");
}

/// What is said of a module that imports `wasi:http`, where the manifest asks for a host.
fn report_of(wasm: &[u8], host: &str) -> ModuleReport {
    let asked = Grants { http: host.parse().into_iter().collect(), ..Grants::default() };
    let kind = ModuleKind::Component;
    let imports = ["wasi:http/outgoing-handler@0.2.3", "wasi:http/types@0.2.3"];
    let imports = imports.map(str::to_owned).to_vec();
    let exports = vec!["tidegate:plugin/handler@0.1.0".to_owned()];
    let shape = Shape { imports, exports, ..Shape::default() };
    let description = Description { kind, text: false, shape };
    let manifest = Manifest { grants: asked, ..Manifest::default() };
    ModuleReport::new(wasm, &manifest, Some(&description), Ok(Duration::ZERO))
}

#[test]
fn a_typed_module_with_wasi_is_told_that_nothing_is_behind_it() {
    let report = report(&typed_core(
        r#"(import "wasi_snapshot_preview1" "environ_get" (func (param i32 i32) (result i32)))"#,
    ));
    assert!(report.would_load(), "{report}");
    assert!(report.imports.iter().any(|import| import.verdict == Verdict::Empty));
    assert!(report.notes[0].starts_with("WASI is there so that it links"));
}

#[test]
fn a_memory_above_the_default_limit_is_a_note() {
    let large = report(STDIO.replace("\"memory\") 1", "\"memory\") 2000").as_bytes());
    assert!(large.would_load(), "{large}");
    assert!(large.notes.iter().any(|note| note.contains("starts at 125 MiB")), "{large}");
}

#[test]
fn what_is_not_a_module_is_a_problem_in_words() {
    let report = report(b"\x7fELF");
    assert_eq!(report.kind, None);
    assert!(report.problems[0].contains("an ELF program"), "{report}");
}

#[test]
fn the_document_has_stable_names() {
    let report = report(STDIO.as_bytes());
    let document = serde_json::to_value(&report).unwrap();
    assert_eq!(document["kind"], "stdio");
    assert_eq!(document["exports"][0], "handler");
    assert_eq!(document["imports"][0]["name"], "wasi_snapshot_preview1.proc_exit");
    assert_eq!(document["imports"][0]["verdict"], "granted");
    assert_eq!(document["memory"]["minimum_bytes"], 64 * 1024);
    assert_eq!(document["digest"], Digest::of(STDIO.as_bytes()).to_string());
}

fn fitting(wasm: &[u8], manifest: &str) -> ModuleReport {
    let manifest = Manifest::parse("m.toml", manifest).unwrap();
    inspect(wasm, &manifest, &Compiler::InProcess, &CompileLimits::default())
}

#[test]
fn the_manifest_is_held_against_the_module() {
    let report = fitting(&typed_core(""), "[subscribe]\ntypes = [\"order.*\"]");
    assert_eq!(report.manifest, ["gets `order.*` of the bus `main`"]);
    let narrow =
        "[subscribe]\nsources = [\"/shop*\"]\nstart = \"latest\"\nwhere = { region = \"eu\" }";
    assert_eq!(
        fitting(&typed_core(""), narrow).manifest,
        ["gets every published event of the bus `main` from `/shop*` where `region` is \"eu\", \
          beginning at `latest`"]
    );
    let large = STDIO.replace("\"memory\") 1", "\"memory\") 2000");
    let report = fitting(large.as_bytes(), "[limits]\nmemory = \"100MiB\"");
    assert!(report.notes.iter().any(|note| note.contains("`memory = \"128MiB\"`")), "{report}");
    let report = fitting(large.as_bytes(), "[limits]\nmemory = \"128MiB\"");
    assert!(!report.notes.iter().any(|note| note.contains("memory")), "{report}");
    let grants = "[subscribe]\nstart = \"latest\"\n[grants]\nsecrets = [\"TOKEN\"]";
    let report = fitting(&typed_core(""), grants);
    assert!(report.notes[0].contains("`allow.secrets = [\"TOKEN\"]`"), "{report}");
    let report = fitting(&typed_core(""), "[upcast]\n\"order.created\" = [1]");
    assert!(report.notes[0].contains("exports no `upcaster`"), "{report}");
}

#[test]
fn what_cannot_be_called_is_described_with_what_to_do() {
    let core = wat::parse_str(
        r#"(module (import "env" "db" (func)) (memory (export "memory") 1) (func (export "go")))"#,
    );
    let text = report(&core.unwrap()).to_string();
    for words in [
        "kind     a core module (plain WebAssembly)\n",
        "exports  go: nothing that this host calls\n",
        "imports  env.db  refused\n",
        "to do    `tidegate new NAME --lang ",
        "would be refused",
    ] {
        assert!(text.contains(words), "no `{words}` in:\n{text}");
    }
}

#[test]
fn a_component_of_another_world_is_told_what_it_lacks_beside_what_it_wants() {
    let component = r#"(component
        (import "acme:db/query@1.0.0" (instance (export "run" (func))))
        (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $h (canon lift (core func $i "f"))) (export "go" (func $h)))"#;
    let report = report(component.as_bytes());
    assert_eq!(report.problems.len(), 2, "{report}");
    assert!(
        report.problems[1].contains("exports `go`; a plugin exports at least one of"),
        "{report}"
    );
    assert!(report.to_string().contains("exports  go: nothing that this host calls"), "{report}");
}

#[test]
fn text_that_is_no_module_is_shown() {
    let report = report("export const handler = {\n".as_bytes());
    assert!(report.problems[0].contains("text that begins `export const handler = {`"), "{report}");
    assert!(report.problems[0].contains("`tidegate build DIR`"), "{report}");
}

#[test]
fn what_ends_too_early_is_described_as_far_as_it_goes() {
    let whole = typed_core("");
    let text = report(&whole[..whole.len() - 10]).to_string();
    assert!(text.contains("kind     a core module"), "{text}");
    assert!(text.contains("exports  ") && !text.contains("nothing that this host calls"), "{text}");
    assert!(text.contains("the file ends too early"), "{text}");
}
