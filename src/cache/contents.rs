//! The contents of a cache, shared by all upstreams.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::budget::Budget;
use crate::cache::blobs::fill::Fills;
use crate::cache::blobs::places::SmallBlobs;
use crate::cache::blobs::push::PushSpools;
use crate::cache::counters::Counters;
use crate::cache::manifests::memory::ManifestMemory;
use crate::cache::metadata::generation::Generations;
use crate::cache::metadata::records::Records;
use crate::cache::origin::{Fleet, RemoteStore};
use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::space::Space;
use crate::cache::store::{Amount, Store, Tending};
use crate::config;

/// The content and records of all upstreams.
pub(crate) struct Cache {
    pub(crate) settings: config::Cache,
    pub(crate) store: Arc<Store>,
    pub(crate) records: Arc<Records>,
    pub(crate) fills: Arc<Fills>,
    /// The write generations of each upstream's repositories.
    pub(crate) generations: Arc<Generations>,
    pub(crate) pool: Arc<HashPool>,
    pub(crate) pushes: Arc<PushSpools>,
    /// Small blobs, in memory.
    pub(crate) small: Arc<SmallBlobs>,
    /// Manifests, in memory.
    pub(crate) manifests: Arc<ManifestMemory>,
    pub(crate) counters: Arc<Counters>,
    /// The other replicas of this gateway; none if it is alone.
    pub(crate) fleet: Option<Arc<dyn Fleet>>,
    /// The object store behind the disk; none if there is none.
    pub(crate) remote: Option<Arc<dyn RemoteStore>>,
}

impl Cache {
    /// Opens the cache in the settings' directory. Never fails: while the directory cannot be used, nothing is kept. Does not
    /// wait until the files there have been counted. What is not there is asked of `fleet`, the other replicas, first, and then of
    /// `remote`.
    pub(crate) fn open(
        settings: &config::Cache,
        fleet: Option<Arc<dyn Fleet>>,
        remote: Option<Arc<dyn RemoteStore>>,
    ) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let store = Store::open(settings, counters.clone());
        let cache = Arc::new(Self { fleet, remote, ..Self::on(settings, store, counters) });
        let queue = cache.store.queue.clone();
        cache.records.call_when_full(move || queue.wake());
        cache.store.tend_by(Arc::new(RecordTending {
            records: cache.records.clone(),
            space: cache.store.space.clone(),
        }));
        cache
    }

    /// Opens the cache for reading alone: creates, writes and removes nothing below the directory.
    pub(crate) fn open_read_only(
        settings: &config::Cache,
        remote: Option<Arc<dyn RemoteStore>>,
    ) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let store = Store::open_read_only(settings, counters.clone());
        Arc::new(Self { remote, ..Self::on(settings, store, counters) })
    }

    fn on(settings: &config::Cache, store: Arc<Store>, counters: Arc<Counters>) -> Self {
        let (root, disk) = (settings.path.join("records"), store.disk().clone());
        let records = Records::on(root, store.access(), settings.max_size, disk);
        let pool = Arc::<HashPool>::default();
        let pushes = Arc::new(PushSpools::new(store.clone(), pool.clone()));
        let manifests = Arc::new(ManifestMemory::new(store.clone()));
        Self {
            settings: settings.clone(),
            store,
            records: Arc::new(records),
            fills: Arc::default(),
            generations: Arc::default(),
            pool,
            pushes,
            small: Arc::new(SmallBlobs::new()),
            manifests,
            counters,
            fleet: None,
            remote: None,
        }
    }

    /// Stops the downloads so that the next process can resume them, and waits until they are on the disk.
    pub(crate) async fn close(self: &Arc<Self>) {
        while self.fills.stop() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let (cache, (sender, closed)) = (self.clone(), oneshot::channel());
        // On a thread of its own: a runtime would wait for it at its end, for as long as the disk hangs.
        let closing = std::thread::Builder::new().name("cache-close".to_owned()).spawn(move || {
            cache.store.close();
            let _ = sender.send(());
        });
        if closing.is_ok() {
            let _ = closed.await;
        }
    }

    /// Waits for the disk no more: the process is to end.
    pub(crate) fn abandon(&self) {
        self.store.abandon();
    }

    /// Returns its budgets.
    pub(crate) fn budgets(&self) -> [&Budget; 3] {
        [self.manifests.reads(), self.downloads_memory(), self.pushes.budget()]
    }

    /// Returns the counters.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the budget of the bytes that downloads under way hold in memory.
    pub(crate) fn downloads_memory(&self) -> &Budget {
        self.fills.memory()
    }

    /// Returns the records on the disk.
    pub(crate) fn record_usage(&self) -> Amount {
        self.records.amount()
    }

    /// Returns the store of content.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the limit of its size, in bytes.
    pub(crate) fn max_size(&self) -> u64 {
        self.settings.max_size
    }

    /// Returns its directory.
    pub(crate) fn path(&self) -> &PathBuf {
        &self.settings.path
    }
}

/// The upkeep of the records.
struct RecordTending {
    records: Arc<Records>,
    space: Arc<Space>,
}

impl Tending for RecordTending {
    fn is_due(&self) -> bool {
        self.space.note_records(self.records.amount().bytes);
        self.records.must_be_counted()
    }

    fn catch_up(&self, stop: &dyn Fn() -> bool) {
        if self.records.must_be_written() {
            self.records.write_unwritten(stop);
        }
    }

    fn tend(&self, stop: &dyn Fn() -> bool) {
        self.records.count(stop);
        self.space.note_records(self.records.amount().bytes);
    }
}
