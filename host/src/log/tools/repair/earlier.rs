//! What repairs before this one wrote anew, as they noted it.
//!
//! What they said of deliveries that are over stands in those segments and nowhere else: where that is
//! damaged in its turn, no index tells of it, and only the order of the keys does.

use std::collections::BTreeSet;
use std::io;

use serde::Deserialize;

use super::super::ToolError;
use super::super::files::{BusFiles, io_error};
use crate::log::disk::read_up_to;

/// What is read of a report.
#[derive(Debug, Deserialize)]
struct Report {
    segments: Vec<Rewritten>,
}

#[derive(Debug, Deserialize)]
struct Rewritten {
    segment: u32,
}

/// Segments that earlier repairs wrote.
#[derive(Debug)]
pub(super) enum Earlier {
    /// These.
    Some(BTreeSet<u32>),
    /// Perhaps all: a report cannot be read.
    Any,
}

impl Earlier {
    /// Reads the reports with numbers below `until`, of those named `names` that are there.
    pub(super) fn read(
        files: &BusFiles<'_>,
        until: u32,
        name: impl Fn(u32) -> String,
    ) -> Result<Self, ToolError> {
        let dir = files.segments_dir();
        let names = files.names()?;
        let mut segments = BTreeSet::new();
        for name in (1..until).map(name).filter(|name| names.contains(name)) {
            let path = dir.join(name);
            let read = || -> io::Result<Vec<u8>> {
                let file = files.disk.open_read(&path)?;
                let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
                read_up_to(&*file, 0, len)
            };
            let bytes = read().map_err(|source| io_error(&path, source))?;
            let Ok(report) = serde_json::from_slice::<Report>(&bytes) else {
                return Ok(Self::Any);
            };
            segments.extend(report.segments.iter().map(|of| of.segment));
        }
        Ok(Self::Some(segments))
    }

    pub(super) fn wrote(&self, segment: u32) -> bool {
        match self {
            Self::Some(segments) => segments.contains(&segment),
            Self::Any => true,
        }
    }
}
