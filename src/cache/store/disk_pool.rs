//! The threads that wait for the disk, so that no worker does.
//!
//! A look that memory answers is done on the worker itself: it notes with [`note_missed`] what it did without, and only then it
//! is done again here. What is written goes [`later`](DiskPool::later), in order. Each wait has a deadline, and the jobs and
//! threads have a limit: with a disk that hangs, requests pass it by.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::cache::store::health::Health;
use crate::cache::store::maintenance_queue::MaintenanceQueue;
use crate::clock;
use crate::config::limits;
use crate::worker_id;

/// A pool whose threads end when it is dropped.
#[derive(Default)]
pub(crate) struct DiskPool {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    health: Arc<Health>,
    maintenance: Arc<MaintenanceQueue>,
}

/// The disk does not answer in time, or so many wait for it that one more would not be answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskBusy;

impl From<DiskBusy> for io::Error {
    fn from(_: DiskBusy) -> Self {
        Self::new(io::ErrorKind::TimedOut, "the disk does not answer in time")
    }
}

/// The use that a job makes of the disk. A disk may still be read where nothing can be written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

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

/// The jobs that are done one after the other.
#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Default)]
struct LaneState {
    jobs: VecDeque<(usize, Job)>,
    /// Bytes of the jobs.
    weight: usize,
    running: bool,
    /// When the job began that is being done.
    since: Option<Instant>,
}

thread_local! {
    static MISSED: Cell<bool> = const { Cell::new(false) };
}

/// Notes that this worker did without something that only the disk knows.
pub(crate) fn note_missed() {
    MISSED.set(true);
}

/// Runs `look`, which asks memory alone on a worker's thread. Second: true if the disk might have more.
pub(crate) fn in_memory<T>(look: impl FnOnce() -> T) -> (T, bool) {
    MISSED.set(false);
    let found = look();
    (found, MISSED.take())
}

impl DiskPool {
    /// Returns a pool for a disk of this state.
    pub(crate) fn new(health: Arc<Health>, maintenance: Arc<MaintenanceQueue>) -> Self {
        Self { shared: Arc::default(), lane: Arc::default(), health, maintenance }
    }

