//! Loading: flags over environment over file over defaults, and what has to hold of the result.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::depth::too_deep;
use super::folders;
use super::listen::{InvalidListen, ListenAddress};
use super::reader::{Document, Section, nearest};
use super::syntax::parse;
use super::{
    Auth, Bus, ByteSize, Compile, Config, ConfigError, DurableBus, Granting, Http, MemoryBus,
    Order, Overflow, Secrets, Tls, TokensFrom, Word,
};
use crate::limits;
use crate::plugin::manifest::read_grants;
use crate::plugin::{DEFAULT_BUS, Grants, check_name};

/// What the names of environment variables begin with.
pub const ENVIRONMENT_PREFIX: &str = "TIDEGATE_";
/// The file that is read where none is named, if it is there.
const FILE_DEFAULT: &str = "tidegate.toml";
/// Names the file to read.
const FILE_VARIABLE: &str = "TIDEGATE_CONFIG";
/// Holds the text of a tokens file, instead of one.
pub const TOKENS_VARIABLE: &str = "TIDEGATE_TOKENS";
/// Names the plugins folder.
const FOLDER_VARIABLE: &str = "TIDEGATE_PLUGINS";

/// The key that a flag sets, too.
const LISTEN: &str = "http.listen";

/// Environment variables with the keys they set. Of two for a key the later one wins.
const VARIABLES: [(&str, &str); 10] = [
    ("TIDEGATE_DATA", "data"),
    ("TIDEGATE_LISTEN", LISTEN),
    ("TIDEGATE_HTTP_LISTEN", LISTEN),
    ("TIDEGATE_HTTP_BODY_MAX", "http.body-max"),
    ("TIDEGATE_HTTP_TLS_CERT", "http.tls-cert"),
    ("TIDEGATE_HTTP_TLS_KEY", "http.tls-key"),
    ("TIDEGATE_AUTH_TOKENS_FILE", "auth.tokens-file"),
    ("TIDEGATE_COMPILE_MEMORY", "compile.memory"),
    ("TIDEGATE_COMPILE_TIME", "compile.time"),
    ("TIDEGATE_COMPILE_MODULE_MAX", "compile.module-max"),
];
/// Environment variables that others read.
const OTHER_VARIABLES: [&str; 9] = [
    FILE_VARIABLE,
    FOLDER_VARIABLE,
    TOKENS_VARIABLE,
    "TIDEGATE_URL",
    "TIDEGATE_CA_CERT",
    "TIDEGATE_TOKEN",
    "TIDEGATE_TOKEN_FILE",
    "TIDEGATE_LOG",
    crate::build::TARGET_VARIABLE,
];

