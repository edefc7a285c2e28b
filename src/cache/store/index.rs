//! The index in memory of what is on the disk: how much there is, what is in use, and what may be evicted.
//!
//! A scan of the disk builds the index. The disk is right where they differ: another process may add and remove files, so
//! content may be on the disk without being in the index, and content in the index may have vanished.
//!
//! Content is in shards by its digest, each with a lock that is held for the work on one entry, or on the shard's few thousand
//! where a table grows. So the threads of maintenance, which run at a low priority, stop no reader for long, even if the system
//! suspends them while they hold a lock. Sums have a lock of their own, which is held for arithmetic alone and is taken last.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::cache::store::index::key::Key;
use crate::cache::store::index::partials::PartialIndex;
use crate::cache::store::index::shard::{FileUse, PartitionState, Shard};
use crate::cache::store::layout::Kind;
use crate::proto::Digest;

mod key;
mod partials;
mod shard;
#[cfg(test)]
mod tests;
mod totals;
mod victim;

pub(crate) use totals::{Amount, Held, Totals};
pub(crate) use victim::Victim;

/// The index of all content, and what may be evicted of it. It is shared by the parts of the store.
pub(crate) struct Index {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    blobs: Arc<PartitionState>,
    manifests: Arc<PartitionState>,
    partials: Mutex<PartialIndex>,
    totals: Mutex<Totals>,
    /// True once a scan has counted everything.
    counted: AtomicBool,
    /// True once the partials on the disk have been counted.
    knows_partials: AtomicBool,
    /// Threads that still mark what must stay: until they are done, nothing is evicted.
    eviction_holds: AtomicUsize,
    /// The number of the scan of the disk.
    scan: AtomicU32,
}

impl Default for Index {
    fn default() -> Self {
        let (blobs, manifests) = (Arc::<PartitionState>::default(), Arc::<PartitionState>::default());
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(&blobs, &manifests))).collect(),
            hasher: RandomState::new(),
            blobs,
            manifests,
            partials: Mutex::default(),
            totals: Mutex::default(),
            counted: AtomicBool::new(false),
            knows_partials: AtomicBool::new(false),
            eviction_holds: AtomicUsize::new(0),
            scan: AtomicU32::new(0),
        }
    }
}

