//! The threads that hash and write, out of the workers' way.
//!
//! The store's other threads, sync and maintenance, are not of this pool: each is one thread with jobs in order, which is waited
//! for when the store closes, and runs at a lower priority.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock;
use crate::config::limits;

/// A pool whose threads end when it is dropped.
#[derive(Default)]
pub(crate) struct HashPool(Arc<Shared>);

/// A job of some milliseconds.
type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
}

/// The urgency of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A job for a small blob, which goes ahead: a client waits for a configuration of a kilobyte, not for the disk to take the
    /// layers of others.
    Small,
    /// A job for a blob of any size.
    Usual,
}

#[derive(Default)]
struct Queue {
    small: VecDeque<Job>,
    usual: VecDeque<Job>,
    /// Small jobs that have gone ahead of a usual one in a row.
    ahead: usize,
    /// The jobs that are running, and since when.
    running: HashMap<u64, (Urgency, Instant)>,
    /// The number of the next job.
    next: u64,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl HashPool {
    /// Runs `job` after those of its kind that were given before. Threads are started as they are needed: one for each core,
    /// and one more, which only small jobs use.
    pub(crate) fn give(&self, turn: Urgency, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.0.queue();
        match turn {
            Urgency::Small => queue.small.push_back(Box::new(job)),
            Urgency::Usual => queue.usual.push_back(Box::new(job)),
        }
        if queue.idle > 0 {
            self.0.ready.notify_one();
        } else if queue.threads < queue.most_threads() && start(&self.0, queue.threads).is_ok() {
            queue.threads += 1;
        }
    }
}

impl Queue {
    /// Returns the most threads there may be: those of which the disk holds up the job are replaced, up to a limit.
    fn most_threads(&self) -> usize {
        let held_up = self.running.values().filter(|(_, since)| is_held_up(*since)).count();
        most() + 1 + held_up.min(HELD_UP)
    }

    /// Takes the next job, if one may run now, and its number.
    fn take(&mut self) -> Option<(u64, Job)> {
        let (urgency, job) = self.choose()?;
        self.next += 1;
        self.running.insert(self.next, (urgency, clock::now()));
        Some((self.next, job))
    }

    fn choose(&mut self) -> Option<(Urgency, Job)> {
        let is_usual =
            |(urgency, since): &&(Urgency, Instant)| *urgency == Urgency::Usual && !is_held_up(*since);
        let may_run_usual = self.running.values().filter(is_usual).count() < most();
        let usual_first = self.ahead >= AHEAD && may_run_usual && !self.usual.is_empty();
        if !usual_first && let Some(job) = self.small.pop_front() {
            self.ahead += 1;
            return Some((Urgency::Small, job));
        }
        if !may_run_usual {
            return None;
        }
        let job = self.usual.pop_front()?;
        self.ahead = 0;
        Some((Urgency::Usual, job))
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.ready.notify_all();
    }
}

/// Returns true if a job has been running so long that the disk must hold it up.
fn is_held_up(since: Instant) -> bool {
    clock::now().duration_since(since) >= limits::DISK_DEADLINE
}

/// Returns the jobs of any urgency that may run at a time: one for each core. They are counted once, since that reads files of
/// the cgroup, which would cost a job as much as its smaller writes.
fn most() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn start(shared: &Arc<Shared>, number: usize) -> io::Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name(format!("hash-{number}")).spawn(move || shared.work())?;
    Ok(())
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    fn work(&self) {
        let mut queue = self.queue();
        loop {
            if let Some((number, job)) = queue.take() {
                drop(queue);
                // A job that panics must not end the thread. Its results are told of by what it drops.
                let _ = catch_unwind(AssertUnwindSafe(job));
                queue = self.queue();
                queue.running.remove(&number);
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                self.ready.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }
}

/// The most threads that are replaced.
const HELD_UP: usize = 64;

/// Small jobs that go ahead in a row: many of them must not stop all others.
const AHEAD: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_run_after_one_that_panics() {
        let pool = HashPool::default();
        let (sender, receiver) = mpsc::channel();
        pool.give(Urgency::Usual, || panic!("broken"));
        for number in 0..100 {
            let sender = sender.clone();
            pool.give(Urgency::Usual, move || sender.send(number).unwrap());
        }
        drop(pool);
        drop(sender);
        assert_eq!(receiver.iter().count(), 100);
    }

    /// Gives jobs that wait for the gate until every thread for usual jobs is busy.
    fn busy(pool: &HashPool, gate: &Arc<(Mutex<bool>, Condvar)>) {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..most() {
            let (gate, sender) = (gate.clone(), sender.clone());
            pool.give(Urgency::Usual, move || {
                sender.send(()).unwrap();
                gate.1.wait_while(&mut gate.0.lock(), |open| !*open);
            });
        }
        (0..most()).for_each(|_| receiver.recv().unwrap());
    }

    #[test]
    fn small_jobs_do_not_wait_for_large_ones() {
        let (pool, gate) = (HashPool::default(), Arc::<(Mutex<bool>, Condvar)>::default());
        busy(&pool, &gate);
        let (sender, receiver) = mpsc::channel();
        for (turn, word) in [(Urgency::Usual, "large"), (Urgency::Small, "small")] {
            let sender = sender.clone();
            pool.give(turn, move || sender.send(word).unwrap());
        }
        let wait = std::time::Duration::from_secs(20);
        assert_eq!(receiver.recv_timeout(wait), Ok("small"));
        assert!(receiver.try_recv().is_err(), "the other waits");
        *gate.0.lock() = true;
        gate.1.notify_all();
        assert_eq!(receiver.recv_timeout(wait), Ok("large"));
    }

    #[test]
    fn many_small_jobs_do_not_stop_others() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| queue.small.push_back(Box::new(|| ())));
        queue.usual.push_back(Box::new(|| ()));
        let taken: Vec<_> = std::iter::from_fn(|| queue.choose()).map(|(urgency, _)| urgency).collect();
        assert_eq!(taken.iter().position(|urgency| *urgency == Urgency::Usual), Some(AHEAD));
        assert_eq!(taken.len(), 101);
    }
}
