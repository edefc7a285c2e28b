//! Partials: files that hold the beginning of a blob on its way.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};

use crate::cache::store::content::{Content, Contents};
use crate::cache::store::disk_pool;
use crate::cache::store::disk_pool::DiskPool;
use crate::cache::store::files::{now, read_small, seconds, truncate};
use crate::cache::store::head::Head;
use crate::cache::store::layout::{Kind, NOTE};
use crate::cache::store::partial_file::{LeftPartials, PartialFile};
use crate::cache::store::space::{Reservation, Space};
use crate::cache::store::sync::SyncJob;
use crate::cache::store::{files, integrity};
use crate::config::limits;
use crate::proto::{Algorithm, Digest};

/// The partials of the store.
pub(crate) struct Partials {
    contents: Arc<Contents>,
    space: Arc<Space>,
    left: Arc<LeftPartials>,
    /// Held while a partial that is not being written is locked for a moment: a resume would fail meanwhile.
    tidying: Mutex<()>,
}

/// A partial that is being written, in a locked file of its own. Dropped, it is discarded.
pub(crate) struct Partial {
    partials: Arc<Partials>,
    file: Arc<PartialFile>,
    room: Mutex<Reservation>,
    resumed_at: u64,
    /// The offset at which it is synced next.
    next_sync: u64,
    /// True if its files are left for another fill.
    left: bool,
}

impl Partial {
    /// Returns the file, for readers that are behind.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file.file
    }

    /// Returns the bytes that were there when it was resumed, which have to be hashed again; 0 for a new one.
    pub(crate) fn resumed_at(&self) -> u64 {
        self.resumed_at
    }

    /// Returns what the upstream said when it was begun: the blob's length and strong validator.
    pub(crate) fn head(&self) -> (Option<u64>, Option<HeaderValue>) {
        (self.file.head.total, self.file.head.etag.clone())
    }

    /// Returns the threads that wait for the disk.
    pub(crate) fn disk(&self) -> &Arc<DiskPool> {
        &self.partials.contents.disk
    }

    /// Returns the note of lost writes, for tests of disks that lose some.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> &integrity::LostWrites {
        &self.file.lost
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// The system's. `StorageFull` if there is no room for more, `FileTooLarge` if the blob is longer than any that is kept.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at.saturating_add(bytes.len() as u64);
        let mut room = self.room();
        let more = end.saturating_sub(room.bytes());
        if more > 0 {
            self.grow(&mut room, more, end)?;
        }
        let prepared = room.prepare(&self.file.file, at, bytes.len() as u64);
        drop(room);
        prepared.inspect_err(|error| self.partials.report_of_begin(error))?;
        files::write_all_at(&self.file.file, bytes, at).inspect_err(|error| self.report(error))
    }

    /// Takes room for `more` bytes up to `end`, and for some of those that are said to follow.
    fn grow(&self, room: &mut Reservation, more: u64, end: u64) -> io::Result<()> {
        if !self.partials.space.may_keep(end) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let total = self.file.head.total;
        let rest = total.map_or(u64::MAX, |total| total.saturating_sub(room.bytes()));
        let step = room.bytes().clamp(FIRST_STEP, LONGEST_STEP).min(rest);
        if !room.grow(more.max(step)) && !room.grow(more) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if total.is_some() {
            room.allocate_next();
        }
        Ok(())
    }

    /// Notes that all up to `at` has been written. Every now and then that is synced, behind this, so that it can be resumed.
    pub(crate) fn reached(&mut self, at: u64) {
        if at < self.next_sync {
            return;
        }
        self.next_sync = at.saturating_add(SYNC_EVERY);
        self.room().written(at);
        self.file.reached.store(at, Ordering::Release);
        if !self.file.queued.swap(true, Ordering::AcqRel) {
            self.partials.contents.sync.push(SyncJob::Reached(self.file.clone()));
        }
    }

    /// Notes that all up to `at` has been written, without syncing it: it is not to be resumed.
    pub(crate) fn written(&self, at: u64) {
        self.room().written(at);
    }

    /// Puts the blob in its place, as its bytes have `digest`, and syncs it behind this.
    ///
    /// # Errors
    /// The system's, or that it has not `length` bytes; then it is gone.
    pub(crate) fn commit(self, digest: &Digest, length: u64) -> io::Result<Content> {
        self.finish(length).inspect_err(|error| self.report(error))?;
        let pin = self.place(digest, length)?;
        let contents = &self.partials.contents;
        Ok(Content::pinned(contents, Kind::Blob, digest, pin, self.file.file.clone(), length))
    }

    /// Leaves the first `at` bytes to be resumed, and gives back the room that was reserved for the rest. Few bytes are not
    /// left: they are fetched again in no time, and clients that leave early would fill the directory with little files.
    pub(crate) fn leave(self, at: u64) {
        if at >= limits::CACHE_PARTIAL_LEAST {
            self.leave_first(at);
        }
    }

    /// Leaves a partial that was resumed as it was, for another fill: nothing has come for this one.
    pub(crate) fn put_back(self) {
        let at = self.resumed_at;
        self.leave_first(at);
    }

    fn leave_first(mut self, at: u64) {
        if at == 0 || self.file.lost.check().is_err() {
            return;
        }
        if let Err(error) = truncate(&self.file.file, at) {
            self.report(&error);
            return;
        }
        self.left = true;
        self.file.reached.store(at, Ordering::Release);
        let contents = &self.partials.contents;
        contents.index.found_left(&self.file.name, at, now(), self.room().give_up());
        self.partials.left.insert(self.file.clone());
        contents.sync.push(SyncJob::Left(self.file.clone()));
    }

    /// Removes it: its bytes are wrong, or not needed.
    pub(crate) fn discard(self) {}

    fn room(&self) -> MutexGuard<'_, Reservation> {
        self.room.lock()
    }

    fn report(&self, error: &io::Error) {
        self.partials.contents.health.report(error);
    }

    /// Checks the file, and gives it the length and the mark of content.
    fn finish(&self, length: u64) -> io::Result<()> {
        let file = &self.file.file;
        self.file.lost.check()?;
        if file.metadata()?.len() != length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the blob has another length"));
        }
        if self.room().bytes() > length {
            truncate(file, length)?;
        }
        integrity::mark(file)
    }

    /// Renames the file to where content belongs. Returns the number of the pin.
    fn place(&self, digest: &Digest, length: u64) -> io::Result<u32> {
        let contents = &self.partials.contents;
        let Some(path) = contents.layout.content(Kind::Blob, digest) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let part = contents.layout.partial(&self.file.name, "part");
        let now = now();
        let mut room = self.room();
        let mut pin = 0;
        contents.place(Kind::Blob, digest, &part, &path, self.file.lost.clone(), |index| {
            (pin, _) = index.pin_placed(Kind::Blob, digest, length, now, now, room.give_up());
        })?;
        Ok(pin)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let (file, partials) = (self.file.clone(), self.partials.clone());
        disk_pool::off_worker(&self.partials.contents.disk, move || {
            if let Err(error) = file.remove(&partials.contents.layout) {
                partials.contents.health.report(&error);
            }
        });
    }
}

