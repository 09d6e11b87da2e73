//! The sender of one bus: takes the calls that are open, sends each as [`super::plan`] says, and
//! appends the answers.
//!
//! What the plan and the attempts are is lost in a crash and made again from the ledger. A call
//! leaves it with the commit of its answer, and in no other way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer;
use super::client::{Answer, Client, Failure, Resolving, ended};
use super::plan::{Due, End, Plan};
use super::policy::{self, Fault, Step};
use crate::bus::Bus;
use crate::bus::runner::{Runner, Version};
use crate::config::Config;
use crate::effects::OutgoingCall;
use crate::event::{Digest, InstanceId, NewEvent};
use crate::log::AppendError;
use crate::metrics::CallResult;
use crate::state::{CallPlace, OpenCall};

/// Open calls that are taken from the ledger at a time: it is everybody's.
const TAKEN_MAX: usize = 1000;
/// How long to wait where an answer cannot be appended, or a request not be read, at present.
const BLOCKED_MS: u64 = 5000;
/// How long calls in progress may take to end at a stop; they are sent again at the next start.
const CALLS_END_MAX: Duration = Duration::from_secs(5);

/// Starts the sender of every bus. They end soon after `stop`.
#[must_use]
pub fn start(buses: &[Arc<Bus>], config: &Arc<Config>, stop: &CancellationToken) -> TaskTracker {
    let tasks = TaskTracker::new();
    for bus in buses {
        let sender = Sender::new(Arc::clone(bus), Arc::clone(config));
        tasks.spawn(sender.run(stop.clone()));
    }
    tasks.close();
    tasks
}

/// See the module.
struct Sender {
    shared: Arc<Shared>,
    plan: Plan,
    /// The last call that was taken.
    seen: Option<CallPlace>,
    sending: JoinSet<(Arc<OpenCall>, End)>,
}

struct Shared {
    bus: Arc<Bus>,
    config: Arc<Config>,
    /// By plugin: for which version, and its connections.
    clients: Mutex<HashMap<InstanceId, (Digest, Arc<Client>)>>,
}

impl Sender {
    fn new(bus: Arc<Bus>, config: Arc<Config>) -> Self {
        let shared = Arc::new(Shared { bus, config, clients: Mutex::default() });
        Self { shared, plan: Plan::default(), seen: None, sending: JoinSet::new() }
    }

    /// Sends until stopped; what is on its way then gets a moment to end.
    async fn run(mut self, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        loop {
            self.take_opened();
            let now_ms = shared.bus.now_ms();
            while let Some(due) =
                self.plan.next(now_ms, |instance| shared.sender(instance).is_some())
            {
                self.sending.spawn(Arc::clone(&shared).send(due));
            }
            let due_ms = self.plan.due_ms();
            let wait =
                Duration::from_millis(due_ms.unwrap_or(now_ms).saturating_sub(now_ms).max(1));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.sending.join_next() => match ended {
                    Ok((call, end)) => self.plan.end(&call, end),
                    Err(error) => tracing::error!(%error, "a call stays open until the next start"),
                },
                () = shared.bus.outlets().sendable() => {}
                () = tokio::time::sleep(wait), if due_ms.is_some() => {}
            }
        }
        let rest = async { while self.sending.join_next().await.is_some() {} };
        if tokio::time::timeout(CALLS_END_MAX, rest).await.is_err() {
            tracing::warn!(bus = %shared.bus.name(), "some calls did not end; they are sent again");
        }
    }

    fn take_opened(&mut self) {
        loop {
            let ledger = self.shared.bus.ledger();
            let opened: Vec<_> =
                ledger.calls().after(self.seen).take(TAKEN_MAX).map(Arc::clone).collect();
            drop(ledger);
            let Some(last) = opened.last() else { return };
            self.seen = Some(last.place);
            opened.into_iter().for_each(|call| self.plan.add(call));
        }
    }
}

impl Shared {
    /// Who sends for a plugin; none while it is paused or away.
    fn sender(&self, instance: InstanceId) -> Option<Arc<Runner>> {
        self.bus.outlets().runner(instance).filter(|runner| !runner.is_paused())
    }

    async fn send(self: Arc<Self>, due: Due) -> (Arc<OpenCall>, End) {
        let end = self.attempt(&due).await;
        (due.call, end)
    }

