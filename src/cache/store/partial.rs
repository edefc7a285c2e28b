//! Partials: files that hold parts of a blob on its way.
//!
//! A blob comes in order, or in parts: a client that asks for a range has that part fetched, and others have others. The file is
//! as long as the last part reaches, with holes before it that take no room. Which parts are there is known by [`Segments`] alone,
//! never by the file: a hole reads as zeros. A part counts once its bytes have been written. In the head that is noted behind the
//! writing, so that a kill of the process costs the last few bytes, and a power failure those that were not synced.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::cache::store::content::{Content, Contents};
use crate::cache::store::disk_pool;
use crate::cache::store::disk_pool::DiskPool;
use crate::cache::store::files::{now, read_small, seconds, truncate};
use crate::cache::store::head::Head;
use crate::cache::store::layout::{Kind, NOTE};
use crate::cache::store::partial_file::{LeftPartials, PartialFile};
use crate::cache::store::segments::Segments;
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

/// A partial that is being written, in a locked file of its own. It may have several writers, each of other bytes. Dropped, it is
/// left for a later fill if it was resumed or [is kept](Self::keep), and discarded if not.
pub(crate) struct Partial {
    partials: Arc<Partials>,
    file: Arc<PartialFile>,
    room: Mutex<Room>,
    /// The number of bytes at which it is synced next.
    next_sync: AtomicU64,
    /// True if its files are left for another fill.
    kept: AtomicBool,
    /// True once no other may go on with it.
    abandoned: AtomicBool,
    /// True once it is known that its bytes are wrong.
    wrong: AtomicBool,
    /// Wakes those that wait for more of it.
    grown: Notify,
}

/// The room of a partial on the disk.
struct Room {
    held: Reservation,
    /// Bytes that are written, or being written.
    taken: u64,
    /// The bytes were written in order; else only their number is known.
    in_order: bool,
}

