//! Two small drafts of WASI that components of other hosts bring along: `wasi:logging`, which is the
//! plugin's log, and `wasi:config`, which is `[config]` of the manifest.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, WasmStr};

use super::check;
use super::store::StoreData;
use crate::limits::LOG_LINE_BYTES_MAX;

/// The names by which the interface of logging goes: some hosts have it without a version.
pub(super) const LOGGING: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];
/// The names by which the interface of configuration went, all of one shape.
pub(super) const CONFIG: [&str; 3] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/runtime@0.2.0-draft",
];

type Store<'a> = StoreContextMut<'a, StoreData>;
/// What a function hands to wasmtime: the tuple of its results, or a trap.
type Returned<T> = wasmtime::Result<(T,)>;

/// `logging.level`.
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by lifting what a guest hands over")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

/// `store.error`: never given.
#[derive(ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code, reason = "the type is what the component was built against")]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

/// Links both, under every name.
pub(super) fn add_to_linker(linker: &mut Linker<StoreData>) -> wasmtime::Result<()> {
    for name in LOGGING {
        linker.instance(name)?.func_wrap("log", log)?;
    }
    for name in CONFIG {
        let mut config = linker.instance(name)?;
        config.func_wrap("get", get)?;
        config.func_wrap("get-all", get_all)?;
    }
    Ok(())
}

fn log(
    mut store: Store<'_>,
    (level, context, message): (Level, WasmStr, WasmStr),
) -> wasmtime::Result<()> {
    store.data_mut().called()?;
    let line = {
        let (context, message) = (context.to_str(&store)?, message.to_str(&store)?);
        let message = check::cut(&message, LOG_LINE_BYTES_MAX);
        let context = check::cut(&context, LOG_LINE_BYTES_MAX);
        if context.is_empty() { message.to_owned() } else { format!("{context}: {message}") }
    };
    let level = match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error | Level::Critical => "error",
    };
    store.data_mut().session_mut()?.log(level, &line);
    Ok(())
}

fn get(mut store: Store<'_>, (name,): (WasmStr,)) -> Returned<Result<Option<String>, ConfigError>> {
    store.data_mut().called()?;
    let name = name.to_str(&store)?;
    Ok((Ok(store.data().session()?.context.config.get(&*name).cloned()),))
}

fn get_all(mut store: Store<'_>, (): ()) -> Returned<Result<Vec<(String, String)>, ConfigError>> {
    store.data_mut().called()?;
    let config = store.data().session()?.context.config.iter();
    Ok((Ok(config.map(|(name, value)| (name.clone(), value.clone())).collect()),))
}
