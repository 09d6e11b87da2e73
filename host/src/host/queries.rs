//! Queries: a question to a plugin, on its durable state at one commit.
//!
//! A query owns no key and takes no room in the log, so it waits for no delivery and none waits for
//! it. It has a share of the guest pool of its own, and a bound on how many run and wait.
//!
//! What must not break: the state of a generation is read by what served with it, or not at all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::plugins::Plugins;
use crate::api::requests::{Answered, QueryRequest, RequestError};
use crate::bus::Bus;
use crate::bus::runner::{Runner, Snapshot, Version};
use crate::effects::OutcomeKind;
use crate::event::{Digest, Generation, InstanceId, Key};
use crate::limits::{
    LIST_MAX, QUERIES_RUNNING_MAX, QUERIES_WAITING_MAX, QUERY_KEYS_KEPT_MAX, QUERY_WAIT_MS_MAX,
};
use crate::log::ReadError;
use crate::schedule::pool::Tenant;
use crate::state::across::Wanted;
use crate::state::cold::KeyValues;
use crate::state::{Owner, page};
use crate::wasm::{Invocation, KeysView, Module, Question, Request, Seed, Slot, StateView};

/// Warm instances kept of one plugin for its queries.
const IDLE_MAX: usize = 2;
/// Times that a query runs at most, where each time a rewind ends while it looks at other keys.
const RUNS_MAX: usize = 3;

/// What the queries of one plugin share.
pub(crate) struct Queries {
    tenant: Tenant,
    running: Semaphore,
    waiting: Semaphore,
    idle: Mutex<Vec<Slot>>,
    /// What served before the rewind that is under way, where a query has asked for that.
    pub(super) earlier: tokio::sync::Mutex<Option<Earlier>>,
}

/// What a query runs on.
pub(crate) struct Answering {
    /// Where the state is.
    pub(crate) runner: Arc<Runner>,
    /// The generation whose state that is.
    pub(crate) generation: Generation,
    /// What served with it.
    pub(crate) served: Served,
}

/// A module, and the version that it served as.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) module: Arc<Module>,
    pub(crate) version: Arc<Version>,
}

/// What served in an environment, or in words why that is not to be had.
pub(super) struct Earlier {
    pub(super) environment: Digest,
    pub(super) loaded: Result<Served, String>,
    /// When a load that failed is tried again.
    pub(super) again_at: Instant,
}

impl Earlier {
    /// Whether it is to be used for an environment: what is missing may be there again after a while.
    pub(super) fn holds(&self, environment: Digest, now: Instant) -> bool {
        self.environment == environment && (self.loaded.is_ok() || now < self.again_at)
    }
}

impl Queries {
    /// For a plugin whose queries run as `tenant`.
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self {
            tenant,
            running: Semaphore::new(QUERIES_RUNNING_MAX),
            waiting: Semaphore::new(QUERIES_WAITING_MAX),
            idle: Mutex::default(),
            earlier: tokio::sync::Mutex::default(),
        }
    }

    /// Asks a plugin: what answers for the generation that serves when the query runs.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(crate) async fn ask(
        self: Arc<Self>,
        (plugins, name): (&Plugins, &str),
        query: QueryRequest,
    ) -> Result<Answered, RequestError> {
        let _waiting = self.waiting.try_acquire().map_err(|_| {
            let most = QUERIES_WAITING_MAX;
            RequestError::Busy(format!("{most} queries to this plugin are under way already"))
        })?;
        let mut answering = plugins.answering(name, &self).await?;
        if let Some(position) = query.wait {
            let limit = Duration::from_millis(QUERY_WAIT_MS_MAX);
            let completed = answering.runner.until_completed(position);
            let completed = tokio::time::timeout(limit, completed).await;
            let completed = completed.map_err(|_| RequestError::WaitTimeout { position })?;
            completed.map_err(|error| match error {
                ReadError::Closed => RequestError::ShuttingDown,
                error => internal(&error),
            })?;
        }
        let _running = self.running.acquire().await.map_err(|error| internal(&error))?;
        for _ in 0..RUNS_MAX {
            let snapshot = loop {
                let snapshot = answering.runner.snapshot(query.key.as_ref()).await;
                let snapshot = snapshot.map_err(|error| internal(&error))?;
                if snapshot.generation == answering.generation {
                    break snapshot;
                }
                answering = plugins.answering(name, &self).await?;
            };
            let (across, invocation) = self.read(&answering, &snapshot, query.clone()).await?;
            if !across.is_whole() {
                answering = plugins.answering(name, &self).await?;
                continue;
            }
            if across.failed.load(Ordering::SeqCst) {
                return Err(RequestError::Internal("the state cannot be read".to_owned()));
            }
            answering.runner.keep_query_logs(&invocation);
            return answered(invocation, &snapshot);
        }
        let why = format!("rewinds of plugin `{name}` end faster than it answers; ask again");
        Err(RequestError::KeyUnavailable(why))
    }

    /// Has a query answered from a snapshot, and what it looks at of other keys.
    async fn read(
        self: &Arc<Self>,
        Answering { runner, served: Served { module, version }, .. }: &Answering,
        snapshot: &Snapshot,
        query: QueryRequest,
    ) -> Result<(Arc<Across>, Box<Invocation>), RequestError> {
        let across = Arc::new(Across::new(runner.bus(), runner.instance(), snapshot));
        let question = question((runner, version), snapshot, &across, query);
        let (queries, module) = (Arc::clone(self), Arc::clone(module));
        let running = self.tenant.spawn(async move { queries.run(&module, question).await });
        let invocation = running.await.map_err(|error| internal(&error))?;
        Ok((across, invocation))
    }

    async fn run(&self, module: &Module, question: Question) -> Box<Invocation> {
        let mut slot = self.idle().pop().unwrap_or_default();
        let invocation = module.read(&mut slot, question).await;
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(slot);
        }
        invocation
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn internal(error: &dyn std::fmt::Display) -> RequestError {
    RequestError::Internal(error.to_string())
}

