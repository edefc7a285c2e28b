//! Fetching of manifests: serves the held ones, asks the upstream for others, checks and records them.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use crate::cache::error::{BypassReason, CacheError};
use crate::cache::manifests::document::Document;
use crate::cache::manifests::manifest::{Manifest, ManifestHead, content_type, whole};
use crate::cache::manifests::memory::{Kept, ManifestMemory};
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::negative_cache::NegativeCache;
use crate::cache::metadata::record::{Membership, TagRecord, age};
use crate::cache::metadata::tags::{PendingTags, TagHead, life};
use crate::cache::metadata::upstream_metadata::{UpstreamMetadata, Writing};
use crate::cache::origin::gate::{Gate, Priority};
use crate::cache::origin::{OriginRequest, OriginResponse};
use crate::cache::outcome::CacheStatus;
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::clock;
use crate::config::{UpstreamCacheOptions, limits};
use crate::meaning::{Ends, Meaning};
use crate::proto::{Digest, MediaType, Reference, RepositoryName, Tag, media_type};

/// The manifests of one upstream: the held ones, and those that the upstream must be asked for.
pub(crate) struct ManifestFetcher {
    /// The upstream's name, for the log.
    upstream: Arc<str>,
    options: UpstreamCacheOptions,
    gate: Arc<Gate>,
    metadata: Arc<UpstreamMetadata>,
    memory: Arc<ManifestMemory>,
    not_found: NegativeCache,
    pending: PendingTags,
}

impl ManifestFetcher {
    /// Returns a fetcher that serves manifests from `metadata` and `memory`, and asks the upstream through `gate`.
    pub(crate) fn new(
        upstream: Arc<str>,
        options: &UpstreamCacheOptions,
        gate: Arc<Gate>,
        metadata: Arc<UpstreamMetadata>,
        memory: Arc<ManifestMemory>,
    ) -> Self {
        let not_found = NegativeCache::new(options.not_found_ttl);
        let options = options.clone();
        Self { upstream, options, gate, metadata, memory, not_found, pending: PendingTags::new() }
    }

    /// Returns the gate to the upstream.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Returns the records.
    pub(crate) fn metadata(&self) -> &UpstreamMetadata {
        &self.metadata
    }

    /// Returns how long a tag's digest is used without asking the upstream.
    pub(crate) fn life(&self, tag: &Tag) -> std::time::Duration {
        life(tag, self.options.tag_ttl)
    }

    /// Returns a manifest that is held, if the upstream has confirmed lately that the repository has it.
    pub(crate) fn believed(&self, requester: &Requester, digest: &Digest) -> Option<Manifest> {
        let held = self.metadata.ledger().held(requester.repository(), Kind::Manifest, digest)?;
        let is_young = held.age() < limits::RECORD_BELIEVED;
        is_young.then(|| self.serve(requester, digest, &held, false, CacheStatus::Hit)).flatten()
    }

    /// Returns the manifest of the record `held`, if its bytes are held. For HEAD the record alone may be enough.
    pub(crate) fn serve(
        &self,
        requester: &Requester,
        digest: &Digest,
        held: &Membership,
        head: bool,
        outcome: CacheStatus,
    ) -> Option<Manifest> {
        if let Some((kept, media_type)) = self.kept(digest, held.media_type.as_ref()) {
            return Some(Manifest::of(digest, media_type, &kept, outcome));
        }
        let (media_type, length) = held.media_type.clone().zip(held.size)?;
        // A GET that follows this HEAD must be able to fetch the manifest.
        let may_follow = outcome != CacheStatus::Stale && self.gate.held_only(requester).is_none();
        let found = Manifest { digest: digest.clone(), media_type, length, bytes: None, outcome };
        (head && may_follow && !self.is_served(digest)).then_some(found)
    }

    /// Returns the manifest `digest` and its type, if it is held, this upstream has served it, and it parses as a manifest.
    /// Its own `mediaType` takes precedence over `media_type`.
    fn kept(&self, digest: &Digest, media_type: Option<&MediaType>) -> Option<(Arc<Kept>, MediaType)> {
        if !self.metadata.ledger().served(digest) {
            return None;
        }
        let kept = self.memory.load(digest, media_type)?;
        // The document has been parsed with this type already.
        if media_type == Some(&kept.document.media_type) {
            let media_type = kept.document.media_type.clone();
            return Some((kept, media_type));
        }
        let document = Document::parse(&kept.bytes, media_type).ok()?;
        Some((kept, document.media_type))
    }