impl Partial {
    /// Returns the file, for readers that are behind.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file.file
    }

    /// Returns what the upstream said when it was begun: the blob's length and strong validator.
    pub(crate) fn head(&self) -> (Option<u64>, Option<HeaderValue>) {
        (self.file.head.total, self.file.head.etag.clone())
    }

    /// Returns the byte behind those that are there from `at` on without a hole; none if `at` is not there.
    pub(crate) fn end_at(&self, at: u64) -> Option<u64> {
        self.file.look(|segments| segments.end_at(at))
    }

    /// Returns the first byte behind `at` where a part begins that is there.
    pub(crate) fn next_after(&self, at: u64) -> Option<u64> {
        self.file.look(|segments| segments.next_after(at))
    }

    /// Returns the number of bytes that are there.
    pub(crate) fn bytes(&self) -> u64 {
        self.file.look(Segments::bytes)
    }

    /// Returns true if the blob does not come in order.
    pub(crate) fn is_scattered(&self) -> bool {
        self.file.is_scattered()
    }

    /// Returns true if one more part can be noted.
    pub(crate) fn takes_parts(&self) -> bool {
        self.file.look(Segments::count) < MOST_PARTS
    }

    /// Returns true once it is known that its bytes are wrong: nothing more of it is to be served.
    pub(crate) fn is_wrong(&self) -> bool {
        self.wrong.load(Ordering::Acquire)
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

    /// Prepares for bytes that do not come in order, before the first of them is written.
    ///
    /// # Errors
    /// The system's, if it cannot be noted.
    pub(crate) fn scatter(&self) -> io::Result<()> {
        self.file.scatter(&self.partials.contents.layout).inspect_err(|error| self.report(error))?;
        let mut room = self.room();
        room.in_order = false;
        room.held.scatter();
        Ok(())
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// The system's. `StorageFull` if there is no room for more, `FileTooLarge` if the blob is longer than any that is kept.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (end, length) = (at.saturating_add(bytes.len() as u64), bytes.len() as u64);
        let mut room = self.room();
        let before = if room.in_order { at } else { room.taken };
        let taken = if room.in_order { end.max(room.taken) } else { room.taken.saturating_add(length) };
        // Bytes that are there may be written once more.
        let taken = self.file.head.total.map_or(taken, |total| taken.min(total.max(end)));
        let more = taken.saturating_sub(room.held.bytes());
        if more > 0 {
            self.grow(&mut room, more, end)?;
        }
        let prepared = room.held.prepare(&self.file.file, before, length);
        room.taken = taken;
        drop(room);
        prepared.inspect_err(|error| self.partials.report_of_begin(error))?;
        files::write_all_at(&self.file.file, bytes, at).inspect_err(|error| self.report(error))
    }

    /// Takes room for `more` bytes, of which the last are before `end`, and for some of those that are said to follow.
    fn grow(&self, room: &mut Room, more: u64, end: u64) -> io::Result<()> {
        if !self.partials.space.may_keep(end) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let total = self.file.head.total;
        let held = room.held.bytes();
        let rest = total.map_or(u64::MAX, |total| total.saturating_sub(held));
        let step = held.clamp(FIRST_STEP, LONGEST_STEP).min(rest);
        if !room.held.grow(more.max(step)) && !room.held.grow(more) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if total.is_some() && room.in_order {
            room.held.allocate_next();
        }
        Ok(())
    }

    /// Notes that all from `first` up to `end` has been written. Every now and then that is synced, behind this, so that it can
    /// be resumed.
    pub(crate) fn reached(&self, first: u64, end: u64) {
        let bytes = self.file.note_written(first, end);
        self.grown.notify_waiters();
        // Bytes that are not noted are fetched again after a kill.
        let _ = self.file.note(&self.partials.contents.layout, NOTE_EVERY);
        if bytes < self.next_sync.load(Ordering::Acquire) {
            return;
        }
        self.next_sync.store(bytes.saturating_add(SYNC_EVERY), Ordering::Release);
        self.written(bytes);
        if !self.file.queued.swap(true, Ordering::AcqRel) {
            self.partials.contents.sync.push(SyncJob::Reached(self.file.clone()));
        }
    }

    /// Notes that so many bytes have been written, without syncing them: it is not to be resumed.
    pub(crate) fn written(&self, bytes: u64) {
        self.room().held.written(bytes);
    }

    /// Puts the blob in its place, as its bytes have `digest`, and syncs it behind this.
    ///
    /// # Errors
    /// The system's, that it has not `length` bytes, or that it was [abandoned](Self::abandon); then it is gone.
    pub(crate) fn commit(&self, digest: &Digest, length: u64) -> io::Result<Content> {
        let finished = if self.is_usable() {
            self.finish(length).inspect_err(|error| self.report(error))
        } else {
            Err(io::Error::other("its file has been given up"))
        };
        let placed = finished.and_then(|()| self.place(digest, length));
        // Others may still read it; nothing but the blob in its place is left.
        self.abandon();
        let removed = self.file.remove(&self.partials.contents.layout);
        let pin = placed?;
        let _ = removed.inspect_err(|error| self.report(error));
        let contents = &self.partials.contents;
        Ok(Content::pinned(contents, Kind::Blob, digest, pin, self.file.file.clone(), length))
    }

    /// Leaves what is there for a later fill, once no other uses it, and gives back the room that was reserved for the rest. Few
    /// bytes are not left: they are fetched again in no time, and clients that leave early would fill the directory with little
    /// files.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::Release);
        // A kill costs nothing of what has come so far.
        let _ = self.file.note(&self.partials.contents.layout, 1);
    }

    /// Leaves the first `at` bytes.
    #[cfg(test)]
    pub(crate) fn leave(self, at: u64) {
        self.file.note_written(0, at);
        self.keep();
    }

    /// Removes it, once no other uses it: the disk has not taken its bytes in time, or they belong to nothing that the upstream
    /// has today. Its writer may still be writing, so no other may write what is missing.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Returns true if others may go on with it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.abandoned.load(Ordering::Acquire)
    }

    /// Removes it, once no other uses it: its bytes are wrong. Nothing more of it is served.
    pub(crate) fn discard(&self) {
        self.wrong.store(true, Ordering::Release);
        self.abandon();
    }

    /// Returns a future that is ready when more of it is there; it counts from this call on.
    pub(crate) fn grown(&self) -> Notified<'_> {
        self.grown.notified()
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock()
    }

    fn report(&self, error: &io::Error) {
        self.partials.contents.health.report(error);
    }

    /// Checks the file, and gives it the length and the mark of content.
    fn finish(&self, length: u64) -> io::Result<()> {
        let file = &self.file.file;
        self.file.lost.check()?;
        let is_whole = !self.file.is_scattered() || self.end_at(0) == Some(length);
        if file.metadata()?.len() != length || !is_whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the blob has another length"));
        }
        if self.room().held.bytes() > length {
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
            (pin, _) = index.pin_placed(Kind::Blob, digest, length, now, now, room.held.give_up());
        })?;
        Ok(pin)
    }
}

/// Leaves the parts that are there of a file for a later fill. Returns false if there is nothing that is worth it.
fn leave(file: &Arc<PartialFile>, room: &mut Room, partials: &Partials) -> io::Result<bool> {
    let segments = file.written();
    let bytes = segments.bytes();
    if bytes < limits::CACHE_PARTIAL_LEAST || file.lost.check().is_err() {
        return Ok(false);
    }
    for (first, end) in segments.holes() {
        files::free(&file.file, first, end)?;
    }
    truncate(&file.file, segments.end())?;
    file.note_leaving();
    let contents = &partials.contents;
    contents.index.found_left(&file.name, bytes, now(), room.held.give_up());
    partials.left.insert(file.clone());
    contents.sync.push(SyncJob::Left(file.clone()));
    Ok(true)
}

