//! Which plugin a command or a query is for, and whether it takes any.

use std::sync::Arc;
use std::time::Instant;

use super::install::Candidate;
use super::refusal::again_after;
use super::{Entry, Plugins, lock};
use crate::api::host::HostError;
use crate::api::requests::{Answered, CommandRequest, QueryRequest, RequestError};
use crate::bus::runner::Runner;
use crate::host::commands;
use crate::host::queries::{Answering, Earlier, Queries, Served};
use crate::plugin::Manifest;
use crate::state::{Activation, Instance};
use crate::wasm::Module;

impl Plugins {
    /// Has a plugin carry out a command. Goes on where the future is dropped.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn command(
        self: &Arc<Self>,
        name: &str,
        command: CommandRequest,
    ) -> Result<Answered, RequestError> {
        self.after_scan().await.map_err(|_closing| RequestError::ShuttingDown)?;
        let (runner, module) = self.running(name, |entry| entry.runner.clone())?;
        if !module.exports.command {
            return Err(takes_no(name, "commands"));
        }
        let (begun, metrics) = (std::time::Instant::now(), self.means.metrics.requests(name));
        // Whoever sent it may go away; it runs all the same, and is known when it is sent again.
        let done = self.tasks.spawn(commands::run(runner, command)).await;
        let done = done.unwrap_or_else(|error| Err(RequestError::Internal(error.to_string())));
        let outcome = done.as_ref().map_or_else(RequestError::outcome, |_| "ok");
        metrics.command(outcome, begun.elapsed());
        done
    }

    /// Asks a plugin a question.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn query(&self, name: &str, query: QueryRequest) -> Result<Answered, RequestError> {
        self.after_scan().await.map_err(|_closing| RequestError::ShuttingDown)?;
        let queries = self.queries(name).ok_or_else(|| unknown(name))?;
        let (begun, metrics) = (std::time::Instant::now(), self.means.metrics.requests(name));
        let done = queries.ask((self, name), query).await;
        let outcome = done.as_ref().map_or_else(RequestError::outcome, |_| "ok");
        metrics.query(outcome, begun.elapsed());
        done
    }

    /// What answers the queries of a plugin: what serves, and while a rewind is under way what served
    /// with the state that is seen until its end.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(in crate::host) async fn answering(
        &self,
        name: &str,
        queries: &Queries,
    ) -> Result<Answering, RequestError> {
        let reading = |entry: &Entry| entry.runner.as_ref().or(entry.left.as_ref()).cloned();
        let (runner, module) = self.running(name, reading)?;
        let now = Served { module, version: runner.version() };
        let (generation, is_rebuilding, before) = {
            let ledger = runner.bus().ledger();
            let known = ledger.instance(runner.instance());
            let rebuilding = known.filter(|known| known.rebuilding().is_some());
            let generation = known.map_or(runner.generation(), Instance::serving);
            (generation, rebuilding.is_some(), rebuilding.and_then(Instance::served).cloned())
        };
        let environment = now.version.deliverer.environment;
        let is_now = before.as_ref().is_some_and(|before| before.environment == environment);
        let served = if is_now || !is_rebuilding {
            if let Ok(mut earlier) = queries.earlier.try_lock() {
                *earlier = None;
            }
            now
        } else {
            let served = self.earlier((name, &runner), before.as_ref(), &now.module, queries).await;
            served.map_err(|why| RequestError::KeyUnavailable(until_rebuilt(name, &why)))?
        };
        if !served.module.exports.query {
            return Err(match is_rebuilding {
                true => {
                    let why = "what serves until then takes no queries";
                    RequestError::KeyUnavailable(until_rebuilt(name, why))
                }
                false => takes_no(name, "queries"),
            });
        }
        Ok(Answering { runner, generation, served })
    }

    /// What served `before` the rewind that is under way, loaded with the first query that asks for it;
    /// where that fails, with one that asks a while later.
    ///
    /// # Errors
    /// Why it is not to be had, in words.
    async fn earlier(
        &self,
        (name, runner): (&str, &Runner),
        before: Option<&Activation>,
        present: &Arc<Module>,
        queries: &Queries,
    ) -> Result<Served, String> {
        let before = before.ok_or_else(|| "the log does not say what served before".to_owned())?;
        let mut earlier = queries.earlier.lock().await;
        let (began, environment) = (Instant::now(), before.environment);
        if let Some(known) = earlier.as_ref().filter(|known| known.holds(environment, began)) {
            return known.loaded.clone();
        }
        let loaded = self.load_activation((name, runner), before, present).await;
        let loaded = loaded.map_err(|why| format!("{why}; it is tried again"));
        let known = earlier.as_ref().filter(|known| known.environment == environment);
        let told = known.and_then(|known| known.loaded.as_ref().err());
        if let Some(why) = loaded.as_ref().err().filter(|why| told != Some(why)) {
            tracing::warn!(plugin = name, why, "queries are refused during the rewind");
        }
        let again_at = Instant::now() + again_after(began.elapsed());
        *earlier = Some(Earlier { environment, loaded: loaded.clone(), again_at });
        loaded
    }

    async fn load_activation(
        &self,
        (name, runner): (&str, &Runner),
        activation: &Activation,
        present: &Arc<Module>,
    ) -> Result<Served, String> {
        let manifest = Manifest::parse("the log", &activation.manifest);
        let manifest = Arc::new(manifest.map_err(|error| error.to_string())?);
        let module = match activation.module == present.digest {
            true => Arc::clone(present),
            false => {
                let wasm = self.kept_module(activation.module).await?;
                let module = self.means.sandbox.load(name, wasm).await;
                module.map_err(|error| error.to_string())?
            }
        };
        let (bus, actor) = (Arc::clone(runner.bus()), "host".into());
        let candidate = Candidate { name: name.to_owned(), module, manifest, bus, actor };
        let version = self.version(&candidate, runner.instance(), activation.generation);
        Ok(Served { module: candidate.module, version: Arc::new(version) })
    }

    fn queries(&self, name: &str) -> Option<Arc<Queries>> {
        let mut entries = lock(&self.entries);
        let entry = entries.get_mut(name)?;
        let made = || Arc::new(Queries::new(self.means.pool.tenant(name)));
        Some(Arc::clone(entry.queries.get_or_insert_with(made)))
    }

    /// A runner of a plugin, and the module that serves.
    fn running(
        &self,
        name: &str,
        which: impl FnOnce(&Entry) -> Option<Arc<Runner>>,
    ) -> Result<(Arc<Runner>, Arc<Module>), RequestError> {
        let entries = lock(&self.entries);
        let entry = entries.get(name).ok_or_else(|| unknown(name))?;
        let (Some(runner), Some(module)) = (which(entry), &entry.module) else {
            let reason = entry.why().map(|why| format!(": {why}")).unwrap_or_default();
            let why = format!("plugin `{name}` does not run{reason}");
            return Err(RequestError::KeyUnavailable(why));
        };
        Ok((runner, Arc::clone(module)))
    }
}

fn unknown(name: &str) -> RequestError {
    RequestError::NotFound(HostError::NotFound(format!("plugin `{name}`")).to_string())
}

fn takes_no(name: &str, what: &str) -> RequestError {
    RequestError::NotFound(format!("plugin `{name}` takes no {what}"))
}

fn until_rebuilt(name: &str, why: &str) -> String {
    format!(
        "plugin `{name}` is being rebuilt, and answers queries once that is over (`tidegate plugins show \
         {name}` says how far it is): {why}"
    )
}
