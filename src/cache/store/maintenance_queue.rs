//! The work that waits for the maintenance thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::store::index::Victim;
use crate::cache::store::layout::Kind;
use crate::clock;
use crate::config::limits;
use crate::proto::Digest;

/// The queue of the maintenance thread, which wakes it and ends it.
#[derive(Default)]
pub(crate) struct MaintenanceQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct QueueState {
    woken: bool,
    busy: bool,
    probe: bool,
    victims: Vec<Victim>,
    /// Content that is to be hashed again.
    verify: Vec<(Kind, Digest)>,
    /// Content that was last hashed so, and when.
    verified: HashMap<(Kind, Digest), Instant>,
}

/// The work that has to be done at once.
pub(crate) struct Due {
    /// Files to be removed.
    pub(crate) victims: Vec<Victim>,
    /// The directory has to be probed.
    pub(crate) probe: bool,
}

impl MaintenanceQueue {
    /// Wakes the thread, as there is more content than before.
    pub(crate) fn wake(&self) {
        self.state().woken = true;
        self.changed.notify_all();
    }

    /// Schedules a probe of the directory, after a change of it.
    pub(crate) fn schedule_probe(&self) {
        self.state().probe = true;
        self.wake();
    }

    /// Schedules the removal of files that have left the index: large files take long.
    pub(crate) fn schedule_removal(&self, victims: Vec<Victim>) {
        if !victims.is_empty() {
            self.state().victims.extend(victims);
            self.wake();
        }
    }

    /// Takes the files whose removal has not begun: the caller removes them.
    pub(crate) fn take_removals(&self) -> Vec<Victim> {
        std::mem::take(&mut self.state().victims)
    }

    /// Schedules content to be hashed again, unless it was a short while ago: an upstream that repeats a false claim must not
    /// keep the disk busy.
    pub(crate) fn schedule_verify(&self, kind: Kind, digest: &Digest) {
        let (now, content) = (clock::now(), (kind, digest.clone()));
        let mut state = self.state();
        state.verified.retain(|_, verified| now.duration_since(*verified) < limits::CACHE_VERIFY_PAUSE);
        if state.verified.len() < MOST_VERIFIED && !state.verified.contains_key(&content) {
            state.verified.insert(content.clone(), now);
            state.verify.push(content);
            state.woken = true;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Takes the content that is to be hashed again.
    pub(crate) fn take_verifications(&self) -> Vec<(Kind, Digest)> {
        std::mem::take(&mut self.state().verify)
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    /// Returns true if the thread is to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until the thread has nothing to do.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        while state.busy || state.woken {
            self.changed.wait(&mut state);
        }
    }

    /// Waits to be woken, at most `patience`; not at all without it, as there is more to do anyway.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> Due {
        let mut state = self.state();
        if let Some(patience) = patience {
            state.busy = false;
            self.changed.notify_all();
            self.changed.wait_while_for(&mut state, |state| !state.woken, patience);
        }
        state.woken = false;
        state.busy = true;
        Due { victims: std::mem::take(&mut state.victims), probe: std::mem::take(&mut state.probe) }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }
}

/// The most content that is hashed again on request within that pause: with more, `dockgate cache verify` is due.
const MOST_VERIFIED: usize = 1024;
