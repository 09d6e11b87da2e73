//! Where a bench keeps its files: a folder of its own, removed at the end.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::view::{PluginState, PluginView};
use crate::bus::Bus;
use crate::config::{Auth, Bus as BusConfig, Compile, Config, DurableBus, Granting, Http};
use crate::host::Host;
use crate::log::Log;
use crate::plugin::DEFAULT_BUS;
use crate::serve::Serving;

use super::guest::Plugin;
use super::{BenchError, Settings};

/// What a module exports that gets events.
const HANDLER: &str = "handler";
/// How advice to operators names the command for it.
const OPERATED_BY: &str = "`tidegate plugins ";
/// Between two looks at a plugin that is being compiled. Nothing is timed by them.
const POLL: Duration = Duration::from_millis(5);

/// A folder that is removed when this is dropped.
pub(super) struct Place(TempDir);

impl Place {
    /// Makes the folder.
    pub(super) fn new(settings: &Settings) -> Result<Self, BenchError> {
        let parent = settings.folder();
        let made = tempfile::Builder::new().prefix("tidegate-bench-").tempdir_in(&parent);
        Ok(Self(made.map_err(|source| BenchError::Io { path: parent, source })?))
    }

    /// The folder, absolute as far as the system says.
    pub(super) fn path(&self) -> PathBuf {
        std::path::absolute(self.0.path()).unwrap_or_else(|_| self.0.path().to_owned())
    }
}

/// Words for a failed call on a file.
pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> BenchError + use<> {
    let path = path.to_owned();
    |source| BenchError::Io { path, source }
}

/// A host of its own for a bench, as `tidegate run` starts it, listening where nobody looks.
pub(super) struct BenchHost {
    serving: Serving,
    place: Place,
}

impl BenchHost {
    /// Starts one without plugins.
    pub(super) async fn start(settings: &Settings) -> Result<Self, BenchError> {
        let place = Place::new(settings)?;
        let serving = Serving::start(config(&place), pending()).await?;
        let this = Self { serving, place };
        this.serving.host.readied().await;
        Ok(this)
    }

    /// Starts one with a plugin, and waits until it serves.
    pub(super) async fn with_plugin(
        settings: &Settings,
        plugin: &Plugin,
    ) -> Result<Self, BenchError> {
        let place = Place::new(settings)?;
        let config = config(&place);
        std::fs::create_dir_all(&config.plugins).map_err(at(&config.plugins))?;
        let file = config.plugins.join("bench.wasm");
        std::fs::write(&file, &plugin.wasm).map_err(at(&file))?;
        let manifest = file.with_extension("toml");
        std::fs::write(&manifest, plugin.manifest.to_toml()).map_err(at(&manifest))?;
        let serving = Serving::start(config, pending()).await?;
        let this = Self { serving, place };
        this.serving.host.readied().await;
        if let Err(error) = this.serves().await {
            this.stop().await?;
            return Err(error);
        }
        Ok(this)
    }

