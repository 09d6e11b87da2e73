//! From what a guest asked for to what the log takes: pure.

use std::sync::Arc;

use crate::effects::{Draft, Effects, OutcomeKind, OutgoingCall, StateWrite, TimerChange};
use crate::event::{
    Addressee, Digest, Event, Generation, InstanceId, KeyVariant, NewEvent, Position,
    SCHEMA_VERSION, schema_version, traceparent,
};
use crate::log::codec::FRAME_BYTES_MAX;
use crate::log::record::{Completion, DeadLetterRecord, DeliveryCommit, Mode};

/// Who delivers: what is the same for all deliveries of one plugin version.
#[derive(Debug, Clone)]
pub struct Deliverer {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// See [`Completion::environment`].
    pub environment: Digest,
    /// The bus.
    pub bus: Arc<str>,
    /// `/tidegate/<bus>/<plugin>`.
    pub source: Arc<str>,
}

/// What ended: everything of the attempt that the log keeps.
#[derive(Debug)]
pub struct Ended {
    /// Its number, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// Fuel it used.
    pub fuel: u64,
    /// Why it ran.
    pub mode: Mode,
    /// Set where the delivery is given up; the effects are dropped then.
    pub dead_letter: Option<DeadLetterRecord>,
    /// Whether its key waits behind it then.
    pub park: bool,
}

/// The source that events emitted by `plugin` on `bus` carry. Reserved at ingest.
#[must_use]
pub fn source(bus: &str, plugin: &str) -> Arc<str> {
    format!("/tidegate/{bus}/{plugin}").into()
}

/// The commit that ends a delivery. Takes what is recorded out of its effects.
#[must_use]
pub fn commit(
    by: &Deliverer,
    input: &Event,
    ended: Ended,
    effects: &mut Effects,
) -> DeliveryCommit {
    if ended.dead_letter.is_some() {
        *effects = Effects::default();
    }
    keep(ended.mode, effects);
    // Few events are traced, and a span costs a hash.
    let traced = !effects.emits.is_empty() && input.attribute("traceparent").is_some();
    let span = if traced { span_of(by, input, ended.attempt) } else { String::new() };
    let mut emits: Vec<_> =
        effects.emits.drain(..).map(|draft| emitted(by, input, draft, &span)).collect();
    if planted!(DropsAnEmit) {
        emits.pop();
    }
    DeliveryCommit {
        completion: Completion {
            instance: by.instance,
            generation: by.generation,
            position: input.position,
            key: input.key.clone(),
            environment: by.environment,
            attempt: ended.attempt,
            mode: ended.mode,
            outcome: ended.outcome,
            fuel: ended.fuel,
            response: effects.response.take(),
        },
        emits,
        state: std::mem::take(&mut effects.state),
        timers: std::mem::take(&mut effects.timers),
        calls: std::mem::take(&mut effects.calls),
        park: ended.park && ended.dead_letter.is_some() && input.key.is_some(),
        dead_letter: ended.dead_letter,
    }
}

/// Bytes that a record takes beside the texts and data in it: its prefix, digest, numbers, and the
/// host's own names.
const RECORD_BYTES: usize = 320;
/// Bytes that a pair of texts takes beside the texts.
const PAIR_BYTES: usize = 10;
/// Bytes that an emitted event takes over from its input without being counted: few have more.
const TAKEN_OVER_BYTES: usize = 512;
/// Bytes of effects that a commit has room for, whatever else is in it: a completion, a dead letter.
const EFFECTS_BYTES_MAX: usize = FRAME_BYTES_MAX - 4 * 1024 * 1024;

/// What is exceeded where they do not.
pub(super) const COMMIT_BUDGET: &str = "64 MiB of one commit";

