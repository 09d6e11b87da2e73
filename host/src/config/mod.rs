//! Configuration: from flags, environment and file to one validated value.
//!
//! A [`Config`] is complete and consistent, or it does not exist: nothing after loading asks
//! whether a value makes sense.

pub(crate) mod depth;
mod error;
mod folders;
mod listen;
mod load;
pub mod reader;
pub mod secrets;
pub(crate) mod syntax;
pub mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use error::ConfigError;
pub use listen::{InvalidListen, ListenAddress};
pub use load::{ENVIRONMENT_PREFIX, Flags, TOKENS_VARIABLE, environment};
pub use reader::{Fault, Invalid, Problem};
pub use secrets::{SecretSource, Secrets};
pub use units::{ByteSize, FailureShare, InvalidQuantity, TimeSpan};

use crate::plugin::{Grants, Manifest};

/// Everything an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, if any.
    pub file: Option<PathBuf>,
    /// Where buses, modules and caches lie. Absolute.
    pub data: PathBuf,
    /// The plugins folder. Absolute.
    pub plugins: PathBuf,
    /// The `[http]` section.
    pub http: Http,
    /// The `[auth]` section.
    pub auth: Auth,
    /// The `[compile]` section.
    pub compile: Compile,
    /// The `[buses.NAME]` sections. Never without the default bus.
    pub buses: BTreeMap<String, Bus>,
    /// The `[plugins.NAME]` sections.
    pub words: BTreeMap<String, Word>,
    /// The `[secrets]` section: where the secrets of calls are found.
    pub secrets: Secrets,
    /// Who grants what manifests ask for.
    pub granting: Granting,
    /// Whether `--insecure` was typed.
    pub insecure: bool,
    /// Whether `--accept-clock` was typed: a clock far behind the log is no reason not to start.
    pub accept_clock: bool,
    /// What the operator should know once.
    pub warnings: Vec<String>,
}

/// The `[http]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Address and port.
    pub listen: SocketAddr,
    /// Bytes of a request body.
    pub body_max: ByteSize,
    /// None: plain HTTP.
    pub tls: Option<Tls>,
}

/// Certificate and key of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the certificate chain. Absolute.
    pub cert: PathBuf,
    /// PEM file with the private key. Absolute.
    pub key: PathBuf,
}

/// The `[auth]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// None: everybody may do everything.
    pub tokens: Option<TokensFrom>,
}

/// Where the tokens stand.
#[derive(Clone, PartialEq, Eq)]
pub enum TokensFrom {
    /// In this file. Absolute.
    File(PathBuf),
    /// In the environment: the text of such a file.
    Environment(String),
}

/// Without the text, which is in nobody's interest to print.
impl std::fmt::Debug for TokensFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Environment(_) => f.write_str("Environment(..)"),
        }
    }
}

/// The `[compile]` section: what compiling one module may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compile {
    /// Memory of the compiling process.
    pub memory: ByteSize,
    /// CPU and wall time of the compiling process.
    pub time: TimeSpan,
    /// Bytes of a module file.
    pub module_max: ByteSize,
}

/// A `[buses.NAME]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bus {
    /// Events are in a log on disk.
    Durable(DurableBus),
    /// Events are in memory only.
    Memory(MemoryBus),
}

/// Options of a durable bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurableBus {
    /// Bytes of a log segment.
    pub segment: ByteSize,
    /// How long an id is remembered.
    pub dedup: TimeSpan,
    /// How many ids are remembered.
    pub dedup_max: u64,
    /// Free space of the disk below which nothing is published; below a quarter of it deliveries
    /// wait, too.
    pub keep_free: ByteSize,
    /// Bytes of log after which the fold writes a checkpoint.
    pub checkpoint_every: ByteSize,
}

/// Options of a memory bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryBus {
    /// Events it holds.
    pub capacity: u32,
    /// What happens when it is full.
    pub overflow: Overflow,
    /// What is delivered in order.
    pub order: Order,
}

/// What a full memory bus does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Refuses new events.
    #[default]
    Reject,
    /// Forgets the oldest event.
    DropOldest,
}

/// What a memory bus keeps in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Events of one key.
    #[default]
    Key,
    /// Nothing.
    None,
}

/// A `[plugins.NAME]` section: the operator's word on a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// What it may reach outside, where its manifest asks for it.
    pub allow: Grants,
    /// Replaces values of its `[config]` and adds to them.
    pub config: BTreeMap<String, String>,
}

/// Who grants what manifests ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Granting {
    /// The operator, plugin by plugin.
    #[default]
    ByWord,
    /// Everything asked for is granted: for development.
    Everything,
}

/// A plugin wants a bus that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`subscribe.bus` is `{bus}`, which is not configured; there is `{}`. Add `[buses.{bus}]`",
    .known.join("`, `")
)]
pub struct UnknownBus {
    /// The bus it wants.
    pub bus: String,
    /// The buses there are.
    pub known: Vec<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7411)),
            body_max: ByteSize::mib(8),
            tls: None,
        }
    }
}

impl Default for Compile {
    fn default() -> Self {
        Self {
            memory: ByteSize::gib(1),
            time: TimeSpan::from_secs(60),
            module_max: ByteSize::mib(64),
        }
    }
}

impl Default for DurableBus {
    fn default() -> Self {
        Self {
            segment: ByteSize::mib(256),
            dedup: TimeSpan::from_hours(24),
            dedup_max: 10_000_000,
            keep_free: ByteSize::mib(64),
            checkpoint_every: ByteSize::mib(256),
        }
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self { capacity: 65536, overflow: Overflow::Reject, order: Order::Key }
    }
}

impl Config {
    /// What a plugin really gets: its manifest, with the grants that both sides agree on and the
    /// operator's values in its configuration.
    ///
    /// # Errors
    /// [`UnknownBus`] where it subscribes to a bus that is not configured.
    pub fn resolve(&self, name: &str, manifest: &Manifest) -> Result<Manifest, UnknownBus> {
        let bus = manifest.subscribe.bus();
        if !self.buses.contains_key(bus) {
            let known = self.buses.keys().cloned().collect();
            return Err(UnknownBus { bus: bus.to_owned(), known });
        }
        let unspoken = Word::default();
        let word = self.words.get(name).unwrap_or(&unspoken);
        let mut resolved = manifest.clone();
        resolved.subscribe.bus = Some(bus.to_owned());
        match self.granting {
            Granting::ByWord => resolved.grants = manifest.grants.intersect(&word.allow),
            Granting::Everything => {
                let mut private = manifest.grants.private_hosts();
                private.extend(word.allow.private_hosts());
                resolved.grants.private = private;
            }
        }
        resolved.config.extend(word.config.clone());
        Ok(resolved)
    }

    /// The grants that a manifest asks for and a plugin does not get, as `grants.http`
    /// `"api.example.com"`: for warnings.
    #[must_use]
    pub fn withheld(&self, name: &str, manifest: &Manifest) -> Vec<(&'static str, String)> {
        if self.granting == Granting::Everything {
            return Vec::new();
        }
        let unspoken = Word::default();
        let word = self.words.get(name).unwrap_or(&unspoken);
        manifest.grants.without(&word.allow)
    }
}

#[cfg(test)]
mod tests;
