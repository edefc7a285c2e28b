//! The store: composes its parts, and starts their threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;

use crate::cache::Counters;
use crate::cache::store::content::{Content, Contents};
use crate::cache::store::disk_pool::{DiskPool, Use};
use crate::cache::store::files;
use crate::cache::store::head::Head;
use crate::cache::store::health::Health;
use crate::cache::store::index::{Amount, Index};
use crate::cache::store::integrity;
use crate::cache::store::integrity::Verdict;
use crate::cache::store::layout::{Access, Kind, Layout};
use crate::cache::store::maintenance::{Maintenance, Tending};
use crate::cache::store::maintenance_queue::MaintenanceQueue;
use crate::cache::store::pace;
use crate::cache::store::partial::{Partial, Partials};
use crate::cache::store::partial_file::LeftPartials;
use crate::cache::store::quarantine::Quarantine;
use crate::cache::store::space;
use crate::cache::store::space::{FreeSpace, Space};
use crate::cache::store::sync::{SyncQueue, Syncer};
use crate::cache::store::verification::Verification;
use crate::cache::store::verification_queue::VerificationQueue;
use crate::config;
use crate::config::limits;
use crate::proto::Digest;

/// The content on disk. Dropping it waits until everything is synced.
pub(crate) struct Store {
    pub(crate) index: Arc<Index>,
    layout: Arc<Layout>,
    health: Arc<Health>,
    disk: Arc<DiskPool>,
    pub(crate) contents: Arc<Contents>,
    partials: Arc<Partials>,
    pub(crate) space: Arc<Space>,
    pub(crate) maintenance: Arc<Maintenance>,
    pub(crate) queue: Arc<MaintenanceQueue>,
    pub(crate) verification: Arc<VerificationQueue>,
    sync: Arc<SyncQueue>,
    left: Arc<LeftPartials>,
    threads: Vec<JoinHandle<()>>,
    /// True once it is known that its threads may never end, as the disk hangs.
    abandoned: AtomicBool,
}

/// The use of the store's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Complete blobs.
    pub blobs: Amount,
    /// Complete manifests.
    pub manifests: Amount,
    /// Partials that are not being written.
    pub partials: Amount,
    /// Content that could not be read, and was moved aside.
    pub quarantined: Amount,
    /// Bytes reserved for blobs that are being downloaded.
    pub reserved: u64,
    /// True once the scan has counted all files; until then there may be more.
    pub counted: bool,
    /// The limit, in bytes.
    pub max_size: u64,
}

/// A blob or manifest on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Its last use, within an hour.
    pub used: SystemTime,
}

impl Store {
    /// Opens the store in the settings' directory, which is created if it is missing. Never fails, see
    /// [`degraded_reason`](Self::degraded_reason). The disk is scanned in the background.
    pub(crate) fn open(settings: &config::Cache, counters: Arc<Counters>) -> Arc<Self> {
        Self::open_on(settings, counters, Box::new(space::free_space))
    }

    /// Opens the store for reading alone: creates, writes and removes nothing, counts no use, and starts no thread. Returns
    /// once everything is counted.
    pub(crate) fn open_read_only(settings: &config::Cache, counters: Arc<Counters>) -> Arc<Self> {
        let store = Self::new(settings, counters, Box::new(space::free_space), true);
        store.maintenance.scan_read_only();
        Arc::new(store)
    }

    /// Opens the store on a disk whose free space `free` returns.
    pub(crate) fn open_on(
        settings: &config::Cache,
        counters: Arc<Counters>,
        free: Box<FreeSpace>,
    ) -> Arc<Self> {
        let mut store = Self::new(settings, counters, free, false);
        store.queue.schedule_probe();
        let (prepared, is_prepared) = std::sync::mpsc::channel();
        let maintenance = store.maintenance.clone();
        let syncer = Syncer {
            queue: store.sync.clone(),
            layout: store.layout.clone(),
            index: store.index.clone(),
            left: store.left.clone(),
            health: store.health.clone(),
            quarantine: store.contents.quarantine.clone(),
            counters: store.contents.counters.clone(),
        };
        let verification = Verification::new(store.contents.clone());
        let threads: [_; THREADS] = [
            store.start("cache-verify", move || verification.run()),
            store.start("cache-upkeep", move || {
                maintenance.prepare();
                let _ = prepared.send(());
                maintenance.run();
            }),
            store.start("cache-sync", move || syncer.run()),
        ];
        store.threads = threads.into_iter().flatten().collect();
        // A disk that hangs must not keep the gateway from starting.
        if is_prepared.recv_timeout(limits::DISK_DEADLINE) == Err(RecvTimeoutError::Timeout) {
            store.disk.note_hanging(Use::Read, "preparing the directory");
        }
        Arc::new(store)
    }