/// Whether the effects of a delivery fit one commit. What the guest says is bounded by
/// `limits.output`; what each emitted event takes over from its input is not, and is long where
/// the input's correlation id or trace state is.
#[must_use]
pub fn fits(by: &Deliverer, input: &Event, effects: &Effects) -> bool {
    let pairs = |pairs: &[(Arc<str>, Arc<str>)]| {
        pairs.iter().map(|(name, value)| PAIR_BYTES + name.len() + value.len()).sum::<usize>()
    };
    let taken_over = taken_over(by, input);
    let emit = |draft: &Draft| {
        let key = draft.key.as_ref().map_or(0, |key| key.as_str().len());
        let texts = draft.id.len() + draft.kind.len() + key + draft.content_type.len();
        let bus = draft.bus.as_ref().map_or(0, |bus| bus.len());
        RECORD_BYTES + taken_over + texts + bus + draft.data.len() + pairs(&draft.attributes)
    };
    let state = |write: &StateWrite| RECORD_BYTES + write.bytes();
    let timer = |change: &TimerChange| match change {
        TimerChange::Set { name, data, .. } => RECORD_BYTES + name.len() + data.len(),
        TimerChange::Cancel { name } => RECORD_BYTES + name.len(),
    };
    let call = |call: &OutgoingCall| {
        let texts = call.idempotency_key.len() + call.name.len() + call.method.len();
        RECORD_BYTES + texts + call.url.len() + pairs(&call.headers) + call.body.len()
    };
    let bytes = effects.emits.iter().map(emit).sum::<usize>()
        + effects.state.iter().map(state).sum::<usize>()
        + effects.timers.iter().map(timer).sum::<usize>()
        + effects.calls.iter().map(call).sum::<usize>()
        + effects.response.as_ref().map_or(0, |said| said.data.len() + pairs(&said.attributes));
    bytes <= EFFECTS_BYTES_MAX
}

/// Bytes of texts that each emitted event takes over from its input and its plugin.
fn taken_over(by: &Deliverer, input: &Event) -> usize {
    let attributes = HOST_ATTRIBUTES.iter().filter_map(|name| input.attribute(name));
    by.source.len() + 2 * input.id.len() + attributes.map(str::len).sum::<usize>()
}

/// Bytes that so many emitted events may have beside what the guest says of them, where their input has a
/// long correlation id or trace state; 0: few.
#[must_use]
pub fn long_taken_over(by: &Deliverer, input: &Event, emits: u32) -> usize {
    let long = taken_over(by, input).saturating_sub(TAKEN_OVER_BYTES);
    long.saturating_mul(usize::try_from(emits).unwrap_or(usize::MAX))
}

/// Leaves of the effects of a delivery that ran in this mode what is recorded: a rebuild repeats an
/// earlier one, and nothing of it leaves the plugin twice.
pub fn keep(mode: Mode, effects: &mut Effects) {
    if mode.is_rebuild() {
        let Effects { state, timers, .. } = std::mem::take(effects);
        *effects = Effects { state, timers, ..Effects::default() };
    }
}

thread_local! {
    /// Names that every emitted event has: one of its own for each thread, as all of them count who
    /// holds it.
    static CAUSATION: Arc<str> = "causationid".into();
    static CORRELATION: Arc<str> = "correlationid".into();
    /// Whom it is from. That of `Arc::default()` is counted by the whole process.
    static NOBODY: Arc<str> = "".into();
}

/// The attributes of an emitted event that the host, not the guest, decides.
pub(super) const HOST_ATTRIBUTES: [&str; 4] =
    ["causationid", "correlationid", "traceparent", "tracestate"];