    /// Returns true if the manifest is held and this upstream has served it. Only then is the upstream's HEAD enough to serve
    /// the held bytes.
    fn is_served(&self, digest: &Digest) -> bool {
        self.memory.has(digest) && self.metadata.ledger().served(digest)
    }

    /// Checks that the upstream may have the manifest and may be asked for it. A requester that may not fetch still may ask
    /// again about a manifest that is `here`: that downloads nothing.
    ///
    /// # Errors
    /// [`CacheError::FetchForbidden`], [`CacheError::Offline`], or [`CacheError::NotFound`] if the upstream has lately
    /// answered that there is none.
    pub(crate) fn check_askable(
        &self,
        requester: &Requester,
        reference: &Reference,
        here: impl FnOnce() -> bool,
    ) -> Result<(), CacheError> {
        match self.gate.held_only(requester) {
            Some(CacheError::FetchForbidden) if here() => {}
            Some(refusal) => return Err(refusal),
            None => {}
        }
        let repository = requester.repository();
        let generation = self.metadata.generation(repository);
        match self.not_found.knows(repository, generation, reference, &requester.account()) {
            true => Err(CacheError::NotFound),
            false => Ok(()),
        }
    }

    /// Returns where a tag points, by a recent answer whose manifest has not been fetched yet.
    pub(crate) fn pending(&self, repository: &RepositoryName, tag: &Tag) -> Option<TagHead> {
        let head = self.pending.get(repository, tag)?;
        let is_young = age(head.confirmed) < self.life(tag);
        (is_young && head.generation == self.metadata.generation(repository)).then_some(head)
    }

