//! The quick starts of `QUICKSTART.md`, as they stand there: a reader who types them gets what they say.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Cli, Host, HostOptions, Place, program, root, wait_until};

/// How long what a command says may take to come true: large modules are built and compiled meanwhile.
const TRUE_MAX: Duration = Duration::from_secs(300);

/// One command of the page, and what its output has in it in the end.
struct Line {
    command: String,
    prints: Option<String>,
}

fn page() -> String {
    std::fs::read_to_string(root().join("QUICKSTART.md")).unwrap()
}

/// The text of a section.
fn section(title: &str) -> String {
    let page = page();
    let (_, rest) = page.split_once(&format!("\n## {title}\n")).expect(title);
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The commands of a section, in order.
fn lines(section: &str) -> Vec<Line> {
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).map(|line| match line.split_once("  # ") {
        Some((command, prints)) => {
            Line { command: command.trim().to_owned(), prints: Some(prints.trim().to_owned()) }
        }
        None => Line { command: line.to_owned(), prints: None },
    });
    lines.collect()
}

/// A shell in the folder, where `tidegate` is the program under test and speaks to the host.
struct Shell<'a> {
    place: &'a Place,
    host: &'a Host,
    path: std::ffi::OsString,
}

impl<'a> Shell<'a> {
    fn new(place: &'a Place, host: &'a Host) -> Self {
        let bin = place.path().join(".bin");
        std::fs::create_dir(&bin).unwrap();
        symlink(program().get_program(), bin.join("tidegate")).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(bin).chain(std::env::split_paths(&path));
        Self { place, host, path: std::env::join_paths(path).unwrap() }
    }

    /// What a command prints, or says in the end.
    fn run(&self, line: &str) -> Result<String, String> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line).current_dir(self.place.path());
        shell.env("PATH", &self.path).env("TIDEGATE_URL", self.host.url());
        let environment = program();
        for (name, value) in environment.get_envs() {
            match value {
                Some(value) if name != "TIDEGATE_URL" => shell.env(name, value),
                None if name != "TIDEGATE_URL" => shell.env_remove(name),
                _ => continue,
            };
        }
        let output = shell.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }
}

/// What a build says where a tool is not there: the command that installs it.
fn installs(said: &str) -> Option<&str> {
    let (_, install) = said.split_once("is missing; install it with")?;
    install.trim_start_matches(':').trim().lines().next()
}

/// Follows a section, and measures how long it takes to the first handled event.
fn follow(title: &str) {
    let section = section(title);
    let place = Place::new();
    let host = place.start_with(&HostOptions { dev: true, ..Default::default() });
    let shell = Shell::new(&place, &host);
    let begin = Instant::now();
    let mut first = None;
    for line in lines(&section) {
        let command = &line.command;
        let before = command.starts_with("sed").then(|| host.plugin("totals"));
        match (shell.run(command), &line.prints) {
            (Err(said), None) => {
                let install = installs(&said).unwrap_or_else(|| panic!("{command}: {said}"));
                let install = install.split("    ").next().unwrap();
                assert!(section.contains(install), "the page does not say `{install}`");
                println!("{title}: skipped, needs: {install}");
                return;
            }
            (_, None) => {}
            (_, Some(prints)) => {
                wait_until(&format!("`{command}` prints `{prints}`"), TRUE_MAX, || {
                    let said = shell.run(command);
                    if said.as_ref().is_ok_and(|said| said.contains(prints)) {
                        Ok(())
                    } else {
                        Err((said, host.printed(), host.said()))
                    }
                });
                first.get_or_insert_with(|| begin.elapsed());
            }
        }
        if let Some(before) = before {
            let changed = format!("{title}: the changed source is live");
            wait_until(&changed, TRUE_MAX, || {
                let view = host.plugin("totals");
                let live = view["module"]["digest"] != before["module"]["digest"];
                if live { Ok(()) } else { Err((view, host.printed(), host.said())) }
            });
        }
    }
    let (first, all) = (first.expect("an event was handled").as_secs_f64(), begin.elapsed());
    println!(
        "{title}: first event handled after {first:.1} s, all after {:.1} s",
        all.as_secs_f64()
    );
    host.stop();
}

