//! Records that have been looked at lately.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use moka::Equivalent;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};

use crate::cache::metadata::records::place::Place;
use crate::clock;
use crate::proto::RepositoryName;

/// Records of one kind, of all upstreams. A name is a digest or a tag.
pub(crate) struct Memory<N, T>(Cache<Key<N>, Kept<T>>);

#[derive(PartialEq, Eq, Hash)]
struct Key<N> {
    ledger: u64,
    place: Place,
    repository: Option<RepositoryName>,
    name: N,
}

/// A borrowed [`Key`]. Has the hash of the [`Key`] with the same fields.
#[derive(Hash)]
pub(crate) struct Look<'a, N> {
    /// The number of the ledger.
    pub(crate) ledger: u64,
    pub(crate) place: Place,
    /// None for records of no repository.
    pub(crate) repository: Option<&'a RepositoryName>,
    pub(crate) name: &'a N,
}

/// A [`Look`] of its own.
pub(crate) struct OwnedLook<N>(Key<N>);

impl<N: Clone> Look<'_, N> {
    /// Returns the same for another thread.
    pub(crate) fn owned(&self) -> OwnedLook<N> {
        OwnedLook(self.key())
    }

    fn key(&self) -> Key<N> {
        let Look { ledger, place, repository, name } = *self;
        Key { ledger, place, repository: repository.cloned(), name: name.clone() }
    }
}

impl<N> OwnedLook<N> {
    /// Returns it as it was.
    pub(crate) fn look(&self) -> Look<'_, N> {
        let Key { ledger, place, repository, name } = &self.0;
        Look { ledger: *ledger, place: *place, repository: repository.as_ref(), name }
    }
}

impl<N: Eq> Equivalent<Key<N>> for Look<'_, N> {
    fn equivalent(&self, key: &Key<N>) -> bool {
        self.name == &key.name
            && self.repository == key.repository.as_ref()
            && self.place == key.place
            && self.ledger == key.ledger
    }
}

/// A record in memory.
#[derive(Clone)]
pub(crate) struct Kept<T> {
    /// None if the record was removed, but its file could not be.
    pub(crate) value: Option<T>,
    /// When the file was read or written last; none: the disk failed, and only the value in memory counts.
    looked: Option<Instant>,
}

impl<T> Kept<T> {
    /// Returns a record as the file has it now.
    pub(crate) fn on_disk(value: T) -> Self {
        Self { value: Some(value), looked: Some(clock::now()) }
    }

    /// Returns a record that the disk did not take.
    pub(crate) fn alone(value: Option<T>) -> Self {
        Self { value, looked: None }
    }

    /// Returns true if it holds without a look at the disk, where another process may have changed it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.looked.is_none_or(|looked| clock::now().duration_since(looked) < LOOKED)
    }
}

impl<N, T> Memory<N, T>
where
    N: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self(Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build())
    }

    pub(crate) fn get(&self, look: &Look<'_, N>) -> Option<Kept<T>> {
        self.0.get(look)
    }

    pub(crate) fn put(&self, look: &Look<'_, N>, kept: Kept<T>) {
        self.0.insert(look.key(), kept);
    }

    pub(crate) fn remove(&self, look: &Look<'_, N>) {
        self.0.invalidate(look);
    }

    /// Returns the names of a repository's records at `place` that are in memory: a scan.
    pub(crate) fn names(&self, ledger: u64, repository: &RepositoryName, place: Place) -> Vec<N> {
        let of = |key: &Key<N>| {
            key.ledger == ledger && key.place == place && key.repository.as_ref() == Some(repository)
        };
        self.0.iter().filter(|(key, _)| of(key)).map(|(key, _)| key.name.clone()).collect()
    }

    /// Drops all of a repository: a scan, for what an operator does by hand.
    pub(crate) fn remove_repository(&self, ledger: u64, repository: &RepositoryName) {
        let of = |key: &Key<N>| key.ledger == ledger && key.repository.as_ref() == Some(repository);
        let keys = self.0.iter().map(|(key, _)| key).filter(|key| of(key)).collect::<Vec<_>>();
        for key in keys {
            self.0.invalidate(&*key);
        }
    }
}

/// Locks, so that one thread at a time reads a record's file and puts it into memory.
pub(crate) struct Locks {
    hasher: RandomState,
    locks: [Mutex<()>; LOCKS],
}

impl Default for Locks {
    fn default() -> Self {
        Self { hasher: RandomState::new(), locks: [const { Mutex::new(()) }; LOCKS] }
    }
}

impl Locks {
    /// Locks one record, and some others that happen to share its lock.
    pub(crate) fn one(&self, what: impl Hash) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(what);
        let index = usize::try_from(hash % LOCKS as u64).unwrap_or_default();
        self.locks[index].lock()
    }

    /// Waits for each lock in turn, and keeps none.
    pub(crate) fn pass(&self) {
        for lock in &self.locks {
            drop(lock.lock());
        }
    }
}

/// Records of one kind: some 20 MiB, and more than a day's pulls of a large installation.
const ENTRIES: u64 = 64 * 1024;

/// Records that another process removes end here within this time.
const LOOKED: Duration = Duration::from_secs(60);

const LOCKS: usize = 64;
