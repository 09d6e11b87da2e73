//! What the host holds for a guest that has only a handle to it: messages, buckets, clients.
//!
//! Rule: it is memory of the guest's making, so `limits.memory` covers it together with the guest's
//! own; how many there are is bounded by the handles of an instance.

use wasmtime::component::{Resource, ResourceTable};

use super::store::StoreData;

/// Bytes that anything on the shelf takes, whatever it is.
const THING_BYTES: usize = 128;

/// Something that a guest has a handle to.
pub(super) trait Held: Send + 'static {
    /// Bytes it keeps in memory, about, beside itself.
    fn bytes(&self) -> usize;
}

/// See the module. The bytes are counted by the limiter of the store.
#[derive(Default)]
pub(super) struct Shelf(ResourceTable);

impl StoreData {
    /// Puts something on the shelf.
    ///
    /// # Errors
    /// [`Breach::Memory`](super::limits::Breach::Memory).
    pub(super) fn shelve<T: Held>(&mut self, thing: T) -> wasmtime::Result<Resource<T>> {
        self.limiter.hold(THING_BYTES + thing.bytes())?;
        Ok(self.shelf.0.push(thing)?)
    }

    /// What a handle stands for.
    pub(super) fn shelved<T: Held>(&self, handle: &Resource<T>) -> wasmtime::Result<&T> {
        Ok(self.shelf.0.get(handle)?)
    }

    /// Changes what a handle stands for.
    ///
    /// # Errors
    /// [`Breach::Memory`](super::limits::Breach::Memory); the change is made by then, and goes with
    /// the instance.
    pub(super) fn change<T: Held, R>(
        &mut self,
        handle: &Resource<T>,
        change: impl FnOnce(&mut T) -> R,
    ) -> wasmtime::Result<R> {
        let thing = self.shelf.0.get_mut(handle)?;
        let before = thing.bytes();
        let made = change(thing);
        let after = thing.bytes();
        self.limiter.let_go(before);
        self.limiter.hold(after)?;
        Ok(made)
    }

    /// Takes something off the shelf.
    pub(super) fn unshelve<T: Held>(&mut self, handle: Resource<T>) -> wasmtime::Result<T> {
        let thing = self.shelf.0.delete(handle)?;
        self.limiter.let_go(THING_BYTES + thing.bytes());
        Ok(thing)
    }
}
