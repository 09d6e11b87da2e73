//! Keys that are filled in behind a start.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::task::{Context, Waker};

use super::*;
use crate::state::across::Wanted;
use crate::state::{Usage, evict::Evictor};

const PLUGIN: InstanceId = InstanceId(1);

/// The newest checkpoint of a disk, its keys still to be filled in.
fn find(disk: &SimDisk) -> (Arc<Values>, Fill) {
    let values = Arc::new(Values::default());
    let (_, _, fill) = open(disk).find(&values, LAST).unwrap().unwrap();
    (values, fill)
}

fn written(commit: u64) -> SimDisk {
    let disk = SimDisk::new();
    write(&disk, commit);
    disk
}

/// Asks for keys; says whether it found what there is.
type Ask = fn(&Arc<Values>) -> Result<bool, ColdError>;

/// Every way to come to keys.
fn ways() -> Vec<(&'static str, Ask)> {
    const KEEP: Generation = Generation(0);
    vec![
        ("view", |values| Ok(values.view(owner("b"), 0)?.get("n").is_some())),
        ("get", |values| Ok(values.get(&owner("b"), "n", 0)?.is_some())),
        ("all", |values| Ok(!values.all(&owner("b"), 0)?.is_empty())),
        ("keys", |values| {
            let (after, limit, now_ms) = (None, 9, 0);
            let (instance, generation, prefix) = (PLUGIN, KEEP, "");
            let wanted = Wanted { instance, generation, prefix, after, limit, now_ms };
            Ok(values.keys(&wanted)?.len() == 2)
        }),
        ("each", |values| {
            let mut found = 0;
            values.each(|_, _| {
                found += 1;
                Ok::<_, ColdError>(())
            })?;
            Ok(found == 2)
        }),
        ("apply", |values| {
            let value = Some(b"2".into());
            let write = StateWrite { name: "n".into(), value, expires_ms: None };
            values.apply((PLUGIN, KEEP, "b"), Position(1), [write])?;
            Ok(values.usage(PLUGIN, KEEP).keys == 2)
        }),
        ("expire", |values| values.expire((PLUGIN, KEEP), 9, |_| false).map(|()| true)),
        ("until_filled", |values| values.until_filled().map(|()| true)),
        ("keep_only", |values| values.keep_only(PLUGIN, Generation(7)).map(|()| true)),
        ("forget", |values| values.forget(PLUGIN).map(|()| true)),
    ]
}

#[test]
fn who_asks_for_a_key_that_is_not_there_yet_waits_for_it() {
    for (way, ask) in ways() {
        let (values, fill) = find(&written(5));
        assert!(!values.is_filled());
        let (answers, answered) = sync_channel(1);
        let asking = Arc::clone(&values);
        let asks = std::thread::spawn(move || answers.send(ask(&asking).unwrap()).unwrap());
        let mut filled = pin!(values.filled());
        let mut context = Context::from_waker(Waker::noop());
        assert!(filled.as_mut().poll(&mut context).is_pending(), "{way}");
        // The thread may not even have asked by now; what it must never have is an answer.
        assert_eq!(answered.try_recv(), Err(TryRecvError::Empty), "{way}");
        assert_eq!(fill.run().unwrap().keys, 2);
        assert!(answered.recv().unwrap(), "{way} found something else");
        assert!(filled.as_mut().poll(&mut context).is_ready(), "{way}");
        assert!(values.is_filled());
        asks.join().unwrap();
    }
}

#[test]
fn nobody_is_let_in_where_filling_stops() {
    for (way, ask) in ways() {
        let (values, fill) = find(&written(5));
        values.stop_filling();
        assert!(matches!(fill.run(), Err(FillError::Stopped)));
        assert!(matches!(ask(&values), Err(ColdError::Unfilled)), "{way}");
        drop(fill);
        assert!(matches!(ask(&values), Err(ColdError::Unfilled)), "{way}");
    }
}

#[test]
fn who_waits_is_told_when_nobody_fills_any_more() {
    let (values, fill) = find(&written(5));
    let waiting = Arc::clone(&values);
    let waits = std::thread::spawn(move || waiting.until_filled());
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    drop(fill);
    assert!(matches!(waits.join().unwrap(), Err(ColdError::Unfilled)));
    drop(evictor);
}

#[test]
fn stopping_what_is_filled_changes_nothing() {
    let (values, fill) = find(&written(5));
    fill.run().unwrap();
    values.stop_filling();
    drop(fill);
    assert_eq!(dump(&values), dump(&values_of(5)));
    Values::default().stop_filling();
    Values::default().until_filled().unwrap();
}

#[test]
fn how_much_there_is_is_known_before_it_is_there() {
    let disk = SimDisk::new();
    let values = values_of(5);
    let size = CHECKPOINT_CHUNK_BYTES;
    // A key that goes on into further chunks is one key.
    (0..4).for_each(|n| apply(&values, "long", &format!("n{n}"), &vec![7; size]));
    open(&disk).write(&ledger_of(5), &values, at(5), &[7; 32]).unwrap();
    let used = |values: &Values| values.usage(PLUGIN, Generation(0));
    let (restored, fill) = find(&disk);
    assert_eq!(used(&restored), used(&values));
    assert_eq!(used(&restored).keys, 3);
    fill.run().unwrap();
    assert_eq!(used(&restored), used(&values));
    restored.forget(PLUGIN).unwrap();
    assert_eq!(used(&restored), Usage::default());
}

#[test]
fn a_damaged_one_is_refused_before_anybody_waits_for_it() {
    let good = written(5);
    let len = good.bytes(&file(5, "")).unwrap().len();
    for index in (0..len).step_by(7) {
        let disk = written(5);
        write(&disk, 10);
        let last = disk.bytes(&file(10, "")).unwrap().len() - 1;
        disk.damage(&file(10, ""), |bytes| bytes[index.min(last)] ^= 1);
        let values = Arc::new(Values::default());
        let (_, found, fill) = open(&disk).find(&values, LAST).unwrap().unwrap();
        assert_eq!(found, at(5), "byte {index}");
        assert_eq!(names(&disk), ["5.checkpoint", "10.checkpoint.damaged"]);
        fill.run().unwrap();
        assert_eq!(dump(&values), dump(&values_of(5)));

        let disk = written(5);
        disk.damage(&file(5, ""), |bytes| bytes[index] ^= 1);
        let values = Arc::new(Values::default());
        assert!(open(&disk).find(&values, LAST).unwrap().is_none(), "byte {index}");
        assert!(values.is_filled() && dump(&values).is_empty());
        assert_eq!(values.usage(PLUGIN, Generation(0)), Usage::default());
    }
}

#[test]
fn what_changes_after_it_was_proven_lets_nobody_in() {
    let len = written(5).bytes(&file(5, "")).unwrap().len();
    for index in (0..len).step_by(7) {
        let disk = written(5);
        let (values, fill) = find(&disk);
        disk.damage(&file(5, ""), |bytes| bytes[index] ^= 1);
        assert!(matches!(fill.run(), Err(FillError::Unreadable { .. })), "byte {index}");
        drop(fill);
        let got = values.get(&owner("b"), "n", 0);
        assert!(matches!(got, Err(ColdError::Unfilled)), "byte {index}");
    }
}
