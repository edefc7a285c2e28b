//! Content on disk, by its digest, whatever repository or upstream it came through.
//!
//! ```text
//! PATH/version                      the layout's number
//! PATH/blobs/sha256/ab/abcd...      content: only what has been proved to be what its name says
//! PATH/manifests/sha256/ab/abcd...  likewise
//! PATH/partial/NAME.part            prefixes of blobs on their way, each locked by whoever writes it
//! PATH/partial/NAME.head            what is known of such a blob
//! PATH/partial/STEM.left            the name of the prefix of a blob that was left last
//! PATH/records/...                  what repositories hold, see [`crate::cache::metadata::records`]
//! ```
//!
//! The times of a file in place say two things. Its modification time is a mark (see `proof`) until it has been synced: after a power
//! loss such a file is not trusted before it has been hashed again. Its access time is its last use, within an hour.

use std::fmt::Write as _;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::cache::Counters;
use crate::clock;
use crate::config;
use crate::config::limits;
use crate::proto::Digest;

pub(crate) mod content;
pub(crate) mod eviction;
pub(crate) mod hash_pool;
pub(crate) mod head;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod integrity;
pub(crate) mod layout;
pub(crate) mod maintenance;
pub(crate) mod partial;
pub(crate) mod space;
pub(crate) mod sync;

pub(crate) use crate::cache::store::integrity::Verdict;
pub(crate) use content::Content;
pub(crate) use index::Amount;
pub(crate) use layout::Access;
pub(crate) use partial::Partial;

use crate::cache::store::health::Trouble;
use crate::cache::store::maintenance::Keeper;
use head::Head;
use index::Index;
use layout::Layout;
use partial::PartialFile;
use space::{FreeSpace, Space};

/// What content is, for how it is kept: blobs go first when room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A layer or a configuration.
    Blob,
    /// A manifest or an index.
    Manifest,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Blob, Self::Manifest];
}

/// The content that is kept. Dropped, it waits until what is in place is on the disk.
pub(crate) struct Store {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Blobs in place.
    pub blobs: Amount,
    /// Manifests in place.
    pub manifests: Amount,
    /// Prefixes that were left.
    pub prefixes: Amount,
    /// Bytes reserved for blobs on their way.
    pub reserved: u64,
    /// Whether all has been counted since the start; until then there may be more.
    pub counted: bool,
    /// The most that is kept, in bytes.
    pub max_size: u64,
}

/// Something that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// What it is.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Its last use, within an hour.
    pub used: SystemTime,
}

impl Store {
    /// The store in the settings' directory, which is made where it is missing. Never fails, see
    /// [`trouble`](Self::trouble). What is there is counted, and leftovers are sorted out, behind this.
    pub(crate) fn open(settings: &config::Cache, counters: Arc<Counters>) -> Arc<Self> {
        Self::open_on(settings, counters, Box::new(space::free_space))
    }

    /// The same to look at: nothing is made, written or removed, or counted as a use, and no thread is started. All is
    /// counted when this returns.
    pub(crate) fn look_at(settings: &config::Cache, counters: Arc<Counters>) -> Arc<Self> {
        let inner = Inner::new(settings, counters, Box::new(space::free_space), true);
        inner.count_quietly();
        Arc::new(Self { inner, threads: Vec::new() })
    }

    /// What may be done in the directory.
    pub(crate) fn access(&self) -> Access {
        self.inner.layout.access().clone()
    }

