//! The maintenance thread: scans the disk, makes room ahead of need, and probes a degraded disk.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::store::content::Contents;
use crate::cache::store::head::Head;
use crate::cache::store::integrity::LostWrites;
use crate::cache::store::layout::{Kind, LayoutError, UnreadablePath};
use crate::cache::store::partial::Partials;
use crate::cache::store::space::Space;
use crate::cache::store::sync::SyncJob;
use crate::cache::store::{files, integrity, pace};
use crate::clock;
use crate::proto::Digest;

/// The work of the thread.
pub(crate) struct Maintenance {
    contents: Arc<Contents>,
    partials: Arc<Partials>,
    space: Arc<Space>,
    tending: Mutex<Option<Arc<dyn Tending>>>,
    /// Some content could not be counted: nothing is kept until it has been.
    uncounted: AtomicBool,
}

/// Work on other files below the directory. It is done every hour, and when it is due before.
pub(crate) trait Tending: Send + Sync {
    /// Returns true if there is something to do before the hour is over. Takes no time.
    fn is_due(&self) -> bool;

    /// Does what the disk has refused before, until `stop` returns true. Called every few seconds while the disk works.
    fn catch_up(&self, stop: &dyn Fn() -> bool);

    /// Does the work, until `stop` returns true.
    fn tend(&self, stop: &dyn Fn() -> bool);
}

impl Maintenance {
    /// Returns the maintenance of a store with these parts.
    pub(crate) fn new(contents: Arc<Contents>, partials: Arc<Partials>, space: Arc<Space>) -> Arc<Self> {
        Arc::new(Self {
            contents,
            partials,
            space,
            tending: Mutex::default(),
            uncounted: AtomicBool::new(false),
        })
    }

    /// Sets the work besides its own.
    pub(crate) fn set_tending(&self, tending: Arc<dyn Tending>) {
        *self.tending.lock() = Some(tending);
    }

    /// Works until the queue is closed.
    pub(crate) fn run(&self) {
        let Contents { layout, health, maintenance: queue, .. } = &*self.contents;
        let (mut scanned, mut again_after): (Option<Instant>, _) = (None, RECOUNT_LEAST);
        let mut hourly = clock::now() + HOURLY_AFTER;
        let mut patience = Duration::ZERO;
        loop {
            let probe = queue.wait(patience);
            self.space.remove_scheduled();
            if queue.is_closed() {
                return;
            }
            if probe || health.is_degraded() {
                let owned = layout.is_owner();
                self.probe();
                if layout.is_owner() && !owned {
                    // The changes of the owner before are not known here.
                    scanned = None;
                }
            }
            let every = if self.uncounted.load(Ordering::Acquire) { again_after } else { SCAN_EVERY };
            // The wall clock may jump.
            let is_due = scanned.is_none_or(|scanned| clock::now() >= scanned + every);
            if layout.is_readable() && is_due {
                let start = clock::now();
                self.count();
                let end = clock::now();
                scanned = Some(end);
                again_after = ((end - start) * RECOUNT_PAUSES).clamp(RECOUNT_LEAST, RECOUNT_MOST);
            }
            // The work may take long, and must not be done while the lock is held.
            let tending = self.tending.lock().clone();
            if let Some(tending) = tending.as_ref().filter(|_| !health.is_degraded()) {
                tending.catch_up(&|| queue.is_closed());
            }
            let is_hour = clock::now() >= hourly;
            if layout.is_readable()
                && let Some(tending) = tending.filter(|tending| is_hour || tending.is_due())
            {
                tending.tend(&|| queue.is_closed());
                hourly = if is_hour { clock::now() + SCAN_EVERY } else { hourly };
            }
            self.space.make_room();
            patience = if health.is_degraded() { PROBE_EVERY } else { LOOK_EVERY };
        }
    }

    /// Prepares the directory, and reports why if that fails. Returns true if it can be used.
    pub(crate) fn prepare(&self) -> bool {
        let Contents { layout, health, .. } = &*self.contents;
        let error = match layout.prepare() {
            Ok(()) => return true,
            Err(error) => error,
        };
        if let LayoutError::Io(error) = &error {
            health.report_at(layout.root(), error);
        }
        let is_certain = !matches!(error, LayoutError::Io(_));
        if !health.is_degraded() || is_certain {
            health.degrade(format!("the cache's directory can't be used: {error}"));
        }
        false
    }

    /// Adds all that is there to the index, and changes nothing on the disk.
    pub(crate) fn scan_read_only(&self) {
        if !self.prepare() {
            return;
        }
        let Contents { layout, index, health, .. } = &*self.contents;
        for name in layout.partial_names().unwrap_or_default() {
            if let Ok(part) = files::metadata(&layout.partial(&name, "part")) {
                // Holes take no room.
                let segments = Head::read(layout, &name).map(|head| head.written(part.len()));
                index.found_partial(&name, segments.map_or(part.len(), |segments| segments.bytes()), 0);
            }
        }
        for kind in Kind::ALL {
            let scanned = layout.each(kind, |digest, path| {
                if let Ok(metadata) = files::metadata(path) {
                    index.found(kind, &digest, metadata.len(), 0);
                }
                true
            });
            if let Err(error) = scanned {
                health.degrade(format!("the cache's content can't be counted: {error}"));
            }
        }
        index.note_counted();
        self.space.degrade_if_full();
    }

