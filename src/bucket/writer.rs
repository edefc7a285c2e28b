//! The writer: stores in the background what has been proved, from the disk, two objects at a time.

use std::collections::{HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::bucket::client::{BucketClient, PartSource};
use crate::bucket::counters::BucketCounters;
use crate::bucket::error::BucketError;
use crate::bucket::layout::ObjectNames;
use crate::bucket::marks::UseMarks;
use crate::bucket::seal::RecordSeal;
use crate::cache::metadata::record::{Membership, TagRecord, age};
use crate::cache::store::{Content, Kind, Store, files};
use crate::cache::{MeantRecords, ProvedContent};
use crate::clock;
use crate::config::limits;
use crate::proto::{Digest, Hasher, RepositoryName};

/// The jobs that wait to store or remove. They are names alone: a long queue holds no content.
pub(super) struct WriterQueue {
    jobs: Mutex<Jobs>,
    more: Notify,
    counters: Arc<BucketCounters>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<WriterJob>,
    /// Content that waits, and its repository: what many requests ask for is stored once.
    names: HashSet<(Kind, Digest, String)>,
    /// The digests of jobs that are being done: two of one digest are done in their order.
    busy: HashSet<String>,
}

enum WriterJob {
    Keep(ProvedContent),
    Delete(Path),
    /// Content is to be marked as used.
    Mark(Path),
    /// A record that is in use is to be written anew, as it is.
    Renew(Path, Bytes),
    /// The upstream has said once more that a repository holds content.
    Word(Path, Membership),
    /// The upstream has said where a tag points.
    Tag(Path, TagRecord),
    /// The records in a folder that an operator has removed.
    RemoveRecords(Path, MeantRecords),
    /// A note of a removal.
    Note(Path, String),
}

impl WriterJob {
    /// Returns the last component of the names that it is about: most often a digest, without its algorithm.
    fn digest(&self) -> String {
        match self {
            Self::Keep(proved) => proved.digest.encoded().to_owned(),
            Self::Delete(path)
            | Self::Mark(path)
            | Self::Renew(path, _)
            | Self::Word(path, _)
            | Self::Tag(path, _)
            | Self::RemoveRecords(path, _)
            | Self::Note(path, _) => path.filename().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for WriterJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(proved) => write!(f, "put {}", proved.digest),
            Self::Delete(path) => write!(f, "delete {path}"),
            Self::Mark(path) => write!(f, "mark {path}"),
            Self::Renew(path, _) | Self::Word(path, _) | Self::Tag(path, _) => write!(f, "renew {path}"),
            Self::RemoveRecords(path, _) => write!(f, "delete records in {path}"),
            Self::Note(path, _) => write!(f, "note {path}"),
        }
    }
}

impl WriterQueue {
    pub(super) fn new(counters: Arc<BucketCounters>) -> Self {
        Self { jobs: Mutex::default(), more: Notify::new(), counters }
    }

    /// Returns the number of jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.jobs.lock().waiting.len()
    }

    /// Has content stored, unless it waits already. Where too much waits it is dropped: it is stored when it is next got from an
    /// upstream.
    pub(super) fn keep(&self, proved: ProvedContent) {
        let name = name_of(&proved);
        let mut jobs = self.jobs.lock();
        if jobs.names.contains(&name) {
            return;
        }
        if jobs.waiting.len() >= limits::BUCKET_WAITING {
            drop(jobs);
            return self.counters.dropped();
        }
        jobs.names.insert(name);
        jobs.waiting.push_back(WriterJob::Keep(proved));
        drop(jobs);
        self.more.notify_one();
    }

    /// Has a job done later.
    fn put_back(&self, job: WriterJob) {
        let mut jobs = self.jobs.lock();
        if let WriterJob::Keep(proved) = &job {
            jobs.names.insert(name_of(proved));
        }
        jobs.waiting.push_front(job);
    }

    /// Has an object removed, ahead of all that waits: what is stored in its place comes behind.
    pub(super) fn delete(&self, path: Path) {
        self.first(WriterJob::Delete(path));
    }

    /// Has those records in a folder removed that are meant.
    pub(super) fn remove_records(&self, folder: Path, meant: MeantRecords) {
        self.first(WriterJob::RemoveRecords(folder, meant));
    }

    /// Has a note of a removal written.
    pub(super) fn note(&self, path: Path, selection: String) {
        self.first(WriterJob::Note(path, selection));
    }

    fn first(&self, job: WriterJob) {
        let mut jobs = self.jobs.lock();
        if jobs.waiting.len() >= 2 * limits::BUCKET_WAITING {
            drop(jobs);
            return self.counters.dropped();
        }
        jobs.waiting.push_front(job);
        drop(jobs);
        self.more.notify_one();
    }

    /// Drops the upstream's word from what waits: it says otherwise now.
    pub(super) fn forget(&self, upstream: &str, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        for job in &mut self.jobs.lock().waiting {
            if let WriterJob::Keep(proved) = job
                && (proved.kind, &proved.digest) == (kind, digest)
                && (&*proved.upstream, &proved.repository) == (upstream, repository)
            {
                proved.held = None;
            }
        }
    }

    /// Drops what waits to be written as the record `path`.
    pub(super) fn drop_record(&self, path: &Path) {
        self.jobs.lock().waiting.retain(|job| match job {
            WriterJob::Word(own, _) | WriterJob::Tag(own, _) | WriterJob::Renew(own, _) => own != path,
            _ => true,
        });
    }

    /// Has the upstream's word on content written.
    pub(super) fn word(&self, path: Path, held: Membership) {
        self.add_note(WriterJob::Word(path, held));
    }

    /// Has the upstream's word on a tag written.
    pub(super) fn tag(&self, path: Path, record: TagRecord) {
        self.add_note(WriterJob::Tag(path, record));
    }

    /// Has content marked as used.
    pub(super) fn mark(&self, path: Path) {
        self.add_note(WriterJob::Mark(path));
    }

    /// Has a record written anew, so that it is not swept.
    pub(super) fn renew(&self, path: Path, record: Bytes) {
        self.add_note(WriterJob::Renew(path, record));
    }

    /// Adds a job that the next use brings again. Where too much waits it is left out.
    fn add_note(&self, job: WriterJob) {
        let mut jobs = self.jobs.lock();
        if jobs.waiting.len() < limits::BUCKET_WAITING {
            jobs.waiting.push_back(job);
            drop(jobs);
            self.more.notify_one();
        }
    }

    /// Waits for the next job that may be done now.
    async fn next(&self) -> WriterJob {
        loop {
            let more = self.more.notified();
            if let Some(job) = self.take() {
                return job;
            }
            more.await;
        }
    }

    /// Takes the next job that may be done now.
    fn take(&self) -> Option<WriterJob> {
        let mut jobs = self.jobs.lock();
        let at = jobs.waiting.iter().position(|job| !jobs.busy.contains(&job.digest()))?;
        let job = jobs.waiting.remove(at)?;
        if let WriterJob::Keep(proved) = &job {
            jobs.names.remove(&name_of(proved));
        }
        jobs.busy.insert(job.digest());
        if !jobs.waiting.is_empty() {
            self.more.notify_one();
        }
        Some(job)
    }

    /// Notes that a job of this digest is over.
    fn done(&self, digest: &str) {
        self.jobs.lock().busy.remove(digest);
        self.more.notify_one();
    }
}

