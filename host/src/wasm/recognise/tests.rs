use super::*;
use crate::wasm::fixtures::{COMPONENT, STDIO, binary, typed_core};

#[track_caller]
fn check(bytes: &[u8], kind: ModuleKind, text: bool) {
    let recognised = recognise(bytes).unwrap();
    assert_eq!((recognised.kind, recognised.text), (kind, text));
}

#[track_caller]
fn refused(bytes: &[u8], words: &str) {
    let refusal = recognise(bytes).unwrap_err().to_string();
    assert!(refusal.contains(words), "`{refusal}` does not say `{words}`");
}

#[test]
fn every_kind_is_told_from_its_bytes() {
    check(&binary(COMPONENT), ModuleKind::Component, false);
    check(&binary(STDIO), ModuleKind::Stdio, false);
    check(&typed_core(""), ModuleKind::Core, false);
}

#[test]
fn text_is_told_past_space_and_comments() {
    check(COMPONENT.as_bytes(), ModuleKind::Component, true);
    check(format!(";; says why\n  {STDIO}").as_bytes(), ModuleKind::Stdio, true);
    check(format!("\u{feff}\n(; says why ;) {STDIO}").as_bytes(), ModuleKind::Stdio, true);
}

#[test]
fn types_count_before_a_start_function() {
    check(&typed_core(r#"(func (export "_start"))"#), ModuleKind::Core, false);
}

#[test]
fn a_start_function_inside_a_component_is_not_a_command() {
    let component = r#"(component (core module (func (export "_start"))))"#;
    check(component.as_bytes(), ModuleKind::Component, true);
}

#[test]
fn compiled_code_is_refused() {
    let engine = wasmtime::Engine::new(&crate::wasm::engine::compile_config()).unwrap();
    let code = engine.precompile_module(&binary(STDIO)).unwrap();
    assert_eq!(recognise(&code).unwrap_err(), Refusal::Precompiled);
}

#[test]
fn other_files_are_refused_in_words() {
    refused(b"", "the file is empty");
    refused(b"\x7fELF\x02\x01\x01", "an ELF program");
    refused(b"\x1f\x8b\x08", "gzip");
    refused(b"PK\x03\x04", "zip");
    refused(b"hello", "it is text that begins `hello`");
    refused(b"\xffello", "at offset 0 it begins with ff 65 6c 6c 6f");
    refused(b"\0as", "ends within its header (3 of 8 bytes)");
    refused(b"\0asm\x63\0\0\0", "the version in its header is unknown");
    refused(b"(module (func)", "not valid WebAssembly text");
    refused(b"(\xff", "not UTF-8 at byte 1");
}

#[test]
fn exports_of_the_contract_need_no_types() {
    let text = r#"(module (func (export "tidegate:plugin/handler@0.1.0#handle")))"#;
    assert_eq!(recognise(text.as_bytes()).unwrap().kind, ModuleKind::Core);
}

#[test]
fn an_untyped_module_is_told_what_it_lacks() {
    refused(br#"(module (func (export "run")))"#, "it exports `run`");
    refused(b"(module)", "it exports no function");
}
