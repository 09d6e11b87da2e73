//! Handlers that do one thing, in place of the one that a world begins with.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::world::World;
use crate::bus::runner::{Pin, Version};
use crate::effects::{Effects, Outcome};
use crate::wasm::{Delivery, Invocation, Invoker, Slot};

/// Runs this for each delivery.
pub(super) struct Handler<F>(pub(super) F);

/// What a guest came to that ended so and asked for this.
pub(super) fn invocation(outcome: Outcome, effects: Effects) -> Box<Invocation> {
    Box::new(Invocation { effects, fuel: 1, ..Invocation::unrun(outcome) })
}

impl<F> Handler<F>
where
    F: Fn(&Delivery<'_>) -> (Outcome, Effects) + Send + Sync + 'static,
{
    fn run(&self, delivery: &Delivery<'_>) -> Box<Invocation> {
        let (outcome, effects) = self.0(delivery);
        invocation(outcome, effects)
    }
}

impl<F> Invoker for Handler<F>
where
    F: Fn(&Delivery<'_>) -> (Outcome, Effects) + Send + Sync + 'static,
{
    fn invoke<'a>(
        &'a self,
        _: &'a mut Slot,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Box<Invocation>> {
        async move { self.run(&delivery) }.boxed()
    }

    fn invoke_through<'a>(
        &self,
        _: &mut Slot,
        delivery: Delivery<'a>,
    ) -> Result<Box<Invocation>, Delivery<'a>> {
        Ok(self.run(&delivery))
    }
}

/// Puts a version in place that differs from the present one.
pub(super) async fn swap(world: &World, change: impl FnOnce(&mut Version)) {
    let mut version = Version::clone(&world.runner.version());
    change(&mut version);
    let subscription = Arc::new(version.manifest.subscribe.clone());
    world.runner.swap(Arc::new(version), subscription, "ops".into(), Pin::Stays).await.unwrap();
}

/// Puts a handler in place.
pub(super) async fn handle_with<F>(world: &World, handler: F)
where
    F: Fn(&Delivery<'_>) -> (Outcome, Effects) + Send + Sync + 'static,
{
    swap(world, |version| version.invoker = Arc::new(Handler(handler))).await;
}
