//! `tidegate publish`: one event from arguments, or a file of events.

mod batch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Output;
use super::client::Client;
use super::out::{Out, UsageError, plain};
use crate::api::cloudevents::{STRUCTURED, read_line};
use crate::api::view::{AppendedView, TypesView};
use batch::RETRY_SECONDS_DEFAULT;

/// Bytes read of `--file`; the host takes less, and says so.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Publishes one event, or a file of them, and waits until it is durable
#[derive(Debug, Clone, clap::Args)]
pub struct PublishArgs {
    /// Type of the event: past tense, dotted, like `order.created`
    #[arg(value_name = "TYPE", required_unless_present = "batch", conflicts_with = "batch")]
    kind: Option<String>,

    /// What orders events: events of one key are delivered one after the other
    #[arg(long)]
    key: Option<String>,

    /// The payload: JSON, unless --content-type says otherwise
    #[arg(long, value_name = "JSON", conflicts_with = "file", allow_hyphen_values = true)]
    data: Option<String>,

    /// File with the payload; `-` reads standard input
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,

    /// Unique together with the source; publishing it again changes nothing [default: random]
    #[arg(long)]
    id: Option<String>,

    /// Where it happened: a URI reference
    #[arg(long, default_value = "/cli")]
    source: String,

    /// What it is about; also the key, where there is no --key
    #[arg(long)]
    subject: Option<String>,

    /// When it happened: RFC 3339
    #[arg(long)]
    time: Option<String>,

    /// A further attribute; may be given several times
    #[arg(long = "attr", value_name = "N=V", value_parser = attribute)]
    attributes: Vec<(String, String)>,

    /// Media type of the payload
    #[arg(long, value_name = "T")]
    content_type: Option<String>,

    /// Key sequence seen last, 0: the key is new; another one is a conflict
    #[arg(long, value_name = "N")]
    expected_sequence: Option<u64>,

    /// The bus [default: the default one]
    #[arg(long)]
    bus: Option<String>,

    /// File of events, one CloudEvent in JSON a line; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "key", "data", "file", "id", "subject", "time", "attributes", "content_type",
        "expected_sequence",
    ])]
    batch: Option<PathBuf>,

    /// How long to wait, in all, for a host that is away or busy, before giving up a batch
    #[arg(long, value_name = "SECONDS", default_value_t = RETRY_SECONDS_DEFAULT, requires = "batch")]
    retry_seconds: u64,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Publishes, and says where it stands: exit code 1 where a batch was not published to its end.
///
/// # Errors
/// The event makes no sense, or the host does not take it.
pub fn run(
    client: &Client,
    args: &PublishArgs,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.batch {
        return batch::run(client, file, args.bus.as_deref(), args.retry_seconds, out);
    }
    let kind = args.kind.as_deref().unwrap_or_default();
    let event = event_json(args, kind)?;
    // What the host would refuse is a wrong command line; it is told without asking.
    let read = read_line(&event).map_err(|error| UsageError(error.to_string()))?;
    let bus = args.bus.as_deref().map(|bus| ("bus", bus));
    let posted = client.post::<Vec<AppendedView>>(
        &["v1", "events"],
        bus.as_slice(),
        Some(STRUCTURED),
        &event,
    )?;
    let appended = posted.answer.into_iter().next().context("the host answered with nothing")?;
    if output == Output::Json {
        out.json(&appended)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut line = format!("#{} {}", appended.position, plain(kind));
    if let Some(key) = &read.event.key {
        line.push_str(&format!(" {}/{}", plain(key.as_str()), appended.sequence));
    }
    if appended.duplicate {
        line.push_str("  duplicate: it had been there already");
    } else {
        if let Some((word, ms)) = posted.took {
            line.push_str(&format!("  {word} {ms:.1} ms"));
        }
        if let Some(who) = subscribers(client, args.bus.as_deref(), kind) {
            line.push_str(&format!("   {who}"));
        }
    }
    out.line(line)?;
    Ok(ExitCode::SUCCESS)
}

/// Who gets events of this type; none: the token does not say, which is no reason to fail.
fn subscribers(client: &Client, bus: Option<&str>, kind: &str) -> Option<String> {
    let mut query = vec![("type", kind)];
    query.extend(bus.map(|bus| ("bus", bus)));
    let types: TypesView = client.get(&["v1", "types"], &query).ok()?;
    let subscribers = types.types.into_iter().next().map(|t| t.subscribers).unwrap_or_default();
    Some(if subscribers.is_empty() {
        "nobody subscribes to this type yet".to_owned()
    } else {
        format!("-> {}", subscribers.join(", "))
    })
}

/// The event in the JSON format. `data` is put in as it was given, byte for byte.
fn event_json(args: &PublishArgs, kind: &str) -> anyhow::Result<Vec<u8>> {
    let mut members: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
    let mut put = |name: &str, text: &str| -> anyhow::Result<()> {
        let value = serde_json::value::to_raw_value(text)?;
        if members.insert(name.to_owned(), value).is_some() {
            return Err(UsageError(format!("attribute `{name}` is given twice")).into());
        }
        Ok(())
    };
    let id = args.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    put("specversion", "1.0")?;
    put("id", &id)?;
    put("source", &args.source)?;
    put("type", kind)?;
    for (name, value) in [
        ("partitionkey", &args.key),
        ("subject", &args.subject),
        ("time", &args.time),
        ("expectedsequence", &args.expected_sequence.map(|n| n.to_string())),
    ] {
        if let Some(value) = value {
            put(name, value)?;
        }
    }
    for (name, value) in &args.attributes {
        if matches!(&**name, "data" | "data_base64" | "datacontenttype") {
            let why = "is set with --data, --file and --content-type";
            return Err(UsageError(format!("--attr `{name}` {why}")).into());
        }
        put(name, value)?;
    }
    let content_type = args.content_type.as_deref().unwrap_or("application/json");
    if let Some(data) = payload(args)? {
        put("datacontenttype", content_type)?;
        let (name, value) = data_member(content_type, data)?;
        members.insert(name.to_owned(), value);
    }
    Ok(serde_json::to_vec(&members)?)
}

fn data_member(content_type: &str, data: Vec<u8>) -> anyhow::Result<(&'static str, Box<RawValue>)> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.ends_with("/json") || essence.ends_with("+json") {
        let text = String::from_utf8(data).ok();
        let json = text.and_then(|text| RawValue::from_string(text.trim().to_owned()).ok());
        return json.map(|json| ("data", json)).ok_or_else(|| {
            let fix = "quote it for your shell, or give --content-type text/plain";
            UsageError(format!("the payload is not JSON: {fix}")).into()
        });
    }
    Ok(("data_base64", serde_json::value::to_raw_value(&STANDARD.encode(data))?))
}

