//! Records of one upstream, which no answer changes that a write has overtaken.

use std::sync::Arc;

use crate::cache::metadata::generation::{Generation, Generations};
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::metadata::records::Ledger;
use crate::cache::store::{Kind, Store};
use crate::clock;
use crate::config;
use crate::config::RepositoryPattern;
use crate::proto::{Digest, Reference, RepositoryName, Tag};

/// The records of one upstream, and how often its repositories have been written to.
pub(crate) struct UpstreamMetadata {
    /// The upstream's name. It tells a repository apart from all other upstreams', and outlives this value: after a change of
    /// the configuration there is another, for the same records.
    upstream: Arc<str>,
    /// The prefix of its repositories' names here.
    prefix: Box<str>,
    /// Repositories whose content is never evicted, by their names here.
    keep: Vec<RepositoryPattern>,
    ledger: Ledger,
    generations: Arc<Generations>,
    store: Arc<Store>,
}

/// A write to a repository through this gateway, under way.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    repository: RepositoryName,
    /// The repository's, when the write began.
    generation: Generation,
}

impl Writing {
    /// Returns the repository that is written to.
    pub(crate) fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// Returns where the repository was when the write began.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }
}

impl UpstreamMetadata {
    /// Returns the records in `ledger`. Content of repositories that `keep` matches is kept in `store`.
    pub(crate) fn new(
        upstream: &config::Upstream,
        keep: &[RepositoryPattern],
        ledger: Ledger,
        generations: Arc<Generations>,
        store: Arc<Store>,
    ) -> Self {
        let (name, prefix) = (upstream.name.as_str().into(), upstream.prefix.as_str().into());
        Self { upstream: name, prefix, keep: keep.to_vec(), ledger, generations, store }
    }

    /// Returns the records.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the canonical name of the repository that the upstream calls `name`; none where that is too long for a name.
    pub(crate) fn canonical(&self, name: &RepositoryName) -> Option<RepositoryName> {
        name.with_prefix(&self.prefix).ok()
    }

    /// Marks the content of kept repositories that is here already.
    pub(crate) fn keep_all(&self) {
        for repository in self.ledger.repositories() {
            if self.is_kept(&repository) {
                let held =
                    self.ledger.blobs(&repository).into_iter().chain(self.ledger.manifests(&repository));
                held.for_each(|digest| self.store.keep(&digest));
            }
        }
    }

    fn is_kept(&self, repository: &RepositoryName) -> bool {
        !self.keep.is_empty()
            && self
                .canonical(repository)
                .is_some_and(|name| self.keep.iter().any(|pattern| pattern.matches(&name)))
    }

    /// Returns how often `repository` has been written to, for what is about to be asked.
    pub(crate) fn generation(&self, repository: &RepositoryName) -> Generation {
        self.generations.of((&*self.upstream, repository))
    }

    /// Notes that `repository` has been written to: what was asked before counts for nothing. Returns its generations before
    /// and after.
    pub(crate) fn advance(&self, repository: &RepositoryName) -> (Generation, Generation) {
        self.generations.advance((&*self.upstream, repository))
    }

    /// Notes that something is about to be written to a repository through this gateway.
    pub(crate) fn begin_write(&self, repository: &RepositoryName) -> Writing {
        Writing { repository: repository.clone(), generation: self.generation(repository) }
    }

    /// Forgets what has been deleted from a repository through this gateway, or perhaps has.
    pub(crate) fn deleted(&self, repository: &RepositoryName, reference: &Reference) {
        self.advance(repository);
        match reference {
            Reference::Tag(tag) => self.ledger.forget_tag(repository, tag),
            Reference::Digest(digest) => {
                self.ledger.release(repository, Kind::Manifest, digest);
                self.ledger.release(repository, Kind::Blob, digest);
            }
        }
    }

    /// Records that a repository holds a blob, as the upstream has said to a push through this gateway.
    pub(crate) fn pushed_blob(&self, repository: &RepositoryName, digest: &Digest) {
        let (_, generation) = self.advance(repository);
        let held = Membership { media_type: None, size: None, confirmed: clock::wall() };
        self.hold_since(generation, repository, Kind::Blob, digest, &held);
    }

    /// Records that a repository holds something, by its upstream's word there when it was at `generation`. Returns true if
    /// that still counts.
    pub(crate) fn hold_since(
        &self,
        generation: Generation,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
        held: &Membership,
    ) -> bool {
        let hold = || {
            self.ledger.hold(repository, kind, digest, held);
            if self.is_kept(repository) {
                self.store.keep(digest);
            }
        };
        self.unless_written(repository, generation, hold, || self.ledger.release(repository, kind, digest))
    }

    /// Records where a tag points, likewise.
    pub(crate) fn point_since(
        &self,
        generation: Generation,
        repository: &RepositoryName,
        tag: &Tag,
        record: &TagRecord,
    ) -> bool {
        let point = || self.ledger.point(repository, tag, record);
        self.unless_written(repository, generation, point, || self.ledger.forget_tag(repository, tag))
    }

    /// Forgets that a repository holds something, likewise.
    pub(crate) fn release_since(
        &self,
        generation: Generation,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
    ) {
        let release = || self.ledger.release(repository, kind, digest);
        self.unless_written(repository, generation, release, || ());
    }

    /// Does `note`, unless `repository` has been written to since it was at `generation`; where it is written to meanwhile,
    /// does `undo`. Returns true if it was not. No request waits for another's disk.
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
}
