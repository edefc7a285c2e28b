//! Room for content: within `max_size`, and within what the disk has.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use crate::cache::Counters;
use crate::cache::store::health::Health;
use crate::cache::store::index::{Held, Index, Victim};
use crate::cache::store::layout::Layout;
use crate::cache::store::maintenance_queue::MaintenanceQueue;
use crate::cache::store::{files, pace};
use crate::config;
use crate::config::{MinFree, limits};

/// The room that content may take, and what is evicted for it.
pub(crate) struct Space {
    max_size: u64,
    max_object: u64,
    min_free: MinFree,
    free: Box<FreeSpace>,
    layout: Arc<Layout>,
    index: Arc<Index>,
    health: Arc<Health>,
    maintenance: Arc<MaintenanceQueue>,
    counters: Arc<Counters>,
    /// The operator has been told that too much is kept.
    told: AtomicBool,
    /// The fills that wait for files to leave the disk.
    waiting: AtomicUsize,
    /// Held while some files are removed, so that the threads that do so take one core together.
    removing: Mutex<()>,
}

/// Returns the free bytes of a path's file system, and its size.
pub(crate) type FreeSpace = dyn Fn(&Path) -> io::Result<(u64, u64)> + Send + Sync;

/// Asks the system for the free space.
pub(crate) fn free_space(path: &Path) -> io::Result<(u64, u64)> {
    let system = files::file_system(path)?;
    Ok((system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize))
}

impl Space {
    /// Returns the room by the settings, on a disk of which `free` tells.
    pub(crate) fn new(
        settings: &config::Cache,
        free: Box<FreeSpace>,
        layout: Arc<Layout>,
        index: Arc<Index>,
        health: Arc<Health>,
        maintenance: Arc<MaintenanceQueue>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let space = Self {
            max_size: settings.max_size,
            max_object: settings.max_object,
            min_free: settings.min_free,
            free,
            layout,
            index,
            health,
            maintenance,
            counters,
            told: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            removing: Mutex::default(),
        };
        let (blobs, manifests) = (space.blob_limit() / 4 * 3, space.manifest_limit() / 4 * 3);
        space.index.limit_kept(blobs, manifests);
        Arc::new(space)
    }

