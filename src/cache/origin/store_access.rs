//! The object store behind the disks, as it is used for one upstream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join3};

use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::origin::{ByteSpan, ProvedContent, RemoteStore, StoredContent};
use crate::cache::store::Kind;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName, Tag};

/// The object store, as it is used for one upstream.
#[derive(Clone)]
pub(crate) struct StoreAccess {
    store: Arc<dyn RemoteStore>,
    /// The upstream's name and URL, by which all replicas call it.
    upstream: Arc<str>,
    /// The upstream's word is kept there: no write through this gateway can end it.
    keeps_word: bool,
}

/// A blob that the store has begun to send, with what it knows of it.
pub(super) struct StoredBlob {
    pub(super) content: StoredContent,
    /// The upstream's word that the repository holds it; none where the upstream has served these bytes in another one.
    pub(super) word: Option<Membership>,
}

/// A manifest of the store that has its digest, with what the store knows of it.
pub(super) struct StoredManifest {
    pub(super) whole: Bytes,
    /// As that of a [`StoredBlob`].
    pub(super) word: Option<Membership>,
}

impl StoreAccess {
    /// Returns the access to `store` for the upstream that all replicas call `upstream`. With `keeps_word` no client can write to it
    /// through this gateway.
    pub(crate) fn new(store: Arc<dyn RemoteStore>, upstream: Arc<str>, keeps_word: bool) -> Self {
        Self { store, upstream, keeps_word }
    }

    /// Returns a blob, or these bytes of it. `None` if the store has not got it, or not from this upstream. All is asked at a time,
    /// whatever the first says: most often all of it is there, and how long a refusal takes must not tell what the store has.
    pub(super) async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        bytes: Option<ByteSpan>,
    ) -> Option<StoredBlob> {
        let content = self.store.content(Kind::Blob, digest, bytes);
        let word = self.word(repository, Kind::Blob, digest);
        let (content, word, served) = join3(content, word, self.store.served(&self.upstream, digest)).await;
        let content = content?;
        if word.is_none() {
            served?;
        }
        // A length that was signed tells wrong content before its digest does.
        if word.as_ref().and_then(|held| held.size).is_some_and(|size| size != content.total) {
            self.store.discard(Kind::Blob, digest);
            return None;
        }
        Some(StoredBlob { content, word })
    }

    /// Returns a manifest. `None` if the store has not got it, or not from this upstream.
    pub(super) async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<StoredManifest> {
        let content = self.store.content(Kind::Manifest, digest, None);
        let (content, word) = join(content, self.word(repository, Kind::Manifest, digest)).await;
        let whole = content?.body.whole(limits::MANIFEST_BYTES, limits::HELD_BODY_DEADLINE).await.ok()?;
        if !digest.is_of(&whole) {
            self.store.discard(Kind::Manifest, digest);
            return None;
        }
        if word.is_none() {
            self.store.served(&self.upstream, digest).await?;
        }
        Some(StoredManifest { whole, word })
    }

    /// Returns the length of a blob, if the store has it and says so in time.
    pub(super) async fn blob_length(&self, digest: &Digest) -> Option<u64> {
        let length = self.store.length(Kind::Blob, digest);
        tokio::time::timeout(self.hedge(), length).await.ok().flatten()
    }

    /// Returns the upstream's word, as the store has it, that the repository holds content.
    pub(super) async fn word(
        &self,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
    ) -> Option<Membership> {
        if !self.keeps_word {
            return None;
        }
        self.store.held(&self.upstream, repository, kind, digest).await
    }

    /// Returns where a tag points, as the store has it. A HEAD of the upstream costs nothing, so that no longer is waited than for a
    /// blob.
    pub(super) async fn tag(&self, repository: &RepositoryName, tag: &Tag) -> Option<TagRecord> {
        if !self.keeps_word {
            return None;
        }
        let reading = self.store.tag(&self.upstream, repository, tag);
        tokio::time::timeout(self.hedge(), reading).await.ok().flatten()
    }

    /// Has content stored that the upstream has served, and that has its digest.
    pub(crate) fn keep_proved(
        &self,
        kind: Kind,
        digest: &Digest,
        repository: &RepositoryName,
        held: Option<Membership>,
    ) {
        self.store.keep(ProvedContent {
            kind,
            digest: digest.clone(),
            upstream: self.upstream.clone(),
            repository: repository.clone(),
            held: held.filter(|_| self.keeps_word),
        });
    }

    /// Has the store note that the upstream says once more that a repository holds content of the store.
    pub(super) fn keep_word(
        &self,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
        held: &Membership,
    ) {
        if self.keeps_word {
            self.store.keep_word(&self.upstream, repository, kind, digest, held);
        }
    }

    /// Has the store note where a tag points, by the upstream's word.
    pub(crate) fn keep_tag(&self, repository: &RepositoryName, tag: &Tag, record: &TagRecord) {
        if self.keeps_word {
            self.store.keep_tag(&self.upstream, repository, tag, record);
        }
    }

    /// Has the store forget that a repository holds content.
    pub(crate) fn forget(&self, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        self.store.forget(&self.upstream, repository, kind, digest);
    }

    /// Has the store forget where a tag points.
    pub(crate) fn forget_tag(&self, repository: &RepositoryName, tag: &Tag) {
        self.store.forget_tag(&self.upstream, repository, tag);
    }

    /// Has a blob removed from the store that was not what its digest says.
    pub(crate) fn discard_blob(&self, digest: &Digest) {
        self.store.discard(Kind::Blob, digest);
    }

    /// Returns the time after which the upstream is asked too for a blob that the store has not begun to send.
    pub(super) fn hedge(&self) -> Duration {
        self.store.hedge()
    }

    /// Counts that the upstream was asked beside the store, and whether its answer was the first.
    pub(super) fn count_hedge(&self, upstream_was_first: bool) {
        self.store.count_hedge(upstream_was_first);
    }
}
