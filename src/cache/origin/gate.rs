//! The gate to one upstream: decides whether the upstream may be asked, asks it, and learns from its answers.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join3};
use http::header;
use parking_lot::Mutex;

use crate::cache::error::CacheError;
use crate::cache::metadata::grants::Grants;
use crate::cache::metadata::record::{Membership, TagRecord, age};
use crate::cache::metadata::tags::life;
use crate::cache::origin::breaker::{Breaker, BreakerState};
use crate::cache::origin::rate_limit::RateLimitPauses;
use crate::cache::origin::{
    ByteSpan, Fleet, FleetQuestion, OriginRequest, OriginResponse, ProvedContent, RemoteStore, Resource,
    StoredContent, stored_answer,
};
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::clock;
use crate::config::{PullAuthorization, UpstreamCacheOptions, limits};
use crate::meaning::{Ends, Meaning, OtherWay, UpstreamFailure};
use crate::proto::{Digest, MediaType, Reference, RepositoryName, Tag};

/// The importance of a request to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// No held content can serve: sent even while the upstream limits the account's rate.
    Required,
    /// Held content can serve if the upstream is not asked.
    Refresh,
    /// No client waits for it.
    Background,
    /// The check of the requester's right to read. Sent even while the breaker is open, until the probe has had no answer
    /// either: a requester must not extend an old grant by making the breaker open.
    Authorization,
    /// Only what another replica of this gateway holds is wanted: the upstream is not asked.
    Held,
}

/// The gate to one upstream.
pub(crate) struct Gate {
    /// The upstream's name, for the log.
    upstream: Arc<str>,
    /// The other replicas of this gateway, and the upstream's name among them; none if this one is alone.
    fleet: Option<(Arc<dyn Fleet>, Arc<str>)>,
    /// How long a replica may take until it answers.
    patience: Duration,
    /// The object store behind the disks, if there is one.
    store: Option<StoreAccess>,
    options: UpstreamCacheOptions,
    breaker: Arc<Breaker>,
    rate_limits: RateLimitPauses,
    grants: Arc<Grants>,
    /// A client has waited for `stale_after` in vain, and nothing was answered since.
    is_silent: AtomicBool,
    /// The cause of the last failure of the registry.
    last_failure: Mutex<Option<Arc<str>>>,
    /// When it was logged last that stale content serves.
    stale_logged: Mutex<Option<Instant>>,
}

/// The object store, as it is used for one upstream.
#[derive(Clone)]
struct StoreAccess {
    store: Arc<dyn RemoteStore>,
    /// The upstream's name and URL, by which all replicas call it.
    upstream: Arc<str>,
    /// The upstream's word is kept there: no write through this gateway can end it.
    keeps_word: bool,
}

impl Gate {
    /// Returns the gate to the upstream called `upstream`. A denial ends the requester's grant in `grants`.
    pub(crate) fn new(upstream: Arc<str>, options: &UpstreamCacheOptions, grants: Arc<Grants>) -> Self {
        let breaker = Arc::new(Breaker::new(upstream.clone()));
        Self {
            upstream,
            fleet: None,
            patience: Duration::ZERO,
            store: None,
            options: options.clone(),
            breaker,
            rate_limits: RateLimitPauses::default(),
            grants,
            is_silent: AtomicBool::new(false),
            last_failure: Mutex::new(None),
            stale_logged: Mutex::new(None),
        }
    }

    /// Returns the same gate, which asks `fleet` first. `name` is what all replicas call the upstream, which may have one wait for
    /// `patience`.
    pub(crate) fn with_fleet(
        self,
        fleet: Option<Arc<dyn Fleet>>,
        name: Arc<str>,
        patience: Duration,
    ) -> Self {
        Self { fleet: fleet.map(|fleet| (fleet, name)), patience, ..self }
    }

