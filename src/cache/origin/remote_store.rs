//! The object store behind the disks of all replicas, as the cache uses it. The cache does not depend on `crate::bucket`, which
//! implements this trait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::body::Body;
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::origin::ByteSpan;
use crate::cache::store::{Amount, Kind};
use crate::proto::{Digest, RepositoryName, Tag};

/// The object store. What it gives is proved by its digest as what an upstream gives is; that a repository holds it is said by
/// records that a replica of this gateway has signed, or by the upstream. A store that does not answer has nothing.
pub(crate) trait RemoteStore: Send + Sync + 'static {
    /// Returns content, or these bytes of it, once the store begins to send it.
    fn content<'a>(
        &'a self,
        kind: Kind,
        digest: &'a Digest,
        bytes: Option<ByteSpan>,
    ) -> Reading<'a, StoredContent>;

    /// Returns the record that a repository holds content, by the word of the upstream there, which has served it. `upstream` is
    /// what all replicas call it.
    fn held<'a>(
        &'a self,
        upstream: &'a str,
        repository: &'a RepositoryName,
        kind: Kind,
        digest: &'a Digest,
    ) -> Reading<'a, Membership>;

    /// Returns the length of content, if the store has it.
    fn length<'a>(&'a self, kind: Kind, digest: &'a Digest) -> Reading<'a, u64>;

    /// Returns the record of where a tag points, by the word of the upstream.
    fn tag<'a>(
        &'a self,
        upstream: &'a str,
        repository: &'a RepositoryName,
        tag: &'a Tag,
    ) -> Reading<'a, TagRecord>;

    /// Returns something if the upstream has served these very bytes, in whichever repository: only then is its word that a
    /// repository holds them enough.
    fn served<'a>(&'a self, upstream: &'a str, digest: &'a Digest) -> Reading<'a, ()>;

    /// Takes note of content that this replica has got from an upstream and proved: it is stored in the background, from the
    /// disk, or dropped if too much waits.
    fn keep(&self, proved: ProvedContent);

    /// Takes note that the upstream has said once more that a repository holds content of the store.
    fn keep_word(
        &self,
        upstream: &str,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
        held: &Membership,
    );

    /// Takes note of where a tag points, by the upstream's word. What is written there already and nearly as new is left as it is.
    fn keep_tag(&self, upstream: &str, repository: &RepositoryName, tag: &Tag, record: &TagRecord);

    /// Forgets that a repository holds content: the upstream has said so.
    fn forget(&self, upstream: &str, repository: &RepositoryName, kind: Kind, digest: &Digest);

    /// Forgets where a tag points.
    fn forget_tag(&self, upstream: &str, repository: &RepositoryName, tag: &Tag);

    /// Removes content that was not what its digest says.
    fn discard(&self, kind: Kind, digest: &Digest);

    /// Removes content that an operator has removed from the cache.
    fn remove(&self, kind: Kind, digest: &Digest);

    /// Removes those records of an upstream that an operator has removed from the cache, whichever replica has written them.
    fn remove_records(&self, upstream: &str, meant: MeantRecords);

    /// Leaves a note of a removal, which the other replicas do after this one, and returns its name.
    fn note_removal(&self, selection: String) -> String;

    /// Takes note that this replica has done what the note called `name` says.
    fn note_done(&self, name: String);

    /// Returns the images of an upstream by the records in the store, of those repositories that `meant` says.
    fn images<'a>(
        &'a self,
        upstream: &'a str,
        meant: MeantRepositories<'a>,
    ) -> Inspecting<'a, Vec<StoredImage>>;

    /// Reads all content and all records, and removes what is wrong. `tell` gets what is seen, and returns true to go on. Hashes on
    /// the thread that drives it.
    fn inspect<'a>(&'a self, tell: &'a mut dyn FnMut(Inspected) -> bool) -> LocalInspecting<'a, ()>;

    /// Returns what is known of the store, and what it has been asked.
    fn stats(&self) -> StoreStats;

    /// Returns the time after which the upstream is asked too for a blob that the store has not begun to send.
    fn hedge(&self) -> Duration;

    /// Counts that the upstream was asked beside the store, and whether its answer was the first.
    fn count_hedge(&self, upstream_was_first: bool);
}

