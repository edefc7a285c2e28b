//! The thread that syncs files, and notes that they are on the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::store::health::Health;
use crate::cache::store::index::SharedIndex;
use crate::cache::store::layout::{Kind, Layout};
use crate::cache::store::partial_file::{LeftPartials, PartialFile};
use crate::cache::store::{files, integrity};
use crate::proto::Digest;

/// A piece of work for the thread.
pub(crate) enum SyncJob {
    /// A partial has grown.
    Reached(Arc<PartialFile>),
    /// A partial was left by its writer.
    Left(Arc<PartialFile>),
    /// Content is in its place.
    Placed { kind: Kind, digest: Digest, directories: Vec<PathBuf> },
    /// Content is being used.
    Used { kind: Kind, digest: Digest },
}

/// The jobs that wait, in order.
#[derive(Default)]
pub(crate) struct SyncQueue {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Default)]
struct SyncState {
    jobs: VecDeque<SyncJob>,
    busy: bool,
    closed: bool,
}

impl SyncQueue {
    /// Adds a job.
    pub(crate) fn push(&self, job: SyncJob) {
        self.state().jobs.push_back(job);
        self.changed.notify_all();
    }

    /// Ends the thread once it has done what waits.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Waits until nothing is left to do.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        while state.busy || !state.jobs.is_empty() {
            self.changed.wait(&mut state);
        }
    }

    fn next(&self) -> Option<SyncJob> {
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
            self.changed.wait(&mut state);
        }
    }

    fn state(&self) -> MutexGuard<'_, SyncState> {
        self.state.lock()
    }
}

/// The work of the thread.
pub(crate) struct Syncer {
    pub(crate) queue: Arc<SyncQueue>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) index: SharedIndex,
    pub(crate) left: Arc<LeftPartials>,
    pub(crate) health: Arc<Health>,
}

impl Syncer {
    /// Works until the queue is closed and empty.
    pub(crate) fn run(&self) {
        while let Some(job) = self.queue.next() {
            if let Err(error) = self.carry_out(job) {
                self.health.report(&error);
            }
        }
    }

    fn carry_out(&self, job: SyncJob) -> io::Result<()> {
        match job {
            SyncJob::Reached(file) => {
                file.queued.store(false, Ordering::Release);
                file.sync(&self.layout)
            }
            SyncJob::Left(file) => {
                let noted = file.sync(&self.layout).and_then(|()| file.note_left(&self.layout));
                self.left.unlock(&file);
                noted
            }
            SyncJob::Placed { kind, digest, directories } => {
                let synced = self.sync_placed(kind, &digest, &directories);
                self.index.lock().synced(kind, &digest);
                synced
            }
            // A use that cannot be noted costs a place in the order of eviction after a restart, and nothing else.
            SyncJob::Used { kind, digest } => {
                let _ = self.layout.content(kind, &digest).map(|path| integrity::note_use(&path));
                Ok(())
            }
        }
    }

    /// Syncs content. Opens the file anew, so that what waits here holds no files open.
    fn sync_placed(&self, kind: Kind, digest: &Digest, directories: &[PathBuf]) -> io::Result<()> {
        let Some(path) = self.layout.content(kind, digest) else { return Ok(()) };
        let file = match files::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        for directory in directories {
            File::open(directory)?.sync_all()?;
        }
        let synced = integrity::sync(&file);
        if synced.is_err() {
            // Bytes that could not be synced must not be served: the page cache may drop them.
            files::remove(&path)?;
            self.index.lock().remove(kind, digest);
        }
        synced
    }
}