    /// Returns the same gate, which has content from `store` as well. `name` is what all replicas call the upstream. With
    /// `is_read_only` no client can write to it through this gateway.
    pub(crate) fn with_store(
        self,
        store: Option<Arc<dyn RemoteStore>>,
        name: Arc<str>,
        is_read_only: bool,
    ) -> Self {
        let access = |store| StoreAccess { store, upstream: name, keeps_word: is_read_only };
        Self { store: store.map(access), ..self }
    }

    /// Returns the other replicas of this gateway, and the upstream's name among them.
    pub(crate) fn fleet(&self) -> Option<&(Arc<dyn Fleet>, Arc<str>)> {
        self.fleet.as_ref()
    }

    /// Returns true if others than the upstream may be asked for the requester: other replicas, or the store.
    pub(crate) fn has_others(&self, requester: &Requester) -> bool {
        (self.fleet.is_some() && !requester.is_replica())
            || self.readable_store(requester, Priority::Held).is_some()
    }

    /// Notes that content does not have its digest: if other replicas have sent it, they are not asked for it for a while.
    pub(crate) fn distrust(&self, digest: &Digest) {
        if let Some((fleet, upstream)) = &self.fleet {
            fleet.clone().distrust(upstream, digest);
        }
    }

    /// Asks the other replicas of this gateway, then the store, and the upstream if none of them has an answer, or a stale one. What may
    /// be asked of the upstream says [`ask_upstream`](Self::ask_upstream).
    ///
    /// # Errors
    /// As there. The registry's word that a replica hands on is [`CacheError::Origin`] too.
    pub(crate) async fn ask(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if self.fleet.is_some()
            && let Some(answer) = self.ask_fleet(requester, priority, &request).await
        {
            return match answer {
                Ok(stale) if stale.from.is_stale() && priority != Priority::Held => {
                    self.ask_behind(stale, requester, priority, request).await
                }
                answer => answer,
            };
        }
        if let Some(access) = self.readable_store(requester, priority)
            && let Some(answer) = Box::pin(self.ask_store(access, requester, priority, &request)).await
        {
            return answer;
        }
        self.ask_behind_others(requester, priority, request).await
    }

