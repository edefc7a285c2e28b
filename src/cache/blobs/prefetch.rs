//! Fetching the blobs of a pulled image ahead of the client.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::cache::blobs::blob::Blobs;
use crate::cache::origin::breaker::BreakerState;
use crate::cache::origin::gate::Gate;
use crate::cache::requester::Requester;
use crate::clock;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName};

/// The blobs of one upstream that wait to be fetched ahead, or are being fetched.
pub(crate) struct Prefetch {
    blobs: Arc<Blobs>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The blobs that wait and those under way: none is there twice.
    listed: HashSet<Key>,
    running: usize,
}

type Key = (RepositoryName, Digest);

struct Waiting {
    requester: Requester,
    digest: Digest,
    since: Instant,
}

impl Queue {
    /// Lists a blob. Where too many wait, the one that has waited longest is dropped.
    fn list(&mut self, requester: &Requester, digest: &Digest) {
        let (requester, digest) = (requester.clone(), digest.clone());
        let waiting = Waiting { requester, digest, since: clock::now() };
        if !self.listed.insert(waiting.key()) {
            return;
        }
        self.waiting.push_back(waiting);
        if self.waiting.len() > limits::PREFETCH_WAITING {
            self.drop_first();
        }
    }

    /// Drops blobs that have waited too long. Each holds a requester, whose upstream may not be in use any more.
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

    /// Takes the first whose account the upstream does not limit.
    fn take(&mut self, gate: &Gate) -> Option<Waiting> {
        let position = self.waiting.iter().position(|waiting| !gate.is_limited(&waiting.requester))?;
        self.waiting.remove(position)
    }
}

impl Waiting {
    fn key(&self) -> Key {
        (self.requester.repository().clone(), self.digest.clone())
    }
}

impl Prefetch {
    /// Returns a prefetch of `blobs` that has nothing to do.
    pub(crate) fn new(blobs: Arc<Blobs>) -> Self {
        Self { blobs, queue: Mutex::default() }
    }

    /// Begins to fetch the blobs of an image that the requester has pulled, in its order, behind what clients ask for.
    pub(crate) fn begin<'a>(
        self: &Arc<Self>,
        requester: &Requester,
        digests: impl Iterator<Item = &'a Digest>,
    ) {
        if self.blobs.gate().held_only(requester).is_some() {
            return;
        }
        let missing: Vec<_> = digests.filter(|digest| self.blobs.is_missing(requester, digest)).collect();
        let mut queue = self.queue();
        missing.into_iter().for_each(|digest| queue.list(requester, digest));
        while queue.running < limits::PREFETCHES.min(queue.waiting.len()) {
            queue.running += 1;
            tokio::spawn(run(Runner { prefetch: self.clone(), ended: false }));
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Returns true if the upstream answers, and not too many clients wait for it.
    fn may_go_on(&self) -> bool {
        self.blobs.gate().breaker_state() == BreakerState::Closed
            && self.blobs.wanted() < limits::PREFETCH_YIELDS
    }
}

/// A task that fetches ahead; few run at a time.
struct Runner {
    prefetch: Arc<Prefetch>,
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
    /// Ends in the same moment in which it sees that nothing waits: a blob that is listed later starts another.
    fn next(&mut self) -> Next {
        let may_go_on = self.prefetch.may_go_on();
        let mut queue = self.prefetch.queue();
        queue.expire();
        if queue.waiting.is_empty() {
            queue.running -= 1;
            self.ended = true;
            return Next::End;
        }
        let next = if may_go_on { queue.take(self.prefetch.blobs.gate()) } else { None };
        next.map_or(Next::Pause, Next::Fetch)
    }

    async fn fetch(&self, waiting: Waiting) {
        let blobs = &self.prefetch.blobs;
        let _listed = Listed { prefetch: &self.prefetch, key: waiting.key() };
        if blobs.is_missing(&waiting.requester, &waiting.digest) {
            // The client asks for the blob itself, and hears why it does not come.
            let _ = blobs.fetch_ahead(&waiting.requester, &waiting.digest).await;
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = self.prefetch.queue();
            queue.running = queue.running.saturating_sub(1);
        }
    }
}

/// A blob under way.
struct Listed<'a> {
    prefetch: &'a Prefetch,
    key: Key,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.prefetch.queue().listed.remove(&self.key);
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

    /// An image with a configuration and these many layers.
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
    async fn blobs_follow_in_order_three_at_a_time() {
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
        assert_eq!(place.upstream_cache.prefetch.queue().running, 0);
        assert!(place.upstream_cache.prefetch.queue().listed.is_empty());
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
    async fn no_blob_waits_twice() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(6));
        for _ in 0..3 {
            pull(&place, "v1", false).await;
        }
        assert_eq!(place.upstream_cache.prefetch.queue().waiting.len(), 7);
        settle().await;
        assert_eq!(place.registry.asked(), blobs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limits_pause_it() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(0));
        pull(&place, "v1", false).await;
        place.upstream_cache.gate.rate_limits().note(&"".into(), Some(2 * SECOND)).unwrap();
        tokio::time::sleep(SECOND).await;
        assert!(place.registry.asked().is_empty());
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(place.registry.asked(), blobs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn blobs_that_waited_too_long_are_dropped() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(3));
        pull(&place, "v1", false).await;
        for object in 0..3 {
            let _ = place.upstream_cache.gate.breaker().note(UNAVAILABLE, object);
        }
        tokio::time::sleep(HOUR).await;
        let queue = place.upstream_cache.prefetch.queue();
        assert_eq!((queue.waiting.len(), queue.listed.len(), queue.running), (0, 0, 0));
        drop(queue);
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test]
    async fn where_too_many_wait_the_oldest_is_dropped() {
        let place = Place::prefetching();
        let view = place.repository();
        let mut queue = Queue::default();
        for number in 0..=limits::PREFETCH_WAITING {
            let digest = Digest::parse(&digest(number)).unwrap();
            queue.list(&view.requester, &digest);
        }
        assert_eq!(
            (queue.waiting.len(), queue.listed.len()),
            (limits::PREFETCH_WAITING, limits::PREFETCH_WAITING)
        );
        assert!(!queue.listed.contains(&(name(), Digest::parse(&digest(0)).unwrap())));
    }
}
