//! The threads that hash and write: few, of low priority, and out of the workers' way.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A pool whose threads end when it is dropped.
#[derive(Default)]
pub(crate) struct HashPool(Arc<Shared>);

/// A piece of work, of some milliseconds.
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
    /// Has `job` done, in the order of asking. Threads are started as they are needed, as many as there are cores.
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
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A job that breaks has its own way of saying so when it is dropped.
                let _ = catch_unwind(AssertUnwindSafe(job));
                queue = self.queue();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
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
    fn all_is_done_even_after_a_job_that_breaks() {
        let desk = HashPool::default();
        let (sender, receiver) = mpsc::channel();
        desk.give(|| panic!("broken"));
        for number in 0..100 {
            let sender = sender.clone();
            desk.give(move || sender.send(number).unwrap());
        }
        drop(desk);
        drop(sender);
        assert_eq!(receiver.iter().count(), 100);
    }
}
