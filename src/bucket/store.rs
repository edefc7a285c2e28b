//! The bucket as the cache uses it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream as _, TryStreamExt};
use object_store::path::Path;
use parking_lot::Mutex;

use crate::body::{Body, BodyError, Stream};
use crate::bucket::breaker::StoreBreaker;
use crate::bucket::client::BucketClient;
use crate::bucket::counters::BucketCounters;
use crate::bucket::error::BucketError;
use crate::bucket::inspection::{Inspection, WrongObject};
use crate::bucket::inventory::Inventory;
use crate::bucket::layout::ObjectNames;
use crate::bucket::marks::UseMarks;
use crate::bucket::seal::RecordSeal;
use crate::bucket::sweeper::{SweepSum, Sweeper};
use crate::bucket::writer::{RECORD_BYTES, Writer, WriterQueue};
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::store::{Amount, Kind, Store};
use crate::cache::{
    ByteSpan, Inspected, Inspecting, LocalInspecting, MeantRecords, MeantRepositories, ProvedContent,
    Reading, RemoteStore, StoreFailure, StoreStats, StoredContent, StoredImage,
};
use crate::clock;
use crate::config;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName, Tag};

/// The bucket of `[cache.store]`.
pub(crate) struct BucketStore {
    client: Arc<BucketClient>,
    names: ObjectNames,
    seal: Arc<RecordSeal>,
    queue: Arc<WriterQueue>,
    marks: Arc<UseMarks>,
    counters: Arc<BucketCounters>,
    /// Objects that are to be removed, and are not read until they have been.
    forgotten: moka::sync::Cache<Path, ()>,
    /// Content that was not there a moment ago: of some blobs many parts are asked for.
    absent: moka::sync::Cache<Path, ()>,
    /// Where tags were written to point, so that they are not written again for a while.
    tags: moka::sync::Cache<Path, Digest>,
    /// The notes of removals that this replica has done without being told by them.
    done_notes: Mutex<HashSet<String>>,
    /// The objects and bytes that the last sweep has left.
    swept: Mutex<Option<Amount>>,
    /// The bucket's name, for operators.
    name: String,
    lengths: RangeInclusive<u64>,
    hedge: Duration,
}

impl BucketStore {
    /// Returns the bucket, for `workers` workers and the background. Asks nothing.
    ///
    /// # Errors
    /// [`BucketError::Settings`].
    pub(crate) fn new(settings: &config::Bucket, workers: usize) -> Result<Arc<Self>, BucketError> {
        let counters = Arc::<BucketCounters>::default();
        let client = Arc::new(BucketClient::new(settings, workers)?);
        let names = ObjectNames::new(&settings.prefix);
        Ok(Arc::new(Self {
            marks: Arc::new(UseMarks::new(client.clone(), names.clone(), settings.keep_for)),
            client,
            names,
            seal: Arc::new(RecordSeal::derive(&settings.secret)),
            queue: Arc::new(WriterQueue::new(counters.clone())),
            counters,
            forgotten: moka::sync::Cache::builder()
                .max_capacity(FORGOTTEN)
                .time_to_live(FORGOTTEN_FOR)
                .build(),
            absent: moka::sync::Cache::builder().max_capacity(FORGOTTEN).time_to_live(ABSENT_FOR).build(),
            tags: moka::sync::Cache::builder()
                .max_capacity(limits::SEEN_TAGS)
                .time_to_live(limits::BUCKET_TAG_AGE)
                .build(),
            done_notes: Mutex::default(),
            swept: Mutex::default(),
            name: settings.to_string(),
            lengths: settings.min_object..=settings.max_object,
            hedge: settings.hedge,
        }))
    }

    /// Begins to store what waits, from the disk of `store`, on this runtime, and to sweep each day that `sweeps` says so.
    pub(crate) fn begin(
        self: &Arc<Self>,
        settings: &config::Bucket,
        store: &Arc<Store>,
        sweeps: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        Arc::new(self.writer(store)).begin();
        let sweeper = Sweeper {
            client: self.client.clone(),
            names: self.names.clone(),
            keep_for: settings.keep_for,
            max_size: settings.max_size,
        };
        let (this, disk) = (self.clone(), Arc::downgrade(store));
        tokio::spawn(async move {
            let mut pause = FIRST_SWEEP;
            loop {
                tokio::time::sleep(pause).await;
                pause = SWEEP_PERIOD;
                let Some(disk) = disk.upgrade() else { return };
                this.tend(&sweeper, disk, &sweeps).await;
            }
        });
        let client = Arc::downgrade(&self.client);
        tokio::spawn(async move {
            while let Some(client) = client.upgrade() {
                client.sweep();
                drop(client);
                tokio::time::sleep(IDLE_INTERVAL).await;
            }
        });
    }

