//! What benches deliver to: a module of somebody's with the manifest beside it, or one of those written
//! by hand, which are part of the program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, UnresolvedPackageGroup};

use super::events::{CONTENT_TYPE, Events, SOURCE};
use super::invoke::event;
use super::report::Report;
use super::{BenchError, Settings};
use crate::event::{Event, InstanceId};
use crate::plugin::source::SourceError;
use crate::plugin::subscription::Start;
use crate::plugin::{DEFAULT_BUS, Manifest};
use crate::wasm::GuestLimits;

/// Of the built-in modules: a handler that emits what it gets may get the largest events there are.
const MANIFEST: &str = "[limits]\noutput = \"4MiB\"\n";

/// Events that a subscription is tried on, of so many keys.
const EVENTS_TRIED: u64 = 16;
const KEYS_TRIED: usize = 4;

/// What a bench delivers to.
pub(super) enum Guest {
    /// Reads and writes one state value and emits one event, for each event.
    Counting,
    /// Does nothing.
    Idle,
}

/// A module that somebody names, with the manifest that holds for it.
#[derive(Debug, Clone)]
pub struct Given {
    /// Its file.
    pub file: PathBuf,
    /// What is in it.
    pub wasm: Vec<u8>,
    /// Its manifest, and where that stands; none: it has none.
    pub manifest: Option<(PathBuf, Manifest)>,
}

/// A module with its manifest.
pub(super) struct Plugin {
    /// The module.
    pub(super) wasm: Vec<u8>,
    /// Its manifest.
    pub(super) manifest: Manifest,
}

impl Given {
    /// The manifest to run it with, which gets the events of the bench, from the first one on.
    fn manifest(&self, settings: &Settings) -> Result<Manifest, BenchError> {
        let Some((path, manifest)) = &self.manifest else { return Ok(Manifest::default()) };
        let mut manifest = manifest.clone();
        self.refuse_other_module(path, &manifest)?;
        let kind = &settings.kind;
        if manifest.subscribe.bus() != DEFAULT_BUS || !manifest.subscribe.wants_type(kind) {
            let why = format!(
                "does not subscribe to `{kind}` on bus `{DEFAULT_BUS}`, by its manifest `{}`; \
                 choose an event that it wants with --type and --data-file",
                path.display()
            );
            return Err(BenchError::Module { why });
        }
        if !wants_all(&manifest, settings) {
            let why = format!(
                "does not want the events of the bench, by `subscribe.sources` or `subscribe.where` of \
                 its manifest `{}`: their source is `{SOURCE}`, `datacontenttype` is \
                 `{CONTENT_TYPE}`, and what else they have differs from one to the next",
                path.display()
            );
            return Err(BenchError::Module { why });
        }
        manifest.subscribe.start = Some(Start::Earliest);
        // The bench puts the module under a name of its own.
        manifest.module = None;
        Ok(manifest)
    }

    /// As a host refuses it.
    fn refuse_other_module(&self, path: &Path, manifest: &Manifest) -> Result<(), BenchError> {
        let module = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &manifest.module {
            Some(named) if *named != module => {
                let (manifest, named) = (path.display().to_string(), named.clone());
                let error = SourceError::OtherModule { manifest, named, module };
                Err(BenchError::Refused { why: error.to_string() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether the subscription takes every event of the bench, as far as a few tell.
fn wants_all(manifest: &Manifest, settings: &Settings) -> bool {
    let few = Events::new(&Settings { keys: settings.keys.min(KEYS_TRIED), ..settings.clone() });
    (0..EVENTS_TRIED).all(|number| {
        let event = Event { body: few.event(number), ..event(&few) };
        manifest.subscribe.matches(&event, InstanceId(1))
    })
}

/// Notes which module it is, and by which manifest it runs.
pub(super) fn describe(report: &mut Report, given: Option<&Given>, built_in: &str) {
    let Some(given) = given else { return report.parameter("module", built_in) };
    report.parameter("module", given.file.display().to_string());
    let manifest = given.manifest.as_ref().map(|(path, _)| path.display().to_string());
    report.parameter("manifest", manifest.unwrap_or_else(|| "none".to_owned()));
}

impl Plugin {
    /// The module given with its manifest, or else the built-in one.
    ///
    /// # Errors
    /// The manifest is another module's, or wants other events.
    pub(super) fn of(
        given: Option<&Given>,
        guest: &Guest,
        settings: &Settings,
    ) -> Result<Self, BenchError> {
        match given {
            Some(given) => {
                Ok(Self { wasm: given.wasm.clone(), manifest: given.manifest(settings)? })
            }
            None => {
                Ok(Self { wasm: built_in(guest)?, manifest: manifest("bench.toml", MANIFEST)? })
            }
        }
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

    fn given(text: Option<&str>) -> Given {
        let manifest = text.map(|text| {
            let path = PathBuf::from("shop/plugin.toml");
            let manifest = Manifest::parse("shop/plugin.toml", text).unwrap();
            (path, manifest)
        });
        Given { file: "shop/orders.wasm".into(), wasm: b"any".to_vec(), manifest }
    }

    fn of(text: Option<&str>, kind: &str) -> Result<Plugin, String> {
        let settings = Settings { kind: kind.to_owned(), ..Settings::default() };
        Plugin::of(Some(&given(text)), &Guest::Idle, &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn the_manifest_of_a_module_counts() {
        let bare = of(None, "order.created").unwrap();
        assert_eq!(bare.manifest, Manifest::default(), "not what a host would run it with");
        let text = "[subscribe]\ntypes = [\"order.*\"]\nstart = \"latest\"\n\
                    [limits]\nfuel = 2000000000\n[config]\ncurrency = \"EUR\"\n";
        let plugin = of(Some(text), "order.created").unwrap();
        assert_eq!(plugin.limits().fuel, 2_000_000_000);
        assert_eq!(plugin.manifest.config["currency"], "EUR");
        let again = Manifest::parse("bench.toml", &plugin.manifest.to_toml()).unwrap();
        assert_eq!(*again.subscribe.start(), Start::Earliest);
        let refused = of(Some(text), "bench.happened").err().unwrap();
        assert!(refused.contains("does not subscribe to `bench.happened`"), "{refused}");
    }
    #[test]
    fn a_subscription_to_other_sources_or_attributes_is_refused() {
        for wanted in [
            "sources = [\"/shop*\"]",
            "where = { region = \"eu\" }",
            "where = { datacontenttype = \"text/plain\" }",
            "where = { partitionkey = \"key-00000000\" }",
        ] {
            let refused = of(Some(&format!("[subscribe]\n{wanted}\n")), "a.b").err();
            let refused = refused.unwrap_or_else(|| panic!("{wanted} is taken"));
            assert!(refused.contains("their source is `/bench`"), "{refused}");
        }
        let wanted = "[subscribe]\nsources = [\"/bench\"]\n\
                      where = { type = \"a.b\", datacontenttype = \"application/json\" }\n";
        of(Some(wanted), "a.b").unwrap();
    }

    #[test]
    fn a_manifest_that_names_its_module_goes_with_any_name_but_not_with_another_module() {
        let plugin = of(Some("module = \"orders.wasm\"\n"), "order.created").unwrap();
        assert_eq!(plugin.manifest.module, None);
        let refused = of(Some("module = \"other.wasm\"\n"), "order.created").err().unwrap();
        let expected = "manifest `shop/plugin.toml`: `module` is \"other.wasm\", but it belongs to \
                        `orders.wasm`";
        assert!(refused.ends_with(expected), "{refused}");
    }
}
