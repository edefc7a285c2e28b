//! Pulls of manifests, by tag and by digest.
//!
//! A tag is asked for with HEAD, and its manifest by the digest that the answer gave. The record of a tag moves on only when
//! the manifest is here: should that fail, the old one is still what serves. HEAD is a hint: where it is refused, or a digest
//! that it named, GET of the tag decides. What upstreams are asked is shared by all who ask the same at the time: one flight
//! for each tag, one for each digest, one for each `Accept` of a client that all others' does not cover.

use std::future::Future;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::cache::error::{BypassReason, CacheError};
use crate::cache::manifests::fetch::ManifestFetcher;
use crate::cache::manifests::manifest::Manifest;
use crate::cache::manifests::variants::{VariantKey, Variants};
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::record::{Membership, TagRecord, age};
use crate::cache::origin::Priority;
use crate::cache::outcome::CacheStatus;
use crate::cache::requester::Requester;
use crate::cache::store::{Kind, disk_pool};
use crate::config::limits;
use crate::meaning::{Meaning, OtherWay};
use crate::proto::media_type::FULL_ACCEPT;
use crate::proto::{Accept, Algorithm, Digest, Family, Reference, RepositoryName, Tag};
use crate::single_flight::{Abandoned, SingleFlight};

/// The pulls of manifests from one upstream.
pub(crate) struct ManifestPulls {
    fetcher: Arc<ManifestFetcher>,
    /// The flights for tags.
    tags: SingleFlight<Flight<(Tag, Form)>, Landed<Resolved>>,
    /// The flights for digests. The flag is true if a head is enough.
    digests: SingleFlight<Flight<(Digest, bool)>, Landed<Manifest>>,
    /// Manifests that are being asked for with a client's own `Accept`.
    accepted: SingleFlight<Flight<(Reference, HeaderValue)>, Landed<Manifest>>,
    /// Manifests that other replicas are being asked for, which must hold them.
    held: SingleFlight<Flight<Reference>, Landed<Manifest>>,
    variants: Variants,
}

/// The key of a request to the upstream that is shared by all clients that wait for the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight<N> {
    repository: RepositoryName,
    name: N,
    /// True if the requesters may fetch. Those that may and those that may not get different answers.
    may_fetch: bool,
    /// The account at the upstream, if the answer is for that account alone; else empty.
    account: Arc<str>,
}

/// The answer for all clients that joined a flight.
#[derive(Debug, Clone)]
struct Landed<T> {
    /// The account by which the upstream was asked.
    account: Arc<str>,
    result: Result<T, CacheError>,
}

/// The method by which a tag is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    /// HEAD, and GET if the answer is not enough.
    Head,
    /// GET.
    Whole,
}

/// The manifest that a tag points to, perhaps without its bytes.
#[derive(Debug, Clone)]
struct Resolved {
    manifest: Manifest,
    /// The repository's generation when the upstream was asked.
    generation: Generation,
}

/// The state of a tag's pull.
enum State {
    /// A recent answer may say where the tag points.
    Remembered,
    /// The upstream is to be asked where the tag points.
    Resolve(Form),
    /// The manifest to which the tag points is to be fetched. This is its head.
    Fetch(Manifest, Generation),
    /// The manifest has come: the record of the tag is to be updated.
    Record(Manifest, Generation),
}

/// The manifest that the cache has for a reference.
struct Found {
    /// A hit, or a stale one that the upstream is asked about first.
    manifest: Option<Manifest>,
    /// Its length by its record.
    size: Option<u64>,
    /// The time since the upstream confirmed it.
    age: Duration,
    /// The time for which it is used without asking the upstream.
    ttl: Duration,
}

/// The records that answer for a reference.
struct Known {
    /// The tag's record, if the reference is a tag.
    tag: Option<TagRecord>,
    /// The manifest's record.
    held: Option<Membership>,
    /// When the upstream confirmed it.
    confirmed: SystemTime,
    /// The time for which it is used without asking the upstream.
    ttl: Duration,
}

/// A request for a manifest that records alone do not answer.
struct Pull<'a> {
    pulls: &'a Arc<ManifestPulls>,
    requester: &'a Requester,
    accept: &'a Accept,
    head: bool,
    priority: Priority,
}

impl ManifestPulls {
    /// Returns pulls that use `fetcher`.
    pub(crate) fn new(fetcher: ManifestFetcher) -> Self {
        Self {
            fetcher: Arc::new(fetcher),
            tags: SingleFlight::default(),
            digests: SingleFlight::default(),
            accepted: SingleFlight::default(),
            held: SingleFlight::default(),
            variants: Variants::new(),
        }
    }

