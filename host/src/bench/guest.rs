//! The modules that benches run where they are given none: written by hand, part of the program.

use std::path::Path;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, UnresolvedPackageGroup};

use super::BenchError;
use super::place::at;

/// What a bench delivers to.
pub(super) enum Guest {
    /// Reads and writes one state value and emits one event, for each event.
    Counting,
    /// Does nothing.
    Idle,
}

/// The module in `file`, or else the built-in one, as a typed core module.
pub(super) fn module(file: Option<&Path>, guest: &Guest) -> Result<Vec<u8>, BenchError> {
    if let Some(path) = file {
        return std::fs::read(path).map_err(at(path));
    }
    let text = match guest {
        Guest::Counting => include_str!("guest.wat"),
        Guest::Idle => include_str!("idle.wat"),
    };
    typed(text).map_err(|why| BenchError::Module { why })
}

/// The binary form of a core module, with the types of world `reactor` as a section.
fn typed(text: &str) -> Result<Vec<u8>, String> {
    let mut module = wat::parse_str(text).map_err(|error| error.to_string())?;
    let plugin = include_str!("../../../wit/plugin.wit");
    let mut resolve = Resolve::default();
    let group = UnresolvedPackageGroup::parse("plugin.wit", plugin)
        .map_err(|(_, error)| error.to_string())?;
    let package = resolve.push_group(group).map_err(|error| error.to_string())?;
    resolve
        .select_world(&[package], Some("reactor"))
        .and_then(|world| {
            embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        })
        .map_err(|error| format!("{error:#}"))?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::encode::encode;

    #[test]
    fn the_built_in_modules_are_handlers() {
        for guest in [Guest::Counting, Guest::Idle] {
            let wasm = module(None, &guest).unwrap();
            encode(&wasm).unwrap();
            assert!(crate::wasm::report::report(&wasm).exports.contains(&"handler"));
        }
    }
}
