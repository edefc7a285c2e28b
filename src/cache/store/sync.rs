//! The thread that syncs files, and notes that they are on the disk.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::counters::{Counters, Damage};
use crate::cache::store::health::Health;
use crate::cache::store::index::Index;
use crate::cache::store::integrity::LostWrites;
use crate::cache::store::layout::{Kind, Layout};
use crate::cache::store::partial_file::{LeftPartials, PartialFile};
use crate::cache::store::quarantine::Quarantine;
use crate::cache::store::{files, integrity};
use crate::config::limits;
use crate::proto::Digest;

/// A piece of work for the thread.
pub(crate) enum SyncJob {
    /// A partial has grown.
    Reached(Arc<PartialFile>),
    /// A partial was left by its writer.
    Left(Arc<PartialFile>),
    /// Content is in its place. Bytes of it may have been lost before.
    Placed { kind: Kind, digest: Digest, directories: Vec<PathBuf>, lost: LostWrites },
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
    /// Adds a job. Where too many wait, the use of content is not noted; the others are as few as the writers, which stop to
    /// begin new files while the queue [is full](Self::is_full).
    pub(crate) fn push(&self, job: SyncJob) {
        let mut state = self.state();
        if state.jobs.len() < limits::CACHE_UNSYNCED || !matches!(job, SyncJob::Used { .. }) {
            state.jobs.push_back(job);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Adds a job once there is room. Not for a worker's thread.
    pub(crate) fn push_waiting(&self, job: SyncJob) {
        let mut state = self.state();
        while state.jobs.len() >= limits::CACHE_UNSYNCED && !state.closed {
            self.changed.wait(&mut state);
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_all();
    }

    /// Returns true if so much waits that nothing new is begun.
    pub(crate) fn is_full(&self) -> bool {
        self.state().jobs.len() >= limits::CACHE_UNSYNCED
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
    pub(crate) index: Arc<Index>,
    pub(crate) left: Arc<LeftPartials>,
    pub(crate) health: Arc<Health>,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) counters: Arc<Counters>,
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
                let lefts = file.lefts();
                let synced = file.sync(&self.layout);
                if synced.is_err() && self.left.take(&file.name).is_some() {
                    // No fill has resumed it.
                    self.index.remove_partial(&file.name);
                    file.remove(&self.layout)?;
                }
                let noted = synced.and_then(|()| file.note_left(&self.layout));
                // Where it has been resumed and left anew meanwhile, the job of that unlocks it: its head is not written yet.
                if file.lefts() == lefts {
                    self.left.unlock(&file);
                }
                noted
            }
            SyncJob::Placed { kind, digest, directories, lost } => {
                let synced = self.sync_placed(kind, &digest, &directories, &lost);
                self.index.synced(kind, &digest);
                synced
            }
            // A use that cannot be noted costs a place in the order of eviction after a restart, and nothing else.
            SyncJob::Used { kind, digest } => {
                let _ = self.layout.content(kind, &digest).map(|path| integrity::note_use(&path));
                Ok(())
            }
        }
    }

    /// Syncs content. Opens the file anew, so that what waits here holds no files open. Content that could not be synced must not
    /// be served, now or later: the page cache may drop its bytes.
    fn sync_placed(
        &self,
        kind: Kind,
        digest: &Digest,
        directories: &[PathBuf],
        lost: &LostWrites,
    ) -> io::Result<()> {
        let Some(path) = self.layout.content(kind, digest) else { return Ok(()) };
        let file = match files::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened,
        };
        let synced = || {
            lost.check()?;
            directories.iter().try_for_each(|directory| files::sync_directory(directory))?;
            let file = file.as_ref().map_err(|error| {
                error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
            });
            integrity::sync(file?)
        };
        synced().inspect_err(|error| {
            tracing::warn!(%digest, %error, "content could not be synced to the disk; it is removed from the cache");
            self.counters.damaged(Damage::Unsynced);
            self.index.remove(kind, digest);
            if files::remove(&path).is_err() {
                self.quarantine.refuse(kind, digest);
                let _ = file.as_ref().map(integrity::distrust);
            }
        })
    }
}