impl Drop for Partial {
    fn drop(&mut self) {
        let (file, partials) = (self.file.clone(), self.partials.clone());
        let is_kept = *self.kept.get_mut() && !*self.abandoned.get_mut();
        let room = self.room.get_mut();
        let none = Reservation::nothing(&self.partials.space);
        let mut room = Room { held: std::mem::replace(&mut room.held, none), taken: 0, in_order: false };
        disk_pool::off_worker(&self.partials.contents.disk, move || {
            let report = |error: &io::Error| partials.contents.health.report(error);
            let is_left = is_kept && leave(&file, &mut room, &partials).inspect_err(report).unwrap_or(false);
            if !is_left {
                let _ = file.remove(&partials.contents.layout).inspect_err(report);
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
        match self.create(head, room) {
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
        let segments = Head::read(layout, name).map(|head| head.written(length)).unwrap_or_default();
        if segments.bytes() == 0 {
            return layout.remove_partial(name);
        }
        for (first, end) in segments.holes() {
            files::free(&file, first, end)?;
        }
        truncate(&file, segments.end())?;
        let noted = files::metadata(&layout.partial(name, "head"))?.modified()?;
        self.contents.index.found_partial(name, segments.bytes(), seconds(noted));
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

    fn create(self: &Arc<Self>, head: Head, room: Reservation) -> io::Result<Partial> {
        let layout = &self.contents.layout;
        let (name, file) = layout.create_partial(&head.stem())?;
        let file = PartialFile::new(name.clone(), file, head, Segments::default());
        // From here on its files are removed when this fails.
        let partial = self.partial(file, room);
        partial.file.head.write(&layout.partial(&name, "new"), false)?;
        Head::put(layout, &name)?;
        Ok(partial)
    }

    fn partial(self: &Arc<Self>, file: Arc<PartialFile>, held: Reservation) -> Partial {
        let taken = file.look(Segments::bytes);
        let room = Room { held, taken, in_order: !file.is_scattered() };
        Partial {
            partials: self.clone(),
            file,
            room: Mutex::new(room),
            next_sync: AtomicU64::new(taken.saturating_add(SYNC_EVERY)),
            kept: AtomicBool::new(taken > 0),
            abandoned: AtomicBool::new(false),
            wrong: AtomicBool::new(false),
            grown: Notify::new(),
        }
    }

    /// Resumes a partial that this process left and has not unlocked yet.
    fn resume_left(self: &Arc<Self>, stem: &str) -> Option<Partial> {
        let file = self.left.take(stem)?;
        if file.lost.check().is_err() {
            let _ = file.remove(&self.contents.layout);
            self.contents.index.remove_partial(&file.name);
            return None;
        }
        let resumed = self.take_up(&file);
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
        let segments = head.as_ref().map(|head| head.written(length)).unwrap_or_default();
        let Some(head) = head.filter(|head| segments.end() > 0 && head.is_within(&segments)) else {
            let _ = layout.remove_partial(&name);
            self.contents.index.remove_partial(&name);
            return None;
        };
        truncate(&file, segments.end()).ok()?;
        self.take_up(&PartialFile::new(name, file, head, segments))
    }

    fn take_up(self: &Arc<Self>, file: &Arc<PartialFile>) -> Option<Partial> {
        self.contents.index.remove_partial(&file.name);
        let bytes = file.look(Segments::bytes);
        let whole = file.head.total.unwrap_or(bytes).max(bytes);
        let first = whole.min(bytes.saturating_add(FIRST_STEP));
        let room = self.space.may_keep(whole).then(|| Reservation::new(&self.space, first, bytes, false));
        let Some(room) = room.flatten() else {
            self.contents.index.found_partial(&file.name, bytes, now());
            return None;
        };
        Some(self.partial(file.clone(), room))
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
/// less, see [`Head::written`].
const SYNC_EVERY: u64 = 64 << 20;

/// The bytes that come in parts between two notes in the head: a kill of the process costs at most what the upstream sends of
/// these.
const NOTE_EVERY: u64 = 1 << 20;

/// The most parts that are noted: their list has to stay short enough to be read at once.
const MOST_PARTS: usize = 512;

/// The bytes that are reserved for the beginning of a blob. From there on as many are reserved ahead as have come: the length
/// that an upstream only says evicts nothing.
const FIRST_STEP: u64 = 256 << 10;
const LONGEST_STEP: u64 = 16 << 20;
