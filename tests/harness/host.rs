//! A host process.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cli::program;
use super::{Answer, Cli, Http, wait_until};

/// How long a start may take: compiling modules in dev profile is slow on a busy machine.
pub(crate) const START_MAX: Duration = Duration::from_secs(60);
/// How long a stop may take: running deliveries get 10 s.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long deliveries may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(120);

/// Where a host keeps its things; outlives the host, so that another can go on with them.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("TIDEGATE_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            println!("kept: {}", self.dir.path().display());
        }
    }
}

/// How a host is started, where the defaults do not fit.
#[derive(Default)]
pub(crate) struct HostOptions {
    /// Text of `tidegate.toml`.
    pub(crate) config: Option<String>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Instead of `run`, with what stands in the plugins folder.
    pub(crate) dev: bool,
    /// Files that it may have open.
    pub(crate) open_files: Option<OpenFiles>,
}

/// How many files a host may have open.
#[derive(Clone, Copy)]
pub(crate) enum OpenFiles {
    /// So many, as long as it does not ask for more.
    AtFirst(u32),
    /// So many, whatever it asks for.
    Ever(u32),
}

/// A running host. Killed when dropped.
pub(crate) struct Host {
    child: Child,
    url: String,
    pub(crate) http: Http,
    /// The first line of its output.
    pub(crate) announced: Value,
    stdout: Captured,
    stderr: Captured,
}

/// What a process says, line by line, read by a thread that ends with the process.
struct Captured {
    lines: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Captured {
    fn nothing() -> Self {
        Self { lines: Arc::default(), thread: None }
    }

    fn start(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        Self { lines, thread: Some(thread) }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("tidegate-test-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plugins")).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.path().join("plugins")
    }

    /// The segments of a bus, oldest first.
    pub(crate) fn segments(&self, bus: &str) -> Vec<PathBuf> {
        let log = self.data().join("buses").join(bus).join("log");
        let entries = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
        segments.sort();
        segments
    }

    /// Starts a host that is ready: every plugin it found is live or refused.
    pub(crate) fn start(&self) -> Host {
        self.start_with(&HostOptions::default())
    }

    pub(crate) fn start_with(&self, options: &HostOptions) -> Host {
        self.start_within(options, START_MAX)
    }

    /// The same, where the start may take another time.
    pub(crate) fn start_within(&self, options: &HostOptions, limit: Duration) -> Host {
        let mut host = self.spawn(options).unwrap_or_else(|run| panic!("no start: {run:?}"));
        host.wait_ready(limit);
        host
    }

    /// Starts a host, asks it one thing as soon as anybody answers there, and kills it.
    pub(crate) fn first_answer(&self, method: &str, path: &str) -> Answer {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap().to_string();
        drop(taken);
        let mut command = program();
        command.current_dir(self.path()).args(["run", "--listen", &listen]);
        command.arg("--plugins").arg(self.plugins()).arg("--data").arg(self.data());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let _host = Unborn { child: Some(child), stderr: Captured::nothing() };
        let http = Http::new(&format!("http://{listen}"));
        let began = Instant::now();
        loop {
            match http.send(method, path, &[], &[]) {
                Ok(answer) => return answer,
                Err(error) => assert!(began.elapsed() < START_MAX, "{error}"),
            }
        }
    }

    /// Starts a host and kills it as soon as it says where it listens.
    pub(crate) fn start_and_kill(&self) {
        let host = self.spawn(&HostOptions::default());
        host.unwrap_or_else(|run| panic!("no start: {run:?}")).kill();
    }

    /// Tries to start a host that is expected to refuse.
    pub(crate) fn start_refused(&self) -> super::Run {
        self.start_refused_with(&HostOptions::default())
    }

    pub(crate) fn start_refused_with(&self, options: &HostOptions) -> super::Run {
        match self.spawn(options) {
            Ok(host) => panic!("it started: {:?}", host.announced),
            Err(run) => run,
        }
    }