/// Work of an operator at the store, under way.
pub(crate) type Inspecting<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreFailure>> + Send + 'a>>;

/// Work of an operator at the store that stays on one thread, under way.
pub(crate) type LocalInspecting<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreFailure>> + 'a>>;

/// The reason why the store has not done what an operator wants.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StoreFailure(pub(crate) String);

/// The repositories that an operator means, by the upstream's own names.
pub(crate) type MeantRepositories<'a> = &'a (dyn Fn(&RepositoryName) -> bool + Send + Sync);

/// An image in the store: a tag, or a manifest that no tag leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredImage {
    /// The repository, by the upstream's own name.
    pub(crate) repository: RepositoryName,
    /// The tag, where there is one.
    pub(crate) tag: Option<Tag>,
    /// The manifest.
    pub(crate) digest: Digest,
    /// The bytes that are there of all that it leads to.
    pub(crate) size: u64,
    /// When the upstream said last that it is so.
    pub(crate) confirmed: SystemTime,
}

/// Something that is seen when all of the store is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inspected {
    /// The bytes of content that there is.
    Total(u64),
    /// So many bytes more have been read.
    Read(u64),
    /// An object is as it should be.
    Good,
    /// An object is not, and is removed.
    Wrong {
        /// Its name.
        name: String,
        /// The difference.
        why: String,
    },
}

/// The subject of a record in the store, within a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordSubject {
    /// Where a tag points.
    Tag(Tag),
    /// The record that a repository holds a blob or a manifest.
    Content(Kind, Digest),
}

/// The records that a removal means.
pub(crate) type MeantRecords = Box<dyn Fn(&RepositoryName, &RecordSubject) -> bool + Send + Sync>;

/// A store in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreStats {
    /// The bucket, and where it is.
    pub name: String,
    /// Why it is passed over now, if it is.
    pub failure: Option<String>,
    /// Changes that wait to be written.
    pub waiting: u64,
    /// Objects and their bytes, as the last sweep by this replica has left them.
    pub swept: Option<Amount>,
    /// The counters since the start.
    pub counts: StoreCounts,
}

/// The counters of a store since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreCounts {
    /// Reads of content that was there.
    pub hits: u64,
    /// Reads of content that was not there.
    pub misses: u64,
    /// Reads that were not answered, or not made as the store does not answer.
    pub failures: u64,
    /// Bytes of content that came from it.
    pub read_bytes: u64,
    /// Blobs for which the upstream was asked too, and was first.
    pub hedges_won: u64,
    /// Blobs for which the upstream was asked too, and the store was first.
    pub hedges_lost: u64,
    /// Content that was stored.
    pub stored: u64,
    /// Its bytes.
    pub stored_bytes: u64,
    /// Changes that could not be written.
    pub store_failures: u64,
    /// Changes that were not written as too much waited.
    pub dropped: u64,
    /// Objects that were not what their digest or signature says.
    pub wrong: u64,
}

/// Something that is being read from the store. `None` if it is not there, or the store does not answer.
pub(crate) type Reading<'a, T> = Pin<Box<dyn Future<Output = Option<T>> + Send + 'a>>;

/// Content that the store sends.
#[derive(Debug)]
pub(crate) struct StoredContent {
    /// Its bytes, from the first that was asked for.
    pub(crate) body: Body,
    /// The length of the whole.
    pub(crate) total: u64,
}

/// Content that an upstream has served, and that had its digest.
#[derive(Debug, Clone)]
pub(crate) struct ProvedContent {
    /// The kind of content.
    pub(crate) kind: Kind,
    /// Its digest.
    pub(crate) digest: Digest,
    /// The upstream's name and URL.
    pub(crate) upstream: Arc<str>,
    /// The repository that holds it, by the upstream's own name.
    pub(crate) repository: RepositoryName,
    /// The upstream's word; none where this gateway takes writes to the repository: one of them could end it.
    pub(crate) held: Option<Membership>,
}
