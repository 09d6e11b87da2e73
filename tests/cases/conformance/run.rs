//! Runs the cases: one host, all languages side by side on the same events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::languages::{Built, Language, place};
use super::table::{Case, Emitted, Feature, Then, cases};
use crate::harness::{Flaky, Host, HostOptions, Place, Reply, wait_until};

/// How long everything may take: interpreters are slow to compile in dev profile.
const DONE_MAX: Duration = Duration::from_secs(300);
/// Emitted by the commands.
const REQUESTS_EMIT: usize = 2;

/// How each case went, by name; an empty text: as it should.
pub(super) type Cases = BTreeMap<&'static str, (Feature, String)>;

/// Runs every case in every language.
pub(super) fn run(built: &[&Built]) -> BTreeMap<&'static str, Cases> {
    let server = Flaky::start(|_| Reply::Status(200, ""));
    let address = format!("127.0.0.1:{}", server.port);
    let url = format!("http://{address}/ask");
    let place = Place::new();
    let mut config = "[compile]\ntime = \"5m\"\n".to_owned();
    for built in built {
        let name = built.put(&place.plugins(), &manifest(built.language, &address));
        config.push_str(&format!("[plugins.{name}]\nallow.http = [\"{address}\"]\n"));
        if !built.language.lifts {
            built.put_as(&lifting(built.language), &place.plugins(), "[upcast]\nold = [1]\n");
        }
    }
    let cache = self::place().join("cache");
    copy_all(&cache, &place.data().join("cache"));
    let options = HostOptions { config: Some(config), ..HostOptions::default() };
    let host = place.start_within(&options, DONE_MAX);
    // Only what was used: code of modules that are gone would pile up.
    let _ = std::fs::remove_dir_all(&cache);
    copy_all(&place.data().join("cache"), &cache);

    publish(&host, built, &url);
    let found = built.iter().map(|built| {
        let language = built.language;
        let mut found = judge(&host, language, &cases(language, &url));
        found.insert("command", (Feature::Requests, said(commands(&host, &language.plugin()))));
        if !language.lifts {
            found.insert("no upcaster", (Feature::Basics, said(refused(&host, language))));
        }
        found.insert("query", (Feature::Requests, said(query(&host, &language.plugin()))));
        (language.name, found)
    });
    let found = found.collect();
    host.stop();
    found
}

/// The plugin of a module that is told to lift events, and cannot.
fn lifting(language: &Language) -> String {
    format!("lift-{}", language.name)
}

/// What a language does not offer is refused in words.
fn refused(host: &Host, language: &Language) -> Result<(), String> {
    let view = host.plugin(&lifting(language));
    let reason = view["reason"].as_str().unwrap_or_default();
    let refused = view["state"] == "refused" && reason.contains("exports no `upcaster`");
    if refused { Ok(()) } else { Err(view.to_string()) }
}

fn manifest(language: &Language, address: &str) -> String {
    let (mut types, mut upcast) = ("\"conf.*\"".to_owned(), String::new());
    if language.lifts {
        types.push_str(&format!(", \"conf.old.{}\"", language.name));
        upcast = format!("[upcast]\n\"conf.old.{}\" = [1]\n", language.name);
    }
    // A busy machine is no reason to fail: `fuel` is what ends a loop here, and 1 MB of JSON takes more of
    // it in some languages than the 50 million that are usual.
    format!(
        "[subscribe]\ntypes = [{types}]\nstart = \"earliest\"\n\
         [limits]\noutput = \"4MiB\"\nfuel = 200_000_000\ntimeout = \"60s\"\n\
         [retry]\nattempts-fault = 1\non-failure = \"continue\"\n\
         [grants]\nhttp = [\"{address}\"]\n\
         [config]\ngreeting = \"grüß dich\"\n{upcast}"
    )
}

