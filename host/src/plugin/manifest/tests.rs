use proptest::prelude::*;

use super::*;
use crate::event::Position;

/// INTERFACES.md section 2, word for word but for `start`, which its grants would demand.
const EVERY_KEY: &str = r#"
description = "Reserves stock for new orders"
module = "reserve-stock.wasm"

[subscribe]
bus     = "main"
types   = ["order.created", "payment.*"]
sources = []
where   = {}
own     = false
start   = "earliest"

[limits]
fuel = 50_000_000
fuel-per-second = 0
memory = "64MiB"
timeout = "2s"
emits = 1000
output = "512KiB"

[run]
workers = 0
instance = "reuse"
recycle-after = 100_000
in-flight = 4096
waiting-max = 1_000_000
shadow = 0
state-version = 1

[retry]
attempts-fault = 2
backoff = "100ms"
backoff-max = "30s"
give-up-after = "15m"
on-failure = "park"
on-reject  = "continue"
breaker = "50% / 1m"

[upcast]
"order.created" = [1, 2]
[grants]
http = ["api.example.com", "*.example.com:8443"]
env = []
secrets = ["stripe-key"]
[config]
currency = "EUR"
"#;

const QUOTAS: &str = r#"
[limits]
fuel-per-second = 1_000_000
rate = 50
concurrency = 8
[[limits.prefixes]]
prefix = "eu/"
rate = 100
[[limits.prefixes]]
prefix = "eu/vip/"
concurrency = 4
[run]
workers = 16
"#;

fn errors(text: &str) -> String {
    Manifest::parse("orders.toml", text).unwrap_err().to_string()
}

fn parsed(text: &str) -> Manifest {
    Manifest::parse("orders.toml", text).unwrap()
}

#[test]
fn every_key_is_read() {
    let manifest = parsed(EVERY_KEY);
    assert_eq!(manifest.description, "Reserves stock for new orders");
    assert_eq!(manifest.module.as_deref(), Some("reserve-stock.wasm"));
    assert_eq!(manifest.subscribe.types.len(), 2);
    assert_eq!(manifest.subscribe.start, Some(Start::Earliest));
    assert_eq!(manifest.retry.on_failure, Some(OnFailure::Park));
    assert_eq!(manifest.upcast["order.created"], [1, 2]);
    assert_eq!(manifest.grants.http.len(), 2);
    assert_eq!(manifest.config["currency"], "EUR");
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let (bare, written) = (parsed(""), parsed(EVERY_KEY));
    assert_eq!(bare, Manifest::default());
    assert_eq!(bare.limits, written.limits);
    assert_eq!(bare.run, written.run);
    assert_eq!(bare.subscribe.bus(), "main");
    assert_eq!(bare.subscribe.start(), &Start::Earliest);
    let park = Retry { on_failure: Some(OnFailure::Park), ..bare.retry };
    assert_eq!(park, written.retry);
}

#[test]
fn an_unknown_key_names_file_full_key_and_the_nearest_known_one() {
    for (text, expected) in [
        (
            "[limits]\nmemry = \"64MiB\"",
            "manifest `orders.toml`: `limits.memry` is not a key; did you mean `limits.memory`?",
        ),
        (
            "[limit]\nmemory = \"64MiB\"",
            "manifest `orders.toml`: `limit` is not a key; did you mean `limits`?",
        ),
        ("fuel = 5", "manifest `orders.toml`: `fuel` is not a key; did you mean `limits.fuel`?"),
        (
            "[retry]\non_failure = \"pause\"",
            "manifest `orders.toml`: `retry.on_failure` is not a key; did you mean \
             `retry.on-failure`?",
        ),
        (
            "[grants]\nwhatever = 1",
            "manifest `orders.toml`: `grants.whatever` is not a key; known here: `grants.http`, \
             `grants.env`, `grants.secrets`",
        ),
    ] {
        assert_eq!(errors(text), expected);
    }
}

