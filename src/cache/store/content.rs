//! Content in its place, and content that is being read.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cache::counters::{Counters, Damage};
use crate::cache::store::disk_pool;
use crate::cache::store::disk_pool::{DiskPool, Use};
use crate::cache::store::health::{Health, is_of_a_place};
use crate::cache::store::index::Index;
use crate::cache::store::integrity::LostWrites;
use crate::cache::store::layout::{Kind, Layout};
use crate::cache::store::maintenance_queue::MaintenanceQueue;
use crate::cache::store::quarantine::Quarantine;
use crate::cache::store::sync::{SyncJob, SyncQueue};
use crate::cache::store::verification_queue::VerificationQueue;
use crate::cache::store::{files, integrity};
use crate::config::limits;
use crate::proto::Digest;
use crate::worker_id;

/// The content in its place.
pub(crate) struct Contents {
    pub(crate) layout: Arc<Layout>,
    pub(crate) index: Arc<Index>,
    pub(crate) health: Arc<Health>,
    pub(crate) disk: Arc<DiskPool>,
    pub(crate) sync: Arc<SyncQueue>,
    pub(crate) maintenance: Arc<MaintenanceQueue>,
    pub(crate) verification: Arc<VerificationQueue>,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) counters: Arc<Counters>,
    /// Manifests that wait to be written. They count as kept.
    pub(crate) waiting: Mutex<HashMap<Digest, Bytes>>,
    /// The time after which content is hashed again, in seconds.
    pub(crate) verify_after: u64,
}

/// Content that is being read. It is not evicted as long as this lives.
pub(crate) struct Content {
    /// Open for reading.
    pub(crate) file: Arc<File>,
    /// Bytes.
    pub(crate) length: u64,
    pin: Pin,
}

impl Content {
    /// Returns all of it, where it is small. It stays in memory for long, so it is hashed first: what is damaged or cannot be read
    /// is taken out of use, and none is returned.
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        let mut bytes = vec![0; usize::try_from(self.length).ok()?];
        if worker_id::is_worker() {
            let read = files::read_cached(&self.file, &mut bytes, 0).is_ok_and(|read| read == bytes.len());
            if !read || !self.pin.digest.is_of(&bytes) {
                disk_pool::note_missed();
                return None;
            }
            return Some(bytes.into());
        }
        files::read_exact_at(&self.file, &mut bytes, 0).inspect_err(|error| self.failed(error)).ok()?;
        if !self.pin.digest.is_of(&bytes) {
            self.pin.contents.remove_damaged(self.pin.kind, &self.pin.digest, &self.file);
            return None;
        }
        Some(bytes.into())
    }

    /// Takes the content out of use, as its file could not be read.
    pub(crate) fn failed(&self, error: &io::Error) {
        self.pin.contents.doubt(self.pin.kind, &self.pin.digest, error);
    }

    /// Returns the pool that reads what is not in memory.
    pub(crate) fn disk(&self) -> &Arc<DiskPool> {
        &self.pin.contents.disk
    }

    /// Returns content that is in its place, open as `file`, and pinned in the index with `number`.
    pub(crate) fn pinned(
        contents: &Arc<Contents>,
        kind: Kind,
        digest: &Digest,
        number: u32,
        file: Arc<File>,
        length: u64,
    ) -> Self {
        Self { file, length, pin: Pin { contents: contents.clone(), kind, digest: digest.clone(), number } }
    }
}

struct Pin {
    contents: Arc<Contents>,
    kind: Kind,
    digest: Digest,
    number: u32,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.contents.index.unpin(self.kind, &self.digest, self.number);
    }
}