fn name_of(proved: &ProvedContent) -> (Kind, Digest, String) {
    (proved.kind, proved.digest.clone(), format!("{} {}", proved.upstream, proved.repository))
}

/// The tasks that store.
pub(super) struct Writer {
    pub(super) client: Arc<BucketClient>,
    pub(super) names: ObjectNames,
    pub(super) seal: Arc<RecordSeal>,
    pub(super) marks: Arc<UseMarks>,
    pub(super) queue: Arc<WriterQueue>,
    pub(super) counters: Arc<BucketCounters>,
    /// The disk. Gone when the gateway ends.
    pub(super) store: Weak<Store>,
    /// The lengths of blobs that are stored.
    pub(super) lengths: RangeInclusive<u64>,
}

impl Writer {
    /// Begins to store, on this runtime.
    pub(super) fn begin(self: Arc<Self>) {
        for _ in 0..WRITERS {
            let this = self.clone();
            tokio::spawn(async move {
                loop {
                    let job = this.queue.next().await;
                    let Some(store) = this.store.upgrade() else { return };
                    let digest = job.digest();
                    this.do_job(job, &store).await;
                    this.queue.done(&digest);
                }
            });
        }
    }

    /// Does all that waits, on this task. Returns false if the store has not taken all of it.
    pub(super) async fn finish(&self, store: &Arc<Store>) -> bool {
        let failures = || self.counters.counts().store_failures;
        let before = failures();
        while let Some(job) = self.queue.take() {
            let digest = job.digest();
            self.do_job(job, store).await;
            self.queue.done(&digest);
            if self.client.failure().is_some() {
                return false;
            }
        }
        failures() == before
    }

