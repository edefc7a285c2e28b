//! A question that the object store answers with content that it has, and with the upstream's word, old or new, that the
//! repository holds it.

use http::header;

use crate::cache::error::CacheError;
use crate::cache::metadata::record::{Membership, TagRecord, age};
use crate::cache::metadata::tags::life;
use crate::cache::origin::store_access::{StoreAccess, StoredBlob};
use crate::cache::origin::upstream_gate::UpstreamGate;
use crate::cache::origin::{ByteSpan, OriginRequest, OriginResponse, Priority, stored_answer};
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::config::limits;
use crate::meaning::OtherWay;
use crate::proto::{Digest, MediaType, Reference, Tag};

/// A question of a requester to the store.
#[derive(Clone, Copy)]
pub(super) struct StoreQuestion<'a> {
    pub(super) store: &'a StoreAccess,
    /// The upstream, which is asked for its word where that of the store is old.
    pub(super) upstream: &'a UpstreamGate,
    pub(super) requester: &'a Requester,
    pub(super) priority: Priority,
}

impl StoreQuestion<'_> {
    /// Returns the store's answer, and for what it knows of a tag the upstream's. `None` if the store has none.
    pub(super) async fn ask(self, request: &OriginRequest) -> Option<Result<OriginResponse, CacheError>> {
        match request {
            OriginRequest::Manifest(Reference::Digest(digest)) => self.manifest(digest).await,
            OriginRequest::ManifestHead(Reference::Digest(digest)) => self.head(Kind::Manifest, digest).await,
            OriginRequest::BlobExists(digest) | OriginRequest::BlobFirstByte(digest) => {
                self.head(Kind::Blob, digest).await
            }
            OriginRequest::ManifestHead(Reference::Tag(tag))
            | OriginRequest::Manifest(Reference::Tag(tag)) => self.tag(request, tag).await,
            // Bytes of a part would go to the client before anything proves them, and what another Accept gives is not known.
            OriginRequest::Blob { .. }
            | OriginRequest::ManifestFor(..)
            | OriginRequest::Public(_)
            | OriginRequest::Ping => None,
        }
    }

    /// Returns the answer with the blob that the store has begun to send, if the repository holds it. `None` if the bytes are to come
    /// from the upstream.
    pub(super) async fn blob(
        self,
        StoredBlob { content, word }: StoredBlob,
        digest: &Digest,
        bytes: Option<ByteSpan>,
    ) -> Option<Result<OriginResponse, CacheError>> {
        match self.confirmed(Kind::Blob, digest, word).await? {
            Ok(held) => stored_answer::of_blob(content, &held, bytes).map(Ok),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// Answers a question about a tag that the store has a record of: at once while that is young, and else if the upstream has no
    /// answer. `None` if the store has no record.
    async fn tag(self, request: &OriginRequest, tag: &Tag) -> Option<Result<OriginResponse, CacheError>> {
        let record = self.store.tag(self.requester.repository(), tag).await?;
        let ttl = life(tag, self.upstream.tag_ttl());
        if age(record.confirmed) < ttl || self.upstream.is_offline() {
            return self.tagged(request, &record, false).await.map(Ok);
        }
        // Where only what is held is wanted, the upstream may say all the same that it still is so: that downloads nothing.
        let question = match self.priority {
            Priority::Held => OriginRequest::ManifestHead(Reference::Tag(tag.clone())),
            _ => request.clone(),
        };
        let refusal = match self.upstream.ask(self.requester, self.own_priority(), question).await {
            Ok(answer) if self.priority == Priority::Held => {
                let digest = answer.headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?;
                let digest = Digest::parse(digest).ok()?;
                let record = TagRecord { digest, confirmed: answer.from.confirmed() };
                return self.tagged(request, &record, false).await.map(Ok);
            }
            Ok(answer) => return Some(Ok(answer)),
            Err(refusal) => refusal,
        };
        let may_serve = refusal.allows_stale()
            && (self.priority == Priority::Held || refusal.other_way_than_head() == OtherWay::Useless)
            && self.upstream.may_serve_stale(age(record.confirmed), ttl);
        if may_serve && let Some(answer) = self.tagged(request, &record, true).await {
            return Some(Ok(answer));
        }
        Some(Err(refusal))
    }

    /// Returns the manifest to which a tag points, or its head, if the store has it and the repository holds it.
    async fn tagged(
        self,
        request: &OriginRequest,
        record: &TagRecord,
        is_stale: bool,
    ) -> Option<OriginResponse> {
        let answer = if request.is_for_bytes() {
            self.manifest(&record.digest).await?.ok()?
        } else {
            let repository = self.requester.repository();
            stored_answer::of_word(&self.store.word(repository, Kind::Manifest, &record.digest).await?)
        };
        Some(stored_answer::by_tag(answer, record, is_stale))
    }

    /// Answers a HEAD by the word that the store has. `None` if it has none.
    async fn head(self, kind: Kind, digest: &Digest) -> Option<Result<OriginResponse, CacheError>> {
        let word = self.store.word(self.requester.repository(), kind, digest).await?;
        let held = self.confirmed(kind, digest, Some(word)).await?;
        Some(held.map(|held| stored_answer::of_word(&held)))
    }

    /// Returns a manifest of the store that the repository holds. `None` if the store has nothing for it. The upstream is not asked
    /// beside the store, however long that takes: Docker Hub counts manifests.
    async fn manifest(self, digest: &Digest) -> Option<Result<OriginResponse, CacheError>> {
        let stored = self.store.manifest(self.requester.repository(), digest).await?;
        let held = self.confirmed(Kind::Manifest, digest, stored.word).await?;
        Some(held.map(|held| stored_answer::of_manifest(stored.whole, &held)))
    }

    /// Returns the word of the upstream, which has served the same bytes, that the repository holds content of the store: the one that
    /// the store has, or what the upstream says now. `None` if the bytes are to come from there.
    async fn confirmed(
        self,
        kind: Kind,
        digest: &Digest,
        word: Option<Membership>,
    ) -> Option<Result<Membership, CacheError>> {
        let is_offline = self.upstream.is_offline();
        let old = match word {
            Some(held) if held.age() < limits::RECORD_BELIEVED || is_offline => return Some(Ok(held)),
            old => old,
        };
        // A requester that may not fetch may ask whether it is still there: that downloads nothing.
        if is_offline || (old.is_none() && !self.requester.may_fetch()) {
            return None;
        }
        let question = match kind {
            Kind::Blob if old.is_some() => OriginRequest::BlobExists(digest.clone()),
            // Refuses as a download is refused, after the same time.
            Kind::Blob => OriginRequest::BlobFirstByte(digest.clone()),
            Kind::Manifest => OriginRequest::ManifestHead(Reference::Digest(digest.clone())),
        };
        match self.upstream.ask(self.requester, self.own_priority(), question).await {
            Ok(answer) => {
                let held = confirmation(&answer, old);
                self.store.keep_word(self.requester.repository(), kind, digest, &held);
                Some(Ok(held))
            }
            Err(refusal) => {
                let may_serve =
                    |held: &Membership| self.upstream.may_serve_stale(held.age(), limits::RECORD_BELIEVED);
                match old.filter(|held| refusal.allows_stale() && may_serve(held)) {
                    Some(held) => Some(Ok(held)),
                    // A HEAD is a hint: what is asked for itself decides.
                    None if matches!(&refusal, CacheError::Origin(failure) if failure.by_head) => None,
                    None => Some(Err(refusal)),
                }
            }
        }
    }

    /// Returns the priority of the store's own questions to the upstream.
    fn own_priority(self) -> Priority {
        if self.priority == Priority::Held { Priority::Refresh } else { self.priority }
    }
}

/// Returns what an answer of the upstream says of content, with what was known of it before.
fn confirmation(answer: &OriginResponse, old: Option<Membership>) -> Membership {
    let text = answer.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let media_type = text.and_then(|text| MediaType::parse(text).ok());
    // Passes over the type of a redirect, which is not the blob's.
    let media_type = media_type.filter(|_| answer.status.is_success());
    let (old_type, size) = old.map_or((None, None), |old| (old.media_type, old.size));
    Membership { media_type: media_type.or(old_type), size, confirmed: answer.from.confirmed() }
}

const DOCKER_CONTENT_DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");
