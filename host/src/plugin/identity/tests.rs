use super::*;
use crate::plugin::watch::Change;

const MAIN: &str = "main";

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// The plugin `name` with a file of `module`, which it ran last.
fn present(name: &str, module: &str) -> Change {
    present_on(MAIN, name, module)
}

fn present_on(bus: &str, name: &str, module: &str) -> Change {
    let mut manifest = Manifest::default();
    manifest.subscribe.bus = Some(bus.to_owned());
    Change::Present(Box::new(Source {
        name: name.to_owned(),
        path: format!("/plugins/{name}.wasm").into(),
        wasm: module.to_owned().into(),
        digest: digest(module),
        manifest,
        manifest_text: String::new(),
    }))
}

fn manifest() -> Manifest {
    let mut manifest = Manifest::default();
    manifest.subscribe.bus = Some(MAIN.to_owned());
    manifest
}

fn registered(instance: u32, module: &str) -> Registered {
    Registered {
        instance: InstanceId(instance),
        file: Some(digest(module)),
        environment: Some(manifest().environment(digest(module))),
        pinned: None,
        paused: false,
        path: Some("/plugins/a.wasm".into()),
    }
}

fn removed(instance: u32, module: &str) -> Registered {
    Registered { path: None, ..registered(instance, module) }
}

fn rolled_back(instance: u32, file: &str, pinned: &str) -> Registered {
    let environment = Some(manifest().environment(digest(pinned)));
    Registered { pinned: Some(digest(pinned)), environment, ..registered(instance, file) }
}

fn plugins(registered: &[(&str, Registered)]) -> Plugins {
    let registered = registered
        .iter()
        .map(|(name, registered)| (Binding::new(MAIN, name), registered.clone()))
        .collect();
    Plugins { registered, waiting: BTreeMap::new() }
}

fn decide(plugins: &[(&str, Registered)], change: &Change) -> Decision {
    let decisions = self::plugins(plugins).decide(change, None);
    assert_eq!(decisions.len(), 1, "{decisions:?}");
    decisions.into_iter().next().unwrap()
}

#[test]
fn a_present_file_means_what_the_registered_plugins_make_of_it() {
    let one = InstanceId(1);
    let never_activated = Registered { file: None, environment: None, ..registered(1, "m") };
    let waiting =
        |old: &str| Decision::Waiting { new: Binding::new(MAIN, "b"), old_name: old.to_owned() };
    let keep = |module| Decision::Keep { instance: one, module: digest(module) };
    let reload = |module| Decision::Reload { instance: one, module: digest(module) };
    let unpin = |module| Decision::Unpin { instance: one, module: digest(module) };
    let register = |name| Decision::Register(Binding::new(MAIN, name));
    for (case, plugins, change, expected) in [
        ("new", vec![], present("a", "m"), register("a")),
        ("unchanged", vec![("a", registered(1, "m"))], present("a", "m"), keep("m")),
        ("changed", vec![("a", registered(1, "m"))], present("a", "n"), reload("n")),
        (
            "paused",
            vec![("a", Registered { paused: true, ..registered(1, "m") })],
            present("a", "n"),
            reload("n"),
        ),
        ("back as it was", vec![("a", removed(1, "m"))], present("a", "m"), keep("m")),
        ("back changed", vec![("a", removed(1, "m"))], present("a", "n"), reload("n")),
        ("never activated", vec![("a", never_activated)], present("a", "m"), reload("m")),
        ("pinned, same file", vec![("a", rolled_back(1, "n", "m"))], present("a", "n"), keep("m")),
        ("pinned, new file", vec![("a", rolled_back(1, "n", "m"))], present("a", "o"), unpin("o")),
        (
            "pinned, file of it",
            vec![("a", rolled_back(1, "n", "m"))],
            present("a", "m"),
            unpin("m"),
        ),
        ("renamed", vec![("a", removed(1, "m"))], present("b", "m"), waiting("a")),
        (
            "renamed, pinned",
            vec![("a", Registered { path: None, ..rolled_back(1, "n", "m") })],
            present("b", "n"),
            waiting("a"),
        ),
        ("renamed, changed", vec![("a", removed(1, "m"))], present("b", "n"), register("b")),
        ("copied", vec![("a", registered(1, "m"))], present("b", "m"), register("b")),
        (
            "of two the youngest",
            vec![("c", removed(1, "m")), ("d", removed(2, "m"))],
            present("b", "m"),
            waiting("d"),
        ),
        (
            "registered itself",
            vec![("a", removed(2, "m")), ("b", registered(1, "m"))],
            present("b", "m"),
            keep("m"),
        ),
    ] {
        assert_eq!(decide(&plugins, &change), expected, "{case}");
    }
}

