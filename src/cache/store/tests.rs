use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use tempfile::TempDir;

use crate::cache::Counters;
use crate::cache::store::files::now;
use crate::cache::store::head::Head;
use crate::cache::store::store::Usage;
use crate::cache::store::*;
use crate::clock;
use crate::config;
use crate::config::MinFree;
use crate::proto::Digest;

struct Place {
    dir: TempDir,
    max_size: u64,
    free: Arc<AtomicU64>,
    counters: Arc<Counters>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, max_size: 1 << 30, free: Arc::new(AtomicU64::new(u64::MAX)), counters: Arc::default() }
    }

    /// A place for `bytes` of blobs.
    fn of(bytes: u64) -> Self {
        Self { max_size: bytes * 20 / 19, ..Self::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Opens the store, and waits until the disk is scanned.
    fn open(&self) -> Arc<Store> {
        let store = self.open_at(self.path());
        store.flush();
        store
    }

    fn open_at(&self, path: PathBuf) -> Arc<Store> {
        let settings = config::Cache {
            path,
            max_size: self.max_size,
            min_free: MinFree::Bytes(1000),
            max_object: u64::MAX,
            verify_after: config::limits::VERIFY_AFTER,
            prefetch: false,
            keep: Vec::new(),
        };
        let free = self.free.clone();
        let space = move |_: &Path| Ok((free.load(Ordering::Relaxed), u64::MAX));
        Store::open_on(&settings, self.counters.clone(), Box::new(space))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(&digest.encoded()[..2]).join(digest.encoded())
    }

    fn partials(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().join("partial")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Returns the bytes that all files take on the disk.
    fn taken(&self) -> u64 {
        fn walk(path: &Path) -> u64 {
            let known = fs::symlink_metadata(path).unwrap();
            let own = known.blocks() * 512;
            if !known.is_dir() {
                return own;
            }
            fs::read_dir(path).unwrap().map(|entry| walk(&entry.unwrap().path())).sum()
        }
        walk(&self.path())
    }
}

/// Returns content of `length` bytes that differs by `seed`, and its digest.
fn content(seed: u64, length: usize) -> (Digest, Vec<u8>) {
    let mut bytes = vec![seed as u8; length];
    let seed = seed.to_le_bytes();
    let head = length.min(8);
    bytes[..head].copy_from_slice(&seed[..head]);
    (name(&bytes), bytes)
}

fn name(bytes: &[u8]) -> Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    Digest::sha256(hash.as_ref().try_into().unwrap())
}

fn begin(store: &Store, digest: &Digest, length: u64) -> Option<Partial> {
    store.begin("hub", digest, Some(length), None)
}

fn put(store: &Store, seed: u64, length: usize) -> Digest {
    let (digest, bytes) = content(seed, length);
    let partial = begin(store, &digest, length as u64).expect("it should be kept");
    partial.write(0, &bytes).unwrap();
    partial.commit(&digest, length as u64).unwrap();
    digest
}

fn leave(store: &Store, digest: &Digest, total: u64, bytes: &[u8]) {
    let partial = begin(store, digest, total).unwrap();
    partial.write(0, bytes).unwrap();
    partial.leave(bytes.len() as u64);
}

fn read(content: &Content) -> Vec<u8> {
    let mut bytes = vec![0; content.length as usize];
    content.file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn has_blob(store: &Store, digest: &Digest) -> bool {
    store.content(Kind::Blob, digest).is_some()
}

fn set_times(path: &Path, used: u64, modified: u64) {
    let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let times = fs::FileTimes::new().set_accessed(time(used)).set_modified(time(modified));
    fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

mod broken_places;
mod content;
mod crash;
mod damaged;
mod degraded;
mod directory;
mod eviction;
mod leaving;
mod pace;
mod partials;
mod two_processes;
mod unsynced;
mod waiting;
