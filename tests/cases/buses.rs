//! Buses beside each other: each its own domain, and events from one to the other exactly once.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Host, HostOptions, Place, Publisher, bare_guest, emitter, event, handler, seed, wait_until,
};

const ARRIVED_MAX: Duration = Duration::from_secs(60);
const BUSES: &str = r#"
[buses.main]
kind = "durable"
[buses.audit]
kind = "durable"
[buses.live]
kind = "memory"
"#;

fn start(place: &Place) -> Host {
    place.start_with(&HostOptions { config: Some(BUSES.to_owned()), ..Default::default() })
}

/// A plugin on `main` that emits to another bus.
fn put_sender(place: &Place, name: &str, bus: &str) {
    std::fs::write(place.plugins().join(format!("{name}.wasm")), bare_guest()).unwrap();
    let manifest = format!("[config]\nbus = \"{bus}\"\n");
    std::fs::write(place.plugins().join(format!("{name}.toml")), manifest).unwrap();
}

fn put_receiver(place: &Place, name: &str, bus: &str) {
    let wasm = handler("got.it", &emitter("got.it"), "");
    std::fs::write(place.plugins().join(format!("{name}.wasm")), wasm).unwrap();
    let manifest = format!("[subscribe]\nbus = \"{bus}\"\ntypes = [\"bare.seen\"]\n");
    std::fs::write(place.plugins().join(format!("{name}.toml")), manifest).unwrap();
}

fn inputs(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["data"].as_str().unwrap()).collect()
}

#[test]
fn events_for_another_bus_arrive_exactly_once_and_in_order_also_after_kills() {
    let mut rng = seed("events_for_another_bus_arrive_exactly_once");
    let place = Place::new();
    put_sender(&place, "sender", "audit");
    put_receiver(&place, "receiver", "audit");
    let events: Vec<Value> = (0..3000)
        .map(|n| event("a.b", &format!("e-{n}"), Some(&format!("k-{}", n % 20)), json!(n)))
        .collect();
    for kill in 1..=3 {
        let host = start(&place);
        let mut publisher = Publisher::start(&host.http, 25, events.clone().into_iter());
        let after = rng.u64(..kill * 1000);
        wait_until("some are published", ARRIVED_MAX, || {
            if publisher.count() >= after { Ok(()) } else { Err(publisher.count()) }
        });
        host.kill();
        publisher.join();
    }
    let host = start(&place);
    for chunk in events.chunks(500) {
        host.http.publish(chunk);
    }
    host.wait_rest("sender", 0);
    wait_until("all have arrived", ARRIVED_MAX, || {
        let arrived = host.http.get("/v1/types?bus=audit&type=bare.seen").expect_ok();
        let count = arrived["types"][0]["count"].as_u64().unwrap_or(0);
        if count >= 3000 { Ok(()) } else { Err(count) }
    });
    host.wait_rest("receiver", 0);
    let arrived = host.http.events("bus=audit&type=bare.seen");
    let sent = host.http.events("type=bare.seen");
    assert!(sent.is_empty(), "what is for another bus is not public on its own: {}", sent.len());
    let unique: BTreeSet<_> = inputs(&arrived).into_iter().collect();
    assert_eq!((arrived.len(), unique.len()), (3000, 3000));
    for key in 0..20 {
        let of_key = arrived.iter().filter(|e| e["partitionkey"] == format!("k-{key}"));
        let ids: Vec<&str> = of_key.map(|event| event["data"].as_str().unwrap()).collect();
        let expected: Vec<String> = (key..3000).step_by(20).map(|n| format!("e-{n}")).collect();
        assert_eq!(ids, expected);
    }
    assert_eq!(host.http.events("bus=audit&type=got.it").len(), 3000);
    host.stop();
}

#[test]
fn a_failure_pauses_its_own_plugin_and_not_the_one_with_its_number_on_another_bus() {
    let place = Place::new();
    // The first of each bus.
    for (name, bus) in [("alpha", "main"), ("beta", "audit")] {
        std::fs::write(place.plugins().join(format!("{name}.wasm")), bare_guest()).unwrap();
        let manifest = format!(
            "[subscribe]\nbus = \"{bus}\"\n[retry]\nattempts-fault = 1\non-failure = \"pause\"\n"
        );
        std::fs::write(place.plugins().join(format!("{name}.toml")), manifest).unwrap();
    }
    let host = start(&place);
    host.wait_plugin("alpha", "live", |view| view["state"] == "live");
    host.wait_plugin("beta", "live", |view| view["state"] == "live");
    let instances = ["alpha", "beta"].map(|name| host.plugin(name)["instance"].clone());
    assert_eq!(instances[0], instances[1], "each bus counts its own");

    let mut failing = event("a.b", "1", Some("k"), json!("panic"));
    failing["datacontenttype"] = "text/plain".into();
    host.http.try_publish("audit", &[&failing]).unwrap();
    host.wait_plugin("beta", "paused", |view| view["state"] == "paused");
    assert_eq!(host.plugin("alpha")["state"], "live");
    host.kill();

    let host = start(&place);
    host.wait_plugin("beta", "paused still", |view| view["state"] == "paused");
    host.wait_plugin("alpha", "live still", |view| view["state"] == "live");
    host.stop();
}