#[test]
fn a_changed_manifest_reloads_the_module_that_runs() {
    let change = present("a", "n");
    let mut changed = manifest();
    changed.config.insert("currency".into(), "USD".into());
    for (registered, module) in [(registered(1, "n"), "n"), (rolled_back(1, "n", "m"), "m")] {
        let decisions = plugins(&[("a", registered)]).decide(&change, Some(&changed));
        let module = digest(module);
        assert_eq!(decisions, [Decision::Reload { instance: InstanceId(1), module }]);
    }
}

#[test]
fn a_plugin_that_moves_to_another_bus_leaves_its_own() {
    let plugins = plugins(&[("a", registered(1, "m"))]);
    let decisions = plugins.decide(&present_on("live", "a", "m"), None);
    let left = Decision::Remove { instance: InstanceId(1), bus: MAIN.to_owned() };
    assert_eq!(decisions, [left, Decision::Register(Binding::new("live", "a"))]);
}

#[test]
fn a_removed_file_stops_the_plugin_or_the_waiting() {
    let gone = Change::Removed { name: "a".to_owned() };
    let remove = Decision::Remove { instance: InstanceId(1), bus: MAIN.to_owned() };
    assert_eq!(decide(&[("a", registered(1, "m"))], &gone), remove);
    assert_eq!(decide(&[("a", removed(1, "m"))], &gone), Decision::Nothing);
    assert_eq!(decide(&[("b", registered(1, "m"))], &gone), Decision::Nothing);
    let mut waiting = plugins(&[]);
    let binding = Binding::new(MAIN, "a");
    waiting.waiting.insert(binding.clone(), digest("m"));
    assert_eq!(waiting.decide(&gone, None), [Decision::StopWaiting(binding)]);
}

#[test]
fn a_second_source_is_refused_and_the_plugin_goes_on() {
    let change = Change::SecondSource {
        name: "a".to_owned(),
        path: "/plugins/a".into(),
        holder: "/plugins/a.wasm".into(),
    };
    let decision = decide(&[("a", registered(1, "m"))], &change);
    assert!(matches!(decision, Decision::RefuseSecondSource { .. }), "{decision:?}");
}

#[test]
fn a_file_that_waited_is_released_when_nothing_is_missing_any_more() {
    let binding = Binding::new(MAIN, "b");
    for (registered, released) in [
        (vec![("a", removed(1, "m"))], vec![]),
        (vec![("a", registered(1, "m"))], vec![binding.clone()]),
        (vec![], vec![binding.clone()]),
    ] {
        let mut plugins = plugins(&registered);
        plugins.waiting.insert(binding.clone(), digest("m"));
        assert_eq!(plugins.released(), released);
    }
}

#[test]
fn a_rename_binds_the_instance_whose_file_is_gone_to_a_free_name() {
    let mut plugins = plugins(&[("a", removed(1, "m")), ("c", registered(2, "n"))]);
    let on = |bus: &str, instance| (bus.to_owned(), InstanceId(instance));
    assert_eq!(plugins.rename("a", "b"), Ok(vec![on(MAIN, 1)]));
    assert_eq!(plugins.rename("a", "c"), Err(Refusal::Taken { name: "c".to_owned() }));
    assert!(matches!(plugins.rename("a", "B"), Err(Refusal::Name(_))));
    let there = plugins.rename("c", "b");
    assert!(matches!(there, Err(Refusal::FileThere { .. })), "{there:?}");
    let unknown = Err(Refusal::Unknown { name: "x".to_owned() });
    assert_eq!(plugins.rename("x", "b"), unknown);

    plugins.registered.insert(Binding::new("live", "a"), removed(3, "m"));
    assert_eq!(plugins.rename("a", "b"), Ok(vec![on("live", 3), on(MAIN, 1)]), "wherever it was");
}

