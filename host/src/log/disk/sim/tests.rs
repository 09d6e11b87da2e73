//! The simulated disk is no kinder than a real one.

use super::*;

fn path(name: &str) -> PathBuf {
    Path::new("d").join(name)
}

#[test]
fn a_crash_loses_what_was_not_synced() {
    let disk = SimDisk::new();
    let file = disk.create_new(&path("a")).unwrap();
    file.write_at(b"old", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.crash(Crash::LosesAll).bytes(&path("a")), None, "its name was not synced");
    disk.sync_dir(Path::new("d")).unwrap();
    file.write_at(b"new", 0).unwrap();
    assert_eq!(disk.crash(Crash::LosesAll).bytes(&path("a")).unwrap(), b"old");
    assert_eq!(disk.crash(Crash::KeepsAll).bytes(&path("a")).unwrap(), b"new");
}

#[test]
fn a_failed_sync_loses_for_good() {
    let disk = SimDisk::new();
    let file = disk.create_new(&path("a")).unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    file.write_at(b"lost", 0).unwrap();
    disk.inject(Fault::FailsAt(disk.operations() + 1));
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(disk.bytes(&path("a")).unwrap(), b"lost", "reads still show it");
    assert_eq!(disk.crash(Crash::LosesAll).bytes(&path("a")).unwrap(), [0; 4]);
}

#[test]
fn a_random_crash_tears_by_sectors() {
    let disk = SimDisk::new();
    let file = disk.create_new(&path("a")).unwrap();
    file.allocate(64 * SECTOR_BYTES as u64).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    file.write_at(&[7; 64 * SECTOR_BYTES], 0).unwrap();
    let torn = disk.crash(Crash::Random(1)).bytes(&path("a")).unwrap();
    let kept = torn.chunks(SECTOR_BYTES).filter(|sector| sector == &[7; SECTOR_BYTES]).count();
    let lost = torn.chunks(SECTOR_BYTES).filter(|sector| sector == &[0; SECTOR_BYTES]).count();
    assert!(kept > 0 && lost > 0 && kept + lost == 64, "{kept} kept, {lost} lost");
}

#[test]
fn past_the_page_cache_only_aligned_reads_are_taken() {
    let disk = SimDisk::new();
    assert!(disk.open_direct(&path("a")).is_none());
    disk.create_new(&path("a")).unwrap().write_at(&[7; 5000], 0).unwrap();
    let file = disk.open_direct(&path("a")).unwrap();
    let mut buffer = vec![0; 3 * 4096];
    let at = buffer.as_ptr().align_offset(4096);
    assert_eq!(file.read_at(&mut buffer[at..at + 8192], 0).unwrap(), 5000);
    assert_eq!(disk.direct_reads(), 1);
    for (at, len, offset) in [(at + 16, 4096, 0), (at, 4000, 0), (at, 4096, 904)] {
        let error = file.read_at(&mut buffer[at..at + len], offset).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_full_disk_refuses_to_grow() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(1000));
    let file = disk.create_new(&path("a")).unwrap();
    file.allocate(600).unwrap();
    let error = file.allocate(1001).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.free_bytes(Path::new("d")).unwrap(), 400);
}

#[test]
fn publishing_leaves_the_old_file_or_the_new() {
    for at in 1.. {
        let disk = SimDisk::new();
        crate::log::disk::publish_file(&disk, &path("a"), b"old").unwrap();
        let before = disk.operations();
        disk.inject(Fault::PowerOffAt(before + at));
        let published = crate::log::disk::publish_file(&disk, &path("a"), b"new");
        for seed in 0..20 {
            let bytes = disk.crash(Crash::Random(seed)).bytes(&path("a")).unwrap();
            assert!(bytes == b"old" || bytes == b"new", "{bytes:?}");
            assert!(published.is_err() || bytes == b"new");
        }
        if published.is_ok() {
            break;
        }
    }
}
