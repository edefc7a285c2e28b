//! The arithmetic of the room: how much there is of everything.

use serde::{Deserialize, Serialize};

use crate::cache::store::layout::Kind;

/// A number of files and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amount {
    /// Files.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// Adds a file.
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    /// Takes a file away.
    pub(super) fn remove(&mut self, bytes: u64) {
        self.count -= 1;
        self.bytes -= bytes;
    }
}

/// The sums over the whole index. They are kept in one place, so that room that is given back is taken at the same moment by the
/// content that was made of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) blobs: Amount,
    pub(crate) manifests: Amount,
    /// Partials that are not being written.
    pub(crate) partials: Amount,
    /// Content that could not be read, and was moved aside.
    pub(crate) quarantined: Amount,
    /// Bytes of records, which have up to half of the room of manifests.
    pub(crate) records: u64,
    /// Bytes of records beyond that.
    pub(crate) records_beyond: u64,
    /// Bytes reserved for blobs on their way, those that are written already included.
    pub(crate) reserved: u64,
    /// Of those, the bytes that the file system has not allocated.
    pub(crate) unallocated: u64,
    /// Of what is reserved, bytes for blobs whose digest is not known yet.
    pub(crate) unknown_digest: u64,
    /// Bytes that will be evicted for what has been reserved, and are in the index still.
    pub(crate) owed: u64,
    /// Bytes of blobs and partials that were chosen to go and are still on the disk.
    pub(crate) leaving: u64,
}

/// Room that a blob on its way gives back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Held {
    pub(crate) reserved: u64,
    pub(crate) unallocated: u64,
    pub(crate) unknown_digest: u64,
}

impl Totals {
    /// Returns the bytes of blobs that are in place, partial, on their way and in quarantine, and of records that have no other
    /// room.
    pub(crate) fn used(&self) -> u64 {
        let blobs = self.blobs.bytes + self.partials.bytes + self.reserved;
        blobs + self.quarantined.bytes + self.records_beyond
    }

    /// Returns the same without what will be evicted anyway.
    pub(crate) fn used_then(&self) -> u64 {
        self.used().saturating_sub(self.owed)
    }

    /// Returns true if `more` bytes can be written within `limit` before anything else has left the disk.
    pub(crate) fn has_room_for(&self, more: u64, limit: u64) -> bool {
        let evicts = self.leaving > 0 || self.owed > 0;
        !evicts || self.used() - self.unallocated + self.leaving + more <= limit
    }

    /// Takes back what was held.
    pub(crate) fn release(&mut self, held: Held) {
        self.reserved -= held.reserved;
        self.unallocated -= held.unallocated;
        self.unknown_digest -= held.unknown_digest;
    }

    /// Counts a file that was chosen to go until it has left the disk.
    pub(super) fn leave(&mut self, bytes: u64) {
        self.leaving += bytes;
        self.owed = self.owed.saturating_sub(bytes);
    }

    pub(super) fn of(&mut self, kind: Kind) -> &mut Amount {
        match kind {
            Kind::Blob => &mut self.blobs,
            Kind::Manifest => &mut self.manifests,
        }
    }
}
