//! Prefixes of blobs on their way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use http::HeaderValue;
use rustix::fs::FlockOperation;

use crate::cache::store::content::Content;
use crate::cache::store::head::Head;
use crate::cache::store::layout::{NOTE, create, read_small};
use crate::cache::store::space::Reservation;
use crate::cache::store::sync::Job;
use crate::cache::store::{Inner, Kind, integrity};
use crate::proto::{Algorithm, Digest};

/// The prefix of a blob on its way, in a file of its own that is locked. Dropped, it is discarded.
pub(crate) struct Partial {
    store: Arc<Inner>,
    slot: Arc<PartialFile>,
    room: Mutex<Reservation>,
    prefix: u64,
    /// Where it is synced next.
    next: u64,
    /// Its files belong to another now, or are gone.
    settled: bool,
}

/// What the thread that syncs has to know of a prefix.
pub(crate) struct PartialFile {
    pub(crate) name: String,
    file: Arc<File>,
    head: Head,
    /// All up to here has been written.
    reached: AtomicU64,
    /// It waits to be synced.
    pub(crate) queued: AtomicBool,
    /// Its files are gone: a head that is written now would stay for ever.
    gone: Mutex<bool>,
}

impl Partial {
    /// For readers that are behind.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.slot.file
    }

    /// Bytes that were there when it was resumed, to be hashed again; 0 for a new one.
    pub(crate) fn prefix(&self) -> u64 {
        self.prefix
    }

    /// What upstream said of it when it was begun: the blob's length and strong validator.
    pub(crate) fn head(&self) -> (Option<u64>, Option<HeaderValue>) {
        (self.slot.head.total, self.slot.head.etag.clone())
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// The system's. `StorageFull` if the length was not known and there is no room for more.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at.saturating_add(bytes.len() as u64);
        let mut room = self.room();
        let more = end.saturating_sub(room.bytes());
        if more > 0 && !room.grow(more.max(STEP)) && !room.grow(more) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        drop(room);
        self.store.wait_for_room();
        self.slot.file.write_all_at(bytes, at).inspect_err(|error| self.store.trouble.met(error))
    }

    /// All up to `at` has been written: every now and then that is synced, behind this, and noted as what may be resumed
    /// from.
    pub(crate) fn reached(&mut self, at: u64) {
        if at < self.next {
            return;
        }
        self.next = at.saturating_add(SYNC_EVERY);
        self.room().landed(at);
        self.slot.reached.store(at, Ordering::Release);
        if !self.slot.queued.swap(true, Ordering::AcqRel) {
            self.store.sync.push(Job::Reached(self.slot.clone()));
        }
    }

    /// All up to `at` has been written, and room for it is not to be kept free any more. What is not to be resumed is not
    /// synced either.
    pub(crate) fn landed(&self, at: u64) {
        self.room().landed(at);
    }

    /// It is whole and what its name says: puts it in its place, then syncs it behind this.
    ///
    /// # Errors
    /// The system's, or that it has not `length` bytes; then it is gone.
    pub(crate) fn commit(self, length: u64) -> io::Result<Content> {
        let digest = self.slot.head.digest.clone();
        self.commit_as(&digest, length)
    }

    /// The same, of one that was begun before its digest was known: it is `digest`.
    ///
    /// # Errors
    /// As of [`commit`](Self::commit).
    pub(crate) fn commit_as(self, digest: &Digest, length: u64) -> io::Result<Content> {
        let store = self.store.clone();
        let pin = self.place(digest, length).inspect_err(|error| store.trouble.met(error))?;
        Ok(Content::pinned(&store, Kind::Blob, digest, pin, self.slot.file.clone(), length))
    }

    /// Leaves the first `at` bytes to be resumed, and gives back the room that was reserved for the rest. What is fetched
    /// again in no time is not left: else many who leave early would fill the directory with little files.
    pub(crate) fn leave(mut self, at: u64) {
        if at == 0 || at < self.store.least_prefix {
            return;
        }
        if let Err(error) = cut(&self.slot.file, at) {
            self.store.trouble.met(&error);
            return;
        }
        self.settled = true;
        self.slot.reached.store(at, Ordering::Release);
        let mut room = self.room();
        let mut index = self.store.index();
        room.release(&mut index);
        index.found_prefix(&self.slot.name, at, crate::cache::store::now());
        drop((index, room));
        self.store.left().insert(self.slot.name.clone(), self.slot.clone());
        self.store.sync.push(Job::Left(self.slot.clone()));
    }

    /// It is not what its name says, or nobody needs it.
    pub(crate) fn discard(self) {}

    fn room(&self) -> MutexGuard<'_, Reservation> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer is the number of the pin.
    fn place(&self, digest: &Digest, length: u64) -> io::Result<u64> {
        let file = &self.slot.file;
        if file.metadata()?.len() != length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the blob has another length"));
        }
        let Some(path) = self.store.layout.content(Kind::Blob, digest) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        if self.room().bytes() > length {
            cut(file, length)?;
        }
        integrity::mark(file)?;
        let part = self.store.layout.partial(&self.slot.name, "part");
        let now = crate::cache::store::now();
        let mut room = self.room();
        let mut pin = 0;
        self.store.place(Kind::Blob, digest, &part, &path, |index| {
            room.release(index);
            (pin, _) = index.pin(Kind::Blob, digest, length, now, now);
        })?;
        Ok(pin)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if let Err(error) = self.slot.remove(&self.store) {
            self.store.trouble.met(&error);
        }
    }
}