    fn spawn(&self, options: &HostOptions) -> Result<Host, super::Run> {
        let mut command = match options.open_files {
            Some(files) => with_open_files(&program(), files),
            None => program(),
        };
        command.current_dir(self.path()).args(["--output", "json"]);
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        if options.dev {
            command.arg("dev").arg(self.plugins());
        } else {
            command.arg("run").arg("--plugins").arg(self.plugins());
        }
        command.args(["--listen", "127.0.0.1:0"]).arg("--data").arg(self.data());
        if let Some(text) = &options.config {
            let file = self.path().join("tidegate.toml");
            std::fs::write(&file, text).unwrap();
            command.arg("--config").arg(file);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout: ChildStdout = child.stdout.take().unwrap();
        let stderr: ChildStderr = child.stderr.take().unwrap();
        let mut captured = Unborn { child: Some(child), stderr: Captured::start(stderr) };
        // Before a host listens it prints nothing but what it builds: the first JSON object with a
        // `url` is the announcement, and end of file is a refusal.
        let mut stdout = BufReader::new(stdout);
        let mut before = String::new();
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap_or(0) == 0 {
                return Err(captured.refused(before));
            }
            let parsed: Option<Value> = serde_json::from_str(&line).ok();
            if let Some(announced) = parsed.filter(|value| value["url"].is_string()) {
                return Ok(captured.born(announced, stdout));
            }
            before.push_str(&line);
        }
    }
}