    /// Removes content from the index that the last scan has not seen: another process has removed it.
    pub(crate) fn forget_vanished(&self, kind: Kind) {
        let Contents { layout, index, maintenance: queue, .. } = &*self.contents;
        if queue.is_closed() {
            return;
        }
        for unseen in index.unseen(kind) {
            for digest in unseen {
                if queue.is_closed() {
                    return;
                }
                let gone = |path: PathBuf| {
                    files::metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                };
                if layout.content(kind, &digest).is_some_and(gone) {
                    index.remove(kind, &digest);
                }
                pace::rest();
            }
            pace::rest();
        }
    }

    /// Looks whether something can be kept again.
    fn probe(&self) {
        if !self.prepare() || !self.space.make_room_on_disk() {
            return;
        }
        let Contents { layout, health, .. } = &*self.contents;
        let written = layout
            .create_partial_for("test", |file, _| files::write_and_sync(file, &[0; 4096]))
            .and_then(|name| layout.remove_partial(&name));
        match written {
            Ok(()) if self.uncounted.load(Ordering::Acquire) => {}
            Ok(()) => health.recover(),
            Err(error) => health.report_at(&layout.partial_directory(), &error),
        }
    }

    /// Scans the disk. If some of it cannot be read, nothing is kept until it has been: how much there is would be unknown, and the
    /// limit could be exceeded.
    pub(crate) fn count(&self) {
        match self.scan() {
            Ok(()) => {
                self.contents.index.note_counted();
                if self.uncounted.swap(false, Ordering::AcqRel) {
                    self.probe();
                }
            }
            Err(error) => {
                self.uncounted.store(true, Ordering::Release);
                self.contents.health.degrade(format!(
                    "the cache's content can't be counted: {error}; it is counted again until all can be read"
                ));
            }
        }
    }

    /// Adds all that is there to the index, and tidies up what earlier processes left. Entries that exist stay as they are.
    /// Content that cannot be trusted is hashed first.
    fn scan(&self) -> Result<(), UnreadablePath> {
        let Contents { layout, index, .. } = &*self.contents;
        let mut unreadable = self.scan_partials().err();
        index.note_partials_known();
        index.begin_scan();
        let quarantined = self.contents.quarantine.amount();
        index.totals().quarantined = quarantined;
        for kind in Kind::ALL {
            let scanned = layout.each(kind, |digest, path| {
                if let Err(error) = self.scan_one(kind, digest, path) {
                    unreadable.get_or_insert_with(|| UnreadablePath { path: path.to_owned(), error });
                }
                pace::rest();
                !self.contents.maintenance.is_closed()
            });
            self.forget_vanished(kind);
            unreadable = unreadable.or_else(|| scanned.err());
        }
        unreadable.map_or(Ok(()), Err)
    }

    /// Adds the partials, and tidies them up. One that can't be tidied counts all the same, with all its bytes.
    fn scan_partials(&self) -> Result<(), UnreadablePath> {
        let Contents { layout, index, maintenance: queue, .. } = &*self.contents;
        let names = layout.partial_names();
        for name in names.map_err(|error| UnreadablePath { path: layout.partial_directory(), error })? {
            pace::rest();
            if queue.is_closed() {
                return Ok(());
            }
            let Err(error) = self.partials.tidy(&name) else { continue };
            tracing::debug!(name, %error, "a partial file of the cache can't be tidied up");
            let path = layout.partial(&name, "part");
            let part = found(&path).map_err(|error| UnreadablePath { path, error })?;
            part.inspect(|part| index.found_partial(&name, part.len(), 0));
        }
        self.partials.tidy_notes();
        Ok(())
    }

    /// Adds one file, unless it has vanished.
    ///
    /// # Errors
    /// The system's, if it is unknown how large the file is.
    fn scan_one(&self, kind: Kind, digest: Digest, path: &Path) -> io::Result<()> {
        let Contents { index, sync, .. } = &*self.contents;
        if index.saw(kind, &digest) {
            return Ok(());
        }
        let Some(metadata) = found(path)? else { return Ok(()) };
        let pending = index.is_pending(kind, &digest);
        if integrity::is_doubtful(&metadata) && !pending {
            self.contents.verification.add([(kind, digest)]);
        } else if metadata.is_file() {
            if integrity::is_marked(&metadata) && !pending {
                // The process that put it there was killed before it was synced.
                let directories = path.parent().map(Path::to_owned).into_iter().collect();
                sync.push_waiting(SyncJob::Placed {
                    kind,
                    digest: digest.clone(),
                    directories,
                    lost: LostWrites::default(),
                });
            }
            let used = u64::try_from(metadata.atime()).unwrap_or_default();
            index.found(kind, &digest, metadata.len(), used);
        }
        Ok(())
    }
}

/// Returns the metadata of a file; none if there is no such file.
fn found(path: &Path) -> io::Result<Option<Metadata>> {
    match files::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The interval at which a degraded disk is probed.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// The interval at which it is checked whether others have filled the disk.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The time from the start to the first hourly work: by then it is known what must stay.
const HOURLY_AFTER: Duration = Duration::from_secs(60);

/// The pause before the next scan of a disk of which something cannot be read: so many times as long as the last scan took,
/// within these bounds.
const RECOUNT_PAUSES: u32 = 10;
const RECOUNT_LEAST: Duration = Duration::from_secs(5);
const RECOUNT_MOST: Duration = Duration::from_secs(600);

/// The interval between scans: another process may have put something there.
const SCAN_EVERY: Duration = Duration::from_secs(60 * 60);
