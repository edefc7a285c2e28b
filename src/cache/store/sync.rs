//! What is done behind the streams: getting bytes onto the disk, and noting that they are there.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::cache::store::partial::PartialFile;
use crate::cache::store::{Inner, Kind, integrity};
use crate::proto::Digest;

/// One thing to do.
pub(crate) enum Job {
    /// A prefix has grown.
    Reached(Arc<PartialFile>),
    /// A prefix has been left by whoever wrote it.
    Left(Arc<PartialFile>),
    /// Content is in its place.
    Placed { kind: Kind, digest: Digest, directories: Vec<PathBuf> },
    /// Content is being used.
    Used { kind: Kind, digest: Digest },
}

/// What is to be done, in order.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Default)]
struct SyncState {
    jobs: VecDeque<Job>,
    busy: bool,
    closed: bool,
}

impl Queue {
    /// Has something done, some time.
    pub(crate) fn push(&self, job: Job) {
        self.state().jobs.push_back(job);
        self.changed.notify_all();
    }

    /// Nothing comes any more. What is there is still done.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Waits until nothing is left to do.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        while state.busy || !state.jobs.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        state.busy = false;
        self.changed.notify_all();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.busy = true;
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, SyncState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: works until the queue is closed and empty.
pub(crate) fn work(store: &Arc<Inner>) {
    crate::cache::store::lower_priority();
    while let Some(job) = store.sync.next() {
        if let Err(error) = store.carry_out(job) {
            store.trouble.met(&error);
        }
    }
}

impl Inner {
    fn carry_out(&self, job: Job) -> io::Result<()> {
        match job {
            Job::Reached(slot) => {
                slot.queued.store(false, Ordering::Release);
                self.note_reached(&slot)
            }
            Job::Left(slot) => {
                let noted = self.note_reached(&slot).and_then(|()| self.note_left(&slot));
                self.let_go(&slot);
                noted
            }
            Job::Placed { kind, digest, directories } => {
                let synced = self.sync_placed(kind, &digest, &directories);
                self.index().synced(kind, &digest);
                synced
            }
            // A use that can't be noted costs a place in the order after a restart, and nothing else.
            Job::Used { kind, digest } => {
                let _ = self.layout.content(kind, &digest).map(|path| integrity::note_use(&path));
                Ok(())
            }
        }
    }

    /// The file is opened anew, so that what waits here holds no files open.
    fn sync_placed(&self, kind: Kind, digest: &Digest, directories: &[PathBuf]) -> io::Result<()> {
        let Some(path) = self.layout.content(kind, digest) else { return Ok(()) };
        let file = match crate::cache::store::layout::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        for directory in directories {
            File::open(directory)?.sync_all()?;
        }
        let synced = integrity::sync(&file);
        if synced.is_err() {
            // What the disk did not take must not be served once memory has forgotten it.
            crate::cache::store::layout::remove(&path)?;
            self.index().gone(kind, digest);
        }
        synced
    }
}