    /// Returns the fetcher.
    pub(crate) fn fetcher(&self) -> &ManifestFetcher {
        &self.fetcher
    }

    /// Returns the manifest that `reference` names. `head` is true for HEAD, which downloads nothing that it does not need.
    ///
    /// # Errors
    /// [`CacheError`]. [`CacheError::Bypass`] if the cache does not understand the answer, but never if the upstream must not
    /// be asked.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        requester: &Requester,
        reference: &Reference,
        accept: &Accept,
        head: bool,
    ) -> Result<Manifest, CacheError> {
        let gate = self.fetcher.gate();
        let Found { manifest, age, ttl, .. } = self.find(requester, reference, head).await;
        let old = match manifest {
            Some(manifest) if manifest.outcome == CacheStatus::Hit => return Ok(manifest),
            // A request for held content must not begin a pull that others would join.
            _ if requester.is_for_held_content() => return Err(CacheError::FetchForbidden),
            manifest => manifest,
        };
        if old.is_none() && gate.upstream().held_only(requester).is_some() && gate.has_others(requester) {
            let priority = Priority::Held;
            let pull = Pull { pulls: self, requester, accept, head, priority };
            if let Ok(manifest) = Box::pin(pull.held_elsewhere(reference)).await {
                return Ok(manifest);
            }
        }
        self.fetcher.check_askable(requester, reference, old.is_some())?;
        let old = old.filter(|_| gate.upstream().may_serve_stale(age, ttl));
        let priority = if old.is_some() { Priority::Refresh } else { Priority::Required };
        let pull = Pull { pulls: self, requester, accept, head, priority };
        // Boxed, so that a hit does not copy room for it.
        let pulling = Box::pin(pull.run(reference));
        let Some(old) = old else { return pulling.await };
        let pulled = gate.upstream().patiently(pulling).await;
        pulled.or_else(|refusal| {
            if refusal.allows_stale() {
                gate.upstream().log_stale(requester, reference, &refusal);
                return Ok(old);
            }
            Err(refusal)
        })
    }

    /// Returns what a client gets for a tag that points to `held`, whose type its Accept leaves out: what the upstream gives
    /// for that Accept. Most registries answer with the same manifest. What the upstream gave is remembered; what it would
    /// give while it can't be asked is `held`.
    ///
    /// # Errors
    /// The upstream's refusal.
    pub(crate) async fn accepted(
        self: &Arc<Self>,
        requester: &Requester,
        reference: &Reference,
        held: Manifest,
        accept: &Accept,
        head: bool,
    ) -> Result<Manifest, CacheError> {
        let gate = self.fetcher.gate();
        let Some(line) = own_accept(accept) else { return Ok(held) };
        let key = VariantKey::new(requester, &held.digest, &line);
        match self.variants.get(&key) {
            Some(digest) if digest == held.digest => return Ok(held),
            Some(digest) => return self.pull(requester, &Reference::Digest(digest), accept, head).await,
            None if gate.upstream().held_only(requester).is_some() => return Ok(held),
            None => {}
        }
        let pull = Pull { pulls: self, requester, accept, head, priority: Priority::Refresh };
        match gate.upstream().patiently(pull.fetch_for(reference, line)).await {
            Ok(manifest) => {
                self.variants.keep(key, manifest.digest.clone());
                Ok(manifest)
            }
            Err(refusal) if refusal.allows_stale() => {
                gate.upstream().log_stale(requester, reference, &refusal);
                Ok(Manifest { outcome: CacheStatus::Stale, ..held })
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Looks for the manifest in memory, else on the disk: see [`ManifestFetcher::look`].
    async fn find(self: &Arc<Self>, requester: &Requester, reference: &Reference, head: bool) -> Found {
        let (found, missed) = disk_pool::in_memory(|| self.look(requester, reference, head));
        if !missed {
            return found;
        }
        let (this, own, reference) = (self.clone(), requester.clone(), reference.clone());
        let look = move |_: &ManifestFetcher| this.look(&own, &reference, head);
        Box::pin(self.fetcher.look(requester, found.size, look)).await
    }

    /// Returns where a tag points, if the upstream has just said so: its answer is noted first, and recorded once the manifest
    /// is here.
    async fn resolved(self: &Arc<Self>, requester: &Requester, tag: &Tag) -> Option<Resolved> {
        let repository = requester.repository();
        if let Some(head) = self.fetcher.pending(repository, tag) {
            let generation = head.generation;
            return Some(Resolved { manifest: Manifest::of_head(head, CacheStatus::Miss), generation });
        }
        let generation = self.fetcher.metadata().generation(repository);
        let manifest = self.find(requester, &Reference::Tag(tag.clone()), false).await.manifest?;
        (manifest.outcome == CacheStatus::Hit).then_some(Resolved { manifest, generation })
    }

    fn look(&self, requester: &Requester, reference: &Reference, head: bool) -> Found {
        let known = self.known(requester.repository(), reference);
        let (age, confirmed) = (age(known.confirmed), known.confirmed);
        let is_young = age < known.ttl || self.fetcher.gate().upstream().is_offline();
        let outcome = if is_young { CacheStatus::Hit } else { CacheStatus::Stale };
        let serve = |digest, held| self.fetcher.serve(requester, digest, held, head, outcome);
        let manifest = known.digest(reference).zip(known.held.as_ref());
        let manifest = manifest.and_then(|(digest, held)| serve(digest, held));
        let manifest = manifest.map(|manifest| Manifest { confirmed, ..manifest });
        Found { manifest, size: known.held.and_then(|held| held.size), age, ttl: known.ttl }
    }

    fn known(&self, repository: &RepositoryName, reference: &Reference) -> Known {
        let ledger = self.fetcher.metadata().ledger();
        let held = |digest: &Digest| ledger.held(repository, Kind::Manifest, digest);
        match reference {
            Reference::Tag(tag) => {
                let record = ledger.tag(repository, tag);
                Known {
                    held: record.as_ref().and_then(|record| held(&record.digest)),
                    confirmed: record.as_ref().map_or(UNIX_EPOCH, |record| record.confirmed),
                    ttl: self.fetcher.life(tag),
                    tag: record,
                }
            }
            Reference::Digest(digest) => {
                let held = held(digest);
                let confirmed = held.as_ref().map_or(UNIX_EPOCH, |held| held.confirmed);
                Known { tag: None, held, confirmed, ttl: limits::RECORD_BELIEVED }
            }
        }
    }
}

impl Known {
    fn digest<'a>(&'a self, reference: &'a Reference) -> Option<&'a Digest> {
        match reference {
            Reference::Tag(_) => self.tag.as_ref().map(|record| &record.digest),
            Reference::Digest(digest) => Some(digest),
        }
    }
}

impl Pull<'_> {
    /// Pulls what `reference` names.
    async fn run(&self, reference: &Reference) -> Result<Manifest, CacheError> {
        let generation = self.pulls.fetcher.metadata().generation(self.requester.repository());
        let pulled = match reference {
            Reference::Tag(tag) => self.tag(tag).await,
            Reference::Digest(digest) => self.digest(digest).await,
        };
        match pulled {
            Err(refusal) if is_missing(&refusal) => self.missing(reference, refusal, generation).await,
            pulled => pulled,
        }
    }

    /// Asks once more with the client's own Accept: some registries answer 404 where they miss a type in it
    /// (dkregistry-rs#161). Only when that is no use either it is noted that there is no such manifest.
    async fn missing(
        &self,
        reference: &Reference,
        refusal: CacheError,
        generation: Generation,
    ) -> Result<Manifest, CacheError> {
        let (fetcher, repository) = (&self.pulls.fetcher, self.requester.repository());
        let own = own_accept(self.accept).filter(|_| self.requester.may_fetch());
        if let Some(accept) = own {
            match self.fetch_for(reference, accept).await {
                Err(again) if is_missing(&again) => {}
                Ok(manifest) => {
                    if let Reference::Tag(tag) = reference {
                        fetcher.note_tag(repository, tag, &manifest, generation);
                    }
                    return Ok(manifest);
                }
                refused => return refused,
            }
        }
        fetcher.missing(self.requester, reference, &refusal, generation);
        Err(refusal)
    }

    /// Pulls by tag. Where the repository is written to meanwhile, it begins anew, once.
    async fn tag(&self, tag: &Tag) -> Result<Manifest, CacheError> {
        let (fetcher, repository) = (&self.pulls.fetcher, self.requester.repository());
        let may_fetch = self.requester.may_fetch();
        let mut may_restart = true;
        let mut remembered = fetcher.pending(repository, tag);
        // A remembered answer that has led nowhere is in doubt.
        let mut is_first = remembered.is_none();
        let mut state = State::Remembered;
        loop {
            state = match state {
                State::Remembered => match remembered.take() {
                    Some(head) if self.head && may_fetch => {
                        return Ok(Manifest::of_head(head, CacheStatus::Hit));
                    }
                    // The manifest may have been pulled by digest since: docker asks for a tag with HEAD first.
                    Some(head) => match fetcher.believed(self.requester, &head.digest).await {
                        Some(manifest) => {
                            State::Record(Manifest { confirmed: head.confirmed, ..manifest }, head.generation)
                        }
                        None if may_fetch => {
                            let generation = head.generation;
                            State::Fetch(Manifest::of_head(head, CacheStatus::Miss), generation)
                        }
                        None => State::Resolve(Form::Head),
                    },
                    None => State::Resolve(Form::Head),
                },
                State::Resolve(form) => match self.resolve(tag, form, mem::take(&mut is_first)).await {
                    Ok(Resolved { manifest, .. }) if manifest.bytes.is_some() => return Ok(manifest),
                    Ok(Resolved { manifest, .. }) if self.head && may_fetch => return Ok(manifest),
                    // The tag has moved to a manifest that is not in the cache.
                    Ok(_) if !may_fetch => return Err(CacheError::FetchForbidden),
                    Ok(Resolved { manifest, generation }) => State::Fetch(manifest, generation),
                    Err(refusal) if self.may_be_got(&refusal) => State::Resolve(Form::Whole),
                    Err(refusal) => return Err(refusal),
                },
                State::Fetch(head, generation) => match self.fetch(&head.digest).await {
                    Ok(manifest) => State::Record(manifest.behind(&head), generation),
                    // The tag has moved meanwhile, or HEAD tells of another form than GET, or the registry does not give
                    // by digest what it has by tag (moby#41687).
                    Err(refusal) if is_worth_another_way(&refusal) => State::Resolve(Form::Whole),
                    Err(refusal) => return Err(refusal),
                },
                State::Record(manifest, generation) => {
                    if !is_manifest(&manifest) {
                        return Err(CacheError::unusable("something else than a manifest for a tag"));
                    }
                    if fetcher.is_served(&manifest.digest) {
                        fetcher.arrived(repository, tag, &manifest.digest);
                    }
                    let unchanged = fetcher.metadata().generation(repository) == generation;
                    if unchanged || !mem::take(&mut may_restart) {
                        return Ok(manifest);
                    }
                    State::Resolve(Form::Head)
                }
            }
        }
    }

    /// Returns true if GET may give the manifest of which HEAD was refused.
    fn may_be_got(&self, refusal: &CacheError) -> bool {
        !self.head && self.requester.may_fetch() && refusal.other_way_than_head() != OtherWay::Useless
    }

    /// Pulls by digest.
    async fn digest(&self, digest: &Digest) -> Result<Manifest, CacheError> {
        if digest.algorithm() == Algorithm::Other {
            return Err(CacheError::Bypass(BypassReason::UnknownAlgorithm));
        }
        self.fetch(digest).await
    }

    /// Asks where a tag points, and notes the answer. Asks again once, if the repository is written to meanwhile. Asks nothing at
    /// the `is_first` attempt if another flight has ended since this pull looked, which brought the answer.
    async fn resolve(&self, tag: &Tag, form: Form, is_first: bool) -> Result<Resolved, CacheError> {
        let priority = self.priority;
        let (resolved, joined) = self
            .share(&self.pulls.tags, (tag.clone(), form), |pulls, requester, (tag, form)| async move {
                let fetcher = &pulls.fetcher;
                let (repository, reference) = (requester.repository(), Reference::Tag(tag.clone()));
                if is_first && let Some(resolved) = pulls.resolved(&requester, &tag).await {
                    return Ok(resolved);
                }
                let mut may_repeat = true;
                loop {
                    let generation = fetcher.metadata().generation(repository);
                    let manifest = match form {
                        Form::Head => fetcher.ask_tag(&requester, &reference, priority).await?,
                        Form::Whole => fetcher.ask_whole(&requester, &reference, priority).await?,
                    };
                    if fetcher.note_tag(repository, &tag, &manifest, generation)
                        || !mem::take(&mut may_repeat)
                    {
                        return Ok(Resolved { manifest, generation });
                    }
                }
            })
            .await;
        resolved
            .map(|resolved| Resolved { manifest: resolved.manifest.following(joined, self.head), ..resolved })
    }

    /// Fetches a manifest by its digest.
    async fn fetch(&self, digest: &Digest) -> Result<Manifest, CacheError> {
        let priority = self.priority;
        let (fetched, joined) = self
            .share(&self.pulls.digests, (digest.clone(), self.head), |pulls, requester, (digest, head)| {
                async move {
                    let fetcher = &pulls.fetcher;
                    // Another request may have fetched the manifest since the last lookup.
                    if let Some(manifest) = fetcher.believed(&requester, &digest).await {
                        return Ok(manifest);
                    }
                    let manifest = fetcher.ask_digest(&requester, &digest, head, priority).await?;
                    if is_manifest(&manifest) && fetcher.is_served(&digest) {
                        fetcher.target_arrived(requester.repository(), &digest);
                    }
                    Ok(manifest)
                }
            })
            .await;
        fetched.map(|manifest| manifest.following(joined, self.head))
    }

    /// Asks the other replicas for a manifest that one of them holds.
    async fn held_elsewhere(&self, reference: &Reference) -> Result<Manifest, CacheError> {
        let (found, joined) = self
            .share(&self.pulls.held, reference.clone(), |pulls, requester, reference| async move {
                let (fetcher, repository) = (&pulls.fetcher, requester.repository());
                let generation = fetcher.metadata().generation(repository);
                let manifest = fetcher.ask_whole(&requester, &reference, Priority::Held).await?;
                if let Reference::Tag(tag) = &reference {
                    fetcher.note_tag(repository, tag, &manifest, generation);
                }
                Ok(manifest)
            })
            .await;
        found.map(|manifest| manifest.following(joined, self.head))
    }

    /// Asks for a manifest with the client's own Accept.
    async fn fetch_for(&self, reference: &Reference, accept: HeaderValue) -> Result<Manifest, CacheError> {
        let priority = self.priority;
        let name = (reference.clone(), accept);
        let (fetched, joined) = self
            .share(&self.pulls.accepted, name, |pulls, requester, (reference, accept)| async move {
                pulls.fetcher.ask_for(&requester, &reference, accept, priority).await
            })
            .await;
        fetched.map(|manifest| manifest.following(joined, self.head))
    }

    /// Asks once for all who ask the same, and returns whether that was under way. Where another account was refused, that is
    /// no answer to this one.
    async fn share<N, T, F>(
        &self,
        flights: &SingleFlight<Flight<N>, Landed<T>>,
        name: N,
        ask: impl Fn(Arc<ManifestPulls>, Requester, N) -> F,
    ) -> (Result<T, CacheError>, bool)
    where
        N: Clone + Eq + Hash + Send + 'static,
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, CacheError>> + Send + 'static,
    {
        let account = self.requester.account();
        let mut flight = Flight {
            repository: self.requester.repository().clone(),
            name,
            may_fetch: self.requester.may_fetch(),
            account: self.pulls.fetcher.gate().upstream().shared_account(self.requester),
        };
        // A refresh goes on without a client: the next one finds what it brought.
        let abandoned = match self.priority {
            Priority::Required | Priority::Authorization | Priority::Held => Abandoned::Ends,
            Priority::Refresh | Priority::Background => Abandoned::Lasts,
        };
        loop {
            let start = || {
                let answer = ask(self.pulls.clone(), self.requester.clone(), flight.name.clone());
                let account = account.clone();
                async move { Landed { account, result: answer.await } }
            };
            let (landed, joined) = flights.join(flight.clone(), abandoned, start).await;
            let Some(landed) = landed else {
                return (Err(CacheError::unusable("no answer: the request for it ended")), joined);
            };
            let is_foreign = joined && landed.account != account && flight.account != account;
            let is_personal =
                |refusal: &CacheError| refusal.meaning().is_some_and(Meaning::is_about_requester);
            // The budget that another client has spent is no answer to this one.
            if joined && landed.result.as_ref().is_err_and(CacheError::is_busy) {
                continue;
            }
            if !is_foreign || !landed.result.as_ref().is_err_and(is_personal) {
                return (landed.result, joined);
            }
            flight.account = account.clone();
        }
    }
}

/// Returns true if the registry says, and not by HEAD alone, that there is no such manifest.
fn is_missing(refusal: &CacheError) -> bool {
    refusal.meaning() == Some(Meaning::NotFound) && refusal.other_way_than_head() == OtherWay::Useless
}

fn is_worth_another_way(refusal: &CacheError) -> bool {
    refusal.meaning().is_some_and(|meaning| meaning.other_way() != OtherWay::Useless)
}

/// Returns true if the bytes are a manifest's by their shape: those behind a tag must be.
fn is_manifest(manifest: &Manifest) -> bool {
    manifest.bytes.as_ref().is_some_and(|bytes| Family::of(bytes).is_some())
}

/// Returns a client's Accept as an upstream is asked with it; none where that is what all are asked with.
fn own_accept(accept: &Accept) -> Option<HeaderValue> {
    let line = accept.line().filter(|line| *line != FULL_ACCEPT)?;
    HeaderValue::from_str(line).ok()
}

#[cfg(test)]
mod tests;
