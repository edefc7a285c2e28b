//! Pulls of manifests, by tag and by digest.
//!
//! A tag is resolved by HEAD, and its manifest fetched by the digest in the answer. The record of a tag is updated only when
//! the manifest has come: if its download fails, the old manifest still serves. Requests to the upstream are shared by all
//! clients that wait for the same: one flight for each tag, one for each digest.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::error::{BypassReason, CacheError};
use crate::cache::manifests::fetch::ManifestFetcher;
use crate::cache::manifests::manifest::Manifest;
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::record::{Membership, TagRecord, age};
use crate::cache::origin::gate::Priority;
use crate::cache::outcome::CacheStatus;
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::config::limits;
use crate::meaning::Meaning;
use crate::proto::{Algorithm, Digest, Reference, RepositoryName, Tag};
use crate::single_flight::SingleFlight;

/// The pulls of manifests from one upstream.
pub(crate) struct ManifestPulls {
    fetcher: ManifestFetcher,
    /// The flights for tags.
    tags: SingleFlight<Flight<(Tag, Form)>, Landed<Resolved>>,
    /// The flights for digests. The flag is true if a head is enough.
    digests: SingleFlight<Flight<(Digest, bool)>, Landed<Manifest>>,
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
    /// The manifest to which the tag points is to be fetched.
    Fetch(Digest, Generation),
    /// The manifest has come: the record of the tag is to be updated.
    Record(Manifest, Generation),
}

/// The records that answer for a reference.
struct Known {
    /// The tag's record, if the reference is a tag.
    tag: Option<TagRecord>,
    /// The manifest's record.
    held: Option<Membership>,
    /// The time since the upstream confirmed it.
    age: Duration,
    /// The time for which it is used without asking the upstream.
    ttl: Duration,
}

/// A request for a manifest that records alone do not answer.
struct Pull<'a> {
    pulls: &'a Arc<ManifestPulls>,
    requester: &'a Requester,
    head: bool,
    priority: Priority,
}

impl ManifestPulls {
    /// Returns pulls that use `fetcher`.
    pub(crate) fn new(fetcher: ManifestFetcher) -> Self {
        Self { fetcher, tags: SingleFlight::default(), digests: SingleFlight::default() }
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
        head: bool,
    ) -> Result<Manifest, CacheError> {
        let gate = self.fetcher.gate();
        let known = self.known(requester.repository(), reference);
        let serve = |outcome| {
            let digest = known.digest(reference)?;
            self.fetcher.serve(requester, digest, known.held.as_ref()?, head, outcome)
        };
        if (known.age < known.ttl || gate.is_offline())
            && let Some(manifest) = serve(CacheStatus::Hit)
        {
            return Ok(manifest);
        }
        let here = || serve(CacheStatus::Stale).is_some();
        self.fetcher.check_askable(requester, reference, here)?;
        let old = gate.may_serve_stale(known.age, known.ttl).then(|| serve(CacheStatus::Stale)).flatten();
        let priority = if old.is_some() { Priority::Refresh } else { Priority::Required };
        let pull = Pull { pulls: self, requester, head, priority };
        let pulled = match reference {
            Reference::Tag(tag) => pull.tag(tag).await,
            Reference::Digest(digest) => pull.digest(digest).await,
        };
        pulled.or_else(|refusal| old.filter(|_| refusal.allows_stale()).ok_or(refusal))
    }

