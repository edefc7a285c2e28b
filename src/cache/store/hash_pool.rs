//! The threads that hash and write, out of the workers' way.
//!
//! The store's other threads, sync and maintenance, are not of this pool: each is one thread with jobs in order, which is waited
//! for when the store closes, and runs at a lower priority.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

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

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl HashPool {
    /// Runs `job` after those that were given before. Threads are started as they are needed, as many as there are cores.
    pub(crate) fn give(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.0.queue();
        queue.jobs.push_back(Box::new(job));
        if queue.idle > 0 {
            self.0.ready.notify_one();
        } else if queue.threads < most() && start(&self.0, queue.threads).is_ok() {
            queue.threads += 1;
        }
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.ready.notify_all();
    }
}

fn most() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A job that panics must not end the thread. Its results are told of by what it drops.
                let _ = catch_unwind(AssertUnwindSafe(job));
                queue = self.queue();
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_run_after_one_that_panics() {
        let pool = HashPool::default();
        let (sender, receiver) = mpsc::channel();
        pool.give(|| panic!("broken"));
        for number in 0..100 {
            let sender = sender.clone();
            pool.give(move || sender.send(number).unwrap());
        }
        drop(pool);
        drop(sender);
        assert_eq!(receiver.iter().count(), 100);
    }
}