impl Partials {
    /// Returns the partials of a store with these parts.
    pub(crate) fn new(contents: Arc<Contents>, space: Arc<Space>, left: Arc<LeftPartials>) -> Arc<Self> {
        Arc::new(Self { contents, space, left, tidying: Mutex::default() })
    }

    /// Begins a partial; see [`Store::begin`](crate::cache::store::Store::begin).
    pub(crate) fn begin(self: &Arc<Self>, head: Head, unknown_digest: bool) -> Option<Partial> {
        if head.digest.algorithm() == Algorithm::Other || !self.contents.takes_new() {
            return None;
        }
        if head.total.is_some_and(|total| !self.space.may_keep(total)) {
            return None;
        }
        let first = head.total.unwrap_or_default().min(FIRST_STEP);
        let room = Reservation::new(&self.space, first, 0, unknown_digest)?;
        match self.create(files::random_name(&head.stem()), head, room) {
            Ok(partial) => Some(partial),
            Err(error) => {
                self.report_of_begin(&error);
                None
            }
        }
    }

    /// Resumes a partial; see [`Store::resume`](crate::cache::store::Store::resume).
    pub(crate) fn resume(self: &Arc<Self>, upstream: &str, digest: &Digest) -> Option<Partial> {
        if digest.algorithm() == Algorithm::Other || !self.contents.takes_new() {
            return None;
        }
        let stem = Head::new(upstream, digest, None, None).stem();
        self.resume_left(&stem).or_else(|| self.resume_found(&stem, digest))
    }

    /// Removes the partial called `name` if it is of no use, else adds it to the index; nothing while it is being written.
    pub(crate) fn tidy(&self, name: &str) -> io::Result<()> {
        let layout = &self.contents.layout;
        let _turn = self.tidying.lock();
        let Some(file) = layout.open_partial(name)? else {
            return if files::exists(&layout.partial(name, "part")) {
                Ok(())
            } else {
                layout.remove_partial(name)
            };
        };
        let length = file.metadata()?.len();
        let Some(head) = Head::read(layout, name).filter(|head| head.written(length) > 0) else {
            return layout.remove_partial(name);
        };
        let bytes = head.written(length);
        truncate(&file, bytes)?;
        let noted = files::metadata(&layout.partial(name, "head"))?.modified()?;
        self.contents.index.found_partial(name, bytes, seconds(noted));
        Ok(())
    }