    /// Has `tend` called every hour or so, in the thread that counts.
    pub(crate) fn tend_by(&self, tend: impl Fn() + Send + Sync + 'static) {
        *self.inner.tend.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tend));
    }

    /// Content, ready to be read. It is not evicted as long as the answer lives. Counts as a use.
    pub(crate) fn content(&self, kind: Kind, digest: &Digest) -> Option<Content> {
        self.inner.content(kind, digest)
    }

    /// The bytes of small content, as they are there, whatever they are. No use.
    pub(crate) fn peek(&self, kind: Kind, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.inner.layout.content(kind, digest).filter(|_| self.inner.layout.is_readable())?;
        let file = integrity::open_quietly(&path).ok()?;
        let most = limits::MANIFEST_BYTES as u64;
        let mut bytes = Vec::new();
        let length = std::io::Read::take(file, most + 1).read_to_end(&mut bytes).ok()?;
        (length as u64 <= most).then_some(bytes)
    }

    /// Whether content is there. No use.
    pub(crate) fn has(&self, kind: Kind, digest: &Digest) -> bool {
        self.inner.has(kind, digest)
    }

    /// The bytes of content that is there. No use.
    pub(crate) fn length(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        let path = self.inner.layout.content(kind, digest).filter(|_| self.inner.layout.is_readable())?;
        std::fs::symlink_metadata(path).ok().map(|known| known.len())
    }

    /// Keeps a manifest, which has been proved to be what `digest` says. Nothing is said where it can't be kept.
    pub(crate) fn keep_manifest(&self, digest: &Digest, bytes: &[u8]) {
        self.inner.keep_manifest(digest, bytes);
    }

    /// `digest` is never evicted as long as this process runs, whether it is there yet or not.
    pub(crate) fn keep(&self, digest: &Digest) {
        self.inner.index().keep(digest);
    }

    /// Records take so many bytes of what manifests and records have together.
    pub(crate) fn note_records(&self, bytes: u64) {
        self.inner.index().records = bytes;
        self.inner.keeper.ring();
    }

    /// Nothing is evicted while `sort` finds out what must stay, in a thread of its own.
    pub(crate) fn sort_out(self: &Arc<Self>, sort: impl FnOnce() + Send + 'static) {
        self.inner.index().sorting += 1;
        let sorted = Sorted(self.inner.clone());
        let work = move || {
            sort();
            drop(sorted);
        };
        // Without a thread it is not done, and what was to stay is evicted like the rest.
        let _ = std::thread::Builder::new().name("cache-sort".to_owned()).spawn(work);
    }

    /// The prefix of a blob that an earlier fill from `upstream` left, if there is one that nobody writes. It is locked for
    /// the caller.
    pub(crate) fn resume(&self, upstream: &str, digest: &Digest) -> Option<Partial> {
        self.inner.resume(upstream, digest)
    }

    /// A place for a blob of `total` bytes on its way from `upstream`; room for it is reserved. `None` where it can't be
    /// kept: no room, or the disk does not work, or its digest can't be checked here.
    pub(crate) fn begin(
        &self,
        upstream: &str,
        digest: &Digest,
        total: Option<u64>,
        etag: Option<&HeaderValue>,
    ) -> Option<Partial> {
        self.inner.begin(Head::new(upstream, digest, total, etag), false)
    }

    /// A place for a blob on its way to `upstream`, whose digest is not known before its end: see [`Partial::commit_as`].
    /// Room is taken as it comes, and beyond a tenth of all only where nothing has to go for it. `None` as of
    /// [`begin`](Self::begin).
    pub(crate) fn begin_nameless(&self, upstream: &str) -> Option<Partial> {
        let mut random = [0; 32];
        // Until then it goes by a digest that is nobody's, so that nobody finds it; its file's name is random besides.
        let _ = aws_lc_rs::rand::fill(&mut random);
        self.inner.begin(Head::new(upstream, &Digest::sha256(&random), None, None), true)
    }

    /// Lets go of content: whether it was there.
    pub(crate) fn remove(&self, kind: Kind, digest: &Digest) -> bool {
        let writable = self.inner.layout.access().is_writable();
        let Some(path) = self.inner.layout.content(kind, digest).filter(|_| writable) else {
            return false;
        };
        self.inner.index().gone(kind, digest);
        std::fs::remove_file(path).inspect_err(|error| self.inner.trouble.met(error)).is_ok()
    }

    /// Content may be damaged: it is hashed again behind this, at most once in
    /// [`CACHE_DOUBT_PAUSE`](crate::config::limits::CACHE_DOUBT_PAUSE), and removed if it is. Until then it is served.
    pub(crate) fn doubt(&self, kind: Kind, digest: &Digest) {
        self.inner.keeper.doubt(kind, digest);
    }

    /// Why nothing can be kept now, if that is so.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.inner.trouble.text()
    }

    /// How much is kept, by what has been counted so far.
    pub(crate) fn usage(&self) -> Usage {
        let index = self.inner.index();
        Usage {
            blobs: index.amount(Kind::Blob),
            manifests: index.amount(Kind::Manifest),
            prefixes: index.prefixes(),
            reserved: index.reserved,
            counted: index.counted,
            max_size: self.inner.space.max_size(),
        }
    }

    /// Goes through all content of a kind, as it is on the disk now. Takes long: not for a worker's thread.
    ///
    /// # Errors
    /// The system's, where a directory can't be read.
    pub(crate) fn for_each(&self, kind: Kind, mut each: impl FnMut(Listed)) -> std::io::Result<()> {
        self.walk(kind, |digest, path| {
            if let Ok(known) = std::fs::symlink_metadata(path) {
                let used = known.accessed().unwrap_or(UNIX_EPOCH);
                each(Listed { digest, bytes: known.len(), used });
            }
            true
        })
    }

    /// Hashes all content again, and removes what is wrong, where anything may be removed. Whether to go on is the answer of `each`. Takes long: not for a
    /// worker's thread.
    ///
    /// # Errors
    /// The system's, where a directory can't be read.
    pub(crate) fn verify(&self, mut each: impl FnMut(Kind, &Digest, Verdict) -> bool) -> std::io::Result<()> {
        let tidy = self.inner.layout.access().is_writable();
        for kind in Kind::ALL {
            self.walk(kind, |digest, path| {
                let Some(verdict) = integrity::prove(path, &digest, tidy, || false) else {
                    return true;
                };
                if tidy && matches!(verdict, Verdict::Wrong) {
                    self.inner.index().gone(kind, &digest);
                }
                each(kind, &digest, verdict)
            })?;
        }
        Ok(())
    }

    /// Waits until all that has been put in place is on the disk, and what is there has been counted.
    pub(crate) fn flush(&self) {
        // Where a thread could not be started nothing would ever come of waiting.
        if self.threads.len() == THREADS {
            self.inner.sync.flush();
            self.inner.keeper.flush();
        }
    }

    fn open_on(settings: &config::Cache, counters: Arc<Counters>, free: Box<FreeSpace>) -> Arc<Self> {
        let inner = Inner::new(settings, counters, free, false);
        inner.prepare();
        inner.keeper.look_again();
        let threads: [_; THREADS] =
            [inner.start("cache-keeper", maintenance::work), inner.start("cache-sync", sync::work)];
        Arc::new(Self { inner, threads: threads.into_iter().flatten().collect() })
    }

    fn walk(&self, kind: Kind, each: impl FnMut(Digest, &std::path::Path) -> bool) -> std::io::Result<()> {
        if self.inner.layout.is_readable() { self.inner.layout.each(kind, each) } else { Ok(()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.inner.keeper.close();
        self.inner.sync.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One less who finds out what must stay.
struct Sorted(Arc<Inner>);

impl Drop for Sorted {
    fn drop(&mut self) {
        self.0.index().sorting -= 1;
        self.0.keeper.ring();
    }
}

pub(crate) struct Inner {
    layout: Layout,
    space: Space,
    index: Mutex<Index>,
    /// Prefixes that this process left and has not synced yet: still locked, but to be had.
    left: Mutex<std::collections::HashMap<String, Arc<PartialFile>>>,
    /// Membership while a prefix that nobody writes is locked for a moment: else whoever wants it then would not get it.
    tidying: Mutex<()>,
    trouble: Trouble,
    sync: sync::Queue,
    keeper: Keeper,
    counters: Arc<Counters>,
    /// Prefixes of fewer bytes are not left.
    least_prefix: u64,
    /// What else is looked after every hour.
    tend: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

impl Inner {
    fn new(
        settings: &config::Cache,
        counters: Arc<Counters>,
        free: Box<FreeSpace>,
        only_looks: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            layout: Layout::new(settings.path.clone(), only_looks),
            space: Space::new(settings, free),
            index: Mutex::default(),
            left: Mutex::default(),
            tidying: Mutex::default(),
            trouble: Trouble::default(),
            sync: sync::Queue::default(),
            keeper: Keeper::default(),
            counters,
            least_prefix: limits::CACHE_PREFIX_LEAST,
            tend: Mutex::default(),
        })
    }

    fn tend(&self) {
        // It may take long, and is not to be called while it is locked.
        let tend = self.tend.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(tend) = tend {
            tend();
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, std::collections::HashMap<String, Arc<PartialFile>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, name: &str, work: fn(&Arc<Self>)) -> Option<JoinHandle<()>> {
        let inner = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&inner));
        thread
            .inspect_err(|error| self.trouble.enter(format!("the cache's thread can't be started: {error}")))
            .ok()
    }
}

/// On Linux this is the calling thread's alone. Where it is not allowed, the thread is just not polite.
fn lower_priority() {
    let _ = rustix::process::nice(NICENESS);
}

/// The wall clock, in seconds: it is compared with files' times.
fn now() -> u64 {
    seconds(clock::wall())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn random_name(stem: &str) -> String {
    let mut random = [0; 8];
    // Without randomness the name is as unlikely to be there as it can be, and it is never taken twice.
    let _ = aws_lc_rs::rand::fill(&mut random);
    format!("{stem}-{}", hexadecimal(&random))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// One that counts and evicts, one that waits for the disk.
const THREADS: usize = 2;

/// Half of the way to the lowest priority: an idle machine gives all it has, a busy one serves first.
const NICENESS: i32 = 10;

#[cfg(test)]
mod tests;
