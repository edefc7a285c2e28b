//! Manifests in memory: a manifest that is pulled all the time is neither read nor parsed each time.

use std::sync::Arc;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::manifests::document::Document;
use crate::cache::store::{Kind, Store};
use crate::config::limits;
use crate::proto::{Digest, MediaType};

/// The manifests in memory, in front of those on disk, by digest, whatever repository they came through.
pub(crate) struct ManifestMemory {
    manifests: Cache<Digest, Arc<Kept>>,
    store: Arc<Store>,
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
        Self { manifests, store }
    }

    /// Returns where manifests are on disk.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the manifest, from memory or from disk; `media_type` is what a repository calls it, for one that does not say
    /// so itself. One that the disk has spoilt is removed.
    pub(crate) fn load(&self, digest: &Digest, media_type: Option<&MediaType>) -> Option<Arc<Kept>> {
        if let Some(kept) = self.manifests.get(digest) {
            return Some(kept);
        }
        Some(self.keep(digest, self.read(digest, media_type)?))
    }

    fn read(&self, digest: &Digest, media_type: Option<&MediaType>) -> Option<Kept> {
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
