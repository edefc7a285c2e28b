//! Records that have been looked at lately, and those that wait to be written.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use moka::Equivalent;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::cache::metadata::records::place::Place;
use crate::clock;
use crate::proto::RepositoryName;

/// Records of one kind, of all upstreams. A name is a digest or a tag.
pub(crate) struct Memory<N, T> {
    lately: Cache<Key<N>, Kept<T>>,
    /// Changes that are not on the disk yet. They go before all else, and are not evicted: the file says something older.
    waiting: RwLock<HashMap<Key<N>, Waiting<T>>>,
    /// The number of those, so that a look costs no lock as long as there are none.
    waits: AtomicUsize,
    /// The number of changes so far.
    changes: AtomicU64,
}

/// A change that waits to be written.
#[derive(Clone)]
pub(crate) struct Waiting<T> {
    /// None if the record is to be removed.
    pub(crate) value: Option<T>,
    /// Tells a newer change from the one that was written.
    change: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
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

    /// Returns true if the disk did not take it.
    pub(crate) fn is_alone(&self) -> bool {
        self.looked.is_none()
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
        let lately = Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build();
        Self { lately, waiting: RwLock::default(), waits: AtomicUsize::new(0), changes: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, look: &Look<'_, N>) -> Option<Kept<T>> {
        match self.waiting(look) {
            Some(waiting) => Some(Kept::alone(waiting.value)),
            None => self.lately.get(look),
        }
    }

    /// Lets a change count from now on, which is to be written. Returns true if no change of the record has waited before:
    /// then its writing must be seen to.
    pub(crate) fn wait(&self, look: &Look<'_, N>, value: Option<T>) -> bool {
        let mut waiting = self.waiting.write();
        let change = self.changes.fetch_add(1, Ordering::Relaxed);
        let before = waiting.insert(look.key(), Waiting { value, change });
        self.waits.store(waiting.len(), Ordering::Release);
        before.is_none()
    }

    /// Returns the newest change of a record that waits to be written.
    pub(crate) fn waiting(&self, look: &Look<'_, N>) -> Option<Waiting<T>> {
        if self.waits.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.waiting.read().get(&look.key()).cloned()
    }

    /// Notes what has become of a change: `kept` counts from now on, or nothing, unless a newer change waits.
    pub(crate) fn settle(&self, look: &Look<'_, N>, change: &Waiting<T>, kept: Option<Kept<T>>) {
        let mut waiting = self.waiting.write();
        let key = look.key();
        if waiting.get(&key).is_some_and(|newest| newest.change == change.change) {
            self.remember(key.clone(), kept);
            waiting.remove(&key);
            self.waits.store(waiting.len(), Ordering::Release);
        }
    }

    /// Lets the newest change of a record count for this process alone: nothing writes it.
    pub(crate) fn give_up(&self, look: &Look<'_, N>) {
        let mut waiting = self.waiting.write();
        let key = look.key();
        if let Some(newest) = waiting.remove(&key) {
            self.remember(key, Some(Kept::alone(newest.value)));
            self.waits.store(waiting.len(), Ordering::Release);
        }
    }

    /// Returns the records of a ledger that the disk did not take, as far as they are in memory: a scan.
    pub(crate) fn alone(&self, ledger: u64) -> Vec<OwnedLook<N>> {
        let lately = self.lately.iter().filter(|(key, kept)| key.ledger == ledger && kept.is_alone());
        lately.map(|(key, _)| OwnedLook((*key).clone())).collect()
    }

    /// Lets a record that the disk did not take wait to be written again. Returns false if it has changed meanwhile.
    pub(crate) fn wait_again(&self, look: &Look<'_, N>) -> bool {
        let mut waiting = self.waiting.write();
        let key = look.key();
        let alone = self.lately.get(look).filter(Kept::is_alone);
        let Some(kept) = alone.filter(|_| !waiting.contains_key(&key)) else { return false };
        let change = self.changes.fetch_add(1, Ordering::Relaxed);
        waiting.insert(key, Waiting { value: kept.value, change });
        self.waits.store(waiting.len(), Ordering::Release);
        true
    }

    fn remember(&self, key: Key<N>, kept: Option<Kept<T>>) {
        // Takes turns with `learn` for this key, which a plain insertion would not.
        self.lately.entry(key).and_compute_with(|entry| match (kept, entry) {
            (Some(kept), _) => Op::Put(kept),
            (None, Some(_)) => Op::Remove,
            (None, None) => Op::Nop,
        });
    }

    /// Puts what a file said when it was read, unless something newer has been put meanwhile.
    pub(crate) fn learn(&self, look: &Look<'_, N>, value: Option<T>) {
        self.lately.entry(look.key()).and_compute_with(|entry| match (entry, value) {
            (Some(entry), _) if entry.value().is_fresh() => Op::Nop,
            (_, Some(value)) => Op::Put(Kept::on_disk(value)),
            (Some(_), None) => Op::Remove,
            (None, None) => Op::Nop,
        });
    }

    /// Returns the names of a repository's records at `place` that are in memory: a scan.
    pub(crate) fn names(&self, ledger: u64, repository: &RepositoryName, place: Place) -> Vec<N> {
        let of = |key: &Key<N>| key.is_at(ledger, repository, place);
        let lately = self.lately.iter().filter(|(key, _)| of(key)).map(|(key, _)| key.name.clone());
        let waiting = self.waiting.read();
        lately.chain(waiting.keys().filter(|key| of(key)).map(|key| key.name.clone())).collect()
    }

    /// Returns the changes of a repository's records at `place` that wait to be written: each name, and true if there is such a
    /// record.
    pub(crate) fn changes(&self, ledger: u64, repository: &RepositoryName, place: Place) -> Vec<(N, bool)> {
        let waiting = self.waiting.read();
        let of = waiting.iter().filter(|(key, _)| key.is_at(ledger, repository, place));
        of.map(|(key, waiting)| (key.name.clone(), waiting.value.is_some())).collect()
    }

    /// Returns the repositories of which records wait to be written.
    pub(crate) fn repositories(&self, ledger: u64) -> Vec<RepositoryName> {
        let waiting = self.waiting.read();
        let new = waiting.iter().filter(|(key, waiting)| key.ledger == ledger && waiting.value.is_some());
        new.filter_map(|(key, _)| key.repository.clone()).collect()
    }

    /// Drops the changes of a repository that wait to be written.
    pub(crate) fn drop_waiting(&self, ledger: u64, repository: &RepositoryName) {
        let mut waiting = self.waiting.write();
        waiting.retain(|key, _| !key.is_of(ledger, repository));
        self.waits.store(waiting.len(), Ordering::Release);
    }

    /// Drops all of a repository: a scan, for what an operator does by hand.
    pub(crate) fn remove_repository(&self, ledger: u64, repository: &RepositoryName) {
        let keys = self.lately.iter().map(|(key, _)| key).filter(|key| key.is_of(ledger, repository));
        for key in keys.collect::<Vec<_>>() {
            self.lately.invalidate(&*key);
        }
    }
}

impl<N> Key<N> {
    fn is_of(&self, ledger: u64, repository: &RepositoryName) -> bool {
        self.ledger == ledger && self.repository.as_ref() == Some(repository)
    }

    fn is_at(&self, ledger: u64, repository: &RepositoryName, place: Place) -> bool {
        self.place == place && self.is_of(ledger, repository)
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
        self.lock_of(what).lock()
    }

    /// Locks one record likewise; none if another thread keeps the lock for long: it waits for the disk.
    pub(crate) fn one_soon(&self, what: impl Hash) -> Option<MutexGuard<'_, ()>> {
        self.lock_of(what).try_lock_for(PATIENCE)
    }

    fn lock_of(&self, what: impl Hash) -> &Mutex<()> {
        let hash = self.hasher.hash_one(what);
        &self.locks[usize::try_from(hash % LOCKS as u64).unwrap_or_default()]
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

/// A disk that works writes a record within this time.
const PATIENCE: Duration = Duration::from_millis(100);
