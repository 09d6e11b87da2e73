//! The engine of the process and what every module is linked against.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::process::Resource;
use wasmtime::{Engine, EngineWeak};

use super::cache::CacheError;
use super::engine::{HostEngineOptions, host_config};
use super::load::{LoadError, Loader, LoaderOptions};
use super::module::Module;
use super::store::StoreData;
use super::{imports, keyvalue, messaging, small};

/// Time between two ticks of the epoch: how long a guest computes before it yields, and how far
/// past its timeout it can get. Twice that, where it began on the stack of its worker.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

/// How the sandbox is built.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// How modules are loaded.
    pub loader: LoaderOptions,
    /// What the pool of instances is sized from.
    pub engine: HostEngineOptions,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The engine refused its configuration, or the machine what it asks for.
    #[error("cannot set up WebAssembly on this machine: {why}")]
    Engine {
        /// What wasmtime says.
        why: String,
    },
    /// The process may not have the address space that the pool reserves.
    #[error(
        "cannot reserve {reserved_gib} GiB of address space, which guests have their memory in and which \
         takes none before they use it: `ulimit -v` is {limit_kib}; set it to `unlimited`"
    )]
    AddressSpace {
        /// What is reserved, in GiB.
        reserved_gib: usize,
        /// What the process may have, in KiB, as `ulimit` counts.
        limit_kib: u64,
    },
    /// The cache folder failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No thread for the epoch.
    #[error("cannot start the thread that ends running guests: {0}")]
    Ticker(#[source] std::io::Error),
}

/// One engine, its epoch, its linkers, its loader. One for a process.
pub struct Sandbox {
    linkers: Linkers,
    loader: Loader,
}

/// What modules are linked against: everything that is granted to all, nothing else.
pub(super) struct Linkers {
    pub(super) component: wasmtime::component::Linker<StoreData>,
    pub(super) stdio: wasmtime::Linker<StoreData>,
}

impl Sandbox {
    /// Builds the engine and starts its epoch.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn new(options: SandboxOptions) -> Result<Arc<Self>, SandboxError> {
        // Each trap would take a backtrace of the host where one is asked for by the environment.
        // It says nothing of the guest, whose own backtrace is another, and costs more than all else.
        wasmtime::error::disable_backtrace();
        let engine = Engine::new(&host_config(options.engine)).map_err(|error| {
            let limit = rustix::process::getrlimit(Resource::As).current;
            unreserved(&error, options.engine, limit).unwrap_or_else(|| unfit(&error))
        })?;
        let loader = Loader::new(engine.clone(), options.loader)?;
        let linkers = Linkers::new(&engine).map_err(|error| unfit(&error))?;
        start_epoch(engine.weak()).map_err(SandboxError::Ticker)?;
        Ok(Arc::new(Self { linkers, loader }))
    }

    /// Recognises, encodes, compiles and links a module; its code comes from the cache where it
    /// can. No code of the module runs. The log speaks of it as `plugin`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(
        self: &Arc<Self>,
        plugin: &str,
        wasm: Bytes,
    ) -> Result<Arc<Module>, LoadError> {
        let loaded = self.loader.load(plugin, wasm).await?;
        Ok(Arc::new(Module::link(&self.linkers, loaded)?))
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("loader", &self.loader).finish_non_exhaustive()
    }
}

impl Linkers {
    pub(super) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut component = wasmtime::component::Linker::new(engine);
        imports::add_to_linker(&mut component)?;
        messaging::add_to_linker(&mut component)?;
        keyvalue::add_to_linker(&mut component)?;
        small::add_to_linker(&mut component)?;
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        // Who may use it is decided before a module serves (`Module::needed`), and again by every
        // delivery, which has somebody who sends or has not.
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;
        let mut stdio = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut stdio, StoreData::preview1)?;
        Ok(Self { component, stdio })
    }
}

/// Ticks until the engine is gone. Holds it weakly: a ticker must not keep an engine alive.
#[allow(clippy::disallowed_methods, reason = "ends by itself when the engine does")]
fn start_epoch(engine: EngineWeak) -> std::io::Result<()> {
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(EPOCH_TICK);
        }
    };
    std::thread::Builder::new().name("epoch".to_owned()).spawn(tick).map(drop)
}

/// Says what to do where it is for want of address space that there is no engine.
fn unreserved(
    error: &wasmtime::Error,
    options: HostEngineOptions,
    limit_bytes: Option<u64>,
) -> Option<SandboxError> {
    let is_short = error.root_cause().downcast_ref() == Some(&Errno::NOMEM);
    let limit_kib = limit_bytes.filter(|_| is_short)? / 1024;
    Some(SandboxError::AddressSpace { reserved_gib: options.reserved_bytes() >> 30, limit_kib })
}

fn unfit(error: &wasmtime::Error) -> SandboxError {
    SandboxError::Engine { why: format!("{error:#}") }
}

#[cfg(test)]
mod tests {
    use wasmtime::error::Context;

    use super::*;

    #[test]
    fn what_to_do_is_said_where_there_is_too_little_address_space() {
        let options = HostEngineOptions { workers: 2, plugins_max: 256, ..Default::default() };
        let error = |errno: Errno| Err::<(), _>(errno).context("mmap failed").unwrap_err();
        let said = unreserved(&error(Errno::NOMEM), options, Some(4 << 30)).unwrap().to_string();
        assert!(said.contains("4128 GiB") && said.contains("`ulimit -v` is 4194304;"), "{said}");
        assert!(unreserved(&error(Errno::NOMEM), options, None).is_none());
        assert!(unreserved(&error(Errno::INVAL), options, Some(4 << 30)).is_none());
    }
}
