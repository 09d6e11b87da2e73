//! Ids and randomness of deliveries: the same when one runs again.

use std::sync::Arc;

use bytes::BufMut;
use sha1::{Digest, Sha1};
use uuid::Uuid;

use crate::event::{Generation, InstanceId, Position};

/// Bytes of the name of an id, less its suffix: log, instance, generation, position, index.
const NAME_BYTES: usize = 16 + 4 + 4 + 8 + 8 + 4;

/// What makes ids and randomness of a delivery its own, and the same when it runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seed {
    /// Id of the log.
    pub log_id: Uuid,
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// Log time of the input, milliseconds; 0: there is none. Where an older copy of a log goes on, it
    /// gives positions again, and others remember the ids of what came of them before.
    pub recorded_ms: u64,
}

impl Seed {
    /// Id of the event emitted as number `index` (from 0) for the input at `position`: a UUIDv5 in
    /// the namespace of the log id, over instance (4 bytes), generation (4), position (8), log time
    /// (8) and index (4), little endian.
    #[must_use]
    pub fn event_id(&self, position: Position, index: u32) -> Arc<str> {
        self.uuid(position, index, b"")
    }

    /// Idempotency key of the call sent as number `index`: as [`Seed::event_id`], followed by the
    /// four bytes `call`.
    #[must_use]
    pub fn call_id(&self, position: Position, index: u32) -> Arc<str> {
        self.uuid(position, index, b"call")
    }

    /// Idempotency key of the direct request sent as number `index`: as [`Seed::event_id`], followed
    /// by the six bytes `direct` and a digest of the request. An attempt that asks the same again
    /// says so, one that asks something else does not.
    #[must_use]
    pub fn direct_id(&self, position: Position, index: u32, digest: &[u8; 32]) -> Arc<str> {
        let mut suffix = [0_u8; 38];
        for (slot, byte) in suffix.iter_mut().zip(b"direct".iter().chain(digest)) {
            *slot = *byte;
        }
        self.uuid(position, index, &suffix)
    }

    /// The random number that call `call` (from 0) of an attempt answers with.
    #[must_use]
    pub fn random(&self, position: Position, attempt: u32, call: u32) -> u64 {
        let mut hasher = self.hasher(position, attempt);
        hasher.update(&call.to_le_bytes());
        let mut first = [0_u8; 8];
        hasher.finalize_xof().fill(&mut first);
        u64::from_le_bytes(first)
    }

    /// An endless stream of bytes of an attempt's own, for guests that ask WASI for randomness.
    pub(super) fn random_bytes(&self, position: Position, attempt: u32) -> blake3::OutputReader {
        let mut hasher = self.hasher(position, attempt);
        hasher.update(b"wasi");
        hasher.finalize_xof()
    }

    fn hasher(&self, position: Position, attempt: u32) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tidegate random v1");
        hasher.update(self.log_id.as_bytes());
        hasher.update(&self.instance.0.to_le_bytes());
        hasher.update(&self.generation.0.to_le_bytes());
        hasher.update(&position.0.to_le_bytes());
        hasher.update(&attempt.to_le_bytes());
        hasher
    }

    fn uuid(&self, position: Position, index: u32, suffix: &[u8]) -> Arc<str> {
        let mut name = [0; NAME_BYTES];
        let mut rest = &mut name[..];
        rest.put_slice(self.log_id.as_bytes());
        rest.put_u32_le(self.instance.0);
        rest.put_u32_le(self.generation.0);
        rest.put_u64_le(position.0);
        rest.put_u64_le(self.recorded_ms);
        rest.put_u32_le(index);
        // As `Uuid::new_v5`, with a hash that uses what the processor has for it.
        let digest: [u8; 20] =
            Sha1::new().chain_update(name).chain_update(suffix).finalize().into();
        let (&bytes, _) = digest.split_first_chunk().expect("sixteen of twenty bytes");
        let mut id = uuid::Builder::from_sha1_bytes(bytes).into_uuid();
        if planted!(RandomEmitIds) {
            id = Uuid::new_v4();
        }
        Arc::from(&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_every_field_and_are_stable() {
        let seed = Seed { log_id: Uuid::from_u128(7), ..Seed::default() };
        let id = seed.event_id(Position(3), 0);
        assert_eq!(id, seed.event_id(Position(3), 0));
        let others = [
            seed.event_id(Position(3), 1),
            seed.event_id(Position(4), 0),
            seed.call_id(Position(3), 0),
            Seed { log_id: Uuid::from_u128(8), ..seed }.event_id(Position(3), 0),
            Seed { instance: InstanceId(1), ..seed }.event_id(Position(3), 0),
            Seed { generation: Generation(1), ..seed }.event_id(Position(3), 0),
            Seed { recorded_ms: 1, ..seed }.event_id(Position(3), 0),
        ];
        assert!(others.iter().all(|other| *other != id));
        // Written down: a host that computes another id would emit everything twice after an
        // upgrade.
        assert_eq!(&*id, "0162ecb4-ffe4-57f4-8bc8-7d7eefb604ca");
        let name = [&[0; 8][..], &3_u64.to_le_bytes(), &[0; 12], b"call"].concat();
        let named = Uuid::new_v5(&seed.log_id, &name);
        assert_eq!(*seed.call_id(Position(3), 0), *named.to_string());
    }

    #[test]
    fn randomness_differs_by_attempt_and_call() {
        let seed = Seed::default();
        let first = seed.random(Position(1), 1, 0);
        assert_eq!(first, seed.random(Position(1), 1, 0));
        assert_ne!(first, seed.random(Position(1), 2, 0));
        assert_ne!(first, seed.random(Position(1), 1, 1));
        assert_ne!(first, seed.random(Position(2), 1, 0));
    }
}
