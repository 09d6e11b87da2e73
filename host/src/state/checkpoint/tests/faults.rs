//! Damage, crashes and failing disks.

use super::*;

#[test]
fn no_changed_byte_is_accepted() {
    let disk = SimDisk::new();
    write(&disk, 5);
    let good = disk.bytes(&file(5, "")).unwrap();
    for index in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let disk = SimDisk::new();
            write(&disk, 5);
            disk.damage(&file(5, ""), |bytes| bytes[index] ^= flip);
            assert_eq!(newest(&disk), None, "byte {index} ^ {flip:#x}");
            assert_eq!(names(&disk), ["5.checkpoint.damaged"], "byte {index} ^ {flip:#x}");
        }
    }
}

#[test]
fn no_part_is_accepted_and_nothing_more() {
    let disk = SimDisk::new();
    write(&disk, 5);
    let good = disk.bytes(&file(5, "")).unwrap();
    for len in (0..good.len()).chain([good.len() + 1, good.len() + 4096]) {
        let disk = SimDisk::new();
        write(&disk, 5);
        disk.damage(&file(5, ""), |bytes| bytes.resize(len, 0));
        assert_eq!(newest(&disk), None, "{len} of {} bytes", good.len());
    }
}

/// Bytes whose checksums all hold, as somebody who forges them would make them.
fn forged(mut edit: impl FnMut(&mut Vec<u8>)) -> Option<u64> {
    let disk = SimDisk::new();
    write(&disk, 5);
    disk.damage(&file(5, ""), |bytes| {
        bytes.truncate(bytes.len() - 32);
        let salt = Header { log_id: LOG, at: at(5), chain: ChainStart::default() }.salt();
        let mut out = bytes[..format::HEADER_BYTES].to_vec();
        let mut rest = &bytes[format::HEADER_BYTES..];
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize + 12;
            let mut chunk = rest[..len].to_vec();
            rest = &rest[len..];
            let kind = match chunk[0] {
                1 => format::Kind::Ledger,
                2 => format::Kind::Values,
                _ => format::Kind::End,
            };
            if kind == format::Kind::Values {
                edit(&mut chunk);
            }
            format::seal_chunk(&mut chunk, kind, salt).unwrap();
            out.extend(chunk);
        }
        let hash = blake3::hash(&out);
        out.extend(hash.as_bytes());
        *bytes = out;
    });
    newest(&disk)
}

#[test]
fn lengths_that_lie_are_refused_though_all_checksums_hold() {
    assert_eq!(forged(|_| {}), Some(5), "the forger works");
    let len = {
        let mut len = 0;
        forged(|chunk| len = chunk.len());
        len
    };
    for index in 12..len {
        let shorter = |chunk: &mut Vec<u8>| _ = chunk.remove(index);
        assert_eq!(forged(shorter), None, "without byte {index}");
    }
    // Flags, length of the key, number of values; flags and lengths of the first value.
    for field in [12, 21, 23, 28, 29, 33] {
        for value in [0x02, 0x7f, 0xff] {
            assert_eq!(forged(|chunk| chunk[field] = value), None, "{value} at {field}");
        }
    }
    let twice = |chunk: &mut Vec<u8>| chunk.extend(chunk[12..].to_vec());
    assert_eq!(forged(twice), None, "keys twice");
}

#[test]
fn a_damaged_one_gives_way_to_the_one_before() {
    let disk = SimDisk::new();
    write(&disk, 5);
    write(&disk, 10);
    let len = disk.bytes(&file(10, "")).unwrap().len();
    // In the hash: everything was read in by then.
    disk.damage(&file(10, ""), |bytes| bytes[len - 1] ^= 1);
    assert_eq!(newest(&disk), Some(5));
    assert_eq!(names(&disk), ["5.checkpoint", "10.checkpoint.damaged"]);
    write(&disk, 20);
    assert_eq!(newest(&disk), Some(20));
    assert_eq!(names(&disk), ["5.checkpoint", "10.checkpoint.damaged", "20.checkpoint"]);
}

#[test]
fn a_damaged_one_that_cannot_be_set_aside_gives_way_nevertheless() {
    let disk = SimDisk::new();
    write(&disk, 5);
    write(&disk, 10);
    disk.damage(&file(10, ""), |bytes| bytes.truncate(70));
    let checkpoints = open(&disk);
    disk.inject(Fault::PowerOffAt(disk.operations() + 1));
    assert_eq!(newest_up_to(&checkpoints, LAST), Some(5));
    disk.heal();
    checkpoints.write(&ledger_of(20), &values_of(20), at(20), &[7; 32]).unwrap();
    assert_eq!(names(&disk), ["5.checkpoint", "10.checkpoint", "20.checkpoint"]);
}

/// Two older checkpoints, and one being written while `fault` strikes at operation `index`.
fn strike(fault: fn(u64) -> Fault, index: u64) -> (SimDisk, bool) {
    let disk = SimDisk::new();
    write(&disk, 5);
    write(&disk, 10);
    let checkpoints = open(&disk);
    let ledger = ledger_of(20);
    let values = values_of(20);
    disk.inject(fault(disk.operations() + index));
    let written = checkpoints.write(&ledger, &values, at(20), &[7; 32]);
    (disk, written.is_ok())
}

#[test]
fn a_crash_at_any_operation_leaves_the_newest_one_whole() {
    // One more than there are: nothing fails then.
    let operations = {
        let disk = SimDisk::new();
        write(&disk, 5);
        write(&disk, 10);
        let before = disk.operations();
        write(&disk, 20);
        disk.operations() - before
    };
    assert!(operations > 8, "{operations}");
    for index in 1..=operations + 1 {
        let (disk, written) = strike(Fault::PowerOffAt, index);
        let crashes = (0..200).map(Crash::Random).chain([Crash::LosesAll, Crash::KeepsAll]);
        for crash in crashes {
            let disk = disk.crash(crash);
            let found = newest(&disk);
            assert!(found == Some(20) || !written && found == Some(10), "{index} {crash:?}");
            let left = names(&disk);
            assert!(left.iter().all(|name| name.ends_with(".checkpoint")), "{left:?}");
            write(&disk, 30);
            assert_eq!(newest(&disk), Some(30), "{index} {crash:?}");
        }
    }
}

#[test]
fn a_failing_operation_leaves_the_newest_one_whole_and_the_next_write_works() {
    for index in 1..40 {
        let (disk, written) = strike(Fault::FailsAt, index);
        disk.heal();
        let found = newest(&disk);
        assert!(found == Some(20) || !written && found == Some(10), "{index}: {found:?}");
        write(&disk, 30);
        let lost = disk.crash(Crash::LosesAll);
        assert_eq!(newest(&lost), Some(30), "{index}");
        assert_eq!(names(&disk).len(), 2, "{:?}", names(&disk));
    }
}

#[test]
fn a_crash_while_it_is_read_leaves_it_readable() {
    for index in 1..6 {
        let disk = SimDisk::new();
        write(&disk, 5);
        write(&disk, 10);
        write(&disk, 20);
        disk.damage(&file(20, ""), |bytes| bytes[200] ^= 1);
        let checkpoints = open(&disk);
        disk.inject(Fault::PowerOffAt(disk.operations() + index));
        assert_eq!(newest_up_to(&checkpoints, LAST), Some(10));
        for seed in 0..20 {
            assert_eq!(newest(&disk.crash(Crash::Random(seed))), Some(10));
        }
    }
}
