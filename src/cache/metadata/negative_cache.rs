//! Manifests that the upstream has lately said not to have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Equivalent;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::metadata::generation::Generation;
use crate::clock;
use crate::proto::{ErrorCode, Reference, RepositoryName};

/// The manifests that one upstream has lately said not to have. A blob's 404 is never believed.
pub(crate) struct NegativeCache {
    ttl: Duration,
    told: Cache<Key, Refusal>,
}

/// The upstream's 404, of a repository at that generation: a write to it ends that.
#[derive(Clone, Copy)]
struct Refusal {
    code: ErrorCode,
    until: Instant,
    generation: Generation,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    repository: RepositoryName,
    reference: Reference,
    account: Arc<str>,
}

/// A borrowed [`Key`]. Has the hash of the [`Key`] with the same fields.
#[derive(Hash)]
struct Look<'a> {
    repository: &'a RepositoryName,
    reference: &'a Reference,
    account: &'a str,
}

impl Equivalent<Key> for Look<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.reference == &key.reference
            && self.repository == &key.repository
            && self.account == &*key.account
    }
}

impl NegativeCache {
    /// Returns none yet. Each will be believed for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        let told = Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build();
        Self { ttl, told }
    }

    /// Returns the code with which `account` has been told so of the repository, which is at `generation`; none if it has not.
    pub(crate) fn knows(
        &self,
        repository: &RepositoryName,
        generation: Generation,
        reference: &Reference,
        account: &str,
    ) -> Option<ErrorCode> {
        let told = self.told.get(&Look { repository, reference, account })?;
        (clock::now() < told.until && told.generation == generation).then_some(told.code)
    }

    /// Notes that `account` has been told so with `code` of the repository, which was at `generation` when it was asked.
    pub(crate) fn note(
        &self,
        repository: &RepositoryName,
        generation: Generation,
        reference: &Reference,
        account: &str,
        code: ErrorCode,
    ) {
        if self.ttl.is_zero() {
            return;
        }
        let told = Refusal { code, until: clock::now() + self.ttl, generation };
        let (repository, reference) = (repository.clone(), reference.clone());
        self.told.insert(Key { repository, reference, account: account.into() }, told);
    }
}

/// Names that clients make up cost some 20 MiB at most.
const ENTRIES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::metadata::generation::Generations;

    const UNKNOWN: ErrorCode = ErrorCode::ManifestUnknown;
    const TTL: Duration = Duration::from_secs(60);

    fn repository(name: &str) -> RepositoryName {
        RepositoryName::parse(name).unwrap()
    }

    fn reference(name: &str) -> Reference {
        Reference::parse(name).unwrap()
    }

    /// The generation of a repository that was never written to.
    fn never() -> Generation {
        Generations::default().of("alpine")
    }

    #[tokio::test(start_paused = true)]
    async fn a_404_is_believed_for_a_while() {
        let (not_found, alpine, latest) =
            (NegativeCache::new(TTL), repository("alpine"), reference("latest"));
        assert!(not_found.knows(&alpine, never(), &latest, "").is_none());
        not_found.note(&alpine, never(), &latest, "", UNKNOWN);
        tokio::time::advance(TTL - Duration::from_millis(1)).await;
        assert!(not_found.knows(&alpine, never(), &latest, "").is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(not_found.knows(&alpine, never(), &latest, "").is_none());
    }

    #[test]
    fn a_404_is_of_one_manifest_to_one_account() {
        let (not_found, alpine, latest) =
            (NegativeCache::new(TTL), repository("alpine"), reference("latest"));
        not_found.note(&alpine, never(), &latest, "alice", UNKNOWN);
        assert!(not_found.knows(&alpine, never(), &latest, "alice").is_some());
        assert!(not_found.knows(&alpine, never(), &latest, "").is_none());
        assert!(not_found.knows(&alpine, never(), &latest, "bob").is_none());
        assert!(not_found.knows(&alpine, never(), &reference("3"), "alice").is_none());
        assert!(not_found.knows(&repository("nginx"), never(), &latest, "alice").is_none());
    }

    #[test]
    fn a_write_ends_those_of_its_repository() {
        let (not_found, alpine) = (NegativeCache::new(TTL), repository("alpine"));
        let generations = Generations::default();
        let (before, after) = generations.advance(&alpine);
        for name in ["1", "2"] {
            not_found.note(&alpine, before, &reference(name), "", UNKNOWN);
            assert!(not_found.knows(&alpine, before, &reference(name), "").is_some());
            assert!(not_found.knows(&alpine, after, &reference(name), "").is_none());
        }
        not_found.note(&alpine, after, &reference("1"), "", UNKNOWN);
        assert!(not_found.knows(&alpine, after, &reference("1"), "").is_some());
    }

    #[test]
    fn a_ttl_of_zero_remembers_nothing() {
        let (not_found, alpine, latest) =
            (NegativeCache::new(Duration::ZERO), repository("alpine"), reference("latest"));
        not_found.note(&alpine, never(), &latest, "", UNKNOWN);
        assert!(not_found.knows(&alpine, never(), &latest, "").is_none());
        assert_eq!(not_found.told.iter().count(), 0);
    }

    #[test]
    fn made_up_names_are_bounded() {
        let (not_found, alpine) = (NegativeCache::new(TTL), repository("alpine"));
        for number in 0..ENTRIES + 5000 {
            not_found.note(&alpine, never(), &reference(&number.to_string()), "", UNKNOWN);
        }
        not_found.told.run_pending_tasks();
        assert!(not_found.told.entry_count() <= ENTRIES);
        assert!(not_found.knows(&alpine, never(), &reference(&(ENTRIES + 4999).to_string()), "").is_some());
    }
}
