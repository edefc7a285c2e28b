//! The worker that runs the current thread.
//!
//! Each worker has a runtime and upstream connections of its own, and a connection must not leave the runtime that drives
//! it. The number is a property of the thread, so that no function has to hand it on.

use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    static ANSWERS: Cell<bool> = const { Cell::new(false) };
}

/// Makes the current thread that of worker `number`, counted from 0.
pub(crate) fn enter(number: usize) {
    CURRENT.set(Some(number));
    answer();
}

/// Marks the current thread as one that answers requests, and so must never wait for a disk.
pub(crate) fn answer() {
    ANSWERS.set(true);
}

/// Returns true on a thread that answers requests.
pub(crate) fn is_worker() -> bool {
    ANSWERS.get()
}

/// Returns the current thread's place among `count` places (at least 1), the last of which is for threads that are no
/// worker's: the runtime of the background work.
pub(crate) fn place(count: usize) -> usize {
    CURRENT.get().filter(|number| *number < count).unwrap_or(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_the_place_of_its_worker() {
        std::thread::spawn(|| {
            assert_eq!((place(1), place(3)), (0, 2));
            enter(1);
            assert_eq!((place(1), place(3)), (0, 1));
        })
        .join()
        .unwrap();
    }
}
