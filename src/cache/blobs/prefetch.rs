//! Fetching the layers of a pulled manifest ahead of the client.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::cache::manifests::document::{Document, Part};
use crate::cache::origin::breaker::BreakerState;
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::cache::upstream_cache::UpstreamCache;
use crate::clock;
use crate::config::limits;
use crate::proto::{Algorithm, Digest, RepositoryName};

/// What of one upstream waits to be fetched ahead, and what is.
#[derive(Default)]
pub(crate) struct Prefetch(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// What waits and what is under way: nothing is there twice.
    listed: HashSet<Key>,
    running: usize,
}

type Key = (RepositoryName, Digest);

struct Waiting {
    repository: Requester,
    part: Part,
    since: Instant,
}

impl Prefetch {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock()
    }
}

impl Queue {
    /// Lists a blob. Where too many wait, the one that has waited longest gives way.
    fn list(&mut self, repository: &Requester, part: &Part) {
        let waiting = Waiting { repository: repository.clone(), part: part.clone(), since: clock::now() };
        if !self.listed.insert(waiting.key()) {
            return;
        }
        self.waiting.push_back(waiting);
        if self.waiting.len() > limits::PREFETCH_WAITING {
            self.drop_first();
        }
    }

    /// Blobs that have waited too long are let go of. Each holds its site, which may not be in use any more.
    fn expire(&mut self) {
        let now = clock::now();
        while self.waiting.front().is_some_and(|first| now - first.since > limits::PREFETCH_LIFE) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.waiting.pop_front() {
            self.listed.remove(&first.key());
        }
    }

    /// The first whose account the upstream does not limit.
    fn take(&mut self) -> Option<Waiting> {
        let position = self.waiting.iter().position(|waiting| !waiting.repository.is_limited())?;
        self.waiting.remove(position)
    }
}

impl Waiting {
    fn key(&self) -> Key {
        (self.repository.name.clone(), self.part.digest.clone())
    }
}

impl Requester {
    /// A client has pulled an image's manifest: its blobs begin to fill, in its order, behind what clients ask for.
    pub(crate) fn prefetch(&self, document: &Document) {
        if self.is_held_only() {
            return;
        }
        let missing: Vec<_> = document.blobs.iter().filter(|part| self.is_missing(part)).collect();
        let mut queue = self.site.prefetch.queue();
        missing.into_iter().for_each(|part| queue.list(self, part));
        while queue.running < limits::PREFETCHES.min(queue.waiting.len()) {
            queue.running += 1;
            tokio::spawn(run(Runner { site: self.site.clone(), ended: false }));
        }
    }

    fn is_missing(&self, part: &Part) -> bool {
        let here = self.site.cache.store.has(Kind::Blob, &part.digest) && self.known(&part.digest).is_some();
        part.digest.algorithm() != Algorithm::Other && !here
    }

    fn is_limited(&self) -> bool {
        self.site.gate.is_limited(self)
    }
}

/// One of the few that fetch ahead. It stays at one worker, whoever pulled.
struct Runner {
    site: Arc<UpstreamCache>,
    ended: bool,
}

enum Next {
    Fetch(Waiting),
    Pause,
    End,
}

async fn run(mut runner: Runner) {
    loop {
        match runner.next() {
            Next::Fetch(waiting) => runner.fetch(waiting).await,
            Next::Pause => tokio::time::sleep(limits::PREFETCH_PAUSE).await,
            Next::End => return,
        }
    }
}

impl Runner {
    /// Ends in the same moment in which it sees that nothing waits: what is listed later starts another.
    fn next(&mut self) -> Next {
        let may_go_on = self.may_go_on();
        let mut queue = self.site.prefetch.queue();
        queue.expire();
        if queue.waiting.is_empty() {
            queue.running -= 1;
            self.ended = true;
            return Next::End;
        }
        let next = if may_go_on { queue.take() } else { None };
        next.map_or(Next::Pause, Next::Fetch)
    }

    /// Whether the upstream lives, and not too many clients wait for it.
    fn may_go_on(&self) -> bool {
        let wanted = self.site.cache.fills.wanted(&self.site.name);
        self.site.breaker_state() == BreakerState::Closed && wanted < limits::PREFETCH_YIELDS
    }

