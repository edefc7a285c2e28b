//! The threads that do the expensive work: few, of low priority, and shared fairly.
//!
//! Each client has a queue of its own and the threads take from them in turn, so that one client's hundred
//! guesses delay another's login by one check. Work with the same key is done once, for all who ask.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::authn::memory::Fingerprint;
use crate::budget::{Client, Usage};

/// A pool whose threads end when it is dropped.
pub(super) struct Checks<T>(Arc<Shared<T>>);

/// A job: its value goes to every waiter. It runs or is dropped.
pub(super) type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// The result of asking for a check.
pub(super) enum Entry<T, R> {
    /// Queued or under way. An error means that the job was displaced or panicked: ask again later.
    Wait(oneshot::Receiver<T>),
    /// No check is needed, or none is allowed.
    Settled(R),
    /// Too many checks are waiting.
    Full,
}

impl<T: Clone + Send + 'static> Checks<T> {
    /// Starts the threads: as many as there are cores, at most two.
    ///
    /// # Errors
    /// The system's, when it starts no thread.
    pub(super) fn start() -> io::Result<Self> {
        let checks = Self(Arc::new(Shared::default()));
        for _ in 0..threads() {
            let shared = Arc::clone(&checks.0);
            std::thread::Builder::new().name("password-check".into()).spawn(move || shared.work())?;
        }
        Ok(checks)
    }

    /// Joins the work with this key that is queued or under way; else has `begin` say what to do and queues
    /// that. `begin` runs under the lock that also guards the end of work: what it finds out cannot be overtaken.
    pub(super) fn enter<R>(
        &self,
        key: Fingerprint,
        peer: Client,
        begin: impl FnOnce() -> Result<Work<T>, R>,
    ) -> Entry<T, R> {
        let mut queue = self.0.queue();
        if let Some(flight) = queue.flights.get_mut(&key) {
            return Entry::Wait(flight.join());
        }
        let work = match begin() {
            Ok(work) => work,
            Err(settled) => return Entry::Settled(settled),
        };
        if !queue.has_room_for(peer) {
            queue.refused += 1;
            return Entry::Full;
        }
        let receiver = queue.push(peer, Job { key, work });
        self.0.ready.notify_one();
        Entry::Wait(receiver)
    }
}

impl<T> Checks<T> {
    /// Returns the state of the queue as that of a budget: the checks that are queued or under way.
    pub(super) fn usage(&self) -> Usage {
        let queue = self.0.queue();
        Usage {
            budget: "password_checks",
            upstream: None,
            in_use: queue.flights.len() as u64,
            limit: (LONGEST_QUEUE + threads()) as u64,
            waiting: queue.length as u64,
            refused: queue.refused,
        }
    }
}

impl<T> Drop for Checks<T> {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.ready.notify_all();
    }
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    ready: Condvar,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        let queue = Queue {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            flights: HashMap::new(),
            length: 0,
            refused: 0,
            closed: false,
        };
        Self { queue: Mutex::new(queue), ready: Condvar::new() }
    }
}

impl<T> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock()
    }
}

impl<T: Clone> Shared<T> {
    fn work(&self) {
        // On Linux this is the calling thread's alone. Where it is not allowed, the threads are just not polite.
        let _ = rustix::process::nice(NICENESS);
        while let Some(job) = self.next() {
            // A check that panics must not take its thread along: its askers are told, by dropping, to ask again.
            let outcome = catch_unwind(AssertUnwindSafe(job.work)).ok();
            self.finish(job.key, outcome);
        }
    }

    fn next(&self) -> Option<Job<T>> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.pop() {
                return Some(job);
            }
            self.ready.wait(&mut queue);
        }
    }

    fn finish(&self, key: Fingerprint, outcome: Option<T>) {
        let flight = self.queue().flights.remove(&key);
        let (Some(flight), Some(outcome)) = (flight, outcome) else { return };
        for asker in flight.0 {
            // A client that has left needs no result.
            let _ = asker.send(outcome.clone());
        }
    }
}

struct Queue<T> {
    waiting: HashMap<Client, VecDeque<Job<T>>>,
    /// The peers in `waiting`, each once, in the order of their turns.
    turns: VecDeque<Client>,
    /// The waiters of each job that is queued or under way.
    flights: HashMap<Fingerprint, Flight<T>>,
    length: usize,
    /// Checks that were refused or displaced.
    refused: u64,
    closed: bool,
}

struct Job<T> {
    key: Fingerprint,
    work: Work<T>,
}

struct Flight<T>(Vec<oneshot::Sender<T>>);

impl<T> Flight<T> {
    fn join(&mut self) -> oneshot::Receiver<T> {
        // The askers who went away are swept out, or a client that reconnects forever would grow this.
        self.0.retain(|asker| !asker.is_closed());
        let (asker, receiver) = oneshot::channel();
        self.0.push(asker);
        receiver
    }
}

impl<T> Queue<T> {
    fn push(&mut self, peer: Client, job: Job<T>) -> oneshot::Receiver<T> {
        let receiver = self.flights.entry(job.key).or_insert_with(|| Flight(Vec::new())).join();
        let queue = self.waiting.entry(peer).or_default();
        if queue.is_empty() {
            self.turns.push_back(peer);
        }
        queue.push_back(job);
        self.length += 1;
        receiver
    }

    fn pop(&mut self) -> Option<Job<T>> {
        let peer = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&peer)?;
        let job = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
        self.length -= usize::from(job.is_some());
        job
    }

    /// Makes room in a full queue at the cost of the client that holds most of it, if that is not the asker.
    fn has_room_for(&mut self, peer: Client) -> bool {
        if self.length < LONGEST_QUEUE {
            return true;
        }
        let own = self.waiting.get(&peer).map_or(0, VecDeque::len);
        let Some(longest) = self.waiting.values_mut().max_by_key(|queue| queue.len()) else { return true };
        if longest.len() <= own + 1 {
            return false;
        }
        if let Some(job) = longest.pop_back() {
            self.flights.remove(&job.key);
            self.length -= 1;
            self.refused += 1;
        }
        true
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// Two keep one slow check from holding up everyone; more would take the cores away from requests.
const THREADS: usize = 2;

/// Half of the way to the lowest priority: an idle machine gives all it has, a busy one serves first.
const NICENESS: i32 = 10;

/// Some 25 s of work for two threads at cost 10: who would wait longer had better ask again.
const LONGEST_QUEUE: usize = 1024;

#[cfg(test)]
mod tests;
