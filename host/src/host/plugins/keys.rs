//! What operators do to keys and dead letters, each in its plugin's turn.

use std::sync::Arc;

use super::operate::unknown;
use super::{Plugins, lock};
use crate::api::host::HostError;
use crate::bus::Bus;
use crate::bus::operate::{self, Act, Acted, ReleaseError};
use crate::bus::runner::Runner;
use crate::event::{InstanceId, Key};

/// Dead letters that are dealt with in one commit.
const ACTED_MAX: usize = 256;

impl Plugins {
    /// Starts no more deliveries of a key.
    ///
    /// # Errors
    /// There is no such plugin, it does not run or cannot hold keys, or the log takes nothing.
    pub async fn hold(
        self: &Arc<Self>,
        name: &str,
        key: &Key,
        reason: &str,
        actor: &str,
    ) -> Result<(), HostError> {
        self.after_scan().await?;
        let (plugins, name, key) = (Arc::clone(self), name.to_owned(), key.clone());
        let (reason, actor) = (reason.to_owned(), actor.to_owned());
        self.to_the_end(async move { plugins.hold_now(&name, &key, &reason, &actor).await }).await
    }

    /// Runs what must not stop between its record and what that says, whoever stops waiting.
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, HostError>> + Send + 'static,
    ) -> Result<T, HostError> {
        let ended = self.tasks.spawn(work).await;
        ended.unwrap_or_else(|error| Err(HostError::Internal(error.to_string())))
    }

    async fn hold_now(
        &self,
        name: &str,
        key: &Key,
        reason: &str,
        actor: &str,
    ) -> Result<(), HostError> {
        let turn = self.turn(name).ok_or_else(|| unknown(name))?;
        let _turn = turn.lock().await;
        let (bus, instance) = self.identified(name)?;
        let runner = self.at_work(name, &bus, instance)?;
        Ok(operate::hold(&runner, key, reason, actor).await?)
    }

    /// Lets a key go on that is held or parked.
    ///
    /// # Errors
    /// There is no such plugin, the key is neither, or the log takes nothing.
    pub async fn release(
        self: &Arc<Self>,
        name: &str,
        key: &Key,
        actor: &str,
    ) -> Result<(), HostError> {
        self.after_scan().await?;
        let (plugins, name, key) = (Arc::clone(self), name.to_owned(), key.clone());
        let actor = actor.to_owned();
        self.to_the_end(async move { plugins.release_now(&name, &key, &actor).await }).await
    }

    async fn release_now(&self, name: &str, key: &Key, actor: &str) -> Result<(), HostError> {
        let turn = self.turn(name).ok_or_else(|| unknown(name))?;
        let _turn = turn.lock().await;
        let (bus, instance) = self.identified(name)?;
        let runner = self.runner_of(name, &bus, instance);
        let released = operate::release(&bus, instance, runner.as_deref(), key, actor).await;
        released.map_err(|error| match error {
            ReleaseError::Append(error) => error.into(),
            other => HostError::Conflict(other.to_string()),
        })
    }

    /// Does something to dead letters of one plugin, given by their numbers, oldest first.
    ///
    /// # Errors
    /// The plugin is not there or does not run, or the log takes nothing: what was done before is
    /// done.
    pub async fn act(
        self: &Arc<Self>,
        bus: &Arc<Bus>,
        name: &str,
        numbers: Vec<u64>,
        act: &Act,
        actor: &str,
    ) -> Result<Acted, HostError> {
        self.after_scan().await?;
        let (plugins, bus, act) = (Arc::clone(self), Arc::clone(bus), act.clone());
        let (name, actor) = (name.to_owned(), actor.to_owned());
        let work = async move { plugins.act_now(&bus, &name, &numbers, &act, &actor).await };
        self.to_the_end(work).await
    }

    async fn act_now(
        &self,
        bus: &Arc<Bus>,
        name: &str,
        numbers: &[u64],
        act: &Act,
        actor: &str,
    ) -> Result<Acted, HostError> {
        let mut all = Acted::default();
        for numbers in numbers.chunks(ACTED_MAX) {
            // Others get their turn in between.
            let turn = self.turn(name).ok_or_else(|| unknown(name))?;
            let _turn = turn.lock().await;
            let instance = bus.ledger().named(name).map(|plugin| plugin.id);
            let instance = instance.ok_or_else(|| unknown(name))?;
            let runner = match act {
                Act::Redrive => Some(self.at_work(name, bus, instance)?),
                Act::Discard(_) => self.runner_of(name, bus, instance),
            };
            let acted = operate::act(bus, instance, runner.as_deref(), numbers, act, actor).await?;
            all.count += acted.count;
            all.left.extend(acted.left);
        }
        Ok(all)
    }

    /// The runner of an instance, which can hold keys and run dead letters again.
    fn at_work(
        &self,
        name: &str,
        bus: &Arc<Bus>,
        instance: InstanceId,
    ) -> Result<Arc<Runner>, HostError> {
        if bus.log().is_none() {
            let why = format!(
                "bus `{}` is a memory bus: its keys never wait, and its events do not run again",
                bus.name()
            );
            return Err(HostError::Conflict(why));
        }
        self.runner_of(name, bus, instance).ok_or_else(|| {
            let entries = lock(&self.entries);
            let elsewhere = entries.get(name).and_then(|entry| entry.runner.as_ref());
            let Some(there) = elsewhere.map(|runner| runner.bus().name()) else {
                return self.not_running(name);
            };
            HostError::Conflict(format!(
                "plugin `{name}` runs on bus `{there}`, and this is on `{}`: put it back there first",
                bus.name()
            ))
        })
    }

    /// The runner of an instance, if it has one.
    #[must_use]
    pub fn runner_of(&self, name: &str, bus: &Bus, instance: InstanceId) -> Option<Arc<Runner>> {
        let runner = lock(&self.entries).get(name).and_then(|entry| entry.runner.clone())?;
        let same = runner.instance() == instance && runner.bus().name() == bus.name();
        same.then_some(runner)
    }
}