impl Index {
    /// Locks the sums. Nothing else may be locked meanwhile, and nothing be done but arithmetic.
    pub(crate) fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock()
    }

    /// Notes that content is used at `now`, and pins it until [`unpin`](Self::unpin) with the number that is returned. Second:
    /// whether the use has to be noted on disk, as it was last noted too long ago.
    pub(crate) fn pin(&self, kind: Kind, digest: &Digest, bytes: u64, now: u64, noted: u64) -> (u32, bool) {
        self.pin_placed(kind, digest, bytes, now, noted, Held::default())
    }

    /// Pins content likewise that was put in place just now, and takes back the room that was `held` for it.
    pub(crate) fn pin_placed(
        &self,
        kind: Kind,
        digest: &Digest,
        bytes: u64,
        now: u64,
        noted: u64,
        held: Held,
    ) -> (u32, bool) {
        let key = Key::of(digest);
        let mut shard = self.shard(&key);
        let file = FileUse { bytes, last: seconds(now), noted: seconds(noted) };
        let is_new = self.put(&mut shard, kind, &key, file, held);
        shard.partition(kind).pin(&key, is_new, seconds(now))
    }

    /// Takes one reader away. Content that was removed and has come back since has other readers.
    pub(crate) fn unpin(&self, kind: Kind, digest: &Digest, number: u32) {
        let key = Key::of(digest);
        self.shard(&key).partition(kind).unpin(&key, number);
    }

    /// Adds content that was last used at `last`. An entry that exists is left as it is.
    pub(crate) fn found(&self, kind: Kind, digest: &Digest, bytes: u64, last: u64) {
        let key = Key::of(digest);
        let file = FileUse { bytes, last: seconds(last), noted: seconds(last) };
        self.put(&mut self.shard(&key), kind, &key, file, Held::default());
    }

    /// Begins a new scan of the disk.
    pub(crate) fn begin_scan(&self) {
        self.scan.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the scan has seen content. Returns whether it was known.
    pub(crate) fn saw(&self, kind: Kind, digest: &Digest) -> bool {
        let key = Key::of(digest);
        self.shard(&key).partition(kind).saw(&key, self.scan())
    }

    /// Returns the content that the scan has not seen, for each shard when it is asked for.
    pub(crate) fn unseen(&self, kind: Kind) -> impl Iterator<Item = Vec<Digest>> + '_ {
        let unseen = move |shard: &Mutex<Shard>| shard.lock().partition(kind).unseen(self.scan());
        self.shards.iter().map(unseen).map(|keys| keys.iter().map(Key::digest).collect())
    }

    /// Removes content that is not there any more. Returns whether it was known.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest) -> bool {
        let key = Key::of(digest);
        let mut shard = self.shard(&key);
        let Some(bytes) = shard.partition(kind).take(&key) else { return false };
        self.totals().of(kind).remove(bytes);
        true
    }

    /// Returns true if a victim has come back since it was chosen.
    pub(crate) fn is_back(&self, victim: &Victim) -> bool {
        match victim {
            Victim::Partial(name, _) => self.partials.lock().knows(name),
            Victim::Content(kind, digest, _) => {
                let key = Key::of(digest);
                self.shard(&key).partition(*kind).knows(&key)
            }
        }
    }

    /// Adds a partial that is not being written.
    pub(crate) fn found_partial(&self, name: &str, bytes: u64, last: u64) {
        self.found_left(name, bytes, last, Held::default());
    }

    /// Adds a partial that was left just now, and takes back the room that was `held` for it.
    pub(crate) fn found_left(&self, name: &str, bytes: u64, last: u64, held: Held) {
        let mut partials = self.partials.lock();
        let before = partials.take(name);
        partials.add(name, bytes, last);
        let mut totals = self.totals();
        if let Some(before) = before {
            totals.partials.remove(before);
        }
        totals.partials.add(bytes);
        totals.release(held);
    }

    /// Removes a partial that is not there any more, or is being written again.
    pub(crate) fn remove_partial(&self, name: &str) {
        let mut partials = self.partials.lock();
        if let Some(bytes) = partials.take(name) {
            self.totals().partials.remove(bytes);
        }
    }

    /// Returns the names of a blob's partials that are not being written here, the longest first; none before they
    /// [are known](Self::note_partials_known).
    pub(crate) fn partials_of(&self, stem: &str) -> Option<Vec<String>> {
        self.knows_partials.load(Ordering::Acquire).then(|| self.partials.lock().of(stem))
    }

    /// Notes that all partials on the disk have been found.
    pub(crate) fn note_partials_known(&self) {
        self.knows_partials.store(true, Ordering::Release);
    }

    /// Evicts the partials that were left longest ago, as long as there are more than `most`.
    pub(crate) fn evict_partials(&self, most: usize) -> Vec<Victim> {
        let mut partials = self.partials.lock();
        let over = partials.len().saturating_sub(most);
        let names = partials.oldest(over);
        self.dismiss(&mut partials, names)
    }

    /// Keeps `digest` from ever being evicted, within [the limits](Self::limit_kept) of what is kept so.
    pub(crate) fn keep(&self, digest: &Digest) {
        let key = Key::of(digest);
        let mut shard = self.shard(&key);
        Kind::ALL.into_iter().for_each(|kind| shard.partition(kind).protect(&key));
        shard.kept.insert(key);
    }

    /// Limits the bytes of blobs and of manifests that are never evicted: without room for others nothing new would be kept.
    pub(crate) fn limit_kept(&self, blobs: u64, manifests: u64) {
        self.blobs.limit_protected(blobs);
        self.manifests.limit_protected(manifests);
    }

    /// Returns true if content that is to be kept is beyond the limits, and may be evicted like the rest.
    pub(crate) fn keeps_too_much(&self) -> bool {
        self.blobs.is_over() || self.manifests.is_over()
    }

    /// Notes that content is put in place and has to be synced.
    pub(crate) fn expect_sync(&self, kind: Kind, digest: &Digest) {
        let key = Key::of(digest);
        let mut shard = self.shard(&key);
        *shard.pending.entry((kind, key)).or_default() += 1;
    }

    /// Notes that content has been synced, or never will be.
    pub(crate) fn synced(&self, kind: Kind, digest: &Digest) {
        let key = Key::of(digest);
        let mut shard = self.shard(&key);
        let key = (kind, key);
        if let Some(count) = shard.pending.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                shard.pending.remove(&key);
            }
        }
    }

    /// Returns true if this process put content in place and has not synced it yet.
    pub(crate) fn is_pending(&self, kind: Kind, digest: &Digest) -> bool {
        let key = Key::of(digest);
        let shard = self.shard(&key);
        !shard.pending.is_empty() && shard.pending.contains_key(&(kind, key))
    }

    /// Notes that a scan has counted everything.
    pub(crate) fn note_counted(&self) {
        self.counted.store(true, Ordering::Release);
    }

    /// Returns true once a scan has counted everything.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted.load(Ordering::Acquire)
    }

    /// Evicts nothing until [`release_evictions`](Self::release_evictions) is called as often as this.
    pub(crate) fn hold_evictions(&self) {
        self.eviction_holds.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends a [hold](Self::hold_evictions).
    pub(crate) fn release_evictions(&self) {
        self.eviction_holds.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns true if something may be evicted. Before the first scan it is not known what is least used, nor what must stay.
    pub(crate) fn may_evict(&self) -> bool {
        self.is_counted() && self.eviction_holds.load(Ordering::Acquire) == 0
    }

    /// Reserves `bytes` within `limit`. Returns false if there is not enough room. What has to go for it is owed from then on:
    /// [`pay`](Self::pay) evicts it.
    ///
    /// Nothing is evicted before [`may_evict`](Self::may_evict), nor unless `evicts`. There is no room either while too much is
    /// chosen to go already, or the limit is exceeded: a new blob would wait long for the disk, and pass its limit meanwhile.
    pub(crate) fn reserve(&self, bytes: u64, limit: u64, now: u64, evicts: bool) -> bool {
        let evicts = evicts && self.may_evict();
        let partials = self.partials.lock();
        let mut totals = self.totals();
        if totals.reserved.checked_add(bytes).is_none_or(|taken| taken > limit) {
            return false;
        }
        let over = (totals.used_then() + bytes).saturating_sub(limit);
        if over > 0 {
            let leaves_enough = || self.evictable(&partials, &totals, over, limit, now) >= over;
            if !evicts || over > bytes || totals.leaving > limit / 4 || !leaves_enough() {
                return false;
            }
            totals.owed += over;
        }
        totals.reserved += bytes;
        true
    }

    /// Lets the store owe `bytes` more, which leave the index by [`pay`](Self::pay). Returns false if there is not so much that
    /// may go.
    pub(crate) fn owe(&self, bytes: u64, limit: u64, now: u64) -> bool {
        let partials = self.partials.lock();
        let mut totals = self.totals();
        let is_there = self.may_evict() && self.evictable(&partials, &totals, bytes, limit, now) >= bytes;
        if is_there {
            totals.owed += bytes;
        }
        is_there
    }

    /// Takes out of the index what is owed, about `most` files.
    pub(crate) fn pay(&self, limit: u64, now: u64, most: usize) -> Vec<Victim> {
        let owed = self.totals().owed;
        self.evict_some(owed, limit, now, most)
    }

    /// Takes out of the index what has to go so that `bytes` of blobs and partials are freed, about `most` files. What is owed
    /// is less by that.
    pub(crate) fn evict_some(&self, bytes: u64, limit: u64, now: u64, most: usize) -> Vec<Victim> {
        if bytes == 0 {
            return Vec::new();
        }
        let mut victims = {
            let mut partials = self.partials.lock();
            let all = self.totals().partials.bytes;
            let (names, _) = partials.expendable(all, bytes, limit, now);
            self.dismiss(&mut partials, names)
        };
        let freed: u64 = victims.iter().map(Victim::room).sum();
        let (content, is_all) = self.evict_content(Kind::Blob, bytes.saturating_sub(freed), most);
        victims.extend(content);
        if is_all {
            // Readers came to all the rest meanwhile. What can't be evicted is not owed.
            self.totals().owed = 0;
        }
        victims
    }

    /// Evicts manifests, at most so many, as long as there are more than `limit` bytes of them.
    pub(crate) fn evict_manifests(&self, limit: u64, most: usize) -> Vec<Victim> {
        let over = {
            let totals = self.totals();
            // Records go by their age, see `Records::count`.
            (totals.manifests.bytes + totals.records).saturating_sub(limit)
        };
        self.evict_content(Kind::Manifest, over, most).0
    }

    /// Notes that a victim is off the disk, or stays there for good.
    pub(crate) fn left(&self, victim: &Victim) {
        self.totals().leaving -= victim.room();
    }

    /// Takes out content in the order of its rank over all shards, so that about `bytes` are freed, `most` files at most. Second:
    /// whether nothing is left that may go.
    fn evict_content(&self, kind: Kind, bytes: u64, most: usize) -> (Vec<Victim>, bool) {
        let (mut victims, mut freed) = (Vec::new(), 0);
        if bytes == 0 {
            return (victims, false);
        }
        let next = |number: usize| {
            let rank = self.shards[number].lock().partition(kind).next();
            rank.map(|rank| Reverse((rank, number)))
        };
        let mut heads: BinaryHeap<_> = (0..SHARDS).filter_map(next).collect();
        while freed < bytes && victims.len() < most {
            let Some(Reverse((rank, number))) = heads.pop() else { return (victims, true) };
            let mut shard = self.shards[number].lock();
            // The entry may have been read since.
            if let Some((key, bytes)) = shard.partition(kind).evict(rank) {
                let victim = Victim::Content(kind, key.digest(), bytes);
                let mut totals = self.totals();
                totals.of(kind).remove(bytes);
                totals.leave(victim.room());
                freed += bytes;
                victims.push(victim);
            }
            drop(shard);
            heads.extend(next(number));
        }
        (victims, false)
    }

    /// Returns the bytes of blobs and partials that may go, beyond what is owed already; of partials about `bytes`.
    fn evictable(&self, partials: &PartialIndex, totals: &Totals, bytes: u64, limit: u64, now: u64) -> u64 {
        let blobs = totals.blobs.bytes.saturating_sub(self.blobs.fixed());
        let (_, freed) = partials.expendable(totals.partials.bytes, bytes + totals.owed, limit, now);
        (blobs + freed).saturating_sub(totals.owed)
    }

    /// Adds content, unless it is there, and takes back what was `held` for it. Returns whether it is new.
    fn put(&self, shard: &mut Shard, kind: Kind, key: &Key, file: FileUse, held: Held) -> bool {
        let is_kept = shard.kept.contains(key);
        let partition = shard.partition(kind);
        let is_new = partition.put(key, file);
        // A hit does not come here.
        if is_new || held != Held::default() {
            let mut totals = self.totals();
            totals.release(held);
            if is_new {
                totals.of(kind).add(file.bytes);
            }
        }
        partition.saw(key, self.scan());
        if is_kept {
            partition.protect(key);
        }
        is_new
    }

    fn dismiss(&self, partials: &mut PartialIndex, names: Vec<String>) -> Vec<Victim> {
        let mut totals = self.totals();
        let victims = names.into_iter().filter_map(|name| {
            let bytes = partials.take(&name)?;
            totals.partials.remove(bytes);
            totals.leave(bytes);
            Some(Victim::Partial(name, bytes))
        });
        victims.collect()
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key);
        self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or_default()].lock()
    }

    fn scan(&self) -> u32 {
        self.scan.load(Ordering::Relaxed)
    }
}

/// Returns a time that an entry can hold. In 2106 all content is used at the same time.
fn seconds(time: u64) -> u32 {
    u32::try_from(time).unwrap_or(u32::MAX)
}

/// The number of shards. Of a million entries each has some four thousand, whose tables grow in a tenth of a millisecond. An
/// eviction looks at all shards once, for some tens of microseconds.
const SHARDS: usize = 256;
