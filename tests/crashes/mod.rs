//! Real hosts that end badly, again and again, on one data folder, judged by the oracle after each
//! end and at rest: what SIGKILL and power cuts have in common.

mod mount;
mod repair;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "only what runs as root mounts anything")]
pub(crate) use mount::Mount;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Cli, Host, HostOptions, Http, Place, event, fixture, wait_until};
use crate::oracle::{Case, Counting, History, Journal, Lost, Rule, Shown, Verdict};

const PLUGIN: &str = "witness";
const KEYS: usize = 12;
/// The smallest segments there are, and checkpoints as often as they can be: both happen under load.
const CONFIG: &str = "[buses.main]\nkind = \"durable\"\nsegment = \"4MiB\"\n\
                      checkpoint-every = \"64KiB\"\n";
/// Timers are due after so long at most.
const TIMER_MS_MAX: u64 = 1500;
const REST_MAX: Duration = Duration::from_secs(120);

/// What is the same for all hosts of a run.
pub(crate) struct Series {
    pub(crate) place: Place,
    pub(crate) rng: fastrand::Rng,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Text of `tidegate.toml`.
    pub(crate) config: String,
    client: Arc<Mutex<Client>>,
    /// The log as it was found the last time.
    seen: Option<History>,
    /// What repairs of it lost.
    pub(crate) lost: Lost,
    pub(crate) ended: u64,
}

/// The one client: every key has one writer that way.
struct Client {
    rng: fastrand::Rng,
    numbers: Vec<usize>,
    /// What was sent and not acknowledged yet: to be sent again before anything else.
    open: Vec<Value>,
    /// The same, of another kind.
    one: Option<Value>,
    journal: Journal,
}

impl Client {
    fn batch(&mut self) -> Vec<Value> {
        let count = self.rng.usize(1..8);
        (0..count)
            .map(|_| {
                let key = self.rng.usize(..KEYS);
                self.numbers[key] += 1;
                let number = self.numbers[key];
                json!({
                    "specversion": "1.0",
                    "id": format!("k{key}/{number}"),
                    "source": crate::oracle::CLIENT,
                    "type": "step.taken",
                    "datacontenttype": "application/json",
                    "partitionkey": format!("k{key}"),
                    "data": self.data(number),
                })
            })
            .collect()
    }

    fn data(&mut self, number: usize) -> Value {
        let text = "x".repeat(match self.rng.u8(..50) {
            0 => 100_000,
            _ => self.rng.usize(..800),
        });
        let mut data = json!({ "n": number, "text": text });
        match self.rng.u8(..40) {
            0 => data["fail"] = "once".into(),
            1 => data["fail"] = "broken".into(),
            2 => data["fail"] = "reject".into(),
            3..=12 => {
                let name = format!("t{}", self.rng.u8(..3));
                let after_ms = self.rng.u64(..TIMER_MS_MAX);
                data["set"] = json!([{ "name": name, "after_ms": after_ms }]);
            }
            13..=16 => data["cancel"] = json!(["t0", "t1"]),
            _ => {}
        }
        data
    }

    /// Sends what is open, or something new. False: the host took nothing.
    fn send(this: &Mutex<Self>, http: &Http) -> bool {
        let batch = {
            let mut client = this.lock().unwrap();
            if client.open.is_empty() {
                client.open = client.batch();
            }
            let batch = client.open.clone();
            batch.iter().for_each(|event| client.journal.sends(event));
            batch
        };
        let Ok(answers) = http.try_publish("main", &batch.iter().collect::<Vec<_>>()) else {
            return false;
        };
        let mut client = this.lock().unwrap();
        for answer in answers {
            let (id, position) = (answer["id"].as_str(), answer["position"].as_u64());
            client.journal.acknowledged(id.unwrap_or_default(), position.unwrap_or_default());
        }
        client.open.clear();
        true
    }
}

/// A client at work until the host is gone.
pub(crate) struct Load(Option<std::thread::JoinHandle<()>>);

impl Load {
    fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }

    pub(crate) fn join(mut self) {
        if let Some(thread) = self.0.take() {
            thread.join().unwrap();
        }
    }
}

