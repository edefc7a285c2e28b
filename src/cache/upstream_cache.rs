//! What is kept of one upstream, and how it stands with it.

use std::sync::Arc;

use crate::authz::Permit;
use crate::cache::Cache;
use crate::cache::blobs::prefetch::Prefetch;
use crate::cache::manifests::document::Document;
use crate::cache::manifests::listing::Lists;
use crate::cache::manifests::pull::{Asked, Asking};
use crate::cache::manifests::tag::PendingTags;
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::membership::Lookup;
use crate::cache::metadata::negative_cache::NotFound;
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::metadata::records::Ledger;
use crate::cache::origin::Origin;
use crate::cache::origin::breaker::Breaker;
use crate::cache::origin::rate_limit::RateLimitPauses;
use crate::cache::pull_authorization::Grants;
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::clock;
use crate::config;
use crate::proto::{Digest, MediaType, Reference, RepositoryName, Tag};
use crate::single_flight::SingleFlight;

/// One upstream's part of the cache.
pub(crate) struct UpstreamCache {
    pub(crate) cache: Arc<Cache>,
    /// The upstream's name.
    pub(crate) name: Arc<str>,
    /// What stands before its repositories' names here.
    prefix: Box<str>,
    /// As it is configured.
    upstream: config::Upstream,
    pub(crate) settings: config::UpstreamCacheOptions,
    pub(crate) ledger: Ledger,
    pub(crate) breaker: Breaker,
    pub(crate) limited: RateLimitPauses,
    pub(crate) not_found: NotFound,
    pub(crate) grants: Grants,
    pub(crate) prefetch: Prefetch,
    /// Manifests that are being asked for.
    pub(crate) manifests: SingleFlight<Asking, Asked>,
    /// Tags that the upstream has told of, whose manifests are not here.
    pub(crate) seen: PendingTags,
    /// Lists of what repositories are known to have, for when the upstream can't be asked.
    pub(crate) lists: Lists,
    /// Blobs of which the upstream is being asked whether a repository holds them.
    pub(crate) held: SingleFlight<(RepositoryName, Digest, Arc<str>), Lookup>,
}

/// Something that is being written to a repository through this gateway.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    repository: RepositoryName,
    /// Where it was when that began.
    generation: Generation,
}

impl UpstreamCache {
    /// What `cache` keeps of `upstream`. Asks it nothing.
    pub(crate) fn new(
        cache: Arc<Cache>,
        upstream: &config::Upstream,
        settings: &config::UpstreamCacheOptions,
    ) -> Arc<Self> {
        let ledger = cache.records.ledger(&upstream.name, &upstream.url.to_string());
        let site = Arc::new(Self {
            name: upstream.name.as_str().into(),
            prefix: upstream.prefix.as_str().into(),
            upstream: upstream.clone(),
            settings: settings.clone(),
            ledger,
            breaker: Breaker::default(),
            limited: RateLimitPauses::default(),
            not_found: NotFound::new(settings.not_found_ttl),
            grants: Grants::new(settings),
            prefetch: Prefetch::default(),
            manifests: SingleFlight::default(),
            seen: PendingTags::new(),
            lists: Lists::default(),
            held: SingleFlight::default(),
            cache,
        });
        if site.settings.offline {
            site.cache.records.never_expire();
        }
        if !site.cache.settings.keep.is_empty() {
            let kept = site.clone();
            site.cache.store.sort_out(move || kept.keep_all());
        }
        site
    }

    /// Marks what is here already and must not be evicted.
    fn keep_all(&self) {
        for repository in self.ledger.repositories() {
            if self.is_kept(&repository) {
                let held =
                    self.ledger.blobs(&repository).into_iter().chain(self.ledger.manifests(&repository));
                held.for_each(|digest| self.cache.store.keep(&digest));
            }
        }
    }

    /// Whether what a repository holds is never evicted.
    fn is_kept(&self, repository: &RepositoryName) -> bool {
        let keep = &self.cache.settings.keep;
        !keep.is_empty()
            && repository
                .with_prefix(&self.prefix)
                .is_ok_and(|name| keep.iter().any(|pattern| pattern.matches(&name)))
    }

    /// A repository holds something, by its upstream's word there.
    fn hold(&self, repository: &RepositoryName, kind: Kind, digest: &Digest, held: &Membership) {
        self.ledger.hold(repository, kind, digest, held);
        if self.is_kept(repository) {
            self.cache.store.keep(digest);
        }
    }

    /// The cache that it is a part of.
    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Its part of the configuration.
    pub(crate) fn settings(&self) -> &config::UpstreamCacheOptions {
        &self.settings
    }

    /// Whether it is of this upstream, with these settings. What was granted by other credentials, or by another registry's
    /// word, is not.
    pub(crate) fn is_of(&self, upstream: &config::Upstream) -> bool {
        self.upstream == *upstream && upstream.cache.as_ref() == Some(&self.settings)
    }

    /// Whether the upstream is shown a certificate, whoever asks it: then nobody asks as nobody.
    pub(crate) fn shows_certificate(&self) -> bool {
        self.upstream.client_certificate.is_some()
    }

    /// The upstream's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What everybody here calls the repository that the upstream calls `name`; none where that is too long for a name.
    pub(crate) fn canonical(&self, name: &RepositoryName) -> Option<RepositoryName> {
        name.with_prefix(&self.prefix).ok()
    }

