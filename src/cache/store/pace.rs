//! The pace of work that no request waits for: counting, removing and tidying up beside the threads that answer.
//!
//! A low priority is not enough. Since Linux 6.6 a thread that runs keeps its core until its slice is over, whatever wakes
//! meanwhile, and that is looked at on the scheduler's tick: a worker waited for up to 4 ms at a time, and with two cores a hit
//! for 12 ms (p99 while 200,000 files were counted). So these threads leave the core themselves, after each burst.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use crate::clock;

thread_local! {
    /// When the burst of this thread began.
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    #[cfg(test)]
    static CALLS: Cell<Calls> = const { Cell::new(Calls { gentle: 0, brief: 0 }) };
}

/// The number of times that a thread could have rested.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) gentle: usize,
    pub(crate) brief: usize,
}

/// Lets the threads that answer requests run, if this one has worked for a [burst](BURST). Belongs between two files. Not for a
/// worker's thread.
pub(crate) fn rest() {
    #[cfg(test)]
    CALLS.set(Calls { gentle: CALLS.get().gentle + 1, ..CALLS.get() });
    rest_for(REST);
}

/// Does the same where a fill waits for this work: with a rest that is as short as the system has it.
pub(crate) fn rest_briefly() {
    #[cfg(test)]
    CALLS.set(Calls { brief: CALLS.get().brief + 1, ..CALLS.get() });
    rest_for(BRIEF_REST);
}

/// Lowers the priority of this thread, on Linux of this one alone. Where that fails, it runs at the usual one.
pub(crate) fn lower_priority() {
    let _ = rustix::process::nice(NICENESS);
}

/// Returns how often this thread could have rested.
#[cfg(test)]
pub(crate) fn calls() -> Calls {
    CALLS.get()
}

fn rest_for(rest: Duration) {
    if is_due() {
        thread::sleep(rest);
        BEGUN.set(Some(clock::now()));
    }
}

/// Returns true if this thread has worked for a burst.
fn is_due() -> bool {
    let now = clock::now();
    let begun = BEGUN.get().unwrap_or_else(|| {
        BEGUN.set(Some(now));
        now
    });
    now.duration_since(begun) >= BURST
}

/// The time of work after which a thread rests: short beside the tenths of a millisecond that a hit takes.
const BURST: Duration = Duration::from_micros(200);

/// The rest after each burst: the work takes twice as long, two million files a minute.
const REST: Duration = Duration::from_micros(200);

/// The rest while a fill waits. Linux adds some 50 microseconds to each.
const BRIEF_REST: Duration = Duration::from_micros(1);

/// Half of the way to the lowest priority, so that a busy machine serves requests first. It lowers the priority of reads and
/// writes of the disk too, see ioprio_set(2).
const NICENESS: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_work_makes_a_rest_due() {
        assert!(!is_due(), "it begins");
        tokio::time::advance(BURST - Duration::from_nanos(1)).await;
        assert!(!is_due());
        tokio::time::advance(Duration::from_nanos(1)).await;
        assert!(is_due());
        rest_briefly();
        assert!(!is_due(), "the rest begins a new burst");
        tokio::time::advance(BURST).await;
        assert!(is_due());
    }
}