fn question(
    (runner, version): (&Runner, &Version),
    snapshot: &Snapshot,
    across: &Arc<Across>,
    query: QueryRequest,
) -> Question {
    Question {
        request: Request {
            operation: query.path,
            key: query.key,
            principal: query.principal.as_ref().to_owned(),
            content_type: query.content_type,
            data: query.data,
            attributes: query.parameters,
        },
        now_ms: snapshot.now_ms,
        seed: Seed {
            log_id: runner.bus().log_id(),
            instance: runner.instance(),
            generation: snapshot.generation,
            recorded_ms: 0,
        },
        config: Arc::clone(&version.config),
        limits: Arc::clone(&version.limits),
        state: Arc::new(OfKey(snapshot.values.clone())),
        keys: Arc::clone(across) as Arc<dyn KeysView>,
    }
}

fn answered(invocation: Box<Invocation>, snapshot: &Snapshot) -> Result<Answered, RequestError> {
    let outcome = invocation.outcome.kind();
    let Some(response) = invocation.effects.response.filter(|_| outcome == OutcomeKind::Ok) else {
        return Err(RequestError::Failed { outcome, reason: invocation.outcome.reason() });
    };
    Ok(Answered {
        content_type: response.content_type,
        data: response.data,
        attributes: response.attributes,
        commit: snapshot.commit,
        position: snapshot.position,
        sequence: snapshot.sequence,
        repeated: false,
    })
}

/// The values of the query's key, all of one commit.
struct OfKey(KeyValues);

impl StateView for OfKey {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value.bytes.to_vec())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        page(self.0.iter().map(|(name, _)| &**name), prefix, after, limit)
    }
}

/// State across keys: each value as it is when it is asked for, at the query's commit or later.
struct Across {
    bus: Arc<Bus>,
    instance: InstanceId,
    generation: Generation,
    now_ms: u64,
    listed: Mutex<Option<Listed>>,
    /// The query has looked at other keys.
    asked: AtomicBool,
    /// The state could not be read: the answer is worth nothing.
    failed: AtomicBool,
}

/// Keys found by one look at all of them.
struct Listed {
    prefix: String,
    /// Those after this one.
    after: Option<String>,
    /// Ascending.
    keys: VecDeque<Key>,
    /// Whether there are no more.
    whole: bool,
}

