//! Component types for core modules that carry none.
//!
//! wit-bindgen leaves its types in a custom section. A module written by hand against the canonical
//! ABI, as the C header is, has only the names of its imports and exports; as those are of a package
//! that this host knows by heart, they say everything. So plain clang output is a plugin, and so is
//! a module whose custom sections a tool stripped.

use std::fmt::Write as _;

use wasmparser::{ExternalKind, Parser, Payload};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, UnresolvedPackageGroup};

use super::refusal::Refusal;
use super::shape::CALLED;

/// The contract, as text.
const PLUGIN_WIT: &str = include_str!("../../../wit/plugin.wit");
/// The world that is made up for a module.
const WORLD: &str = "untyped";

/// The interface of `tidegate:plugin` that a core export implements: `handler` of
/// `tidegate:plugin/handler@0.1.0#handle`.
pub(super) fn called_by(export: &str) -> Option<&'static str> {
    let (path, _) = export.split_once('#')?;
    let interface = path.strip_prefix("tidegate:plugin/")?.split('@').next()?;
    CALLED.into_iter().find(|called| *called == interface)
}

/// The module with component types: a copy with types of this host's making where it has none.
///
/// # Errors
/// [`Refusal::Invalid`] where its sections are malformed, [`Refusal::Encoding`] where its exports
/// make no world.
pub(super) fn typed(core: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let mut interfaces = Vec::new();
    for payload in Parser::new(0).parse_all(core) {
        match payload.map_err(|error| Refusal::at(&error))? {
            Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                return Ok(None);
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(|error| Refusal::at(&error))?;
                    let called =
                        called_by(export.name).filter(|_| export.kind == ExternalKind::Func);
                    interfaces.extend(called);
                }
            }
            _ => {}
        }
    }
    interfaces.sort_unstable();
    interfaces.dedup();
    let mut module = core.to_vec();
    embed(&mut module, &interfaces)
        .map_err(|error| Refusal::Encoding { why: format!("{error:#}") })?;
    Ok(Some(module))
}

fn embed(module: &mut Vec<u8>, interfaces: &[&str]) -> anyhow::Result<()> {
    let mut text = PLUGIN_WIT.to_owned();
    write!(text, "\nworld {WORLD} {{ include plugin-imports;")?;
    for interface in interfaces {
        write!(text, " export {interface};")?;
    }
    text.push_str(" }\n");
    let mut resolve = Resolve::default();
    let package = resolve.push_group(
        UnresolvedPackageGroup::parse("plugin.wit", &text)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?,
    )?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::encode::encode;
    use crate::wasm::fixtures::binary;
    use crate::wasm::recognise::ModuleKind;

    const PLAIN: &str = r#"(module
      (import "tidegate:plugin/context@0.1.0" "now-ms" (func (result i64)))
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
      (func (export "tidegate:plugin/handler@0.1.0#handle") (param i32) (result i32)
        i32.const 2048))"#;

    #[test]
    fn names_alone_make_a_component() {
        let module = typed(&binary(PLAIN)).unwrap().unwrap();
        let component = encode(&module).unwrap();
        let printed = crate::wasm::shape::shape(ModuleKind::Component, &component);
        let shape = printed.unwrap();
        assert_eq!(shape.called(), ["handler"]);
        assert!(shape.imports.contains(&"tidegate:plugin/context@0.1.0".to_owned()));
        assert!(!shape.imports.iter().any(|name| name.contains("timers")), "{:?}", shape.imports);
    }

    #[test]
    fn types_that_are_there_are_left_alone() {
        assert_eq!(typed(&crate::wasm::fixtures::typed_core("")).unwrap(), None);
    }

    #[test]
    fn signature_of_another_kind_is_refused_in_words() {
        let wrong = PLAIN.replace("(param i32) (result i32)\n        i32.const 2048", "");
        let module = typed(&binary(&wrong)).unwrap().unwrap();
        assert!(matches!(encode(&module), Err(Refusal::Encoding { .. })));
    }

    #[test]
    fn only_exports_of_the_contract_count() {
        assert_eq!(called_by("tidegate:plugin/handler@0.1.0#handle"), Some("handler"));
        assert_eq!(called_by("tidegate:plugin/nothing@0.1.0#handle"), None);
        assert_eq!(called_by("other:plugin/handler@0.1.0#handle"), None);
        assert_eq!(called_by("handle"), None);
    }
}
