//! Manifests, by tag and by digest.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::body::Body;
use crate::cache::manifests::document::Document;
use crate::cache::manifests::memory::Kept;
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::record::Membership;
use crate::cache::origin::{OriginRequest, OriginResponse};
use crate::cache::outcome::CacheStatus;
use crate::cache::requester::{CacheError, Priority, Requester};
use crate::cache::store::Kind;
use crate::clock;
use crate::config::{PullAuthorization, limits};
use crate::meaning::{Ends, Meaning};
use crate::proto::{Accept, Algorithm, Digest, MediaType, Reference, RepositoryName, media_type};

/// A manifest, for the client.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// Its type.
    pub media_type: MediaType,
    /// Bytes, for `Content-Length`.
    pub length: u64,
    /// Its bytes, never changed. Always there for a GET; for HEAD they may not be here at all.
    pub bytes: Option<Bytes>,
    /// What the cache did for it.
    pub outcome: CacheStatus,
}

/// What came of asking for a manifest, for all who asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// As whom the upstream was asked.
    account: Arc<str>,
    came: Result<Manifest, CacheError>,
}

/// A question for a manifest that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asking {
    repository: RepositoryName,
    reference: Reference,
    /// Whether its head is enough.
    head: bool,
    /// Whether those who ask may have it fetched: what the others hear may be no answer to them.
    may_fetch: bool,
    /// For whom it is asked, where the answer is for nobody else.
    account: Arc<str>,
}