fn emitted(by: &Deliverer, input: &Event, draft: Draft, span: &str) -> NewEvent {
    let mut attributes = draft.attributes;
    attributes.retain(|(name, _)| !HOST_ATTRIBUTES.contains(&&**name));
    let said = input.attribute("correlationid").map(Arc::from);
    let correlation = said.unwrap_or_else(|| Arc::clone(&input.id));
    attributes.push((CAUSATION.with(Arc::clone), Arc::clone(&input.id)));
    attributes.push((CORRELATION.with(Arc::clone), correlation));
    if let Some(parent) = input.attribute("traceparent").and_then(|parent| child(parent, span)) {
        attributes.push(("traceparent".into(), parent));
        if let Some(state) = input.attribute("tracestate") {
            attributes.push(("tracestate".into(), state.into()));
        }
    }
    attributes.sort();
    // What the guest says of the schema has a field of its own; it was checked where it was drafted.
    let said = attributes.iter().position(|(name, _)| **name == *SCHEMA_VERSION);
    let said = said.map(|at| attributes.remove(at).1);
    NewEvent {
        id: draft.id,
        source: Arc::clone(&by.source),
        kind: draft.kind,
        key_variant: draft.key.as_ref().map_or(KeyVariant::None, |_| KeyVariant::PartitionKey),
        key: draft.key,
        time: None,
        content_type: draft.content_type,
        data: draft.data,
        attributes,
        schema_version: said.and_then(|text| schema_version(&text)).unwrap_or_default(),
        addressee: draft.bus.filter(|bus| *bus != by.bus).map(Addressee::Bus),
        emitter: Some(by.instance),
        depth: input.depth.saturating_add(1),
        causation: Some(input.position),
        origin: None,
        principal: NOBODY.with(Arc::clone),
    }
}

/// The span id of a delivery: 16 hex digits that a re-run of the same attempt finds again.
fn span_of(by: &Deliverer, input: &Event, attempt: u32) -> String {
    let Position(position) = input.position;
    let mut hasher = blake3::Hasher::new();
    hasher.update(by.source.as_bytes());
    hasher.update(&position.to_le_bytes());
    hasher.update(&by.generation.0.to_le_bytes());
    hasher.update(&attempt.to_le_bytes());
    hasher.finalize().to_hex().chars().take(16).collect()
}

