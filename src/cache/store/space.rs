//! Room for blobs on their way: within what may be kept, and within what the disk has.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::cache::store::Inner;
use crate::cache::store::index::{Index, Victim};
use crate::config;
use crate::config::MinFree;

/// What may be taken.
pub(crate) struct Space {
    max_size: u64,
    min_free: MinFree,
    free: Box<FreeSpace>,
}

/// Bytes that are free on a path's file system, and its size.
pub(crate) type FreeSpace = dyn Fn(&Path) -> io::Result<(u64, u64)> + Send + Sync;

impl Space {
    /// By the settings, on a disk of which `free` tells.
    pub(crate) fn new(settings: &config::Cache, free: Box<FreeSpace>) -> Self {
        Self { max_size: settings.max_size, min_free: settings.min_free, free }
    }

    /// The most that is kept.
    pub(crate) fn max_size(&self) -> u64 {
        self.max_size
    }

    /// Of it, what manifests and records may take.
    pub(crate) fn manifests(&self) -> u64 {
        self.max_size / 20
    }

    /// Of it, what blobs and prefixes may take.
    pub(crate) fn blobs(&self) -> u64 {
        self.max_size - self.manifests()
    }

    /// Of it, what blobs on their way that have no name yet may take in the place of what is there.
    pub(crate) fn nameless(&self) -> u64 {
        self.max_size / 10
    }

    /// Bytes missing at `path` until `wanted` more can be taken and what is to be left free is still free.
    pub(crate) fn lack(&self, path: &Path, wanted: u64) -> io::Result<u64> {
        let (free, size) = (self.free)(path)?;
        let least = match self.min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => size / 100 * u64::from(percent),
        };
        Ok(least.saturating_add(wanted).saturating_sub(free))
    }
}

/// What the system says.
pub(crate) fn free_space(path: &Path) -> io::Result<(u64, u64)> {
    let system = rustix::fs::statvfs(path)?;
    Ok((system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize))
}

/// Room that is held for a blob on its way, until this is dropped.
pub(crate) struct Reservation {
    store: Arc<Inner>,
    bytes: u64,
    unbacked: u64,
    nameless: bool,
}

impl Reservation {
    /// Holds `bytes`, of which the first `present` are on the disk already, evicting where that helps. `None`: they
    /// can't be had. All that are `nameless` evict for a part of the whole alone: nobody knows yet what it will be, or
    /// whether it will be anything.
    pub(crate) fn new(store: &Arc<Inner>, bytes: u64, present: u64, nameless: bool) -> Option<Self> {
        let mut none = Self { store: store.clone(), bytes: 0, unbacked: 0, nameless };
        none.take(bytes, bytes.saturating_sub(present)).then_some(none)
    }

    /// Bytes that are held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Holds `more` bytes: whether they could be had.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        self.take(more, more)
    }

    /// The first `written` bytes are on the disk: what is missing there has not to be kept free for them too.
    pub(crate) fn landed(&mut self, written: u64) {
        let missing = self.bytes.saturating_sub(written);
        let landed = self.unbacked.saturating_sub(missing);
        self.unbacked -= landed;
        self.store.index().unbacked -= landed;
    }

    /// Gives all back, at the same moment as `index` comes to count what was made of it.
    pub(crate) fn release(&mut self, index: &mut Index) {
        index.reserved -= self.bytes;
        index.unbacked -= self.unbacked;
        if self.nameless {
            index.nameless -= self.bytes;
        }
        (self.bytes, self.unbacked) = (0, 0);
    }

    fn take(&mut self, bytes: u64, missing: u64) -> bool {
        let limit = self.store.space.blobs();
        let (victims, evicts) = {
            let mut index = self.store.index();
            let evicts =
                !self.nameless || index.nameless.saturating_add(bytes) <= self.store.space.nameless();
            let Some(victims) = index.reserve(bytes, limit, crate::cache::store::now(), evicts) else {
                return false;
            };
            if self.nameless {
                index.nameless += bytes;
            }
            (victims, evicts)
        };
        self.bytes += bytes;
        self.store.keeper.remove(victims);
        if !self.store.disk_has(missing, evicts) {
            let mut index = self.store.index();
            index.reserved -= bytes;
            if self.nameless {
                index.nameless -= bytes;
            }
            self.bytes -= bytes;
            return false;
        }
        self.unbacked += missing;
        self.store.index().unbacked += missing;
        true
    }

    /// Has the file system set all of it aside for `file`, of which the first `written` bytes are there.
    ///
    /// # Errors
    /// There is no room. That a file system can't do this is none.
    pub(crate) fn back(&mut self, file: &File, written: u64) -> io::Result<()> {
        if self.bytes <= written || is_memory(file) {
            return Ok(());
        }
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, written, self.bytes - written) {
            Ok(()) => {
                self.store.index().unbacked -= self.unbacked;
                self.unbacked = 0;
                Ok(())
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let store = self.store.clone();
        self.release(&mut store.index());
    }
}

