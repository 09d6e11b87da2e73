//! Which plugin a command or a query is for, and whether it takes any.

use std::sync::Arc;

use super::{Plugins, lock};
use crate::api::host::HostError;
use crate::api::requests::{Answered, CommandRequest, QueryRequest, RequestError};
use crate::bus::runner::Runner;
use crate::host::commands;
use crate::host::queries::Queries;
use crate::wasm::{Exports, Module};

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
        let (runner, _) = self.serving(name, "commands", |exports| exports.command)?;
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
        let (runner, module) = self.serving(name, "queries", |exports| exports.query)?;
        let (begun, metrics) = (std::time::Instant::now(), self.means.metrics.requests(name));
        let done = match self.queries(name) {
            Some(queries) => queries.ask(runner, module, query).await,
            // Forgotten this moment.
            None => Err(RequestError::NotFound(format!("there is no plugin `{name}`"))),
        };
        let outcome = done.as_ref().map_or_else(RequestError::outcome, |_| "ok");
        metrics.query(outcome, begun.elapsed());
        done
    }

    fn queries(&self, name: &str) -> Option<Arc<Queries>> {
        let mut entries = lock(&self.entries);
        let entry = entries.get_mut(name)?;
        let made = || Arc::new(Queries::new(self.means.pool.tenant(name)));
        Some(Arc::clone(entry.queries.get_or_insert_with(made)))
    }

    /// The runner of a plugin whose module exports what is `wanted`.
    fn serving(
        &self,
        name: &str,
        what: &str,
        wanted: impl FnOnce(Exports) -> bool,
    ) -> Result<(Arc<Runner>, Arc<Module>), RequestError> {
        let entries = lock(&self.entries);
        let Some(entry) = entries.get(name) else {
            let missing = HostError::NotFound(format!("plugin `{name}`"));
            return Err(RequestError::NotFound(missing.to_string()));
        };
        let (Some(runner), Some(module)) = (&entry.runner, &entry.module) else {
            let reason = entry.why().map(|why| format!(": {why}")).unwrap_or_default();
            let why = format!("plugin `{name}` does not run{reason}");
            return Err(RequestError::KeyUnavailable(why));
        };
        if !wanted(module.exports) {
            return Err(RequestError::NotFound(format!("plugin `{name}` takes no {what}")));
        }
        Ok((Arc::clone(runner), Arc::clone(module)))
    }
}