    /// Returns what `look` finds: in memory, else on the disk. Where the disk does not answer in time, what memory has counts.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        what: &'static str,
        look: impl Fn() -> T + Send + 'static,
    ) -> T {
        let (found, missed) = in_memory(&look);
        if missed { self.run(Use::Read, what, look).await.unwrap_or(found) } else { found }
    }

    /// Runs `work` on a thread of the pool where this one is a worker's, and waits for it. `what` it does stands in the log.
    ///
    /// # Errors
    /// [`DiskBusy`]; then it may still be done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        how: Use,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DiskBusy> {
        let refused = match how {
            Use::Read => self.health.is_hung(),
            Use::Write => self.health.is_degraded(),
        };
        if refused {
            return Err(DiskBusy);
        }
        if !worker_id::is_worker() {
            // This thread answers no requests: it may wait itself.
            return Ok(work());
        }
        let (sender, receiver) = oneshot::channel();
        let begun = Arc::new(OnceLock::new());
        let begins = begun.clone();
        self.give(move || {
            let _ = begins.set(clock::now());
            if !sender.is_closed() {
                // Drops a late result on this thread, since closing its file may wait for the disk.
                let _ = sender.send(work());
            }
        })?;
        match tokio::time::timeout(limits::DISK_DEADLINE, receiver).await {
            Ok(done) => done.map_err(|_| DiskBusy),
            Err(_) => {
                // A job that has waited for a thread all the time says nothing of the disk.
                let half = limits::DISK_DEADLINE / 2;
                if begun.get().is_some_and(|begun| clock::now().duration_since(*begun) > half) {
                    self.note_hanging(how, what);
                }
                Err(DiskBusy)
            }
        }
    }

    /// Runs `work` after all that was given here before, and does not wait for it. `weight` is the memory that it holds. Returns
    /// false if too much waits: then it is not done.
    pub(crate) fn later(&self, weight: usize, work: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.lane.state.lock();
        let hangs = state.since.is_some_and(|since| clock::now() - since > limits::DISK_DEADLINE);
        if hangs && !self.health.is_degraded() {
            self.note_hanging(Use::Write, "writing records and manifests");
        }
        if state.jobs.len() >= limits::DISK_LATER || state.weight + weight > limits::DISK_LATER_BYTES {
            return false;
        }
        state.weight += weight;
        state.jobs.push_back((weight, Box::new(work)));
        if !std::mem::replace(&mut state.running, true) {
            let lane = self.lane.clone();
            // Where that fails, the next one is given again.
            state.running = self.give(move || lane.run()).is_ok();
        }
        true
    }

    /// Runs what must be done sometime, such as removing a file.
    pub(crate) fn tidy(&self, work: impl FnOnce() + Send + 'static) {
        // Where too much waits, the file stays until the disk is scanned.
        let _ = self.give(work);
    }

    /// Takes note that something has waited for the disk too long: it is passed by until it answers.
    pub(crate) fn note_hanging(&self, how: Use, what: &str) {
        let seconds = limits::DISK_DEADLINE.as_secs();
        let reason = format!("the cache's disk has not answered for {seconds} s: {what}");
        match how {
            Use::Read => self.health.hang(reason),
            Use::Write => self.health.degrade(reason),
        }
        self.maintenance.schedule_probe();
    }

    /// Waits until what is to be done later is done, at most so long. Returns true if it is.
    pub(crate) fn flush(&self, patience: Duration) -> bool {
        let mut state = self.lane.state.lock();
        if !state.jobs.is_empty() && !std::mem::replace(&mut state.running, true) {
            let lane = self.lane.clone();
            state.running = self.give(move || lane.run()).is_ok();
        }
        let is_busy = |state: &mut LaneState| state.running;
        !self.lane.changed.wait_while_for(&mut state, is_busy, patience).timed_out()
    }

    fn give(&self, job: impl FnOnce() + Send + 'static) -> Result<(), DiskBusy> {
        let mut queue = self.shared.queue();
        if queue.jobs.len() >= limits::DISK_WAITING {
            return Err(DiskBusy);
        }
        queue.jobs.push_back(Box::new(job));
        if queue.idle >= queue.jobs.len() {
            self.shared.ready.notify_one();
        } else if queue.threads < limits::DISK_THREADS && start(&self.shared, queue.threads).is_ok() {
            queue.threads += 1;
        }
        Ok(())
    }
}

impl Drop for DiskPool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.ready.notify_all();
    }
}

fn start(shared: &Arc<Shared>, number: usize) -> io::Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name(format!("cache-disk-{number}")).spawn(move || shared.work())?;
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
                // A job that panics must not end the thread. The caller sees that no result comes.
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

impl Lane {
    /// Does what waits, until nothing does.
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            let Some((weight, job)) = state.jobs.pop_front() else {
                state.running = false;
                drop(state);
                self.changed.notify_all();
                return;
            };
            state.since = Some(clock::now());
            drop(state);
            let _ = catch_unwind(AssertUnwindSafe(job));
            let mut state = self.state.lock();
            state.since = None;
            state.weight -= weight;
        }
    }
}

