//! `bench http`: publishing over HTTP, with connections that are kept.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::api::cloudevents::{BATCH, STRUCTURED};

use super::append::{Limit, describe};
use super::connection::{Answer, Connection, Target};
use super::events::Events;
use super::latency::Latencies;
use super::place::{BenchHost, Place};
use super::report::{Figure, Percentiles, Report, Run, median_percentiles};
use super::{BenchError, IN_FLIGHT_MAX, Settings, cpu};

/// When to try again where the host has too much to write. It is part of what a request takes.
const FULL_WAIT: Duration = Duration::from_millis(1);
/// How long one request is tried.
const FULL_TIME_MAX: Duration = Duration::from_secs(60);

/// What only this bench is told.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// A running host; none: one is started for the bench, in this process.
    pub url: Option<url::Url>,
    /// Its token.
    pub token: Option<String>,
    /// Events of a request; 1: single events in structured mode.
    pub batch: usize,
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Sets the identities of this run apart from those of others on the same host.
    pub run: u64,
}

/// Sends requests from several connections.
struct Clients {
    target: Target,
    events: Events,
    /// Type of the events, as JSON.
    kind: String,
    run: u64,
    batch: u64,
    next: AtomicU64,
    end: u64,
}

/// Runs it.
///
/// # Errors
/// A parameter makes no sense, or the host does not answer as it should.
pub async fn run(settings: &Settings, options: &HttpOptions) -> Result<Report, BenchError> {
    let settings = &carried(settings, options)?;
    let place = Place::new(settings)?;
    let own = match &options.url {
        None => Some(BenchHost::start(settings).await?),
        Some(_) => None,
    };
    let url = match (&options.url, &own) {
        (Some(url), _) => url.as_str().to_owned(),
        (None, own) => own.as_ref().map(BenchHost::url).unwrap_or_default(),
    };
    let target = target(&url, options.token.clone())?;
    let ticking = settings.ticker.start()?;
    let mut limit = Limit::new(&place, settings)?;

    let mut first = 0;
    let (mut runs, mut latencies) = (Vec::new(), Vec::new());
    for repetition in 0..=settings.repetitions {
        let count = if repetition == 0 { settings.events.div_ceil(10) } else { settings.events };
        let raw = limit.run(count)?;
        let clients = Clients {
            target: target.clone(),
            events: Events::new(settings),
            kind: json(&settings.kind),
            run: options.run,
            batch: options.batch.max(1) as u64,
            next: AtomicU64::new(first),
            end: first + count,
        };
        let groups = || own.as_ref().map(|own| Ok::<_, BenchError>(own.log()?.stats().groups));
        let before = groups().transpose()?;
        let (run, found) = measure(clients, options.connections.max(1), count, raw).await?;
        let made = groups().transpose()?.zip(before).map(|(now, before)| (now - before).max(1));
        #[allow(clippy::cast_precision_loss, reason = "a mean needs no more digits")]
        let group_events = made.map(|made| Figure(count as f64 / made as f64));
        let run = Run { group_events, ..run };
        first += count;
        limit.run_own_groups(&place, group_events, count, count)?;
        if repetition > 0 {
            runs.push(run);
            latencies.extend(found.percentiles());
        }
    }
    if let Some(own) = own {
        own.stop().await?;
    }
    drop(ticking);
    let mut report = report(settings, options, &latencies, runs);
    limit.report(&mut report);
    Ok(report)
}

/// The settings, with as many events in flight as the connections carry: the limit is measured with them.
fn carried(settings: &Settings, options: &HttpOptions) -> Result<Settings, BenchError> {
    let in_flight = options.connections.max(1).saturating_mul(options.batch.max(1));
    if in_flight > IN_FLIGHT_MAX {
        let (name, actual) = ("--connections times --batch", in_flight as u64);
        let (limit, what) = (IN_FLIGHT_MAX as u64, "events at a time");
        return Err(BenchError::TooMuch { name, actual, limit, what });
    }
    let settings = Settings { in_flight, ..settings.clone() };
    settings.check()?;
    Ok(settings)
}

