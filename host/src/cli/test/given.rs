//! What the command line itself gives: events of a file, a dead letter, a command, a question.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};

use super::super::Output;
use super::super::out::{UsageError, note};
use super::deliver::{Ask, Bench, Delivered};
use super::project::Project;
use super::{TestArgs, print, read_file};
use crate::api::cloudevents::{self, BadEvent};
use crate::api::view::DeliveryView;
use crate::event::{Key, NewEvent};
use crate::plugin::Manifest;
use crate::wasm::Module;

/// Bytes of a file of events.
const EVENTS_BYTES_MAX: u64 = 256 * 1024 * 1024;

impl TestArgs {
    /// What clap cannot see: exit code 2.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let asks = self.command.is_some() || self.query.is_some();
        if (self.key.is_some() || self.body.is_given()) && !asks {
            let why = "`--key`, `--data` and the like go with `--command` or `--query`";
            return Err(UsageError(why.to_owned()).into());
        }
        Ok(())
    }

    /// The one plugin that the deliveries go to.
    pub(super) fn project(&self) -> anyhow::Result<Project> {
        if !self.path.is_dir() {
            return Ok(Project::of_module(&self.path));
        }
        let mut found = Project::in_folder(&self.path)?;
        match (found.pop(), found.is_empty()) {
            (Some(project), true) => Ok(project),
            _ => bail!("`{}` holds several plugins: name one of them", self.path.display()),
        }
    }

    fn ask(&self, name: &str) -> anyhow::Result<Ask> {
        let key = self.key.as_deref().map(Key::new).transpose()?;
        let (content_type, data) = self.body.read()?.unwrap_or_default();
        let parameters = self.body.params()?.into_iter();
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (name, parameters) = (name.to_owned(), parameters.collect());
        Ok(Ask { name, key, content_type, data: data.into(), parameters })
    }
}

/// Delivers, prints each and says how many did not end `ok`.
pub(super) async fn run_given(
    args: &TestArgs,
    dead: Option<&DeliveryView>,
    (module, manifest): (&Arc<Module>, &Manifest),
    output: Output,
    out: &mut dyn Write,
) -> anyhow::Result<u64> {
    let events = events(args)?;
    lacks(module, args, dead.is_some() || !events.is_empty())?;
    warn_of_types(&events, module, manifest);
    let mut bench = Bench::new(Arc::clone(module), manifest, &Default::default(), 0);
    let mut failed = 0_u64;
    let mut say = |delivered: &Delivered| -> std::io::Result<()> {
        failed += u64::from(!delivered.is_ok());
        match output {
            Output::Text => print::text(delivered, out)?,
            Output::Json => print::json(delivered, out)?,
        }
        out.flush()
    };
    if let Some(dead) = dead {
        say(&bench.redeliver(dead).await?)?;
    }
    for event in events {
        let now_ms = bench.time_of(&event);
        while let Some(fired) = bench.fire_due(now_ms).await {
            say(&fired)?;
        }
        say(&bench.deliver(event).await)?;
    }
    if let Some(name) = &args.command {
        let ask = args.ask(name)?;
        let key = ask.key.clone().context("a command needs `--key`")?;
        say(&bench.command(key, ask).await)?;
    }
    if let Some(path) = &args.query {
        say(&bench.query(args.ask(path)?).await)?;
    }
    if output == Output::Text {
        print::pending(&bench.memory().timers(), out)?;
    }
    Ok(failed)
}

/// Refuses what the module has no export for.
fn lacks(module: &Module, args: &TestArgs, events: bool) -> anyhow::Result<()> {
    let exports = module.exports;
    let path = args.path.display();
    if events && !exports.handler && !exports.upcaster {
        bail!("module `{path}` exports neither `handler` nor `upcaster`: it takes no events");
    }
    if args.command.is_some() && !exports.command {
        bail!("module `{path}` does not export `command`: it carries out none");
    }
    if args.query.is_some() && !exports.query {
        bail!("module `{path}` does not export `query`: it answers none");
    }
    Ok(())
}

/// A host would not deliver these: said, for a misspelt pattern is hard to see.
fn warn_of_types(events: &[NewEvent], module: &Module, manifest: &Manifest) {
    let unwanted = |event: &&NewEvent| !manifest.subscribe.wants_type(&event.kind);
    if let Some(event) = events.iter().find(unwanted).filter(|_| module.exports.handler) {
        note(format_args!(
            "note: `[subscribe] types` of the manifest does not name `{}`; a host would not deliver \
             it to this plugin",
            event.kind
        ));
    }
}

/// The events to deliver, checked as they are at ingest.
fn events(args: &TestArgs) -> anyhow::Result<Vec<NewEvent>> {
    if args.dead_letter().is_some() {
        return Ok(Vec::new());
    }
    if let Some(path) = &args.event {
        let text = read_file(path, EVENTS_BYTES_MAX)?;
        let publish = cloudevents::read_line(&text)
            .with_context(|| format!("event file `{}`", path.display()))?;
        return Ok(vec![publish.event]);
    }
    args.events.as_deref().map_or_else(|| Ok(Vec::new()), read_lines)
}

fn read_lines(path: &Path) -> anyhow::Result<Vec<NewEvent>> {
    let text = read_file(path, EVENTS_BYTES_MAX)?;
    let lines = (1..).zip(text.split(|byte| *byte == b'\n'));
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let events = lines.map(|(number, line)| match cloudevents::read_line(line) {
        Ok(publish) => Ok(publish.event),
        Err(error) => {
            Err(in_line(number, error).context(format!("event file `{}`", path.display())))
        }
    });
    let events: Vec<NewEvent> = events.collect::<anyhow::Result<_>>()?;
    if events.is_empty() {
        bail!("event file `{}` has no events: it takes one CloudEvent a line", path.display());
    }
    Ok(events)
}

/// What is wrong in a line of a file: for whoever read the line, it was the first.
fn in_line(number: usize, error: BadEvent) -> anyhow::Error {
    match error {
        BadEvent::Json { column, why, .. } => {
            anyhow!("line {number}, column {column}: not valid JSON: {why}")
        }
        error => anyhow!("line {number}: {error}"),
    }
}