impl Requester {
    /// The manifest that `reference` names. A GET counts as a pull: its blobs may be fetched ahead. HEAD has `head`, and
    /// causes no download that it does not need.
    ///
    /// # Errors
    /// [`CacheError`]; [`CacheError::Bypass`] where what is kept is of a type that `accept` excludes, and for what the cache does
    /// not understand. Never that where the upstream must not be asked.
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        accept: &Accept,
        head: bool,
    ) -> Result<Manifest, CacheError> {
        self.entitled(reference).await?;
        let manifest = match reference {
            Reference::Tag(tag) => self.by_tag(tag, head).await?,
            Reference::Digest(digest) => self.by_digest(digest, head).await?,
        };
        if !accept.accepts(&manifest.media_type) {
            return Err(self.held_only().unwrap_or(CacheError::Bypass));
        }
        if !head {
            self.manifest_pulled(&manifest);
        }
        Ok(manifest)
    }

    fn manifest_pulled(&self, manifest: &Manifest) {
        let cache = &self.site.cache;
        if cache.settings.prefetch
            && let Some(kept) = cache.hot.load(&cache.store, &manifest.digest, Some(&manifest.media_type))
            && kept.document.media_type == manifest.media_type
            && kept.document.is_image()
        {
            self.prefetch(&kept.document);
        }
    }

    async fn by_digest(&self, digest: &Digest, head: bool) -> Result<Manifest, CacheError> {
        let held = self.site.ledger.held(&self.name, Kind::Manifest, digest);
        let age = held.as_ref().map_or(Duration::MAX, |held| age(held.confirmed));
        if let Some(held) = &held
            && (age <= limits::RECORD_BELIEVED || self.site.settings.offline)
            && let Some(manifest) = self.serve_manifest(digest, held, head, CacheStatus::Hit)
        {
            return Ok(manifest);
        }
        let reference = Reference::Digest(digest.clone());
        let here = || self.serve_manifest(digest, held.as_ref()?, head, CacheStatus::Stale);
        self.may_be_there(&reference, here)?;
        if digest.algorithm() == Algorithm::Other {
            return Err(CacheError::Bypass);
        }
        let old = held.filter(|_| self.may_serve_stale(age, limits::RECORD_BELIEVED));
        let old = old.and_then(|held| self.serve_manifest(digest, &held, head, CacheStatus::Stale));
        let asked = self.digest_asked(digest, head, need(old.as_ref())).await;
        if asked.as_ref().is_ok_and(|found| found.bytes.is_some()) {
            self.target_arrived(digest);
        }
        stale(asked, old)
    }

    /// A manifest that is here, and of which the upstream has said lately that the repository holds it.
    pub(crate) fn believed(&self, digest: &Digest) -> Option<Manifest> {
        let held = self.site.ledger.held(&self.name, Kind::Manifest, digest)?;
        let young = age(held.confirmed) <= limits::RECORD_BELIEVED;
        young.then(|| self.serve_manifest(digest, &held, false, CacheStatus::Hit)).flatten()
    }

    /// Whether there is any use in asking the upstream. For whoever may not have it fetched there is where it is `here`, and
    /// has to be asked about again: that is no fetch.
    pub(crate) fn may_be_there(
        &self,
        reference: &Reference,
        here: impl FnOnce() -> Option<Manifest>,
    ) -> Result<(), CacheError> {
        match self.held_only() {
            Some(CacheError::FetchForbidden) if here().is_some() => {}
            Some(refusal) => return Err(refusal),
            None => {}
        }
        let account = self.source.account();
        match self.site.not_found.knows(&self.name, self.generation(), reference, &account) {
            true => Err(CacheError::NotFound),
            false => Ok(()),
        }
    }

    /// What the record `held` promises, if it is here. A head is here where the record is.
    pub(crate) fn serve_manifest(
        &self,
        digest: &Digest,
        held: &Membership,
        head: bool,
        outcome: CacheStatus,
    ) -> Option<Manifest> {
        if let Some((kept, media_type)) = self.manifest_here(digest, held.media_type.as_ref()) {
            return Some(manifest(digest, media_type, &kept, outcome));
        }
        let (media_type, length) = held.media_type.clone().zip(held.size)?;
        let found = Manifest { digest: digest.clone(), media_type, length, bytes: None, outcome };
        (head && self.may_follow(outcome) && !self.is_served_here(digest)).then_some(found)
    }

    /// The manifest `digest`, if it is here, this upstream has served it, and it is one where it is called `media_type`; and
    /// its type: its own word goes before that.
    pub(crate) fn manifest_here(
        &self,
        digest: &Digest,
        media_type: Option<&MediaType>,
    ) -> Option<(Arc<Kept>, MediaType)> {
        let cache = &self.site.cache;
        if !self.site.ledger.served(digest) {
            return None;
        }
        let kept = cache.hot.load(&cache.store, digest, media_type)?;
        // Parsed already, by that name.
        if media_type == Some(&kept.document.media_type) {
            let media_type = kept.document.media_type.clone();
            return Some((kept, media_type));
        }
        let document = Document::parse(&kept.bytes, media_type).ok()?;
        Some((kept, document.media_type))
    }

    /// Whether the GET after this HEAD can still fetch what is not here.
    fn may_follow(&self, outcome: CacheStatus) -> bool {
        outcome != CacheStatus::Stale && !self.is_held_only()
    }

    /// Asks the upstream for a digest, once for all who ask.
    pub(crate) async fn digest_asked(
        &self,
        digest: &Digest,
        head: bool,
        need: Priority,
    ) -> Result<Manifest, CacheError> {
        let reference = Reference::Digest(digest.clone());
        self.manifest_asked(reference, head, move |repository, reference| async move {
            repository.ask_digest(&reference, head, need).await
        })
        .await
    }

    async fn ask_digest(
        &self,
        reference: &Reference,
        head: bool,
        need: Priority,
    ) -> Result<Manifest, CacheError> {
        let Reference::Digest(digest) = reference else { return Err(CacheError::Bypass) };
        if head || self.is_served_here(digest) {
            match self.ask_head(reference, need).await {
                Ok(said) if !said.denies(digest) => {
                    let found = self.confirm_manifest(digest, said);
                    if let Some(manifest) = found.filter(|found| head || found.bytes.is_some()) {
                        return Ok(manifest);
                    }
                }
                Err(refusal) if !is_about_the_form(&refusal) => return Err(refusal),
                _ => {}
            }
        }
        self.ask_whole(reference, need).await
    }

    /// Whether this upstream has served what is here: its word that a repository holds it is enough only then.
    fn is_served_here(&self, digest: &Digest) -> bool {
        let cache = &self.site.cache;
        cache.hot.has(&cache.store, digest) && self.site.ledger.served(digest)
    }

    /// The answer of `ask`, once for all who ask this. Where somebody else's account was refused, that is no answer to
    /// this one.
    pub(crate) async fn manifest_asked<F>(
        &self,
        reference: Reference,
        head: bool,
        ask: impl Fn(Self, Reference) -> F,
    ) -> Result<Manifest, CacheError>
    where
        F: Future<Output = Result<Manifest, CacheError>> + Send + 'static,
    {
        let account = self.source.account();
        let everybody = match self.site.settings.pull_authorization {
            PullAuthorization::Shared => "".into(),
            PullAuthorization::Each => account.clone(),
        };
        let (repository, may_fetch) = (self.name.clone(), self.permit.may_fetch());
        let mut asking = Asking { repository, reference, head, may_fetch, account: everybody };
        let (asked, joined) = self.fly_for_manifest(asking.clone(), &ask).await;
        let foreign = joined && asked.account != account;
        if !foreign || !asked.came.as_ref().is_err_and(is_about_requester) {
            return asked.came.map(|manifest| following(manifest, joined, head));
        }
        asking.account = account;
        self.fly_for_manifest(asking, &ask).await.0.came
    }

    async fn fly_for_manifest<F>(&self, asking: Asking, ask: &impl Fn(Self, Reference) -> F) -> (Asked, bool)
    where
        F: Future<Output = Result<Manifest, CacheError>> + Send + 'static,
    {
        let account = self.source.account();
        let start = || {
            let (answer, account) = (ask(self.clone(), asking.reference.clone()), account.clone());
            async move { Asked { came: answer.await, account } }
        };
        let (asked, joined) = self.site.manifests.join(asking.clone(), start).await;
        let broken =
            || Asked { account, came: Err(CacheError::unusable("no answer to the question for a manifest")) };
        (asked.unwrap_or_else(broken), joined)
    }

    /// The upstream's word on what `reference` is.
    pub(crate) async fn ask_head(
        &self,
        reference: &Reference,
        need: Priority,
    ) -> Result<ManifestHead, CacheError> {
        let generation = self.generation();
        let answer = self.ask(need, OriginRequest::ManifestHead(reference.clone())).await;
        match answer {
            Ok(answer) => Ok(ManifestHead::of(&answer.headers, generation)),
            Err(refusal) => Err(self.manifest_refused(reference, refusal, generation)),
        }
    }

    /// The upstream has said that the repository holds `digest`: that is recorded. The manifest, if it is here, or if its
    /// head is known.
    pub(crate) fn confirm_manifest(&self, digest: &Digest, said: ManifestHead) -> Option<Manifest> {
        let before = self.site.ledger.held(&self.name, Kind::Manifest, digest);
        let media_type = said.media_type.or_else(|| before?.media_type);
        let found = match self.manifest_here(digest, media_type.as_ref()) {
            Some((kept, media_type)) => manifest(digest, media_type, &kept, CacheStatus::Revalidated),
            // What is here is no manifest of the type that the upstream says.
            None if self.is_served_here(digest) => return None,
            None => Manifest {
                digest: digest.clone(),
                media_type: media_type?,
                length: said.length?,
                bytes: None,
                outcome: CacheStatus::Miss,
            },
        };
        self.record_manifest(&found, said.generation);
        Some(found)
    }

    /// Asks for a manifest whole, and keeps it if it is one.
    pub(crate) async fn ask_whole(
        &self,
        reference: &Reference,
        need: Priority,
    ) -> Result<Manifest, CacheError> {
        let generation = self.generation();
        let answer = self.ask(need, OriginRequest::Manifest(reference.clone())).await;
        let OriginResponse { status, headers, body } =
            answer.map_err(|refusal| self.manifest_refused(reference, refusal, generation))?;
        if status != StatusCode::OK {
            return Err(CacheError::Bypass);
        }
        let bytes = whole(body).await?;
        let said = ManifestHead::of(&headers, generation);
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(_) => said.digest.clone().unwrap_or_else(|| Digest::sha256_of(&bytes)),
        };
        if !digest.is_of(&bytes) {
            return Err(self.manifest_differs(reference, &headers));
        }
        match Document::parse(&bytes, content_type(&headers).as_ref()) {
            Ok(document) => Ok(self.keep_manifest(digest, Kept { bytes, document }, generation)),
            Err(reason) => {
                tracing::debug!(upstream = self.site.name(), %digest, %reason, "a manifest is not kept");
                Err(CacheError::Bypass)
            }
        }
    }

    /// It has been proved.
    fn keep_manifest(&self, digest: Digest, kept: Kept, generation: Generation) -> Manifest {
        let cache = &self.site.cache;
        cache.store.keep_manifest(&digest, &kept.bytes);
        self.site.ledger.note_served(&digest);
        let kept = cache.hot.keep(&digest, kept);
        let found = manifest(&digest, kept.document.media_type.clone(), &kept, CacheStatus::Miss);
        self.record_manifest(&found, generation);
        found
    }

    fn record_manifest(&self, found: &Manifest, generation: Generation) {
        let held = Membership {
            media_type: Some(found.media_type.clone()),
            size: Some(found.length),
            confirmed: clock::wall(),
        };
        self.site.hold_since(generation, &self.name, Kind::Manifest, &found.digest, &held);
    }

    /// The bytes are not what the digest says. Of a signed schema 1 that is so by right: its signatures do not count.
    fn manifest_differs(&self, reference: &Reference, headers: &HeaderMap) -> CacheError {
        if content_type(headers).is_some_and(|kind| kind == *media_type::DOCKER_SCHEMA1_SIGNED) {
            return CacheError::Bypass;
        }
        let (upstream, repository) = (self.site.name(), self.name.as_str());
        tracing::warn!(upstream, repository, %reference, "the upstream's manifest is not what its digest says");
        CacheError::unusable("a manifest that is not what its digest says")
    }

    /// The upstream gave nothing: where the registry itself has said no, what was believed is over, unless the repository has
    /// been written to since it was asked, at `generation`.
    fn manifest_refused(
        &self,
        reference: &Reference,
        refusal: CacheError,
        generation: Generation,
    ) -> CacheError {
        let Some(meaning) = refusal.meaning() else { return refusal };
        if self.ends(meaning) == Ends::Entry {
            self.forget_manifest(reference, generation);
        }
        if meaning == Meaning::NotFound && self.not_found_is_believed(reference) {
            self.site.not_found.note(&self.name, generation, reference, &self.source.account());
        }
        refusal
    }

    fn forget_manifest(&self, reference: &Reference, generation: Generation) {
        match reference {
            Reference::Tag(tag) => {
                self.site.unless_written(&self.name, generation, || self.forget_tag(tag), || ());
            }
            Reference::Digest(digest) => {
                self.site.release_since(generation, &self.name, Kind::Manifest, digest);
            }
        }
    }
}

