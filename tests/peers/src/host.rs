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
    pub fn plugin(&self, name: &str, module: &str, manifest: &str) -> Result<()> {
        fs::write(self.plugins().join(format!("{name}.toml")), manifest)?;
        let beside = self.file(&format!("{name}.new"));
        fs::write(&beside, module)?;
        Ok(fs::rename(beside, self.plugins().join(format!("{name}.wat")))?)
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

    /// Publishes a file of events.
    pub fn publish(&self, host: &Host, file: &Path) -> Result<()> {
        let url = format!("http://127.0.0.1:{}", host.port);
        let done = Command::new(&self.program)
            .args(["publish", "--url", &url, "--batch"])
            .arg(file)
            .stdout(Stdio::null())
            .status()?;
        if !done.success() {
            bail!("`tidegate publish` failed");
        }
        Ok(())
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

    /// Waits until a plugin has nothing left to do.
    pub fn until_idle(&self, plugin: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let view = self.json(&format!("/v1/plugins/{plugin}"))?;
            let left = |name: &str| view[name].as_u64().unwrap_or(0);
            if left("lag_events") == 0 && left("in_flight") == 0 {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(600) {
                bail!("`{plugin}` does not come to rest: {view}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Processor time so far, seconds.
    pub fn cpu_s(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        Ok((ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0)
    }

    /// Memory it has, MiB.
    pub fn memory_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
        let kib = line.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok());
        Ok(kib.unwrap_or(0.0) / 1024.0)
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

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
