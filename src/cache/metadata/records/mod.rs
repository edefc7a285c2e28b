//! Records of what repositories hold, on disk: of (upstream, repository, digest) and of (upstream, repository, tag).

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::store::disk_pool::{DiskPool, Use};
use crate::cache::store::{Access, Amount, Kind, disk_pool};
use crate::clock;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName, Tag};
use crate::worker_id;

mod directory;
mod forgotten;
mod memory;
mod place;
mod room;
mod sweep;
#[cfg(test)]
mod tests;

use directory::Directory;
use forgotten::Forgotten;
use memory::{Kept, Locks, Look, Memory};
pub(crate) use place::ListName;
use place::{Name, Place};
use room::RecordRoom;
use sweep::Sweep;

/// All records of a cache.
pub(crate) struct Records {
    root: PathBuf,
    access: Access,
    lasting: AtomicBool,
    opened: Instant,
    /// All have been counted once.
    counted: AtomicBool,
    /// Until then no further count is due before its time.
    rest_until: Mutex<Instant>,
    /// Until then records that the disk did not take are not written again.
    rewrite_after: Mutex<Instant>,
    shared: Arc<Shared>,
    /// The ledger of each upstream, with the URL that it was opened for.
    ledgers: Mutex<HashMap<String, (String, Ledger)>>,
}

/// The records of one upstream. Reading is a look into memory, or else a small file; what can't be written is kept in
/// memory alone. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    /// Told apart in memory by this.
    number: u64,
    directory: Arc<Directory>,
    shared: Arc<Shared>,
}

/// The state that all ledgers have together.
struct Shared {
    held: Memory<Digest, Membership>,
    tags: Memory<Tag, TagRecord>,
    served: Memory<Digest, Membership>,
    locks: Locks,
    forgotten: Forgotten,
    /// Writes changes that a worker's thread makes to the disk, behind it.
    disk: Arc<DiskPool>,
    /// The number of ledgers so far.
    ledgers: AtomicU64,
    /// Some changes are in memory alone, as the disk did not take them.
    has_unwritten: AtomicBool,
    room: Arc<RecordRoom>,
    /// The look-ups and removals so far.
    #[cfg(test)]
    lookups: AtomicU64,
}

impl Records {
    /// Returns the records below `root`, which need not exist yet, in a cache of `max_size`. Files are touched there only as
    /// `access` says.
    #[cfg(test)]
    pub(crate) fn new(root: PathBuf, access: Access, max_size: u64) -> Self {
        Self::on(root, access, max_size, Arc::default())
    }

    /// Returns the same, which workers' threads read and write on `disk`.
    pub(crate) fn on(root: PathBuf, access: Access, max_size: u64, disk: Arc<DiskPool>) -> Self {
        let shared = Shared {
            held: Memory::new(),
            tags: Memory::new(),
            served: Memory::new(),
            locks: Locks::default(),
            forgotten: Forgotten::default(),
            disk,
            ledgers: AtomicU64::new(0),
            has_unwritten: AtomicBool::new(false),
            room: Arc::new(RecordRoom::new(max_size)),
            #[cfg(test)]
            lookups: AtomicU64::new(0),
        };
        Self {
            root,
            access,
            lasting: AtomicBool::new(false),
            opened: clock::now(),
            counted: AtomicBool::new(false),
            rest_until: Mutex::new(clock::now()),
            rewrite_after: Mutex::new(clock::now()),
            shared: Arc::new(shared),
            ledgers: Mutex::default(),
        }
    }

    /// Returns those of the upstream called `name`. If it was at another URL when they were written, they are of another
    /// registry, and are removed.
    pub(crate) fn ledger(&self, name: &str, url: &str) -> Ledger {
        let mut ledgers = self.ledgers.lock();
        if let Some((known, ledger)) = ledgers.get(name)
            && known == url
        {
            return ledger.clone();
        }
        let ledger = Ledger {
            number: self.shared.ledgers.fetch_add(1, Ordering::Relaxed),
            directory: Arc::new(Directory::open(
                &self.root,
                name,
                url,
                self.access.clone(),
                self.shared.room.clone(),
            )),
            shared: self.shared.clone(),
        };
        ledgers.insert(name.to_owned(), (url.to_owned(), ledger.clone()));
        ledger
    }

