use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::plugin::Manifest;

struct Setup {
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    flags: Flags,
}

impl Setup {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tidegate.toml"), file).unwrap();
        Self { folder, environment: BTreeMap::new(), flags: Flags::default() }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load_in(self.folder.path(), None, &self.environment, &self.flags)
    }

    fn config(&self) -> Config {
        self.load().unwrap()
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

/// Its lines are looked at one by one first, for the folder of the plugins: one of them alone took all of a stack.
#[test]
fn a_line_that_is_nested_too_deep_is_refused_as_the_whole_is() {
    let key = ["a"; 79].join(".");
    let deep = (0..79).fold("1".to_owned(), |inner, _| format!("{{ {key} = {inner} }}"));
    let error = Setup::new(&format!("plugins = \"p\"\n{key} = {deep}\n")).error();
    assert!(error.contains("line 2") && error.contains("more than 32"), "{error}");
    let error = Setup::new(&format!("{key} = {deep}\nplugins = \"p\"\n")).error();
    assert!(error.contains("line 1") && error.contains("more than 32"), "{error}");
}

#[test]
fn without_any_file_the_defaults_work() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::load_in(folder.path(), None, &BTreeMap::new(), &Flags::default()).unwrap();
    assert_eq!(config.file, None);
    assert_eq!(config.data, folder.path().join("data"));
    assert_eq!(config.plugins, folder.path().join("plugins"));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:7411");
    assert_eq!(config.http.body_max, ByteSize::mib(8));
    assert_eq!(config.compile, Compile::default());
    assert_eq!(config.buses, [("main".to_owned(), Bus::Durable(DurableBus::default()))].into());
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_key_is_read() {
    let setup = Setup::new(
        r#"
data = "d"
plugins = "/p"   # and below once more, as a table
[http]
listen = "localhost:1"
body-max = "1MiB"
tls-cert = "c.pem"
tls-key = "k.pem"
[auth]
tokens-file = "tokens.toml"
[compile]
memory = "2GiB"
time = "10s"
module-max = "1MiB"
[buses.main]
kind = "durable"
segment = "64MiB"
dedup = "1h"
dedup-max = 1_000
keep-free = "1GiB"
checkpoint-every = "1MiB"
[buses.live]
kind = "memory"
capacity = 10
overflow = "drop-oldest"
order = "none"
[plugins.notify]
allow.http = ["hooks.example.com"]
config.currency = "USD"
"#,
    );
    let (config, folder) = (setup.config(), setup.folder.path());
    assert_eq!(config.file.as_deref(), Some(&*folder.join("tidegate.toml")));
    assert_eq!(config.data, folder.join("d"));
    assert_eq!(config.plugins, Path::new("/p"));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:1");
    let tls = Tls { cert: folder.join("c.pem"), key: folder.join("k.pem") };
    assert_eq!(config.http.tls, Some(tls));
    assert_eq!(config.auth.tokens, Some(TokensFrom::File(folder.join("tokens.toml"))));
    assert_eq!(config.compile.time, TimeSpan::from_secs(10));
    let live = MemoryBus { capacity: 10, overflow: Overflow::DropOldest, order: Order::None };
    assert_eq!(config.buses["live"], Bus::Memory(live));
    let main = DurableBus {
        segment: ByteSize::mib(64),
        dedup: TimeSpan::from_hours(1),
        dedup_max: 1000,
        keep_free: ByteSize::gib(1),
        checkpoint_every: ByteSize::mib(1),
    };
    assert_eq!(config.buses["main"], Bus::Durable(main));
    assert_eq!(config.words["notify"].config["currency"], "USD");
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let mut setup =
        Setup::new("plugins = \"file\"\ndata = \"file/data\"\nhttp.listen = \"127.0.0.1:1\"");
    let folder = setup.folder.path().to_owned();
    let seen = |setup: &Setup| {
        let config = setup.config();
        (config.plugins, config.data, config.http.listen.port())
    };
    assert_eq!(seen(&setup), (folder.join("file"), folder.join("file/data"), 1));
    setup = setup
        .variable("TIDEGATE_PLUGINS", "env")
        .variable("TIDEGATE_DATA", "env/data")
        .variable("TIDEGATE_HTTP_LISTEN", "127.0.0.1:2");
    assert_eq!(seen(&setup), (folder.join("env"), folder.join("env/data"), 2));
    setup.flags = Flags {
        plugins: Some("flag".into()),
        data: Some("flag/data".into()),
        listen: Some("127.0.0.1:3".into()),
        ..Flags::default()
    };
    assert_eq!(seen(&setup), (folder.join("flag"), folder.join("flag/data"), 3));
}

#[test]
fn folders_without_a_name_are_refused_wherever_they_are_named() {
    let flags = |plugins: Option<&str>, data: Option<&str>| {
        let (plugins, data) = (plugins.map(Into::into), data.map(Into::into));
        let mut setup = Setup::new("");
        setup.flags = Flags { plugins, data, ..Flags::default() };
        setup
    };
    for (setup, named) in [
        (Setup::new("plugins = \"\""), "`plugins`"),
        (Setup::new("").variable("TIDEGATE_PLUGINS", ""), "`TIDEGATE_PLUGINS`"),
        (Setup::new("").variable("TIDEGATE_DATA", ""), "`TIDEGATE_DATA`"),
        (flags(Some(""), None), "`--plugins`"),
        (flags(None, Some("")), "`--data`"),
    ] {
        let error = setup.error();
        assert!(error.contains(named) && error.contains("allowed: "), "{named}: {error}");
    }
}

#[test]
fn paths_of_a_named_file_are_relative_to_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("etc")).unwrap();
    std::fs::write(folder.path().join("etc/t.toml"), "data = \"d\"\nauth.tokens-file = \"t\"")
        .unwrap();
    let environment = [("TIDEGATE_AUTH_TOKENS_FILE".to_owned(), "mine.toml".to_owned())].into();
    let file = Some(Path::new("etc/t.toml"));
    let config = Config::load_in(folder.path(), file, &environment, &Flags::default()).unwrap();
    assert_eq!(config.data, folder.path().join("etc/d"));
    assert_eq!(config.auth.tokens, Some(TokensFrom::File(folder.path().join("mine.toml"))));
}