/// What an upstream says of a manifest without showing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestHead {
    /// `Docker-Content-Digest`, of an algorithm that can be checked.
    pub(crate) digest: Option<Digest>,
    media_type: Option<MediaType>,
    length: Option<u64>,
    /// Where the repository was when it was asked.
    generation: Generation,
}

impl ManifestHead {
    fn of(headers: &HeaderMap, generation: Generation) -> Self {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok();
        let digest = text(DOCKER_CONTENT_DIGEST).and_then(|digest| Digest::parse(digest).ok());
        Self {
            digest: digest.filter(|digest| digest.algorithm() != Algorithm::Other),
            media_type: content_type(headers).filter(MediaType::is_manifest),
            length: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            generation,
        }
    }

    /// Whether it is about another content than `digest`. Another algorithm says nothing.
    fn denies(&self, digest: &Digest) -> bool {
        self.digest.as_ref().is_some_and(|said| said.algorithm() == digest.algorithm() && said != digest)
    }
}

/// How long ago that was. A clock that was set back is not believed more than one that was set forward.
pub(crate) fn age(confirmed: SystemTime) -> Duration {
    clock::wall().duration_since(confirmed).unwrap_or_else(|ahead| ahead.duration())
}

/// What was here serves where the upstream gave nothing, unless the registry itself has said no.
pub(crate) fn stale(
    asked: Result<Manifest, CacheError>,
    old: Option<Manifest>,
) -> Result<Manifest, CacheError> {
    asked.or_else(|refusal| old.filter(|_| refusal.allows_stale()).ok_or(refusal))
}

