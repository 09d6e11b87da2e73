//! Values to encode: fixed ones for the golden bytes, strategies for the round trips.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::effects::{OutcomeKind, OutgoingCall, Response, StateWrite, TimerChange, ends_at};
use crate::event::*;
use crate::log::codec::{Header, Seal};
use crate::log::record::*;

pub(super) fn base_header() -> Header {
    Header {
        log_id: *b"0123456789abcdef",
        epoch: 7,
        segment: 3,
        first_commit: 10,
        first_position: 100,
        time_ms: 1_700_000_000_123,
        chain: [0xab; 32],
        ..Header::default()
    }
}

pub(super) fn small_event() -> NewEvent {
    NewEvent {
        id: "e-1".into(),
        source: "/shop".into(),
        kind: "order.created".into(),
        key: Some(Key::new("o-1").unwrap()),
        key_variant: KeyVariant::PartitionKey,
        content_type: "application/json".into(),
        data: Bytes::from_static(b"{\"amount\":40}"),
        attributes: vec![("subject".into(), "orders".into())],
        ..NewEvent::default()
    }
}

pub(super) fn golden_delivery() -> DeliveryCommit {
    let emitted = NewEvent {
        time: Some(EventTime { text: "2026-01-02T03:04:05Z".into(), ms: 1_767_323_045_000 }),
        emitter: Some(InstanceId(2)),
        depth: 1,
        causation: Some(Position(99)),
        addressee: Some(Addressee::Bus("live".into())),
        schema_version: 2,
        origin: Some(Origin { region: "".into(), bus: "main".into(), position: Position(5) }),
        principal: "ops".into(),
        ..small_event()
    };
    DeliveryCommit {
        completion: Completion {
            instance: InstanceId(2),
            generation: Generation(1),
            position: Position(99),
            key: Some(Key::new("o-1").unwrap()),
            environment: Digest([0xcd; 32]),
            attempt: 1,
            mode: Mode::Live,
            outcome: OutcomeKind::Ok,
            fuel: 11_000,
            response: Some(Response {
                content_type: "text/plain".into(),
                data: Bytes::from_static(b"fine"),
                attributes: vec![("a".into(), "b".into())],
            }),
        },
        emits: vec![emitted],
        state: vec![
            StateWrite { name: "count".into(), value: Some(b"25".into()), expires_ms: None },
            StateWrite { name: "gone".into(), value: None, expires_ms: None },
        ],
        timers: vec![
            TimerChange::Set { name: "t".into(), due_ms: 5, data: Bytes::from_static(b"x") },
            TimerChange::Cancel { name: "u".into() },
        ],
        calls: vec![OutgoingCall {
            idempotency_key: "k".into(),
            name: "n".into(),
            method: "POST".into(),
            url: "https://example.com/".into(),
            headers: vec![("accept".into(), "*/*".into())],
            body: Bytes::from_static(b"body"),
            timeout_ms: 1000,
        }],
        dead_letter: Some(DeadLetterRecord {
            reason: "because".into(),
            backtrace: String::new(),
            logs: vec![LogLine { level: "info".into(), message: "hello".into() }],
            first_ms: 1,
            module: Digest([1; 32]),
        }),
        park: false,
    }
}

pub(super) fn seal() -> Seal {
    Seal {
        first_commit: 1,
        commits: 9,
        first_position: 1,
        events: 99,
        frames: 4,
        bytes: 4096,
        first_ms: 5,
        last_ms: 6,
        clean_stop: true,
    }
}

pub(super) fn controls() -> Vec<ControlRecord> {
    let instance = InstanceId(4);
    let key = Key::new("o-1").unwrap();
    let position = Position(12);
    let reason = String::from("why");
    let module = Digest([2; 32]);
    let activate = |unpins| Control::Activate {
        instance,
        generation: Generation(0),
        module,
        environment: Digest([3; 32]),
        manifest: "description = \"\"".into(),
        after: position,
        unpins,
    };
    [
        Control::Register { instance, name: "totals".into(), after: position },
        activate(false),
        activate(true),
        Control::Pause { instance, reason: reason.clone() },
        Control::Resume { instance },
        Control::Rename { instance, name: "sums".into() },
        Control::Rewind {
            instance,
            generation: Generation(1),
            after: Position(0),
            until: position,
            done: position,
        },
        Control::Carried { instance, generation: Generation(1) },
        Control::Rebuilt { instance, generation: Generation(1) },
        Control::Rollback { instance, module },
        Control::Attempt(AttemptRecord {
            instance,
            generation: Generation(0),
            position,
            key: None,
            attempt: 2,
            first_ms: 3,
            outcome: OutcomeKind::Trap,
            reason: reason.clone(),
            due_ms: 9,
        }),
        Control::Park { instance, key: key.clone(), position },
        Control::Hold { instance, key: key.clone(), reason: reason.clone() },
        Control::Release { instance, key: key.clone() },
        Control::Redrive { instance, position },
        Control::Discard { instance, position, reason },
        Control::Forget { instance },
        Control::Forwarded { bus: "live".into(), position, log: None },
        Control::Forwarded { bus: "live".into(), position, log: Some(module) },
        Control::Epoch { epoch: 3, host: "0.1.0".into() },
        Control::Checkpoint { commit: CommitNumber(70) },
        Control::Erase { key },
        Control::Archive { until: position },
        Control::Expire { instance, generation: Generation(0), until_ms: 12 },
        Control::Lost {
            first: CommitNumber(9),
            last: CommitNumber(11),
            events: 2,
            instances: instance,
            over: vec![LostDeliveries {
                instance,
                generation: Generation(0),
                positions: vec![(Position(3), Position(4))],
            }],
        },
        Control::FollowClock { from_ms: 12, to_ms: 3_600_012 },
    ]
    .map(|control| ControlRecord { actor: "host".into(), control })
    .into()
}

