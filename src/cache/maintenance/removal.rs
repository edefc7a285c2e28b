//! Removal from a cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::maintenance::reachable::Reach;
use crate::cache::maintenance::selection::Selection;
use crate::cache::store::Kind;
use crate::cache::{Cache, RecordSubject, UpstreamCache};
use crate::proto::{Digest, RepositoryName, Tag};

/// The result of a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// Repositories with records that were removed.
    pub repositories: u64,
    /// Tags that are forgotten.
    pub tags: u64,
    /// Manifests that a repository is no longer known to hold.
    pub manifests: u64,
    /// Manifests and blobs that no repository holds any more, and that are gone.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// True if something could not be removed.
    pub left: bool,
    /// Other replicas that have removed something.
    #[serde(default)]
    pub elsewhere: u64,
    /// Other replicas that do not know of it, and why.
    #[serde(default)]
    pub untold: Vec<String>,
    /// True if it is removed from an object store too, also what is on no disk.
    #[serde(default)]
    pub has_store: bool,
}

/// Forgets what `selection` means of `upstreams`, and removes the content that no repository holds after that: here and in the object
/// store.
pub(crate) fn remove(cache: &Cache, upstreams: &[Arc<UpstreamCache>], selection: &Selection) -> Removed {
    if let Some(remote) = &cache.remote {
        for upstream in upstreams {
            let (own, selection) = (upstream.clone(), selection.clone());
            let meant = move |name: &RepositoryName, subject: &RecordSubject| {
                own.canonical(name).is_some_and(|canonical| selection.has(&canonical))
                    && match subject {
                        RecordSubject::Tag(tag) => selection.names_tag(tag),
                        RecordSubject::Content(_, digest) => selection.has_digest(digest),
                    }
            };
            remote.remove_records(&upstream.fleet_name(), Box::new(meant));
        }
    }
    remove_from(cache, upstreams, selection, true)
}

/// Removes the same from this replica's disk alone: another replica has removed it.
pub(crate) fn remove_here(cache: &Cache, upstreams: &[Arc<UpstreamCache>], selection: &Selection) -> Removed {
    remove_from(cache, upstreams, selection, false)
}

fn remove_from(
    cache: &Cache,
    upstreams: &[Arc<UpstreamCache>],
    selection: &Selection,
    everywhere: bool,
) -> Removed {
    let mut removed = Removed::default();
    let mut released = BTreeSet::new();
    for upstream in upstreams {
        for name in upstream.ledger.repositories() {
            if upstream.canonical(&name).is_some_and(|canonical| selection.has(&canonical)) {
                let (removed, released) = (&mut removed, &mut released);
                Removal { upstream, name: &name, everywhere, removed, released }.run(selection);
            }
        }
    }
    discard(cache, released, everywhere, &mut removed);
    removed
}

/// A removal from one repository.
struct Removal<'a> {
    upstream: &'a UpstreamCache,
    name: &'a RepositoryName,
    /// From the object store too.
    everywhere: bool,
    removed: &'a mut Removed,
    released: &'a mut BTreeSet<(Kind, Digest)>,
}

