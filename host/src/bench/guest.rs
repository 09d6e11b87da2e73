//! What benches deliver to: a module of somebody's with the manifest beside it, or one of those written
//! by hand, which are part of the program.

use std::path::Path;
use std::sync::Arc;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, UnresolvedPackageGroup};

use super::place::at;
use super::{BenchError, Settings};
use crate::plugin::subscription::Start;
use crate::plugin::{DEFAULT_BUS, Manifest};
use crate::wasm::GuestLimits;

/// Without a manifest: a handler that emits what it gets may get the largest events there are.
const MANIFEST: &str = "[limits]\noutput = \"4MiB\"\n";

/// What a bench delivers to.
pub(super) enum Guest {
    /// Reads and writes one state value and emits one event, for each event.
    Counting,
    /// Does nothing.
    Idle,
}

/// A module with its manifest.
pub(super) struct Plugin {
    /// The module.
    pub(super) wasm: Vec<u8>,
    /// Its manifest.
    pub(super) manifest: Manifest,
}

impl Plugin {
    /// The module in `file` with the manifest beside it, as in a folder of plugins, or else the built-in
    /// one. It gets every event of the bench, from the first one on.
    ///
    /// # Errors
    /// A file cannot be read, the manifest makes no sense, or wants other events.
    pub(super) fn of(
        file: Option<&Path>,
        guest: &Guest,
        settings: &Settings,
    ) -> Result<Self, BenchError> {
        let Some(file) = file else {
            let wasm = built_in(guest)?;
            return Ok(Self { wasm, manifest: manifest("bench.toml", MANIFEST)? });
        };
        let wasm = std::fs::read(file).map_err(at(file))?;
        let beside = file.with_extension("toml");
        let name = beside.display().to_string();
        let mut manifest = match std::fs::read_to_string(&beside) {
            Ok(text) => manifest(&name, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                manifest("bench.toml", MANIFEST)?
            }
            Err(error) => return Err(at(&beside)(error)),
        };
        let kind = &settings.kind;
        if manifest.subscribe.bus() != DEFAULT_BUS || !manifest.subscribe.wants_type(kind) {
            let why = format!(
                "does not subscribe to `{kind}` on bus `{DEFAULT_BUS}`, by its manifest `{name}`; \
                 choose an event that it wants with --type and --data-file"
            );
            return Err(BenchError::Module { why });
        }
        manifest.subscribe.start = Some(Start::Earliest);
        Ok(Self { wasm, manifest })
    }

    /// Budgets of its deliveries.
    pub(super) fn limits(&self) -> GuestLimits {
        GuestLimits::of(&self.manifest, Arc::default())
    }
}

fn manifest(name: &str, text: &str) -> Result<Manifest, BenchError> {
    Manifest::parse(name, text).map_err(|error| BenchError::Refused { why: error.to_string() })
}

/// A built-in module, as a typed core module.
fn built_in(guest: &Guest) -> Result<Vec<u8>, BenchError> {
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
            let wasm = built_in(&guest).unwrap();
            encode(&wasm).unwrap();
            assert!(crate::wasm::report::report(&wasm).exports.contains(&"handler"));
        }
    }

    #[test]
    fn the_manifest_beside_a_module_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("orders.wasm");
        std::fs::write(&file, b"any").unwrap();
        let of = |kind: &str| {
            let settings = Settings { kind: kind.to_owned(), ..Settings::default() };
            Plugin::of(Some(&file), &Guest::Idle, &settings)
        };
        assert_eq!(of("order.created").unwrap().limits().output_bytes_max, 4 << 20);
        let text = "[subscribe]\ntypes = [\"order.*\"]\nstart = \"latest\"\n\
                    [limits]\nfuel = 2000000000\n[config]\ncurrency = \"EUR\"\n";
        std::fs::write(file.with_extension("toml"), text).unwrap();
        let plugin = of("order.created").unwrap();
        assert_eq!(plugin.limits().fuel, 2_000_000_000);
        assert_eq!(plugin.manifest.config["currency"], "EUR");
        let again = Manifest::parse("bench.toml", &plugin.manifest.to_toml()).unwrap();
        assert_eq!(*again.subscribe.start(), Start::Earliest);
        let refused = of("bench.happened").err().unwrap().to_string();
        assert!(refused.contains("does not subscribe to `bench.happened`"), "{refused}");
        std::fs::write(file.with_extension("toml"), "[limits]\nfuel = \"much\"\n").unwrap();
        assert!(of("order.created").err().unwrap().to_string().contains("limits.fuel"));
    }
}
