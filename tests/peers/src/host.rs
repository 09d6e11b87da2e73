//! A `tidegate run` of ours: started on a free port with a folder of its own, and ended.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lines::free_port;

/// From one look at a host to the next, at first and at last.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// A running host.
pub struct Host {
    child: Child,
    port: u16,
    /// From the start of the process to its first yes, milliseconds.
    pub ready_ms: f64,
}

/// How a host ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order.
    Stop,
    /// `kill -9`.
    Kill,
}

/// A data folder and a plugins folder.
pub struct Place {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Place {
    /// An empty one, for this program.
    pub fn new(program: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("plugins"))?;
        Ok(Self { dir, program: program.to_owned() })
    }

    /// Where plugins lie.
    pub fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a module and its manifest into the folder, as one who deploys does: whole at once.
    pub fn plugin(&self, name: &str, module: &[u8], manifest: &str) -> Result<()> {
        fs::write(self.plugins().join(format!("{name}.toml")), manifest)?;
        self.module(name, module)
    }

    /// Replaces a module.
    pub fn module(&self, name: &str, module: &[u8]) -> Result<()> {
        let beside = self.file(&format!("{name}.new"));
        fs::write(&beside, module)?;
        let ending = if module.starts_with(b"\0asm") { "wasm" } else { "wat" };
        Ok(fs::rename(beside, self.plugins().join(format!("{name}.{ending}")))?)
    }

    /// Bytes of its log on the disk.
    pub fn log_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = 0;
        for file in fs::read_dir(self.dir.path().join("data/buses/main/log"))? {
            bytes += file?.metadata()?.blocks() * 512;
        }
        Ok(bytes)
    }

    /// Starts a host and waits until it is ready.
    pub fn start(&self) -> Result<Host> {
        let port = free_port()?;
        let began = Instant::now();
        let child = Command::new(&self.program)
            .arg("run")
            .arg("--data")
            .arg(self.dir.path().join("data"))
            .arg("--plugins")
            .arg(self.plugins())
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.file("stderr"))?)
            .spawn()
            .with_context(|| format!("`{}`", self.program.display()))?;
        let mut host = Host { child, port, ready_ms: 0.0 };
        while !matches!(host.ask("/readyz"), Ok((200, _))) {
            if began.elapsed() > Duration::from_secs(120) || host.child.try_wait()?.is_some() {
                let said = fs::read_to_string(self.file("stderr")).unwrap_or_default();
                bail!("the host does not become ready: {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        host.ready_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok(host)
    }
}

impl Host {
    /// Asks by HTTP; gives status and body.
    pub fn ask(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = BufReader::new(stream);
        let mut status = String::new();
        answer.read_line(&mut status)?;
        let status = status.split(' ').nth(1).context("no status")?.parse()?;
        let mut rest = String::new();
        answer.read_to_string(&mut rest)?;
        let (_, body) = rest.split_once("\r\n\r\n").unwrap_or_default();
        Ok((status, body.to_owned()))
    }

    /// Asks for JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        let (status, body) = self.ask(path)?;
        let from = body.find(['{', '[']).unwrap_or(0);
        let to = body.rfind(['}', ']']).map_or(0, |at| at + 1);
        serde_json::from_str(body.get(from..to).unwrap_or_default())
            .with_context(|| format!("{path}: {status} {body}"))
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits until these plugins serve.
    pub fn until_live(&self, plugins: &[String]) -> Result<()> {
        for plugin in plugins {
            self.until(plugin, |view| view["state"] == "live")?;
        }
        Ok(())
    }

    /// Waits until what a plugin says of itself is as it should be; gives that.
    pub fn until(&self, plugin: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        let path = format!("/v1/plugins/{plugin}");
        loop {
            let view = match self.ask(&path)? {
                (200, _) => self.json(&path)?,
                _ => Value::Null,
            };
            if done(&view) {
                return Ok(view);
            }
            let waited = began.elapsed();
            if waited > Duration::from_secs(600) {
                bail!("`{plugin}` does not get there: {view}");
            }
            // Asking takes time of the host's: the longer it takes, the less often.
            std::thread::sleep((waited / 50).clamp(FIRST_LOOK, LAST_LOOK));
        }
    }

    /// Processor time so far, seconds.
    pub fn cpu_s(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        Ok((ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0)
    }

    /// The most memory it had so far, MiB.
    pub fn memory_mib(&self) -> Result<f64> {
        memory_mib(self.child.id(), "VmHWM").context("the host is gone")
    }

    /// Memory it has now, MiB.
    pub fn memory_now_mib(&self) -> Result<f64> {
        memory_mib(self.child.id(), "VmRSS").context("the host is gone")
    }

    /// Ends it.
    pub fn end(mut self, end: End) -> Result<()> {
        match end {
            End::Kill => self.child.kill()?,
            End::Stop => {
                let id = self.child.id().to_string();
                Command::new("kill").args(["-TERM", &id]).status()?;
            }
        }
        self.child.wait()?;
        Ok(())
    }
}

/// Memory of a process, MiB: `VmRSS` now, `VmHWM` at most so far. None: it has ended.
pub fn memory_mib(process: u32, which: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(which))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
