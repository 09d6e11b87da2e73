//! Power cuts on a real file system: ext4 on a loop device that is shut down without writing anything
//! more, as a power cut leaves it. (A kill proves nothing about durability: the page cache survives.)
//!
//! Needs root, `mkfs.ext4`, `mount` and a loop device:
//!
//!     cargo test -p tidegate-tests --features power-loss --test power_loss -- --nocapture

#![allow(dead_code, unused_imports, reason = "the harness has more in it than this needs")]

mod crashes;
mod harness;
mod oracle;

use std::fs::File;
use std::path::PathBuf;

use crashes::{Mount, Series, has_lost, must_be_sound};
use harness::{Place, seed};

/// Power cuts; `TIDEGATE_CYCLES` says another number.
const CYCLES: u64 = 20;
/// Power cuts within which a missing sync must show.
const CONTROL_CYCLES: u64 = 20;

/// A file system in a file, mounted on the data folder of a place.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    mount: Option<Mount>,
}

impl Disk {
    fn new(place: &Place) -> Self {
        let (image, at) = (place.path().join("disk.img"), place.data());
        let mount = Some(Mount::ext4(&image, 2 << 30, &at));
        Self { image, at, mount }
    }

    fn mount_again(&mut self) {
        // One after the other.
        self.mount = None;
        self.mount = Some(Mount::ext4(&self.image, 2 << 30, &self.at));
    }

    /// From now on nothing reaches the disk, and what is in the cache never will.
    fn cut_power(&self) {
        use rustix::ioctl::{Setter, ioctl, opcode};
        /// `EXT4_IOC_SHUTDOWN`, and `EXT4_GOING_FLAGS_NOLOGFLUSH`.
        const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        const WITHOUT_LOG_FLUSH: u32 = 2;
        let folder = File::open(&self.at).unwrap();
        #[allow(unsafe_code, reason = "the system call takes a pointer to that one number")]
        let done = unsafe { ioctl(&folder, Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG_FLUSH)) };
        done.unwrap();
    }
}

/// One life of a host that ends in a power cut.
fn cycle(series: &mut Series, disk: &mut Disk) {
    let mut host = series.start();
    let load = series.load(&host);
    let more = series.rng.usize(..80);
    series.wait_acknowledged(&load, more);
    disk.cut_power();
    load.join();
    if series.rng.bool() {
        // A host whose disk fails ends by itself, in order, and says why.
        let (code, said) = host.wait_end();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("start it again to recover"), "{said}");
    }
    host.kill();
    disk.mount_again();
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let cycles = std::env::var("TIDEGATE_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let rng = seed("power_cuts_lose_nothing_that_was_acknowledged");
    let place = Place::new();
    let mut disk = Disk::new(&place);
    let mut series = Series::new(place, rng);
    for number in 0..cycles {
        cycle(&mut series, &mut disk);
        must_be_sound(&series.judge(), &format!("power cut {number}"));
    }
    must_be_sound(&series.finish(), "at rest");
    let (events, commits) = series.size();
    println!("{cycles} power cuts: {events} events acknowledged, {commits} commits, nothing wrong");
}

#[test]
fn a_missing_sync_is_found_out_by_power_cuts() {
    for bug in ["NeverSyncs", "AcknowledgesBeforeSync"] {
        let rng = seed("a_missing_sync_is_found_out_by_power_cuts");
        let place = Place::new();
        let mut disk = Disk::new(&place);
        let mut series = Series::new(place, rng);
        series.environment = vec![("TIDEGATE_PLANTED_BUG", bug.to_owned())];
        let found = (1..=CONTROL_CYCLES).find(|_| {
            cycle(&mut series, &mut disk);
            has_lost(&series.judge())
        });
        let found = found.unwrap_or_else(|| panic!("{bug} was not found out"));
        println!("{bug}: found out by power cut {found}");
    }
}
