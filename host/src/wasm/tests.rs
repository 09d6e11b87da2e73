//! The sandbox against guests: every outcome, and that the next delivery is none the worse.

mod commands;
mod guests;
mod hostile;
mod stdio;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::compile::CompileLimits;
use super::engine::HostEngineOptions;
use super::load::{Compiler, LoadError, LoaderOptions};
use super::*;
use crate::effects::{Outcome, OutcomeKind};
use crate::event::{Event, Generation, InstanceId, Key, NewEvent, Position};

/// One sandbox for all tests: an engine reserves address space.
fn sandbox() -> &'static Arc<Sandbox> {
    static SANDBOX: OnceLock<(Arc<Sandbox>, tempfile::TempDir)> = OnceLock::new();
    let (sandbox, _) = SANDBOX.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let loader = LoaderOptions::new(folder.path().join("cache"), Compiler::InProcess);
        assert_eq!(loader.limits, CompileLimits::default());
        let engine = HostEngineOptions { workers: 4, plugins_max: 16, ..Default::default() };
        (Sandbox::new(SandboxOptions { loader, engine }).unwrap(), folder)
    });
    sandbox
}

/// A plugin with one worker.
struct Plugin {
    module: Arc<Module>,
    slot: Slot,
    limits: GuestLimits,
    config: Arc<BTreeMap<String, String>>,
    key: Option<&'static str>,
    depth: u8,
    attempt: u32,
    state: Arc<Values>,
}

/// What is delivered to a plugin.
struct Given {
    event: Arc<Event>,
    attempt: u32,
    config: Arc<BTreeMap<String, String>>,
    limits: Arc<GuestLimits>,
    state: Arc<Values>,
}

impl Given {
    fn delivery(&self) -> Delivery<'_> {
        Delivery {
            event: &self.event,
            attempt: self.attempt,
            redriven: false,
            seed: seed(),
            config: &self.config,
            limits: &self.limits,
            state: self.state.clone(),
            outside: None,
        }
    }
}

/// State in memory.
#[derive(Default)]
struct Values(Mutex<BTreeMap<String, Bytes>>);

impl Values {
    fn of(values: &[(&str, &str)]) -> Arc<Self> {
        let owned = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), owned(value)));
        Arc::new(Self(Mutex::new(values.collect())))
    }
}

impl StateView for Values {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(name).map(|value| value.to_vec())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let values = self.0.lock().unwrap();
        let names = values.keys().filter(|name| name.starts_with(prefix));
        names
            .filter(|name| after.is_none_or(|after| name.as_str() > after))
            .take(limit)
            .cloned()
            .collect()
    }
}

impl KeysView for Values {
    fn list(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Vec<String> {
        vec!["k".to_owned()]
    }

    fn get(&self, key: &str, name: &str) -> Option<Vec<u8>> {
        StateView::get(self, &format!("{key}/{name}"))
    }
}

impl Plugin {
    async fn load(wasm: Vec<u8>) -> Self {
        Self {
            module: sandbox().load("test", wasm.into()).await.unwrap(),
            slot: Slot::default(),
            limits: GuestLimits { timeout: Duration::from_secs(60), ..GuestLimits::default() },
            config: Arc::default(),
            key: Some("k"),
            depth: 0,
            attempt: 1,
            state: Arc::default(),
        }
    }

    fn given(&self, data: &str) -> Given {
        let body = NewEvent {
            id: "1".into(),
            source: "/test".into(),
            kind: "thing.started".into(),
            key: self.key.map(|key| Key::new(key).unwrap()),
            content_type: "text/plain".into(),
            data: Bytes::copy_from_slice(data.as_bytes()),
            depth: self.depth,
            ..NewEvent::default()
        };
        let position = Position(7);
        Given {
            event: Arc::new(Event {
                position,
                sequence: crate::event::KeySequence(1),
                recorded_ms: 1_700_000_000_000,
                commit: crate::event::CommitNumber(1),
                body,
            }),
            attempt: self.attempt,
            config: self.config.clone(),
            limits: Arc::new(self.limits.clone()),
            state: self.state.clone(),
        }
    }