impl Contents {
    /// Opens content, if it is there and can be trusted. Counts as a use.
    pub(crate) fn open(self: &Arc<Self>, kind: Kind, digest: &Digest) -> Option<Content> {
        if !self.layout.is_readable() || self.quarantine.refuses(kind, digest) {
            return None;
        }
        let path = self.layout.content(kind, digest)?;
        let file = match Self::open_file(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                disk_pool::note_missed();
                return None;
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.index.remove(kind, digest);
                } else {
                    self.doubt(kind, digest, &error);
                }
                return None;
            }
        };
        let metadata = file.metadata().ok()?;
        if !metadata.is_file()
            || !self.layout.is_ours(&metadata)
            || !self.trusts(kind, digest, &file, &metadata)
        {
            return None;
        }
        let file = Arc::new(file);
        let (now, noted) = (files::now(), u64::try_from(metadata.atime()).unwrap_or_default());
        let (pin, due) = self.index.pin(kind, digest, metadata.len(), now, noted);
        if due && self.layout.access().is_writable() {
            self.sync.push(SyncJob::Used { kind, digest: digest.clone() });
        }
        if self.is_due(&metadata, now) && self.layout.access().is_writable() {
            self.verification.schedule(kind, digest);
        }
        Some(Content::pinned(self, kind, digest, pin, file, metadata.len()))
    }

    /// Opens a file; on a worker's thread only if that does not wait.
    fn open_file(path: &Path) -> io::Result<File> {
        if worker_id::is_worker() { files::open_cached(path) } else { files::open(path) }
    }

    /// Returns what is known of a file; on a worker's thread only if that does not wait.
    fn look_at(path: &Path) -> io::Result<Metadata> {
        if !worker_id::is_worker() {
            return files::metadata(path);
        }
        let opened = files::open_cached(path).and_then(|file| file.metadata());
        opened.inspect_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                disk_pool::note_missed();
            }
        })
    }

    /// Returns true if content is there and can be trusted. Does not count as a use.
    pub(crate) fn has(&self, kind: Kind, digest: &Digest) -> bool {
        self.waiting(kind, digest).is_some() || self.is_there(kind, digest)
    }

    fn is_there(&self, kind: Kind, digest: &Digest) -> bool {
        let readable = self.layout.is_readable() && !self.quarantine.refuses(kind, digest);
        let Some(path) = self.layout.content(kind, digest).filter(|_| readable) else {
            return false;
        };
        let trusted = |metadata: &Metadata| {
            metadata.is_file()
                && self.layout.is_ours(metadata)
                && (!integrity::is_doubtful(metadata) || self.index.is_pending(kind, digest))
        };
        let look = || Self::look_at(&path).is_ok_and(|metadata| trusted(&metadata));
        // The file may have been synced between reading its metadata and the index.
        look() || look()
    }

    /// Returns the bytes of small content unchecked. Does not count as a use.
    pub(crate) fn peek(&self, kind: Kind, digest: &Digest) -> Option<Vec<u8>> {
        if let Some(bytes) = self.waiting(kind, digest) {
            return Some(bytes.into());
        }
        let path = self.layout.content(kind, digest).filter(|_| self.layout.is_readable())?;
        let file = files::open_without_atime(&path).ok()?;
        let most = limits::MANIFEST_BYTES as u64;
        let bytes = files::read_first(&file, most + 1).ok()?;
        (bytes.len() as u64 <= most).then_some(bytes)
    }

    /// Returns the length of content. Does not count as a use.
    pub(crate) fn length(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        if let Some(bytes) = self.waiting(kind, digest) {
            return Some(bytes.len() as u64);
        }
        let path = self.layout.content(kind, digest).filter(|_| self.layout.is_readable())?;
        files::metadata(&path).ok().map(|metadata| metadata.len())
    }

    /// Returns the bytes of content that waits to be written: a manifest's. They have its digest.
    pub(crate) fn waiting(&self, kind: Kind, digest: &Digest) -> Option<Bytes> {
        if kind == Kind::Manifest { self.waiting.lock().get(digest).cloned() } else { None }
    }

    /// Keeps a manifest, whose bytes have been checked against `digest`; see
    /// [`Store::keep_manifest`](crate::cache::store::Store::keep_manifest).
    pub(crate) fn keep_manifest(self: &Arc<Self>, digest: &Digest, bytes: &Bytes, limit: u64) {
        if !self.takes_new() || bytes.len() as u64 > limit {
            return;
        }
        if !worker_id::is_worker() {
            return self.write_manifest(digest, bytes);
        }
        if self.waiting.lock().insert(digest.clone(), bytes.clone()).is_some() {
            return;
        }
        let (this, own) = (self.clone(), digest.clone());
        let write = move || {
            if let Some(bytes) = this.waiting(Kind::Manifest, &own) {
                this.write_manifest(&own, &bytes);
                this.waiting.lock().remove(&own);
            }
        };
        if !self.disk.later(bytes.len(), write) {
            self.waiting.lock().remove(digest);
            self.disk.note_hanging(Use::Write, "writing manifests and records");
        }
    }

    fn write_manifest(self: &Arc<Self>, digest: &Digest, bytes: &[u8]) {
        let Some(path) = self.layout.content(Kind::Manifest, digest) else { return };
        let length = bytes.len() as u64;
        if !self.takes_new() || self.is_there(Kind::Manifest, digest) {
            return;
        }
        let written = self.layout.create_partial_for("manifest", |file, part| {
            files::write_all(file, bytes)?;
            integrity::mark(file)?;
            self.place(Kind::Manifest, digest, part, &path, LostWrites::default(), |index| {
                index.found(Kind::Manifest, digest, length, files::now());
            })
        });
        match written {
            Err(error) if is_of_a_place(&error) => self.maintenance.schedule_probe(),
            Err(error) => self.health.report(&error),
            Ok(_) => {}
        }
    }

    /// Returns true if anything new is kept now.
    pub(crate) fn takes_new(&self) -> bool {
        !self.health.is_degraded() && self.layout.access().is_writable() && !self.sync.is_full()
    }

    /// Removes content. Returns whether it was there.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest) -> bool {
        let writable = self.layout.access().is_writable();
        let Some(path) = self.layout.content(kind, digest).filter(|_| writable) else {
            return false;
        };
        if kind == Kind::Manifest {
            self.waiting.lock().remove(digest);
        }
        self.index.remove(kind, digest);
        files::remove_there(&path).inspect_err(|error| self.health.report(error)).is_ok()
    }

    /// Puts a file that has been marked into its place, where `count` counts it, and has it synced, unless `lost` has noted by
    /// then that bytes of it were lost.
    pub(crate) fn place(
        &self,
        kind: Kind,
        digest: &Digest,
        from: &Path,
        to: &Path,
        lost: LostWrites,
        count: impl FnOnce(&Index),
    ) -> io::Result<()> {
        self.index.expect_sync(kind, digest);
        match self.layout.place(from, to) {
            Ok(directories) => {
                self.quarantine.admit(kind, digest);
                count(&self.index);
                self.sync.push(SyncJob::Placed { kind, digest: digest.clone(), directories, lost });
                self.maintenance.wake();
                Ok(())
            }
            Err(error) => {
                self.index.synced(kind, digest);
                self.report_place(to, &error);
                Err(error)
            }
        }
    }

    /// Reports that content could not be put into its place. The rest of the disk may work all the same.
    fn report_place(&self, to: &Path, error: &io::Error) {
        if is_of_a_place(error) {
            tracing::warn!(path = %to.display(), %error, "content can't be put into its place in the cache; it is passed on without being kept");
            self.maintenance.schedule_probe();
        } else {
            self.health.report_at(to, error);
        }
    }

    /// Removes content whose bytes do not have its digest, unless another file is in its place by now.
    fn remove_damaged(&self, kind: Kind, digest: &Digest, file: &File) {
        let writable = self.layout.access().is_writable();
        let Some(path) = self.layout.content(kind, digest).filter(|_| writable) else { return };
        match integrity::remove_same(&path, file) {
            Ok(true) => self.note_damaged(kind, digest),
            Ok(false) => {}
            Err(error) => {
                self.quarantine.refuse(kind, digest);
                self.health.report(&error);
            }
        }
    }

    /// Notes that content was removed, as its bytes did not have its digest any more.
    pub(crate) fn note_damaged(&self, kind: Kind, digest: &Digest) {
        self.index.remove(kind, digest);
        self.counters.damaged(Damage::Digest);
        tracing::warn!(%digest, "content damaged on the disk was removed from the cache");
    }

    /// Lets content count as missing whose file could not be read, and has it hashed again: it is quarantined if it cannot be read
    /// then either. An error that is not the file's is reported alone.
    fn doubt(&self, kind: Kind, digest: &Digest, error: &io::Error) {
        if !integrity::is_damage(error) {
            self.report_unless_denied(error);
        } else if self.quarantine.refuse(kind, digest) {
            tracing::warn!(%digest, %error, "content can't be read from the disk; it counts as missing until it has been hashed again");
            self.verification.add([(kind, digest.clone())]);
        }
    }

    /// Moves content to the quarantine whose file cannot be read. Where nothing can be moved, it counts as missing.
    pub(crate) fn set_aside(&self, kind: Kind, digest: &Digest, error: &io::Error) {
        if !integrity::is_damage(error) {
            return self.report_unless_denied(error);
        }
        let Some(path) = self.layout.content(kind, digest) else { return };
        self.quarantine.refuse(kind, digest);
        self.counters.damaged(Damage::Unreadable);
        let file = match self.quarantine.take(kind, digest, &path) {
            Ok(moved) => {
                let amount = self.quarantine.amount();
                self.index.remove(kind, digest);
                self.index.totals().quarantined = amount;
                self.quarantine.admit(kind, digest);
                moved
            }
            Err(_) => path,
        };
        tracing::warn!(%digest, %error, file = %file.display(), "content can't be read from the disk; it is quarantined, and fetched again when a client asks for it");
    }

    /// Reports an error, unless it is one of permissions: those of one file say nothing of the disk.
    fn report_unless_denied(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::PermissionDenied {
            self.health.report(error);
        }
    }

    /// Returns true if content was last known to be right too long before `now`.
    pub(crate) fn is_due(&self, metadata: &Metadata, now: u64) -> bool {
        integrity::is_due(metadata, now, self.verify_after)
    }

    /// Returns true if a file can be trusted. One that is marked may not be on the disk, unless this process put it there.
    fn trusts(&self, kind: Kind, digest: &Digest, file: &File, metadata: &Metadata) -> bool {
        // The file may have been synced since its metadata were read: then it is neither pending nor marked.
        !integrity::is_doubtful(metadata)
            || self.index.is_pending(kind, digest)
            || file.metadata().is_ok_and(|metadata| !integrity::is_doubtful(&metadata))
    }
}
