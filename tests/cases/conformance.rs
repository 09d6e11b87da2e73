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

use languages::{Built, Language};
use report::Finding;

use crate::harness::{Cli, Place};

#[test]
fn every_language_comes_to_the_same_and_says_what_it_does_not_offer() {
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
fn a_decorator_in_python_that_lacks_its_parentheses_is_named_by_build() {
    let place = Place::new();
    Cli::new(&["new", "bare", "--lang", "python"]).within(place.path()).run().expect_done();
    let folder = place.plugins().join("bare");
    let source = "import tidegate as t\n\n\n@t.query\ndef total(request):\n    return 1\n";
    std::fs::write(folder.join("main.py"), source).unwrap();
    let run = Cli::new(&["build"]).arg(&folder).run();
    assert_eq!(run.code, 1, "{}", run.stdout);
    let said = run.stdout + &run.stderr;
    if said.contains("is missing; install it with") {
        println!("skipped: {said}");
        return;
    }
    assert!(said.contains("`@query` needs parentheses"), "{said}");
}
