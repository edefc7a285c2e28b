//! Manifests in memory: a manifest that is pulled all the time is neither read nor parsed each time.

use std::sync::Arc;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::budget::Budget;
use crate::budget::plan::Plan;
use crate::cache::manifests::document::Document;
use crate::cache::store::{Kind, Store, disk_pool};
use crate::config::limits;
use crate::proto::{Digest, MediaType};
use crate::worker_id;

/// The manifests in memory, in front of those on disk, by digest, whatever repository they came through.
pub(crate) struct ManifestMemory {
    manifests: Cache<Digest, Arc<Kept>>,
    store: Arc<Store>,
    /// The large ones that are read at a time.
    reads: Arc<Budget>,
}

/// A manifest that is held.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// Its parts. If it names no `mediaType` itself, its type may differ between repositories.
    pub(crate) document: Document,
}

impl ManifestMemory {
    /// Returns those in front of `store`, none of them in memory yet.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let weight = |_: &Digest, kept: &Arc<Kept>| u32::try_from(kept.weight()).unwrap_or(u32::MAX);
        let manifests = Cache::builder()
            .max_capacity(limits::HOT_MANIFEST_BYTES)
            .weigher(weight)
            .time_to_live(limits::HOT_MANIFEST_LIFE)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { manifests, store, reads: Plan::manifest_reads().budget() }
    }

    /// Returns the budget of large manifests that are read from the disk at a time.
    pub(crate) fn reads(&self) -> &Arc<Budget> {
        &self.reads
    }

    /// Returns where manifests are on disk.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the manifest, from memory or from disk; `media_type` is what a repository calls it, for one that does not say
    /// so itself. One that the disk has spoilt is removed. A worker gets it from memory alone: what is read is hashed and parsed
    /// as well, which takes long for a large one.
    pub(crate) fn load(&self, digest: &Digest, media_type: Option<&MediaType>) -> Option<Arc<Kept>> {
        if let Some(kept) = self.manifests.get(digest) {
            return Some(kept);
        }
        Some(self.keep(digest, self.read(digest, media_type)?))
    }

    fn read(&self, digest: &Digest, media_type: Option<&MediaType>) -> Option<Kept> {
        if worker_id::is_worker() {
            disk_pool::note_missed();
            return None;
        }
        let bytes = self.store.waiting(digest).or_else(|| self.read_file(digest))?;
        let document = Document::read(&bytes, media_type);
        Some(Kept { bytes, document })
    }

    fn read_file(&self, digest: &Digest) -> Option<Bytes> {
        let content = self.store.content(Kind::Manifest, digest)?;
        if content.length > limits::MANIFEST_BYTES as u64 {
            return None;
        }
        content.bytes()
    }

    /// Returns true if the manifest is here. Does not count as a use.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.manifests.contains_key(digest) || self.store.has(Kind::Manifest, digest)
    }

    /// Keeps a manifest in memory that has been proved to be what `digest` says.
    pub(crate) fn keep(&self, digest: &Digest, kept: Kept) -> Arc<Kept> {
        let kept = Arc::new(kept);
        self.manifests.insert(digest.clone(), kept.clone());
        kept
    }
}

impl Kept {
    /// About what it takes in memory, in bytes.
    fn weight(&self) -> usize {
        const ENTRY: usize = 512;
        const BLOB: usize = 128;
        ENTRY + self.bytes.len() + BLOB * self.document.blobs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Counters;
    use crate::cache::store::disk_pool;
    use crate::config::{Cache as Settings, MinFree};

    #[test]
    fn a_worker_reads_and_hashes_no_manifest() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            path: directory.path().join("cache"),
            max_size: 1 << 30,
            max_object: u64::MAX,
            min_free: MinFree::Bytes(0),
            verify_after: limits::VERIFY_AFTER,
            prefetch: false,
            keep: Vec::new(),
        };
        let store = Store::open(&settings, Arc::new(Counters::default()));
        let memory = ManifestMemory::new(store.clone());
        let bytes = Bytes::from_static(br#"{"schemaVersion":2}"#);
        let digest = Digest::sha256_of(&bytes);
        store.keep_manifest(&digest, &bytes);
        let on_worker = || {
            worker_id::answer();
            let (found, missed) = disk_pool::in_memory(|| memory.load(&digest, None));
            (found.map(|kept| kept.bytes.clone()), missed)
        };
        let look = || std::thread::scope(|scope| scope.spawn(on_worker).join().unwrap());
        assert_eq!(look(), (None, true));
        assert!(memory.load(&digest, None).is_some());
        assert_eq!(look(), (Some(bytes.clone()), false), "what another thread has read");
    }
}
