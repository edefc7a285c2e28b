//! The part of the cache for one upstream: composes the components, and is the gateway's only door.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderMap;
use tokio::task::JoinHandle;

use crate::authz::Permit;
use crate::budget::Client;
use crate::cache::blobs::blob::{Blob, Blobs};
use crate::cache::blobs::fill::{Downloads, Ranges};
use crate::cache::blobs::prefetch::Prefetch;
use crate::cache::blobs::push::{Push, Pushes};
use crate::cache::contents::Cache;
use crate::cache::error::CacheError;
use crate::cache::manifests::fetch::ManifestFetcher;
use crate::cache::manifests::listing::Listings;
use crate::cache::manifests::manifest::Manifest;
use crate::cache::manifests::pull::ManifestPulls;
use crate::cache::metadata::grants::Grants;
use crate::cache::metadata::membership::BlobMembership;
use crate::cache::metadata::record::Membership;
use crate::cache::metadata::records::Ledger;
use crate::cache::metadata::upstream_metadata::{UpstreamMetadata, Writing};
use crate::cache::origin::breaker::BreakerState;
use crate::cache::origin::gate::{FleetAccess, Gate};
use crate::cache::origin::store_access::StoreAccess;
use crate::cache::origin::upstream_gate::UpstreamGate;
use crate::cache::origin::{Asking, FleetWrite, Origin, OriginRequest, Origins};
use crate::cache::pull_authorization::{Lookups, PullAuthorizer};
use crate::cache::requester::{Requester, RequesterReach};
use crate::cache::store::Kind;
use crate::cache::store::disk_pool::Use;
use crate::clock;
use crate::config;
use crate::config::limits;
use crate::meaning::{Ends, Meaning, UpstreamFailure};
use crate::proto::{Accept, ByteRange, Digest, MediaType, Reference, RepositoryName, Tag};

/// The part of the cache for one upstream.
#[derive(Clone)]
pub(crate) struct UpstreamCache {
    origins: Arc<dyn Origins>,
    pub(crate) cache: Arc<Cache>,
    /// The upstream's name.
    pub(crate) name: Arc<str>,
    /// The upstream's configuration.
    upstream: config::Upstream,
    pub(crate) settings: config::UpstreamCacheOptions,
    pub(crate) metadata: Arc<UpstreamMetadata>,
    /// The records in [`metadata`](Self::metadata).
    pub(crate) ledger: Ledger,
    pub(crate) gate: Arc<Gate>,
    pub(crate) authorizer: Arc<PullAuthorizer>,
    pub(crate) manifests: Arc<ManifestPulls>,
    pub(crate) listings: Arc<Listings>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) prefetch: Arc<Prefetch>,
    pushes: Arc<Pushes>,
}

impl UpstreamCache {
    /// Returns the part of `cache` that is of `upstream`. Asks it nothing.
    pub(crate) fn new(
        cache: Arc<Cache>,
        upstream: &config::Upstream,
        settings: &config::UpstreamCacheOptions,
    ) -> Arc<Self> {
        let ledger = cache.records.ledger(&upstream.name, &upstream.url.to_string());
        let keep = &cache.settings.keep;
        let (generations, store) = (cache.generations.clone(), cache.store.clone());
        let metadata = UpstreamMetadata::new(upstream, keep, ledger.clone(), generations, store);
        let metadata = Arc::new(metadata);
        if settings.offline {
            cache.records.never_expire();
        }
        if !keep.is_empty() {
            let metadata = metadata.clone();
            cache.store.sort_out(move || metadata.keep_all());
        }
        let name: Arc<str> = upstream.name.as_str().into();
        let grants = Arc::new(Grants::new(settings));
        let gate = Arc::new(gate(&cache, upstream, settings, grants.clone()));
        let membership = Arc::new(BlobMembership::new(gate.clone(), metadata.clone()));
        let authorizer = PullAuthorizer {
            mode: settings.pull_authorization,
            shows_certificate: upstream.client_certificate.is_some(),
            gate: gate.clone(),
            metadata: metadata.clone(),
            membership: membership.clone(),
            grants,
            lookups: Lookups::default(),
        };
        let authorizer = Arc::new(authorizer);
        let memory = cache.manifests.clone();
        let listings = Listings::new(gate.clone(), metadata.clone(), authorizer.clone());
        let fetcher = ManifestFetcher::new(name.clone(), settings, gate.clone(), metadata.clone(), memory);
        let downloads = Downloads {
            fills: cache.fills.clone(),
            store: cache.store.clone(),
            pool: cache.pool.clone(),
            counters: cache.counters.clone(),
            gate: gate.clone(),
            membership: membership.clone(),
            metadata: metadata.clone(),
            ranges: Ranges::default(),
        };
        let blobs = Blobs::new(name.clone(), downloads, cache.small.clone(), authorizer.clone());
        let blobs = Arc::new(blobs);
        let pushes = Pushes::new(name.clone(), cache.pushes.clone(), metadata.clone(), gate.clone());
        Arc::new(Self {
            origins: Arc::new(Unattached),
            name,
            upstream: upstream.clone(),
            settings: settings.clone(),
            metadata,
            ledger,
            gate,
            authorizer,
            manifests: Arc::new(ManifestPulls::new(fetcher)),
            listings: Arc::new(listings),
            prefetch: Arc::new(Prefetch::new(blobs.clone())),
            blobs,
            pushes: Arc::new(pushes),
            cache,
        })
    }