/// The same program, begun with a limit on open files.
fn with_open_files(program: &Command, files: OpenFiles) -> Command {
    let limit = match files {
        OpenFiles::AtFirst(files) => format!("ulimit -S -n {files}"),
        OpenFiles::Ever(files) => format!("ulimit -n {files}"),
    };
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")]);
    command.arg(program.get_program()).stdin(Stdio::null());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// A process that has not said yet where it listens; killed when dropped.
struct Unborn {
    child: Option<Child>,
    stderr: Captured,
}

impl Unborn {
    fn refused(&mut self, stdout: String) -> super::Run {
        let status = self.child.take().map(|mut child| child.wait().unwrap());
        self.stderr.join();
        super::Run {
            code: status.and_then(|status| status.code()).unwrap_or(-1),
            stdout,
            stderr: self.stderr.lines().join("\n"),
        }
    }

    fn born(mut self, announced: Value, stdout: BufReader<ChildStdout>) -> Host {
        let url = announced["url"].as_str().unwrap_or_default().to_owned();
        let nothing = Captured::nothing();
        Host {
            child: self.child.take().expect("taken only here and where it refuses"),
            http: Http::new(&url),
            url,
            announced,
            stdout: Captured::start(stdout),
            stderr: std::mem::replace(&mut self.stderr, nothing),
        }
    }
}

impl Drop for Unborn {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Host {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error so far.
    pub(crate) fn said(&self) -> String {
        self.stderr.lines().join("\n")
    }

    /// What it has printed since the announcement.
    pub(crate) fn printed(&self) -> Vec<String> {
        self.stdout.lines()
    }

    /// A client command that speaks to this host.
    pub(crate) fn cli(&self, words: &[&str]) -> Cli {
        Cli::new(&[&["--url", self.url()], words].concat())
    }

    fn wait_ready(&mut self, limit: Duration) {
        wait_until("/readyz is 200", limit, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the host ended while it started: {status}\n{}", self.said());
            }
            match self.http.send("GET", "/readyz", &[], &[]) {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(String::from_utf8_lossy(&answer.body).into_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// Whether the process is there.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself: its exit code, and what it said.
    #[allow(dead_code, reason = "only a host whose disk fails ends so: not in every test binary")]
    pub(crate) fn wait_end(&mut self) -> (Option<i32>, String) {
        let status = wait_until("the host ends", STOP_MAX, || {
            self.child.try_wait().unwrap().ok_or("still there")
        });
        self.stderr.join();
        (status.code(), self.said())
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        // Gone already, perhaps.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        self.signal_term();
        let status = wait_until("the host ends", STOP_MAX, || {
            self.child.try_wait().unwrap().ok_or("still there")
        });
        self.stderr.join();
        (status, self.said())
    }

    /// SIGTERM, and it must end well.
    pub(crate) fn stop(self) {
        let (status, said) = self.terminate();
        assert_eq!(status.code(), Some(0), "{said}");
    }

    pub(crate) fn signal_term(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("a process has an id");
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn plugin(&self, name: &str) -> Value {
        self.http.get(&format!("/v1/plugins/{name}")).expect_ok()
    }

    /// Waits until a plugin looks as it should.
    pub(crate) fn wait_plugin(
        &self,
        name: &str,
        what: &str,
        mut looks: impl FnMut(&Value) -> bool,
    ) -> Value {
        wait_until(&format!("plugin `{name}`: {what}"), REST_MAX, || {
            let answer = self.http.get(&format!("/v1/plugins/{name}"));
            let view: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            if looks(&view) { Ok(view) } else { Err(view.to_string()) }
        })
    }

    /// Waits until a plugin has handled everything there is, but for `waiting` deliveries that wait
    /// for another attempt and what stands behind them.
    pub(crate) fn wait_rest(&self, name: &str, waiting: u64) -> Value {
        self.wait_plugin(name, "at rest", |view| {
            let idle = view["lag_events"] == 0 && view["in_flight"] == 0;
            // Events behind a key that waited are neither until they are found again: only the
            // completed position tells of them.
            let done = || view["completed_position"] == self.last_position(&view["subscription"]);
            idle && view["waiting"] == waiting && (waiting > 0 || done())
        })
    }

    /// Waits until a plugin has handled everything there is, whatever came of it and whatever its
    /// timers do next.
    #[allow(dead_code, reason = "not every test binary has deliveries that fail")]
    pub(crate) fn wait_rest_but_timers(&self, name: &str) -> Value {
        self.wait_plugin(name, "nothing in progress", |view| {
            view["lag_events"] == 0 && view["in_flight"] == 0
        })
    }

    fn last_position(&self, subscription: &Value) -> Value {
        let buses = self.http.get("/v1/buses").expect_ok();
        let mut buses = buses["buses"].as_array().cloned().unwrap_or_default().into_iter();
        let bus = buses.find(|bus| bus["name"] == subscription["bus"]);
        bus.map(|bus| bus["last_position"].clone()).unwrap_or_default()
    }

    /// A value of a plugin's state for a key, as text.
    pub(crate) fn state(&self, plugin: &str, key: &str, name: &str) -> Option<String> {
        let path = format!("/v1/plugins/{plugin}/state?key={key}&name={name}");
        let answer = self.http.get(&path);
        // Conflict: no bus knows the plugin yet.
        if [404, 409].contains(&answer.status) {
            return None;
        }
        answer.expect_ok()["value"].as_str().map(ToOwned::to_owned)
    }

    /// A sample of /metrics by its whole name with labels, in their order; 0 where it is not there.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let answer = self.http.get("/metrics");
        let text = String::from_utf8(answer.body).unwrap();
        let sample = text.lines().find(|line| {
            line.starts_with(&format!("{name}{{"))
                && labels.iter().all(|(l, value)| line.contains(&format!("{l}=\"{value}\"")))
        });
        let value = sample.and_then(|line| line.rsplit(' ').next());
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Dead letters of a plugin.
    pub(crate) fn dead_letters(&self, plugin: &str) -> Vec<Value> {
        let path = format!("/v1/dead-letters?plugin={plugin}&limit=1000");
        let body = self.http.get(&path).expect_ok();
        body["dead_letters"].as_array().cloned().unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.stderr.join();
            println!("the host said:\n{}", self.said());
        }
    }
}
