//! Fetching the blobs of a pulled image ahead of the client.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};

use crate::cache::blobs::blob::Blobs;
use crate::cache::blobs::credit::Holder;
use crate::cache::manifests::document::Part;
use crate::cache::origin::breaker::BreakerState;
use crate::cache::requester::Requester;
use crate::clock;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName};

/// The blobs of one upstream that wait to be fetched ahead, or are being fetched.
///
/// A client chooses by a manifest of some hundred bytes what is fetched for it. So the blobs of a manifest are counted, each is
/// fetched ahead once in a while whatever becomes of it, none is longer than its manifest says, and the client has credit for it.
pub(crate) struct Prefetch {
    blobs: Arc<Blobs>,
    queue: Mutex<Queue>,
    /// The blobs that have been fetched ahead lately, or tried.
    tried: Cache<Key, ()>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The blobs that wait and those under way: none is there twice.
    listed: HashSet<Key>,
    /// How many of each client wait.
    counts: HashMap<Holder, usize>,
    running: usize,
}

type Key = (RepositoryName, Digest);

struct Waiting {
    requester: Requester,
    digest: Digest,
    /// The most bytes that it may have, which is what its manifest says, and what the client pays for it.
    price: u64,
    since: Instant,
}

impl Queue {
    /// Lists a blob, unless as many wait for the client as may. Where too many wait for all, the one that has waited longest is
    /// dropped.
    fn list(&mut self, requester: &Requester, part: &Part) {
        let (requester, digest) = (requester.clone(), part.digest.clone());
        let price = part.size.unwrap_or(limits::PREFETCH_UNKNOWN_BYTES);
        let waiting = Waiting { requester, digest, price, since: clock::now() };
        let count = self.counts.get(&waiting.holder()).copied().unwrap_or_default();
        if count >= limits::PREFETCH_CLIENT_WAITING || !self.listed.insert(waiting.key()) {
            return;
        }
        self.counts.insert(waiting.holder(), count + 1);
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
        if let Some(first) = self.remove(0) {
            self.listed.remove(&first.key());
        }
    }

    /// Takes the first whose account the upstream does not limit, and whose client pays for it.
    fn take(&mut self, blobs: &Blobs) -> Option<Waiting> {
        let is_next = |Waiting { requester, price, .. }: &Waiting| {
            !blobs.gate().upstream().is_limited(requester) && blobs.credit(requester).pay(*price)
        };
        let position = self.waiting.iter().position(is_next)?;
        self.remove(position)
    }

    fn remove(&mut self, position: usize) -> Option<Waiting> {
        let removed = self.waiting.remove(position)?;
        if let Entry::Occupied(mut count) = self.counts.entry(removed.holder()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(removed)
    }
}

impl Waiting {
    fn key(&self) -> Key {
        (self.requester.repository().clone(), self.digest.clone())
    }

    /// Returns the client that it is fetched for.
    fn holder(&self) -> Holder {
        Holder::of(&self.requester)
    }
}

impl Prefetch {
    /// Returns a prefetch of `blobs` that has nothing to do.
    pub(crate) fn new(blobs: Arc<Blobs>) -> Self {
        let tried = Cache::builder().max_capacity(limits::PREFETCH_REMEMBERED);
        Self { blobs, queue: Mutex::default(), tried: tried.time_to_live(limits::PREFETCH_AGAIN).build() }
    }