    async fn fetch(&self, waiting: Waiting) {
        let _listed = Listed { site: &self.site, key: waiting.key() };
        let repository = Requester { ..waiting.repository };
        if repository.is_missing(&waiting.part) {
            // Whoever pulled asks for it himself, and hears why it does not come.
            let _ = repository.fetch_ahead(&waiting.part.digest).await;
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = self.site.prefetch.queue();
            queue.running = queue.running.saturating_sub(1);
        }
    }
}

/// A blob under way.
struct Listed<'a> {
    site: &'a UpstreamCache,
    key: Key,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.site.prefetch.queue().listed.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use crate::meaning::UNAVAILABLE;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::cache::scripted_origin::{HOUR, Place, SECOND, name, settle};
    use crate::proto::{Accept, Reference, media_type};

    fn digest(number: usize) -> String {
        format!("sha256:{number:064x}")
    }

    /// With a configuration and these many layers.
    fn image(layers: usize) -> String {
        let blob = |number| format!(r#"{{"digest":"{}","size":1}}"#, digest(number));
        let layers: Vec<_> = (1..=layers).map(blob).collect();
        format!(r#"{{"config":{},"layers":[{}]}}"#, blob(0), layers.join(","))
    }

    async fn pull(place: &Place, tag: &str, head: bool) {
        let reference = Reference::parse(tag).unwrap();
        place.repository().manifest(&reference, &Accept::default(), head).await.unwrap();
        place.registry.asked();
    }

    fn blobs(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("BLOB {}", digest(number))).collect()
    }

    #[tokio::test]
    async fn the_blobs_of_a_pulled_image_follow_in_its_order_three_at_a_time() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(6));
        pull(&place, "v1", false).await;
        let gate = Arc::new(Semaphore::new(0));
        place.registry.with().gate = Some(gate.clone());
        let before = place.registry.with().begun;
        settle().await;
        assert_eq!(place.registry.with().begun - before, 3);
        for permits in 1..=7 {
            gate.add_permits(1);
            settle().await;
            assert_eq!(place.registry.with().asked.len(), permits);
        }
        assert_eq!(place.registry.asked(), blobs(7));
        assert_eq!(place.site.prefetch.queue().running, 0);
        assert!(place.site.prefetch.queue().listed.is_empty());
    }

    #[tokio::test]
    async fn nothing_follows_a_head_or_an_index() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(1));
        let index = format!(r#"{{"manifests":[{{"digest":"{}","size":1}}]}}"#, digest(1));
        place.registry.push_as("multi", media_type::OCI_INDEX, &index);
        pull(&place, "v1", true).await;
        pull(&place, "multi", false).await;
        settle().await;
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test]
    async fn what_waits_already_does_not_wait_twice() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(6));
        for _ in 0..3 {
            pull(&place, "v1", false).await;
        }
        assert_eq!(place.site.prefetch.queue().waiting.len(), 7);
        settle().await;
        assert_eq!(place.registry.asked(), blobs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_fetched_ahead_while_the_upstream_limits_us() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(0));
        pull(&place, "v1", false).await;
        place.site.gate.rate_limits().note(&"".into(), Some(2 * SECOND)).unwrap();
        tokio::time::sleep(SECOND).await;
        assert!(place.registry.asked().is_empty());
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(place.registry.asked(), blobs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_waited_too_long_is_let_go_of() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(3));
        pull(&place, "v1", false).await;
        for object in 0..3 {
            let _ = place.site.gate.breaker().note(UNAVAILABLE, object);
        }
        tokio::time::sleep(HOUR).await;
        let queue = place.site.prefetch.queue();
        assert_eq!((queue.waiting.len(), queue.listed.len(), queue.running), (0, 0, 0));
        drop(queue);
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test]
    async fn where_too_many_wait_the_oldest_gives_way() {
        let place = Place::prefetching();
        let repository = place.repository();
        let mut queue = Queue::default();
        for number in 0..=limits::PREFETCH_WAITING {
            let digest = Digest::parse(&digest(number)).unwrap();
            queue.list(&repository.requester, &Part { digest, size: None });
        }
        assert_eq!(
            (queue.waiting.len(), queue.listed.len()),
            (limits::PREFETCH_WAITING, limits::PREFETCH_WAITING)
        );
        assert!(!queue.listed.contains(&(name(), Digest::parse(&digest(0)).unwrap())));
    }
}