    async fn do_job(&self, job: WriterJob, store: &Arc<Store>) {
        let done = match &job {
            WriterJob::Keep(proved) => self.keep(proved, store).await,
            WriterJob::Delete(path) => self.client.delete(path).await,
            WriterJob::Mark(path) => self.marks.mark(path).await,
            WriterJob::Renew(path, record) => {
                let put = self.client.put(path, record.clone()).await.map(drop);
                put.inspect(|()| self.marks.note_written(path))
            }
            WriterJob::Word(path, held) => self.put_record(path.clone(), &held.render()).await,
            WriterJob::Tag(path, record) => self.keep_tag(path, record).await,
            WriterJob::RemoveRecords(folder, meant) => self.remove_records(folder, meant).await,
            WriterJob::Note(path, selection) => self.put_record(path.clone(), selection.as_bytes()).await,
        };
        match done {
            Ok(()) => {}
            Err(BucketError::Resting) => {
                self.queue.put_back(job);
                tokio::time::sleep(RESTING_PAUSE).await;
            }
            Err(error) => {
                self.counters.store_failed();
                tracing::info!(%job, %error, "the store has not taken a change");
            }
        }
    }

    /// Stores content, and then the records that say whose it is: a record without its content would lead to nothing.
    async fn keep(&self, proved: &ProvedContent, store: &Arc<Store>) -> Result<(), BucketError> {
        let ProvedContent { kind, digest, upstream, repository, held } = proved;
        let (disk, own) = (store.clone(), (*kind, digest.clone()));
        let opened = tokio::task::spawn_blocking(move || Source::open(&disk, own.0, &own.1)).await;
        // Evicted, or never kept: the next time it is got from the upstream.
        let Some(source) = opened.ok().flatten() else { return Ok(()) };
        let length = source.length();
        if *kind == Kind::Blob && !self.lengths.contains(&length) {
            return Ok(());
        }
        let path = self.names.content(*kind, digest);
        if self.client.head(&path).await.ok().map(|head| head.size) != Some(length) {
            let put = self.client.put_from(&path, length, source).await;
            if let Err(BucketError::Damaged) = &put {
                store.schedule_verify(*kind, digest);
            }
            put?;
            self.counters.stored(length);
        }
        let served = Membership { media_type: None, size: None, confirmed: clock::wall() };
        self.put_record(self.names.served(upstream, digest), &served.render()).await?;
        match held {
            Some(held) => {
                let path = self.names.held(upstream, repository, *kind, digest);
                self.put_record(path, &held.render()).await
            }
            None => Ok(()),
        }
    }

    /// Writes where a tag points, unless that is written there and nearly as new, by whichever replica.
    async fn keep_tag(&self, path: &Path, record: &TagRecord) -> Result<(), BucketError> {
        let there = match self.client.get_small(path, RECORD_BYTES).await {
            Ok((object, _)) => {
                let there = self.seal.open(self.names.below_prefix(path), &object);
                there.and_then(TagRecord::parse)
            }
            Err(BucketError::Absent | BucketError::Other(_)) => None,
            Err(error) => return Err(error),
        };
        let is_news = there.is_none_or(|there| {
            let is_young = age(there.confirmed) < limits::BUCKET_TAG_AGE;
            there.confirmed < record.confirmed && !(is_young && there.digest == record.digest)
        });
        if is_news { self.put_record(path.clone(), &record.render()).await } else { Ok(()) }
    }

    async fn remove_records(&self, folder: &Path, meant: &MeantRecords) -> Result<(), BucketError> {
        let mut records = self.client.list(folder);
        while let Some(record) = records.try_next().await? {
            let subject = ObjectNames::record_in(folder, &record.location);
            if subject.is_some_and(|(repository, subject)| meant(&repository, &subject)) {
                self.client.delete(&record.location).await?;
            }
        }
        Ok(())
    }

    async fn put_record(&self, path: Path, record: &[u8]) -> Result<(), BucketError> {
        let sealed = self.seal.seal(self.names.below_prefix(&path), record);
        self.client.put(&path, sealed.into()).await.map(drop)
    }
}

/// Content on the disk, or a manifest that waits to be written there, as it is read to be stored.
struct Source {
    bytes: SourceBytes,
    at: u64,
    digest: Digest,
    hasher: Hasher,
}

enum SourceBytes {
    Held(Bytes),
    OnDisk(Arc<Content>),
}