    /// Returns the cache that it is a part of.
    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Returns its options.
    pub(crate) fn settings(&self) -> &config::UpstreamCacheOptions {
        &self.settings
    }

    /// Returns true if it is of this upstream, with these settings. What was granted by other credentials, or by another
    /// registry's word, is not.
    pub(crate) fn is_of(&self, upstream: &config::Upstream) -> bool {
        self.upstream == *upstream && upstream.cache.as_ref() == Some(&self.settings)
    }

    /// Returns the upstream's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the canonical name of the repository that the upstream calls `name`; none where that is too long for a name.
    pub(crate) fn canonical(&self, name: &RepositoryName) -> Option<RepositoryName> {
        self.metadata.canonical(name)
    }

    /// Returns the same part of the cache, which asks the upstream by `origins` from now on.
    pub(crate) fn with_origins(&self, origins: Arc<dyn Origins>) -> Arc<Self> {
        Arc::new(Self { origins, ..self.clone() })
    }

    /// Returns the requester of something in `repository`, as the upstream calls it. `headers` go with every question to the
    /// upstream.
    pub(crate) fn requester(
        &self,
        permit: &Permit,
        repository: &RepositoryName,
        headers: Arc<HeaderMap>,
    ) -> Requester {
        let origin = self.origins.origin(permit, repository, headers);
        Requester::new(permit.clone(), repository.clone(), origin)
    }

    /// Returns another replica's requester of something in `repository`, as the upstream calls it.
    pub(crate) fn replica_requester(
        &self,
        permit: &Permit,
        repository: &RepositoryName,
        reach: RequesterReach,
    ) -> Requester {
        self.requester(permit, repository, Arc::default()).reaching(reach)
    }

    /// Returns the name by which all replicas call the upstream.
    pub(crate) fn fleet_name(&self) -> Arc<str> {
        fleet_name(&self.upstream)
    }

    /// Notes that a repository has been written to through another replica: what was pushed or deleted there, as far as that is
    /// known.
    pub(crate) fn written_elsewhere(&self, repository: &RepositoryName, references: &[Reference]) {
        self.written(repository);
        references.iter().for_each(|reference| self.deleted(repository, reference));
    }

    /// Has content hashed again: another replica says that what came from here does not have its digest.
    pub(crate) fn doubt_content(&self, digest: &Digest) {
        self.cache.small.remove(digest);
        self.cache.store.schedule_verify(Kind::Blob, digest);
        self.cache.store.schedule_verify(Kind::Manifest, digest);
    }

    /// Tells the other replicas that a repository has been written to through this one, and waits for a moment until they know.
    /// Goes on also where the caller leaves.
    pub(crate) async fn tell(&self, repository: &RepositoryName, references: &[Reference]) {
        if let Some(telling) = self.tell_besides(repository, references) {
            let _ = telling.await;
        }
    }

    /// As [`tell`](Self::tell), without waiting. `None` if there is none to tell.
    pub(crate) fn tell_besides(
        &self,
        repository: &RepositoryName,
        references: &[Reference],
    ) -> Option<JoinHandle<()>> {
        let FleetAccess { fleet, upstream, .. } = self.gate.fleet()?;
        let (repository, references) = (repository.clone(), references.to_vec());
        let believed = if references.iter().any(|reference| matches!(reference, Reference::Digest(_))) {
            limits::RECORD_BELIEVED
        } else {
            self.settings.tag_ttl.max(self.settings.not_found_ttl)
        };
        let write = FleetWrite { upstream: upstream.clone(), repository, references, believed };
        Some(tokio::spawn(fleet.clone().tell(write)))
    }