    /// Waits until its plugin gets deliveries.
    ///
    /// # Errors
    /// It never will: it was refused, or handles no events.
    pub(super) async fn serves(&self) -> Result<(), BenchError> {
        loop {
            if let Some(plugin) = self.serving.host.plugins_now().plugins.first()
                && serves(plugin)?
            {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The error, with what the host knows of a plugin whose deliveries stand still.
    pub(super) fn explain(&self, error: BenchError) -> BenchError {
        let BenchError::Stuck { seconds, done, events, why } = error else { return error };
        let plugin = self.serving.host.plugins_now().plugins.into_iter().next();
        let why = said(plugin).map_or(why.clone(), |said| format!("{why}; the host says: {said}"));
        BenchError::Stuck { seconds, done, events, why }
    }

    /// Puts a plugin into its plugins folder, as a person would: the module beside, then in place.
    pub(super) fn drop_in(&self, plugin: &Plugin) -> Result<(), BenchError> {
        let folder = self.place.path().join("plugins");
        let manifest = folder.join("bench.toml");
        std::fs::write(&manifest, plugin.manifest.to_toml()).map_err(at(&manifest))?;
        let (beside, file) = (self.place.path().join("bench.wasm"), folder.join("bench.wasm"));
        std::fs::write(&beside, &plugin.wasm).map_err(at(&beside))?;
        std::fs::rename(&beside, &file).map_err(at(&file))
    }

    /// Its default bus.
    pub(super) fn bus(&self) -> Result<&Arc<Bus>, BenchError> {
        let why = || BenchError::Refused { why: "the host has no bus".to_owned() };
        self.serving.buses().first().ok_or_else(why)
    }

    /// The log of that.
    pub(super) fn log(&self) -> Result<&Log, BenchError> {
        let why = || BenchError::Refused { why: "the bus has no log".to_owned() };
        self.bus()?.log().ok_or_else(why)
    }

    /// The host.
    pub(super) fn host(&self) -> &Arc<Host> {
        &self.serving.host
    }

    /// Where it listens.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.serving.addr)
    }

    /// Its folder.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Ends it in order; its folder goes.
    pub(super) async fn stop(self) -> Result<(), BenchError> {
        self.serving.until(std::future::ready(())).await?;
        Ok(())
    }
}

/// Words for a module that exports this, and gets no events.
pub(super) fn no_handler(exports: &[String]) -> BenchError {
    let exports = exports.join("`, `");
    let why = format!("exports no `{HANDLER}`, only `{exports}`: it gets no events");
    BenchError::Module { why }
}

/// Whether a plugin gets deliveries by now.
fn serves(plugin: &PluginView) -> Result<bool, BenchError> {
    match plugin.state {
        PluginState::Compiling => Ok(false),
        // One that fails at once is paused for a while, and was live.
        PluginState::Live | PluginState::Paused => {
            let Some(module) = &plugin.module else { return Ok(false) };
            if module.exports.iter().any(|export| export == HANDLER) {
                return Ok(true);
            }
            Err(no_handler(&module.exports))
        }
        state => {
            let why = plugin.reason.clone().unwrap_or_else(|| state.name().to_owned());
            Err(BenchError::Refused { why })
        }
    }
}

/// Why a plugin is paused, or what went wrong last: the first line of it.
fn said(plugin: Option<PluginView>) -> Option<String> {
    let plugin = plugin?;
    let said = plugin.reason.or(plugin.last_error.map(|error| error.message))?;
    // What an operator may do, nobody can do to the host of a bench.
    let sentences = said.lines().next()?.split(". ");
    let said: Vec<_> = sentences.filter(|sentence| !sentence.contains(OPERATED_BY)).collect();
    Some(said.join(". "))
}

/// The defaults, but for folders and port.
fn config(place: &Place) -> Config {
    let folder = place.path();
    let bus = BusConfig::Durable(DurableBus::default());
    Config {
        file: None,
        data: folder.join("data"),
        plugins: folder.join("plugins"),
        http: Http { listen: ([127, 0, 0, 1], 0).into(), ..Http::default() },
        auth: Auth::default(),
        compile: Compile::default(),
        buses: [(DEFAULT_BUS.to_owned(), bus)].into(),
        secrets: crate::config::Secrets::default(),
        words: std::collections::BTreeMap::new(),
        granting: Granting::Everything,
        insecure: false,
        accept_clock: false,
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(state: &str, reason: Option<&str>, exports: &[&str]) -> PluginView {
        serde_json::from_value(serde_json::json!({
            "name": "bench", "state": state, "reason": reason, "generation": 0,
            "module": { "digest": "", "kind": "core", "size_bytes": 1, "compile_ms": 1,
                "exports": exports, "pinned": false },
            "subscription": { "bus": "main", "types": [], "sources": [], "where": {},
                "own": false, "start": "latest" },
            "completed_position": 0, "lag_events": 0, "in_flight": 0, "waiting": 0,
            "deliveries": {}, "dead_letters": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_plugin_that_never_gets_an_event_is_told_at_once() {
        let look = |state, exports: &[&str]| {
            serves(&plugin(state, Some("because"), exports)).map_err(|error| error.to_string())
        };
        assert_eq!(look("compiling", &[]), Ok(false));
        assert_eq!(look("live", &["handler", "query"]), Ok(true));
        assert_eq!(look("refused", &[]), Err("the module was not taken: because".to_owned()));
        let expected =
            "the module exports no `handler`, only `command`, `query`: it gets no events";
        assert_eq!(look("live", &["command", "query"]), Err(expected.to_owned()));
    }

    #[test]
    fn who_is_stuck_hears_why_a_plugin_is_paused() {
        let said = |reason| said(Some(plugin("paused", Some(reason), &["handler"])));
        assert_eq!(said("20 of 20 keys failed\nmore").as_deref(), Some("20 of 20 keys failed"));
        let advised = "20 of 20 failed: it is tried again. `tidegate plugins resume` lets it go on";
        assert_eq!(said(advised).as_deref(), Some("20 of 20 failed: it is tried again"));
    }
}