    /// Warns, once, if `keep` takes so much of the room that some of it is evicted like the rest.
    fn warn_of_keep(&self) {
        if self.index.keeps_too_much() && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "cache.keep matches more than three quarters of cache.max_size; what exceeds that is evicted like the rest: raise max_size, or keep less"
            );
        }
    }

    /// Returns the most that is kept, in bytes.
    pub(crate) fn max_size(&self) -> u64 {
        self.max_size
    }

    /// Returns true if a blob of `total` bytes may be kept, whatever has to go for it. Its length is an upstream's word: the room
    /// is taken as the bytes come.
    pub(crate) fn may_keep(&self, total: u64) -> bool {
        total <= self.largest_kept()
    }

    /// Returns the length in bytes of the largest blob that may be kept.
    pub(crate) fn largest_kept(&self) -> u64 {
        self.max_object.min(self.blob_limit())
    }

    /// Returns what manifests and records may take of it.
    pub(crate) fn manifest_limit(&self) -> u64 {
        self.max_size / 20
    }

    /// Returns what blobs, whole and partial, may take of it.
    fn blob_limit(&self) -> u64 {
        self.max_size - self.manifest_limit()
    }

    /// Notes how many bytes the records take of the share that manifests and records have together, and beyond half of it of
    /// the blobs' share.
    pub(crate) fn note_records(&self, bytes: u64) {
        let share = self.manifest_limit() / 2;
        let mut totals = self.index.totals();
        totals.records = bytes.min(share);
        totals.records_beyond = bytes.saturating_sub(share);
    }

    /// Returns the bytes that are missing on the disk for `wanted` more, with what is promised to others and not written yet,
    /// if what must be left free stays free. A disk that does not tell is taken to be large enough: writing will show.
    pub(crate) fn lack(&self, wanted: u64) -> u64 {
        let promised = self.index.totals().unallocated;
        let Ok((free, size)) = (self.free)(self.layout.root()) else { return 0 };
        let least = match self.min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => size / 100 * u64::from(percent),
        };
        least.saturating_add(wanted).saturating_add(promised).saturating_sub(free)
    }

    /// Evicts down to somewhat below what is allowed, so that no request has to wait for it: some files at a time, so that readers
    /// do not wait for the index, and until the store closes.
    pub(crate) fn make_room(&self) {
        self.warn_of_keep();
        let lack = if self.layout.is_readable() { self.lack(0) } else { 0 };
        let mut lack = lack.saturating_sub(self.index.totals().leaving);
        let mut is_over = false;
        while self.layout.is_owner() && !self.maintenance.is_closed() {
            let victims = self.choose(lack, &mut is_over);
            if victims.is_empty() {
                return;
            }
            lack = lack.saturating_sub(victims.iter().map(Victim::room).sum());
            self.remove_victims(victims);
        }
    }

    /// Returns some files that have to go. `is_over`: the limit was exceeded, and is undercut before that ends.
    fn choose(&self, lack: u64, is_over: &mut bool) -> Vec<Victim> {
        let limit = self.blob_limit();
        let (high, low) = (limit - limit / 100, limit - limit / 100 * 3);
        let index = &self.index;
        if !index.may_evict() {
            return Vec::new();
        }
        let (used, owed) = {
            let totals = index.totals();
            (totals.used_then(), totals.owed)
        };
        *is_over = used > if *is_over { low } else { high };
        let over = owed + if *is_over { used - low } else { 0 };
        let mut victims = index.evict_manifests(self.manifest_limit(), SLICE);
        victims.extend(index.evict_partials(limits::CACHE_PARTIALS));
        victims.extend(index.evict_some(over.max(lack), limit, files::now(), SLICE));
        victims
    }

    /// Evicts what the disk lacks. Returns true if it has enough then.
    pub(crate) fn make_room_on_disk(&self) -> bool {
        let mut lack = self.lack(0);
        while lack > 0 && self.layout.is_owner() && !self.maintenance.is_closed() {
            let may_evict = self.index.may_evict();
            let evict = || self.index.evict_some(lack, self.blob_limit(), files::now(), SLICE);
            let victims = may_evict.then(evict).filter(|victims| !victims.is_empty());
            let Some(victims) = victims else { break };
            lack = lack.saturating_sub(victims.iter().map(Victim::room).sum());
            self.remove_victims(victims);
        }
        self.degrade_if_full()
    }

    /// Stops keeping if less is free than must be. Returns true if enough is.
    pub(crate) fn degrade_if_full(&self) -> bool {
        let full = self.lack(0) > 0;
        if full {
            self.health.degrade("the cache's disk is full: less is free than min_free".to_owned());
        }
        !full
    }

    /// Unlinks what is out of the index, except what came back into it meanwhile, at a gentle pace unless a fill waits. Once the
    /// store closes, the rest stays for the next process: a stop must not wait for it.
    pub(crate) fn remove_victims(&self, victims: Vec<Victim>) {
        let turn = self.removing.lock();
        self.remove_in_turn(victims, turn);
    }

    fn remove_in_turn(&self, victims: Vec<Victim>, _turn: MutexGuard<'_, ()>) {
        for victim in victims {
            let stays = self.index.is_back(&victim) || self.maintenance.is_closed();
            if !stays && let Err(error) = self.remove_victim(&victim) {
                self.health.report(&error);
            }
            self.index.left(&victim);
            if self.is_awaited() { pace::rest_briefly() } else { pace::rest() }
        }
    }

    /// Unlinks what has been scheduled for that.
    pub(crate) fn remove_scheduled(&self) {
        loop {
            let victims = self.maintenance.take_removals(SLICE);
            if victims.is_empty() {
                return;
            }
            self.remove_victims(victims);
        }
    }

    /// Waits until so much has left the disk that `more` bytes can be written within its limit. Not for a worker's thread.
    fn wait_for_room(&self, more: u64) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.remove_for_room(more);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns true while a fill waits for files to leave the disk.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn remove_for_room(&self, more: u64) {
        let mut pauses = 0;
        while pauses < WAITS && !self.index.totals().has_room_for(more, self.blob_limit()) {
            // Takes turns with the maintenance thread, whose priority is low.
            let Some(turn) = self.removing.try_lock_for(WAIT) else {
                pauses += 1;
                continue;
            };
            let mut victims = self.maintenance.take_removals(SLICE);
            if victims.is_empty() {
                victims = self.index.pay(self.blob_limit(), files::now(), SLICE);
            }
            if victims.is_empty() {
                // Another thread has chosen them, and removes them in its turn.
                drop(turn);
                std::thread::sleep(WAIT);
                pauses += 1;
            } else {
                self.remove_in_turn(victims, turn);
            }
        }
    }

    /// Wakes the maintenance thread if it has to evict what has been promised.
    fn wake_if_owing(&self) {
        if self.index.totals().owed > 0 {
            self.maintenance.wake();
        }
    }

    fn remove_victim(&self, victim: &Victim) -> io::Result<()> {
        match victim {
            // A partial that cannot be locked is being written again, by another process, or by this one since it was chosen.
            Victim::Partial(name, _) => match self.layout.open_partial(name)? {
                Some(_locked) => self.layout.remove_partial(name),
                None => Ok(()),
            },
            Victim::Content(kind, digest, bytes) => {
                let Some(path) = self.layout.content(*kind, digest) else { return Ok(()) };
                files::remove(&path)?;
                self.counters.evicted(*bytes);
                Ok(())
            }
        }
    }

    /// Returns true if the disk has `wanted` bytes to spare, after evicting if `evicts`. A disk that has none at all is degraded.
    fn disk_has(&self, wanted: u64, evicts: bool) -> bool {
        if self.lack(wanted) == 0 {
            return true;
        }
        // Some of the victims that are chosen already may be enough.
        self.remove_victims(self.maintenance.take_removals(SLICE));
        let lack = self.lack(wanted);
        if lack == 0 {
            return true;
        }
        let on_the_way = {
            let totals = self.index.totals();
            totals.leaving + totals.owed
        };
        let (limit, now) = (self.blob_limit(), files::now());
        if evicts && self.index.owe(lack.saturating_sub(on_the_way), limit, now) {
            self.remove_victims(self.index.pay(limit, now, SLICE));
            // The caller does not wait for more than that: its blob passes by.
            self.wake_if_owing();
        }
        let fits = self.lack(wanted) == 0;
        if !fits {
            self.degrade_if_full();
        }
        fits
    }
}