    /// Begins to fetch the first blobs of an image that the requester has pulled, in its order, behind what clients ask for.
    pub(crate) fn begin(self: &Arc<Self>, requester: &Requester, parts: &[Part]) {
        if self.blobs.gate().upstream().held_only(requester).is_some() {
            return;
        }
        let untried = |part: &&Part| {
            let key = (requester.repository().clone(), part.digest.clone());
            !self.tried.contains_key(&key) && self.blobs.is_missing(requester, &part.digest)
        };
        let missing: Vec<_> = parts.iter().take(limits::PREFETCH_LAYERS).filter(untried).collect();
        let mut queue = self.queue();
        missing.into_iter().for_each(|part| queue.list(requester, part));
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
        self.blobs.gate().upstream().breaker_state() == BreakerState::Closed
            && self.blobs.wanted() < limits::PREFETCH_YIELDS
    }
}

/// A task that fetches ahead; few run at a time.
struct Runner {
    prefetch: Arc<Prefetch>,
    ended: bool,
}

enum Next {
    Fetch(Box<Waiting>),
    Pause,
    End,
}

async fn run(mut runner: Runner) {
    loop {
        match runner.next() {
            Next::Fetch(waiting) => runner.fetch(*waiting).await,
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
        let next = if may_go_on { queue.take(&self.prefetch.blobs) } else { None };
        next.map_or(Next::Pause, |waiting| Next::Fetch(Box::new(waiting)))
    }

    async fn fetch(&self, waiting: Waiting) {
        let blobs = &self.prefetch.blobs;
        let _listed = Listed { prefetch: &self.prefetch, key: waiting.key() };
        if !blobs.is_missing(&waiting.requester, &waiting.digest) {
            blobs.credit(&waiting.requester).add(waiting.price);
            return;
        }
        self.prefetch.tried.insert(waiting.key(), ());
        // The client asks for the blob itself, and hears why it does not come.
        let _ = blobs.fetch_ahead(&waiting.requester, &waiting.digest, Some(waiting.price)).await;
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
    use crate::budget::Client;
    use crate::cache::scripted_origin::{HOUR, Place, SECOND, name, settle};
    use crate::proto::{Accept, Reference, media_type};

    const MIB: u64 = 1024 * 1024;

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
        place.upstream_cache.gate.upstream().rate_limits().note(&"".into(), Some(2 * SECOND)).unwrap();
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
            let _ = place.upstream_cache.gate.upstream().breaker().note(UNAVAILABLE, object);
        }
        tokio::time::sleep(HOUR).await;
        let queue = place.upstream_cache.prefetch.queue();
        assert_eq!((queue.waiting.len(), queue.listed.len(), queue.running), (0, 0, 0));
        drop(queue);
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test]
    async fn missing_layers_are_tried_once() {
        let place = Place::prefetching();
        place.registry.push("v1", &image(3000));
        for _ in 0..3 {
            pull(&place, "v1", false).await;
            for _ in 0..20 {
                settle().await;
            }
        }
        assert_eq!(place.registry.asked(), [""; 0]);
        assert_eq!(
            place.registry.with().begun,
            2 + limits::PREFETCH_LAYERS,
            "HEAD, GET and the first layers"
        );
    }

    #[tokio::test]
    async fn blobs_without_credit_wait_for_it() {
        let place = Place::prefetching();
        let part =
            |number: usize, size| Part { digest: Digest::parse(&digest(number)).unwrap(), size: Some(size) };
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]]
            .map(|address| place.repository_from("", Client::of(address.into())).requester);
        let mut queue = Queue::default();
        let parts = [part(1, limits::CREDIT_BYTES - MIB / 2), part(2, 2 * MIB), part(3, 1)];
        parts.iter().for_each(|part| queue.list(&one, part));
        queue.list(&other, &part(4, 2 * MIB));
        let blobs = &place.upstream_cache.blobs;
        let mut take = || queue.take(blobs).map(|waiting| waiting.digest.to_string());
        assert_eq!(
            [take(), take(), take()],
            [1, 3, 4].map(|number| Some(digest(number))),
            "each from its client's credit"
        );
        assert_eq!(take(), None);
        blobs.credit(&one).add(2 * MIB);
        assert_eq!([take(), take()], [Some(digest(2)), None]);
        assert!(queue.counts.is_empty());
    }

    #[tokio::test]
    async fn where_too_many_wait_the_oldest_is_dropped() {
        let place = Place::prefetching();
        let mut queue = Queue::default();
        for number in 0..=limits::PREFETCH_WAITING {
            let client = Client::of([192, 0, 2, u8::try_from(number / 300).unwrap()].into());
            let digest = Digest::parse(&digest(number)).unwrap();
            queue.list(&place.repository_from("", client).requester, &Part { digest, size: None });
        }
        assert_eq!(
            (queue.waiting.len(), queue.listed.len()),
            (limits::PREFETCH_WAITING, limits::PREFETCH_WAITING)
        );
        assert!(!queue.listed.contains(&(name(), Digest::parse(&digest(0)).unwrap())));
    }

    #[tokio::test]
    async fn one_client_has_its_share_of_those_that_wait() {
        let place = Place::prefetching();
        let mut queue = Queue::default();
        let mut list = |client, numbers: std::ops::Range<usize>| {
            for number in numbers {
                let digest = Digest::parse(&digest(number)).unwrap();
                let requester = place.repository_from("", Client::of([192, 0, 2, client].into())).requester;
                queue.list(&requester, &Part { digest, size: None });
            }
            queue.waiting.len()
        };
        assert_eq!(list(1, 0..1000), limits::PREFETCH_CLIENT_WAITING);
        assert_eq!(list(2, 1000..1010), limits::PREFETCH_CLIENT_WAITING + 10);
    }
}
