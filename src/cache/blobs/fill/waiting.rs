//! Readers that wait for the next bytes, woken together.

use std::task::Waker;

/// A place for each reader.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
    count: usize,
}

impl Waiting {
    /// A place for one more.
    pub(crate) fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        })
    }

    /// It waits for nothing more.
    pub(crate) fn leave(&mut self, place: usize) {
        if self.places[place].take().is_some() {
            self.count -= 1;
        }
        self.free.push(place);
    }

    /// The reader at `place` waits.
    pub(crate) fn wait(&mut self, place: usize, waker: &Waker) {
        match &mut self.places[place] {
            Some(known) => known.clone_from(waker),
            free => {
                *free = Some(waker.clone());
                self.count += 1;
            }
        }
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// All who wait, to be woken without the lock.
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        self.count = 0;
        self.places.iter_mut().filter_map(Option::take).collect()
    }
}