/// Room that is held for a blob on its way, until this is dropped.
pub(crate) struct Reservation {
    space: Arc<Space>,
    bytes: u64,
    unallocated: u64,
    unknown_digest: bool,
    /// True once the file system has been asked to allocate the file.
    asked: bool,
}

impl Reservation {
    /// Holds `bytes`, of which the first `present` are on the disk already, and evicts where that helps; none if there is no
    /// room. Blobs of `unknown_digest` together evict for a tenth of `max_size` alone: an upload may never be finished.
    pub(crate) fn new(space: &Arc<Space>, bytes: u64, present: u64, unknown_digest: bool) -> Option<Self> {
        let mut none = Self::nothing(space);
        (none.unknown_digest, none.asked) = (unknown_digest, bytes == 0);
        none.take(bytes, bytes.saturating_sub(present)).then_some(none)
    }

    /// Returns a reservation that holds nothing.
    pub(crate) fn nothing(space: &Arc<Space>) -> Self {
        Self { space: space.clone(), bytes: 0, unallocated: 0, unknown_digest: false, asked: true }
    }

    /// Returns the bytes that are held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Holds `more` bytes. Returns true if there was room.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        self.take(more, more)
    }

    /// Has the file system allocate what is held when the next bytes are written.
    pub(crate) fn allocate_next(&mut self) {
        self.asked = false;
    }

    /// Has the file system allocate nothing ahead from now on: the next bytes come at other places.
    pub(crate) fn scatter(&mut self) {
        self.asked = true;
    }

    /// Notes that `written` bytes are on the disk, which has not to keep room free for them any more.
    pub(crate) fn written(&mut self, written: u64) {
        if self.unallocated == 0 {
            return;
        }
        let missing = self.bytes.saturating_sub(written);
        let written = self.unallocated.saturating_sub(missing);
        self.unallocated -= written;
        self.space.index.totals().unallocated -= written;
    }

    /// Gives all up, for the index to take back at the same moment as it comes to count what was made of it.
    pub(crate) fn give_up(&mut self) -> Held {
        let reserved = std::mem::take(&mut self.bytes);
        let unallocated = std::mem::take(&mut self.unallocated);
        Held { reserved, unallocated, unknown_digest: if self.unknown_digest { reserved } else { 0 } }
    }

    fn take(&mut self, bytes: u64, missing: u64) -> bool {
        let (space, limit, now) = (&self.space, self.space.blob_limit(), files::now());
        let unknown_digest = if self.unknown_digest { bytes } else { 0 };
        let evicts = unknown_digest == 0
            || space.index.totals().unknown_digest.saturating_add(bytes) <= space.max_size / 10;
        if !space.index.reserve(bytes, limit, now, evicts) {
            return false;
        }
        space.index.totals().unknown_digest += unknown_digest;
        space.maintenance.schedule_removal(space.index.pay(limit, now, SLICE));
        space.wake_if_owing();
        if !space.disk_has(missing, evicts) {
            let held = Held { reserved: bytes, unallocated: 0, unknown_digest };
            space.index.totals().release(held);
            return false;
        }
        space.index.totals().unallocated += missing;
        self.bytes += bytes;
        self.unallocated += missing;
        true
    }

    /// Makes sure that `more` bytes can be written behind the first `written` of `file`: allocates the rest of it in the file
    /// system, once, and waits for what has to leave the disk before.
    ///
    /// # Errors
    /// `ENOSPC` or `EDQUOT`. `EOPNOTSUPP` does not count as out of space.
    pub(crate) fn prepare(&mut self, file: &File, written: u64, more: u64) -> io::Result<()> {
        self.written(written);
        if !std::mem::replace(&mut self.asked, true) {
            self.space.wait_for_room(self.unallocated);
            return self.allocate(file, written);
        }
        if self.unallocated > 0 {
            self.space.wait_for_room(more);
        }
        Ok(())
    }

    fn allocate(&mut self, file: &File, written: u64) -> io::Result<()> {
        if self.bytes <= written || files::is_in_memory(file) {
            return Ok(());
        }
        match files::allocate(file, written, self.bytes - written) {
            Ok(()) => {
                self.space.index.totals().unallocated -= self.unallocated;
                self.unallocated = 0;
                Ok(())
            }
            Err(error) if is_unsupported(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Returns true if a file system cannot allocate.
fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
    Errno::from_io_error(error).is_some_and(|errno| unsupported.contains(&errno))
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let held = self.give_up();
        self.space.index.totals().release(held);
    }
}

/// Pauses of a wait for files to be removed, and their number: a second is enough for any file.
const WAIT: Duration = Duration::from_millis(2);
const WAITS: usize = 500;

/// Files that are chosen and removed at a time: to choose them takes some tenths of a millisecond.
const SLICE: usize = 128;