impl Series {
    pub(crate) fn new(place: Place, mut rng: fastrand::Rng) -> Self {
        std::fs::write(place.plugins().join("witness.wasm"), fixture("witness-guest")).unwrap();
        let client = Client {
            rng: rng.fork(),
            numbers: vec![0; KEYS],
            open: Vec::new(),
            one: None,
            journal: Journal::default(),
        };
        let client = Arc::new(Mutex::new(client));
        let (environment, config) = (Vec::new(), CONFIG.to_owned());
        let (seen, lost) = (None, Lost::NOTHING);
        let series = Self { place, rng, environment, config, client, seen, lost, ended: 0 };
        series.mend(false);
        series
    }

    /// Whether what fails works; a reload.
    pub(crate) fn mend(&self, works: bool) {
        let fixed = if works { "fixed = \"yes\"\n" } else { "" };
        let workers = 1 + self.ended % 3;
        let manifest = format!(
            "[subscribe]\ntypes = [\"step.*\"]\n[run]\nworkers = {workers}\n[retry]\n\
             backoff = \"10ms\"\n[config]\n{fixed}"
        );
        let path = self.place.plugins().join("witness.toml");
        std::fs::write(path, manifest).unwrap();
    }

    pub(crate) fn options(&self) -> HostOptions {
        HostOptions {
            config: Some(self.config.clone()),
            environment: self.environment.clone(),
            ..HostOptions::default()
        }
    }

    /// Lets dead letters run again, as far as the host is there.
    pub(crate) fn redrive(&self, host: &Host) {
        host.cli(&["dead-letters", "redrive", "--all"]).run();
    }

    /// Publishes one event of another kind, with so many bytes: status and code of the answer. One
    /// that is refused is tried again the next time. None: the host gave no answer.
    pub(crate) fn try_one(&self, http: &Http, bytes: usize) -> Option<(u16, String)> {
        let mut client = self.client.lock().unwrap();
        let one = client.one.take().unwrap_or_else(|| {
            let id = format!("one/{}", client.journal.entries().len());
            let mut one = event("other.thing", &id, Some(&id), json!("x".repeat(bytes)));
            one["source"] = crate::oracle::CLIENT.into();
            one
        });
        client.journal.sends(&one);
        let body = serde_json::to_vec(&one).unwrap();
        let headers = [("content-type", "application/cloudevents+json")];
        let answer = http.send("POST", "/v1/events", &headers, &body).ok();
        if answer.as_ref().is_none_or(|answer| answer.status != 200) {
            client.one = Some(one);
            return answer.map(|answer| (answer.status, answer.code()));
        }
        let answer = answer?;
        let position = answer.json()[0]["position"].as_u64();
        let id = one["id"].as_str().unwrap_or_default();
        client.journal.acknowledged(id, position.unwrap_or_default());
        Some((answer.status, answer.code()))
    }