    fn new(settings: &config::Cache, counters: Arc<Counters>, free: Box<FreeSpace>, read_only: bool) -> Self {
        let layout = Arc::new(Layout::new(settings.path.clone(), read_only));
        let index = Arc::<Index>::default();
        let (health, queue) = (Arc::<Health>::default(), Arc::<MaintenanceQueue>::default());
        let (sync, left) = (Arc::<SyncQueue>::default(), Arc::<LeftPartials>::default());
        let verification = Arc::<VerificationQueue>::default();
        let disk = Arc::new(DiskPool::new(health.clone(), queue.clone()));
        let space = Space::new(
            settings,
            free,
            layout.clone(),
            index.clone(),
            health.clone(),
            queue.clone(),
            counters.clone(),
        );
        let contents = Arc::new(Contents {
            layout: layout.clone(),
            index: index.clone(),
            health: health.clone(),
            disk: disk.clone(),
            sync: sync.clone(),
            maintenance: queue.clone(),
            verification: verification.clone(),
            quarantine: Arc::new(Quarantine::new(layout.quarantine(), settings.max_size / 100)),
            counters,
            waiting: Mutex::default(),
            verify_after: settings.verify_after.as_secs(),
        });
        let partials = Partials::new(contents.clone(), space.clone(), left.clone());
        let maintenance = Maintenance::new(contents.clone(), partials.clone(), space.clone());
        let threads = Vec::new();
        Self {
            index,
            layout,
            health,
            disk,
            contents,
            partials,
            space,
            maintenance,
            queue,
            verification,
            sync,
            left,
            threads,
            abandoned: AtomicBool::new(false),
        }
    }