    /// Returns the record of a blob that the requester's repository holds; see [`BlobMembership::holds`].
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn holds(
        &self,
        requester: &Requester,
        digest: &Digest,
    ) -> Result<Membership, CacheError> {
        self.blobs.membership().holds(requester, digest).await
    }

    /// Returns when the upstream confirmed that a repository holds a blob, which has just been served from there.
    pub(crate) fn blob_confirmed(&self, repository: &RepositoryName, digest: &Digest) -> SystemTime {
        let held = self.blobs.membership().recorded(repository, digest);
        held.map_or_else(clock::wall, |held| held.confirmed)
    }

    /// Notes that something has been written to a repository through this gateway, or perhaps has.
    pub(crate) fn written(&self, repository: &RepositoryName) {
        self.metadata.advance(repository);
    }

    /// Notes that something is about to be written to a repository through this gateway.
    pub(crate) fn begin_write(&self, repository: &RepositoryName) -> Writing {
        self.metadata.begin_write(repository)
    }

    /// Notes that something has been deleted from a repository through this gateway, or perhaps has.
    pub(crate) fn deleted(&self, repository: &RepositoryName, reference: &Reference) {
        self.metadata.deleted(repository, reference);
    }

    /// Calls [`ManifestFetcher::pushed`].
    pub(crate) fn pushed_manifest(
        &self,
        writing: &Writing,
        reference: &Reference,
        further_tags: &[(Tag, bool)],
        digest: &Digest,
        media_type: Option<MediaType>,
        bytes: &Bytes,
    ) {
        let fetcher = self.manifests.fetcher();
        fetcher.pushed(writing, reference, further_tags, digest, media_type, bytes);
    }

    /// Notes that the upstream has taken a blob that was pushed through this gateway.
    pub(crate) fn pushed_blob(&self, repository: &RepositoryName, digest: &Digest) {
        self.metadata.pushed_blob(repository, digest);
    }

    /// Returns the manifest that `reference` names. A GET counts as a pull: its blobs may be fetched ahead. HEAD has `head`, and
    /// causes no download that it does not need.
    ///
    /// # Errors
    /// [`CacheError`]; [`CacheError::Bypass`] for a digest that can't be checked here. Never that where the upstream must not
    /// be asked.
    pub(crate) async fn manifest(
        &self,
        requester: &Requester,
        reference: &Reference,
        accept: &Accept,
        head: bool,
    ) -> Result<Manifest, CacheError> {
        self.authorizer.authorize_manifest(requester, reference).await?;
        let manifest = self.manifests.pull(requester, reference, accept, head).await;
        let manifest = manifest.map_err(|refusal| self.count_bypass(refusal))?;
        // A manifest asked for by digest is the right one whatever its type.
        let is_chosen = matches!(reference, Reference::Digest(_));
        let manifest = if is_chosen || accept.accepts_manifest(&manifest.media_type) {
            manifest
        } else {
            Box::pin(self.manifests.accepted(requester, reference, manifest, accept, head)).await?
        };
        // A replica's own manifest has its own replica fetch ahead.
        if !head && !requester.is_replica() {
            self.fetch_ahead(requester, &manifest);
        }
        Ok(manifest)
    }

    /// Begins to fetch the blobs of an image that was pulled.
    fn fetch_ahead(&self, requester: &Requester, manifest: &Manifest) {
        if self.cache.settings.prefetch
            && let Some(kept) = self.cache.manifests.load(&manifest.digest, Some(&manifest.media_type))
            && kept.document.media_type == manifest.media_type
            && kept.document.is_image()
        {
            self.prefetch.begin(requester, &kept.document.blobs);
        }
    }

    /// Returns the blob `digest`, or what `range` asks for of it; of HEAD, which has `head`, never more than what is known of
    /// it.
    ///
    /// # Errors
    /// [`CacheError`]. Whether the blob is here shows in none of them to a requester that may not have it.
    pub(crate) async fn blob(
        &self,
        requester: &Requester,
        digest: &Digest,
        range: Option<&ByteRange>,
        head: bool,
    ) -> Result<Blob, CacheError> {
        let blob = self.blobs.blob(requester, digest, range, head).await;
        let blob = blob.map_err(|refusal| self.count_bypass(refusal))?;
        if let Some(reason) = blob.bypass {
            self.cache.counters.bypassed(reason);
        }
        Ok(blob)
    }

    /// Begins the copy of an upload of `client`. Returns its id, by which later requests find it; none if there are too many.
    pub(crate) fn begin_push(&self, client: Client) -> Option<String> {
        self.pushes.begin(client)
    }