impl Inner {
    /// Whether the disk has `wanted` bytes to spare, after evicting if that helps and `evicts`. A disk that has none at all is
    /// in trouble.
    fn disk_has(&self, wanted: u64, evicts: bool) -> bool {
        if self.lack(wanted) == 0 {
            return true;
        }
        // What has been chosen already may do.
        self.remove_victims(self.keeper.take());
        let lack = self.lack(wanted);
        if lack == 0 {
            return true;
        }
        let victims = {
            let mut index = self.index();
            if evicts && index.counted {
                index.evict(lack, self.space.blobs(), crate::cache::store::now(), true)
            } else {
                None
            }
        };
        self.remove_victims(victims.unwrap_or_default());
        let fits = self.lack(wanted) == 0;
        if !fits && self.lack(0) > 0 {
            self.trouble.enter(FULL.to_owned());
        }
        fits
    }

    /// Bytes missing on the disk, with what has been promised to others and is not there yet. A disk that does not tell
    /// is taken to be large enough: writing will show.
    pub(crate) fn lack(&self, wanted: u64) -> u64 {
        let promised = self.index().unbacked;
        self.space.lack(self.layout.root(), wanted.saturating_add(promised)).unwrap_or_default()
    }

    /// Unlinks what is out of the index, save what came back into it meanwhile.
    pub(crate) fn remove_victims(&self, victims: Vec<Victim>) {
        for victim in victims {
            let back = self.index().is_back(&victim);
            if !back && let Err(error) = self.remove_victim(&victim) {
                self.trouble.met(&error);
            }
            self.index().leaving -= 1;
        }
    }

    /// Before room is written to that others were to leave: they have. Not for a worker's thread.
    pub(crate) fn wait_for_room(&self) {
        for _ in 0..WAITS {
            if self.index().leaving == 0 {
                return;
            }
            let victims = self.keeper.take();
            if victims.is_empty() {
                // Somebody else is at it.
                std::thread::sleep(WAIT);
            }
            self.remove_victims(victims);
        }
    }

    fn remove_victim(&self, victim: &Victim) -> io::Result<()> {
        match victim {
            // What cannot be locked is being written again, by another process, or by this one since it was chosen.
            Victim::Prefix(name) => match self.layout.open_partial(name)? {
                Some(_locked) => self.layout.remove_partial(name),
                None => Ok(()),
            },
            Victim::Content(kind, digest, bytes) => {
                let Some(path) = self.layout.content(*kind, digest) else { return Ok(()) };
                crate::cache::store::layout::remove(&path)?;
                self.counters.evicted(*bytes);
                Ok(())
            }
        }
    }
}

/// How long is waited for others to unlink what they have begun with, and how often: a second is enough for any file.
const WAIT: Duration = Duration::from_millis(2);
const WAITS: usize = 500;

/// A file system in memory sets aside by taking the memory at once, which takes longer than it is worth.
fn is_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == TMPFS_MAGIC)
}

/// statfs(2).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// The text of trouble with the space that is to be left free.
pub(crate) const FULL: &str = "the cache's disk is full: less is free than min_free";