impl Across {
    fn new(bus: &Arc<Bus>, instance: InstanceId, snapshot: &Snapshot) -> Self {
        Self {
            bus: Arc::clone(bus),
            instance,
            generation: snapshot.generation,
            now_ms: snapshot.now_ms,
            listed: Mutex::default(),
            asked: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// Whether all that the query asked for was there. With the end of a rewind the values of the
    /// generation before are gone; until then the ledger says that this one serves.
    fn is_whole(&self) -> bool {
        if !self.asked.load(Ordering::SeqCst) {
            return true;
        }
        // Both change while the fold has the ledger: what still serves has lost nothing.
        let ledger = self.bus.ledger();
        ledger.instance(self.instance).is_some_and(|plugin| plugin.serving() == self.generation)
    }

    fn look(&self, prefix: &str, after: Option<&str>, limit: usize) -> Listed {
        let (instance, generation, now_ms) = (self.instance, self.generation, self.now_ms);
        let wanted = Wanted { instance, generation, prefix, after, limit, now_ms };
        let keys = self.bus.values().keys(&wanted).unwrap_or_else(|error| {
            self.fail(&error);
            Vec::new()
        });
        let whole = keys.len() < limit;
        let after = after.map(str::to_owned);
        Listed { prefix: prefix.to_owned(), after, keys: keys.into(), whole }
    }

    fn fail(&self, error: &dyn std::fmt::Display) {
        tracing::error!(bus = %self.bus.name(), %error, "a query cannot read the state");
        self.failed.store(true, Ordering::SeqCst);
    }
}

impl Listed {
    /// Lets go of keys up to `after`, and says whether `limit` of what follows is known.
    fn knows(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> bool {
        if self.prefix != prefix || self.after.as_deref() > after {
            return false;
        }
        while self.keys.front().is_some_and(|key| after.is_some_and(|a| key.as_str() <= a)) {
            self.keys.pop_front();
        }
        self.after = after.map(str::to_owned);
        self.whole || self.keys.len() >= limit
    }
}

impl KeysView for Across {
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        self.asked.store(true, Ordering::SeqCst);
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if !listed.as_mut().is_some_and(|listed| listed.knows(prefix, after, limit)) {
            // Who goes on wants all of them: they are looked for once, not page by page.
            let goes_on = after.is_some() && listed.is_some();
            let most = if goes_on { QUERY_KEYS_KEPT_MAX } else { LIST_MAX };
            *listed = Some(self.look(prefix, after, most.max(limit)));
        }
        let keys = listed.iter().flat_map(|listed| &listed.keys);
        keys.take(limit).map(ToString::to_string).collect()
    }

    fn get(&self, key: &str, name: &str) -> Option<Vec<u8>> {
        self.asked.store(true, Ordering::SeqCst);
        let key = Key::new(key).ok()?;
        let owner = Owner { instance: self.instance, generation: self.generation, key };
        let found = self.bus.values().get(&owner, name, self.now_ms);
        found.map_err(|error| self.fail(&error)).ok().flatten().map(|value| value.bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::memory::{MemoryOptions, Order, Overflow};
    use crate::clock::SystemClock;
    use crate::event::{CommitNumber, Position};
    use crate::log::record::{Control, ControlRecord};

    fn listed(after: Option<&str>, keys: &[&str], whole: bool) -> Listed {
        let keys = keys.iter().map(|key| Key::new(key).unwrap()).collect();
        Listed { prefix: "a".to_owned(), after: after.map(str::to_owned), keys, whole }
    }

    #[test]
    fn a_listing_is_good_for_the_pages_that_it_covers() {
        let keys = ["a1", "a2", "a3"];
        assert!(listed(None, &keys, false).knows("a", None, 3));
        assert!(!listed(None, &keys, false).knows("a", None, 4));
        assert!(listed(None, &keys, true).knows("a", None, 4));
        assert!(listed(None, &keys, false).knows("a", Some("a1"), 2));
        assert!(!listed(None, &keys, false).knows("a", Some("a1"), 3));
        assert!(!listed(None, &keys, true).knows("", None, 1));
        assert!(!listed(Some("a0"), &keys, true).knows("a", None, 1));
        let mut some = listed(None, &keys, true);
        assert!(some.knows("a", Some("a2"), 5));
        assert_eq!(some.keys, [Key::new("a3").unwrap()]);
        assert!(!some.knows("a", Some("a1"), 5), "it has let go of those");
    }

    #[test]
    fn what_looked_across_keys_has_seen_all_unless_its_generation_was_dropped() {
        let options = MemoryOptions { capacity: 9, overflow: Overflow::Reject, order: Order::Key };
        let bus = Arc::new(Bus::memory("m", options, Arc::new(SystemClock::new())));
        let instance = InstanceId(1);
        let control = |control| {
            drop(bus.control(&[ControlRecord { actor: "test".into(), control }]));
        };
        control(Control::Register { instance, name: "p".into(), after: Position(0) });
        let snapshot = Snapshot {
            commit: CommitNumber(0),
            position: Position(0),
            sequence: None,
            generation: Generation(0),
            now_ms: 0,
            values: KeyValues::new(),
        };
        let across = || Across::new(&bus, instance, &snapshot);
        let (asked, unasked) = (across(), across());
        assert_eq!(asked.get("k", "n"), None);
        let (after, until) = (Position(0), Position(0));
        let (generation, done) = (Generation(1), Position(0));
        control(Control::Rewind { instance, generation, after, until, done });
        assert!(asked.is_whole(), "the state before serves until the rewind is over");
        control(Control::Rebuilt { instance, generation });
        assert!(!asked.is_whole());
        assert!(unasked.is_whole(), "it needs nothing of other keys");
        let listed = across();
        listed.list("", None, 10);
        assert!(!listed.is_whole());
    }

    #[test]
    fn a_load_that_failed_is_tried_again_after_a_while() {
        let (now, environment) = (Instant::now(), Digest::default());
        let again_at = now + Duration::from_secs(5);
        let failed = Earlier { environment, loaded: Err("it is gone".to_owned()), again_at };
        assert!(failed.holds(environment, now));
        assert!(!failed.holds(environment, again_at));
        assert!(!failed.holds(Digest::of(b"another"), now));
    }
}