    /// Calls [`Pushes::take`].
    pub(crate) fn push(&self, id: &str, first: Option<u64>) -> Option<Push> {
        self.pushes.take(id, first)
    }

    /// Records that the upstream has taken a blob, and keeps it where `push` is its copy.
    pub(crate) async fn pushed(&self, repository: &RepositoryName, digest: &Digest, push: Option<Push>) {
        self.pushed_blob(repository, digest);
        if let Some(push) = push {
            self.pushes.finish(repository, digest, push).await;
        }
    }

    fn count_bypass(&self, refusal: CacheError) -> CacheError {
        if let CacheError::Bypass(reason) = refusal {
            self.cache.counters.bypassed(reason);
        }
        refusal
    }

    /// Returns the lists that the upstream has given.
    pub(crate) fn listings(&self) -> &Arc<Listings> {
        &self.listings
    }

    /// Forgets which blobs the upstream said that a repository holds: it has refused a manifest there, which may be for a blob
    /// that it has lost.
    pub(crate) async fn doubt_blobs(&self, repository: &RepositoryName) {
        let (ledger, repository) = (self.ledger.clone(), repository.clone());
        let release = move || ledger.release_blobs(&repository);
        // Where the disk does not answer in time, it is done once that does.
        let _ = self.cache.store.disk().run(Use::Write, "forgetting records", release).await;
    }

    /// Calls [`UpstreamGate::refrains`].
    pub(crate) fn refrains(&self, requester: &Requester) -> Option<CacheError> {
        self.gate.upstream().refrains(requester)
    }

    /// Calls [`UpstreamGate::learn_of`].
    pub(crate) fn learn_of(&self, requester: &Requester, meaning: Meaning, object: &str) {
        self.gate.upstream().learn_of(requester, meaning, object);
    }

    /// Returns why the upstream gave no answer the last time that it did not.
    pub(crate) fn last_failure(&self) -> Option<Arc<str>> {
        self.gate.upstream().last_failure()
    }

    /// Calls [`UpstreamGate::ends`].
    pub(crate) fn ends(&self, requester: &Requester, meaning: Meaning) -> Ends {
        self.gate.upstream().ends(requester, meaning)
    }

    /// Returns the state of the upstream's breaker.
    pub(crate) fn breaker_state(&self) -> BreakerState {
        self.gate.upstream().breaker_state()
    }

    /// Calls [`UpstreamGate::breaker_history`].
    pub(crate) fn breaker_history(&self) -> (Option<Duration>, u64) {
        self.gate.upstream().breaker_history()
    }
}

/// Returns the gate to what is behind the cache of `upstream`.
fn gate(
    cache: &Cache,
    upstream: &config::Upstream,
    settings: &config::UpstreamCacheOptions,
    grants: Arc<Grants>,
) -> Gate {
    let name = fleet_name(upstream);
    let fleet = cache.fleet.clone().map(|fleet| FleetAccess {
        fleet,
        upstream: name.clone(),
        patience: patience(upstream),
    });
    let store = cache.remote.clone().map(|store| StoreAccess::new(store, name, upstream.read_only));
    Gate::new(fleet, store, UpstreamGate::new(upstream.name.as_str().into(), settings, grants))
}

/// Returns the name by which all replicas call an upstream: the same name may stand for another registry elsewhere.
fn fleet_name(upstream: &config::Upstream) -> Arc<str> {
    format!("{} {}", upstream.name, upstream.url).into()
}

/// Returns how long the upstream may have a replica wait that was asked for something, with some time for itself.
fn patience(upstream: &config::Upstream) -> Duration {
    let once = upstream.connect_timeout + upstream.response_timeout;
    once.saturating_mul(upstream.retries.saturating_add(1)).saturating_add(limits::PEER_ANSWER)
}

/// The way to an upstream that is not asked: as `dockgate cache list` opens a cache.
struct Unattached;

impl Origins for Unattached {
    fn origin(&self, _: &Permit, _: &RepositoryName, _: Arc<HeaderMap>) -> Arc<dyn Origin> {
        Arc::new(Self)
    }
}

impl Origin for Unattached {
    fn ask(&self, _: OriginRequest) -> Asking<'_> {
        Box::pin(async { Err(UpstreamFailure::unusable("nothing: it is not asked here")) })
    }

    fn account(&self) -> Arc<str> {
        "".into()
    }

    fn is_shared(&self) -> bool {
        true
    }
}