/// A W3C `traceparent` of the same trace with `span` as the parent; none where `parent` is not one.
fn child(parent: &str, span: &str) -> Option<Arc<str>> {
    let [version, trace, _, flags] = traceparent(parent)?;
    Some(format!("{version}-{trace}-{span}-{flags}").into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{CommitNumber, Key, KeySequence};

    fn deliverer() -> Deliverer {
        Deliverer {
            instance: InstanceId(7),
            generation: Generation(0),
            environment: Digest::default(),
            bus: "main".into(),
            source: source("main", "totals"),
        }
    }

    fn input(attributes: &[(&str, &str)]) -> Event {
        let attributes = attributes.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Event {
            position: Position(40),
            sequence: KeySequence(3),
            recorded_ms: 1,
            commit: CommitNumber(9),
            body: NewEvent {
                id: "o-1".into(),
                source: "/shop".into(),
                kind: "order.created".into(),
                key: Key::new("o").ok(),
                depth: 2,
                attributes,
                ..NewEvent::default()
            },
        }
    }

    fn draft(bus: Option<&str>) -> Draft {
        Draft {
            id: "e-1".into(),
            kind: "order.totalled".into(),
            key: Key::new("o").ok(),
            bus: bus.map(Into::into),
            content_type: "application/json".into(),
            data: Bytes::from_static(b"{}"),
            attributes: vec![("causationid".into(), "forged".into())],
        }
    }

    fn ended_well() -> Ended {
        Ended {
            attempt: 1,
            outcome: OutcomeKind::Ok,
            fuel: 5,
            mode: Mode::Live,
            park: false,
            dead_letter: None,
        }
    }

    fn run(input: &Event, bus: Option<&str>, dead: bool) -> DeliveryCommit {
        let ended = Ended {
            attempt: 1,
            outcome: if dead { OutcomeKind::Trap } else { OutcomeKind::Ok },
            fuel: 5,
            mode: Mode::Live,
            park: dead,
            dead_letter: dead.then(|| DeadLetterRecord {
                reason: "unreachable".to_owned(),
                backtrace: String::new(),
                logs: Vec::new(),
                first_ms: 1,
                module: Digest::default(),
            }),
        };
        let mut effects = Effects { emits: vec![draft(bus)], ..Effects::default() };
        commit(&deliverer(), input, ended, &mut effects)
    }

    #[test]
    fn an_emitted_event_tells_its_cause_whatever_the_guest_says() {
        let commit = run(&input(&[]), None, false);
        let event = &commit.emits[0];
        assert_eq!(event.attribute("causationid"), Some("o-1"));
        assert_eq!(event.attribute("correlationid"), Some("o-1"));
        assert_eq!((event.depth, event.causation), (3, Some(Position(40))));
        assert_eq!(&*event.source, "/tidegate/main/totals");
    }

    #[test]
    fn correlation_and_trace_travel_on() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let commit = run(&input(&[("correlationid", "c"), ("traceparent", trace)]), None, false);
        let event = &commit.emits[0];
        assert_eq!(event.attribute("correlationid"), Some("c"));
        let parent = event.attribute("traceparent").unwrap();
        assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        assert_ne!(parent, trace);
        let no_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for nonsense in ["nonsense", no_trace, &trace.to_uppercase(), &trace.replace("00-", "ff-")]
        {
            let commit = run(&input(&[("traceparent", nonsense)]), None, false);
            assert_eq!(commit.emits[0].attribute("traceparent"), None, "{nonsense}");
        }
    }

    #[test]
    fn an_emit_to_another_bus_is_addressed_to_it_and_one_to_its_own_is_public() {
        let other = run(&input(&[]), Some("live"), false);
        assert_eq!(other.emits[0].addressee, Some(Addressee::Bus("live".into())));
        assert_eq!(run(&input(&[]), Some("main"), false).emits[0].addressee, None);
    }

    /// A commit that no frame has room for was once dropped: its delivery never ended.
    #[test]
    fn what_fits_can_be_encoded_however_long_its_input_makes_it() {
        let encodes = |input: &Event, effects: &Effects| {
            let commit = commit(&deliverer(), input, ended_well(), &mut effects.clone());
            let mut encoded = crate::log::codec::Encoded::default();
            encoded.delivery(&commit).and_then(|()| encoded.finish()).is_ok()
        };
        let long = "c".repeat(2000);
        for (emits, correlation, expected) in
            [(100_000, "c", true), (20_000, &*long, true), (100_000, &*long, false)]
        {
            let input = input(&[("correlationid", correlation)]);
            let one = Draft { attributes: Vec::new(), ..draft(None) };
            let effects = Effects { emits: vec![one; emits], ..Effects::default() };
            assert_eq!(fits(&deliverer(), &input, &effects), expected, "{emits}");
            assert_eq!(encodes(&input, &effects), expected, "{emits}");
        }
    }

    /// Room was once made for what guests say alone: a full lane held twenty times what it may.
    #[test]
    fn room_is_made_for_what_emitted_events_take_over() {
        let by = deliverer();
        for (correlation, is_long) in [("c".repeat(100), false), ("c".repeat(7000), true)] {
            let input = input(&[("correlationid", &correlation)]);
            let more = long_taken_over(&by, &input, 1000);
            assert_eq!(more > 0, is_long);
            let guest_says: usize = 1000 * 50;
            let effects = &mut Effects { emits: vec![draft(None); 1000], ..Effects::default() };
            let mut encoded = crate::log::codec::Encoded::default();
            encoded.delivery(&commit(&by, &input, ended_well(), effects)).unwrap();
            let uncounted = 1000 * (RECORD_BYTES + TAKEN_OVER_BYTES);
            assert!(encoded.bytes() <= guest_says + uncounted + more, "{}", encoded.bytes());
        }
    }

    #[test]
    fn a_dead_letter_records_no_effects() {
        let commit = run(&input(&[]), None, true);
        assert!(commit.emits.is_empty());
        assert!(commit.dead_letter.is_some() && commit.park);
        let unkeyed = Event { body: NewEvent::default(), ..input(&[]) };
        assert!(!run(&unkeyed, None, true).park, "there is no key that could wait");
    }
}
