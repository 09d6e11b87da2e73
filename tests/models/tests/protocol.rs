//! The protocol holds in all its states, and each planted fault is found.

use stateright::{Checker, HasDiscoveries, Model};
use tidegate_models::protocol::{Bounds, Fault, Protocol};

fn check(protocol: Protocol) -> impl Checker<Protocol> {
    // A host with a fault need not be looked at any longer once that is known.
    let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures);
    checker.threads(2).symmetry().spawn_dfs().join()
}

/// Three keys with as many events and crashes as `TIDEGATE_MODEL` says: `EVENTSxCRASHES`.
#[test]
fn the_protocol_holds_in_every_state() {
    let bounds = std::env::var("TIDEGATE_MODEL").unwrap_or_else(|_| "2x2".to_owned());
    let (events, crashes) = bounds.split_once('x').expect("EVENTSxCRASHES");
    let bounds = Bounds {
        keys: 3,
        events: events.parse().unwrap(),
        crashes: crashes.parse().unwrap(),
        hangups: 1,
        queries: false,
    };
    let checker = check(Protocol { bounds, fault: None });
    println!(
        "{bounds:?}: {} states, {} of them unique",
        checker.state_count(),
        checker.unique_state_count()
    );
    checker.assert_properties();
}

#[test]
fn what_a_query_saw_stays_whatever_crashes() {
    let bounds = Bounds { keys: 2, events: 3, crashes: 2, hangups: 1, queries: true };
    let checker = check(Protocol { bounds, fault: None });
    println!("{bounds:?}: {} unique states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn every_planted_fault_is_found() {
    let bounds = Bounds { keys: 1, events: 2, crashes: 2, hangups: 1, queries: true };
    check(Protocol { bounds, fault: None }).assert_properties();
    for fault in Fault::ALL {
        let checker = check(Protocol { bounds, fault: Some(fault) });
        let found: Vec<_> = checker.discoveries().into_keys().collect();
        let broken: Vec<_> = found.iter().filter(|name| !name.starts_with("everything")).collect();
        println!("{fault:?}: {broken:?}");
        assert!(!broken.is_empty(), "{fault:?} was not found");
    }
}