    /// Asks as [`ask`](Self::ask) does, for a blob that is proved by its digest once it has come whole: the store is asked before
    /// the upstream, and while it has not begun to send in time, the upstream too. The first that does is the answer.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn ask_beside_store(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if self.fleet.is_some()
            && let Some(answer) = self.ask_fleet(requester, priority, &request).await
        {
            return answer;
        }
        let (Some(access), OriginRequest::Blob { digest, bytes, .. }) =
            (self.readable_store(requester, priority), &request)
        else {
            return self.ask_behind_others(requester, priority, request).await;
        };
        let hedge = access.store.hedge();
        let (digest, bytes) = (digest.clone(), *bytes);
        let reading = self.read_store(access, requester, &digest, bytes);
        tokio::pin!(reading);
        let begun = tokio::time::timeout(hedge, &mut reading).await;
        if let Ok(read) = begun {
            let stored = self.blob_of(access, requester, priority, &digest, bytes, read).await;
            return match stored {
                Some(answer) => answer,
                None => self.ask_behind_others(requester, priority, request).await,
            };
        }
        let stored = async {
            let read = reading.await;
            self.blob_of(access, requester, priority, &digest, bytes, read).await
        };
        let asked = self.ask_behind_others(requester, priority, request);
        tokio::pin!(stored, asked);
        let (answer, upstream_was_first) = tokio::select! {
            biased;
            stored = &mut stored => match stored {
                Some(Ok(answer)) => (Ok(answer), false),
                Some(Err(_)) | None => (asked.await, true),
            },
            answer = &mut asked => match answer {
                Ok(answer) => (Ok(answer), true),
                Err(refusal) => match stored.await {
                    Some(Ok(answer)) => (Ok(answer), false),
                    Some(Err(_)) | None => (Err(refusal), true),
                },
            },
        };
        access.store.count_hedge(upstream_was_first);
        answer
    }

    /// Asks the upstream, unless only what others hold is wanted.
    async fn ask_behind_others(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        match priority {
            Priority::Held => Err(self.held_only(requester).unwrap_or(CacheError::FetchForbidden)),
            _ => self.ask_upstream(requester, priority, request).await,
        }
    }

    /// Asks the upstream, which another replica could not ask: it gave a `stale` answer, which serves if this one cannot either.
    async fn ask_behind(
        &self,
        stale: OriginResponse,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if self.is_silent.load(Ordering::Relaxed) || self.refrains(requester).is_some() {
            return Ok(stale);
        }
        match self.patiently(self.ask_upstream(requester, priority, request)).await {
            Err(refusal) if refusal.allows_stale() => Ok(stale),
            result => result,
        }
    }

    /// Returns the store, if it may be read for the requester. Another replica that wants what is held here reads the store itself,
    /// and a check of rights is the upstream's.
    fn readable_store(&self, requester: &Requester, priority: Priority) -> Option<&StoreAccess> {
        let may_read = !requester.is_for_held_content() && priority != Priority::Authorization;
        self.store.as_ref().filter(|_| may_read)
    }

    /// Returns the length of a blob that the store has, if it may be read for the requester.
    pub(crate) async fn stored_length(&self, requester: &Requester, digest: &Digest) -> Option<u64> {
        let access = self.readable_store(requester, Priority::Required)?;
        let length = access.store.length(Kind::Blob, digest);
        tokio::time::timeout(access.store.hedge(), length).await.ok().flatten()
    }

    /// Returns the store's answer, and for what it knows of a tag the upstream's. `None` if the store has none.
    async fn ask_store(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        priority: Priority,
        request: &OriginRequest,
    ) -> Option<Result<OriginResponse, CacheError>> {
        match request {
            OriginRequest::Manifest(Reference::Digest(digest)) => {
                self.manifest_from_store(access, requester, priority, digest).await
            }
            OriginRequest::ManifestHead(Reference::Digest(digest)) => {
                self.head_from_store(access, requester, priority, Kind::Manifest, digest).await
            }
            OriginRequest::BlobExists(digest) | OriginRequest::BlobFirstByte(digest) => {
                self.head_from_store(access, requester, priority, Kind::Blob, digest).await
            }
            OriginRequest::ManifestHead(Reference::Tag(tag))
            | OriginRequest::Manifest(Reference::Tag(tag)) => {
                self.tag_from_store(access, requester, priority, request, tag).await
            }
            // Bytes of a part would go to the client before anything proves them, and what another Accept gives is not known.
            OriginRequest::Blob { .. }
            | OriginRequest::ManifestFor(..)
            | OriginRequest::Public(_)
            | OriginRequest::Ping => None,
        }
    }

    /// Answers a question about a tag that the store has a record of: at once while that is young, and else if the upstream has no
    /// answer. `None` if the store has no record.
    async fn tag_from_store(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        priority: Priority,
        request: &OriginRequest,
        tag: &Tag,
    ) -> Option<Result<OriginResponse, CacheError>> {
        if !access.keeps_word {
            return None;
        }
        let reading = access.store.tag(&access.upstream, requester.repository(), tag);
        // A HEAD of the upstream costs nothing, so that no longer is waited than for a blob.
        let record = tokio::time::timeout(access.store.hedge(), reading).await.ok().flatten()?;
        let ttl = life(tag, self.options.tag_ttl);
        if age(record.confirmed) < ttl || self.options.offline {
            return self.tagged(access, requester, priority, request, &record, false).await.map(Ok);
        }
        // Where only what is held is wanted, the upstream may say all the same that it still is so: that downloads nothing.
        let question = match priority {
            Priority::Held => OriginRequest::ManifestHead(Reference::Tag(tag.clone())),
            _ => request.clone(),
        };
        let own = if priority == Priority::Held { Priority::Refresh } else { priority };
        let refusal = match self.ask_upstream(requester, own, question).await {
            Ok(answer) if priority == Priority::Held => {
                let digest = answer.headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?;
                let digest = Digest::parse(digest).ok()?;
                let record = TagRecord { digest, confirmed: answer.from.confirmed() };
                return self.tagged(access, requester, priority, request, &record, false).await.map(Ok);
            }
            Ok(answer) => return Some(Ok(answer)),
            Err(refusal) => refusal,
        };
        let may_serve = refusal.allows_stale()
            && (priority == Priority::Held || refusal.other_way_than_head() == OtherWay::Useless)
            && self.may_serve_stale(age(record.confirmed), ttl);
        if may_serve
            && let Some(answer) = self.tagged(access, requester, priority, request, &record, true).await
        {
            return Some(Ok(answer));
        }
        Some(Err(refusal))
    }

    /// Returns the manifest to which a tag points, or its head, if the store has it and the repository holds it.
    async fn tagged(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        priority: Priority,
        request: &OriginRequest,
        record: &TagRecord,
        is_stale: bool,
    ) -> Option<OriginResponse> {
        let answer = if request.is_for_bytes() {
            self.manifest_from_store(access, requester, priority, &record.digest).await?.ok()?
        } else {
            let held = self.word_from_store(access, requester, Kind::Manifest, &record.digest).await?;
            stored_answer::of_word(&held)
        };
        Some(stored_answer::by_tag(answer, record, is_stale))
    }

    /// Answers a HEAD by the word that the store has. `None` if it has none.
    async fn head_from_store(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        priority: Priority,
        kind: Kind,
        digest: &Digest,
    ) -> Option<Result<OriginResponse, CacheError>> {
        let word = self.word_from_store(access, requester, kind, digest).await?;
        let held = self.confirmed(access, requester, priority, kind, digest, Some(word)).await?;
        Some(held.map(|held| stored_answer::of_word(&held)))
    }

    /// Asks the store for a blob, and for what it knows of it: most often all of that is there. All is asked at a time, whatever the
    /// first says: how long a refusal takes must not tell what the store has.
    async fn read_store(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        digest: &Digest,
        bytes: Option<ByteSpan>,
    ) -> (Option<StoredContent>, Option<Membership>, Option<()>) {
        let content = access.store.content(Kind::Blob, digest, bytes);
        let word = self.word_from_store(access, requester, Kind::Blob, digest);
        join3(content, word, access.store.served(&access.upstream, digest)).await
    }

    /// Returns the blob that the store has sent, if the repository holds it. `None` if the store has nothing for it.
    async fn blob_of(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        priority: Priority,
        digest: &Digest,
        bytes: Option<ByteSpan>,
        (content, word, served): (Option<StoredContent>, Option<Membership>, Option<()>),
    ) -> Option<Result<OriginResponse, CacheError>> {
        let content = content?;
        if word.is_none() {
            served?;
        }
        // A length that was signed tells wrong content before its digest does.
        if word.as_ref().and_then(|held| held.size).is_some_and(|size| size != content.total) {
            access.store.discard(Kind::Blob, digest);
            return None;
        }
        match self.confirmed(access, requester, priority, Kind::Blob, digest, word).await? {
            Ok(held) => stored_answer::of_blob(content, &held, bytes).map(Ok),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// Returns a manifest of the store that the repository holds. `None` if the store has nothing for it. The upstream is not asked
    /// beside the store, however long that takes: Docker Hub counts manifests.
    async fn manifest_from_store(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        priority: Priority,
        digest: &Digest,
    ) -> Option<Result<OriginResponse, CacheError>> {
        let content = access.store.content(Kind::Manifest, digest, None);
        let word = self.word_from_store(access, requester, Kind::Manifest, digest);
        let (content, word) = join(content, word).await;
        let whole = content?.body.whole(limits::MANIFEST_BYTES, limits::HELD_BODY_DEADLINE).await.ok()?;
        if !digest.is_of(&whole) {
            access.store.discard(Kind::Manifest, digest);
            return None;
        }
        if word.is_none() {
            access.store.served(&access.upstream, digest).await?;
        }
        let held = self.confirmed(access, requester, priority, Kind::Manifest, digest, word).await?;
        Some(held.map(|held| stored_answer::of_manifest(whole, &held)))
    }

    /// Returns the upstream's word, as the store has it, that the repository holds content.
    async fn word_from_store(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        kind: Kind,
        digest: &Digest,
    ) -> Option<Membership> {
        if !access.keeps_word {
            return None;
        }
        access.store.held(&access.upstream, requester.repository(), kind, digest).await
    }

    /// Returns the word of the upstream, which has served the same bytes, that the repository holds content of the store: the one that
    /// the store has, or what the upstream says now. `None` if the bytes are to come from there.
    async fn confirmed(
        &self,
        access: &StoreAccess,
        requester: &Requester,
        priority: Priority,
        kind: Kind,
        digest: &Digest,
        word: Option<Membership>,
    ) -> Option<Result<Membership, CacheError>> {
        let old = match word {
            Some(held) if held.age() < limits::RECORD_BELIEVED || self.options.offline => {
                return Some(Ok(held));
            }
            old => old,
        };
        // A requester that may not fetch may ask whether it is still there: that downloads nothing.
        if self.options.offline || (old.is_none() && !requester.may_fetch()) {
            return None;
        }
        let question = match kind {
            Kind::Blob if old.is_some() => OriginRequest::BlobExists(digest.clone()),
            // Refuses as a download is refused, after the same time.
            Kind::Blob => OriginRequest::BlobFirstByte(digest.clone()),
            Kind::Manifest => OriginRequest::ManifestHead(Reference::Digest(digest.clone())),
        };
        let own = if priority == Priority::Held { Priority::Refresh } else { priority };
        match self.ask_upstream(requester, own, question).await {
            Ok(answer) => {
                let text = answer.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let media_type = text.and_then(|text| MediaType::parse(text).ok());
                // Passes over the type of a redirect, which is not the blob's.
                let media_type = media_type.filter(|_| answer.status.is_success());
                let (old_type, size) = old.map_or((None, None), |old| (old.media_type, old.size));
                let media_type = media_type.or(old_type);
                let held = Membership { media_type, size, confirmed: answer.from.confirmed() };
                if access.keeps_word {
                    access.store.keep_word(&access.upstream, requester.repository(), kind, digest, &held);
                }
                Some(Ok(held))
            }
            Err(refusal) => {
                let may_serve = |held: &Membership| self.may_serve_stale(held.age(), limits::RECORD_BELIEVED);
                match old.filter(|held| refusal.allows_stale() && may_serve(held)) {
                    Some(held) => Some(Ok(held)),
                    // A HEAD is a hint: what is asked for itself decides.
                    None if matches!(&refusal, CacheError::Origin(failure) if failure.by_head) => None,
                    None => Some(Err(refusal)),
                }
            }
        }
    }

    /// Has content stored that the upstream has served, and that has its digest.
    pub(crate) fn store_proved(
        &self,
        kind: Kind,
        digest: &Digest,
        repository: &RepositoryName,
        held: Option<Membership>,
    ) {
        let Some(StoreAccess { store, upstream, keeps_word }) = &self.store else { return };
        store.keep(ProvedContent {
            kind,
            digest: digest.clone(),
            upstream: upstream.clone(),
            repository: repository.clone(),
            held: held.filter(|_| *keeps_word),
        });
    }

    /// Has the store forget that a repository holds content.
    pub(crate) fn forget_stored(&self, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        if let Some(access) = &self.store {
            access.store.forget(&access.upstream, repository, kind, digest);
        }
    }

    /// Has the store note where a tag points, by the upstream's word.
    pub(crate) fn store_tag(&self, repository: &RepositoryName, tag: &Tag, record: &TagRecord) {
        if let Some(access) = self.store.as_ref().filter(|access| access.keeps_word) {
            access.store.keep_tag(&access.upstream, repository, tag, record);
        }
    }

    /// Has the store forget where a tag points.
    pub(crate) fn forget_stored_tag(&self, repository: &RepositoryName, tag: &Tag) {
        if let Some(access) = &self.store {
            access.store.forget_tag(&access.upstream, repository, tag);
        }
    }

    /// Has a blob removed from the store that was not what its digest says.
    pub(crate) fn discard_stored(&self, digest: &Digest) {
        if let Some(access) = &self.store {
            access.store.discard(Kind::Blob, digest);
        }
    }

    /// Asks the other replicas. `None` if none of them has an answer, or none may be asked: whether the requester may read it, the
    /// upstream is asked here, with the requester's own credentials.
    async fn ask_fleet(
        &self,
        requester: &Requester,
        priority: Priority,
        request: &OriginRequest,
    ) -> Option<Result<OriginResponse, CacheError>> {
        let (fleet, name) = self.fleet.as_ref()?;
        if requester.is_replica() || priority == Priority::Authorization {
            return None;
        }
        // Another replica has no credentials but the gateway's own.
        let is_shared = requester.origin().is_shared();
        let question = FleetQuestion {
            upstream: name.clone(),
            repository: requester.repository().clone(),
            request: request.clone(),
            held_only: !is_shared || self.held_only(requester).is_some(),
            client: requester.client(),
            patience: self.patience,
        };
        let is_hint = request.is_hint();
        let answer = Box::pin(fleet.ask(question)).await?;
        Some(answer.map_err(|failure| {
            if let Meaning::RateLimited { retry_after } = failure.meaning {
                self.note_limit(&requester.account(), retry_after);
            }
            CacheError::Origin(UpstreamFailure { by_head: is_hint, ..failure })
        }))
    }

    /// Asks the upstream, if it may be asked: not with `offline`, not for content if the requester may not fetch, not while
    /// the breaker is open (but see [`Priority::Authorization`]), and while the upstream limits the account's rate only with
    /// [`Priority::Required`] or [`Priority::Authorization`].
    ///
    /// # Errors
    /// [`CacheError::Offline`], [`CacheError::FetchForbidden`], [`CacheError::CircuitOpen`], [`CacheError::RateLimited`], each
    /// before the upstream was asked; else [`CacheError::Origin`].
    pub(crate) async fn ask_upstream(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if requester.is_for_held_content() {
            return Err(CacheError::FetchForbidden);
        }
        if !requester.may_fetch() && request.is_for_bytes() {
            return Err(CacheError::FetchForbidden);
        }
        let is_own = !matches!(request, OriginRequest::Public(_));
        let account = if is_own { requester.account() } else { "".into() };
        self.admit(priority, &account)?;
        let object = object_of(requester.repository(), &request);
        let is_hint = request.is_hint();
        let content = self.store.as_ref().and_then(|_| content_of(&request));
        let answer = requester.origin().ask(request).await;
        let meaning = answer.as_ref().err().map_or(Meaning::Usable, |failure| failure.meaning);
        // Of a HEAD that is refused, the GET that follows tells more.
        if !(is_hint && meaning.other_way() == OtherWay::Always) {
            self.learn(requester, &account, meaning, object);
        }
        if let Err(failure) = &answer
            && meaning.is_silence()
        {
            *self.last_failure.lock() = Some(failure.cause.clone());
        }
        if is_own && !is_hint && self.ends(requester, meaning) == Ends::Grant {
            self.end_grant(requester);
        }
        if let Some((kind, digest)) = content.filter(|_| is_own && !is_hint)
            && self.ends(requester, meaning) == Ends::Entry
        {
            self.forget_stored(requester.repository(), kind, &digest);
        }
        answer.map_err(|failure| CacheError::Origin(UpstreamFailure { by_head: is_hint, ..failure }))
    }

    fn admit(&self, priority: Priority, account: &str) -> Result<(), CacheError> {
        if self.options.offline {
            return Err(CacheError::Offline);
        }
        let is_open = match priority {
            Priority::Authorization => self.breaker.is_confirmed(),
            Priority::Required | Priority::Refresh | Priority::Background | Priority::Held => {
                !self.breaker.is_closed()
            }
        };
        if is_open {
            return Err(CacheError::CircuitOpen);
        }
        match self.rate_limits.wait(account) {
            Some(wait) if !matches!(priority, Priority::Required | Priority::Authorization) => {
                Err(CacheError::RateLimited(wait))
            }
            _ => Ok(()),
        }
    }

    /// Learns from an exchange with the upstream that did not go through [`ask`](Self::ask). `object` is the requested path.
    pub(crate) fn learn_of(&self, requester: &Requester, meaning: Meaning, object: &str) {
        self.learn(requester, &requester.account(), meaning, object_id(requester.repository(), &object));
    }

    /// Waits for `answer` while something that is here could serve: for `stale_after` at most, and not at all if the upstream
    /// has let another client wait so long. What was asked goes on all the same: when it is answered, that is known again.
    ///
    /// # Errors
    /// The error of `answer`, or that it did not come in time.
    pub(crate) async fn patiently<T>(
        &self,
        answer: impl Future<Output = Result<T, CacheError>>,
    ) -> Result<T, CacheError> {
        let silent = self.is_silent.load(Ordering::Relaxed);
        let patience = if silent { Duration::ZERO } else { self.options.stale_after };
        let answered = tokio::time::timeout(patience, answer).await;
        answered.unwrap_or_else(|_| {
            self.is_silent.store(true, Ordering::Relaxed);
            Err(CacheError::Origin(UpstreamFailure::late()))
        })
    }

    /// Logs that stale content serves since the upstream gave nothing: the first time in a while, since all clients meet the
    /// same failure.
    pub(crate) fn log_stale(&self, requester: &Requester, reference: &Reference, refusal: &CacheError) {
        let (now, mut logged) = (clock::now(), self.stale_logged.lock());
        let is_news = logged.is_none_or(|at| now.duration_since(at) >= limits::STALE_LOGGED);
        let (upstream, repository) = (&*self.upstream, requester.repository().as_str());
        let set = refusal.key();
        if is_news {
            *logged = Some(now);
            tracing::warn!(upstream, repository, %reference, error = %refusal, set, "no usable answer from the upstream: serving stale content");
        } else {
            tracing::debug!(upstream, repository, %reference, error = %refusal, set, "no usable answer from the upstream: serving stale content");
        }
    }

    fn learn(&self, requester: &Requester, account: &Arc<str>, meaning: Meaning, object: u64) {
        if !meaning.is_silence() {
            self.is_silent.store(false, Ordering::Relaxed);
        }
        self.breaker.learn(requester.origin(), meaning, object);
        if let Meaning::RateLimited { retry_after } = meaning {
            self.note_limit(account, retry_after);
        }
    }

    fn note_limit(&self, account: &Arc<str>, retry_after: Option<Duration>) {
        if let Some(pause) = self.rate_limits.note(account, retry_after) {
            let (upstream, seconds) = (&*self.upstream, pause.as_secs());
            tracing::info!(
                upstream,
                seconds,
                "the upstream limits the rate (429); only requests that cached content cannot serve are sent"
            );
        }
    }

    fn end_grant(&self, requester: &Requester) {
        if self.options.pull_authorization == PullAuthorization::Each {
            self.grants.end(&(Some(requester.identity().clone()), requester.repository().clone()));
        }
    }

    /// Returns which records an answer to the requester ends.
    pub(crate) fn ends(&self, requester: &Requester, meaning: Meaning) -> Ends {
        let each = self.options.pull_authorization == PullAuthorization::Each;
        meaning.ends(each, requester.origin().is_shared())
    }

    /// Returns the reason why only held content may be served to the requester, if there is one.
    pub(crate) fn held_only(&self, requester: &Requester) -> Option<CacheError> {
        if !requester.may_fetch() {
            return Some(CacheError::FetchForbidden);
        }
        self.options.offline.then_some(CacheError::Offline)
    }

    /// Returns the reason why the upstream should not be asked now if held content can serve, if there is one.
    pub(crate) fn refrains(&self, requester: &Requester) -> Option<CacheError> {
        if self.options.offline {
            return Some(CacheError::Offline);
        }
        if !self.breaker.is_closed() {
            return Some(CacheError::CircuitOpen);
        }
        self.rate_limits.wait(&requester.account()).map(CacheError::RateLimited)
    }

    /// Returns true if the upstream limits the rate of the requester's account.
    pub(crate) fn is_limited(&self, requester: &Requester) -> bool {
        self.rate_limits.wait(&requester.account()).is_some()
    }

    /// Returns true if content that the upstream confirmed `age` ago, and that is fresh for `ttl`, may be served while the
    /// upstream cannot be asked.
    pub(crate) fn may_serve_stale(&self, age: Duration, ttl: Duration) -> bool {
        self.options.offline || age <= ttl.saturating_add(self.options.stale_if_error)
    }

    /// Returns true if the upstream is never asked (`offline`).
    pub(crate) fn is_offline(&self) -> bool {
        self.options.offline
    }

    /// Returns the key by which requesters share an exchange: the same for all, or with `"each"` the requester's account.
    pub(crate) fn shared_account(&self, requester: &Requester) -> Arc<str> {
        match self.options.pull_authorization {
            PullAuthorization::Shared => "".into(),
            PullAuthorization::Each => requester.account(),
        }
    }

    /// Returns the cause of the last failure of the registry.
    pub(crate) fn last_failure(&self) -> Option<Arc<str>> {
        self.last_failure.lock().clone()
    }

    /// Returns the state of the upstream's breaker, for metrics and `/readyz`.
    pub(crate) fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Returns for how long the breaker has been in its state, if it has ever opened, and how often it has.
    pub(crate) fn breaker_history(&self) -> (Option<Duration>, u64) {
        (self.breaker.age(), self.breaker.openings())
    }

    /// Returns the breaker, for tests of what happens while it is open.
    #[cfg(test)]
    pub(crate) fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// Returns the pauses of the accounts, for tests.
    #[cfg(test)]
    pub(crate) fn rate_limits(&self) -> &RateLimitPauses {
        &self.rate_limits
    }
}

/// Returns the content that a request is about, by its digest.
fn content_of(request: &OriginRequest) -> Option<(Kind, Digest)> {
    match request {
        OriginRequest::Blob { digest, .. }
        | OriginRequest::BlobExists(digest)
        | OriginRequest::BlobFirstByte(digest) => Some((Kind::Blob, digest.clone())),
        OriginRequest::ManifestHead(Reference::Digest(digest))
        | OriginRequest::Manifest(Reference::Digest(digest))
        | OriginRequest::ManifestFor(Reference::Digest(digest), _) => Some((Kind::Manifest, digest.clone())),
        OriginRequest::ManifestHead(Reference::Tag(_))
        | OriginRequest::Manifest(Reference::Tag(_))
        | OriginRequest::ManifestFor(Reference::Tag(_), _)
        | OriginRequest::Public(_)
        | OriginRequest::Ping => None,
    }
}

/// Returns a number for the object that a request is about, by which the breaker tells different objects apart.
fn object_of(repository: &RepositoryName, request: &OriginRequest) -> u64 {
    match request {
        OriginRequest::Blob { digest, .. }
        | OriginRequest::BlobExists(digest)
        | OriginRequest::BlobFirstByte(digest)
        | OriginRequest::Public(Resource::Blob(digest)) => object_id(repository, digest),
        OriginRequest::Public(Resource::Manifest(reference))
        | OriginRequest::ManifestHead(reference)
        | OriginRequest::Manifest(reference)
        | OriginRequest::ManifestFor(reference, _) => object_id(repository, reference),
        OriginRequest::Ping => object_id(repository, &()),
    }
}

fn object_id(repository: &RepositoryName, object: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (repository, object).hash(&mut hasher);
    hasher.finish()
}

const DOCKER_CONTENT_DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");
