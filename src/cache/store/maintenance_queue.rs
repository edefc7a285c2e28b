//! The work that waits for the maintenance thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::store::index::Victim;

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
    victims: VecDeque<Victim>,
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

    /// Takes files, at most so many, whose removal has not begun: the caller removes them.
    pub(crate) fn take_removals(&self, most: usize) -> Vec<Victim> {
        let victims = &mut self.state().victims;
        let most = most.min(victims.len());
        victims.drain(..most).collect()
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

    /// Waits to be woken, at most `patience`. Returns true if the directory has to be probed.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let mut state = self.state();
        state.busy = false;
        self.changed.notify_all();
        self.changed.wait_while_for(&mut state, |state| !state.woken, patience);
        state.woken = false;
        state.busy = true;
        std::mem::take(&mut state.probe)
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }
}