    /// Notes where a tag points. Updates the tag's record if the manifest has come with its bytes; otherwise the answer is
    /// pending. Returns true if the repository has not been written to since `generation`, at which the upstream was asked.
    pub(crate) fn note_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        manifest: &Manifest,
        generation: Generation,
    ) -> bool {
        let Manifest { digest, media_type, length, .. } = manifest.clone();
        let head = TagHead { digest, media_type, length, confirmed: clock::wall(), generation };
        if manifest.bytes.is_some() {
            return self.point(repository, tag, &head);
        }
        let unchanged = self.metadata.generation(repository) == generation;
        if unchanged {
            self.pending.insert(repository, tag, head);
        }
        unchanged
    }

    /// Updates the record of `tag` to a manifest that has come, if that is the one to which the upstream says it points.
    pub(crate) fn arrived(&self, repository: &RepositoryName, tag: &Tag, digest: &Digest) {
        if let Some(head) = self.pending.get(repository, tag)
            && head.digest == *digest
        {
            self.point(repository, tag, &head);
        }
    }

    fn point(&self, repository: &RepositoryName, tag: &Tag, head: &TagHead) -> bool {
        let record = head.record();
        let pointed = self.metadata.point_since(head.generation, repository, tag, &record);
        if pointed {
            self.pending.remove(repository, tag);
        }
        pointed
    }

    /// Asks the upstream for the head of a manifest.
    async fn ask_head(
        &self,
        requester: &Requester,
        reference: &Reference,
        priority: Priority,
    ) -> Result<ManifestHead, CacheError> {
        let generation = self.metadata.generation(requester.repository());
        match self.gate.ask(requester, priority, OriginRequest::ManifestHead(reference.clone())).await {
            Ok(answer) => Ok(ManifestHead::of(&answer.headers, generation)),
            Err(refusal) => Err(self.refused(requester, reference, refusal, generation)),
        }
    }

    /// Asks the upstream where a tag points. The result has the manifest's bytes if they are held already, or if the HEAD
    /// was not enough and a GET followed.
    pub(crate) async fn ask_tag(
        &self,
        requester: &Requester,
        reference: &Reference,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        let found = match self.ask_head(requester, reference, priority).await {
            Ok(mut answer) => {
                let digest = answer.digest.take();
                digest.and_then(|digest| self.confirm(requester.repository(), &digest, answer))
            }
            Err(refusal) if is_about_the_form(&refusal) => None,
            Err(refusal) => return Err(refusal),
        };
        match found {
            Some(found) => Ok(found),
            None => self.ask_whole(requester, reference, priority).await,
        }
    }

    /// Asks for a manifest by its digest: by HEAD if the client sent HEAD, or if the manifest is held and the upstream must
    /// only confirm that the repository has it.
    pub(crate) async fn ask_digest(
        &self,
        requester: &Requester,
        digest: &Digest,
        head: bool,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        let reference = Reference::Digest(digest.clone());
        if head || self.is_served(digest) {
            match self.ask_head(requester, &reference, priority).await {
                Ok(answer) if !answer.denies(digest) => {
                    let found = self.confirm(requester.repository(), digest, answer);
                    if let Some(manifest) = found.filter(|found| head || found.bytes.is_some()) {
                        return Ok(manifest);
                    }
                }
                Err(refusal) if !is_about_the_form(&refusal) => return Err(refusal),
                _ => {}
            }
        }
        self.ask_whole(requester, &reference, priority).await
    }

    /// Records that the repository holds `digest`, as the upstream's HEAD confirms. Returns the manifest if it is held, or
    /// its head if type and length are known.
    fn confirm(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        answer: ManifestHead,
    ) -> Option<Manifest> {
        let before = self.metadata.ledger().held(repository, Kind::Manifest, digest);
        let media_type = answer.media_type.or_else(|| before?.media_type);
        let found = match self.kept(digest, media_type.as_ref()) {
            Some((kept, media_type)) => Manifest::of(digest, media_type, &kept, CacheStatus::Revalidated),
            // The kept bytes are no manifest of the type that the upstream names.
            None if self.is_served(digest) => return None,
            None => Manifest {
                digest: digest.clone(),
                media_type: media_type?,
                length: answer.length?,
                bytes: None,
                outcome: CacheStatus::Miss,
            },
        };
        self.record(repository, &found, answer.generation);
        Some(found)
    }

    /// Asks for a manifest by GET, and keeps it if its bytes are a manifest with the digest.
    pub(crate) async fn ask_whole(
        &self,
        requester: &Requester,
        reference: &Reference,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        let generation = self.metadata.generation(requester.repository());
        let answer = self.gate.ask(requester, priority, OriginRequest::Manifest(reference.clone())).await;
        let OriginResponse { status, headers, body } =
            answer.map_err(|refusal| self.refused(requester, reference, refusal, generation))?;
        if status != StatusCode::OK {
            return Err(CacheError::Bypass(BypassReason::StrangeStatus));
        }
        let bytes = whole(body).await?;
        let described = ManifestHead::of(&headers, generation);
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(_) => described.digest.unwrap_or_else(|| Digest::sha256_of(&bytes)),
        };
        if !digest.is_of(&bytes) {
            return Err(self.differs(requester.repository(), reference, &headers));
        }
        match Document::parse(&bytes, content_type(&headers).as_ref()) {
            Ok(document) => {
                let found = self.keep(digest, Kept { bytes, document });
                self.record(requester.repository(), &found, generation);
                Ok(found)
            }
            Err(reason) => {
                let upstream = &*self.upstream;
                tracing::debug!(upstream, %digest, %reason, "the upstream's manifest is not understood; it is not cached");
                Err(CacheError::Bypass(BypassReason::NotUnderstood))
            }
        }
    }

    /// Keeps a manifest whose digest has been verified.
    fn keep(&self, digest: Digest, kept: Kept) -> Manifest {
        self.memory.store().keep_manifest(&digest, &kept.bytes);
        self.metadata.ledger().note_served(&digest);
        let kept = self.memory.keep(&digest, kept);
        Manifest::of(&digest, kept.document.media_type.clone(), &kept, CacheStatus::Miss)
    }

    /// Keeps a manifest that has been pushed through this gateway and accepted by the upstream. If the repository was
    /// written to since `writing` began, the order of the writes is unknown, and the tag's record is removed. Bytes that do
    /// not match the digest, or are no manifest, are not kept.
    pub(crate) fn pushed(
        &self,
        writing: &Writing,
        reference: &Reference,
        digest: &Digest,
        media_type: Option<MediaType>,
        bytes: &[u8],
    ) {
        let repository = writing.repository();
        let document = Document::parse(bytes, media_type.as_ref()).ok().filter(|_| digest.is_of(bytes));
        let Some(document) = document else { return self.metadata.deleted(repository, reference) };
        let (before, generation) = self.metadata.advance(repository);
        let (size, confirmed) = (Some(bytes.len() as u64), clock::wall());
        let held = Membership { media_type: Some(document.media_type), size, confirmed };
        self.memory.store().keep_manifest(digest, bytes);
        self.metadata.ledger().note_served(digest);
        self.metadata.hold_since(generation, repository, Kind::Manifest, digest, &held);
        match reference {
            Reference::Tag(tag) if before == writing.generation() => {
                let record = TagRecord { digest: digest.clone(), confirmed };
                self.metadata.point_since(generation, repository, tag, &record);
            }
            Reference::Tag(tag) => self.metadata.ledger().forget_tag(repository, tag),
            Reference::Digest(_) => {}
        }
    }

    fn record(&self, repository: &RepositoryName, found: &Manifest, generation: Generation) {
        let held = Membership {
            media_type: Some(found.media_type.clone()),
            size: Some(found.length),
            confirmed: clock::wall(),
        };
        self.metadata.hold_since(generation, repository, Kind::Manifest, &found.digest, &held);
    }

    /// Returns the error for bytes that do not match the digest. A signed schema 1 manifest is passed on without the cache:
    /// its digest does not cover the signatures.
    fn differs(&self, repository: &RepositoryName, reference: &Reference, headers: &HeaderMap) -> CacheError {
        if content_type(headers).is_some_and(|kind| kind == *media_type::DOCKER_SCHEMA1_SIGNED) {
            return CacheError::Bypass(BypassReason::SignedSchema1);
        }
        let (upstream, repository) = (&*self.upstream, repository.as_str());
        tracing::warn!(upstream, repository, %reference, "the upstream's manifest does not have its digest; it is not served");
        CacheError::unusable("a manifest that is not what its digest says")
    }

    /// Removes the records that the upstream's refusal ends, unless the repository has been written to since `generation`, at
    /// which the upstream was asked. Returns the refusal.
    fn refused(
        &self,
        requester: &Requester,
        reference: &Reference,
        refusal: CacheError,
        generation: Generation,
    ) -> CacheError {
        let Some(meaning) = refusal.meaning() else { return refusal };
        let repository = requester.repository();
        if self.gate.ends(requester, meaning) == Ends::Entry {
            self.forget(repository, reference, generation);
        }
        if meaning == Meaning::NotFound && self.is_remembered(reference) {
            self.not_found.note(repository, generation, reference, &requester.account());
        }
        refusal
    }

    fn forget(&self, repository: &RepositoryName, reference: &Reference, generation: Generation) {
        match reference {
            Reference::Tag(tag) => {
                let forget = || {
                    self.metadata.ledger().forget_tag(repository, tag);
                    self.pending.remove(repository, tag);
                };
                self.metadata.unless_written(repository, generation, forget, || ());
            }
            Reference::Digest(digest) => {
                self.metadata.release_since(generation, repository, Kind::Manifest, digest);
            }
        }
    }

    /// Returns true if a 404 for `reference` may be remembered for `not_found_ttl`.
    fn is_remembered(&self, reference: &Reference) -> bool {
        match reference {
            Reference::Tag(tag) => life(tag, self.options.not_found_ttl) == self.options.not_found_ttl,
            Reference::Digest(_) => true,
        }
    }

    /// Updates the record of the tag that was last seen to point to a manifest, now that the manifest has come.
    pub(crate) fn target_arrived(&self, repository: &RepositoryName, digest: &Digest) {
        if let Some(tag) = self.pending.take_target(repository, digest) {
            self.arrived(repository, &tag, digest);
        }
    }
}

/// Returns true if the refusal may be due to the method HEAD, so that GET may get another answer.
fn is_about_the_form(refusal: &CacheError) -> bool {
    refusal.meaning().is_some_and(Meaning::is_about_the_form)
}
