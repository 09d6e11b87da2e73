//! The budgets that the host itself counts, and the error types that say which one ended a guest.

use wasmtime::ResourceLimiter;

use super::engine::TABLE_ELEMENTS_MAX;

/// Live component-model handles of one instance.
pub(super) const HANDLES_MAX: usize = 1000;
/// Core instances, tables or memories of one store: far above what adapters and shims need.
const PARTS_MAX: usize = 100;
/// Calls into the host by one delivery: beyond it a guest is only there to keep the host busy.
pub(super) const HOST_CALLS_MAX: u32 = 1_000_000;
/// Bytes that one element of a table costs the host.
const TABLE_ELEMENT_BYTES: usize = 8;

/// Why the host stopped a guest, beside wasmtime's own traps. Found again in the error by its
/// type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    /// Linear memory or tables grew too large.
    #[error("`limits.memory` was exceeded")]
    Memory,
    /// Output that cannot be refused softly, because the guest writes it to a stream.
    #[error("`{budget}` was exceeded")]
    Output {
        /// The manifest key, or the host's own bound.
        budget: &'static str,
    },
    /// The clock ran out while the guest was computing.
    #[error("`limits.timeout` passed")]
    Timeout,
    /// A guest that cannot yield computes for longer than others should wait: it is handed the
    /// delivery once more where it can.
    #[error("computed for longer than a tick")]
    Long,
    /// A host function was called while no delivery ran.
    #[error("called the host outside of a delivery")]
    Idle,
}

/// Counts the memory of one store. Armed for each delivery, because a reload may change the
/// limit while the instance lives on.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    limit_bytes: usize,
    /// Linear memory and tables of the store now.
    bytes: usize,
    /// What the host holds for the guest now.
    held: usize,
    /// What the last permitted growth added, to be taken back if it fails after all.
    granted: usize,
}

impl Limiter {
    /// Sets the limit for the next delivery.
    pub(super) fn arm(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// Bytes the store holds. Memory never shrinks, so this is also the most it held, but for what
    /// the host held for a while.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.held)
    }

    /// Takes in bytes that the host keeps for the guest.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Breach> {
        self.held = self.held.saturating_add(bytes);
        if self.bytes() > self.limit_bytes { Err(Breach::Memory) } else { Ok(()) }
    }

    /// Gives back bytes that the host kept for the guest.
    pub(super) fn let_go(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }

    fn grow(&mut self, by: usize) -> wasmtime::Result<bool> {
        self.granted = 0;
        let bytes = self.bytes.saturating_add(by);
        if bytes.saturating_add(self.held) > self.limit_bytes {
            // An error, not `false`: a guest told -1 aborts in a way that looks like any trap.
            return Err(Breach::Memory.into());
        }
        self.bytes = bytes;
        self.granted = by;
        Ok(true)
    }

    fn take_back(&mut self) {
        self.bytes = self.bytes.saturating_sub(std::mem::take(&mut self.granted));
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let permitted = self.grow(desired.saturating_sub(current))?;
        // The guest's own maximum: growing past it answers -1, as the specification says.
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.take_back();
            return Ok(false);
        }
        Ok(permitted)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            return Err(Breach::Memory.into());
        }
        let elements = desired.saturating_sub(current);
        let permitted = self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES))?;
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.take_back();
            return Ok(false);
        }
        Ok(permitted)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65_536;

    #[test]
    fn memories_and_tables_share_one_budget() {
        let mut limiter = Limiter::default();
        limiter.arm(2 * PAGE);
        assert!(limiter.memory_growing(0, PAGE, None).unwrap());
        assert!(limiter.table_growing(0, PAGE / TABLE_ELEMENT_BYTES, None).unwrap());
        let error = limiter.memory_growing(PAGE, 2 * PAGE, None).unwrap_err();
        assert_eq!(error.downcast_ref::<Breach>(), Some(&Breach::Memory));
        assert_eq!(limiter.bytes(), 2 * PAGE);
    }

    #[test]
    fn growth_that_fails_is_not_counted() {
        let mut limiter = Limiter::default();
        limiter.arm(4 * PAGE);
        assert!(!limiter.memory_growing(0, 2 * PAGE, Some(PAGE)).unwrap());
        assert!(limiter.memory_growing(0, 2 * PAGE, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert_eq!(limiter.bytes(), 0);
    }

    #[test]
    fn a_table_over_the_pool_is_a_breach() {
        let mut limiter = Limiter::default();
        limiter.arm(usize::MAX);
        assert!(
            limiter.table_growing(0, TABLE_ELEMENTS_MAX + 1, Some(TABLE_ELEMENTS_MAX)).is_err()
        );
    }
}