#[test]
fn rust() {
    follow("Rust");
}

#[test]
fn c() {
    follow("C");
}

#[test]
fn javascript() {
    follow("JavaScript");
}

#[test]
fn typescript() {
    follow("TypeScript");
}

#[test]
fn python() {
    follow("Python");
}

#[test]
fn go() {
    follow("Go");
}

#[test]
fn assemblyscript() {
    follow("AssemblyScript");
}

#[test]
fn stdio() {
    follow("A program that reads stdin and writes stdout");
}

#[test]
fn every_quick_start_is_followed_by_a_test() {
    let page = page();
    let titles: Vec<_> = page.split("\n## ").skip(1).map(|s| s.lines().next().unwrap()).collect();
    let followed = include_str!("quickstart.rs");
    for title in titles.into_iter().filter(|title| *title != "Further") {
        assert!(followed.contains(&format!("follow(\"{title}\")")), "{title}");
    }
    assert_eq!(lines(&page)[0].command, "tidegate dev");
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("(QUICKSTART.md)"));
}

/// A project of each language in a folder, made where no tool is.
fn projects(place: &Place) -> Vec<(&'static str, PathBuf)> {
    let langs = ["rust", "stdio", "c", "js", "ts", "python", "go", "assemblyscript"];
    let made = langs.map(|lang| {
        let name = format!("t-{lang}");
        Cli::new(&["new", &name, "--lang", lang]).within(place.path()).run().expect_done();
        (lang, place.plugins().join(name))
    });
    made.into()
}

fn without_tools(words: &[&str], place: &Place) -> Cli {
    Cli::new(words).env("PATH", "/nowhere").env("HOME", "/nowhere").within(place.path())
}

#[test]
fn a_missing_tool_is_named_with_the_one_command_that_installs_it() {
    let place = Place::new();
    for (lang, folder) in projects(&place) {
        let run = without_tools(&["build"], &place).arg(&folder).run();
        assert_eq!(run.code, 1, "{lang}: {run:?}");
        let install = installs(&run.stderr).unwrap_or_else(|| panic!("{lang}: {run:?}"));
        let install = install.split("    ").next().unwrap();
        let known = ["npm install ", "python3 -m pip install ", "curl "];
        assert!(known.iter().any(|known| install.starts_with(known)), "{lang}: {install}");
        assert!(
            page().contains(install) || install.contains("rustup.rs"),
            "the quick starts do not say `{install}`"
        );
    }
}

#[test]
fn of_many_plugins_those_whose_tools_are_missing_are_left_out_with_one_line() {
    let place = Place::new();
    let count = projects(&place).len();
    let run = without_tools(&["build", "plugins"], &place).run();
    assert_eq!(run.code, 0, "{run:?}");
    let skipped = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("skipped"));
        lines.filter(|line| installs(line).is_some()).count()
    };
    assert_eq!(skipped(&run.stdout), count, "{}", run.stdout);
    assert_eq!(run.stdout.lines().count(), count, "one line each: {}", run.stdout);
    let tested = without_tools(&["test", "plugins"], &place).run();
    assert_eq!((tested.code, skipped(&tested.stdout)), (1, count), "{tested:?}");
    assert!(tested.stderr.contains("no tests that can be run"), "{tested:?}");
    let environment = vec![("PATH", "/nowhere".to_owned()), ("HOME", "/nowhere".to_owned())];
    let host = place.start_with(&HostOptions { dev: true, environment, ..Default::default() });
    host.stop();
}

/// The pages that the quick starts lead to are there.
#[test]
fn links_of_the_page_lead_somewhere() {
    let page = page();
    let links = page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    for link in links.filter(|link| !link.starts_with("http")) {
        assert!(root().join(Path::new(link)).exists(), "{link}");
    }
}
