//! What makes a group.

use super::*;
use crate::event::NewEvent;
use crate::log::assign::Each;

fn encoded(bytes: usize) -> Encoded {
    let mut commit = Encoded::default();
    commit.event(&NewEvent { data: vec![0; bytes].into(), ..NewEvent::default() }).unwrap();
    commit.finish().unwrap();
    commit
}

fn effects(lanes: &Arc<Lanes>, bytes: usize) {
    let (reply, _) = oneshot::channel();
    lanes.push_effects(EffectsEntry { commit: encoded(bytes), reply: Some(reply), permit: None });
}

fn ingest(lanes: &Arc<Lanes>, bytes: usize) -> Result<(), AppendError> {
    let (reply, _) = oneshot::channel();
    let batch = Batch { commit: encoded(bytes), items: Each::new() };
    lanes.push_ingest(IngestEntry { batch, begun: std::time::Instant::now(), reply })
}

const MIB: usize = 1024 * 1024;

#[test]
fn effects_go_first_and_ingest_keeps_a_quarter() {
    let lanes = Lanes::new();
    for _ in 0..80 {
        ingest(&lanes, MIB / 10).unwrap();
        effects(&lanes, MIB / 10);
    }
    let group = lanes.take().unwrap();
    assert!(group.bytes <= GROUP_BYTES_MAX);
    assert!((28..=30).contains(&group.effects.len()), "{}", group.effects.len());
    assert!((9..=11).contains(&group.ingest.len()), "{}", group.ingest.len());
}

#[test]
fn either_lane_takes_all_of_a_group_if_it_is_alone() {
    for fill in [
        |lanes: &Arc<Lanes>| effects(lanes, MIB / 10),
        |lanes: &Arc<Lanes>| ingest(lanes, MIB / 10).unwrap(),
    ] {
        let lanes = Lanes::new();
        (0..80).for_each(|_| fill(&lanes));
        let group = lanes.take().unwrap();
        assert!((38..=40).contains(&(group.effects.len() + group.ingest.len())));
    }
}

#[test]
fn a_large_batch_is_not_passed_over_for_ever() {
    let lanes = Lanes::new();
    ingest(&lanes, 5 * MIB).unwrap();
    for _ in 0..100 {
        effects(&lanes, MIB / 10);
    }
    assert!(lanes.take().unwrap().ingest.is_empty());
    let second = lanes.take().unwrap();
    assert_eq!((second.ingest.len(), second.effects.len()), (1, 0));
    assert!(lanes.take().unwrap().effects.len() > 30);
}

#[test]
fn a_full_ingest_lane_refuses_and_effects_do_not_notice() {
    let lanes = Lanes::new();
    let mut refused = None;
    for _ in 0..100 {
        refused = refused.or(ingest(&lanes, MIB).err());
    }
    assert_eq!(refused, Some(AppendError::QueueFull { limit: INGEST_LANE_BYTES_MAX }));
    effects(&lanes, 10);
    assert_eq!(lanes.take().unwrap().effects.len(), 1);
}

/// Whether it waits by then is a matter of luck: so it is tried a few times.
#[test]
fn who_waits_for_events_alone_waits_no_longer_than_the_lanes_are_open() {
    let ends: [fn(&Lanes); 2] = [Lanes::close, |lanes| lanes.fail(&LogFailure::WriterGone)];
    for end in ends.into_iter().cycle().take(40) {
        let lanes = Lanes::new();
        let (begins, done) = std::sync::mpsc::sync_channel(2);
        let waiting = Arc::clone(&lanes);
        let waits = std::thread::spawn(move || {
            begins.send(()).unwrap();
            waiting.take_ingest(Duration::from_secs(10));
            begins.send(()).unwrap();
        });
        done.recv().unwrap();
        end(&lanes);
        assert_eq!(done.recv_timeout(Duration::from_secs(5)), Ok(()), "it was not woken");
        waits.join().unwrap();
    }
}
