//! Manifests in memory: what is pulled all the time is neither read nor parsed each time.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::manifests::document::Document;
use crate::cache::store::{Content, Kind, Store};
use crate::config::limits;
use crate::proto::{Digest, MediaType};

/// The manifests in memory, by digest, whatever repository they came through.
pub(crate) struct ManifestMemory(Cache<Digest, Arc<Kept>>);

/// A manifest that is here.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// What it says. Its type may be another in another repository, where it does not say that itself.
    pub(crate) document: Document,
}

impl ManifestMemory {
    /// None yet.
    pub(crate) fn new() -> Self {
        let weight = |_: &Digest, kept: &Arc<Kept>| u32::try_from(kept.weight()).unwrap_or(u32::MAX);
        let cache = Cache::builder()
            .max_capacity(limits::HOT_MANIFEST_BYTES)
            .weigher(weight)
            .time_to_live(limits::HOT_MANIFEST_LIFE)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self(cache)
    }

    /// The manifest, from memory or from `store`; `media_type` is what a repository calls it, for one that does not say
    /// so itself. One that the disk has spoilt is let go of.
    pub(crate) fn load(
        &self,
        store: &Store,
        digest: &Digest,
        media_type: Option<&MediaType>,
    ) -> Option<Arc<Kept>> {
        if let Some(kept) = self.0.get(digest) {
            return Some(kept);
        }
        Some(self.keep(digest, Self::read(store, digest, media_type)?))
    }

    /// The same, which displaces nothing that clients pull.
    pub(crate) fn glance(
        &self,
        store: &Store,
        digest: &Digest,
        media_type: Option<&MediaType>,
    ) -> Option<Arc<Kept>> {
        self.0.get(digest).or_else(|| Self::read(store, digest, media_type).map(Arc::new))
    }

    fn read(store: &Store, digest: &Digest, media_type: Option<&MediaType>) -> Option<Kept> {
        let bytes = read(&store.content(Kind::Manifest, digest)?).ok()?;
        if !digest.is_of(&bytes) {
            tracing::warn!(%digest, "a manifest was spoilt on the disk");
            store.remove(Kind::Manifest, digest);
            return None;
        }
        let document = Document::parse(&bytes, media_type).ok()?;
        Some(Kept { bytes: bytes.into(), document })
    }

    /// Whether the manifest is here. No use.
    pub(crate) fn has(&self, store: &Store, digest: &Digest) -> bool {
        self.0.contains_key(digest) || store.has(Kind::Manifest, digest)
    }

    /// A manifest has been proved to be what `digest` says.
    pub(crate) fn keep(&self, digest: &Digest, kept: Kept) -> Arc<Kept> {
        let kept = Arc::new(kept);
        self.0.insert(digest.clone(), kept.clone());
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

fn read(content: &Content) -> io::Result<Vec<u8>> {
    let length = usize::try_from(content.length).unwrap_or(usize::MAX);
    if length > limits::MANIFEST_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; length];
    content.file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