    /// One request's view of a repository, which the upstream calls `name` and everybody here `permit.repository()`.
    pub(crate) fn repository(
        self: &Arc<Self>,
        permit: &Permit,
        name: &RepositoryName,
        source: Arc<dyn Origin>,
    ) -> Requester {
        Requester { site: self.clone(), permit: permit.clone(), name: name.clone(), source }
    }

    /// A repository has been written to through this gateway: what is known not to be there may be there now, and what is
    /// being asked of it may be out of date when it comes.
    pub(crate) fn written(&self, repository: &RepositoryName) {
        self.cache.generations.advance(self.key(repository));
    }

    /// Something is about to be written there through this gateway.
    pub(crate) fn begin_write(&self, repository: &RepositoryName) -> Writing {
        Writing { repository: repository.clone(), generation: self.generation(repository) }
    }

    /// Something has been deleted there through this gateway, or perhaps has.
    pub(crate) fn deleted(&self, repository: &RepositoryName, reference: &Reference) {
        self.written(repository);
        match reference {
            Reference::Tag(tag) => self.ledger.forget_tag(repository, tag),
            Reference::Digest(digest) => {
                self.release(repository, Kind::Manifest, digest);
                self.release(repository, Kind::Blob, digest);
            }
        }
    }

    /// A manifest has been pushed there through this gateway, and the upstream has taken it: this is a
    /// [`written`](Self::written) as well. Where something else was written there since `writing` began, nobody here knows
    /// which came last, and the tag is asked for again. What is not what `digest` says, or is no manifest, is not kept.
    pub(crate) fn pushed_manifest(
        &self,
        writing: &Writing,
        reference: &Reference,
        digest: &Digest,
        media_type: Option<MediaType>,
        bytes: &[u8],
    ) {
        let repository = &writing.repository;
        let document = Document::parse(bytes, media_type.as_ref()).ok().filter(|_| digest.is_of(bytes));
        let Some(document) = document else { return self.deleted(repository, reference) };
        let (before, generation) = self.cache.generations.advance(self.key(repository));
        let (size, confirmed) = (Some(bytes.len() as u64), clock::wall());
        let held = Membership { media_type: Some(document.media_type), size, confirmed };
        self.cache.store.keep_manifest(digest, bytes);
        self.ledger.note_served(digest);
        self.hold_since(generation, repository, Kind::Manifest, digest, &held);
        match reference {
            Reference::Tag(tag) if before == writing.generation => {
                self.point_since(
                    generation,
                    repository,
                    tag,
                    &TagRecord { digest: digest.clone(), confirmed },
                );
            }
            Reference::Tag(tag) => self.ledger.forget_tag(repository, tag),
            Reference::Digest(_) => {}
        }
    }

    /// A blob is at the upstream there, as it has said to a push through this gateway.
    pub(crate) fn pushed_blob(&self, repository: &RepositoryName, digest: &Digest) {
        let (_, generation) = self.cache.generations.advance(self.key(repository));
        let held = Membership { media_type: None, size: None, confirmed: clock::wall() };
        self.hold_since(generation, repository, Kind::Blob, digest, &held);
    }

    /// How often `repository` has been written to. What was asked for before counts for nothing.
    pub(crate) fn generation(&self, repository: &RepositoryName) -> Generation {
        self.cache.generations.of(self.key(repository))
    }

    /// A repository holds something, by its upstream's word there when it was at `generation`: whether that still counts.
    pub(crate) fn hold_since(
        &self,
        generation: Generation,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
        held: &Membership,
    ) -> bool {
        let hold = || self.hold(repository, kind, digest, held);
        self.unless_written(repository, generation, hold, || self.release(repository, kind, digest))
    }

    /// A tag points there, likewise.
    pub(crate) fn point_since(
        &self,
        generation: Generation,
        repository: &RepositoryName,
        tag: &Tag,
        pointer: &TagRecord,
    ) -> bool {
        let point = || self.ledger.point(repository, tag, pointer);
        self.unless_written(repository, generation, point, || self.ledger.forget_tag(repository, tag))
    }

    /// A repository does not hold something, likewise.
    pub(crate) fn release_since(
        &self,
        generation: Generation,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
    ) {
        self.unless_written(repository, generation, || self.release(repository, kind, digest), || ());
    }

    /// Does `note`, unless `repository` has been written to since it was at `generation`; where it is written to meanwhile,
    /// `undo` makes nothing known of it. The answer is whether it was not. Nobody waits for anybody's disk.
    pub(crate) fn unless_written(
        &self,
        repository: &RepositoryName,
        generation: Generation,
        note: impl FnOnce(),
        undo: impl FnOnce(),
    ) -> bool {
        if self.generation(repository) != generation {
            return false;
        }
        note();
        let unchanged = self.generation(repository) == generation;
        if !unchanged {
            undo();
        }
        unchanged
    }

    fn release(&self, repository: &RepositoryName, kind: Kind, digest: &Digest) {
        self.ledger.release(repository, kind, digest);
    }

    /// What tells a repository apart from all other upstreams'. Not the site: after a change of the configuration there is
    /// another, for the same records.
    fn key<'a>(&'a self, repository: &'a RepositoryName) -> (&'a str, &'a RepositoryName) {
        (&self.name, repository)
    }
}