/// Publishes each event once, for all languages.
fn publish(host: &Host, built: &[&Built], url: &str) {
    let mut published = BTreeSet::new();
    for case in built.iter().flat_map(|built| cases(built.language, url)) {
        if published.insert(case.event["id"].to_string()) {
            host.http.publish(std::slice::from_ref(&case.event));
        }
    }
}

fn judge(host: &Host, language: &Language, cases: &[Case]) -> Cases {
    let plugin = language.plugin();
    let expected: usize = cases.iter().map(Case::emits).sum();
    let source = format!("/tidegate/main/{plugin}");
    // What comes back of timers and calls comes later; what is missing once nothing more can come is
    // a finding.
    let emitted = wait_until(&format!("{plugin} has emitted"), DONE_MAX, || {
        let quiet = is_quiet(host, &plugin);
        let events = host.http.events(&format!("source={source}"));
        if quiet || events.len() >= expected { Ok(events) } else { Err(events.len()) }
    });
    host.wait_rest(&plugin, 0);
    let logs = logs(host, &plugin);
    let mut found = Cases::new();
    for case in cases {
        let verdict = case
            .judge(host, &plugin, &emitted, &logs)
            .and_then(|()| case.left_behind(host, &plugin))
            .and_then(|()| last_words(case, language, &logs));
        found.insert(case.name, (case.feature, said(verdict)));
    }
    if emitted.len() != expected {
        let kinds: Vec<_> = emitted.iter().map(|event| &event["type"]).collect();
        let why = format!("emitted {} instead of {expected}: {kinds:?}", emitted.len());
        found.insert("nothing else", (Feature::Basics, why));
    }
    found
}

/// Whether nothing is under way: no delivery, no timer, no call.
fn is_quiet(host: &Host, plugin: &str) -> bool {
    let view = host.plugin(plugin);
    let under_way = ["lag_events", "in_flight", "waiting", "timers", "open_calls"];
    under_way.iter().all(|name| view[*name].as_u64() == Some(0))
}

fn said(verdict: Result<(), String>) -> String {
    verdict.err().unwrap_or_default()
}

impl Case {
    fn emits(&self) -> usize {
        match &self.then {
            Then::Emits(emitted) => emitted.len(),
            Then::Dead(..) | Then::Logs(_) => 0,
        }
    }

    fn judge(
        &self,
        host: &Host,
        plugin: &str,
        emitted: &[Value],
        logs: &[(String, String, String)],
    ) -> Result<(), String> {
        let letters = host.dead_letters(plugin);
        let letter = letters.iter().find(|letter| letter["key"] == self.key());
        match (&self.then, letter) {
            (Then::Dead(outcome, reason), Some(letter)) => {
                let why = letter["reason"].as_str().unwrap_or_default();
                let right = letter["outcome"] == *outcome && why.contains(reason);
                if right { Ok(()) } else { Err(letter.to_string()) }
            }
            (Then::Dead(outcome, _), None) => Err(format!("no dead letter of `{outcome}`")),
            (_, Some(letter)) => Err(format!("given up: {letter}")),
            (Then::Emits(expected), None) => {
                expected.iter().try_for_each(|expected| is_among(expected, emitted))
            }
            (Then::Logs(lines), None) => {
                let own = logs.iter().filter(|(key, ..)| key == self.key());
                let own: Vec<_> = own.map(|(_, level, text)| (&**level, &**text)).collect();
                if own == *lines { Ok(()) } else { Err(format!("logged {own:?}")) }
            }
        }
    }

    fn left_behind(&self, host: &Host, plugin: &str) -> Result<(), String> {
        for (name, expected) in &self.state {
            let run = host.cli(&["state", "get", plugin, self.key(), name]).run();
            let found = (run.code == 0).then(|| run.stdout.trim_end().to_owned());
            if found != *expected {
                return Err(format!("state `{name}` is {found:?}, not {expected:?}"));
            }
        }
        Ok(())
    }
}