    fn start(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            pace::lower_priority();
            work();
        });
        thread
            .inspect_err(|error| {
                self.health.degrade(format!("can't start a thread of the cache: {error}"));
            })
            .ok()
    }

    /// Returns the rights below the store's directory.
    pub(crate) fn access(&self) -> Access {
        self.layout.access().clone()
    }

    /// Sets the work that the maintenance thread does besides its own.
    pub(crate) fn tend_by(&self, tending: Arc<dyn Tending>) {
        self.maintenance.set_tending(tending);
        self.queue.wake();
    }

    /// Opens content, if it is there and can be trusted. It is not evicted until the result is dropped. Counts as a use.
    pub(crate) fn content(&self, kind: Kind, digest: &Digest) -> Option<Content> {
        self.contents.open(kind, digest)
    }

    /// Returns the bytes of small content unchecked. Does not count as a use.
    pub(crate) fn peek(&self, kind: Kind, digest: &Digest) -> Option<Vec<u8>> {
        self.contents.peek(kind, digest)
    }

    /// Returns true if a blob of `total` bytes is kept at all.
    pub(crate) fn may_keep(&self, total: u64) -> bool {
        self.space.may_keep(total)
    }

    /// Returns the length in bytes of the largest blob that is kept at all.
    pub(crate) fn largest_kept(&self) -> u64 {
        self.space.largest_kept()
    }

    /// Returns the bytes of a manifest that waits to be written.
    pub(crate) fn waiting(&self, digest: &Digest) -> Option<Bytes> {
        self.contents.waiting(Kind::Manifest, digest)
    }

    /// Returns true if content is there and can be trusted. Does not count as a use.
    pub(crate) fn has(&self, kind: Kind, digest: &Digest) -> bool {
        self.contents.has(kind, digest)
    }

    /// Returns the length of content. Does not count as a use.
    pub(crate) fn length(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        self.contents.length(kind, digest)
    }

    /// Keeps a manifest, whose bytes the caller has checked against `digest`. Does nothing if it cannot be kept.
    pub(crate) fn keep_manifest(&self, digest: &Digest, bytes: &Bytes) {
        self.contents.keep_manifest(digest, bytes, self.space.manifest_limit());
    }

    /// Keeps `digest` from being evicted as long as this process runs, even if its content comes later.
    pub(crate) fn keep(&self, digest: &Digest) {
        self.index.keep(digest);
    }

    /// Runs `sort` in a thread of its own, and evicts nothing until it has [kept](Self::keep) the content that must stay.
    pub(crate) fn sort_out(&self, sort: impl FnOnce() + Send + 'static) {
        self.index.hold_evictions();
        let hold = EvictionHold { index: self.index.clone(), queue: self.queue.clone() };
        let work = move || {
            pace::lower_priority();
            sort();
            drop(hold);
        };
        // If no thread can be started, nothing is marked, and the content that must stay is evicted like the rest.
        let _ = std::thread::Builder::new().name("cache-sort".to_owned()).spawn(work);
    }

    /// Resumes a partial that an earlier fill from `upstream` left; none if there is none, or another process writes it.
    pub(crate) fn resume(&self, upstream: &str, digest: &Digest) -> Option<Partial> {
        self.partials.resume(upstream, digest)
    }

    /// Begins a partial for a blob of `total` bytes from `upstream`, and reserves room for it. None if it cannot be kept: no
    /// room, a disk that does not work, or an algorithm that cannot be checked here.
    pub(crate) fn begin(
        &self,
        upstream: &str,
        digest: &Digest,
        total: Option<u64>,
        etag: Option<&HeaderValue>,
    ) -> Option<Partial> {
        self.partials.begin(Head::new(upstream, digest, total, etag), false)
    }

    /// Begins a partial for a blob that is being pushed to `upstream`, whose digest is not known before its end: see
    /// [`Partial::commit`]. Room is reserved as the blob comes, beyond a tenth of `max_size` only if nothing has to be
    /// evicted for it. None in the same cases as [`begin`](Self::begin).
    pub(crate) fn begin_unknown_digest(&self, upstream: &str) -> Option<Partial> {
        let mut random = [0; 32];
        // Until its end the partial has a random digest, by which no request finds it; its file's name is random as well.
        let _ = aws_lc_rs::rand::fill(&mut random);
        self.partials.begin(Head::new(upstream, &Digest::sha256(&random), None, None), true)
    }

    /// Returns the threads on which requests wait for the disk.
    pub(crate) fn disk(&self) -> &Arc<DiskPool> {
        &self.disk
    }

    /// Returns true if a new blob may be kept now.
    pub(crate) fn takes_new(&self) -> bool {
        self.contents.takes_new()
    }

    /// Removes content. Returns true if it was there.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest) -> bool {
        self.contents.remove(kind, digest)
    }

    /// Schedules content that may be damaged to be hashed again, at most once in
    /// [`CACHE_VERIFY_PAUSE`](crate::config::limits::CACHE_VERIFY_PAUSE), and removed if it is. Until then it is served.
    pub(crate) fn schedule_verify(&self, kind: Kind, digest: &Digest) {
        self.verification.schedule(kind, digest);
    }

    /// Returns the reason why nothing can be kept now, if there is one.
    pub(crate) fn degraded_reason(&self) -> Option<String> {
        self.health.reason()
    }

    /// Returns how much is kept, as far as it has been counted.
    pub(crate) fn usage(&self) -> Usage {
        let totals = self.index.totals();
        Usage {
            blobs: totals.blobs,
            manifests: totals.manifests,
            partials: totals.partials,
            quarantined: totals.quarantined,
            reserved: totals.reserved,
            counted: self.index.is_counted(),
            max_size: self.space.max_size(),
        }
    }

    /// Calls `each` with all content of a kind that is on the disk. Takes long: not for a worker's thread.
    ///
    /// # Errors
    /// The system's, where a directory can't be read.
    pub(crate) fn for_each(&self, kind: Kind, mut each: impl FnMut(Listed)) -> std::io::Result<()> {
        self.walk(kind, |digest, path| {
            if let Ok(metadata) = files::metadata(path) {
                let used = metadata.accessed().unwrap_or(UNIX_EPOCH);
                each(Listed { digest, bytes: metadata.len(), used });
            }
            true
        })
    }

    /// Hashes all content again until `each` returns false, and removes damaged content if the directory is writable. Takes
    /// long: not for a worker's thread.
    ///
    /// # Errors
    /// The system's, where a directory can't be read.
    pub(crate) fn verify(&self, mut each: impl FnMut(Kind, &Digest, Verdict) -> bool) -> std::io::Result<()> {
        let may_remove = self.layout.access().is_writable();
        for kind in Kind::ALL {
            self.walk(kind, |digest, path| {
                let Some(verdict) = integrity::verify(path, &digest, may_remove, || false) else {
                    return true;
                };
                match &verdict {
                    Verdict::Wrong if may_remove => self.contents.note_damaged(kind, &digest),
                    Verdict::Unreadable(error) if may_remove => self.contents.set_aside(kind, &digest, error),
                    _ => {}
                }
                each(kind, &digest, verdict)
            })?;
        }
        Ok(())
    }

    /// Ends all that the next process can do as well, such as evictions, and waits until all complete content is synced.
    pub(crate) fn close(&self) {
        self.queue.close();
        self.verification.close();
        self.disk.flush(limits::CACHE_CLOSE_DEADLINE);
        if self.threads.len() == THREADS {
            self.sync.flush();
        }
    }

    /// Waits for nothing any more: the disk hangs, and the process is to end.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Waits until all complete content is synced and the disk has been scanned.
    pub(crate) fn flush(&self) {
        self.disk.flush(limits::CACHE_CLOSE_DEADLINE);
        // If a thread could not be started, the wait would never end.
        if self.threads.len() == THREADS {
            self.sync.flush();
            self.queue.flush();
            self.verification.flush();
        }
    }

    fn walk(&self, kind: Kind, each: impl FnMut(Digest, &Path) -> bool) -> std::io::Result<()> {
        if self.layout.is_readable() { self.layout.each(kind, each).map_err(Into::into) } else { Ok(()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.close();
        self.verification.close();
        self.sync.close();
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        self.disk.flush(limits::CACHE_CLOSE_DEADLINE);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // Content that is still being read would keep the lock.
        self.layout.disown();
    }
}

/// A hold on all evictions until it is dropped.
struct EvictionHold {
    index: Arc<Index>,
    queue: Arc<MaintenanceQueue>,
}

impl Drop for EvictionHold {
    fn drop(&mut self) {
        self.index.release_evictions();
        self.queue.wake();
    }
}

/// The number of threads: verification, maintenance and sync.
const THREADS: usize = 3;