#[test]
fn a_wrong_value_is_named_with_what_was_found_and_what_is_allowed() {
    for (text, expected) in [
        ("limits.fuel = 0", "`limits.fuel` is 0; allowed: a whole number from 1 to 1000000000000"),
        (
            "limits.fuel = \"many\"",
            "`limits.fuel` is \"many\"; allowed: a whole number from 1 to 1000000000000",
        ),
        (
            "limits.memory = 64",
            "`limits.memory` is 64; allowed: a size from \"64KiB\" to \"4GiB\", such as \"64MiB\"",
        ),
        (
            "limits.timeout = \"2 seconds\"",
            "`limits.timeout` is \"2 seconds\"; allowed: a time from \"1ms\" to \"10m\", such as \
             \"2s\"",
        ),
        ("run.instance = \"new\"", "`run.instance` is \"new\"; allowed: \"reuse\", \"fresh\""),
        (
            "subscribe.types = [\"order.cre*\"]",
            "`subscribe.types` is \"order.cre*\"; allowed: 1 to 255 bytes of segments between \
             dots, where `*` alone is one segment and `**` alone zero or more",
        ),
        (
            "subscribe.start = \"newest\"",
            "`subscribe.start` is \"newest\"; allowed: \"earliest\", \"latest\", a position or an \
             RFC 3339 time",
        ),
        ("subscribe = 3", "`subscribe` is 3; allowed: a table"),
        (
            "retry.breaker = \"half\"",
            "`retry.breaker` is \"half\"; allowed: a percentage from 1 to 100 over a time, such \
             as `50% / 1m`",
        ),
        (
            "retry.backoff = \"1m\"",
            "`retry.backoff` is \"1m\", over `retry.backoff-max` of \"30s\"",
        ),
        (
            "module = \"../other.wasm\"",
            "`module` is \"../other.wasm\"; allowed: a `.wasm` or `.wat` file within the plugin's \
             folder",
        ),
        (
            "limits.memory = \"5GiB\"",
            "`limits.memory` is \"5GiB\"; allowed: a size from \"64KiB\" to \"4GiB\", such as \"64MiB\"",
        ),
        ("limits.prefixes = 3", "`limits.prefixes` is 3; allowed: a list of at most 64 tables"),
        (
            "[[limits.prefixes]]\nprefix = \"\"\nrate = 1",
            "`limits.prefixes.0.prefix` is \"\"; allowed: what keys begin with, 1 to 1024 bytes",
        ),
        (
            "[[limits.prefixes]]\nprefix = \"eu/\"",
            "`limits.prefixes.0.rate` or `limits.prefixes.0.concurrency` must be above 0: else \
             prefix \"eu/\" has no limit",
        ),
        (
            "[limits]\nprefixes = [{prefix = \"a\", rate = 1}, {prefix = \"a\", rate = 2}]",
            "`limits.prefixes.1.prefix` names \"a\" a second time",
        ),
        ("config.retries = 3", "`config.retries` is 3; allowed: a string"),
        (
            "[upcast]\n\"order.created\" = [0]",
            "`upcast.\"order.created\"` is a list; allowed: a list of schema versions, whole \
             numbers from 1 to 4294967295",
        ),
    ] {
        assert_eq!(errors(text), format!("manifest `orders.toml`: {expected}"));
    }
}

#[test]
fn quotas_are_read_and_what_is_not_set_is_not_written() {
    let limits = parsed(QUOTAS).limits;
    assert_eq!((limits.fuel_per_second, limits.rate, limits.concurrency), (1_000_000, 50, 8));
    let [eu, vip] = &limits.prefixes[..] else { panic!("{limits:?}") };
    assert_eq!((eu.prefix.as_str(), eu.rate, eu.concurrency), ("eu/", 100, 0));
    assert_eq!((vip.prefix.as_str(), vip.rate, vip.concurrency), ("eu/vip/", 0, 4));
    // Else every plugin of before would be another one after an upgrade.
    let text = parsed("").to_toml();
    assert!(!text.contains("rate") && !text.contains("concurrency"), "{text}");
}

