use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use crate::cache::Counters;
use crate::cache::blobs::push::spool::*;
use crate::cache::store::Kind;
use crate::cache::store::hash_pool::Urgency;
use crate::config;
use crate::config::{MinFree, limits};
use crate::proto::Algorithm;

struct Place {
    dir: TempDir,
    store: Arc<Store>,
    pool: Arc<HashPool>,
    backlog: Arc<AtomicUsize>,
}

impl Place {
    fn new() -> Self {
        Self::of(1 << 30)
    }

    fn of(max_size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let (min_free, verify_after, keep) = (MinFree::Bytes(0), limits::VERIFY_AFTER, Vec::new());
        let settings = config::Cache {
            path,
            max_size,
            min_free,
            max_object: u64::MAX,
            verify_after,
            prefetch: false,
            keep,
        };
        let store = Store::open(&settings, Arc::new(Counters::default()));
        store.flush();
        Self { dir, store, pool: Arc::default(), backlog: Arc::default() }
    }

    fn spool(&self) -> Spool {
        Spool::new(self.store.clone(), &self.pool, "up".into(), self.backlog.clone())
    }

    fn partials(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("cache/partial")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Blocks the pool until the result is dropped.
    fn closed(&self) -> Vec<mpsc::Sender<()>> {
        let block = |_| {
            let (sender, receiver) = mpsc::channel::<()>();
            let (started, starts) = mpsc::channel();
            self.pool.give(Urgency::Usual, move || {
                started.send(()).unwrap();
                let _ = receiver.recv();
            });
            starts.recv().unwrap();
            sender
        };
        (0..std::thread::available_parallelism().map_or(1, usize::from)).map(block).collect()
    }

    /// Waits until the pool has run the jobs that it was given before.
    fn settles(&self) {
        for _ in 0..4 {
            drop(self.closed());
        }
    }
}

fn finish(spool: Spool, digest: &Digest) -> End {
    let (sender, receiver) = mpsc::channel();
    spool.finish(digest.clone(), move |end| sender.send(end).unwrap());
    receiver.recv_timeout(Duration::from_secs(20)).unwrap()
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>().into()
}

fn sum(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm).unwrap();
    hasher.update(bytes);
    hasher.finish()
}

fn pass(spool: &Spool, bytes: &Bytes, length: usize) {
    let tap = spool.tap();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        tap.pass(&rest.split_to(length.min(rest.len())));
    }
}

#[test]
fn uploads_are_kept_by_either_algorithm() {
    for (algorithm, length) in
        [(Algorithm::Sha256, 5_000_000), (Algorithm::Sha512, 5_000_000), (Algorithm::Sha256, 0)]
    {
        let (place, bytes) = (Place::new(), bytes(length));
        let (spool, digest) = (place.spool(), sum(algorithm, &bytes));
        pass(&spool, &bytes, 100_000);
        assert_eq!(spool.end(), length as u64);
        assert_eq!(finish(spool, &digest), End::Kept);
        let content = place.store.content(Kind::Blob, &digest).unwrap();
        assert_eq!(content.bytes().unwrap(), bytes);
        assert_eq!(place.partials(), Vec::<PathBuf>::new());
        assert_eq!(place.backlog.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn other_bytes_are_not_kept() {
    let (place, bytes) = (Place::new(), bytes(300_000));
    for digest in [sum(Algorithm::Sha256, b"other"), sum(Algorithm::Sha512, b"other")] {
        let spool = place.spool();
        pass(&spool, &bytes, 100_000);
        assert_eq!(finish(spool, &digest), End::Wrong);
        assert!(!place.store.has(Kind::Blob, &digest));
    }
    assert_eq!(place.partials(), Vec::<PathBuf>::new());
}

#[test]
fn unknown_algorithms_are_not_kept() {
    let place = Place::new();
    let spool = place.spool();
    pass(&spool, &bytes(1000), 100);
    assert_eq!(finish(spool, &Digest::parse("blake3:ab").unwrap()), End::NotKept);
    assert_eq!(place.partials(), Vec::<PathBuf>::new());
}

#[test]
fn hashing_catches_up_from_the_file() {
    let (place, bytes) = (Place::new(), bytes(7 << 20));
    let (spool, digest) = (place.spool(), sum(Algorithm::Sha256, &bytes));
    let closed = place.closed();
    pass(&spool, &bytes, 64 << 10);
    drop(closed);
    assert_eq!(finish(spool, &digest), End::Kept);
}

#[test]
fn an_upload_that_outruns_the_disk_is_given_up() {
    let (place, bytes) = (Place::new(), bytes(9 << 20));
    let (spool, digest) = (place.spool(), sum(Algorithm::Sha256, &bytes));
    let closed = place.closed();
    pass(&spool, &bytes.slice(..7 << 20), 64 << 10);
    assert!(place.backlog.load(Ordering::Relaxed) >= 7 << 20);
    pass(&spool, &bytes.slice(7 << 20..), 64 << 10);
    assert_eq!(place.backlog.load(Ordering::Relaxed), 0, "what waited is dropped");
    drop(closed);
    assert_eq!(finish(spool, &digest), End::NotKept);
    assert_eq!(place.partials(), Vec::<PathBuf>::new());
}

#[test]
fn small_frames_count_by_their_memory() {
    let place = Place::new();
    let spool = place.spool();
    let closed = place.closed();
    pass(&spool, &bytes(100_000), 1);
    assert_eq!(place.backlog.load(Ordering::Relaxed), 0);
    drop(closed);
    assert_eq!(finish(spool, &sum(Algorithm::Sha256, &bytes(100_000))), End::NotKept);
}

#[test]
fn all_uploads_together_have_a_limit() {
    let place = Place::new();
    let closed = place.closed();
    let piece = bytes(7 << 20);
    let spools: Vec<_> = (0..30).map(|_| place.spool()).collect();
    spools.iter().for_each(|spool| pass(spool, &piece, 1 << 20));
    let waiting = place.backlog.load(Ordering::Relaxed);
    let most = limits::PUSH_BACKLOG_ALL_BYTES;
    assert!((most / 2..=most).contains(&waiting));
    drop(spools);
    assert_eq!(place.backlog.load(Ordering::Relaxed), 0);
    drop(closed);
}

#[test]
fn an_upload_without_room_is_given_up() {
    let (place, bytes) = (Place::of(1 << 20), bytes(3 << 20));
    let spool = place.spool();
    pass(&spool, &bytes, 64 << 10);
    assert_eq!(finish(spool, &sum(Algorithm::Sha256, &bytes)), End::NotKept);
    assert_eq!(place.store.usage().reserved, 0);
    assert_eq!(place.partials(), Vec::<PathBuf>::new());
}

#[test]
fn a_dropped_spool_leaves_nothing() {
    let place = Place::new();
    let spool = place.spool();
    pass(&spool, &bytes(3 << 20), 64 << 10);
    place.settles();
    assert!(!place.partials().is_empty());
    drop(spool);
    place.settles();
    assert_eq!(place.partials(), Vec::<PathBuf>::new());
    assert_eq!(place.store.usage().reserved, 0);
}
