//! The records of one upstream. An answer that was asked for before a write changes nothing.

use std::sync::Arc;

use crate::cache::metadata::generation::{Generation, Generations};
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::metadata::records::Ledger;
use crate::cache::store::disk_pool::DiskPool;
use crate::cache::store::{Kind, Store, pace};
use crate::clock;
use crate::config;
use crate::config::RepositoryPattern;
use crate::proto::{Digest, Reference, RepositoryName, Tag};

/// The records of one upstream, and the write generations of its repositories.
pub(crate) struct UpstreamMetadata {
    /// The upstream's name. With it a repository's name is unique among all upstreams. A reload creates another value with
    /// the same name for the same records.
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
    /// The repository's generation when the write began.
    generation: Generation,
}

impl Writing {
    /// Returns the repository that is written to.
    pub(crate) fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// Returns the repository's generation when the write began.
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

    /// Returns the threads that wait for the disk.
    pub(crate) fn disk(&self) -> &Arc<DiskPool> {
        self.store.disk()
    }

    /// Returns the records.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the canonical name of the repository that the upstream calls `name`; none if it would be too long.
    pub(crate) fn canonical(&self, name: &RepositoryName) -> Option<RepositoryName> {
        name.with_prefix(&self.prefix).ok()
    }

    /// Keeps the content of all repositories that `keep` matches from being evicted.
    pub(crate) fn keep_all(&self) {
        for repository in self.ledger.repositories() {
            if self.is_kept(&repository) {
                let held =
                    self.ledger.blobs(&repository).into_iter().chain(self.ledger.manifests(&repository));
                held.for_each(|digest| {
                    self.store.keep(&digest);
                    pace::rest();
                });
            }
        }
    }

    fn is_kept(&self, repository: &RepositoryName) -> bool {
        !self.keep.is_empty()
            && self
                .canonical(repository)
                .is_some_and(|name| self.keep.iter().any(|pattern| pattern.matches(&name)))
    }

    /// Returns the generation of `repository`, to be noted before the upstream is asked.
    pub(crate) fn generation(&self, repository: &RepositoryName) -> Generation {
        self.generations.of((&*self.upstream, repository))
    }

    /// Notes that `repository` has been written to: answers to earlier requests are not recorded any more. Returns the
    /// generations before and after.
    pub(crate) fn advance(&self, repository: &RepositoryName) -> (Generation, Generation) {
        let generations = self.generations.advance((&*self.upstream, repository));
        self.ledger.forget_lists(repository);
        generations
    }

    /// Notes that something is about to be written to a repository through this gateway.
    pub(crate) fn begin_write(&self, repository: &RepositoryName) -> Writing {
        Writing { repository: repository.clone(), generation: self.generation(repository) }
    }

    /// Forgets content that was, or may have been, deleted from a repository through this gateway.
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

    /// Records that a repository holds a blob, which the upstream has accepted in a push through this gateway.
    pub(crate) fn pushed_blob(&self, repository: &RepositoryName, digest: &Digest) {
        let (_, generation) = self.advance(repository);
        let held = Membership { media_type: None, size: None, confirmed: clock::wall() };
        self.hold_since(generation, repository, Kind::Blob, digest, &held);
    }

    /// Records that a repository holds content, unless the repository has been written to since `generation`, at which the
    /// upstream was asked. Returns true if it was recorded.
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

    /// Records where a tag points, on the same condition.
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

    /// Forgets that a repository holds content, on the same condition.
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

    /// Runs `note`, unless `repository` has been written to since `generation`, and then `undo`, if it was written to
    /// meanwhile. Returns true if it was not written to. Takes no lock, so that no request waits for another's disk.
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
