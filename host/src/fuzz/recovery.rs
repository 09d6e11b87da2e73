//! Recovery over a disk whose files were changed behind everybody's back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::clock::Clock;
use crate::event::{Key, KeyVariant, NewEvent};
use crate::log::codec::{FRAME_ALIGN, Header, Salt};
use crate::log::disk::sim::{Crash, SimDisk};
use crate::log::{Log, LogOptions, Publish};

const START_MS: u64 = 1_700_000_000_000;

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        START_MS
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 16 * 1024,
        watermark_ingest_bytes: 2000,
        watermark_effects_bytes: 1000,
        ..LogOptions::default()
    }
}

fn bus() -> PathBuf {
    PathBuf::from("data/buses/main")
}

/// A log of a few segments, and its id.
struct Template {
    disk: SimDisk,
    segments: Vec<PathBuf>,
    log_id: [u8; 16],
}

fn template() -> Option<&'static Template> {
    static TEMPLATE: OnceLock<Option<Template>> = OnceLock::new();
    TEMPLATE.get_or_init(make).as_ref()
}

fn make() -> Option<Template> {
    let disk = SimDisk::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let opened = Log::open(Arc::new(disk.clone()), &bus(), options(), Arc::new(Still)).ok()?;
    for n in 0..40_u32 {
        let event = NewEvent {
            id: n.to_string().as_str().into(),
            source: "/test".into(),
            kind: "thing.happened".into(),
            key: Key::new(&format!("k{}", n % 3)).ok(),
            key_variant: KeyVariant::PartitionKey,
            data: vec![b'x'; 700].into(),
            ..NewEvent::default()
        };
        let publish = Publish { event, expected: None };
        runtime.block_on(opened.log.ingest(vec![publish])).ok()?;
    }
    let log_id = *opened.log.id().as_bytes();
    drop(opened);
    let log = bus().join("log");
    let segments = (1..20).map(|n| crate::log::segment::segment_path(&log, n));
    let segments: Vec<PathBuf> = segments.filter(|path| disk.bytes(path).is_some()).collect();
    Some(Template { disk, segments, log_id })
}

/// One change of one file, as 12 bytes of the input say.
fn change(disk: &SimDisk, path: &Path, log_id: [u8; 16], how: &[u8; 12]) {
    let [what, _, at @ .., a, b, c, d] = *how;
    let [at0, at1, at2, at3, ..] = at;
    let (at, value) = (u32::from_le_bytes([at0, at1, at2, at3]), u32::from_le_bytes([a, b, c, d]));
    disk.damage(path, |bytes| {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        let at = at as usize % len;
        let count = (value as usize % 4096).min(len - at);
        match what % 7 {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= a | 1;
                }
            }
            1 => bytes.truncate(at),
            2 => bytes.iter_mut().skip(at).take(count).for_each(|byte| *byte = 0),
            3 => {
                let copy: Vec<u8> = bytes.iter().skip(at).take(count).copied().collect();
                bytes.extend(copy);
            }
            4 => drop(bytes.drain(at..at + count)),
            5 => {
                let number = value.to_le_bytes();
                bytes.iter_mut().skip(at).zip(number).for_each(|(byte, new)| *byte = new);
            }
            // A header that is right, with numbers that are not.
            _ => {
                let at = at / FRAME_ALIGN * FRAME_ALIGN;
                let segment = u32::from(a % 4);
                let header = Header {
                    log_id,
                    segment,
                    epoch: u32::from(b),
                    flags: u16::from(c % 2),
                    first_commit: u64::from(d),
                    first_position: u64::from(d),
                    commit_count: u32::from(c),
                    metadata_bytes: value % 3000,
                    payload_bytes: u32::from(b),
                    ..Header::default()
                };
                let header = header.encode(Salt::new(log_id, segment), &[], &[]);
                bytes.iter_mut().skip(at).zip(header).for_each(|(byte, new)| *byte = new);
            }
        }
    });
}

/// Opens a log after changes of its segments, 13 bytes of input each; what opens is read to its end.
pub fn recovery(bytes: &[u8]) {
    const CHANGES_MAX: usize = 8;
    let Some(Template { disk, segments, log_id }) = template() else { return };
    let disk = disk.crash(Crash::KeepsAll);
    for change_bytes in bytes.chunks_exact(13).take(CHANGES_MAX) {
        let Some((which, rest)) = change_bytes.split_first() else { continue };
        let (Some(how), Some(path)) =
            (rest.first_chunk::<12>(), segments.get(usize::from(*which) % segments.len().max(1)))
        else {
            continue;
        };
        change(&disk, path, *log_id, how);
    }
    let Ok(opened) = Log::open(Arc::new(disk), &bus(), options(), Arc::new(Still)) else { return };
    let last = opened.log.last_position();
    assert!(last.0 <= 40, "events that nobody wrote: {last}");
}
