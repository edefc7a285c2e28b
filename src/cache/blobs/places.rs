//! The places in which blobs are: memory, for the small ones, and the disk.

use std::sync::Arc;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::body::Body;
use crate::cache::blobs::credit::{Credit, Credited};
use crate::cache::blobs::file_body::{FileBody, RestRequest};
use crate::cache::metadata::records::Ledger;
use crate::cache::store::{Content, Kind, Store};
use crate::config::limits;
use crate::proto::Digest;

/// Small blobs, in memory.
pub(crate) struct SmallBlobs(Cache<Digest, Bytes>);

impl SmallBlobs {
    pub(crate) fn new() -> Self {
        let weigh = |_: &Digest, bytes: &Bytes| u32::try_from(bytes.len() + 256).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(limits::SMALL_BLOBS_BYTES).weigher(weigh);
        Self(cache.eviction_policy(EvictionPolicy::lru()).build())
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.get(digest)
    }

    pub(super) fn keep(&self, digest: &Digest, bytes: &Bytes) {
        self.0.insert(digest.clone(), bytes.clone());
    }

    pub(crate) fn remove(&self, digest: &Digest) {
        self.0.invalidate(digest);
    }
}

/// Bytes that are here.
pub(super) enum Here {
    Memory(Bytes),
    Disk(Arc<Content>),
}

impl Here {
    /// Returns the bytes of the whole.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk(content) => content.length,
        }
    }

    /// Returns the bytes from `first` up to `end`. If the disk cannot be read, `rest` asks for those that are missing.
    pub(super) fn body(self, first: u64, end: u64, rest: impl FnOnce() -> (RestRequest, Credit)) -> Body {
        match self {
            Self::Memory(bytes) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(bytes.len());
                Body::full(bytes.slice(place(first)..place(end)))
            }
            Self::Disk(content) => {
                let (rest, credit) = rest();
                Body::stream(Credited::new(FileBody::new(content, first, end, rest), credit))
            }
        }
    }
}

/// The places in which a blob may be that this upstream has served.
pub(super) struct Places {
    pub(super) ledger: Ledger,
    pub(super) small: Arc<SmallBlobs>,
    pub(super) store: Arc<Store>,
}

impl Places {
    /// Returns true if the blob is in one of them.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        // All is looked up, whatever the first says: the time that takes must not tell.
        let served = self.ledger.served(digest);
        let stored = self.small.get(digest).is_some() | self.store.has(Kind::Blob, digest);
        served && stored
    }

    /// Returns the blob, if it is in one of them.
    pub(super) fn find(&self, digest: &Digest) -> Option<Here> {
        if !self.ledger.served(digest) {
            return None;
        }
        if let Some(bytes) = self.small.get(digest) {
            return Some(Here::Memory(bytes));
        }
        let content = self.store.content(Kind::Blob, digest)?;
        if content.length > limits::SMALL_BLOB_BYTES {
            return Some(Here::Disk(Arc::new(content)));
        }
        let bytes = content.bytes()?;
        self.small.keep(digest, &bytes);
        Some(Here::Memory(bytes))
    }
}
