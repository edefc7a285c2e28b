//! The room that records may take on the disk.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::store::{Amount, files};
use crate::config::limits;

/// The records of all upstreams on the disk, and how much of it they may take: exact after each count, and close to it in between.
pub(crate) struct RecordRoom {
    limit: u64,
    count: AtomicU64,
    bytes: AtomicU64,
    /// All bytes that were ever added.
    added: AtomicU64,
    /// Those that were added during the last count, which may have passed over them.
    unseen: AtomicU64,
    /// Called when the oldest records have to go.
    on_full: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl RecordRoom {
    /// Returns the room of records in a cache of `max_size`.
    pub(crate) fn new(max_size: u64) -> Self {
        let limit = share(max_size);
        Self {
            limit,
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            added: AtomicU64::new(0),
            unseen: AtomicU64::new(0),
            on_full: OnceLock::new(),
        }
    }

    /// Sets the function that is called when the oldest records have to go.
    pub(crate) fn call_when_full(&self, on_full: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_full.set(Box::new(on_full));
    }

    /// Returns the records on the disk, and the bytes that they and their directories take.
    pub(crate) fn amount(&self) -> Amount {
        Amount { count: self.count.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// Returns all bytes that were ever added: to be noted before a count.
    pub(super) fn added(&self) -> u64 {
        self.added.load(Ordering::Relaxed)
    }

    /// Notes what has been counted. What was added since `added` was noted may be in it or not.
    pub(super) fn set(&self, amount: Amount, added: u64) {
        self.count.store(amount.count, Ordering::Relaxed);
        self.unseen.store(self.added().saturating_sub(added), Ordering::Relaxed);
        self.bytes.store(amount.bytes, Ordering::Relaxed);
    }

    /// Returns the bytes that there may be.
    fn most(&self) -> u64 {
        self.amount().bytes.saturating_add(self.unseen.load(Ordering::Relaxed))
    }

    /// Returns true if `more` bytes may be written. Some room is left for what is seen by a count alone: directories grow.
    pub(super) fn admits(&self, more: u64) -> bool {
        more == 0 || self.most().saturating_add(more) <= self.limit / 32 * 31
    }

    /// Returns the bytes of the oldest records that have to go; none as long as there is room.
    pub(super) fn excess(&self) -> u64 {
        let bytes = self.most();
        if bytes > self.limit / 10 * 9 { bytes - self.limit / 10 * 8 } else { 0 }
    }

    /// Counts a change on the disk.
    pub(super) fn replace(&self, before: Amount, after: Amount) {
        // Other processes write and remove too.
        let add = |sum: &AtomicU64, more: u64, less: u64| {
            let change = |sum: u64| Some(sum.saturating_add(more).saturating_sub(less));
            let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        };
        self.added.fetch_add(after.bytes.saturating_sub(before.bytes), Ordering::Relaxed);
        add(&self.count, after.count, before.count);
        add(&self.bytes, after.bytes, before.bytes);
        if after.bytes > before.bytes && self.excess() > 0 {
            self.on_full.get().inspect(|on_full| on_full());
        }
    }
}

/// Returns what records may take of a cache of `max_size`: half of what they and manifests may take together, and in small caches
/// more, to be of any use.
fn share(max_size: u64) -> u64 {
    (max_size / 40).max(limits::RECORDS_LEAST.min(max_size / 4))
}

/// Returns the file at a path, if there is one, and what it takes of the disk.
pub(super) fn amount_of(path: &Path) -> Amount {
    files::metadata(path).map_or_else(|_| Amount::default(), |metadata| amount(&metadata))
}

/// Returns a file or a directory as it takes of the disk. Some file systems keep small files beside their names.
pub(super) fn amount(metadata: &Metadata) -> Amount {
    let bytes = (metadata.blocks() * 512).max(metadata.len());
    Amount { count: metadata.is_file().into(), bytes }
}

/// Returns what `bytes` take of most disks.
pub(super) fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

/// A block of most file systems.
const BLOCK: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_caches_keep_records_too() {
        const MIB: u64 = 1 << 20;
        for (max_size, most) in [(MIB, MIB / 4), (4 * MIB, MIB), (64 * MIB, 4 * MIB), (4000 * MIB, 100 * MIB)]
        {
            assert_eq!(share(max_size), most, "{max_size}");
        }
    }

    #[test]
    fn room_is_asked_for_before_it_is_spent() {
        let room = RecordRoom::new(40 << 20);
        let most = room.limit / 32 * 31;
        room.set(Amount { count: 1, bytes: most - 8192 }, room.added());
        assert!(room.admits(8192) && !room.admits(8193) && room.admits(0));
        assert_eq!(room.excess(), most - 8192 - room.limit / 10 * 8);
        room.set(Amount { count: 1, bytes: room.limit / 10 * 9 }, room.added());
        assert_eq!(room.excess(), 0);
    }

    #[test]
    fn a_count_may_pass_over_what_comes_meanwhile() {
        let room = RecordRoom::new(40 << 20);
        let (most, added) = (room.limit / 32 * 31, room.added());
        room.replace(Amount::default(), Amount { count: 1, bytes: 4096 });
        room.set(Amount { count: 1, bytes: most - 8192 }, added);
        assert!(room.admits(4096) && !room.admits(8192));
        room.set(Amount { count: 2, bytes: most - 8192 }, room.added());
        assert!(room.admits(8192));
    }
}
