//! Which events of a bus are a plugin's, as its subscription changes over time.

use std::sync::Arc;

use crate::event::{Event, Heading, InstanceId, Position, To};
use crate::plugin::Subscription;

/// Subscriptions of a plugin, each for positions after the one beside it, ascending.
pub type Subscriptions = Vec<(Position, Arc<Subscription>)>;

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