fn is_among(expected: &Emitted, emitted: &[Value]) -> Result<(), String> {
    let alike: Vec<&Value> = (emitted.iter())
        .filter(|event| event["type"] == expected.kind && event["partitionkey"] == *expected.key)
        .collect();
    let content = ["datacontenttype", "data", "data_base64"];
    let has = |event: &&&Value| {
        let missing = content
            .iter()
            .any(|name| !expected.has.contains_key(*name) && event.get(*name).is_some());
        !missing && expected.has.iter().all(|(name, value)| event[name] == *value)
    };
    match alike.iter().filter(has).count() {
        0 if alike.is_empty() => Err(format!("no `{}` of `{}`", expected.kind, expected.key)),
        0 => Err(cut(&format!("{alike:?} instead of {:?}", expected.has))),
        _ => Ok(()),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(1000).collect()
}

/// What a plugin logged: key, level, message.
fn logs(host: &Host, plugin: &str) -> Vec<(String, String, String)> {
    let words = ["plugins", "logs", plugin, "--recent", "1000", "--output", "json"];
    let printed = host.cli(&words).run().expect_done();
    let lines = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines.map(|line| (text(&line["key"]), text(&line["level"]), text(&line["message"]))).collect()
}

fn last_words(
    case: &Case,
    language: &Language,
    logs: &[(String, String, String)],
) -> Result<(), String> {
    let Some(words) = language.last_words.filter(|_| case.name == "trap") else { return Ok(()) };
    let mut own = logs.iter().filter(|(key, ..)| key == case.key());
    match own.any(|(_, _, text)| text.contains(words)) {
        true => Ok(()),
        false => Err(format!("the log does not say `{words}`: {logs:?}")),
    }
}

fn commands(host: &Host, plugin: &str) -> Result<(), String> {
    let send = |name: &str, body: &str| {
        let path = format!("/v1/plugins/{plugin}/command/{name}?key=k-command");
        host.http.post(&path, "application/json", body.as_bytes())
    };
    for (body, sum) in [(r#"{"amount":5}"#, 5), (r#"{"amount":2}"#, 7)] {
        let answer = send("add", body);
        let media = answer.header("content-type").unwrap_or_default().to_owned();
        if answer.status != 200 || answer.json() != json!({ "sum": sum }) || media != JSON {
            return Err(format!("{answer:?}"));
        }
    }
    let refused = send("refuse", "{}");
    if (refused.status, &*refused.code()) != (422, "rejected") {
        return Err(format!("{refused:?}"));
    }
    if !String::from_utf8_lossy(&refused.body).contains("not this one") {
        return Err(format!("{refused:?}"));
    }
    if host.state(plugin, "k-command", "gone").is_some() {
        return Err("a refused command left state behind".to_owned());
    }
    let unknown = send("nothing", "{}");
    if unknown.status != 422 {
        return Err(format!("{unknown:?}"));
    }
    let events = host.http.events(&format!("source=/tidegate/main/{plugin}&type=add.done"));
    let sums: Vec<&Value> = events.iter().map(|event| &event["data"]["sum"]).collect();
    if sums != [&json!(5), &json!(7)] || events.len() != REQUESTS_EMIT {
        return Err(format!("{events:?}"));
    }
    Ok(())
}

const JSON: &str = "application/json";

fn query(host: &Host, plugin: &str) -> Result<(), String> {
    let ask =
        |name: &str| host.http.get(&format!("/v1/plugins/{plugin}/query/{name}?key=k-command"));
    let answer = ask("sum");
    if answer.status != 200 || answer.json() != json!({ "sum": 7 }) {
        return Err(format!("{answer:?}"));
    }
    let raw = ask("raw");
    let media = raw.header("content-type").unwrap_or_default();
    if raw.status != 200 || raw.body != [0, 255] || media != "application/octet-stream" {
        return Err(format!("{raw:?}"));
    }
    let unknown = ask("nothing");
    if unknown.status != 422 { Err(format!("{unknown:?}")) } else { Ok(()) }
}

/// Copies the files of a folder that may not be there.
fn copy_all(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(to).unwrap();
    for entry in entries.map_while(Result::ok) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
