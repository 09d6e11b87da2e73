//! Corpora, and random changes of them, through every target.
//!
//! `TIDEGATE_FUZZ_SECONDS` makes each target run that long; `TIDEGATE_FUZZ_SEED` repeats a run, which
//! prints its seed. An input that fails is printed in hexadecimal.

use std::time::{Duration, Instant};

use super::*;

/// Inputs of each target beside its corpus.
const INPUTS: usize = 1500;
/// Bytes of an input.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Words that a change may put anywhere.
const WORDS: [&[u8]; 44] = [
    b"\0asm\x01\0\0\0",
    b"\0asm\x0d\0\x01\0",
    b"(module",
    b"(component",
    b"(func",
    b"component-type",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x80\x80\x80\x80\x10",
    b"\0\0\0\0\0\0\0\0",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc0",
    b"\x93",
    b"\xcf",
    b"\xd9\xff",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\"emit\"",
    b"\"state\"",
    b"\"outcome\"",
    b"\"data_base64\"",
    b"\"specversion\":\"1.0\"",
    b"\"partitionkey\"",
    b"\"expectedsequence\"",
    b"\n",
    b"=",
    b"[limits]\n",
    b"[[limits.prefixes]]\n",
    b"[buses.x]\n",
    b"[upcast]\n",
    b"\"\"\"",
    b"\xf0\x9f\x92\xa5",
];

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "records" => records_corpus(),
        "recovery" => {
            (0..7).map(|what| [1, what, 0, 64, 0, 0, 0, 0, 0, 3, 9, 1, 1].to_vec()).collect()
        }
        "checkpoint" => checkpoint_corpus(),
        "manifest" => texts(&[
            include_str!("../../../plugins/order-saga/plugin.toml"),
            include_str!("../../../plugins/notify/plugin.toml"),
            include_str!("../../../plugins/bank-account/plugin.toml"),
            include_str!("../../../tests/fuzz/corpus/manifest/all.toml"),
        ]),
        "config" => texts(&[include_str!("../../../tests/fuzz/corpus/config/all.toml")]),
        "http" => {
            let lines = include_str!("../api/tests/samples.ndjson").lines();
            let mut all: Vec<Vec<u8>> = lines.map(|line| line.as_bytes().to_vec()).collect();
            all.extend(texts_of_http());
            all
        }
        "module" => modules(),
        _ => texts(&[
            include_str!("../../../tests/fuzz/corpus/stdio/all.ndjson"),
            "{\"outcome\":\"ok\"}",
        ]),
    }
}

fn texts_of_http() -> Vec<Vec<u8>> {
    let batch = include_bytes!("../../../tests/fuzz/corpus/http/batch.http");
    let binary = include_bytes!("../../../tests/fuzz/corpus/http/binary.http");
    vec![batch.to_vec(), binary.to_vec()]
}

fn records_corpus() -> Vec<Vec<u8>> {
    use crate::log::codec::Encoded;
    use crate::log::frame::FrameBuilder;
    let mut commit = Encoded::default();
    let event = crate::event::NewEvent {
        id: "1".into(),
        source: "/test".into(),
        kind: "thing.happened".into(),
        key: crate::event::Key::new("k").ok(),
        data: Bytes::from_static(b"{\"n\":1}"),
        ..crate::event::NewEvent::default()
    };
    commit.event(&event).unwrap();
    commit.event(&event).unwrap();
    commit.finish().unwrap();
    let mut builder = FrameBuilder::default();
    builder.push(&commit, (1..3).map(crate::event::KeySequence));
    let header = Header { log_id: salt().log_id, segment: 3, epoch: 1, ..Header::default() };
    let header = Header { first_commit: 1, first_position: 1, ..header };
    let frame = builder.build(header, salt());
    let header = Header::decode(frame.bytes(), salt()).unwrap();
    let mut input = Vec::new();
    for number in
        [header.commit_count, header.event_count, header.record_count, header.metadata_bytes]
    {
        input.extend_from_slice(&number.to_le_bytes());
    }
    let body = (header.metadata_bytes + header.payload_bytes) as usize;
    input.extend_from_slice(&frame.bytes()[HEADER_BYTES..HEADER_BYTES + body]);
    vec![input, vec![0; 40]]
}