impl Source {
    /// Opens content. Reads the disk: not for a worker's thread.
    fn open(store: &Store, kind: Kind, digest: &Digest) -> Option<Self> {
        let waiting = if kind == Kind::Manifest { store.waiting(digest) } else { None };
        let bytes = match waiting {
            Some(bytes) => SourceBytes::Held(bytes),
            None => SourceBytes::OnDisk(Arc::new(store.content(kind, digest)?)),
        };
        let hasher = Hasher::new(digest.algorithm())?;
        Some(Self { bytes, at: 0, digest: digest.clone(), hasher })
    }

    fn length(&self) -> u64 {
        match &self.bytes {
            SourceBytes::Held(bytes) => bytes.len() as u64,
            SourceBytes::OnDisk(content) => content.length,
        }
    }
}

impl PartSource for Source {
    async fn read(&mut self, length: usize) -> Result<Bytes, BucketError> {
        let start = self.at;
        let bytes = match &self.bytes {
            SourceBytes::Held(bytes) => {
                let start = usize::try_from(start).unwrap_or(usize::MAX);
                let end = start.saturating_add(length).min(bytes.len());
                bytes.slice(start.min(end)..end)
            }
            SourceBytes::OnDisk(content) => {
                let content = content.clone();
                let read = move || {
                    let mut bytes = vec![0; length];
                    files::read_exact_at(&content.file, &mut bytes, start).map(|()| Bytes::from(bytes))
                };
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??
            }
        };
        self.at += bytes.len() as u64;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn check(&self) -> Result<(), BucketError> {
        if self.hasher.clone().finish() == self.digest { Ok(()) } else { Err(BucketError::Damaged) }
    }
}

/// The longest record: a media type, a length and a date.
pub(super) const RECORD_BYTES: u64 = 4096;

/// Objects that are stored at a time. Each has two parts in memory at most.
const WRITERS: usize = 2;

/// The pause of a writer while the store does not answer.
const RESTING_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn proved(byte: u8, repository: &str) -> ProvedContent {
        ProvedContent {
            kind: Kind::Blob,
            digest: Digest::sha256(&[byte; 32]),
            upstream: "up http://up".into(),
            repository: RepositoryName::parse(repository).unwrap(),
            held: None,
        }
    }

    fn taken(queue: &WriterQueue) -> Option<String> {
        queue.take().map(|job| job.to_string().chars().take(16).collect())
    }

    #[test]
    fn content_that_waits_is_not_queued_twice() {
        let queue = WriterQueue::new(Arc::default());
        queue.keep(proved(1, "a"));
        queue.keep(proved(1, "a"));
        queue.keep(proved(1, "b"));
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_word_that_waits_ends_with_the_upstreams_no() {
        let queue = WriterQueue::new(Arc::default());
        let held = Membership { media_type: None, size: None, confirmed: clock::wall() };
        for repository in ["a", "b"] {
            queue.keep(ProvedContent { held: Some(held.clone()), ..proved(1, repository) });
        }
        let ProvedContent { upstream, repository, digest, .. } = proved(1, "a");
        queue.forget(&upstream, &repository, Kind::Blob, &digest);
        let mut words = Vec::new();
        for job in &queue.jobs.lock().waiting {
            if let WriterJob::Keep(proved) = job {
                words.push((proved.repository.as_str().to_owned(), proved.held.is_some()));
            }
        }
        assert_eq!(words, [("a".to_owned(), false), ("b".to_owned(), true)]);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let counters = Arc::<BucketCounters>::default();
        let queue = WriterQueue::new(counters.clone());
        for number in 0..limits::BUCKET_WAITING + 3 {
            queue.keep(proved(1, &format!("a{number}")));
        }
        assert_eq!((queue.len(), counters.counts().dropped), (limits::BUCKET_WAITING, 3));
    }

    #[test]
    fn jobs_of_one_digest_are_done_in_their_order() {
        let queue = WriterQueue::new(Arc::default());
        queue.keep(proved(1, "a"));
        queue.keep(proved(2, "a"));
        let wrong = Path::from(format!("v1/blobs/sha256/01/{}", "01".repeat(32)));
        queue.delete(wrong);
        assert_eq!(taken(&queue).as_deref(), Some("delete v1/blobs/"));
        assert_eq!(taken(&queue).as_deref(), Some("put sha256:02020"), "the other waits for the removal");
        assert_eq!(taken(&queue), None);
        queue.done(&"01".repeat(32));
        assert_eq!(taken(&queue).as_deref(), Some("put sha256:01010"));
    }
}