#[test]
fn a_named_file_that_is_not_there_is_an_error() {
    let setup = Setup::new("").variable("TIDEGATE_CONFIG", "other.toml");
    assert!(setup.error().contains("other.toml` cannot be read: "), "{}", setup.error());
}

#[test]
fn mistakes_name_key_and_place() {
    for (text, expected) in [
        (
            "http.lisen = \"127.0.0.1:1\"",
            "configuration `tidegate.toml`: `http.lisen` is not a key; did you mean `http.listen`?",
        ),
        (
            "buses.main = {kind = \"durable\", segment = \"1MiB\"}",
            "configuration `tidegate.toml`: `buses.main.segment` is \"1MiB\"; allowed: a size \
             from \"4MiB\" to \"16GiB\", such as \"256MiB\"",
        ),
        (
            "buses.live = {kind = \"memory\", segment = \"1MiB\"}",
            "configuration `tidegate.toml`: `buses.live.segment` is a key of durable buses only",
        ),
        (
            "buses.Live.kind = \"memory\"",
            "configuration `tidegate.toml`: `buses.Live`: `Live` is not a name: 1 to 63 of a-z, \
             0-9 and `-`, not starting with `-`",
        ),
        (
            "http.tls-cert = \"c.pem\"",
            "configuration `tidegate.toml`: `http.tls-cert` needs `http.tls-key` beside it",
        ),
        (
            "plugins.notify.alow.http = []",
            "configuration `tidegate.toml`: `plugins.notify.alow` is not a key; did you mean \
             `plugins.notify.allow`?",
        ),
        (
            "plugins = 3",
            "configuration `tidegate.toml`: `plugins` is 3; allowed: a path, or tables `[plugins.NAME]`",
        ),
        (
            "plugins = \"\"",
            "configuration `tidegate.toml`: `plugins` is \"\"; allowed: a path, or tables \
             `[plugins.NAME]`",
        ),
        ("data = \"\"", "configuration `tidegate.toml`: `data` is \"\"; allowed: a path"),
    ] {
        assert_eq!(Setup::new(text).error(), expected);
    }
    let setup = Setup::new("").variable("TIDEGATE_LISTEN", "here");
    assert_eq!(
        setup.error(),
        "environment variable `TIDEGATE_LISTEN`: `http.listen` is \"here\"; allowed: an IP \
         address and port such as \"127.0.0.1:7411\" or \"[::1]:7411\""
    );
}

/// A module that the host kept became a plugin of the name `modules`.
#[test]
fn data_and_plugins_are_kept_apart() {
    for (file, ok) in [
        ("data = \"plugins\"", false),
        ("data = \"x/../plugins\"", false),
        ("plugins = \"data/modules\"", false),
        ("plugins = \"data/cache/deep\"", false),
        ("plugins = \"data/plugins\"", true),
        ("data = \"plugins/data\"", true),
    ] {
        let setup = Setup::new(file);
        std::fs::create_dir_all(setup.folder.path().join("x")).unwrap();
        std::fs::create_dir_all(setup.folder.path().join("plugins")).unwrap();
        match setup.load() {
            Ok(_) => assert!(ok, "{file}"),
            Err(error) => {
                let (error, data) =
                    (error.to_string(), format!("{}/", setup.folder.path().display()));
                assert!(!ok && error.contains("plugins cannot lie among "), "{file}: {error}");
                assert_eq!(error.matches(&data).count(), 2, "both are named: {error}");
            }
        }
    }
}

#[test]
fn what_is_no_folder_is_named() {
    for key in ["data", "plugins"] {
        let setup = Setup::new(&format!("{key} = \"tidegate.toml\""));
        let file = setup.folder.path().join("tidegate.toml");
        let says = format!("`{key}` is `{}`, which is not a folder: name another", file.display());
        assert_eq!(setup.error(), says);
    }
}

