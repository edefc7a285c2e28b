//! The pull-through cache: one download, many readers, nothing wrong ever kept.
//!
//! Content is kept once, by its digest; what a repository holds is a record of (upstream, repository, digest). A
//! [`Requester`] is one request's view of it: it needs the request's permit, and a [`Origin`] to ask the upstream by.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config;

pub(crate) mod blobs;
pub(crate) mod counters;
pub(crate) mod maintenance;
pub(crate) mod manifests;
pub(crate) mod metadata;
pub(crate) mod origin;
pub(crate) mod outcome;
pub(crate) mod pull_authorization;
pub(crate) mod requester;
#[cfg(test)]
pub(crate) mod scripted_origin;
pub(crate) mod store;
pub(crate) mod upstream_cache;

pub(crate) use crate::cache::blobs::blob::Blob;
pub(crate) use crate::cache::blobs::push::Push;
pub(crate) use crate::cache::manifests::pull::Manifest;
pub(crate) use crate::cache::origin::breaker::BreakerState;
pub(crate) use crate::cache::origin::{Asking, ByteSpan, Origin, OriginRequest, OriginResponse, Resource};
pub(crate) use crate::cache::requester::{CacheError, Requester};
pub(crate) use crate::cache::upstream_cache::UpstreamCache;
pub(crate) use counters::{Cause, Counted, Counters};
pub(crate) use outcome::CacheStatus;
pub(crate) use store::{Amount, Store};

use crate::cache::blobs::blob::SmallBlobs;
use crate::cache::blobs::fill::Fills;
use crate::cache::blobs::push::Pushes;
use crate::cache::manifests::memory::ManifestMemory;
use crate::cache::metadata::generation::Generations;
use crate::cache::metadata::records::Records;
use crate::cache::store::hash_pool::HashPool;

/// What is kept of all upstreams.
pub(crate) struct Cache {
    settings: config::Cache,
    store: Arc<Store>,
    records: Records,
    fills: Fills,
    /// How often each upstream's repositories have been written to.
    generations: Generations,
    desk: Arc<HashPool>,
    pushes: Pushes,
    /// SmallBlobs blobs, in memory.
    small: SmallBlobs,
    /// Manifests, in memory.
    hot: ManifestMemory,
    counters: Arc<Counters>,
}

impl Cache {
    /// The cache in the settings' directory. Never fails: where the directory can't be used, nothing is kept until it
    /// can. Does not wait until what is there has been counted.
    pub(crate) fn open(settings: &config::Cache) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let store = Store::open(settings, counters.clone());
        let cache = Self::on(settings, store, counters);
        let tended = Arc::downgrade(&cache);
        cache.store.tend_by(move || {
            if let Some(cache) = tended.upgrade() {
                cache.records.count();
                cache.store.note_records(cache.records.bytes());
            }
        });
        cache
    }

    /// The same to look at: nothing below the directory is made, written or removed.
    pub(crate) fn open_read_only(settings: &config::Cache) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let store = Store::open_read_only(settings, counters.clone());
        Self::on(settings, store, counters)
    }

    fn on(settings: &config::Cache, store: Arc<Store>, counters: Arc<Counters>) -> Arc<Self> {
        let records = Records::new(settings.path.join("records"), store.access());
        let desk = Arc::<HashPool>::default();
        let pushes = Pushes::new(store.clone(), desk.clone());
        Arc::new(Self {
            settings: settings.clone(),
            store,
            records,
            fills: Fills::default(),
            generations: Generations::default(),
            desk,
            pushes,
            small: SmallBlobs::new(),
            hot: ManifestMemory::new(),
            counters,
        })
    }

    /// The gateway ends: what is on its way is left such that the next one goes on with it. Waits until that is on the
    /// disk.
    pub(crate) async fn close(self: &Arc<Self>) {
        while self.fills.end() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let cache = self.clone();
        let _ = tokio::task::spawn_blocking(move || cache.store.flush()).await;
    }

    /// What is counted.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where content is.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The most that it may hold, in bytes.
    pub(crate) fn max_size(&self) -> u64 {
        self.settings.max_size
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &PathBuf {
        &self.settings.path
    }
}
