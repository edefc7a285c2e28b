//! Manifests that are known not to be there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Equivalent;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::metadata::generation::Generation;
use crate::clock;
use crate::proto::{Reference, RepositoryName};

/// What one upstream has said lately not to have. Of manifests only: a blob's 404 is never believed.
pub(crate) struct NotFound {
    ttl: Duration,
    told: Cache<Key, Told>,
}

/// Somebody was told so, of the repository as it was at that generation: what is written to it ends that.
#[derive(Clone, Copy)]
struct Told {
    until: Instant,
    generation: Generation,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    repository: RepositoryName,
    reference: Reference,
    account: Arc<str>,
}

/// Its hash is that of the [`Key`] with the same fields.
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

impl NotFound {
    /// Each is believed for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        let told = Cache::builder().max_capacity(ENTRIES).eviction_policy(EvictionPolicy::lru()).build();
        Self { ttl, told }
    }

    /// Whether `account` has been told so of the repository, which is at `generation`.
    pub(crate) fn knows(
        &self,
        repository: &RepositoryName,
        generation: Generation,
        reference: &Reference,
        account: &str,
    ) -> bool {
        let told = self.told.get(&Look { repository, reference, account });
        told.is_some_and(|told| clock::now() < told.until && told.generation == generation)
    }

    /// `account` has been told so of the repository, which was at `generation` when it was asked.
    pub(crate) fn note(
        &self,
        repository: &RepositoryName,
        generation: Generation,
        reference: &Reference,
        account: &str,
    ) {
        if self.ttl.is_zero() {
            return;
        }
        let told = Told { until: clock::now() + self.ttl, generation };
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

    const TTL: Duration = Duration::from_secs(60);

    fn repository(name: &str) -> RepositoryName {
        RepositoryName::parse(name).unwrap()
    }

    fn reference(name: &str) -> Reference {
        Reference::parse(name).unwrap()
    }

    /// That of a repository which was never written to.
    fn never() -> Generation {
        Generations::default().of("alpine")
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_found_is_believed_for_a_while() {
        let (not_found, alpine, latest) = (NotFound::new(TTL), repository("alpine"), reference("latest"));
        assert!(!not_found.knows(&alpine, never(), &latest, ""));
        not_found.note(&alpine, never(), &latest, "");
        tokio::time::advance(TTL - Duration::from_millis(1)).await;
        assert!(not_found.knows(&alpine, never(), &latest, ""));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!not_found.knows(&alpine, never(), &latest, ""));
    }

    #[test]
    fn it_was_said_of_one_manifest_to_one_account() {
        let (not_found, alpine, latest) = (NotFound::new(TTL), repository("alpine"), reference("latest"));
        not_found.note(&alpine, never(), &latest, "alice");
        assert!(not_found.knows(&alpine, never(), &latest, "alice"));
        assert!(!not_found.knows(&alpine, never(), &latest, ""));
        assert!(!not_found.knows(&alpine, never(), &latest, "bob"));
        assert!(!not_found.knows(&alpine, never(), &reference("3"), "alice"));
        assert!(!not_found.knows(&repository("nginx"), never(), &latest, "alice"));
    }

    #[test]
    fn a_write_ends_all_of_its_repository_and_what_was_asked_before_it() {
        let (not_found, alpine) = (NotFound::new(TTL), repository("alpine"));
        let generations = Generations::default();
        let (before, after) = generations.advance(&alpine);
        for name in ["1", "2"] {
            not_found.note(&alpine, before, &reference(name), "");
            assert!(not_found.knows(&alpine, before, &reference(name), ""));
            assert!(!not_found.knows(&alpine, after, &reference(name), ""));
        }
        not_found.note(&alpine, after, &reference("1"), "");
        assert!(not_found.knows(&alpine, after, &reference("1"), ""));
    }

    #[test]
    fn nothing_is_believed_for_no_time() {
        let (not_found, alpine, latest) =
            (NotFound::new(Duration::ZERO), repository("alpine"), reference("latest"));
        not_found.note(&alpine, never(), &latest, "");
        assert!(!not_found.knows(&alpine, never(), &latest, ""));
        assert_eq!(not_found.told.iter().count(), 0);
    }

    #[test]
    fn made_up_names_take_no_more_than_their_room() {
        let (not_found, alpine) = (NotFound::new(TTL), repository("alpine"));
        for number in 0..ENTRIES + 5000 {
            not_found.note(&alpine, never(), &reference(&number.to_string()), "");
        }
        not_found.told.run_pending_tasks();
        assert!(not_found.told.entry_count() <= ENTRIES);
        assert!(not_found.knows(&alpine, never(), &reference(&(ENTRIES + 4999).to_string()), ""));
    }
}