#[test]
fn broken_toml_is_named_with_line_and_column() {
    let why = errors("description = \"a\"\n[limits\nfuel = 1");
    assert!(why.starts_with("manifest `orders.toml`: line 2, column 8: "), "{why}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let why = errors("limits.fuel = 0\nlimits.memry = 1\nrun.shadw = 2");
    assert_eq!(why.lines().count(), 3, "{why}");
}

#[test]
fn an_outbound_grant_without_a_start_is_refused_with_that_sentence() {
    let why = errors("grants.http = [\"api.example.com\"]");
    assert!(why.contains("a plugin with an outbound grant must write `start`"), "{why}");
    parsed("grants.http = [\"api.example.com\"]\nsubscribe.start = \"latest\"");
}

#[test]
fn the_resolved_text_reads_back_as_the_same_manifest() {
    for text in [
        "",
        EVERY_KEY,
        "subscribe.start = 120\nsubscribe.where = {region = \"eu\"}",
        "subscribe.start = 2026-01-01T00:00:00Z\nlimits.memory = \"65536KiB\"",
        QUOTAS,
    ] {
        let manifest = parsed(text);
        assert_eq!(parsed(&manifest.to_toml()), manifest, "{}", manifest.to_toml());
    }
    assert_eq!(
        parsed("subscribe.start = \"120\"").subscribe.start(),
        &Start::Position(Position(120))
    );
}

#[test]
fn the_environment_changes_with_module_and_manifest_only() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let bare = Manifest::default();
    assert_eq!(bare.environment(a), parsed(&bare.to_toml()).environment(a));
    assert_ne!(bare.environment(a), bare.environment(b));
    assert_ne!(bare.environment(a), parsed("config.x = \"1\"").environment(a));
}

#[test]
fn what_fails_parks_its_key_unless_the_manifest_says_otherwise() {
    assert_eq!(parsed("").on_failure(), OnFailure::Park);
    assert_eq!(parsed("retry.on-failure = \"continue\"").on_failure(), OnFailure::Continue);
    assert_eq!(parsed("retry.on-failure = \"pause\"").on_failure(), OnFailure::Pause);
    assert_eq!(parsed("").on_reject(), OnReject::Continue);
    assert_eq!(parsed("retry.on-reject = \"park\"").on_reject(), OnReject::Park);
}

#[test]
fn keys_that_do_not_act_as_written_are_warned_of() {
    let warnings = |text: &str| parsed(text).warnings();
    assert_eq!(warnings(""), Vec::<String>::new());
    let own = warnings("retry.on-failure = \"pause\"\nsubscribe.own = true\nrun.state-version = 5");
    assert_eq!(own.len(), 1, "{own:?}");
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in "[\\[\\]a-z.=\"0-9\n {}*-]{0,60}") {
        let _ = Manifest::parse("orders.toml", &text);
    }
}

/// Thirty thousand unknown keys once were as many lines in the log, and half a second at each look at them.
#[test]
fn of_many_problems_the_first_are_told_each_in_few_words() {
    let many: String = (0..30_000).map(|n| format!("k{n} = 1\n")).collect();
    let long = format!("{} = 1\n[config]\n{} = 1\n", "a".repeat(100_000), "b".repeat(100_000));
    for (text, problems, says) in [
        (many.as_str(), 21, "and 29980 problems more"),
        (long.as_str(), 2, "..."),
        ("[config]\na = 1\nb = 2\n", 2, "`config.b` is 2; allowed: a string"),
    ] {
        let invalid = Manifest::parse("m", text).unwrap_err();
        assert_eq!(invalid.problems.len(), problems);
        let told = invalid.to_string();
        assert!(told.len() < 32 * 1024, "{} bytes", told.len());
        assert!(told.ends_with(says), "{told}");
    }
}