fn checkpoint_corpus() -> Vec<Vec<u8>> {
    let mut ledger = vec![0];
    ledger.extend(rmp_serde::to_vec(&crate::state::ledger::Ledger::default()).unwrap());
    let mut values = vec![1, 0];
    values.extend_from_slice(&1_u32.to_le_bytes());
    values.extend_from_slice(&0_u32.to_le_bytes());
    values.extend_from_slice(&1_u16.to_le_bytes());
    values.extend_from_slice(&1_u32.to_le_bytes());
    values.extend_from_slice(b"k\0\x01\0\0\0\x02\0\0\0nvv");
    vec![ledger, values, vec![2; 61]]
}

fn modules() -> Vec<Vec<u8>> {
    let texts = [
        "(module (memory (export \"memory\") 1) (func (export \"_start\")))",
        "(module (func (export \"tidegate:plugin/handler@0.1.0#handle\") (param i32) (result i32) \
         (i32.const 0)))",
        "(component (type $t (list u8)) (import \"x\" (func (param \"a\" $t))))",
    ];
    let mut all: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    all.extend(texts.iter().map(|text| wat::parse_str(text).unwrap()));
    all.push(crate::wasm::fixtures::COMPONENT.as_bytes().to_vec());
    all
}

fn change(rng: &mut fastrand::Rng, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let at = rng.usize(..=input.len());
    let count = rng.usize(..=(input.len() - at).min(64));
    match rng.u32(..9) {
        0 if at < input.len() => input[at] ^= 1 << rng.u32(..8),
        1 if at < input.len() => input[at] = rng.u8(..),
        2 => drop(input.drain(at..at + count)),
        3 => {
            let copy = input[at..at + count].to_vec();
            input.splice(at..at, copy);
        }
        4 => input.truncate(at),
        5 => {
            let number = [0, 1, 127, 128, 255, 65_535, u64::MAX >> 1, u64::MAX][rng.usize(..8)];
            let bytes = number.to_le_bytes();
            let end = (at + [1, 2, 4, 8][rng.usize(..4)]).min(input.len());
            input[at..end].copy_from_slice(&bytes[..end - at]);
        }
        6 => {
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..=other.len());
            input.splice(at.., other[from..].iter().copied());
        }
        7 => {
            let times = rng.usize(1..2000);
            let copy = input[at..at + count.min(8)].repeat(times);
            input.splice(at..at, copy);
        }
        _ => {
            let word = WORDS[rng.usize(..WORDS.len())];
            input.splice(at..at, word.iter().copied());
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn run(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = variable("TIDEGATE_FUZZ_SECONDS");
    let seed = variable("TIDEGATE_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut rng = fastrand::Rng::with_seed(seed);
    let corpus = corpus(name);
    corpus.iter().for_each(|input| target(input));
    let (start, mut tried) = (Instant::now(), 0);
    let goes_on = |tried: usize| match seconds {
        Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
        None => tried < INPUTS,
    };
    while goes_on(tried) {
        let mut input = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.u32(1..8) {
            change(&mut rng, &corpus, &mut input);
        }
        let ended = std::panic::catch_unwind(|| target(&input));
        if ended.is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{name}: TIDEGATE_FUZZ_SEED={seed}, input {hex}");
        }
        tried += 1;
    }
    println!("{name}: {tried} inputs in {:?}, TIDEGATE_FUZZ_SEED={seed}", start.elapsed());
}

#[test]
fn records_end_in_a_value_or_an_error() {
    run("records");
}

#[test]
fn a_changed_log_opens_or_is_refused() {
    run("recovery");
}

#[test]
fn checkpoints_end_in_a_value_or_an_error() {
    run("checkpoint");
}

#[test]
fn manifests_end_in_a_value_or_an_error() {
    run("manifest");
}

#[test]
fn configurations_end_in_a_value_or_an_error() {
    run("config");
}

#[test]
fn published_bodies_end_in_events_or_an_error() {
    run("http");
}

#[test]
fn modules_end_in_a_shape_or_a_refusal() {
    run("module");
}

#[test]
fn printed_lines_end_in_effects_or_a_trap() {
    run("stdio");
}