    fn writer(&self, store: &Arc<Store>) -> Writer {
        Writer {
            client: self.client.clone(),
            names: self.names.clone(),
            seal: self.seal.clone(),
            marks: self.marks.clone(),
            queue: self.queue.clone(),
            counters: self.counters.clone(),
            store: Arc::downgrade(store),
            lengths: self.lengths.clone(),
        }
    }

    /// Writes all that waits, where [`begin`](Self::begin) is not called: for a command. Returns false if the store has not taken all of
    /// it.
    pub(crate) async fn finish(&self, store: &Arc<Store>) -> bool {
        self.writer(store).finish(store).await
    }

    /// Returns the notes of removals in the order of time, each with what was removed. Those that this replica has done have none, as
    /// has a note that no replica of this gateway has left.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(crate) async fn notes(
        &self,
        done: &BTreeSet<String>,
    ) -> Result<Vec<(String, Option<String>)>, BucketError> {
        let mut notes = Vec::new();
        let mut listed = self.client.list(&self.names.notes());
        while let Some(note) = listed.try_next().await? {
            if notes.len() == NOTES_MOST {
                tracing::warn!(
                    most = NOTES_MOST,
                    "the store has too many notes of removals: the newest are not followed"
                );
                break;
            }
            let name = note.location.filename().unwrap_or_default().to_owned();
            let selection = if done.contains(&name) || self.done_notes.lock().contains(&name) {
                None
            } else {
                self.note(&note.location).await?
            };
            notes.push((name, selection));
        }
        notes.sort();
        Ok(notes)
    }

    async fn note(&self, path: &Path) -> Result<Option<String>, BucketError> {
        let object = match self.client.get_small(path, NOTE_BYTES).await {
            Ok((object, _)) => object,
            // Swept meanwhile, or none.
            Err(BucketError::Absent | BucketError::Other(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let selection = self.seal.open(self.names.below_prefix(path), &object);
        if selection.is_none() {
            self.counters.wrong();
            tracing::warn!(%path, "a note in the store has no signature of this gateway: it is not followed");
        }
        Ok(selection.and_then(|text| std::str::from_utf8(text).ok()).map(str::to_owned))
    }

    /// Marks what is used on this disk, and sweeps if it is this replica's turn.
    async fn tend(&self, sweeper: &Sweeper, disk: Arc<Store>, sweeps: &(impl Fn() -> bool + Sync)) {
        let marks = self.marks.clone();
        let look = move || {
            let mut used = Vec::new();
            for kind in Kind::ALL {
                // A directory that cannot be read has nothing that is used.
                let _ = disk.for_each(kind, |listed| {
                    if marks.counts(listed.used) {
                        used.push((kind, listed.digest));
                    }
                });
            }
            used
        };
        for (kind, digest) in tokio::task::spawn_blocking(look).await.unwrap_or_default() {
            if let Err(error) = self.marks.mark(&self.names.content(kind, &digest)).await {
                tracing::info!(%error, "what is used here is not marked in the store as used");
                break;
            }
        }
        if !sweeps() {
            return;
        }
        match sweeper.sweep().await {
            Ok(SweepSum { kept, kept_bytes, deleted, deleted_bytes }) => {
                *self.swept.lock() = Some(Amount { count: kept, bytes: kept_bytes });
                tracing::info!(kept, kept_bytes, deleted, deleted_bytes, "the store was swept");
            }
            Err(error) => tracing::warn!(%error, "the store was not swept; it is tried again tomorrow"),
        }
    }

    async fn read(&self, path: &Path, span: Option<ByteSpan>) -> Option<StoredContent> {
        if self.forgotten.contains_key(path) {
            return None;
        }
        match self.client.get(path, span, None).await {
            Ok(object) => {
                self.counters.hit();
                if self.marks.is_due(path, object.meta.last_modified.timestamp()) {
                    self.queue.mark(path.clone());
                }
                let (total, left) = (object.meta.size, object.range.end - object.range.start);
                let (breaker, counters) = (self.client.breaker().clone(), self.counters.clone());
                let body =
                    Body::stream(ObjectStream { stream: object.into_stream(), left, breaker, counters });
                Some(StoredContent { body, total })
            }
            Err(BucketError::Absent) => {
                self.counters.missed();
                None
            }
            Err(error) => {
                self.counters.failed();
                tracing::debug!(%path, %error, "the store has not sent an object");
                None
            }
        }
    }

    /// Returns a record as `parse` reads it, if a replica of this gateway has written it.
    async fn record<T>(&self, path: &Path, parse: fn(&[u8]) -> Option<T>) -> Option<T> {
        if self.forgotten.contains_key(path) {
            return None;
        }
        let (object, written) = match self.client.get_small(path, RECORD_BYTES).await {
            Ok(object) => object,
            Err(BucketError::Absent) => return None,
            Err(error) => {
                tracing::debug!(%path, %error, "the store has not sent a record");
                return None;
            }
        };
        let record = self.seal.open(self.names.below_prefix(path), &object).and_then(parse);
        if record.is_none() {
            self.counters.wrong();
            tracing::warn!(%path, "a record in the store has no signature of this gateway: it counts as absent");
        }
        if record.is_some() && self.marks.is_due(path, written) {
            self.queue.renew(path.clone(), object.clone());
        }
        record
    }

    async fn membership(&self, path: &Path) -> Option<Membership> {
        let held = self.record(path, Membership::parse).await?;
        Some(Membership { confirmed: not_ahead(held.confirmed), ..held })
    }
}

impl RemoteStore for BucketStore {
    fn content<'a>(
        &'a self,
        kind: Kind,
        digest: &'a Digest,
        bytes: Option<ByteSpan>,
    ) -> Reading<'a, StoredContent> {
        let path = self.names.content(kind, digest);
        Box::pin(async move { self.read(&path, bytes).await })
    }

    fn held<'a>(
        &'a self,
        upstream: &'a str,
        repository: &'a RepositoryName,
        kind: Kind,
        digest: &'a Digest,
    ) -> Reading<'a, Membership> {
        let path = self.names.held(upstream, repository, kind, digest);
        Box::pin(async move { self.membership(&path).await })
    }

    fn length<'a>(&'a self, kind: Kind, digest: &'a Digest) -> Reading<'a, u64> {
        let path = self.names.content(kind, digest);
        Box::pin(async move {
            if self.forgotten.contains_key(&path) || self.absent.contains_key(&path) {
                return None;
            }
            match self.client.head(&path).await {
                Ok(head) => Some(head.size),
                Err(BucketError::Absent) => {
                    self.absent.insert(path, ());
                    None
                }
                Err(_) => None,
            }
        })
    }

    fn tag<'a>(
        &'a self,
        upstream: &'a str,
        repository: &'a RepositoryName,
        tag: &'a Tag,
    ) -> Reading<'a, TagRecord> {
        let path = self.names.tag(upstream, repository, tag);
        Box::pin(async move {
            let record = self.record(&path, TagRecord::parse).await?;
            Some(TagRecord { confirmed: not_ahead(record.confirmed), ..record })
        })
    }

    fn served<'a>(&'a self, upstream: &'a str, digest: &'a Digest) -> Reading<'a, ()> {
        let path = self.names.served(upstream, digest);
        Box::pin(async move { self.membership(&path).await.map(drop) })
    }

    fn keep(&self, proved: ProvedContent) {
        // Ends the forgetting: the record is written anew, behind its removal.
        self.forgotten.invalidate(&self.names.content(proved.kind, &proved.digest));
        let ProvedContent { kind, digest, upstream, repository, .. } = &proved;
        self.forgotten.invalidate(&self.names.held(upstream, repository, *kind, digest));
        self.queue.keep(proved);
    }

    fn keep_word(
        &self,
        upstream: &str,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
        held: &Membership,
    ) {
        let path = self.names.held(upstream, repository, kind, digest);
        self.forgotten.invalidate(&path);
        self.queue.word(path, held.clone());
    }

    fn keep_tag(&self, upstream: &str, repository: &RepositoryName, tag: &Tag, record: &TagRecord) {
        let path = self.names.tag(upstream, repository, tag);
        if self.tags.get(&path).as_ref() == Some(&record.digest) {
            return;
        }
        self.forgotten.invalidate(&path);
        self.tags.insert(path.clone(), record.digest.clone());
        self.queue.tag(path, record.clone());
    }

    fn forget(&self, upstream: &str, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        let path = self.names.held(upstream, repository, kind, digest);
        self.forgotten.insert(path.clone(), ());
        self.queue.forget(upstream, repository, kind, digest);
        self.queue.drop_record(&path);
        self.queue.delete(path);
    }

    fn forget_tag(&self, upstream: &str, repository: &RepositoryName, tag: &Tag) {
        let path = self.names.tag(upstream, repository, tag);
        self.forgotten.insert(path.clone(), ());
        self.tags.invalidate(&path);
        self.queue.drop_record(&path);
        self.queue.delete(path);
    }

    fn discard(&self, kind: Kind, digest: &Digest) {
        self.counters.wrong();
        let path = self.names.content(kind, digest);
        self.forgotten.insert(path.clone(), ());
        tracing::warn!(%digest, "the store has other bytes than a digest says: they are removed from it");
        self.queue.delete(path);
    }

    fn remove(&self, kind: Kind, digest: &Digest) {
        let path = self.names.content(kind, digest);
        self.forgotten.insert(path.clone(), ());
        self.queue.delete(path);
    }

    fn remove_records(&self, upstream: &str, meant: MeantRecords) {
        self.queue.remove_records(self.names.records_of(upstream), meant);
    }

    fn note_removal(&self, selection: String) -> String {
        let mut number = [0; 8];
        // Where the machine has no randomness, two notes of one second are one.
        let _ = aws_lc_rs::rand::fill(&mut number);
        let seconds = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = self.names.note(seconds, u64::from_le_bytes(number));
        let name = path.filename().unwrap_or_default().to_owned();
        self.note_done(name.clone());
        self.queue.note(path, selection);
        name
    }

    fn note_done(&self, name: String) {
        self.done_notes.lock().insert(name);
    }

    fn images<'a>(
        &'a self,
        upstream: &'a str,
        meant: MeantRepositories<'a>,
    ) -> Inspecting<'a, Vec<StoredImage>> {
        let (client, names, seal) = (self.client.clone(), self.names.clone(), self.seal.clone());
        let inventory = Inventory { client, names, seal };
        Box::pin(async move { inventory.images(upstream, meant).await.map_err(failure) })
    }

    fn inspect<'a>(&'a self, tell: &'a mut dyn FnMut(Inspected) -> bool) -> LocalInspecting<'a, ()> {
        let (client, names, seal) = (self.client.clone(), self.names.clone(), self.seal.clone());
        let inspection = Inspection { client, names, seal, tell: RefCell::new(tell) };
        Box::pin(async move {
            let mut remove = |wrong| match wrong {
                WrongObject::Content(kind, digest) => self.discard(kind, &digest),
                WrongObject::Record(path) => {
                    self.counters.wrong();
                    self.queue.delete(path);
                }
            };
            inspection.run(&mut remove).await.map_err(failure)
        })
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            name: self.name.clone(),
            failure: self.client.failure().map(|why| why.to_string()),
            waiting: self.queue.len() as u64,
            swept: *self.swept.lock(),
            counts: self.counters.counts(),
        }
    }

    fn hedge(&self) -> Duration {
        self.hedge
    }

    fn count_hedge(&self, upstream_was_first: bool) {
        self.counters.hedged(upstream_was_first);
    }
}