    /// Returns the upstreams that have records on disk, in order, each with the URL that they are of.
    pub(crate) fn upstreams(&self) -> Vec<(String, String)> {
        if !self.access.is_readable() {
            return Vec::new();
        }
        let mut upstreams = directory::upstreams(&self.root);
        upstreams.sort_unstable();
        upstreams
    }

    /// Returns the records on the disk, and the bytes that they take; exactly right after a [count](Self::count).
    pub(crate) fn amount(&self) -> Amount {
        self.shared.room.amount()
    }

    /// Sets the function that is called when a [count](Self::count) is due before its time.
    pub(crate) fn call_when_full(&self, on_full: impl Fn() + Send + Sync + 'static) {
        self.shared.room.call_when_full(on_full);
    }

    /// Keeps old records from now on: there is an upstream that is never asked.
    pub(crate) fn never_expire(&self) {
        self.lasting.store(true, Ordering::Relaxed);
    }

    /// Returns true if some records are in memory alone, and the disk may take them by now.
    pub(crate) fn must_be_written(&self) -> bool {
        let is_due = || clock::now() >= *self.rewrite_after.lock();
        self.shared.has_unwritten.load(Ordering::Relaxed) && self.access.is_writable() && is_due()
    }

    /// Writes the records that the disk did not take before. Without that they would be lost at the next start, and with them
    /// the use of all content that was fetched while the disk was full. Not for a worker's thread. `stop` ends it.
    pub(crate) fn write_unwritten(&self, stop: &dyn Fn() -> bool) {
        let start = clock::now();
        self.shared.has_unwritten.store(false, Ordering::Relaxed);
        let ledgers: Vec<_> = self.ledgers.lock().values().map(|(_, ledger)| ledger.clone()).collect();
        for ledger in ledgers {
            ledger.write_unwritten(&self.shared.held, stop);
            ledger.write_unwritten(&self.shared.tags, stop);
            ledger.write_unwritten(&self.shared.served, stop);
        }
        *self.rewrite_after.lock() = clock::now() + (clock::now() - start) * REST;
    }

    /// Returns true if a [count](Self::count) is due: there was none, or there are too many records.
    pub(crate) fn must_be_counted(&self) -> bool {
        let is_counted = self.counted.load(Ordering::Relaxed);
        let has_too_many = self.shared.room.excess() > 0 && clock::now() >= *self.rest_until.lock();
        self.access.is_writable() && (!is_counted || has_too_many)
    }

    /// Counts the records on disk, and removes what is left of earlier removals, records that were not confirmed for
    /// [`limits::RECORD_LIFE`], and the oldest of too many. Reads every directory: not for a worker's thread. `stop` ends it.
    pub(crate) fn count(&self, stop: &dyn Fn() -> bool) {
        if !self.access.is_writable() {
            return;
        }
        // At the start it is not known yet whether there is an upstream that is never asked.
        let expires = clock::now().duration_since(self.opened) >= EXPIRY_AFTER;
        let life = (expires && !self.lasting.load(Ordering::Relaxed)).then_some(limits::RECORD_LIFE);
        let (room, start) = (&self.shared.room, clock::now());
        for _ in 0..ROUNDS {
            let sweep = Sweep { root: &self.root, life, stop };
            let added = room.added();
            let Some(sum) = sweep.count() else { return };
            room.set(sum.all, added);
            self.counted.store(true, Ordering::Relaxed);
            let excess = room.excess();
            if excess > 0 {
                sweep.remove_oldest(sum.all.bytes, excess);
            } else if sum.is_exact {
                break;
            }
        }
        // Where the oldest can't be removed, the next attempt must not follow at once.
        *self.rest_until.lock() = clock::now() + (clock::now() - start) * REST;
    }
}

impl Ledger {
    /// Returns the number of look-ups and removals so far, of all ledgers.
    #[cfg(test)]
    pub(crate) fn lookups(&self) -> u64 {
        self.shared.lookups.load(Ordering::Relaxed)
    }

