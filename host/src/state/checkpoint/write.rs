//! Writes a checkpoint to a file, a chunk at a time.

use std::io;

use super::format::{self, CHUNK_HEADER_BYTES, Counts, Header, Kind, Row, TIMER_BYTES};
use crate::limits::{CHECKPOINT_CHUNK_BYTES, CHECKPOINT_FREE_BYTES_MIN, CHECKPOINT_SYNC_BYTES};
use crate::log::disk::DiskFile;
use crate::state::cold::KeyValues;
use crate::state::ledger::Ledger;
use crate::state::timers;
use crate::state::values::Owner;

/// A checkpoint being written. What it holds in memory is one chunk.
#[derive(Debug)]
pub(super) struct Writer<'a, F> {
    file: &'a dyn DiskFile,
    /// Says how many bytes are free on the disk.
    free_bytes: F,
    salt: u32,
    /// Room for its header, then content.
    chunk: Vec<u8>,
    offset: u64,
    synced: u64,
    hasher: blake3::Hasher,
    counts: Counts,
}

impl<'a, F: Fn() -> io::Result<u64>> Writer<'a, F> {
    /// Writes the header.
    pub(super) fn begin(
        file: &'a dyn DiskFile,
        header: &Header,
        free_bytes: F,
    ) -> io::Result<Self> {
        let mut writer = Self {
            file,
            free_bytes,
            salt: header.salt(),
            chunk: vec![0; CHUNK_HEADER_BYTES],
            offset: 0,
            synced: 0,
            hasher: blake3::Hasher::new(),
            counts: Counts::default(),
        };
        writer.check_room()?;
        writer.append(&header.encode())?;
        Ok(writer)
    }

    pub(super) fn ledger(&mut self, ledger: &Ledger) -> io::Result<()> {
        let mut sink = LedgerSink { writer: self, failed: None };
        let encoded = rmp_serde::encode::write_named(&mut sink, ledger);
        if let Some(failed) = sink.failed {
            return Err(failed);
        }
        encoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.flush(Kind::Ledger)
    }

    /// Writes a key with all its values.
    pub(super) fn key(&mut self, owner: &Owner, values: &KeyValues) -> io::Result<()> {
        self.counts.keys += 1;
        self.counts.values += values.len() as u64;
        self.counts.value_bytes +=
            values.iter().map(|(_, value)| value.bytes.len() as u64).sum::<u64>();
        let mut rest = values.as_slice();
        while !rest.is_empty() {
            let room = CHECKPOINT_CHUNK_BYTES.saturating_sub(self.content_bytes());
            let (values, later) =
                rest.split_at_checked(format::fitting(rest, room)).unwrap_or((rest, &[]));
            let goes_on = !later.is_empty();
            format::put_row(&mut self.chunk, &Row { owner, values, goes_on });
            if goes_on || self.content_bytes() >= CHECKPOINT_CHUNK_BYTES {
                self.flush(Kind::Values)?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Writes some timers; all keys are to be written by then.
    pub(super) fn timers(&mut self, rows: &[timers::Row]) -> io::Result<()> {
        if self.counts.timers == 0 && self.content_bytes() > 0 {
            self.flush(Kind::Values)?;
        }
        for row in rows {
            self.counts.timers += 1;
            format::put_timer(&mut self.chunk, row);
            if self.content_bytes() + TIMER_BYTES > CHECKPOINT_CHUNK_BYTES {
                self.flush(Kind::Timers)?;
            }
        }
        Ok(())
    }

    /// Writes the end, and syncs. Returns what the file holds, and its bytes.
    pub(super) fn finish(mut self) -> io::Result<(Counts, u64)> {
        if self.content_bytes() > 0 {
            self.flush(if self.counts.timers > 0 { Kind::Timers } else { Kind::Values })?;
        }
        self.counts.put(&mut self.chunk);
        self.flush(Kind::End)?;
        let hash = self.hasher.finalize();
        self.append(hash.as_bytes())?;
        self.file.sync_data()?;
        Ok((self.counts, self.offset))
    }

    fn content_bytes(&self) -> usize {
        self.chunk.len().saturating_sub(CHUNK_HEADER_BYTES)
    }

    fn flush(&mut self, kind: Kind) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.chunk);
        format::seal_chunk(&mut chunk, kind, self.salt)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a value is too long"))?;
        self.append(&chunk)?;
        chunk.clear();
        chunk.resize(CHUNK_HEADER_BYTES, 0);
        self.chunk = chunk;
        if self.offset - self.synced >= CHECKPOINT_SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.offset;
            self.check_room()?;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.offset)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// The log comes first: a checkpoint can wait for room, publishers should not have to.
    fn check_room(&self) -> io::Result<()> {
        if (self.free_bytes)()? < CHECKPOINT_FREE_BYTES_MIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// Takes the bytes of the ledger as they are encoded.
struct LedgerSink<'w, 'a, F> {
    writer: &'w mut Writer<'a, F>,
    /// The encoder tells only the kind of an error.
    failed: Option<io::Error>,
}

impl<F: Fn() -> io::Result<u64>> io::Write for LedgerSink<'_, '_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHECKPOINT_CHUNK_BYTES.saturating_sub(self.writer.content_bytes());
        let (now, _) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        self.writer.chunk.extend_from_slice(now);
        self.writer.counts.ledger_bytes += now.len() as u64;
        if self.writer.content_bytes() >= CHECKPOINT_CHUNK_BYTES
            && let Err(error) = self.writer.flush(Kind::Ledger)
        {
            let kind = error.kind();
            self.failed = Some(error);
            return Err(kind.into());
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
