//! `tidegate command` and `tidegate query`: what a plugin answers itself.

use std::path::PathBuf;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Output;
use super::client::{Answered, Client};
use super::out::{Out, UsageError, note};

/// Has a plugin carry out a command: prints its answer, once the effects are durable.
#[derive(Debug, Clone, clap::Args)]
pub struct CommandArgs {
    /// The plugin
    pub plugin: String,
    /// What to do, chosen by the plugin
    pub name: String,
    /// The key whose state it sees
    #[arg(long, value_name = "KEY")]
    pub key: String,
    #[command(flatten)]
    body: BodyArgs,
    /// Makes a repetition known for one: it gets the same answer, and nothing runs again
    #[arg(long, value_name = "TEXT")]
    pub idempotency_key: Option<String>,
    /// What the key's last sequence must be; 0: the key is new
    #[arg(long, value_name = "N")]
    pub expected_sequence: Option<u64>,
}

/// Asks a plugin a question: prints its answer.
#[derive(Debug, Clone, clap::Args)]
pub struct QueryArgs {
    /// The plugin
    pub plugin: String,
    /// What is asked, chosen by the plugin
    pub path: String,
    /// The key whose state it sees
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    #[command(flatten)]
    body: BodyArgs,
    /// Only once the plugin has completed the event at this position
    #[arg(long, value_name = "POSITION")]
    pub wait: Option<u64>,
}

/// What is said beside the name.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct BodyArgs {
    /// The body, JSON
    #[arg(long, value_name = "JSON", conflicts_with = "file", allow_hyphen_values = true)]
    pub data: Option<String>,
    /// A file with the body
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Media type of the body [default: application/json]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// A parameter; may be given more than once
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
}

impl BodyArgs {
    /// The body, where there is one, and its media type.
    pub(super) fn read(&self) -> anyhow::Result<Option<(String, Vec<u8>)>> {
        let bytes = match (&self.data, &self.file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(path)) => {
                std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?
            }
            (None, None) => return Ok(None),
        };
        if self.data.is_some() && self.content_type.is_none() {
            serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
                .map_err(|why| UsageError(format!("--data is not JSON: {why}")))?;
        }
        let media_type = self.content_type.clone();
        Ok(Some((media_type.unwrap_or_else(|| "application/json".to_owned()), bytes)))
    }

    /// Whether any of it is there.
    pub(super) fn is_given(&self) -> bool {
        self.data.is_some()
            || self.file.is_some()
            || self.content_type.is_some()
            || !self.params.is_empty()
    }

    pub(super) fn params(&self) -> anyhow::Result<Vec<(&str, &str)>> {
        let params = self.params.iter().map(|param| {
            let pair = param.split_once('=');
            pair.ok_or_else(|| UsageError(format!("`--param {param}` is not NAME=VALUE")).into())
        });
        params.collect()
    }
}

/// Runs `tidegate command`.
///
/// # Errors
/// The host or the plugin does not do as asked, or the output cannot be written.
pub fn command(
    client: &Client,
    args: &CommandArgs,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let body = args.body.read()?;
    let expected = args.expected_sequence.map(|sequence| sequence.to_string());
    let mut headers = Vec::new();
    headers.extend(args.idempotency_key.as_deref().map(|key| ("idempotency-key", key)));
    headers.extend(expected.as_deref().map(|text| ("tidegate-expected-sequence", text)));
    let (media_type, bytes) = body.unwrap_or_default();
    if !media_type.is_empty() {
        headers.push(("content-type", &*media_type));
    }
    let mut query = args.body.params()?;
    query.push(("key", &args.key));
    let path = ["v1", "plugins", &args.plugin, "command", &args.name];
    let answered = client.ask("POST", &path, &query, &headers, &bytes)?;
    print(&answered, output, out)
}

/// Runs `tidegate query`.
///
/// # Errors
/// As [`command`].
pub fn query(
    client: &Client,
    args: &QueryArgs,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let body = args.body.read()?;
    let wait = args.wait.map(|position| position.to_string());
    let mut query = args.body.params()?;
    query.extend(args.key.as_deref().map(|key| ("key", key)));
    query.extend(wait.as_deref().map(|position| ("wait", position)));
    let mut path = vec!["v1", "plugins", &args.plugin, "query"];
    path.extend(args.path.trim_start_matches('/').split('/'));
    let answered = match &body {
        None => client.ask("GET", &path, &query, &[], &[])?,
        Some((media_type, bytes)) => {
            client.ask("POST", &path, &query, &[("content-type", media_type)], bytes)?
        }
    };
    print(&answered, output, out)
}

fn print(answered: &Answered, output: Output, out: &mut Out) -> anyhow::Result<()> {
    let text = std::str::from_utf8(&answered.body).ok();
    match output {
        Output::Json => out.json(&document(answered, text))?,
        Output::Text if answered.body.is_empty() => note("the plugin answered without a body"),
        Output::Text => match text {
            Some(text) => out.line(text)?,
            None => out.line(STANDARD.encode(&answered.body))?,
        },
    }
    Ok(())
}

/// The whole answer: its body under `data` where it is JSON or text, else under `data_base64`.
fn document(answered: &Answered, text: Option<&str>) -> Value {
    let number = |name| answered.header(name).and_then(|text| text.parse::<u64>().ok());
    let media_type = answered.header("content-type").unwrap_or_default();
    let mut document = json!({
        "commit": number("tidegate-commit"),
        "position": number("tidegate-position"),
        "sequence": number("tidegate-sequence"),
        "repeated": answered.header("tidegate-repeated") == Some("true"),
        "content_type": media_type,
    });
    let (name, data) = match text {
        Some(text) => {
            let is_json = media_type.contains("json");
            let parsed = serde_json::from_str(text).ok().filter(|_| is_json);
            ("data", parsed.unwrap_or_else(|| text.into()))
        }
        None => ("data_base64", STANDARD.encode(&answered.body).into()),
    };
    if let Some(object) = document.as_object_mut() {
        object.insert(name.to_owned(), data);
    }
    document
}
