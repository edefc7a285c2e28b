//! The pull-through cache: one download, many readers, nothing wrong ever kept.
//!
//! Content is kept once, by its digest; what a repository holds is a record of (upstream, repository, digest). A
//! [`Repository`] is one request's view of it: it needs the request's permit, and a [`Source`] to ask the upstream by.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config;

mod blob;
mod breaker;
mod counters;
mod desk;
mod document;
mod file_body;
mod fill;
mod flight;
mod generation;
mod grant;
mod hot;
mod limited;
mod listing;
mod manifest;
mod membership;
mod not_found;
mod outcome;
mod prefetch;
mod push;
mod record;
mod records;
#[cfg(test)]
mod registry;
mod repository;
mod site;
mod source;
mod store;
mod tag;
pub mod upkeep;

pub use blob::Blob;
pub use breaker::State;
pub use counters::{Cause, Counted, Counters};
pub use manifest::Manifest;
pub use outcome::Outcome;
pub use push::Push;
pub use repository::{Refusal, Repository, Unusable};
pub use site::{Site, Writing};
pub use source::{Answer, Asking, Bytes, Failure, FailureKind, Question, Source, Subject};
pub use store::{Amount, Content, Kind, Listed, Store, Usage, Verdict};

use blob::Small;
use desk::Desk;
use fill::Fills;
use generation::Generations;
use hot::Hot;
use push::Pushes;
use records::Records;

/// What is kept of all upstreams.
pub struct Cache {
    settings: config::Cache,
    store: Arc<Store>,
    records: Records,
    fills: Fills,
    /// How often each upstream's repositories have been written to.
    generations: Generations,
    desk: Arc<Desk>,
    pushes: Pushes,
    /// Small blobs, in memory.
    small: Small,
    /// Manifests, in memory.
    hot: Hot,
    counters: Arc<Counters>,
}

impl Cache {
    /// The cache in the settings' directory. Never fails: where the directory can't be used, nothing is kept until it
    /// can. Does not wait until what is there has been counted.
    pub fn open(settings: &config::Cache) -> Arc<Self> {
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
    pub fn look_at(settings: &config::Cache) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let store = Store::look_at(settings, counters.clone());
        Self::on(settings, store, counters)
    }

    fn on(settings: &config::Cache, store: Arc<Store>, counters: Arc<Counters>) -> Arc<Self> {
        let records = Records::new(settings.path.join("records"), store.access());
        let desk = Arc::<Desk>::default();
        let pushes = Pushes::new(store.clone(), desk.clone());
        Arc::new(Self {
            settings: settings.clone(),
            store,
            records,
            fills: Fills::default(),
            generations: Generations::default(),
            desk,
            pushes,
            small: Small::new(),
            hot: Hot::new(),
            counters,
        })
    }

    /// The gateway ends: what is on its way is left such that the next one goes on with it. Waits until that is on the
    /// disk.
    pub async fn close(self: &Arc<Self>) {
        while self.fills.end() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let cache = self.clone();
        let _ = tokio::task::spawn_blocking(move || cache.store.flush()).await;
    }

    /// What is counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where content is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The most that it may hold, in bytes.
    pub fn max_size(&self) -> u64 {
        self.settings.max_size
    }

    /// Its directory.
    pub fn path(&self) -> &PathBuf {
        &self.settings.path
    }
}