    fn count_lookup(&self) {
        #[cfg(test)]
        self.shared.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the record that a repository holds something, by its upstream's word there.
    pub(crate) fn held(
        &self,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
    ) -> Option<Membership> {
        self.get(&self.shared.held, &self.look(kind.into(), repository, digest), Membership::parse)
    }

    /// Records that the upstream served or confirmed it there.
    pub(crate) fn hold(&self, repository: &RepositoryName, kind: Kind, digest: &Digest, held: &Membership) {
        self.change(|shared| &shared.held, &self.look(kind.into(), repository, digest), Some(held.clone()));
    }

    /// Forgets all blobs that a repository is known to hold, also those whose records no disk took.
    pub(crate) fn release_blobs(&self, repository: &RepositoryName) {
        let in_memory = self.shared.held.names(self.number, repository, Place::Blobs);
        for digest in in_memory.into_iter().chain(self.blobs(repository)) {
            self.release(repository, Kind::Blob, &digest);
        }
    }

    /// Forgets that it is there.
    pub(crate) fn release(&self, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        self.count_lookup();
        self.change(|shared| &shared.held, &self.look(kind.into(), repository, digest), None);
    }

    /// Returns true if this upstream has served these very bytes, in any repository, and they were verified: only then is its
    /// word that a repository holds them enough for what is held here.
    pub(crate) fn served(&self, digest: &Digest) -> bool {
        let served = self.get(&self.shared.served, &self.look_served(digest), Membership::parse);
        if served.as_ref().is_some_and(|served| served.age() > limits::SERVED_RENEWED) {
            self.write_served(digest);
        }
        served.is_some()
    }

    /// Records that this upstream has served these very bytes, or taken them of a client, and that they were verified.
    pub(crate) fn note_served(&self, digest: &Digest) {
        if !self.served(digest) {
            self.write_served(digest);
        }
    }

    fn write_served(&self, digest: &Digest) {
        let served = Membership { media_type: None, size: None, confirmed: clock::wall() };
        self.change(|shared| &shared.served, &self.look_served(digest), Some(served));
    }

    /// Returns the record of a tag.
    pub(crate) fn tag(&self, repository: &RepositoryName, tag: &Tag) -> Option<TagRecord> {
        self.get(&self.shared.tags, &self.look(Place::Tags, repository, tag), TagRecord::parse)
    }

    /// Records where the upstream said that a tag points.
    pub(crate) fn point(&self, repository: &RepositoryName, tag: &Tag, pointer: &TagRecord) {
        self.change(|shared| &shared.tags, &self.look(Place::Tags, repository, tag), Some(pointer.clone()));
    }

    /// Forgets where a tag points.
    pub(crate) fn forget_tag(&self, repository: &RepositoryName, tag: &Tag) {
        self.count_lookup();
        self.change(|shared| &shared.tags, &self.look(Place::Tags, repository, tag), None);
    }

    /// Returns the tags of a repository that are known, in ASCII order.
    pub(crate) fn tags(&self, repository: &RepositoryName) -> Vec<Tag> {
        let changes = self.shared.tags.changes(self.number, repository, Place::Tags);
        changed(self.directory.tags(repository), changes)
    }

    /// Returns the list of a repository that is kept under `name`. Reads a file of some length: not for a worker's thread.
    pub(crate) fn list(&self, repository: &RepositoryName, name: &ListName) -> Option<Vec<u8>> {
        if self.shared.forgotten.has(self.number, repository) {
            return None;
        }
        self.directory.read(Some(repository), Place::Lists, name).ok().flatten()
    }

    /// Keeps a list of a repository, and of the others the youngest. Not for a worker's thread. Where it can't be written, it
    /// is not kept.
    pub(crate) fn keep_list(&self, repository: &RepositoryName, name: &ListName, list: &[u8]) {
        if self.directory.write(Some(repository), Place::Lists, name, list).is_ok() {
            self.directory.remove_old_lists(repository, limits::KEPT_LISTS);
        }
    }

    /// Forgets the lists of a repository: at once, and on the disk behind a worker. Lists that are kept later are kept after that.
    pub(crate) fn forget_lists(&self, repository: &RepositoryName) {
        if !worker_id::is_worker() {
            return self.directory.remove_lists(repository);
        }
        self.shared.forgotten.add(self.number, repository);
        let forgotten = repository.clone();
        // Where too much waits, the lists of this repository do not count as long as this process runs.
        self.later(WAITING_BYTES, move |ledger| {
            ledger.directory.remove_lists(&forgotten);
            ledger.shared.forgotten.remove(ledger.number, &forgotten);
        });
    }

    /// Does something on the disk after all that was to be done before. Returns false where too much waits; then it is not done.
    fn later(&self, bytes: usize, work: impl FnOnce(&Self) + Send + 'static) -> bool {
        let ledger = self.clone();
        let given = self.shared.disk.later(bytes, move || work(&ledger));
        if !given {
            self.shared.disk.note_hanging(Use::Write, "writing records");
        }
        given
    }

    /// Returns the manifests that a repository is known to hold.
    pub(crate) fn manifests(&self, repository: &RepositoryName) -> Vec<Digest> {
        self.digests(repository, Place::Manifests)
    }

    /// Returns the blobs that a repository is known to hold.
    pub(crate) fn blobs(&self, repository: &RepositoryName) -> Vec<Digest> {
        self.digests(repository, Place::Blobs)
    }

    fn digests(&self, repository: &RepositoryName, place: Place) -> Vec<Digest> {
        let changes = self.shared.held.changes(self.number, repository, place);
        changed(self.directory.digests(repository, place), changes)
    }

    /// Returns the repositories that have records, in ASCII order. Reads every directory.
    pub(crate) fn repositories(&self) -> Vec<RepositoryName> {
        let mut repositories = self.shared.held.repositories(self.number);
        repositories.extend(self.shared.tags.repositories(self.number));
        repositories.extend(self.directory.repositories());
        sorted(repositories)
    }

    /// Drops all that is known of a repository, and returns the number of records. For what an operator does by hand.
    ///
    /// # Errors
    /// The system's; then some may still be there.
    pub(crate) fn remove(&self, repository: &RepositoryName) -> std::io::Result<usize> {
        let records =
            self.blobs(repository).len() + self.manifests(repository).len() + self.tags(repository).len();
        let gone = Amount { count: records as u64, bytes: records as u64 * RECORD_BYTES };
        self.shared.held.drop_waiting(self.number, repository);
        self.shared.tags.drop_waiting(self.number, repository);
        // Waits for changes that are being written: they belong to the directory that is put aside.
        self.shared.locks.pass();
        let aside = self.directory.put_aside(repository);
        // A thread that has read a record before puts it into memory before this is over.
        self.shared.locks.pass();
        self.shared.held.remove_repository(self.number, repository);
        self.shared.tags.remove_repository(self.number, repository);
        self.shared.room.replace(gone, Amount::default());
        directory::remove_aside(aside?)?;
        Ok(records)
    }

    fn look<'a, N>(&self, place: Place, repository: &'a RepositoryName, name: &'a N) -> Look<'a, N> {
        Look { ledger: self.number, place, repository: Some(repository), name }
    }

    fn look_served<'a>(&self, digest: &'a Digest) -> Look<'a, Digest> {
        Look { ledger: self.number, place: Place::Served, repository: None, name: digest }
    }

    fn get<N, T>(&self, memory: &Memory<N, T>, look: &Look<'_, N>, parse: fn(&[u8]) -> Option<T>) -> Option<T>
    where
        N: Name + Clone + Eq + Hash + Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        self.count_lookup();
        let kept = memory.get(look);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_fresh()) {
            return kept.value.clone();
        }
        if worker_id::is_worker() {
            disk_pool::note_missed();
            return kept.and_then(|kept| kept.value);
        }
        let alone = self.shared.locks.one_soon(look);
        // Another thread may have read it meanwhile.
        if let Some(kept) = memory.get(look).filter(Kept::is_fresh) {
            return kept.value;
        }
        match self.directory.read(look.repository, look.place, look.name) {
            Ok(bytes) if alone.is_some() => self.take(memory, look, bytes.as_deref(), parse),
            // A record with the same lock waits to be written, to a disk that may still be read. What another thread does
            // to this one meanwhile is not seen, so it is not put into memory.
            Ok(bytes) => match memory.get(look).filter(Kept::is_fresh) {
                Some(kept) => kept.value,
                None => bytes.as_deref().and_then(parse),
            },
            // A failed read does not mean that the record is gone.
            Err(_) => memory.get(look).and_then(|kept| kept.value),
        }
    }

    /// Puts into memory what the file says. One that is no record is removed.
    fn take<N, T>(
        &self,
        memory: &Memory<N, T>,
        look: &Look<'_, N>,
        bytes: Option<&[u8]>,
        parse: fn(&[u8]) -> Option<T>,
    ) -> Option<T>
    where
        N: Name + Clone + Eq + Hash + Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        let value = bytes.and_then(parse);
        memory.learn(look, value.clone());
        if bytes.is_some() && value.is_none() {
            // Where that fails, it is read, and is no record, again.
            let _ = self.directory.remove(look.repository, look.place, look.name);
        }
        memory.get(look).map_or(value, |newest| newest.value)
    }

    /// Lets a record be `value` from now on, or be none, and has that written: behind a worker, which waits for no disk.
    fn change<N, T>(&self, memory: Selector<N, T>, look: &Look<'_, N>, value: Option<T>)
    where
        N: Name + Clone + Eq + Hash + Send + Sync + 'static,
        T: Rendered + Clone + Send + Sync + 'static,
    {
        let is_first = memory(&self.shared).wait(look, value);
        if !worker_id::is_worker() {
            return self.settle(memory(&self.shared), look);
        }
        let own = look.owned();
        let settle = move |ledger: &Self| ledger.settle(memory(&ledger.shared), &own.look());
        // Where a change of this record waits already, this one is written in its stead.
        if is_first && !self.later(WAITING_BYTES, settle) {
            memory(&self.shared).give_up(look);
            self.shared.has_unwritten.store(true, Ordering::Relaxed);
        }
    }

    fn write_unwritten<N, T>(&self, memory: &Memory<N, T>, stop: &dyn Fn() -> bool)
    where
        N: Name + Clone + Eq + Hash + Send + Sync + 'static,
        T: Rendered + Clone + Send + Sync + 'static,
    {
        for own in memory.alone(self.number) {
            if stop() {
                return;
            }
            if memory.wait_again(&own.look()) {
                self.settle(memory, &own.look());
            }
        }
    }

    /// Writes what waits to be written of a record. One that could not be written is of this process alone until it
    /// [is](Records::write_unwritten), and one whose file could not be removed does not count.
    fn settle<N, T>(&self, memory: &Memory<N, T>, look: &Look<'_, N>)
    where
        N: Name + Clone + Eq + Hash + Send + Sync + 'static,
        T: Rendered + Clone + Send + Sync + 'static,
    {
        let _alone = self.shared.locks.one(look);
        while let Some(change) = memory.waiting(look) {
            let kept = match change.value.clone() {
                Some(value) => {
                    let bytes = value.rendered();
                    match self.directory.write(look.repository, look.place, look.name, &bytes) {
                        Ok(()) => Some(Kept::on_disk(value)),
                        Err(_) => Some(Kept::alone(Some(value))),
                    }
                }
                None => match self.directory.remove(look.repository, look.place, look.name) {
                    Ok(_) => None,
                    Err(_) => Some(Kept::alone(None)),
                },
            };
            if kept.as_ref().is_some_and(Kept::is_alone) {
                self.shared.has_unwritten.store(true, Ordering::Relaxed);
            }
            memory.settle(look, &change, kept);
        }
    }
}

/// A record as its file has it.
trait Rendered {
    fn rendered(&self) -> Vec<u8>;
}

impl Rendered for Membership {
    fn rendered(&self) -> Vec<u8> {
        self.render()
    }
}

impl Rendered for TagRecord {
    fn rendered(&self) -> Vec<u8> {
        self.render()
    }
}

/// Selects the records of a kind.
type Selector<N, T> = fn(&Shared) -> &Memory<N, T>;

impl From<Kind> for Place {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Blob => Self::Blobs,
            Kind::Manifest => Self::Manifests,
        }
    }
}

/// Returns the records of a directory as they will be once all that waited before it was read has been written.
fn changed<N: Ord>(mut on_disk: Vec<N>, changes: Vec<(N, bool)>) -> Vec<N> {
    on_disk.retain(|name| !changes.iter().any(|(gone, is_there)| !is_there && gone == name));
    on_disk.extend(changes.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name));
    sorted(on_disk)
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    // A record may be in its shard and, from an earlier version, outside.
    items.dedup();
    items
}

/// About what a change that waits to be written takes in memory.
const WAITING_BYTES: usize = 512;

/// A small file: a block of most file systems.
const RECORD_BYTES: u64 = 4096;

/// The time after the start at which old records begin to be removed: by then it is known what must stay.
const EXPIRY_AFTER: Duration = Duration::from_secs(60);

/// The most rounds of removing the oldest records in one count: how many have to go is an estimate.
const ROUNDS: usize = 4;

/// How many times as long as a count took there is none before its time; likewise for writing again.
const REST: u32 = 4;