#[test]
fn resuming_registers_what_waits_and_wakes_what_is_paused() {
    let paused = Registered { paused: true, ..registered(1, "m") };
    let mut plugins = plugins(&[("a", paused), ("c", registered(2, "n"))]);
    let waiting = Binding::new(MAIN, "b");
    plugins.waiting.insert(waiting.clone(), digest("m"));
    let resume = |name: &str| plugins.resume(&Binding::new(MAIN, name));
    assert_eq!(resume("a"), Ok(Resumption::Resume(InstanceId(1))));
    assert_eq!(resume("b"), Ok(Resumption::Register(waiting.clone())));
    assert_eq!(resume("c"), Ok(Resumption::Nothing));
    assert!(resume("x").is_err());
}

#[test]
fn a_rollback_goes_to_the_last_other_module_or_to_the_one_named() {
    let plugins = plugins(&[("a", registered(1, "o"))]);
    let binding = Binding::new(MAIN, "a");
    let (m, n, o) = (digest("m"), digest("n"), digest("o"));
    let rollback = |wanted, history: &[Digest]| plugins.rollback(&binding, wanted, history);
    assert_eq!(rollback(None, &[m, n, o, o]), Ok((InstanceId(1), n)));
    assert_eq!(rollback(Some(m), &[m, n, o]), Ok((InstanceId(1), m)));
    assert!(matches!(rollback(None, &[o, o]), Err(Refusal::NoEarlierModule { .. })));
    assert!(matches!(rollback(Some(m), &[n, o]), Err(Refusal::NeverRan { .. })));
}

#[test]
fn forgetting_is_refused_while_the_file_is_there() {
    let plugins = plugins(&[("a", registered(1, "m")), ("b", removed(2, "m"))]);
    let there = plugins.forget("a").unwrap_err();
    assert_eq!(there.to_string(), "the file of `a` is there: `/plugins/a.wasm`; remove it first");
    assert_eq!(plugins.forget("b"), Ok(vec![(MAIN.to_owned(), InstanceId(2))]));
    assert!(matches!(plugins.forget("c"), Err(Refusal::Unknown { .. })));
}

#[test]
fn what_moved_from_bus_to_bus_is_forgotten_on_all_of_them_or_on_none() {
    let mut plugins = plugins(&[("a", removed(1, "m"))]);
    let there = Binding::new("other", "a");
    plugins.registered.insert(there.clone(), registered(7, "m"));
    assert!(matches!(plugins.forget("a"), Err(Refusal::FileThere { .. })));
    plugins.registered.insert(there, removed(7, "m"));
    let both = [(MAIN, 1), ("other", 7)].map(|(bus, id)| (bus.to_owned(), InstanceId(id)));
    assert_eq!(plugins.forget("a"), Ok(both.to_vec()));
}

#[test]
fn of_several_sources_the_one_that_ran_holds_the_name_then_the_oldest() {
    let contender = |path: &str, module: &str, modified_ns| Contender {
        path: path.into(),
        digest: Some(digest(module)),
        modified_ns,
    };
    let contenders =
        [contender("/a", "m", 2), contender("/a.wasm", "n", 3), contender("/a.wat", "m", 1)];
    let pick = |last: Option<&str>| pick_holder(&contenders, last.map(digest)).unwrap();
    assert_eq!(pick(Some("n")), Path::new("/a.wasm"));
    assert_eq!(pick(Some("gone")), Path::new("/a.wat"));
    assert_eq!(pick(None), Path::new("/a.wat"));
    assert_eq!(pick_holder(&[], None), None);
}