/// Returns why the store has not done what an operator wants.
fn failure(error: BucketError) -> StoreFailure {
    StoreFailure(error.to_string())
}

/// Returns a time of the store: of a clock that is ahead no more is believed than of this one.
fn not_ahead(confirmed: SystemTime) -> SystemTime {
    confirmed.min(clock::wall())
}

/// The bytes of an object, counted.
struct ObjectStream {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    left: u64,
    breaker: Arc<StoreBreaker>,
    counters: Arc<BucketCounters>,
}

impl Stream for ObjectStream {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let item = ready!(Pin::new(&mut self.stream).poll_next(cx));
        Poll::Ready(match item {
            Some(Ok(bytes)) => match self.left.checked_sub(bytes.len() as u64) {
                Some(left) => {
                    self.left = left;
                    self.counters.read(bytes.len() as u64);
                    if left == 0 {
                        self.breaker.came_whole();
                    }
                    Some(Ok(bytes))
                }
                None => Some(Err(BodyError::Unfinished)),
            },
            Some(Err(error)) => {
                self.breaker.broke_off(&error);
                Some(Err(BodyError::Io(std::io::Error::other(error))))
            }
            None if self.left > 0 => Some(Err(BodyError::Short { missing: self.left })),
            None => None,
        })
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.left)
    }
}

/// How long it is remembered that the store has not some content.
const ABSENT_FOR: Duration = Duration::from_secs(5);

/// Notes that are followed at most: operators leave few, and they are swept.
const NOTES_MOST: usize = 4096;

/// The longest note: a pattern, which comes in a URL.
const NOTE_BYTES: u64 = 128 * 1024;

/// Objects that are remembered to be removed, and for how long: a store that rests keeps them until it answers.
const FORGOTTEN: u64 = 16 * 1024;
const FORGOTTEN_FOR: Duration = Duration::from_secs(60 * 60);

/// How often what is used is marked, and the store is swept.
const SWEEP_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// The time before that is done first: a gateway that is restarted each day does it as well.
const FIRST_SWEEP: Duration = Duration::from_secs(3600);

/// How often idle connections are looked at.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