#[test]
fn an_address_that_is_overruled_is_looked_at_all_the_same() {
    let mut setup = Setup::new("http.listen = 5").variable("TIDEGATE_LISTEN", "127.0.0.1:1");
    setup.flags.listen = Some("127.0.0.1:2".to_owned());
    assert_eq!(
        setup.error(),
        "configuration `tidegate.toml`: `http.listen` is 5; allowed: an IP address and port such as \
         \"127.0.0.1:7411\" or \"[::1]:7411\""
    );
}

#[test]
fn an_unknown_variable_is_warned_of() {
    let setup = Setup::new("").variable("TIDEGATE_DATTA", "x");
    let expected = "environment variable `TIDEGATE_DATTA` is not known; did you mean \
                    `TIDEGATE_DATA`?";
    assert_eq!(setup.config().warnings, [expected]);
}

#[test]
fn a_listener_that_others_can_reach_needs_tokens_and_tls() {
    let open = "http.listen = \"0.0.0.0:7411\"\n";
    let tls = "http.tls-cert = \"c\"\nhttp.tls-key = \"k\"\n";
    let tokens = "auth.tokens-file = \"t\"\n";
    for (text, refused) in [
        (open.to_owned(), true),
        (format!("{open}{tls}"), true),
        (format!("{open}{tokens}"), true),
        (format!("{open}{tls}{tokens}"), false),
        ("http.listen = \"[::1]:7411\"".to_owned(), false),
    ] {
        let mut setup = Setup::new(&text);
        let exposed = matches!(setup.load(), Err(ConfigError::Exposed { .. }));
        assert_eq!(exposed, refused, "{text}");
        setup.flags.insecure = true;
        assert!(setup.load().is_ok(), "{text}");
    }
    let with_tls = Setup::new(&format!("{open}{tls}")).variable("TIDEGATE_TOKENS", "[[tokens]]");
    assert!(with_tls.load().is_ok());
    let plain = Setup::new(open).variable("TIDEGATE_TOKENS", "[[tokens]]");
    assert!(plain.error().contains("without `http.tls-cert` and `http.tls-key`;"));
}

#[test]
fn tokens_of_the_environment_stand_instead_of_a_file_and_are_not_printed() {
    let setup = Setup::new("auth.tokens-file = \"t\"").variable("TIDEGATE_TOKENS", "s3cret");
    let config = setup.config();
    assert_eq!(config.auth.tokens, Some(TokensFrom::Environment("s3cret".to_owned())));
    assert!(!format!("{config:?}").contains("s3cret"));
    assert_eq!(config.warnings, Vec::<String>::new());
    // Empty is not the same as none: it is refused where it is read.
    let empty = Setup::new("").variable("TIDEGATE_TOKENS", "").config();
    assert_eq!(empty.auth.tokens, Some(TokensFrom::Environment(String::new())));
}

#[test]
fn a_secret_that_stands_where_its_place_should_is_not_repeated() {
    for (text, expected) in [
        ("secrets.PAY = \"s3cret\"", "`secrets.PAY` is a string; allowed: a table"),
        ("secrets = \"s3cret\"", "`secrets` is a string; allowed: a table"),
        ("secrets.PAY.value = \"s3cret\"", "`secrets.PAY.value` is not a key"),
        (
            "secrets.PAY.env = 53",
            "`secrets.PAY.env` is neither a string nor a table; allowed: a string",
        ),
    ] {
        let error = Setup::new(text).error();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("s3cret") && !error.contains("53"), "{error}");
    }
}

#[test]
fn a_plugin_gets_what_both_sides_grant() {
    let manifest = Manifest::parse(
        "notify.toml",
        "subscribe.start = \"latest\"\ngrants.http = [\"hooks.example.com\", \"other.org\"]\n\
         config.currency = \"EUR\"\nconfig.lang = \"en\"",
    )
    .unwrap();
    let mut setup = Setup::new(
        "plugins.notify = {allow.http = [\"*.example.com\"], config.currency = \"USD\"}",
    );
    let config = setup.config();
    let resolved = config.resolve("notify", &manifest).unwrap();
    assert_eq!(resolved.grants.http.len(), 1);
    assert_eq!(resolved.grants.http[0].to_string(), "hooks.example.com");
    assert_eq!(config.withheld("notify", &manifest), [("grants.http", "other.org".to_owned())]);
    assert_eq!(resolved.config["currency"], "USD");
    assert_eq!(resolved.config["lang"], "en");
    assert_eq!(config.resolve("unspoken-of", &manifest).unwrap().grants, Grants::default());
    setup.flags.granting = Granting::Everything;
    assert_eq!(setup.config().resolve("notify", &manifest).unwrap().grants, manifest.grants);
}

#[test]
fn a_plugin_cannot_subscribe_to_a_bus_that_is_not_there() {
    let manifest = Manifest::parse("x.toml", "subscribe.bus = \"live\"").unwrap();
    let error = Setup::new("").config().resolve("x", &manifest).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`subscribe.bus` is `live`, which is not configured; there is `main`. Add `[buses.live]`"
    );
}

proptest! {
    #[test]
    fn no_text_makes_loading_panic(text in "(plugins|data|buses|http|)[\\[\\]a-z.=\"0-9\n {}-]{0,40}") {
        let _ = Setup::new(&text).load();
    }
}