    /// Waits until a folder of the bus holds another file than before, with large events on the way:
    /// the moment in which a segment is rolled, or a checkpoint is written.
    pub(crate) fn wait_for_file(&self, host: &Host, folder: &str) {
        let folder = self.place.data().join("buses/main").join(folder);
        let files = || -> BTreeSet<_> {
            let entries = std::fs::read_dir(&folder).into_iter().flatten();
            entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect()
        };
        let before = files();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.try_one(&host.http, 200_000);
                }
            });
            let until = Instant::now() + REST_MAX;
            while files() == before && Instant::now() < until {
                std::thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
            // Without waiting for the client: the host is to be killed now.
            host.signal(rustix::process::Signal::KILL);
        });
        assert_ne!(files(), before, "no file came into {folder:?}");
    }

    /// Rebuilds the state from the first event. False: not now.
    pub(crate) fn rewind(&self, host: &Host) -> bool {
        let path = format!("/v1/plugins/{PLUGIN}/rewind");
        host.http.send("POST", &path, &[], &[]).is_ok_and(|answer| answer.status == 200)
    }

    /// Events acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        let client = self.client.lock().unwrap();
        client.journal.entries().iter().filter(|entry| entry.acknowledged.is_some()).count()
    }

    /// Waits until so many more events are acknowledged, or the client has stopped.
    pub(crate) fn wait_acknowledged(&self, load: &Load, more: usize) {
        let until = self.acknowledged() + more;
        wait_until("enough is acknowledged", REST_MAX, || {
            let count = self.acknowledged();
            if count >= until || load.has_ended() { Ok(()) } else { Err(count) }
        });
    }

    pub(crate) fn start(&self) -> Host {
        self.place.start_with(&self.options())
    }

    pub(crate) fn load(&self, host: &Host) -> Load {
        let (client, http) = (Arc::clone(&self.client), host.http.clone());
        Load(Some(std::thread::spawn(move || while Client::send(&client, &http) {})))
    }

    /// The log as it lies there, no host being on it.
    pub(crate) fn history(&self) -> History {
        let dump = Cli::new(&["log", "dump"]).arg(self.place.data()).run();
        assert!(dump.code <= 1, "{}", dump.stderr);
        History::read(&dump.stdout)
    }

    fn log_id(&self) -> Uuid {
        let id = self.place.data().join("buses/main/log/id");
        std::fs::read_to_string(id).map_or(Uuid::nil(), |text| text.trim().parse().unwrap())
    }

    fn counting(history: &History) -> Vec<Counting> {
        let controls = history.commits().iter().flat_map(|commit| &commit.controls);
        let named = controls.filter(|(kind, of)| kind == "Register" && of["name"] == PLUGIN);
        let instances = named.filter_map(|(_, of)| of["instance"].as_u64()?.try_into().ok());
        instances.map(|instance| Counting { instance, kinds: "step." }).collect()
    }

    /// After an end without order, before anybody starts: what is durable is there.
    pub(crate) fn judge(&mut self) -> Verdict {
        self.ended += 1;
        let history = self.history();
        let client = self.client.lock().unwrap();
        let counting = Self::counting(&history);
        let case = Case {
            journal: &client.journal,
            history: &history,
            log_id: self.log_id(),
            counting: &counting,
            lost: &self.lost,
        };
        let verdict = case.after_recovery(self.seen.as_ref());
        drop(client);
        self.seen = Some(history);
        verdict
    }

    /// Everything that can come to an end does, and is judged as a whole.
    pub(crate) fn finish(&mut self) -> Verdict {
        self.mend(true);
        let host = self.start();
        while !self.client.lock().unwrap().open.is_empty() {
            assert!(Client::send(&self.client, &host.http), "the host does not take events");
        }
        while self.client.lock().unwrap().one.is_some() {
            self.try_one(&host.http, 0);
        }
        wait_until("nothing is given up, no timer is pending", REST_MAX, || {
            let view = host.plugin(PLUGIN);
            let letters = host.dead_letters(PLUGIN).len();
            if letters > 0 {
                self.redrive(&host);
            }
            let idle = ["lag_events", "in_flight", "timers"].iter().all(|of| view[of] == 0);
            if idle && letters == 0 { Ok(()) } else { Err(view.to_string()) }
        });
        host.wait_rest(PLUGIN, 0);
        let shown = self.shown(&host);
        host.stop();
        let history = self.history();
        let client = self.client.lock().unwrap();
        let counting = Self::counting(&history);
        let shown = Shown {
            state: shown
                .iter()
                .map(|(key, name, value)| {
                    let instance = counting.first().map_or(0, |of| of.instance);
                    ((instance, key.clone(), name.clone()), value.clone())
                })
                .collect(),
            ..Shown::default()
        };
        let case = Case {
            journal: &client.journal,
            history: &history,
            log_id: self.log_id(),
            counting: &counting,
            lost: &self.lost,
        };
        case.at_rest(self.seen.as_ref(), &shown)
    }

    fn shown(&self, host: &Host) -> BTreeSet<(String, String, String)> {
        let mut shown = BTreeSet::new();
        for key in (0..KEYS).map(|key| format!("k{key}")) {
            for name in ["count", "fired"] {
                if let Some(value) = host.state(PLUGIN, &key, name) {
                    shown.insert((key.clone(), name.to_owned(), value));
                }
            }
        }
        shown
    }

    /// How much there is: events acknowledged, commits.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.acknowledged(), self.seen.as_ref().map_or(0, |seen| seen.commits().len()))
    }
}

/// Panics with what is wrong.
pub(crate) fn must_be_sound(verdict: &Verdict, what: &str) {
    assert!(verdict.is_sound(), "{what}: {:?}\n{verdict}", verdict.rules());
}

/// Whether a promise of durability is broken.
pub(crate) fn has_lost(verdict: &Verdict) -> bool {
    let rules = verdict.rules();
    [Rule::Acknowledged, Rule::Shown, Rule::Starts].iter().any(|rule| rules.contains(rule))
}