fn text() -> impl Strategy<Value = Arc<str>> {
    ".{0,40}".prop_map(Arc::from)
}

fn pairs() -> impl Strategy<Value = Vec<(Arc<str>, Arc<str>)>> {
    prop::collection::vec((text(), text()), 0..12)
}

fn data() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Option<Key>> {
    prop::option::of("[a-zäß0-9/ -]{1,200}".prop_map(|text| Key::new(&text).unwrap()))
}

fn rare() -> impl Strategy<Value = NewEvent> {
    let time = (text(), any::<u64>()).prop_map(|(text, ms)| EventTime { text, ms });
    let addressee = prop_oneof![
        any::<u32>().prop_map(|id| Addressee::Plugin(InstanceId(id))),
        text().prop_map(Addressee::Bus),
    ];
    let origin = (text(), text(), any::<u64>()).prop_map(|(region, bus, at)| Origin {
        region,
        bus,
        position: Position(at),
    });
    (
        prop::option::of(time),
        prop::option::of(any::<u32>()),
        any::<u8>(),
        prop::option::of(any::<u64>()),
        prop::option::of(addressee),
        prop_oneof![Just(0), any::<u32>()],
        prop::option::of(origin),
        prop_oneof![Just(Arc::from("")), text()],
    )
        .prop_map(|(time, emitter, depth, causation, addressee, schema, origin, principal)| {
            NewEvent {
                time,
                emitter: emitter.map(InstanceId),
                depth,
                causation: causation.map(Position),
                addressee,
                schema_version: schema,
                origin,
                principal,
                ..NewEvent::default()
            }
        })
}

pub(super) fn event() -> impl Strategy<Value = NewEvent> {
    (rare(), text(), text(), text(), key(), any::<bool>(), text(), data(), pairs()).prop_map(
        |(rare, id, source, kind, key, subject, content_type, data, attributes)| NewEvent {
            id,
            source,
            kind,
            key_variant: match (&key, subject) {
                (None, _) => KeyVariant::None,
                (Some(_), true) => KeyVariant::Subject,
                (Some(_), false) => KeyVariant::PartitionKey,
            },
            key,
            content_type,
            data,
            attributes,
            ..rare
        },
    )
}

fn completion() -> impl Strategy<Value = Completion> {
    let response = (text(), data(), pairs())
        .prop_map(|(content_type, data, attributes)| Response { content_type, data, attributes });
    (
        (any::<u32>(), any::<u32>(), any::<u64>(), key(), any::<[u8; 32]>()),
        (any::<u32>(), 0..4_u8, 0..9_u8, any::<u64>(), prop::option::of(response)),
    )
        .prop_map(|((instance, generation, position, key, environment), rest)| {
            let (attempt, mode, outcome, fuel, response) = rest;
            Completion {
                instance: InstanceId(instance),
                generation: Generation(generation),
                position: Position(position),
                key,
                environment: Digest(environment),
                attempt,
                mode: [Mode::Live, Mode::Redrive, Mode::Rebuild, Mode::RebuildRedrive]
                    [usize::from(mode)],
                outcome: OutcomeKind::from_code(outcome).unwrap(),
                fuel,
                response,
            }
        })
}

pub(super) fn delivery() -> impl Strategy<Value = DeliveryCommit> {
    let state = (text(), prop::option::of(data()), prop::option::of(any::<u64>())).prop_map(
        |(name, value, expires_ms)| StateWrite {
            name: (*name).into(),
            value: value.as_deref().map(Into::into),
            expires_ms: expires_ms.map(ends_at),
        },
    );
    let timer = prop_oneof![
        (text(), any::<u64>(), data()).prop_map(|(name, due_ms, data)| TimerChange::Set {
            name,
            due_ms,
            data
        }),
        text().prop_map(|name| TimerChange::Cancel { name }),
    ];
    let call = (text(), text(), text(), text(), pairs(), data(), any::<u32>()).prop_map(
        |(idempotency_key, name, method, url, headers, body, timeout_ms)| OutgoingCall {
            idempotency_key,
            name,
            method,
            url,
            headers,
            body,
            timeout_ms,
        },
    );
    let letter = (".{0,30}", ".{0,30}", any::<u64>(), any::<[u8; 32]>()).prop_map(
        |(reason, backtrace, first_ms, module)| DeadLetterRecord {
            reason,
            backtrace,
            logs: Vec::new(),
            first_ms,
            module: Digest(module),
        },
    );
    (
        completion(),
        prop::collection::vec(event(), 0..3),
        prop::collection::vec(state, 0..4),
        prop::collection::vec(timer, 0..3),
        prop::collection::vec(call, 0..3),
        prop::option::of(letter),
    )
        .prop_map(|(completion, emits, state, timers, calls, dead_letter)| DeliveryCommit {
            completion,
            emits,
            state,
            timers,
            calls,
            dead_letter,
            park: false,
        })
}