    async fn attempt(&self, Due { call, attempt }: &Due) -> End {
        if self.bus.ledger().calls().get(call.place).is_none() {
            // Its plugin was forgotten.
            return End::Closed;
        }
        let Some(runner) = self.sender(call.instance) else { return End::Unsent };
        let blocked = || End::RetryAt(self.bus.now_ms().saturating_add(BLOCKED_MS));
        let request = match self.bus.call_request(call).await {
            Ok(Some(request)) => request,
            Ok(None) => {
                tracing::error!(commit = %call.place.commit, "an open call is not in its commit");
                return End::Closed;
            }
            Err(error) => {
                tracing::error!(commit = %call.place.commit, %error, "a call cannot be read");
                return blocked();
            }
        };
        let version = runner.version();
        let began = Instant::now();
        let result = self.ask(&version, call.instance, &request).await;
        let took = began.elapsed();
        let (now_ms, jitter) = (self.bus.now_ms(), fastrand::u64(..));
        let ended = ended(&result);
        let step = policy::next(&version.retry, *attempt, call.opened_ms, now_ms, ended, jitter);
        let counted = match step {
            Step::Answer => CallResult::Answered,
            Step::RetryAt(_) => CallResult::Retried,
            Step::GiveUp => CallResult::GivenUp,
        };
        runner.metrics().called(counted, took);
        tell(&runner, &request, &result, *attempt, step);
        if let Step::RetryAt(at_ms) = step {
            return End::RetryAt(at_ms);
        }
        let input = self.bus.event(call.position).await.ok().flatten();
        let ends = (*attempt, step == Step::GiveUp);
        let to = &version.deliverer;
        let event = answer::event(to, call, &request, result, ends, input.as_deref());
        if self.append(event).await { End::Closed } else { blocked() }
    }

    /// Sends a call from a thread of its own: what blocks there is nobody else's.
    async fn ask(
        &self,
        version: &Version,
        instance: InstanceId,
        request: &Arc<OutgoingCall>,
    ) -> Result<Answer, Failure> {
        let client = self.client(version, instance);
        let (config, request) = (Arc::clone(&self.config), Arc::clone(request));
        let (tell, told) = oneshot::channel();
        let ask = move || {
            // Nobody waits any more where the host stops.
            let _ = tell.send(client.send(&request, &config.secrets));
        };
        let failed = |why: String| Failure { fault: Fault::Connect, why };
        let thread = std::thread::Builder::new().name("call".to_owned()).spawn(ask);
        thread.map_err(|error| failed(format!("no thread to send it: {error}")))?;
        told.await.unwrap_or_else(|_| Err(failed("sending it panicked".to_owned())))
    }

    /// The connections of a plugin. Each has its own: what one was granted is no way for another.
    fn client(&self, version: &Version, instance: InstanceId) -> Arc<Client> {
        let environment = version.deliverer.environment;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        match clients.get(&instance) {
            Some((of, client)) if *of == environment => Arc::clone(client),
            _ => {
                let client =
                    Arc::new(Client::new(version.manifest.grants.clone(), Resolving::InTime));
                clients.insert(instance, (environment, Arc::clone(&client)));
                client
            }
        }
    }

    /// Appends an answer, and waits until it is folded; false: the log takes nothing more.
    async fn append(&self, event: NewEvent) -> bool {
        loop {
            match self.bus.append_private(vec![event.clone()]).done().await {
                Ok(committed) => {
                    self.bus.until_applied(committed.commit).await;
                    return true;
                }
                Err(AppendError::QueueFull { .. } | AppendError::StorageFull { .. }) => {
                    tokio::time::sleep(Duration::from_millis(BLOCKED_MS)).await;
                }
                Err(error) => {
                    tracing::debug!(bus = %self.bus.name(), %error, "an answer is not appended");
                    return false;
                }
            }
        }
    }
}

/// Says what people want to know: the first failure of a call, and that it was given up.
fn tell(
    runner: &Runner,
    request: &OutgoingCall,
    result: &Result<Answer, Failure>,
    attempt: u32,
    step: Step,
) {
    let how = match result {
        Ok(answer) => format!("status {}", answer.status),
        Err(Failure { fault, why }) => format!("{}: {why}", fault.name()),
    };
    let (plugin, call) = (runner.name(), &request.name);
    match step {
        Step::Answer => tracing::debug!(%plugin, %call, attempt, how, "call answered"),
        Step::RetryAt(_) => {
            tracing::debug!(%plugin, %call, attempt, how, "call failed, it is sent again");
            if attempt == 1 {
                runner.say("warn", format!("call `{call}` is sent again: {how}"));
            }
        }
        Step::GiveUp => {
            tracing::warn!(%plugin, %call, attempt, how, "call given up");
            runner.say("error", format!("call `{call}` given up after {attempt} attempts: {how}"));
        }
    }
}