fn report(
    settings: &Settings,
    options: &HttpOptions,
    latencies: &[Percentiles],
    runs: Vec<Run>,
) -> Report {
    let mut report = Report::new("http");
    describe(&mut report, settings);
    report.parameter("url", options.url.as_ref().map_or("a host of its own", |url| url.as_str()));
    report.parameter("batch", options.batch.max(1));
    report.parameter("connections", options.connections.max(1));
    report.latency.insert("request_to_durable", median_percentiles(latencies));
    report.take_runs(runs);
    if options.url.is_some() {
        // The host's own is not to be had from here.
        let client = report.cpu_us_per_event.take();
        let figures = client.map(|us| ("client_cpu_us_per_event", Figure(us)));
        report.figures.extend(figures);
    }
    report
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn target(url: &str, token: Option<String>) -> Result<Target, BenchError> {
    let failed = |why: &str| BenchError::Http { url: url.to_owned(), why: why.to_owned() };
    let parsed = url::Url::parse(url).map_err(|error| failed(&error.to_string()))?;
    if parsed.scheme() != "http" {
        return Err(failed("a bench speaks plain `http` only"));
    }
    let host = parsed.host_str().ok_or_else(|| failed("has no host"))?;
    let port = parsed.port_or_known_default().unwrap_or(80);
    let path = format!("{}/v1/events", parsed.path().trim_end_matches('/'));
    Ok(Target { authority: format!("{host}:{port}"), path, token })
}

#[allow(clippy::cast_precision_loss, reason = "rates need no more digits")]
async fn measure(
    clients: Clients,
    connections: usize,
    count: u64,
    raw: f64,
) -> Result<(Run, Latencies), BenchError> {
    let clients = Arc::new(clients);
    let (spent, begun) = (cpu::process(), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(Arc::clone(&clients).connection());
    }
    let mut latencies = Latencies::default();
    while let Some(found) = tasks.join_next().await {
        latencies.merge(&found??);
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let spent = cpu::process().saturating_sub(spent);
    let run = Run {
        events_per_second: Figure(rate),
        raw_events_per_second: Figure(raw),
        ratio_to_raw_segment: Figure(rate / raw),
        cpu_us_per_event: Figure(spent.as_secs_f64() * 1e6 / count as f64),
        group_events: None,
    };
    Ok((run, latencies))
}

impl Clients {
    /// Sends one request after the other until there are no more events.
    async fn connection(self: Arc<Self>) -> Result<Latencies, BenchError> {
        let url = || format!("http://{}{}", self.target.authority, self.target.path);
        let failed = |why: String| BenchError::Http { url: url(), why };
        let broken = |error: std::io::Error| failed(error.to_string());
        let mut latencies = Latencies::default();
        let mut connection = Connection::open(&self.target).await.map_err(broken)?;
        let mut body = Vec::new();
        loop {
            let first = self.next.fetch_add(self.batch, Ordering::Relaxed);
            if first >= self.end {
                return Ok(latencies);
            }
            let last = (first + self.batch).min(self.end);
            self.write(&mut body, first..last);
            let media_type = if self.batch == 1 { STRUCTURED } else { BATCH };
            let begun = Instant::now();
            loop {
                let answer = connection.post(&self.target, media_type, &body).await;
                match answer.map_err(broken)? {
                    Answer { status: 200, .. } => break,
                    Answer { status: 429, .. } if begun.elapsed() < FULL_TIME_MAX => {
                        tokio::time::sleep(FULL_WAIT).await;
                    }
                    Answer { status, body } => {
                        let said = String::from_utf8_lossy(body);
                        return Err(failed(format!("answered {status} {said}")));
                    }
                }
            }
            latencies.add(begun.elapsed());
        }
    }

    fn write(&self, body: &mut Vec<u8>, numbers: std::ops::Range<u64>) {
        body.clear();
        let single = self.batch == 1;
        if !single {
            body.push(b'[');
        }
        for number in numbers {
            if body.last() == Some(&b'}') {
                body.push(b',');
            }
            let event = self.events.event(number);
            // Writing to memory does not fail.
            let _ = write!(
                body,
                r#"{{"specversion":"1.0","id":"{:x}-{}","source":"{}","type":{},"#,
                self.run, event.id, event.source, self.kind,
            );
            if let Some(key) = &event.key {
                let _ = write!(body, r#""partitionkey":"{key}","#);
            }
            body.extend_from_slice(br#""datacontenttype":"application/json","data":"#);
            let data = if event.data.is_empty() { &b"null"[..] } else { &event.data };
            body.extend_from_slice(data);
            body.push(b'}');
        }
        if !single {
            body.push(b']');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(batch: u64) -> serde_json::Value {
        let settings = Settings { keys: 3, ..Settings::default() };
        let target = target("http://localhost:1/", None).unwrap();
        assert_eq!((&*target.authority, &*target.path), ("localhost:1", "/v1/events"));
        let (events, next) = (Events::new(&settings), AtomicU64::new(0));
        let kind = json(&settings.kind);
        let clients = Clients { target, events, kind, run: 7, batch, next, end: batch };
        let mut body = b"left over".to_vec();
        clients.write(&mut body, 0..batch);
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn requests_are_events_in_json() {
        let single = body(1);
        assert_eq!(single["type"], "bench.happened");
        assert_eq!(single["data"].as_str().map(str::len), Some(254));
        let several = body(3);
        assert_eq!(several.as_array().map(Vec::len), Some(3));
        assert_ne!(several[0]["id"], several[1]["id"]);
    }
}