#[test]
fn a_memory_bus_serves_beside_a_durable_one_and_forgets() {
    let place = Place::new();
    put_sender(&place, "sender", "live");
    put_receiver(&place, "receiver", "live");
    let host = start(&place);
    let events: Vec<Value> =
        (0..500).map(|n| event("a.b", &format!("e-{n}"), Some("k"), json!(n))).collect();
    host.http.publish(&events);
    host.wait_rest("sender", 0);
    let got = wait_until("all have arrived", ARRIVED_MAX, || {
        let got =
            host.metric("tidegate_deliveries_total", &[("plugin", "receiver"), ("outcome", "ok")]);
        if got >= 500 { Ok(got) } else { Err(got) }
    });
    assert_eq!(got, 500);
    // Published to it directly, too.
    let direct = event("bare.seen", "direct", Some("k"), json!("direct"));
    let answers = host.http.try_publish("live", &[&direct]).unwrap();
    assert_eq!(answers[0]["duplicate"], false);
    host.wait_rest("receiver", 0);
    let buses = host.http.get("/v1/buses").expect_ok();
    let live = buses["buses"].as_array().unwrap().iter().find(|bus| bus["name"] == "live");
    assert_eq!(live.unwrap()["kind"], "memory", "{buses}");
    // What is forwarded counts like what is published.
    let appended = host.metric("tidegate_events_appended_total", &[("bus", "live")]);
    assert!(appended > 500 && live.unwrap()["appended"] == appended, "{appended}: {buses}");
    assert!(!place.data().join("buses/live/log").exists(), "a memory bus writes nothing");
    host.stop();

    let host = start(&place);
    assert!(host.http.events("bus=live").is_empty(), "it forgets");
    assert_eq!(host.http.events("type=a.b").len(), 500, "the durable one does not");
    host.wait_rest("sender", 0);
    let again = [("plugin", "receiver"), ("outcome", "ok")];
    assert_eq!(host.metric("tidegate_deliveries_total", &again), 0, "nothing is sent twice");
    host.stop();
}

/// A plugin is bound to bus and name: what it had on the bus that it left is another plugin's.
#[test]
fn a_plugin_that_moved_to_another_bus_shows_what_it_has_there_and_is_forgotten_whole() {
    let place = Place::new();
    let put = |bus: &str| {
        let manifest = format!("[subscribe]\nbus = \"{bus}\"\n");
        std::fs::write(place.plugins().join("bare.toml"), manifest).unwrap();
    };
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    put("main");
    let host = start(&place);
    let publish = |bus: &str, count: usize| {
        for id in 0..count {
            let one = event("a.b", &format!("e-{id}"), Some("k"), json!(id));
            host.http.try_publish(bus, &[&one]).unwrap();
        }
        host.wait_rest("bare", 0);
    };
    let seen = || host.state("bare", "k", "seen");
    publish("main", 1);
    assert_eq!(seen().as_deref(), Some("1"));
    put("audit");
    host.wait_plugin("bare", "moved", |view| {
        view["subscription"]["bus"] == "audit" && view["completed_position"] == 0
    });
    assert_eq!(seen(), None);
    publish("audit", 2);
    assert_eq!(seen().as_deref(), Some("2"));
    let held = host.cli(&["keys", "hold", "bare", "k"]).run().expect_done();
    assert!(held.contains("held"), "{held}");

    std::fs::remove_file(place.plugins().join("bare.wasm")).unwrap();
    host.wait_plugin("bare", "removed", |view| view["state"] == "removed");
    assert_eq!(seen().as_deref(), Some("2"), "as it was last");
    host.cli(&["plugins", "forget", "bare"]).run().expect_done();
    assert_eq!(seen(), None);
    host.stop();
    let host = start(&place);
    assert_eq!(host.http.get("/v1/plugins/bare").status, 404, "nothing of it is left");
    host.stop();
}