    /// Removes the notes of partials that are not there any more.
    pub(crate) fn tidy_notes(&self) {
        let layout = &self.contents.layout;
        for entry in files::entries(&layout.partial_directory()).unwrap_or_default() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(stem) = name.strip_suffix(NOTE).and_then(|name| name.strip_suffix('.')) else {
                continue;
            };
            if !self.noted(stem).is_some_and(|name| files::exists(&layout.partial(&name, "part"))) {
                // The next scan tries again.
                let _ = files::remove(&entry.path());
            }
        }
    }

    fn create(self: &Arc<Self>, name: String, head: Head, room: Reservation) -> io::Result<Partial> {
        let layout = &self.contents.layout;
        let file = PartialFile::new(name.clone(), layout.create_partial(&name)?, head);
        // From here on its files are removed when this fails.
        let partial = self.partial(file, room, 0);
        partial.file.head.write(&layout.partial(&name, "new"), false)?;
        Head::put(layout, &name)?;
        Ok(partial)
    }

    fn partial(self: &Arc<Self>, file: Arc<PartialFile>, room: Reservation, resumed_at: u64) -> Partial {
        let (partials, next_sync) = (self.clone(), resumed_at.saturating_add(SYNC_EVERY));
        Partial { partials, file, room: Mutex::new(room), resumed_at, next_sync, left: false }
    }

    /// Resumes a partial that this process left and has not unlocked yet.
    fn resume_left(self: &Arc<Self>, stem: &str) -> Option<Partial> {
        let file = self.left.take(stem)?;
        if file.lost.check().is_err() {
            let _ = file.remove(&self.contents.layout);
            self.contents.index.remove_partial(&file.name);
            return None;
        }
        let bytes = file.head.resumable(file.reached.load(Ordering::Acquire));
        let resumed = self.take_up(&file, bytes);
        if resumed.is_none() {
            self.left.insert(file.clone());
            self.contents.sync.push(SyncJob::Left(file));
        }
        resumed
    }

    /// Resumes a partial on the disk, if it can be locked: the longest first.
    fn resume_found(self: &Arc<Self>, stem: &str, digest: &Digest) -> Option<Partial> {
        let known = self.contents.index.partials_of(stem);
        let names = known.unwrap_or_else(|| self.on_disk(stem)).into_iter();
        // Another process may have left one since the last scan.
        names.chain(self.noted(stem)).find_map(|name| self.resume_named(name, digest))
    }

    /// Returns the partials whose names begin with `stem` from the disk, the longest first: just after the start the index does
    /// not know them.
    fn on_disk(&self, stem: &str) -> Vec<String> {
        let layout = &self.contents.layout;
        let mut names = layout.partial_names().unwrap_or_default();
        names.retain(|name| name.starts_with(stem));
        let length =
            |name: &String| files::metadata(&layout.partial(name, "part")).map_or(0, |part| part.len());
        names.sort_by_key(|name| std::cmp::Reverse(length(name)));
        names
    }

    /// Returns the name of the partial that was left last, by the note that is found without a search.
    fn noted(&self, stem: &str) -> Option<String> {
        let name = String::from_utf8(read_small(&self.contents.layout.partial(stem, NOTE)).ok()?).ok()?;
        // The name becomes a path.
        let random = name.strip_prefix(stem)?.strip_prefix('-')?;
        random.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(name)
    }

    fn resume_named(self: &Arc<Self>, name: String, digest: &Digest) -> Option<Partial> {
        let layout = &self.contents.layout;
        let _turn = self.tidying.lock();
        let file = layout.open_partial(&name).ok()??;
        let length = file.metadata().ok()?.len();
        let head = Head::read(layout, &name).filter(|head| head.digest == *digest);
        let resumable = |head: &Head| head.resumable(head.written(length));
        let Some(head) = head.filter(|head| resumable(head) > 0) else {
            let _ = layout.remove_partial(&name);
            self.contents.index.remove_partial(&name);
            return None;
        };
        let bytes = resumable(&head);
        truncate(&file, bytes).ok()?;
        self.take_up(&PartialFile::new(name, file, head), bytes)
    }

    fn take_up(self: &Arc<Self>, file: &Arc<PartialFile>, bytes: u64) -> Option<Partial> {
        self.contents.index.remove_partial(&file.name);
        let whole = file.head.total.unwrap_or(bytes).max(bytes);
        let first = whole.min(bytes.saturating_add(FIRST_STEP));
        let room = self.space.may_keep(whole).then(|| Reservation::new(&self.space, first, bytes, false));
        let Some(room) = room.flatten() else {
            self.contents.index.found_partial(&file.name, bytes, now());
            return None;
        };
        Some(self.partial(file.clone(), room, bytes))
    }

    /// Reports an error, except that there is no room for one blob: a smaller one may fit.
    fn report_of_begin(&self, error: &io::Error) {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full && self.space.lack(0) == 0 {
            return;
        }
        if error.kind() == io::ErrorKind::NotFound {
            self.contents.maintenance.schedule_probe();
        }
        self.contents.health.report(error);
    }
}

/// The bytes between two syncs: a power failure costs at most what the upstream sends of these. A kill of the process costs
/// nothing, see [`Head::written`].
const SYNC_EVERY: u64 = 64 << 20;

/// The bytes that are reserved for the beginning of a blob. From there on as many are reserved ahead as have come: the length
/// that an upstream only says evicts nothing.
const FIRST_STEP: u64 = 256 << 10;
const LONGEST_STEP: u64 = 16 << 20;