/// Runs `work` on this thread, or on the pool if this is a worker's.
pub(crate) fn off_worker(disk: &DiskPool, work: impl FnOnce() + Send + 'static) {
    if worker_id::is_worker() { disk.tidy(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A gate that jobs wait for.
    #[derive(Clone, Default)]
    struct Shut(Arc<(Mutex<bool>, Condvar)>);

    impl Shut {
        fn pass(&self) {
            self.0.1.wait_while(&mut self.0.0.lock(), |open| !*open);
        }

        fn open(&self) {
            *self.0.0.lock() = true;
            self.0.1.notify_all();
        }
    }

    fn since(begun: Instant) -> Duration {
        clock::now().duration_since(begun)
    }

    #[tokio::test]
    async fn a_hanging_disk_is_passed_by_after_the_deadline() {
        worker_id::answer();
        let (health, shut) = (Arc::<Health>::default(), Shut::default());
        let pool = DiskPool::new(health.clone(), Arc::default());
        let gate = shut.clone();
        let begun = clock::now();
        assert_eq!(pool.run(Use::Read, "a test", move || gate.pass()).await, Err(DiskBusy));
        assert!(since(begun) >= limits::DISK_DEADLINE);
        assert!(health.is_hung() && health.reason().unwrap().ends_with("a test"), "{:?}", health.reason());
        let begun = clock::now();
        assert_eq!(pool.run(Use::Read, "a test", || ()).await, Err(DiskBusy));
        assert!(since(begun) < limits::DISK_DEADLINE, "the next one does not wait");
        shut.open();
        health.recover();
        assert_eq!(pool.run(Use::Read, "a test", || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_still_read() {
        worker_id::answer();
        let (health, shut) = (Arc::<Health>::default(), Shut::default());
        let pool = DiskPool::new(health.clone(), Arc::default());
        let gate = shut.clone();
        assert_eq!(pool.run(Use::Write, "a test", move || gate.pass()).await, Err(DiskBusy));
        assert_eq!(pool.run(Use::Write, "a test", || ()).await, Err(DiskBusy));
        assert_eq!(pool.run(Use::Read, "a test", || 7).await, Ok(7));
        assert!(health.is_degraded() && !health.is_hung());
        shut.open();
    }

    #[tokio::test]
    async fn a_long_queue_is_no_hanging_disk() {
        worker_id::answer();
        let (health, shut) = (Arc::<Health>::default(), Shut::default());
        let pool = DiskPool::new(health.clone(), Arc::default());
        for _ in 0..limits::DISK_THREADS {
            let gate = shut.clone();
            pool.give(move || gate.pass()).unwrap();
        }
        assert_eq!(pool.run(Use::Read, "a test", || ()).await, Err(DiskBusy));
        assert!(!health.is_hung() && !health.is_degraded());
        shut.open();
        assert_eq!(pool.run(Use::Read, "a test", || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn threads_and_jobs_have_a_limit() {
        let (pool, shut) = (DiskPool::default(), Shut::default());
        let given = (0..).take_while(|_| {
            let gate = shut.clone();
            pool.give(move || gate.pass()).is_ok()
        });
        let given = given.count();
        assert!(given <= limits::DISK_THREADS + limits::DISK_WAITING, "{given}");
        assert!(pool.shared.queue().threads <= limits::DISK_THREADS);
        shut.open();
    }

    #[test]
    fn what_is_done_later_is_done_in_order() {
        let (pool, (sender, receiver)) = (DiskPool::default(), mpsc::channel());
        for number in 0..100 {
            let sender = sender.clone();
            assert!(pool.later(1, move || sender.send(number).unwrap()));
        }
        assert!(pool.flush(Duration::from_secs(20)));
        assert!(receiver.try_iter().eq(0..100));
        assert!(!pool.later(limits::DISK_LATER_BYTES + 1, || ()), "it would take too much memory");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_takes_nothing_later_is_told() {
        let (health, shut) = (Arc::<Health>::default(), Shut::default());
        let pool = DiskPool::new(health.clone(), Arc::default());
        let gate = shut.clone();
        assert!(pool.later(1, move || gate.pass()));
        while pool.lane.state.lock().since.is_none() {
            std::thread::yield_now();
        }
        assert!(pool.later(1, || ()) && !health.is_degraded());
        tokio::time::advance(limits::DISK_DEADLINE * 2).await;
        assert!(pool.later(1, || ()) && health.is_degraded());
        shut.open();
    }

    #[tokio::test]
    async fn only_a_look_that_misses_something_goes_to_the_disk() {
        worker_id::answer();
        let pool = DiskPool::default();
        let here = std::thread::current().id();
        let find = || std::thread::current().id();
        assert_eq!(pool.look("a test", find).await, here);
        let miss = || {
            note_missed();
            std::thread::current().id()
        };
        assert_ne!(pool.look("a test", miss).await, here);
    }
}
