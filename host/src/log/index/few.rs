//! Index files of which few are open at a time.
//!
//! Rule: how many files a log has open does not grow with it. A file that is closed is opened again where
//! it is read; whoever reads it at that moment keeps it.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::disk::{Disk, DiskFile};

/// The index files of one log that are open.
#[derive(Debug)]
pub(super) struct FewOpen {
    disk: Arc<dyn Disk>,
    max: usize,
    /// The one that was opened first in front.
    open: Mutex<VecDeque<Arc<Place>>>,
}

/// Where a file is while it is open.
type Place = Mutex<Option<Arc<dyn DiskFile>>>;

/// How a file is read.
#[derive(Debug)]
pub(super) enum Source {
    /// It stays open.
    Open(Arc<dyn DiskFile>),
    /// It is one of those of which few are open.
    Few(Arc<FewOpen>, Arc<Place>),
}

impl FewOpen {
    /// At most so many files of a disk.
    pub(super) fn new(disk: Arc<dyn Disk>, max: usize) -> Arc<Self> {
        Arc::new(Self { disk, max, open: Mutex::default() })
    }

    /// Counts a file that was opened, and closes the one that was opened first where they are too many.
    fn opened(&self, place: &Arc<Place>) {
        let mut open = lock(&self.open);
        open.push_back(Arc::clone(place));
        let closed = if open.len() > self.max { open.pop_front() } else { None };
        drop(open);
        if let Some(closed) = closed {
            lock(&closed).take();
        }
    }
}

impl Source {
    /// The same file, which need not stay open.
    pub(super) fn among(self, few: &Arc<FewOpen>) -> Self {
        let Self::Open(file) = self else { return self };
        let place = Arc::new(Place::new(Some(file)));
        few.opened(&place);
        Self::Few(Arc::clone(few), place)
    }

    /// The file, opened where it is not.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn file(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (few, place) = match self {
            Self::Open(file) => return Ok(Arc::clone(file)),
            Self::Few(few, place) => (few, place),
        };
        let mut held = lock(place);
        if let Some(file) = &*held {
            return Ok(Arc::clone(file));
        }
        let file = few.disk.open_read(path)?;
        *held = Some(Arc::clone(&file));
        // Another one is closed under its own lock.
        drop(held);
        few.opened(place);
        Ok(file)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