    fn known(&self, repository: &RepositoryName, reference: &Reference) -> Known {
        let ledger = self.fetcher.metadata().ledger();
        let held = |digest: &Digest| ledger.held(repository, Kind::Manifest, digest);
        match reference {
            Reference::Tag(tag) => {
                let record = ledger.tag(repository, tag);
                Known {
                    held: record.as_ref().and_then(|record| held(&record.digest)),
                    age: record.as_ref().map_or(Duration::MAX, |record| age(record.confirmed)),
                    ttl: self.fetcher.life(tag),
                    tag: record,
                }
            }
            Reference::Digest(digest) => {
                let held = held(digest);
                let age = held.as_ref().map_or(Duration::MAX, Membership::age);
                Known { tag: None, held, age, ttl: limits::RECORD_BELIEVED }
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
    /// Pulls by tag. Starts again once, if the repository is written to meanwhile.
    async fn tag(&self, tag: &Tag) -> Result<Manifest, CacheError> {
        let (fetcher, repository) = (&self.pulls.fetcher, self.requester.repository());
        let may_fetch = self.requester.may_fetch();
        let mut may_restart = true;
        let mut state = State::Remembered;
        loop {
            state = match state {
                State::Remembered => match fetcher.pending(repository, tag) {
                    Some(head) if self.head && may_fetch => {
                        return Ok(Manifest::of_head(head, CacheStatus::Hit));
                    }
                    // The manifest may have been pulled by digest since: docker asks for a tag with HEAD first.
                    Some(head) => match fetcher.believed(self.requester, &head.digest) {
                        Some(manifest) => State::Record(manifest, head.generation),
                        None if may_fetch => State::Fetch(head.digest, head.generation),
                        None => State::Resolve(Form::Head),
                    },
                    None => State::Resolve(Form::Head),
                },
                State::Resolve(form) => {
                    let Resolved { manifest, generation } = self.resolve(tag, form).await?;
                    if manifest.bytes.is_some() || (self.head && may_fetch) {
                        return Ok(manifest);
                    }
                    if !may_fetch {
                        // The tag has moved to a manifest that is not held.
                        return Err(CacheError::FetchForbidden);
                    }
                    State::Fetch(manifest.digest, generation)
                }
                State::Fetch(digest, generation) => match self.fetch(&digest).await {
                    Ok(manifest) => State::Record(manifest, generation),
                    // The tag has moved meanwhile, or HEAD describes another form of the manifest than GET.
                    Err(refusal) if refusal.meaning() == Some(Meaning::NotFound) => {
                        State::Resolve(Form::Whole)
                    }
                    Err(refusal) => return Err(refusal),
                },
                State::Record(manifest, generation) => {
                    fetcher.arrived(repository, tag, &manifest.digest);
                    let unchanged = fetcher.metadata().generation(repository) == generation;
                    if unchanged || !std::mem::take(&mut may_restart) {
                        return Ok(manifest);
                    }
                    State::Resolve(Form::Head)
                }
            }
        }
    }

    /// Pulls by digest.
    async fn digest(&self, digest: &Digest) -> Result<Manifest, CacheError> {
        if digest.algorithm() == Algorithm::Other {
            return Err(CacheError::Bypass(BypassReason::UnknownAlgorithm));
        }
        self.fetch(digest).await
    }

    /// Asks where a tag points, and notes the answer. Asks again once, if the repository is written to meanwhile.
    async fn resolve(&self, tag: &Tag, form: Form) -> Result<Resolved, CacheError> {
        let priority = self.priority;
        let (resolved, joined) = self
            .share(&self.pulls.tags, (tag.clone(), form), |pulls, requester, (tag, form)| async move {
                let fetcher = &pulls.fetcher;
                let (repository, reference) = (requester.repository(), Reference::Tag(tag.clone()));
                let mut may_repeat = true;
                loop {
                    let generation = fetcher.metadata().generation(repository);
                    let manifest = match form {
                        Form::Head => fetcher.ask_tag(&requester, &reference, priority).await?,
                        Form::Whole => fetcher.ask_whole(&requester, &reference, priority).await?,
                    };
                    if fetcher.note_tag(repository, &tag, &manifest, generation)
                        || !std::mem::take(&mut may_repeat)
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
                    if let Some(manifest) = fetcher.believed(&requester, &digest) {
                        return Ok(manifest);
                    }
                    let manifest = fetcher.ask_digest(&requester, &digest, head, priority).await?;
                    if manifest.bytes.is_some() {
                        fetcher.target_arrived(requester.repository(), &digest);
                    }
                    Ok(manifest)
                }
            })
            .await;
        fetched.map(|manifest| manifest.following(joined, self.head))
    }

    /// Joins or starts the flight of `name`, and returns true if it joined one. A refusal of another account does not count
    /// for the requester's: then a flight for this account alone follows.
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
            account: self.pulls.fetcher.gate().shared_account(self.requester),
        };
        loop {
            let start = || {
                let answer = ask(self.pulls.clone(), self.requester.clone(), flight.name.clone());
                let account = account.clone();
                async move { Landed { account, result: answer.await } }
            };
            let (landed, joined) = flights.join(flight.clone(), start).await;
            let Some(landed) = landed else {
                return (Err(CacheError::unusable("no answer: the request for it ended")), joined);
            };
            let is_foreign = joined && landed.account != account && flight.account != account;
            let is_personal =
                |refusal: &CacheError| refusal.meaning().is_some_and(Meaning::is_about_requester);
            if !is_foreign || !landed.result.as_ref().is_err_and(is_personal) {
                return (landed.result, joined);
            }
            flight.account = account.clone();
        }
    }
}

#[cfg(test)]
mod tests;
