//! One table of cases, the same for every language: what a handler asks for is what comes to pass,
//! whatever it is written in. `tests/conformance/README.md` says what each handler does.
//!
//! Languages whose tools are not there are left out, with one line that says what installs them. What
//! was found is written to `conformance.json` in cargo's target folder.

mod languages;
mod report;
mod run;
mod table;

use std::collections::BTreeMap;

use crate::harness::{Place, wait_until};
use languages::{Built, Language};
use report::Finding;

#[test]
fn every_language_comes_to_the_same_outcomes_and_effects() {
    let built: Vec<Result<Built, String>> = std::thread::scope(|scope| {
        let builds: Vec<_> = Language::ALL
            .iter()
            .map(|language| scope.spawn(|| languages::build(language)))
            .collect();
        builds.into_iter().map(|build| build.join().expect("its own panic is shown")).collect()
    });
    let there: Vec<&Built> = built.iter().flatten().collect();
    assert!(there.iter().any(|built| built.language.name == "rust"), "Rust is always there");
    let mut cases = run::run(&there);

    let findings: Vec<Finding> = Language::ALL
        .iter()
        .zip(&built)
        .map(|(language, built)| Finding::new(language, built, cases.remove(language.name)))
        .collect();
    report::write(&findings);
    let failed: BTreeMap<_, _> = findings
        .iter()
        .map(|finding| (finding.language.name, finding.failed()))
        .filter(|(_, failed)| !failed.is_empty())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    report::check_readme(&findings);
}

#[test]
fn what_a_language_does_not_offer_is_refused_in_words() {
    let place = Place::new();
    let lacking: Vec<&Language> = Language::ALL.iter().filter(|l| !l.lifts).collect();
    assert!(!lacking.is_empty());
    let mut put = Vec::new();
    for language in lacking {
        match languages::build(language) {
            Ok(built) => put.push(built.put(&place.plugins(), "[upcast]\n\"conf.old\" = [1]\n")),
            Err(install) => println!("{}: left out, install it with: {install}", language.name),
        }
    }
    let host = place.start();
    for name in put {
        wait_until("the plugin is judged", run::DONE_MAX, || {
            let view = host.plugin(&name);
            let reason = view["reason"].as_str().unwrap_or_default();
            let refused = view["state"] == "refused" && reason.contains("exports no `upcaster`");
            if refused { Ok(()) } else { Err(view.to_string()) }
        });
    }
    host.stop();
}