/// It was stopped where it was before anybody looked at what was to take its place.
#[test]
fn a_plugin_that_cannot_move_to_another_bus_goes_on_where_it_is() {
    let place = Place::new();
    let (module, manifest) = (place.plugins().join("bare.wasm"), place.plugins().join("bare.toml"));
    std::fs::write(&module, bare_guest()).unwrap();
    let host = start(&place);
    let publish = |bus: &str, id: &str, seen: &str| {
        host.http.try_publish(bus, &[&event("a.b", id, Some("k"), json!(1))]).unwrap();
        host.wait_rest("bare", 0);
        assert_eq!(host.state("bare", "k", "seen").as_deref(), Some(seen));
    };
    publish("main", "e-1", "1");
    let refused = |count: usize| {
        let view = host.wait_plugin("bare", "refused", |view| {
            let tried = view["history"].as_array().unwrap().iter();
            tried.filter(|tried| tried["result"] == "refused").count() == count
        });
        let at = (&view["state"], &view["subscription"]["bus"]);
        assert_eq!(at, (&json!("live"), &json!("main")), "{view}");
    };
    std::fs::write(&module, b"garbage").unwrap();
    refused(1);
    std::fs::write(&manifest, "[subscribe]\nbus = \"audit\"\n").unwrap();
    refused(2);
    publish("main", "e-2", "2");

    std::fs::write(&module, bare_guest()).unwrap();
    host.wait_plugin("bare", "moved", |view| {
        view["state"] == "live" && view["subscription"]["bus"] == "audit"
    });
    publish("audit", "e-1", "1");
    host.stop();
}

/// What ran last was told by its activation, and a return to what was activated once recorded none: the plugin of
/// a file that was taken away counted as that of the bus in between, and was renamed there.
#[test]
fn a_plugin_that_came_back_to_a_bus_ran_there_last_and_is_renamed_whole() {
    let place = Place::new();
    let (old, new) = (place.plugins().join("old"), place.plugins().join("new"));
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("bare.wasm"), bare_guest()).unwrap();
    let host = start(&place);
    for (bus, events) in [("main", 1), ("audit", 2), ("main", 0)] {
        let manifest = format!("[subscribe]\nbus = \"{bus}\"\n");
        std::fs::write(old.join("plugin.toml"), manifest).unwrap();
        host.wait_plugin("old", bus, |view| {
            view["state"] == "live" && view["subscription"]["bus"] == bus
        });
        for id in 0..events {
            let one = event("a.b", &format!("e-{id}"), Some("k"), json!(id));
            host.http.try_publish(bus, &[&one]).unwrap();
        }
        host.wait_rest("old", 0);
    }
    std::fs::rename(&old, &new).unwrap();
    host.wait_plugin("new", "waiting", |view| view["state"] == "waiting");
    assert_eq!(host.state("old", "k", "seen").as_deref(), Some("1"), "as it was last");
    host.cli(&["plugins", "rename", "old", "new"]).run().expect_done();
    host.wait_plugin("new", "live", |view| view["state"] == "live");
    assert_eq!(host.state("new", "k", "seen").as_deref(), Some("1"));
    assert_eq!(host.http.get("/v1/plugins/old").status, 404, "nothing has the old name");

    // It goes on as before where its file cannot be taken.
    host.stop();
    std::fs::write(new.join("plugin.toml"), "nonsense = 1\n").unwrap();
    let host = start(&place);
    let view = host.wait_plugin("new", "live", |view| view["state"] == "live");
    assert_eq!(view["subscription"]["bus"], "main");
    host.stop();
}

/// It once began anew where it had left, and was handed what had been published there since.
#[test]
fn a_plugin_whose_bus_is_not_configured_any_more_does_not_go_on_where_it_was_before() {
    let place = Place::new();
    let put = |name: &str, bus: &str| {
        std::fs::write(place.plugins().join(format!("{name}.wasm")), bare_guest()).unwrap();
        let manifest = format!("[subscribe]\nbus = \"{bus}\"\n");
        std::fs::write(place.plugins().join(format!("{name}.toml")), manifest).unwrap();
    };
    put("moved", "main");
    put("there", "audit");
    let host = start(&place);
    put("moved", "audit");
    host.wait_plugin("moved", "moved", |view| {
        view["state"] == "live" && view["subscription"]["bus"] == "audit"
    });
    host.http.publish(&[event("a.b", "e-1", Some("k"), json!(1))]);
    host.stop();

    let config = Some("[buses.main]\n".to_owned());
    let host = place.start_with(&HostOptions { config, ..Default::default() });
    for name in ["moved", "there"] {
        let view = host.wait_plugin(name, "refused", |view| view["state"] == "refused");
        let why = view["reason"].as_str().unwrap_or_default();
        assert!(why.contains("Add `[buses.audit]`"), "{view}");
        assert_eq!(
            why.contains("may have run on the bus `audit` since"),
            name == "moved",
            "{view}"
        );
    }
    assert_eq!(host.state("moved", "k", "seen"), None);
    // What is listed is not said to be nowhere.
    for word in ["pause", "resume", "rewind", "diff"] {
        let failed = host.cli(&["plugins", word, "there"]).run().expect_failed();
        assert!(failed.contains("no bus knows plugin `there` yet"), "{word}: {failed}");
        assert!(failed.contains("Add `[buses.audit]`"), "{word}: {failed}");
    }
    for words in [&["state", "get", "there", "k", "seen"][..], &["timers", "list", "there"]] {
        let failed = host.cli(words).run().expect_failed();
        assert!(failed.contains("no bus knows plugin `there` yet: "), "{words:?}: {failed}");
    }
    for words in [&["forget", "there"][..], &["forget", "moved"], &["rename", "moved", "other"]] {
        let failed = host.cli(&[&["plugins"], words].concat()).run().expect_failed();
        assert!(failed.contains(" is there: "), "{words:?}: {failed}");
    }
    host.stop();
}

