//! Windows of files that the disk reads past the page cache, and of files that it does not.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::log::disk::sim::SimDisk;
use crate::log::disk::{Disk, OsDisk};

const WINDOW: usize = 64 << 10;

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}

/// Counts what is read from a file, and may refuse all of it.
#[derive(Debug)]
struct Watched {
    file: Arc<dyn DiskFile>,
    refuses: AtomicBool,
    asked: AtomicU64,
    bytes: AtomicU64,
}

impl Watched {
    fn new(file: Arc<dyn DiskFile>) -> Arc<Self> {
        let (asked, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { file, refuses: AtomicBool::new(false), asked, bytes })
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl DiskFile for Watched {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.refuses.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let read = self.file.read_at(buffer, offset)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
}

/// A file of such bytes on the simulated disk, watched both ways.
fn watched(bytes: &[u8]) -> (Windows, [Arc<Watched>; 2]) {
    let (disk, path) = (SimDisk::new(), Path::new("a"));
    disk.create_new(path).unwrap().write_at(bytes, 0).unwrap();
    let file = Watched::new(disk.open_read(path).unwrap());
    let direct = Watched::new(disk.open_direct(path).unwrap());
    let mut windows = Windows::new(file.clone(), WINDOW);
    windows.go_direct(Some(direct.clone()), ReadBuffers::default());
    (windows, [file, direct])
}

/// Asks for stretches of one length, one after the other, and holds them against the file.
fn walk(windows: &mut Windows, bytes: &[u8], step: usize) {
    for at in (0..bytes.len()).step_by(step) {
        let found = windows.get(at as u64, step).unwrap();
        let len = step.min(bytes.len() - at);
        assert!(found[..len] == bytes[at..at + len], "{len} bytes at {at}");
    }
}

#[test]
fn any_stretch_of_a_file_is_found_whichever_way_it_is_read() {
    let bytes = pattern(5 * WINDOW + 4096 + 16);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, &bytes).unwrap();
    std::fs::File::open(&path).unwrap().sync_all().unwrap();
    let sim = SimDisk::new();
    sim.create_new(&path).unwrap().write_at(&bytes, 0).unwrap();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for disk in [&OsDisk as &dyn Disk, &sim] {
        for direct in [None, disk.open_direct(&path)] {
            let mut windows = Windows::new(disk.open_read(&path).unwrap(), WINDOW);
            windows.go_direct(direct, ReadBuffers::default());
            let mut at = 0;
            for _ in 0..2000 {
                at = match random.u8(..8) {
                    0 => random.usize(..=bytes.len() + 5000),
                    1 => at - at % BLOCK_BYTES,
                    _ => at + random.usize(..20_000),
                };
                let asked = random.usize(..3 * WINDOW);
                let found = windows.get(at as u64, asked).unwrap();
                let there = bytes.get(at..).unwrap_or_default();
                assert!(found.len() >= asked.min(there.len()), "{asked} at {at}, seed {seed}");
                assert!(there.starts_with(&found), "{asked} at {at}, seed {seed}");
            }
        }
    }
}

#[test]
fn what_crosses_the_end_of_a_window_is_not_read_again() {
    for (step, windows_of) in [(1000, WINDOW), (48_016, WINDOW), (100_000, 102_400)] {
        // Whole blocks: where such a file ends, nothing is left to read through the page cache.
        let bytes = pattern(40 * windows_of);
        let (mut windows, [file, direct]) = watched(&bytes);
        walk(&mut windows, &bytes[..bytes.len() - bytes.len() % step], step);
        assert_eq!(file.bytes(), 0);
        assert!(direct.bytes() <= bytes.len() as u64, "{} in steps of {step}", direct.bytes());
        assert!(direct.bytes() >= (bytes.len() - windows_of) as u64);
    }
}

#[test]
fn a_window_at_the_end_of_the_file_has_what_the_file_has_by_then() {
    let mut bytes = pattern(3 * 4096 + 100);
    let (mut windows, [file, _]) = watched(&bytes);
    assert_eq!(windows.get(4096 + 8, 50_000).unwrap().len(), 2 * 4096 + 92);
    bytes.extend(pattern(70_000));
    file.write_at(&bytes, 0).unwrap();
    walk(&mut windows, &bytes, 50_000);
    assert!(windows.get(bytes.len() as u64, 1).unwrap().is_empty());
    assert!(windows.get(bytes.len() as u64 + 5000, 1).unwrap().is_empty());
}

#[test]
fn where_such_reads_are_refused_the_page_cache_is_read() {
    let bytes = pattern(10 * WINDOW);
    for refused_from in [0, 3] {
        let (mut windows, [file, direct]) = watched(&bytes);
        walk(&mut windows, &bytes[..refused_from * WINDOW], WINDOW);
        assert_eq!((file.bytes(), direct.asked()), (0, refused_from as u64));
        direct.refuses.store(true, Ordering::Relaxed);
        walk(&mut windows, &bytes, WINDOW);
        assert_eq!(file.bytes(), bytes.len() as u64);
        assert_eq!(direct.asked(), refused_from as u64 + 1, "it is not asked again");
    }
}

#[test]
fn what_was_forgotten_is_read_anew() {
    let mut bytes = pattern(WINDOW);
    let (mut windows, [file, _]) = watched(&bytes);
    windows.get(0, 1000).unwrap();
    bytes[500..9000].fill(7);
    file.write_at(&bytes, 0).unwrap();
    assert!(windows.get(500, 100).unwrap()[..100] != [7; 100]);
    windows.forget();
    walk(&mut windows, &bytes, 1000);
}

#[test]
fn a_buffer_is_used_again_when_nothing_points_into_it() {
    let bytes = pattern(20 * WINDOW);
    let (mut windows, _) = watched(&bytes);
    let buffers = windows.buffers.clone();
    let first = windows.get(0, 100).unwrap().slice(50..60);
    walk(&mut windows, &bytes, WINDOW);
    assert!(first == bytes[50..60], "what was given out is not written to");
    // The one at hand is out, and the one before it went back when that was full.
    assert_eq!(buffers.kept().len(), 1);
    drop(windows);
    assert_eq!(buffers.kept().len(), 2);
    drop(first);
    assert_eq!(buffers.kept().len(), 3);
    let newest = buffers.kept().last().unwrap().as_ptr();
    let taken = buffers.take(WINDOW);
    assert_eq!((taken.memory.as_ptr(), buffers.kept().len()), (newest, 2));
    assert_eq!(taken.as_ref().as_ptr().align_offset(BLOCK_BYTES), 0);
    assert_eq!(taken.as_ref().len(), WINDOW);
}

#[test]
fn buffers_that_wait_for_use_are_bounded() {
    let buffers = ReadBuffers::default();
    let bytes = || buffers.kept().iter().map(Vec::len).sum::<usize>();
    let taken: Vec<_> = (0..40).map(|_| buffers.take(1 << 20)).collect();
    assert_eq!(bytes(), 0);
    drop(taken);
    assert!(bytes() <= READ_BUFFERS_BYTES_MAX && bytes() > READ_BUFFERS_BYTES_MAX / 2);
    let small: Vec<_> = (0..3).map(|_| buffers.take(4096)).collect();
    assert!(
        small.iter().all(|small| small.memory.len() < 1 << 20),
        "large ones are for large reads"
    );
    drop(small);
    let kept = bytes();
    drop(buffers.take(READ_BUFFERS_BYTES_MAX));
    assert_eq!(bytes(), kept, "one that is too large is not kept");
}