fn payload(args: &PublishArgs) -> anyhow::Result<Option<Vec<u8>>> {
    if let Some(text) = &args.data {
        return Ok(Some(text.clone().into_bytes()));
    }
    let Some(path) = &args.file else { return Ok(None) };
    let mut data = Vec::new();
    open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut data)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(Some(data))
}

/// A file, or standard input.
fn open(path: &Path) -> anyhow::Result<File> {
    if path == Path::new("-") {
        let input = std::io::stdin().as_fd().try_clone_to_owned();
        return Ok(input.context("cannot read standard input")?.into());
    }
    File::open(path).with_context(|| format!("cannot open `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct TestCli {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn event(line: &[&str]) -> anyhow::Result<crate::api::host::Publish> {
        let args = TestCli::try_parse_from([&["publish"], line].concat())?.args;
        let kind = args.kind.clone().unwrap_or_default();
        Ok(read_line(&event_json(&args, &kind)?)?)
    }

    #[test]
    fn flags_become_attributes() {
        let line = [
            "order.created",
            "--key",
            "o-1",
            "--subject",
            "s",
            "--data",
            r#"{"a" : 1.10}"#,
            "--id",
            "7",
            "--time",
            "2020-01-01T00:00:00Z",
            "--attr",
            "x=a=b",
            "--expected-sequence",
            "3",
        ];
        let publish = event(&line).unwrap();
        assert_eq!(publish.event.key.as_ref().unwrap().as_str(), "o-1");
        assert_eq!(publish.event.data, r#"{"a" : 1.10}"#);
        assert_eq!(publish.event.attribute("x"), Some("a=b"));
        assert_eq!(publish.event.attribute("subject"), Some("s"));
        assert_eq!(publish.expected.map(|n| n.0), Some(3));
        assert_eq!(&*publish.event.content_type, "application/json");
    }

    #[test]
    fn other_media_types_take_any_bytes() {
        let publish = event(&["a.b", "--data", "{nope", "--content-type", "text/plain"]).unwrap();
        assert_eq!(
            (&*publish.event.content_type, &*publish.event.data),
            ("text/plain", &b"{nope"[..])
        );
        let without = event(&["a.b"]).unwrap();
        assert!(without.event.data.is_empty() && without.event.content_type.is_empty());
    }

    #[test]
    fn a_payload_that_is_not_json_is_a_usage_error() {
        for line in [
            &["a.b", "--data", "{amount:40}"][..],
            &["a.b", "--attr", "data=1"],
            &["a.b", "--key", "k", "--attr", "partitionkey=j"],
        ] {
            let error = event(line).unwrap_err();
            assert!(error.downcast_ref::<UsageError>().is_some(), "{line:?}: {error}");
        }
    }
}