impl Removal<'_> {
    fn run(&mut self, selection: &Selection) {
        let before = (self.removed.tags, self.released.len());
        let held = self.held();
        let doomed = self.doomed(selection);
        for tag in &doomed.tags {
            self.upstream.ledger.forget_tag(self.name, tag);
            if self.everywhere
                && let Some(store) = self.upstream.gate.store()
            {
                store.forget_tag(self.name, tag);
            }
            self.removed.tags += 1;
        }
        for content in held.into_iter().filter(|content| doomed.has(content)) {
            self.release(content);
        }
        if selection.is_whole() {
            self.removed.left |= self.upstream.ledger.remove(self.name).is_err();
        }
        // An answer that is under way must not bring it back.
        self.upstream.written(self.name);
        if selection.is_whole() || before != (self.removed.tags, self.released.len()) {
            self.removed.repositories += 1;
        }
    }

    /// Returns what the repository holds.
    fn held(&self) -> Vec<(Kind, Digest)> {
        let ledger = &self.upstream.ledger;
        let manifests = ledger.manifests(self.name).into_iter().map(|digest| (Kind::Manifest, digest));
        manifests.chain(ledger.blobs(self.name).into_iter().map(|digest| (Kind::Blob, digest))).collect()
    }

    /// Returns what is meant, and what nothing that stays leads to once that is gone.
    fn doomed(&self, selection: &Selection) -> Doomed {
        let ledger = &self.upstream.ledger;
        if selection.is_whole() {
            return Doomed { tags: ledger.tags(self.name), all: true, reach: Reach::default() };
        }
        let store = self.upstream.cache().store();
        let tags = ledger.tags(self.name).into_iter();
        let tags = tags.filter_map(|tag| Some((ledger.tag(self.name, &tag)?.digest, tag)));
        let (meant, staying): (Vec<_>, Vec<_>) =
            tags.partition(|(digest, tag)| selection.has_tag(tag, digest));
        let named = self.held().into_iter().filter(|(_, digest)| selection.has_digest(digest));
        let (named, blobs): (Vec<_>, Vec<_>) = named.partition(|(kind, _)| *kind == Kind::Manifest);
        let roots = meant.iter().map(|(digest, _)| digest).chain(named.iter().map(|(_, digest)| digest));
        let mut reach = Reach::of(store, roots.cloned());
        // Manifests that are not meant, and that were pulled by their digests.
        let others =
            ledger.manifests(self.name).into_iter().filter(|digest| !reach.manifests.contains(digest));
        let staying = staying.into_iter().map(|(digest, _)| digest);
        let kept = Reach::of(store, staying.chain(others));
        reach.manifests.retain(|digest| !kept.manifests.contains(digest) || selection.has_digest(digest));
        reach.blobs.retain(|digest| !kept.blobs.contains(digest));
        reach.blobs.extend(blobs.into_iter().map(|(_, digest)| digest));
        Doomed { tags: meant.into_iter().map(|(_, tag)| tag).collect(), all: false, reach }
    }

    fn release(&mut self, (kind, digest): (Kind, Digest)) {
        self.upstream.ledger.release(self.name, kind, &digest);
        if self.everywhere
            && let Some(store) = self.upstream.gate.store()
        {
            store.forget(self.name, kind, &digest);
        }
        self.removed.manifests += u64::from(kind == Kind::Manifest);
        self.released.insert((kind, digest));
    }
}

/// The tags and content that go.
struct Doomed {
    tags: Vec<Tag>,
    all: bool,
    reach: Reach,
}

impl Doomed {
    fn has(&self, (kind, digest): &(Kind, Digest)) -> bool {
        let reached = match kind {
            Kind::Manifest => &self.reach.manifests,
            Kind::Blob => &self.reach.blobs,
        };
        self.all || reached.contains(digest)
    }
}

/// Removes those contents that no repository holds, be it behind an upstream that is not configured any more.
fn discard(cache: &Cache, mut contents: BTreeSet<(Kind, Digest)>, everywhere: bool, removed: &mut Removed) {
    for (upstream, url) in cache.records.upstreams() {
        let ledger = cache.records.ledger(&upstream, &url);
        for name in ledger.repositories() {
            if contents.is_empty() {
                return;
            }
            for digest in ledger.manifests(&name) {
                contents.remove(&(Kind::Manifest, digest));
            }
            for digest in ledger.blobs(&name) {
                contents.remove(&(Kind::Blob, digest));
            }
        }
    }
    for (kind, digest) in contents {
        let bytes = cache.store().length(kind, &digest);
        cache.small.remove(&digest);
        if let Some(remote) = cache.remote.as_ref().filter(|_| everywhere) {
            remote.remove(kind, &digest);
        }
        if cache.store().remove(kind, &digest) {
            removed.contents += 1;
            removed.bytes += bytes.unwrap_or_default();
        }
    }
}
