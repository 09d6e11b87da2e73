//! Logs that are damaged while nobody looks, and repaired.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Series;
use crate::harness::{Cli, Host};
use crate::oracle::Verdict;

/// Bytes of an event that fills segments.
const LARGE: usize = 900_000;
/// So many of them are more than a segment has room for.
const ROLLS: usize = 5;

impl Series {
    /// Rolls a segment, under whatever load there is.
    pub(crate) fn roll(&self, host: &Host) {
        for _ in 0..ROLLS {
            assert_eq!(self.try_one(&host.http, LARGE).map(|(status, _)| status), Some(200));
        }
    }

    /// Damages one or two closed segments, and perhaps what is derived from them: what was done.
    pub(crate) fn damage(&mut self) -> Vec<String> {
        let segments = self.place.segments("main");
        let is_written = |path: &PathBuf| fs::read(path).unwrap().iter().any(|byte| *byte != 0);
        let last = segments.iter().rposition(is_written).unwrap_or_default();
        assert!(last > 0, "one segment alone: nothing is closed");
        let frames = self.frames();
        let mut done = Vec::new();
        for _ in 0..self.rng.usize(1..3) {
            let segment = segments[self.rng.usize(..last)].clone();
            let name = segment.file_stem().unwrap().to_str().unwrap().to_owned();
            if let (true, Some(frames)) = (segment.exists(), frames.get(&name)) {
                done.push(self.damage_segment(&segment, frames));
            }
            if self.rng.u8(..3) == 0 {
                done.extend(self.spoil(&segment.parent().unwrap().with_file_name("index"), &name));
            }
        }
        if self.rng.u8(..4) == 0 {
            let checkpoints = self.place.data().join("buses/main/checkpoints");
            done.extend(self.spoil(&checkpoints, ""));
        }
        done
    }

    /// Where the frames of each segment are: most of a segment is a few large ones.
    fn frames(&self) -> BTreeMap<String, Vec<usize>> {
        let dump = Cli::new(&["log", "dump"]).arg(self.place.data()).run();
        let mut frames: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for line in dump.stdout.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let at = line["frame_offset"].as_u64().and_then(|at| usize::try_from(at).ok());
            if let (Some(segment), Some(at)) = (line["segment"].as_u64(), at) {
                frames.entry(format!("{segment:010}")).or_default().push(at);
            }
        }
        frames.values_mut().for_each(Vec::dedup);
        frames
    }

    fn damage_segment(&mut self, path: &Path, frames: &[usize]) -> String {
        let rng = &mut self.rng;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = fs::read(path).unwrap();
        let len = bytes.len();
        let place = |rng: &mut fastrand::Rng| {
            (frames[rng.usize(..frames.len())] + rng.usize(..600)).min(len - 1)
        };
        let what = match rng.u8(..8) {
            0..=2 => {
                let places = rng.usize(1..6);
                for _ in 0..places {
                    let at = place(rng);
                    let end = (at + rng.usize(1..64)).min(len);
                    bytes[at..end].iter_mut().for_each(|byte| *byte ^= rng.u8(1..));
                }
                format!("{name}: {places} places changed")
            }
            3 | 4 => {
                let pages = rng.usize(1..20);
                let at = place(rng) / 4096 * 4096;
                let end = (at + pages * 4096).min(len);
                bytes[at..end].fill(0);
                format!("{name}: {at}..{end} zero")
            }
            5 => {
                let most = (len / 512).saturating_sub(8);
                let [from, to] = [(); 2].map(|()| (place(rng) / 512).min(most) * 512);
                bytes.copy_within(from..(from + 4096).min(len), to);
                format!("{name}: a page of {from} also at {to}")
            }
            6 => {
                bytes.truncate(place(rng));
                format!("{name}: cut to {} of {len}", bytes.len())
            }
            _ => {
                fs::remove_file(path).unwrap();
                return format!("{name}: removed");
            }
        };
        fs::write(path, bytes).unwrap();
        what
    }

    /// Changes a byte of each derived file whose name begins so.
    fn spoil(&mut self, folder: &Path, start: &str) -> Vec<String> {
        let files = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let is_meant = |path: &PathBuf| {
            path.is_file() && path.file_name().unwrap().to_str().unwrap().starts_with(start)
        };
        let mut files: Vec<PathBuf> = files.filter(is_meant).collect();
        files.sort();
        let mut done = Vec::new();
        for path in files {
            let mut bytes = fs::read(&path).unwrap();
            let at = self.rng.usize(..bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x20;
            }
            fs::write(&path, bytes).unwrap();
            done.push(format!("{}: byte {at} changed", path.display()));
        }
        done
    }

    /// Repairs the log, and judges what it is now: against what it was, and as it stands.
    pub(crate) fn repair(&mut self) -> (Value, Verdict) {
        let run = Cli::new(&["--output", "json", "log", "repair", "--yes"]);
        let report = run.arg(self.place.data()).run().json()["buses"][0].take();
        let before = self.seen.take().expect("it was judged before it was damaged");
        let after = self.history();
        let mut verdict = self.lost.take(&before, &after, &report);
        self.seen = Some(after);
        verdict.join(self.judge());
        (report, verdict)
    }
}