/// A name that is spelt otherwise once made another plugin or bus of it, without a word.
#[test]
fn what_is_configured_for_nothing_and_logs_that_nobody_configured_are_told() {
    let place = Place::new();
    put_receiver(&place, "receiver", "main");
    let host = start(&place);
    host.stop();
    let with = |config: &str| HostOptions { config: Some(config.to_owned()), ..Default::default() };
    let config = "[plugins.receivers.config]\na = \"1\"\n[plugins.receiver.config]\na = \"1\"\n";
    let host = place.start_with(&with(config));
    wait_until("both are told", ARRIVED_MAX, || {
        let said = host.said();
        let plugin = said.contains("`[plugins.receivers]` is configured");
        let bus = said.contains("there is a log of a bus that is not configured");
        if plugin && bus { Ok(()) } else { Err(said) }
    });
    let said = host.said();
    assert!(said.contains("audit") && !said.contains("[plugins.receiver]"), "{said}");
    assert!(!said.contains("buses/live"), "a memory bus leaves nothing: {said}");
    host.stop();

    let memory = with("[buses.main]\nkind = \"memory\"\n");
    let refused = place.start_refused_with(&memory).expect_failed();
    assert!(refused.contains("`main` is configured as a memory bus"), "{refused}");
    assert!(refused.contains(&place.data().join("buses/main").display().to_string()), "{refused}");
}

/// Such a host once ended at its start, without a word.
#[test]
fn a_host_of_memory_buses_alone_serves_until_it_is_told_to_stop() {
    let place = Place::new();
    put_receiver(&place, "receiver", "main");
    let config = "[buses.main]\nkind = \"memory\"\n".to_owned();
    let host = place.start_with(&HostOptions { config: Some(config), ..Default::default() });
    host.http.publish(&[event("bare.seen", "e-1", Some("k"), json!(1))]);
    host.wait_rest("receiver", 0);
    assert_eq!(host.http.events("type=bare.seen").len(), 1);
    host.stop();
}

/// Positions of a memory bus begin anew with its host: a cursor from before once passed over as many
/// events as it had seen.
#[test]
fn a_cursor_of_a_memory_bus_passes_over_nothing_after_a_restart() {
    let place = Place::new();
    let publish = |host: &Host, ids: &[&str]| {
        let events: Vec<Value> = ids.iter().map(|id| event("a.b", id, None, json!(1))).collect();
        host.http.try_publish("live", &events.iter().collect::<Vec<_>>()).unwrap();
    };
    let page = |host: &Host, cursor: &str| {
        let page = host.http.get(&format!("/v1/events?bus=live&limit=2{cursor}"));
        let next = page.header("tidegate-cursor").map(str::to_owned);
        let ids: Vec<String> =
            page.json().as_array().unwrap().iter().map(|event| text(&event["id"])).collect();
        (ids, next)
    };
    let host = start(&place);
    publish(&host, &["e-1", "e-2", "e-3"]);
    let (ids, next) = page(&host, "");
    assert_eq!(ids, ["e-1", "e-2"]);
    let cursor = format!("&cursor={}", next.unwrap());
    assert_eq!(page(&host, &cursor).0, ["e-3"]);
    host.stop();

    let host = start(&place);
    publish(&host, &["f-1", "f-2", "f-3"]);
    let (ids, next) = page(&host, &cursor);
    assert_eq!(ids, ["f-1", "f-2"]);
    assert_eq!(page(&host, &format!("&cursor={}", next.unwrap())).0, ["f-3"]);
    host.stop();
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