/// What was typed on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--plugins`, or the folder given to `dev`.
    pub plugins: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--insecure`.
    pub insecure: bool,
    /// `--accept-clock`.
    pub accept_clock: bool,
    /// What `dev` changes about grants.
    pub granting: Granting,
}

/// The variables of this process that begin with [`ENVIRONMENT_PREFIX`].
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))?;
        Some((name, value.to_string_lossy().into_owned()))
    };
    std::env::vars_os().filter_map(text).collect()
}

impl Config {
    /// Loads the configuration. Without `file` and `TIDEGATE_CONFIG`, `tidegate.toml` of the
    /// working folder is read if it is there. Relative paths of the file are relative to it, others
    /// to the working folder.
    ///
    /// # Errors
    /// [`ConfigError`]; every mistake is named with its key and the place it was written in.
    pub fn load(
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        let folder = std::env::current_dir().map_err(ConfigError::NoFolder)?;
        Self::load_in(&folder, file, environment, flags)
    }

    /// [`Config::load`] for a given working folder.
    ///
    /// # Errors
    /// As there.
    pub fn load_in(
        folder: &Path,
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        let file = read_file(folder, file, environment)?;
        Self::from_file(folder, file, environment, flags)
    }

    /// [`Config::load`] of a text, without an environment.
    #[cfg(test)]
    pub(crate) fn from_text(text: &str, flags: &Flags) -> Result<Self, ConfigError> {
        let text =
            FileText { path: None, label: "configuration".to_owned(), text: text.to_owned() };
        Self::from_file(Path::new("/"), text, &BTreeMap::new(), flags)
    }

    fn from_file(
        folder: &Path,
        FileText { path, label, text }: FileText,
        environment: &BTreeMap<String, String>,
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        let (text, plugins) = split_plugins(&text);
        let mut table = parse(&label, &text)?;
        let mut document = Document::new(&label);
        overlay(&mut table, &mut document, environment, flags);
        refuse_empty(&mut document, environment, flags);
        let file_folder = path.as_deref().and_then(Path::parent).unwrap_or(folder);
        let folders = Folders { file: file_folder, working: folder };
        let mut config = read(&document, &mut document.root(table), &folders);
        let plugins = plugins.and_then(|found| match found {
            Value::String(folder) if !folder.is_empty() => Some(folder),
            found => {
                document.refuse("plugins", &found, "a path, or tables `[plugins.NAME]`");
                None
            }
        });
        document.finish()?;
        let typed = |path: &Option<PathBuf>| path.as_ref().map(|path| folder.join(path));
        let variable = environment.get(FOLDER_VARIABLE).map(|text| folder.join(text));
        let written = plugins.map(|text| file_folder.join(text));
        let default = || folder.join("plugins");
        config.plugins = typed(&flags.plugins).or(variable).or(written).unwrap_or_else(default);
        config.data = typed(&flags.data).unwrap_or(config.data);
        // Also where it is empty: tokens were meant to be there, and their absence must not open
        // the host to everybody.
        if let Some(text) = environment.get(TOKENS_VARIABLE) {
            config.auth.tokens = Some(TokensFrom::Environment(text.clone()));
        }
        config.file = path;
        config.granting = flags.granting;
        config.insecure = flags.insecure;
        config.accept_clock = flags.accept_clock;
        config.warnings = unknown_variables(environment);
        config.warnings.extend(config.secrets.missing(&config.words));
        refuse_exposed(&config)?;
        folders::check(&config)?;
        Ok(config)
    }
}

/// What relative paths are relative to.
struct Folders<'f> {
    file: &'f Path,
    working: &'f Path,
}

/// The configuration file, or an empty text where there is none.
struct FileText {
    path: Option<PathBuf>,
    label: String,
    text: String,
}

fn read_file(
    folder: &Path,
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<FileText, ConfigError> {
    let named = file.or_else(|| environment.get(FILE_VARIABLE).map(Path::new));
    let name = named.unwrap_or(Path::new(FILE_DEFAULT));
    let label = format!("configuration `{}`", name.display());
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(FileText { path: Some(path), label, text }),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(FileText { path: None, label, text: String::new() })
        }
        Err(error) => Err(ConfigError::Unreadable { path, error }),
    }
}

/// Takes `plugins = "FOLDER"` out of the text, leaving its line empty. A file may have both that
/// and `[plugins.NAME]` tables, which as one TOML document would define `plugins` twice.
fn split_plugins(text: &str) -> (String, Option<Value>) {
    let mut rest = String::with_capacity(text.len());
    let mut folder = None;
    let mut at_top = true;
    for line in text.split_inclusive('\n') {
        at_top &= !line.trim_start().starts_with('[');
        let is_looked_at = at_top && folder.is_none() && too_deep(line).is_none();
        let table = is_looked_at.then(|| line.parse::<Table>().ok()).flatten();
        match table.as_ref().and_then(|table| table.get("plugins")) {
            Some(found) if !found.is_table() => {
                folder = Some(found.clone());
                rest.push('\n');
            }
            _ => rest.push_str(line),
        }
    }
    (rest, folder)
}

/// Lays environment and flags over what the file says, remembering where each value came from.
fn overlay(
    table: &mut Table,
    document: &mut Document,
    environment: &BTreeMap<String, String>,
    flags: &Flags,
) {
    let set = |table: &mut Table, document: &mut Document, key: &str, text: &str, label: String| {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let target = if section.is_empty() {
            table
        } else {
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            // Where the file has something else under that name, reading it says so.
            let Some(section) = entry.as_table_mut() else { return };
            section
        };
        // Whoever lays something over a mistake does not know of it.
        if let Some(found) = target.get(name).filter(|_| key == LISTEN && !document.has_origin(key))
        {
            let address = found.as_str().map_or(Err(InvalidListen), str::parse::<ListenAddress>);
            address.map_or_else(|why| document.refuse(key, found, &why.to_string()), drop);
        }
        target.insert(name.to_owned(), Value::String(text.to_owned()));
        document.set_origin(key, label);
    };
    for (variable, key) in VARIABLES {
        if let Some(text) = environment.get(variable) {
            set(table, document, key, text, format!("environment variable `{variable}`"));
        }
    }
    if let Some(text) = &flags.listen {
        set(table, document, LISTEN, text, "flag `--listen`".to_owned());
    }
}

/// Refuses folders without a name that the file has no place for: the working folder is not meant where a
/// variable that was to name one is not set.
fn refuse_empty(document: &mut Document, environment: &BTreeMap<String, String>, flags: &Flags) {
    let is_empty = |flag: &Option<PathBuf>| flag.as_ref().is_some_and(|p| p.as_os_str().is_empty());
    let variable = environment.get(FOLDER_VARIABLE).is_some_and(String::is_empty);
    for (key, is_empty, origin) in [
        ("plugins", variable, format!("environment variable `{FOLDER_VARIABLE}`")),
        ("plugins", is_empty(&flags.plugins), "flag `--plugins`".to_owned()),
        ("data", is_empty(&flags.data), "flag `--data`".to_owned()),
    ] {
        if is_empty {
            document.set_origin(key, origin);
            document.refuse(key, &Value::String(String::new()), "a path");
        }
    }
}

fn unknown_variables(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known = || VARIABLES.iter().map(|(name, _)| *name).chain(OTHER_VARIABLES);
    let unknown = environment
        .keys()
        .filter(|name| name.starts_with(ENVIRONMENT_PREFIX) && !known().any(|k| k == *name));
    // A warning only: orchestrators inject variables named after a service called `tidegate`.
    unknown
        .map(|name| match nearest(name, known()) {
            Some(near) => {
                format!("environment variable `{name}` is not known; did you mean `{near}`?")
            }
            None => format!("environment variable `{name}` is not known and has no effect"),
        })
        .collect()
}

fn refuse_exposed(config: &Config) -> Result<(), ConfigError> {
    let listen = config.http.listen;
    let missing = match (&config.auth.tokens, &config.http.tls) {
        (Some(_), Some(_)) => return Ok(()),
        (None, Some(_)) => "`auth.tokens-file` or `TIDEGATE_TOKENS`",
        (Some(_), None) => "`http.tls-cert` and `http.tls-key`",
        (None, None) => {
            "`auth.tokens-file` (or `TIDEGATE_TOKENS`), `http.tls-cert` and `http.tls-key`"
        }
    };
    if listen.ip().is_loopback() || config.insecure {
        return Ok(());
    }
    Err(ConfigError::Exposed { listen, missing })
}

/// Reads what stands in the table; what does not is filled in by [`Config::load_in`].
fn read(document: &Document, root: &mut Section<'_>, folders: &Folders<'_>) -> Config {
    let mut path = |section: &mut Section<'_>, name: &str| {
        let overlaid = document.has_origin(&section.key(name));
        let base = if overlaid { folders.working } else { folders.file };
        let text = section.text(name)?;
        if text.is_empty() {
            section.not_allowed(name, &Value::String(text), "a path");
            return None;
        }
        Some(base.join(text))
    };
    Config {
        file: None,
        data: path(root, "data").unwrap_or_else(|| folders.working.join("data")),
        plugins: PathBuf::new(),
        auth: Auth { tokens: path(&mut root.section("auth"), "tokens-file").map(TokensFrom::File) },
        http: read_http(root.section("http"), &mut path),
        compile: read_compile(root.section("compile")),
        buses: read_buses(root),
        words: read_words(root),
        secrets: Secrets::read(root, folders.file),
        granting: Granting::default(),
        insecure: false,
        accept_clock: false,
        warnings: Vec::new(),
    }
}

type ReadPath<'p> = dyn FnMut(&mut Section<'_>, &str) -> Option<PathBuf> + 'p;

fn read_http(mut section: Section<'_>, path: &mut ReadPath<'_>) -> Http {
    let default = Http::default();
    let body = ByteSize::kib(1)..=limits::BODY_MAX;
    let listen = section.parsed("listen").map_or(default.listen, |ListenAddress(listen)| listen);
    let body_max = section.byte_size("body-max", default.body_max, body);
    let tls = match (path(&mut section, "tls-cert"), path(&mut section, "tls-key")) {
        (Some(cert), Some(key)) => Some(Tls { cert, key }),
        (None, None) => None,
        (Some(_), None) => {
            section.rule("`http.tls-cert` needs `http.tls-key` beside it");
            None
        }
        (None, Some(_)) => {
            section.rule("`http.tls-key` needs `http.tls-cert` beside it");
            None
        }
    };
    Http { listen, body_max, tls }
}

fn read_compile(mut section: Section<'_>) -> Compile {
    let default = Compile::default();
    let memory = limits::COMPILE_MEMORY_MIN..=limits::COMPILE_MEMORY_MAX;
    let time = limits::COMPILE_TIME_MIN..=limits::COMPILE_TIME_MAX;
    let module = limits::MODULE_MIN..=limits::MODULE_MAX;
    Compile {
        memory: section.byte_size("memory", default.memory, memory),
        time: section.time_span("time", default.time, time),
        module_max: section.byte_size("module-max", default.module_max, module),
    }
}

fn read_buses(root: &mut Section<'_>) -> BTreeMap<String, Bus> {
    let mut buses = BTreeMap::new();
    for (name, section) in root.sections("buses") {
        if let Err(invalid) = check_name(&name) {
            section.rule(format!("`buses.{name}`: {invalid}"));
        }
        buses.insert(name, read_bus(section));
    }
    if buses.len() > limits::BUSES_MAX {
        let (found, most) = (buses.len(), limits::BUSES_MAX);
        root.rule(format!("`buses` has {found} buses; allowed: {most}"));
    }
    buses.entry(DEFAULT_BUS.to_owned()).or_insert_with(|| Bus::Durable(DurableBus::default()));
    buses
}

fn read_bus(mut section: Section<'_>) -> Bus {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Durable,
        Memory,
    }
    let kinds = [("durable", Kind::Durable), ("memory", Kind::Memory)];
    let kind = section.choice("kind", &kinds).unwrap_or(Kind::Durable);
    let foreign: &[&str] = match kind {
        Kind::Durable => &["capacity", "overflow", "order"],
        Kind::Memory => &["segment", "dedup", "dedup-max", "keep-free", "checkpoint-every"],
    };
    for name in foreign {
        if section.take(name).is_some() {
            let other = if kind == Kind::Durable { "memory" } else { "durable" };
            let sentence = format!("`{}` is a key of {other} buses only", section.key(name));
            section.rule(sentence);
        }
    }
    match kind {
        Kind::Durable => Bus::Durable(read_durable(&mut section)),
        Kind::Memory => Bus::Memory(read_memory(&mut section)),
    }
}

fn read_durable(section: &mut Section<'_>) -> DurableBus {
    let default = DurableBus::default();
    let segment = limits::SEGMENT_MIN..=limits::SEGMENT_MAX;
    let dedup = limits::DEDUP_MIN..=limits::DEDUP_MAX;
    let keep_free = ByteSize::mib(0)..=limits::KEEP_FREE_MAX;
    let checkpoint = limits::CHECKPOINT_EVERY_MIN..=limits::CHECKPOINT_EVERY_MAX;
    DurableBus {
        segment: section.byte_size("segment", default.segment, segment),
        dedup: section.time_span("dedup", default.dedup, dedup),
        dedup_max: section.integer("dedup-max", default.dedup_max, 1..=limits::DEDUP_IDS_MAX),
        keep_free: section.byte_size("keep-free", default.keep_free, keep_free),
        checkpoint_every: section.byte_size(
            "checkpoint-every",
            default.checkpoint_every,
            checkpoint,
        ),
    }
}

fn read_memory(section: &mut Section<'_>) -> MemoryBus {
    let default = MemoryBus::default();
    let overflow = [("reject", Overflow::Reject), ("drop-oldest", Overflow::DropOldest)];
    let order = [("key", Order::Key), ("none", Order::None)];
    MemoryBus {
        capacity: section.integer("capacity", default.capacity, 1..=limits::BUS_CAPACITY_MAX),
        overflow: section.choice("overflow", &overflow).unwrap_or(default.overflow),
        order: section.choice("order", &order).unwrap_or(default.order),
    }
}

fn read_words(root: &mut Section<'_>) -> BTreeMap<String, Word> {
    let mut words = BTreeMap::new();
    for (name, mut section) in root.sections("plugins") {
        if let Err(invalid) = check_name(&name) {
            section.rule(format!("`plugins.{name}`: {invalid}"));
        }
        let mut allowed = section.section("allow");
        let private = allowed.parsed_list("private");
        let allow = Grants { private, ..read_grants(&mut allowed) };
        drop(allowed);
        words.insert(name, Word { allow, config: section.pairs("config") });
    }
    words
}