impl PartialFile {
    fn new(name: String, file: File, head: Head) -> Arc<Self> {
        Arc::new(Self {
            name,
            file: Arc::new(file),
            reached: AtomicU64::new(head.reached),
            head,
            queued: AtomicBool::new(false),
            gone: Mutex::new(false),
        })
    }

    /// Removes its files. What has been put in its place is not among them any more.
    fn remove(&self, store: &Inner) -> io::Result<()> {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
        store.layout.remove_partial(&self.name)
    }
}

impl Inner {
    /// See [`Store::begin`](crate::cache::store::Store::begin).
    pub(crate) fn begin(self: &Arc<Self>, head: Head, nameless: bool) -> Option<Partial> {
        if head.digest.algorithm() == Algorithm::Other || !self.keeps() {
            return None;
        }
        let room = Reservation::new(self, head.total.unwrap_or_default(), 0, nameless)?;
        let name = crate::cache::store::random_name(&stem(&head));
        match self.create(name, head, room) {
            Ok(partial) => Some(partial),
            Err(error) => {
                self.met_in_begin(&error);
                None
            }
        }
    }

    /// See [`Store::resume`](crate::cache::store::Store::resume).
    pub(crate) fn resume(self: &Arc<Self>, upstream: &str, digest: &Digest) -> Option<Partial> {
        if digest.algorithm() == Algorithm::Other || !self.keeps() {
            return None;
        }
        let stem = stem(&Head::new(upstream, digest, None, None));
        self.resume_left(&stem).or_else(|| self.resume_found(&stem, digest))
    }

    /// Syncs a prefix as far as it has been written, then notes that.
    pub(crate) fn note_reached(&self, slot: &PartialFile) -> io::Result<()> {
        let reached = slot.reached.load(Ordering::Acquire);
        slot.file.sync_data()?;
        let head = Head { reached, ..slot.head.clone() };
        let new = self.layout.partial(&slot.name, "new");
        head.write(&new, true)?;
        let gone = slot.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if *gone { crate::cache::store::layout::remove(&new) } else { Head::put(&self.layout, &slot.name) }
    }

    /// A prefix that was left is anybody's now, if this process has not taken it up again. Readers may still have it open:
    /// so closing it would not do.
    pub(crate) fn let_go(&self, slot: &Arc<PartialFile>) {
        let mut left = self.left();
        if left.get(&slot.name).is_some_and(|there| Arc::ptr_eq(there, slot)) {
            left.remove(&slot.name);
            let _ = rustix::fs::flock(&slot.file, FlockOperation::Unlock);
        }
    }

    /// Looks after the prefix called `name`, if nobody writes it: what is of no use is removed, the rest is counted.
    pub(crate) fn tidy_partial(&self, name: &str) -> io::Result<()> {
        let _turn = self.tidying.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = self.layout.open_partial(name)? else {
            return if self.layout.partial(name, "part").exists() {
                Ok(())
            } else {
                self.layout.remove_partial(name)
            };
        };
        let length = file.metadata()?.len();
        let Some(head) = Head::read(&self.layout, name).filter(|head| head.reached.min(length) > 0) else {
            return self.layout.remove_partial(name);
        };
        let bytes = head.reached.min(length);
        cut(&file, bytes)?;
        let noted = std::fs::symlink_metadata(self.layout.partial(name, "head"))?.modified()?;
        self.index().found_prefix(name, bytes, crate::cache::store::seconds(noted));
        Ok(())
    }

    fn create(self: &Arc<Self>, name: String, head: Head, mut room: Reservation) -> io::Result<Partial> {
        let file = self.layout.create_partial(&name)?;
        let slot = PartialFile::new(name, file, head);
        let backed = room.back(&slot.file, 0);
        let partial = Partial {
            store: self.clone(),
            slot,
            room: Mutex::new(room),
            prefix: 0,
            next: SYNC_EVERY,
            settled: false,
        };
        backed?;
        partial.slot.head.write(&self.layout.partial(&partial.slot.name, "new"), false)?;
        Head::put(&self.layout, &partial.slot.name)?;
        Ok(partial)
    }

    /// One that this process left, and has not let go yet.
    fn resume_left(self: &Arc<Self>, stem: &str) -> Option<Partial> {
        let slot = {
            let mut left = self.left();
            let name = left.keys().find(|name| name.starts_with(stem))?.clone();
            left.remove(&name)?
        };
        let bytes = slot.head.resumable(slot.reached.load(Ordering::Acquire));
        let resumed = self.take_up(&slot, bytes);
        if resumed.is_none() {
            self.left().insert(slot.name.clone(), slot.clone());
            self.sync.push(Job::Left(slot));
        }
        resumed
    }

