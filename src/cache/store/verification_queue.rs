//! The content that waits to be hashed again.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::store::layout::Kind;
use crate::clock;
use crate::config::limits;
use crate::proto::Digest;

/// The queue of the verification thread, which wakes it and ends it.
#[derive(Default)]
pub(crate) struct VerificationQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<(Kind, Digest)>,
    /// Content that was last scheduled, and when.
    scheduled: HashMap<(Kind, Digest), Instant>,
    busy: bool,
    closed: bool,
}

impl VerificationQueue {
    /// Adds content, unless that was done a short while ago: an upstream that repeats a false claim must not keep the disk busy.
    pub(crate) fn schedule(&self, kind: Kind, digest: &Digest) {
        let (now, content) = (clock::now(), (kind, digest.clone()));
        let is_recent = |at: &Instant| now.duration_since(*at) < limits::CACHE_VERIFY_PAUSE;
        let mut state = self.state();
        if state.scheduled.get(&content).is_some_and(is_recent) {
            return;
        }
        state.scheduled.retain(|_, at| is_recent(at));
        if state.scheduled.len() < MOST_SCHEDULED {
            state.scheduled.insert(content.clone(), now);
            state.waiting.push_back(content);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Adds content that is not trusted before it has been hashed.
    pub(crate) fn add(&self, doubtful: impl IntoIterator<Item = (Kind, Digest)>) {
        self.state().waiting.extend(doubtful);
        self.changed.notify_all();
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Returns true if the thread is to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until nothing waits to be hashed.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        while !state.closed && (state.busy || !state.waiting.is_empty()) {
            self.changed.wait(&mut state);
        }
    }

    /// Waits for content, at most `patience`.
    pub(crate) fn next(&self, patience: Duration) -> Option<(Kind, Digest)> {
        let mut state = self.state();
        state.busy = false;
        self.changed.notify_all();
        self.wait(&mut state, patience);
        let next = state.waiting.pop_front();
        state.busy = next.is_some();
        next
    }

    /// Waits for `pause`, or until content waits that is more urgent than what the caller does.
    pub(crate) fn pause(&self, pause: Duration) {
        self.wait(&mut self.state(), pause);
    }

    fn wait(&self, state: &mut MutexGuard<'_, QueueState>, patience: Duration) {
        let is_idle = |state: &mut QueueState| state.waiting.is_empty() && !state.closed;
        self.changed.wait_while_for(state, is_idle, patience);
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }
}

/// The most content that is scheduled within that pause: with more, `dockgate cache verify` is due.
const MOST_SCHEDULED: usize = 1024;