/// How much it matters to hear from the upstream.
pub(crate) fn need(old: Option<&Manifest>) -> Priority {
    if old.is_some() { Priority::Refresh } else { Priority::Required }
}

/// Returns true if HEAD may be the reason of a refusal, so that GET may get another answer.
pub(crate) fn is_about_the_form(refusal: &CacheError) -> bool {
    refusal.meaning().is_some_and(Meaning::is_about_the_form)
}

/// Returns true if a refusal may be due to the credentials or limits of the account that asked.
fn is_about_requester(refusal: &CacheError) -> bool {
    refusal.meaning().is_some_and(Meaning::is_about_requester)
}

/// As it is for whoever joined a question that was under way.
fn following(manifest: Manifest, joined: bool, head: bool) -> Manifest {
    let fill = joined && !head && manifest.outcome == CacheStatus::Miss;
    let outcome = if fill { CacheStatus::Fill } else { manifest.outcome };
    Manifest { outcome, ..manifest }
}

fn manifest(digest: &Digest, media_type: MediaType, kept: &Kept, outcome: CacheStatus) -> Manifest {
    let bytes = kept.bytes.clone();
    Manifest { digest: digest.clone(), media_type, length: bytes.len() as u64, bytes: Some(bytes), outcome }
}

/// A copy: what comes may be a piece of a larger buffer, which would be held as long as the manifest.
async fn whole(mut body: Body) -> Result<Bytes, CacheError> {
    let mut bytes = Vec::new();
    while let Some(data) = std::future::poll_fn(|cx| body.poll_data(cx)).await {
        let data = data.map_err(|_| CacheError::unusable("a manifest that did not come whole"))?;
        if bytes.len() + data.len() > limits::MANIFEST_BYTES {
            return Err(CacheError::unusable("a manifest that is longer than one may be"));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

fn content_type(headers: &HeaderMap) -> Option<MediaType> {
    MediaType::parse(headers.get(header::CONTENT_TYPE)?.to_str().ok()?).ok()
}

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

#[cfg(test)]
mod tests;
