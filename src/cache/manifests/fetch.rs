//! Fetching of manifests: serves the held ones, asks the upstream for others, checks and records them.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderValue;

use crate::budget::{Lease, Spent};
use crate::cache::error::CacheError;
use crate::cache::manifests::document::Document;
use crate::cache::manifests::manifest::{Manifest, ManifestHead, content_type, named_digest};
use crate::cache::manifests::memory::{Kept, ManifestMemory};
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::negative_cache::NegativeCache;
use crate::cache::metadata::record::{Membership, TagRecord, age};
use crate::cache::metadata::tags::{PendingTags, TagHead, life};
use crate::cache::metadata::upstream_metadata::{UpstreamMetadata, Writing};
use crate::cache::origin::gate::Gate;
use crate::cache::origin::{OriginRequest, OriginResponse, Priority, Provenance};
use crate::cache::outcome::CacheStatus;
use crate::cache::requester::Requester;
use crate::cache::store::{Kind, disk_pool};
use crate::clock;
use crate::config::{UpstreamCacheOptions, limits};
use crate::meaning::{Ends, Meaning, OtherWay};
use crate::proto::{Digest, ErrorCode, Family, MediaType, Reference, RepositoryName, Tag, media_type};

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

    /// Returns what `look` finds of a manifest of `size`: in memory, else on the disk. Where neither that nor the turn of the
    /// requester's client comes in time, what memory has counts.
    pub(crate) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        requester: &Requester,
        size: Option<u64>,
        look: impl Fn(&Self) -> T + Send + 'static,
    ) -> T {
        let (found, missed) = disk_pool::in_memory(|| look(self));
        if !missed {
            return found;
        }
        let Ok(turn) = self.turn(requester, size).await else { return found };
        let this = self.clone();
        let look = move || {
            // The turn lasts as long as this, also where no client waits for it any more.
            let _turn = &turn;
            look(&this)
        };
        // Another may have read it meanwhile.
        self.metadata.disk().look("reading a manifest", look).await
    }

    /// Waits until it is the turn of the requester's client to read a large manifest.
    pub(crate) async fn turn(
        &self,
        requester: &Requester,
        size: Option<u64>,
    ) -> Result<Option<Lease>, Spent> {
        match size {
            Some(size) if size > limits::LARGE_MANIFEST_BYTES => {
                self.memory.reads().take(requester.client(), 1).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Returns how long a tag's digest is used without asking the upstream.
    pub(crate) fn life(&self, tag: &Tag) -> std::time::Duration {
        life(tag, self.options.tag_ttl)
    }

    /// Returns a manifest that is held, if the upstream has confirmed lately that the repository has it.
    pub(crate) async fn believed(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
    ) -> Option<Manifest> {
        let held = self.metadata.ledger().held(requester.repository(), Kind::Manifest, digest);
        let (own, digest) = (requester.clone(), digest.clone());
        let believed = move |this: &Self| {
            let held = this.metadata.ledger().held(own.repository(), Kind::Manifest, &digest)?;
            let is_young = held.age() < limits::RECORD_BELIEVED;
            is_young.then(|| this.serve(&own, &digest, &held, false, CacheStatus::Hit)).flatten()
        };
        self.look(requester, held.and_then(|held| held.size), believed).await
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
            return Some(Manifest::of(digest, media_type, &kept, outcome, held.confirmed));
        }
        let ((media_type, length), confirmed) = (held.media_type.clone().zip(held.size)?, held.confirmed);
        // A GET that follows this HEAD must be able to fetch the manifest.
        let may_follow = outcome != CacheStatus::Stale && self.gate.upstream().held_only(requester).is_none();
        let found = Manifest { digest: digest.clone(), media_type, length, bytes: None, outcome, confirmed };
        (head && may_follow && !self.is_served(digest)).then_some(found)
    }

    /// Returns the manifest `digest`, if it is here and this upstream has served it; and its type where it is called
    /// `media_type`: its own word goes before that.
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
        let document = Document::read(&kept.bytes, media_type);
        Some((kept, document.media_type))
    }

    /// Returns true if this upstream has served what is here: its word that a repository holds it is enough only then.
    pub(crate) fn is_served(&self, digest: &Digest) -> bool {
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
        here: bool,
    ) -> Result<(), CacheError> {
        match self.gate.upstream().held_only(requester) {
            Some(CacheError::FetchForbidden) if here => {}
            Some(refusal) => return Err(refusal),
            None => {}
        }
        let repository = requester.repository();
        let generation = self.metadata.generation(repository);
        match self.not_found.knows(repository, generation, reference, &requester.account()) {
            Some(code) => Err(CacheError::NotFound(code)),
            None => Ok(()),
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
        let Manifest { digest, media_type, length, confirmed, .. } = manifest.clone();
        let head = TagHead { digest, media_type, length, confirmed, generation };
        if manifest.bytes.is_some() && self.is_served(&manifest.digest) {
            return self.point(repository, tag, &head);
        }
        let unchanged = self.metadata.generation(repository) == generation;
        if unchanged && !self.is_older(repository, tag, confirmed) {
            self.pending.insert(repository, tag, head);
        }
        unchanged
    }

    /// Returns true if the tag's record was confirmed after `confirmed`. Another replica may tell of an earlier time.
    fn is_older(&self, repository: &RepositoryName, tag: &Tag, confirmed: SystemTime) -> bool {
        // What lies in the future was written before the clock was set back.
        self.recorded(repository, tag).is_some_and(|record| record.confirmed.min(clock::wall()) > confirmed)
    }

    /// Returns the record of a tag, if it is in memory: a pull has looked it up before.
    fn recorded(&self, repository: &RepositoryName, tag: &Tag) -> Option<TagRecord> {
        disk_pool::in_memory(|| self.metadata.ledger().tag(repository, tag)).0
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
        if self.is_older(repository, tag, head.confirmed) {
            return self.metadata.generation(repository) == head.generation;
        }
        let record = head.record();
        let pointed = self.metadata.point_since(head.generation, repository, tag, &record);
        if pointed {
            self.pending.remove(repository, tag);
            if let Some(store) = self.gate.store() {
                store.keep_tag(repository, tag, &record);
            }
        }
        pointed
    }

    /// Asks for the head of a manifest: the upstream's word on it. A no ends nothing: it is a hint, and GET decides.
    async fn ask_head(
        &self,
        requester: &Requester,
        reference: &Reference,
        priority: Priority,
    ) -> Result<ManifestHead, CacheError> {
        let generation = self.metadata.generation(requester.repository());
        let request = OriginRequest::ManifestHead(reference.clone());
        let answer = self.ask_any(requester, reference, priority, request).await?;
        Ok(ManifestHead::of(&answer.headers, answer.from, generation))
    }

    /// Asks the other replicas and the upstream; the upstream itself where a replica's word is older than what is known here.
    async fn ask_any(
        &self,
        requester: &Requester,
        reference: &Reference,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        let answer = self.gate.ask(requester, priority, request.clone()).await;
        if priority != Priority::Held && self.is_outdated(requester.repository(), reference, &answer) {
            return self.gate.upstream().ask(requester, priority, request).await;
        }
        answer
    }

    /// Returns true if a replica gives an answer that was confirmed before the record of the tag that is here, or says that there is
    /// nothing of which there is a record here: it may not have heard of a write, and remember what that has ended.
    fn is_outdated(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        answer: &Result<OriginResponse, CacheError>,
    ) -> bool {
        match (answer, reference) {
            (Ok(answer), Reference::Tag(tag)) => {
                answer.from.is_replica() && self.is_older(repository, tag, answer.from.confirmed())
            }
            (Ok(_), Reference::Digest(_)) => false,
            (Err(refusal), reference)
                if refusal.is_told() && refusal.meaning() == Some(Meaning::NotFound) =>
            {
                match reference {
                    Reference::Tag(tag) => self.recorded(repository, tag).is_some(),
                    Reference::Digest(digest) => {
                        let held = || self.metadata.ledger().held(repository, Kind::Manifest, digest);
                        disk_pool::in_memory(held).0.is_some()
                    }
                }
            }
            (Err(_), _) => false,
        }
    }

    /// Asks the upstream where a tag points. The result has the manifest's bytes if they are held already, or if the HEAD
    /// was not enough and a GET followed.
    pub(crate) async fn ask_tag(
        self: &Arc<Self>,
        requester: &Requester,
        reference: &Reference,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        let found = match self.ask_head(requester, reference, priority).await {
            Ok(mut answer) => match answer.digest.take() {
                Some(digest) => self.confirm(requester, &digest, answer).await,
                None => None,
            },
            Err(refusal) if is_last_word(requester, &refusal, true) => return Err(refusal),
            Err(_) => None,
        };
        match found {
            Some(found) => Ok(found),
            None => self.ask_whole(requester, reference, priority).await,
        }
    }

    /// Asks for a manifest by its digest: by HEAD if the client sent HEAD, or if the manifest is held and the upstream must
    /// only confirm that the repository has it.
    pub(crate) async fn ask_digest(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        head: bool,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        let reference = Reference::Digest(digest.clone());
        let own = digest.clone();
        if head || self.look(requester, None, move |this| this.is_served(&own)).await {
            match self.ask_head(requester, &reference, priority).await {
                Ok(answer) if !answer.denies(digest) => {
                    let found = self.confirm(requester, digest, answer).await;
                    if let Some(manifest) = found.filter(|found| head || found.bytes.is_some()) {
                        return Ok(manifest);
                    }
                }
                Err(refusal) if is_last_word(requester, &refusal, head) => return Err(refusal),
                _ => {}
            }
        }
        self.ask_whole(requester, &reference, priority).await
    }

    /// Records that the repository holds `digest`, as the upstream's HEAD confirms. Returns the manifest if it is held, or
    /// its head if type and length are known.
    async fn confirm(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        answer: ManifestHead,
    ) -> Option<Manifest> {
        let ManifestHead { media_type, length, generation, from, digest: _ } = answer;
        let repository = requester.repository();
        let (name, digest) = (repository.clone(), digest.clone());
        let confirmed = move |this: &Self| this.confirmed(&name, &digest, media_type.clone(), length, from);
        let found = self.look(requester, length, confirmed).await?;
        self.record(repository, &found, generation);
        Some(found)
    }

    /// Returns the manifest of which the upstream's HEAD gave this type and length.
    fn confirmed(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        media_type: Option<MediaType>,
        length: Option<u64>,
        from: Provenance,
    ) -> Option<Manifest> {
        let before = self.metadata.ledger().held(repository, Kind::Manifest, digest);
        let media_type = media_type.or_else(|| before?.media_type);
        match self.kept(digest, media_type.as_ref()) {
            Some((kept, media_type)) => {
                let outcome = came(from, CacheStatus::Revalidated);
                Some(Manifest::of(digest, media_type, &kept, outcome, from.confirmed()))
            }
            None => Some(Manifest {
                digest: digest.clone(),
                media_type: media_type?,
                length: length?,
                bytes: None,
                outcome: came(from, CacheStatus::Miss),
                confirmed: from.confirmed(),
            }),
        }
    }

    /// Asks for a manifest whole, and keeps it.
    pub(crate) async fn ask_whole(
        &self,
        requester: &Requester,
        reference: &Reference,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        self.fetch(requester, reference, OriginRequest::Manifest(reference.clone()), priority).await
    }

    /// Asks for a manifest whole, with the `Accept` of a client, and keeps it.
    pub(crate) async fn ask_for(
        &self,
        requester: &Requester,
        reference: &Reference,
        accept: HeaderValue,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        let request = OriginRequest::ManifestFor(reference.clone(), accept);
        self.fetch(requester, reference, request, priority).await
    }

    async fn fetch(
        &self,
        requester: &Requester,
        reference: &Reference,
        request: OriginRequest,
        priority: Priority,
    ) -> Result<Manifest, CacheError> {
        let generation = self.metadata.generation(requester.repository());
        let mut answer = self.ask_any(requester, reference, priority, request.clone()).await;
        let come = loop {
            let response =
                answer.map_err(|refusal| self.refused(requester, reference, refusal, generation))?;
            let is_told = response.from.is_replica();
            match Come::whole(response, reference).await {
                Ok(come) if !is_told || come.is_right() => break come,
                Ok(wrong) => self.gate.distrust(&wrong.digest),
                Err(failure) if !is_told => return Err(failure),
                // The answer of another replica broke off.
                Err(_) => {}
            }
            if priority == Priority::Held {
                return Err(CacheError::unusable("no whole manifest"));
            }
            answer = self.gate.upstream().ask(requester, priority, request.clone()).await;
        };
        if !come.digest.is_of(&come.bytes) {
            return self.unproved(requester.repository(), come);
        }
        let Come { digest, called, bytes, from } = come;
        let document = Document::read(&bytes, called.as_ref());
        let found = self.keep(digest, Kept { bytes, document }, from);
        let held = self.record(requester.repository(), &found, generation);
        if let Some(store) = self.gate.store().filter(|_| from.is_upstream()) {
            store.keep_proved(Kind::Manifest, &found.digest, requester.repository(), Some(held));
        }
        Ok(found)
    }

    /// Returns bytes that are not what the digest says, if that is so by right: the digest of a signed schema 1 does not cover
    /// its signatures. It is not kept.
    fn unproved(&self, repository: &RepositoryName, come: Come) -> Result<Manifest, CacheError> {
        let Come { digest, called, bytes, from } = come;
        if Family::of(&bytes) != Some(Family::SignedSchema1) {
            let (upstream, repository) = (&*self.upstream, repository.as_str());
            tracing::warn!(upstream, repository, %digest, "the upstream's manifest does not have its digest; it is not served");
            return Err(CacheError::unusable("a manifest that is not what its digest says"));
        }
        let signed = || MediaType::parse(media_type::DOCKER_SCHEMA1_SIGNED).ok();
        let media_type = called.filter(MediaType::is_manifest).or_else(signed);
        let media_type = media_type.unwrap_or_else(MediaType::unknown);
        let (length, outcome) = (bytes.len() as u64, came(from, CacheStatus::Miss));
        let confirmed = from.confirmed();
        Ok(Manifest { digest, media_type, length, bytes: Some(bytes), outcome, confirmed })
    }

    /// Keeps a manifest whose digest has been verified.
    fn keep(&self, digest: Digest, kept: Kept, from: Provenance) -> Manifest {
        self.memory.store().keep_manifest(&digest, &kept.bytes);
        self.metadata.ledger().note_served(&digest);
        let kept = self.memory.keep(&digest, kept);
        let (media_type, outcome) = (kept.document.media_type.clone(), came(from, CacheStatus::Miss));
        Manifest::of(&digest, media_type, &kept, outcome, from.confirmed())
    }

    /// Keeps a manifest that has been pushed through this gateway, and that the upstream has taken. Where something else was
    /// written there since `writing` began, nothing tells which came last, and the tag is asked for again. Bytes without the
    /// digest, or that are no manifest, are not kept. Each of `further_tags` comes with whether the upstream says that it
    /// points there now.
    pub(crate) fn pushed(
        &self,
        writing: &Writing,
        reference: &Reference,
        further_tags: &[(Tag, bool)],
        digest: &Digest,
        media_type: Option<MediaType>,
        bytes: &Bytes,
    ) {
        let repository = writing.repository();
        let document = Document::parse(bytes, media_type.as_ref()).ok().filter(|_| digest.is_of(bytes));
        let further = || further_tags.iter().map(|(tag, _)| Reference::Tag(tag.clone()));
        let Some(document) = document else {
            further().chain([reference.clone()]).for_each(|name| self.metadata.deleted(repository, &name));
            return;
        };
        let (before, generation) = self.metadata.advance(repository);
        let (size, confirmed) = (Some(bytes.len() as u64), clock::wall());
        let held = Membership { media_type: Some(document.media_type), size, confirmed };
        self.memory.store().keep_manifest(digest, bytes);
        self.metadata.ledger().note_served(digest);
        if let Some(store) = self.gate.store() {
            store.keep_proved(Kind::Manifest, digest, repository, None);
        }
        self.metadata.hold_since(generation, repository, Kind::Manifest, digest, &held);
        let own = match reference {
            Reference::Tag(tag) => Some((tag, true)),
            Reference::Digest(_) => None,
        };
        for (tag, moved) in own.into_iter().chain(further_tags.iter().map(|(tag, moved)| (tag, *moved))) {
            if moved && before == writing.generation() {
                let record = TagRecord { digest: digest.clone(), confirmed };
                self.metadata.point_since(generation, repository, tag, &record);
            } else {
                self.metadata.ledger().forget_tag(repository, tag);
            }
        }
    }

    fn record(&self, repository: &RepositoryName, found: &Manifest, generation: Generation) -> Membership {
        let held = Membership {
            media_type: Some(found.media_type.clone()),
            size: Some(found.length),
            confirmed: found.confirmed,
        };
        self.metadata.hold_since(generation, repository, Kind::Manifest, &found.digest, &held);
        held
    }

    /// Forgets what the upstream's refusal ends, unless the repository has been written to since it was asked, at
    /// `generation`, and hands the refusal on. That there is no such manifest is not believed yet: see
    /// [`missing`](Self::missing).
    fn refused(
        &self,
        requester: &Requester,
        reference: &Reference,
        refusal: CacheError,
        generation: Generation,
    ) -> CacheError {
        let ends =
            refusal.meaning().map_or(Ends::Nothing, |meaning| self.gate.upstream().ends(requester, meaning));
        if ends == Ends::Entry && refusal.meaning() != Some(Meaning::NotFound) {
            self.forget(requester.repository(), reference, generation);
        }
        refusal
    }

    /// Notes that there is no such manifest, by `refusal`, unless the repository has been written to since the upstream was
    /// asked, at `generation`.
    pub(crate) fn missing(
        &self,
        requester: &Requester,
        reference: &Reference,
        refusal: &CacheError,
        generation: Generation,
    ) {
        let repository = requester.repository();
        let is_told = refusal.is_told();
        // A replica may remember what a push has ended since.
        if self.gate.upstream().ends(requester, Meaning::NotFound) == Ends::Entry && !is_told {
            self.forget(repository, reference, generation);
        }
        // The replica that was told so remembers it: twice remembered, it would last twice as long.
        if self.is_remembered(reference) && !is_told {
            let code = match refusal {
                CacheError::Origin(failure) => failure.code(),
                _ => None,
            };
            let code = code.unwrap_or(ErrorCode::ManifestUnknown);
            self.not_found.note(repository, generation, reference, &requester.account(), code);
        }
    }

    fn forget(&self, repository: &RepositoryName, reference: &Reference, generation: Generation) {
        match reference {
            Reference::Tag(tag) => {
                let forget = || {
                    self.metadata.ledger().forget_tag(repository, tag);
                    self.pending.remove(repository, tag);
                };
                self.metadata.unless_written(repository, generation, forget, || ());
                if let Some(store) = self.gate.store() {
                    store.forget_tag(repository, tag);
                }
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

/// A manifest that has come whole.
struct Come {
    /// Its digest, by what was asked for, or by the answer.
    digest: Digest,
    /// The type by which the answer calls it.
    called: Option<MediaType>,
    bytes: Bytes,
    from: Provenance,
}

impl Come {
    /// Reads an answer to the question for `reference`.
    async fn whole(answer: OriginResponse, reference: &Reference) -> Result<Self, CacheError> {
        let OriginResponse { headers, body, from, .. } = answer;
        let bytes = body.whole(limits::MANIFEST_BYTES, limits::HELD_BODY_DEADLINE).await;
        let bytes = bytes.map_err(|_| CacheError::unusable("a manifest that did not come whole"))?;
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(_) => named_digest(&headers).unwrap_or_else(|| Digest::sha256_of(&bytes)),
        };
        Ok(Self { digest, called: content_type(&headers), bytes, from })
    }

    /// Returns true if the bytes have the digest, or need not by right.
    fn is_right(&self) -> bool {
        self.digest.is_of(&self.bytes) || Family::of(&self.bytes) == Some(Family::SignedSchema1)
    }
}

/// Returns the cache's part in an answer that would be `outcome` if the upstream itself had given it.
fn came(from: Provenance, outcome: CacheStatus) -> CacheStatus {
    match (from, outcome) {
        (from, _) if from.is_stale() => CacheStatus::Stale,
        (Provenance::Replica { .. }, CacheStatus::Miss) => CacheStatus::Peer,
        (Provenance::Store { .. }, CacheStatus::Miss) => CacheStatus::Store,
        (Provenance::Replica { .. } | Provenance::Store { .. } | Provenance::Upstream, outcome) => outcome,
    }
}

/// Returns true if GET need not be asked after a HEAD that was refused: it would be refused as well, or a head alone is
/// wanted, which may be answered by the no to a HEAD, or the requester may not fetch.
fn is_last_word(requester: &Requester, refusal: &CacheError, head: bool) -> bool {
    match refusal.other_way_than_head() {
        OtherWay::Useless => true,
        OtherWay::ForContent => head || !requester.may_fetch(),
        OtherWay::Always => !requester.may_fetch() && refusal.allows_stale(),
    }
}
