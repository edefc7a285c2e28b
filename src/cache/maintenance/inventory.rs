//! Listings of a cache's contents.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::counters::Counted;
use crate::cache::maintenance::reachable::Reach;
use crate::cache::maintenance::selection::Selection;
use crate::cache::origin::breaker::BreakerState;
use crate::cache::store::{Amount, Kind};
use crate::cache::{Cache, MemberReport, StoreStats, UpstreamCache};
use crate::clock;
use crate::proto::{Digest, RepositoryName};

/// A cache in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Its directory, without symbolic links.
    pub path: PathBuf,
    /// The most that it may hold, in bytes.
    pub max_size: u64,
    /// Layers and configurations.
    pub blobs: Amount,
    /// Manifests and indexes.
    pub manifests: Amount,
    /// Blobs on their way, or left half way.
    pub partial: Amount,
    /// The reason why nothing can be kept now, if there is one.
    pub degraded: Option<String>,
    /// Each upstream's part.
    pub upstreams: Vec<UpstreamStats>,
    /// The counters of a running gateway since its start.
    pub counted: Option<Counted>,
    /// The object store behind it, as a running gateway knows it.
    #[serde(default)]
    pub store: Option<StoreStats>,
    /// All replicas, as a running gateway knows them; none where it is alone.
    #[serde(default)]
    pub fleet: Vec<MemberReport>,
}

/// The part of a cache that belongs to one upstream, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamStats {
    /// Its name.
    pub name: String,
    /// Repositories with records.
    pub repositories: u64,
    /// Tags that are known.
    pub tags: u64,
    /// `closed`, or `open`: it has failed so often that it is not asked for a moment. Of a running gateway.
    pub breaker: Option<String>,
    /// True if it is never asked.
    pub offline: bool,
}

/// An image that is here: a tag, or a manifest that no tag leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The repository's canonical name.
    pub repository: String,
    /// The tag, where there is one.
    pub tag: Option<String>,
    /// The manifest.
    pub digest: String,
    /// Bytes that are here of all that it leads to. Images may share some of them.
    pub size: u64,
    /// Seconds since the upstream said last that it is so.
    pub age: u64,
    /// Where it is, if several places were asked: `here`, the names of other replicas, `store`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
}

/// Counts the contents. `runs` is true in the gateway itself, which alone has counters and breakers.
pub(crate) fn stats(cache: &Cache, upstreams: &[Arc<UpstreamCache>], runs: bool) -> Stats {
    let usage = cache.store().usage();
    Stats {
        path: std::fs::canonicalize(cache.path()).unwrap_or_else(|_| cache.path().clone()),
        max_size: cache.settings.max_size,
        blobs: usage.blobs,
        manifests: usage.manifests,
        partial: usage.partials,
        degraded: cache.store().degraded_reason(),
        upstreams: upstreams.iter().map(|upstream| stats_of(upstream, runs)).collect(),
        counted: runs.then(|| cache.counters().counted()),
        store: cache.remote.as_ref().filter(|_| runs).map(|remote| remote.stats()),
        fleet: cache.fleet.as_ref().filter(|_| runs).map(|fleet| fleet.report()).unwrap_or_default(),
    }
}

fn stats_of(upstream: &UpstreamCache, runs: bool) -> UpstreamStats {
    let repositories = upstream.ledger.repositories();
    let tags = repositories.iter().map(|repository| upstream.ledger.tags(repository).len() as u64).sum();
    let breaker = runs
        .then(|| if upstream.breaker_state() == BreakerState::Open { "open" } else { "closed" }.to_owned());
    UpstreamStats {
        name: upstream.name().to_owned(),
        repositories: repositories.len() as u64,
        tags,
        breaker,
        offline: upstream.settings().offline,
    }
}

/// Returns the images that `selection` means, by their names.
pub(crate) fn list(upstreams: &[Arc<UpstreamCache>], selection: &Selection) -> Vec<Entry> {
    let mut entries: Vec<Entry> =
        upstreams.iter().flat_map(|upstream| entries_of(upstream, selection)).collect();
    entries.sort();
    entries
}

fn entries_of(upstream: &UpstreamCache, selection: &Selection) -> Vec<Entry> {
    let repositories = upstream.ledger.repositories().into_iter();
    let named = repositories.filter_map(|name| Some((upstream.canonical(&name)?, name)));
    let meant = named.filter(|(canonical, _)| selection.has(canonical));
    meant.flat_map(|(canonical, name)| of_repository(upstream, selection, &canonical, &name)).collect()
}

fn of_repository(
    upstream: &UpstreamCache,
    selection: &Selection,
    canonical: &RepositoryName,
    name: &RepositoryName,
) -> Vec<Entry> {
    let ledger = &upstream.ledger;
    let store = upstream.cache().store();
    let entry = |tag: Option<String>, digest: &Digest, confirmed: std::time::SystemTime| Entry {
        repository: canonical.to_string(),
        tag,
        digest: digest.to_string(),
        size: Reach::of(store, [digest.clone()]).bytes(store),
        age: clock::wall().duration_since(confirmed).unwrap_or_default().as_secs(),
        places: Vec::new(),
    };
    let tags = ledger.tags(name).into_iter().filter_map(|tag| Some((ledger.tag(name, &tag)?, tag)));
    let tags: Vec<_> = tags.collect();
    let tagged = Reach::of(store, tags.iter().map(|(pointer, _)| pointer.digest.clone()));
    let meant = tags.iter().filter(|(pointer, tag)| selection.has_tag(tag, &pointer.digest));
    let of_tags =
        meant.map(|(pointer, tag)| entry(Some(tag.to_string()), &pointer.digest, pointer.confirmed));
    let others = untagged(upstream, name, &tagged.manifests);
    let others = others
        .iter()
        .filter(|digest| selection.has_digest(digest))
        .filter_map(|digest| Some(entry(None, digest, ledger.held(name, Kind::Manifest, digest)?.confirmed)));
    of_tags.chain(others).collect()
}

/// Returns the manifests of a repository that neither a tag leads to nor another of them.
fn untagged(upstream: &UpstreamCache, name: &RepositoryName, tagged: &BTreeSet<Digest>) -> Vec<Digest> {
    let held = upstream.ledger.manifests(name).into_iter();
    let held: Vec<Digest> = held.filter(|digest| !tagged.contains(digest)).collect();
    let store = upstream.cache().store();
    let below = |digest: &Digest| {
        let mut reach = Reach::of(store, [digest.clone()]).manifests;
        reach.remove(digest);
        reach
    };
    let below: BTreeSet<Digest> = held.iter().flat_map(below).collect();
    held.into_iter().filter(|digest| !below.contains(digest)).collect()
}