    /// One on the disk, if it can be locked: the longest first.
    fn resume_found(self: &Arc<Self>, stem: &str, digest: &Digest) -> Option<Partial> {
        let names = {
            let index = self.index();
            if index.knows_prefixes { Some(index.prefixes_of(stem)) } else { None }
        };
        let names = names.unwrap_or_else(|| self.look_for_prefixes(stem)).into_iter();
        // Another process may have left one since all was counted.
        names.chain(self.noted_prefix(stem)).find_map(|name| self.resume_named(name, digest))
    }

    /// Just after the start, as not all has been counted.
    fn look_for_prefixes(&self, stem: &str) -> Vec<String> {
        let mut names = self.layout.partial_names().unwrap_or_default();
        names.retain(|name| name.starts_with(stem));
        names.sort();
        names.dedup();
        let length = |name: &String| {
            std::fs::symlink_metadata(self.layout.partial(name, "part")).map_or(0, |part| part.len())
        };
        names.sort_by_key(|name| std::cmp::Reverse(length(name)));
        names
    }

    /// The prefix that was left last of those whose names begin so, by a note where anybody finds it without a search.
    fn noted_prefix(&self, stem: &str) -> Option<String> {
        let name = String::from_utf8(read_small(&self.layout.partial(stem, NOTE)).ok()?).ok()?;
        // The name becomes a path.
        let random = name.strip_prefix(stem)?.strip_prefix('-')?;
        random.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(name)
    }

    /// Notes for other processes that a prefix was left.
    pub(crate) fn note_left(&self, slot: &PartialFile) -> io::Result<()> {
        let new = self.layout.partial(&slot.name, "new");
        io::Write::write_all(&mut create(&new)?, slot.name.as_bytes())?;
        std::fs::rename(new, self.layout.partial(&stem(&slot.head), NOTE))
    }

    /// Removes the notes of prefixes that are not there any more.
    pub(crate) fn tidy_notes(&self) {
        for entry in std::fs::read_dir(self.layout.partials()).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(stem) = name.strip_suffix(NOTE).and_then(|name| name.strip_suffix('.')) else {
                continue;
            };
            let there =
                self.noted_prefix(stem).is_some_and(|name| self.layout.partial(&name, "part").exists());
            if !there {
                // The next count tries again.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn resume_named(self: &Arc<Self>, name: String, digest: &Digest) -> Option<Partial> {
        let _turn = self.tidying.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.layout.open_partial(&name).ok()??;
        let length = file.metadata().ok()?.len();
        let head = Head::read(&self.layout, &name).filter(|head| head.digest == *digest);
        let resumable = |head: &Head| head.resumable(head.reached.min(length));
        let Some(head) = head.filter(|head| resumable(head) > 0) else {
            let _ = self.layout.remove_partial(&name);
            self.index().prefix_gone(&name);
            return None;
        };
        let bytes = resumable(&head);
        cut(&file, bytes).ok()?;
        self.take_up(&PartialFile::new(name, file, head), bytes)
    }

    fn take_up(self: &Arc<Self>, slot: &Arc<PartialFile>, bytes: u64) -> Option<Partial> {
        self.index().prefix_gone(&slot.name);
        let whole = slot.head.total.unwrap_or(bytes).max(bytes);
        let room = Reservation::new(self, whole, bytes, false).and_then(|mut room| {
            room.back(&slot.file, bytes).inspect_err(|error| self.met_in_begin(error)).ok()?;
            Some(room)
        });
        let Some(room) = room else {
            self.index().found_prefix(&slot.name, bytes, crate::cache::store::now());
            return None;
        };
        let (store, slot, next) = (self.clone(), slot.clone(), bytes.saturating_add(SYNC_EVERY));
        Some(Partial { store, slot, room: Mutex::new(room), prefix: bytes, next, settled: false })
    }

    /// No room for one blob is no trouble yet: a smaller one may fit.
    fn met_in_begin(&self, error: &io::Error) {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full && self.lack(0) == 0 {
            return;
        }
        if error.kind() == io::ErrorKind::NotFound {
            self.keeper.look_again();
        }
        self.trouble.met(error);
    }
}

/// What the names of all prefixes of a blob from an upstream begin with.
pub(crate) fn stem(head: &Head) -> String {
    let upstream = digest::digest(&digest::SHA256, head.upstream.as_bytes());
    let upstream = crate::cache::store::hexadecimal(upstream.as_ref().get(..8).unwrap_or_default());
    format!("{}-{upstream}", head.digest.as_str().replace(':', "-"))
}

/// Leaves the first `length` bytes of a file. What was set aside behind them is given back: some file systems do that only
/// when the file gets shorter, so it is made longer first.
fn cut(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length.saturating_add(1))?;
    file.set_len(length)
}

/// A crash costs at most what upstream sends of this, for a sync that the disk does not notice much.
const SYNC_EVERY: u64 = 64 << 20;

/// Where the length is not known, room is taken in such steps.
const STEP: u64 = 16 << 20;