    async fn deliver(&mut self, data: &str) -> Invocation {
        let given = self.given(data);
        let invocation = self.module.invoke(&mut self.slot, given.delivery()).await;
        let done = Invocation::clone(&invocation);
        // The next one begins in the same memory, and is to find nothing there.
        self.slot.give_back(invocation);
        done
    }

    fn has_instance(&self) -> bool {
        !self.slot.is_empty()
    }
}

fn seed() -> Seed {
    Seed {
        log_id: Uuid::from_u128(7),
        instance: InstanceId(3),
        generation: Generation(0),
        recorded_ms: 5,
    }
}

fn assert_ok(invocation: &Invocation) {
    assert_eq!(invocation.outcome, Outcome::Ok, "{} {:?}", invocation.backtrace, invocation.logs);
}

#[tokio::test]
async fn effects_of_a_delivery_come_back_whole() {
    let mut plugin = Plugin::load(guests::counter()).await;
    plugin.state = Values::of(&[("count", "xx")]);
    let done = plugin.deliver(".data").await;
    assert_ok(&done);
    let [emit] = done.effects.emits.as_slice() else { panic!("{:?}", done.effects) };
    assert_eq!((&*emit.kind, &*emit.data), ("thing.happened", &b".data"[..]));
    assert_eq!(emit.key, Some(Key::new("k").unwrap()), "the key of the input");
    assert_eq!(emit.id, seed().event_id(Position(7), 0));
    assert_eq!(done.logs.first().unwrap().message, *emit.id, "the guest was told the same id");
    let [write] = done.effects.state.as_slice() else { panic!("{:?}", done.effects) };
    assert_eq!((&*write.name, write.value.as_deref()), ("count", Some(&b"xxx"[..])));
    assert!(done.fuel > 0 && done.memory_bytes >= 2 * 65_536);

    let again = plugin.deliver(".data").await;
    assert_eq!(again.effects, done.effects, "a re-run asks for the same, with the same ids");
    let third = plugin.deliver(".data").await;
    assert_eq!(third.fuel, again.fuel, "instantiation aside, the fuel is the same");
}

#[tokio::test]
async fn the_future_of_a_delivery_is_small() {
    let plugin = Plugin::load(guests::counter()).await;
    let mut slot = Slot::default();
    let given = plugin.given(".");
    let handled = plugin.module.handle(&mut slot, given.delivery());
    // A larger one takes allocators longer than all else that a delivery asks of them.
    assert!(size_of_val(&handled) < 1024, "{} bytes", size_of_val(&handled));
}

#[tokio::test]
async fn every_delivery_of_an_instance_gets_whole_budgets() {
    let mut plugin = Plugin::load(guests::counter()).await;
    assert_ok(&plugin.deliver(".").await);
    plugin.limits.fuel = plugin.deliver(".").await.fuel;
    plugin.limits.emits_max = 1;
    plugin.limits.output_bytes_max = "count".len() + 1 + "thing.happened".len() + 1 + 1;
    for _ in 0..5 {
        assert_ok(&plugin.deliver(".").await);
    }
    assert_eq!(plugin.slot.served(), 7, "one instance served them all");
    // Fuel is looked at where functions and loops begin, so one unit less may pass.
    plugin.limits.fuel /= 2;
    assert_eq!(plugin.deliver(".").await.outcome, Outcome::Fuel);
}

#[tokio::test]
async fn a_rejected_delivery_has_no_effects() {
    let mut plugin = Plugin::load(guests::counter()).await;
    let done = plugin.deliver("!").await;
    assert_eq!(done.outcome, Outcome::Reject { reason: "not today".to_owned() });
    assert!(done.effects.is_empty());
    assert!(plugin.has_instance(), "a failure of its own choice is an orderly return");
    assert_ok(&plugin.deliver(".").await);
}

#[tokio::test]
async fn a_retry_says_when() {
    let retry = "(i32.store8 (i32.const 2048) (i32.const 1))
        (i32.store (i32.const 2064) (i32.const 3080)) (i32.store (i32.const 2068) (i32.const 9))
        (i32.store8 (i32.const 2072) (i32.const 1)) (i64.store (i32.const 2080) (i64.const -1))";
    let mut plugin = Plugin::load(guests::handler(retry, "")).await;
    let after_ms = Some(crate::limits::RETRY_AFTER_MS_MAX);
    let expected = Outcome::Retry { reason: "not today".to_owned(), after_ms };
    assert_eq!(plugin.deliver("!").await.outcome, expected);
}

#[tokio::test]
async fn an_instance_is_reused_until_it_is_recycled() {
    let mut plugin = Plugin::load(guests::counter()).await;
    plugin.limits.recycle_after = 2;
    assert_ok(&plugin.deliver(".").await);
    assert!(plugin.has_instance());
    assert_ok(&plugin.deliver(".").await);
    assert!(!plugin.has_instance());
    plugin.limits.reuse = false;
    assert_ok(&plugin.deliver(".").await);
    assert!(!plugin.has_instance());
}

#[tokio::test]
async fn an_instance_is_not_reused_by_another_module_or_configuration() {
    let one = guests::handler("unreachable", "");
    let mut plugin = Plugin::load(one.clone()).await;
    assert_ok(&plugin.deliver(".").await);
    let served = |plugin: &Plugin| plugin.slot.served();
    assert_eq!(served(&plugin), 1);
    plugin.module = sandbox().load("test", one.into()).await.unwrap();
    assert_ok(&plugin.deliver(".").await);
    assert_eq!(served(&plugin), 1, "a new instance");
    plugin.config = Arc::new(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    assert_ok(&plugin.deliver(".").await);
    assert_eq!(served(&plugin), 1, "a new instance");
    plugin.config = Arc::new((*plugin.config).clone());
    assert_ok(&plugin.deliver(".").await);
    assert_eq!(served(&plugin), 2, "the same configuration in another place");
}

#[tokio::test]
async fn a_dropped_invocation_leaves_an_empty_slot() {
    let mut plugin = Plugin::load(guests::handler("(loop $forever (br $forever))", "")).await;
    plugin.limits.fuel = u64::MAX;
    assert_ok(&plugin.deliver(".").await);
    let given = plugin.given("!");
    let running = plugin.module.invoke(&mut plugin.slot, given.delivery());
    assert!(tokio::time::timeout(Duration::from_millis(30), running).await.is_err());
    assert!(!plugin.has_instance());
    assert_ok(&plugin.deliver(".").await);
}

#[tokio::test]
async fn a_module_of_another_shape_is_refused() {
    // The right name with the wrong type, and an interface that nothing here answers.
    let wrong_type = fixtures::COMPONENT;
    for wasm in [wrong_type.to_owned(), fixtures::importing("tidegate:plugin/moon@0.1.0")] {
        let refused = sandbox().load("test", wasm.clone().into_bytes().into()).await;
        assert!(matches!(refused, Err(LoadError::Refused(_))), "{wasm}: {refused:?}");
    }
}

#[tokio::test]
async fn a_guest_of_wasi_prints_to_the_log_and_gets_nothing_else() {
    let mut plugin = Plugin::load(guests::wasi_handler()).await;
    assert!(plugin.module.imports.iter().any(|import| import.starts_with("wasi:")));
    let printed = |done: Invocation| -> Vec<String> {
        done.logs.into_iter().map(|line| line.message).collect()
    };
    let first = plugin.deliver(".").await;
    assert_ok(&first);
    let first = printed(first);
    let [text, random] = first.as_slice() else { panic!("{first:?}") };
    assert_eq!((text.as_str(), random.len()), ("printed", 8));
    assert_eq!(printed(plugin.deliver(".").await), first, "the same attempt, the same randomness");
    let trapped = plugin.deliver("!").await;
    assert_eq!(trapped.outcome.kind(), OutcomeKind::Trap);
    assert_eq!(printed(trapped), first, "what was printed before the end is kept");
    assert_eq!(printed(plugin.deliver(".").await), first);
    plugin.attempt = 2;
    assert_ne!(printed(plugin.deliver(".").await), first);
}
