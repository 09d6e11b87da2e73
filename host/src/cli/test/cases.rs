//! Runs the tests of a plugin, and says how each went.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::Output;
use super::case::{Case, Given, read_case};
use super::deliver::{BEGIN_MS, Bench, Delivered};
use super::expect::{Came, Difference};
use super::print::{clean, delivery_document, said};
use super::project::Project;
use crate::plugin::Manifest;
use crate::wasm::Module;

/// How many tests there were, and how many failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) tests: u64,
    pub(super) failed: u64,
}

/// How one test went.
struct Verdict {
    steps: usize,
    took: Duration,
    failure: Option<Failure>,
}

/// Where a test failed: the steps after it are not run.
enum Failure {
    /// It cannot be run.
    Error(String),
    /// A step came out otherwise.
    Step { number: usize, delivered: Box<Delivered>, differences: Vec<Difference> },
}

/// Runs every test of a plugin; each begins anew.
///
/// # Errors
/// The output cannot be written.
pub(super) async fn run_cases(
    project: &Project,
    module: &Arc<Module>,
    manifest: &Manifest,
    output: Output,
    out: &mut dyn Write,
) -> std::io::Result<Tally> {
    let mut tally = Tally::default();
    for file in project.cases() {
        let begin = Instant::now();
        let case = read_case(&file, &project.folder);
        let (steps, failure) = match &case {
            Ok(case) => (case.steps.len(), run_case(case, module, manifest).await),
            Err(error) => (0, Some(Failure::Error(format!("{error:#}")))),
        };
        let name = case.map(|case| case.name);
        let name =
            name.unwrap_or_else(|_| file.file_stem().unwrap_or_default().to_string_lossy().into());
        let verdict = Verdict { steps, took: begin.elapsed(), failure };
        tally.tests += 1;
        tally.failed += u64::from(verdict.failure.is_some());
        match output {
            Output::Text => print(&name, &verdict, out)?,
            Output::Json => print_json(project, (&name, &file), &verdict, out)?,
        }
        out.flush()?;
    }
    Ok(tally)
}

async fn run_case(case: &Case, module: &Arc<Module>, manifest: &Manifest) -> Option<Failure> {
    let mut bench = Bench::new(Arc::clone(module), manifest, &case.config, BEGIN_MS);
    for (key, values) in &case.state {
        for (name, value) in values {
            bench.memory().put(key, name, value);
        }
    }
    for (index, step) in case.steps.iter().enumerate() {
        let number = index + 1;
        let delivered = match give(&mut bench, &step.given).await {
            Ok(delivered) => delivered,
            Err(why) => return Some(Failure::Error(format!("step {number}: {why}"))),
        };
        let state: BTreeMap<_, _> = bench.state(delivered.event.key.as_ref());
        let came = Came {
            invocation: &delivered.invocation,
            state: &state,
            lifted: delivered.lifted.as_ref().map(|lifted| &lifted.data),
            now_ms: delivered.event.recorded_ms,
        };
        let differences = step.expect.compare(&came);
        if !differences.is_empty() {
            let delivered = Box::new(delivered);
            return Some(Failure::Step { number, delivered, differences });
        }
    }
    None
}

/// Has happen what a step says.
async fn give(bench: &mut Bench, given: &Given) -> Result<Delivered, String> {
    let exports = bench.exports();
    let lacks = |name: &str| Err(format!("the module does not export `{name}`"));
    match given {
        Given::Command(..) if !exports.command => lacks("command"),
        Given::Query(_) if !exports.query => lacks("query"),
        Given::Timer { .. } | Given::Response(_) if !exports.handler => lacks("handler"),
        Given::Event(_) if !exports.handler && !exports.upcaster => lacks("handler"),
        Given::Event(event) => Ok(bench.deliver((**event).clone()).await),
        Given::Command(key, ask) => Ok(bench.command(key.clone(), ask.clone()).await),
        Given::Query(ask) => Ok(bench.query(ask.clone()).await),
        Given::Response(answer) => Ok(bench.respond(answer.clone()).await),
        Given::Timer { name, key } => match bench.fire(key, name).await {
            Some(delivered) => Ok(delivered),
            None => {
                let pending = bench.memory().timers();
                let pending: Vec<String> = (pending.into_iter())
                    .map(|timer| format!("`{}` of `{}`", timer.name, timer.key.as_str()))
                    .collect();
                let pending =
                    if pending.is_empty() { "none".to_owned() } else { pending.join(", ") };
                Err(format!(
                    "no timer `{name}` of `{}` is pending; pending: {pending}",
                    key.as_str()
                ))
            }
        },
    }
}

fn print(name: &str, verdict: &Verdict, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(failure) = &verdict.failure else {
        let (steps, ms) = (verdict.steps, verdict.took.as_millis());
        let s = if steps == 1 { "" } else { "s" };
        return writeln!(out, "  ok    {name}   {steps} step{s}   {ms} ms");
    };
    writeln!(out, "  FAIL  {name}")?;
    match failure {
        Failure::Error(why) => {
            for line in why.lines() {
                writeln!(out, "        {}", clean(line))?;
            }
        }
        Failure::Step { number, delivered, differences } => {
            let key = delivered.event.key.as_ref().map_or("-", |key| key.as_str());
            let title = clean(&delivered.title());
            writeln!(out, "        step {number}: {title} {}   (- expected, + got)", clean(key))?;
            for Difference { place, expected, got } in differences {
                writeln!(out, "          {}", clean(place))?;
                for (sign, text) in [('-', expected), ('+', got)] {
                    let text = text.as_deref().map_or_else(|| "nothing".to_owned(), clean);
                    writeln!(out, "            {sign} {text}")?;
                }
            }
            said(&delivered.invocation, "          ", out)?;
        }
    }
    Ok(())
}

fn print_json(
    project: &Project,
    (name, file): (&str, &Path),
    verdict: &Verdict,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let failure = verdict.failure.as_ref().map(|failure| match failure {
        Failure::Error(why) => json!({ "error": why }),
        Failure::Step { number, delivered, differences } => json!({
            "step": number,
            "differences": differences,
            "delivery": delivery_document(delivered),
        }),
    });
    let document = json!({
        "plugin": project.name,
        "test": name,
        "file": file,
        "passed": failure.is_none(),
        "steps": verdict.steps,
        "took_ms": u64::try_from(verdict.took.as_millis()).unwrap_or(u64::MAX),
        "failure": failure,
    });
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}
