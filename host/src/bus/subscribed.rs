//! Which events of a bus are a plugin's, as its subscription changes over time.

use std::sync::Arc;

use crate::event::{Event, Heading, InstanceId, Position, To};
use crate::plugin::{Manifest, Subscription};
use crate::state::{Activation, Instance};

/// Subscriptions of a plugin, each for positions after the one beside it, ascending.
pub type Subscriptions = Vec<(Position, Arc<Subscription>)>;

/// Lets a subscription hold for all positions after `after`. A runner may have read less than an
/// activation before says, which was made while none was there: that one judges nothing any more.
pub(super) fn hold(
    subscriptions: &mut Subscriptions,
    after: Position,
    subscription: Arc<Subscription>,
) {
    subscriptions.retain(|(earlier, _)| *earlier < after);
    subscriptions.push((after, subscription));
}

/// The subscriptions that judge what is still to be delivered, as the log knows them; `present` where
/// it knows none.
#[must_use]
pub fn of(instance: &Instance, present: &Manifest) -> Subscriptions {
    let mut subscriptions = Subscriptions::new();
    // A rewind begins anew: its own manifest judges what is delivered again.
    let is_of = |activation: &&Activation| activation.generation == instance.generation;
    for activation in instance.activations.iter().filter(is_of) {
        match Manifest::parse("the log", &activation.manifest) {
            Ok(manifest) => {
                hold(&mut subscriptions, activation.after, Arc::new(manifest.subscribe));
            }
            Err(error) => tracing::warn!(
                plugin = instance.name, %error, "a manifest in the log is not understood"
            ),
        }
    }
    if subscriptions.is_empty() {
        subscriptions.push((instance.low, Arc::new(present.subscribe.clone())));
    }
    subscriptions
}

/// Whether an event is a plugin's, by the subscription in force at its position.
pub(super) fn wants(subscriptions: &Subscriptions, plugin: InstanceId, event: &Event) -> bool {
    match event.addressee {
        Some(_) => may_want(subscriptions, plugin, &event.heading()),
        None => in_force(subscriptions, event.position)
            .is_some_and(|subscription| subscription.matches(event, plugin)),
    }
}

/// Whether an event may be a plugin's, by its heading. Where it says no, [`wants`] does.
pub(super) fn may_want(
    subscriptions: &Subscriptions,
    plugin: InstanceId,
    heading: &Heading<'_>,
) -> bool {
    match heading.to {
        To::Plugin(addressee) => addressee == plugin,
        To::Bus => false,
        To::Everybody => in_force(subscriptions, heading.position)
            .is_some_and(|subscription| subscription.may_match(heading, plugin)),
    }
}

fn in_force(subscriptions: &Subscriptions, position: Position) -> Option<&Subscription> {
    let found = subscriptions.iter().rev().find(|(after, _)| position > *after);
    found.or(subscriptions.first()).map(|(_, subscription)| &**subscription)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CommitNumber, Digest, Generation};
    use crate::log::record::{Control, ControlRecord};
    use crate::state::Ledger;
    use crate::state::ledger::At;

    const PLUGIN: InstanceId = InstanceId(1);

    /// An activation at a start says how far the log went, one of a runner how far that had read.
    #[test]
    fn the_later_of_two_activations_holds_also_where_it_begins_earlier() {
        let mut ledger = Ledger::default();
        let mut live = Subscriptions::new();
        let mut apply = |control| {
            let at = At { commit: CommitNumber(1), time_ms: 1 };
            ledger.apply_control(at, &ControlRecord { actor: "test".into(), control });
        };
        apply(Control::Register { instance: PLUGIN, name: "p".into(), after: Position(0) });
        for (after, types) in [(0, "t.a"), (20, "t.b"), (2, "t.c"), (30, "t.d")] {
            let text = format!("[subscribe]\ntypes = [\"{types}\"]\n");
            let subscription = Manifest::parse("p", &text).unwrap().subscribe;
            hold(&mut live, Position(after), Arc::new(subscription));
            apply(Control::Activate {
                instance: PLUGIN,
                generation: Generation(0),
                module: Digest::default(),
                environment: Digest::default(),
                manifest: text,
                after: Position(after),
                unpins: false,
            });
        }
        let again = of(ledger.instance(PLUGIN).unwrap(), &Manifest::default());
        let types = |subscriptions: &Subscriptions, position| {
            in_force(subscriptions, Position(position)).map(|found| format!("{:?}", found.types))
        };
        for (position, wanted) in [(1, "t.a"), (2, "t.a"), (3, "t.c"), (21, "t.c"), (31, "t.d")] {
            let found = types(&live, position);
            assert!(found.as_ref().is_some_and(|types| types.contains(wanted)), "{found:?}");
            assert_eq!(types(&again, position), found, "at {position}, after a restart");
        }
    }
}
