//! The fills under way.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::futures::Notified;

use crate::budget::Budget;
use crate::cache::blobs::fill::memory::{FillMemory, Share};
use crate::cache::blobs::fill::open_partials::OpenPartials;
use crate::cache::blobs::fill::state::{Demand, Fill, Key, NEAR_BYTES};
use crate::cache::blobs::fill::subscription::Subscription;
use crate::cache::blobs::fill::waiters::{Waiter, Waiters};
use crate::cache::error::{BypassReason, CacheError};
use crate::cache::origin::ByteSpan;
use crate::cache::requester::Requester;
use crate::cache::store::Partial;
use crate::proto::Digest;

/// The fills under way, of all upstreams.
#[derive(Default)]
pub(crate) struct Fills {
    fills: Mutex<HashMap<Key, Arc<Fill>>>,
    /// Fills that are closed, and may be writing still, in whose place on the list there is another. Locked while `fills` is.
    ending: Mutex<Vec<Arc<Fill>>>,
    memory: FillMemory,
    partials: OpenPartials,
    waiters: Arc<Waiters>,
}

/// The bytes that a reader of a part wants next.
pub(crate) struct Wanted<'a> {
    pub(crate) at: u64,
    /// The byte behind the last; none: all up to the blob's end.
    pub(crate) end: Option<u64>,
    /// The bytes that are in the file already.
    pub(crate) partial: Option<&'a Arc<Partial>>,
    /// The blob's length, where it is known.
    pub(crate) total: Option<u64>,
    /// Another stream is begun, however many there are.
    pub(crate) urgent: bool,
}

/// The next bytes of a part, of which there are more than it may want.
pub(crate) enum Next {
    /// The bytes are in the file, up to this offset.
    There(u64),
    /// A fill brings the bytes, up to this offset; second: true if the fill was under way.
    Coming(Subscription, bool, Option<u64>),
    /// The bytes need one more stream than there may be, or the stream that brings them is ending.
    Waits(Waiter),
}

/// The bytes that the fill of a whole blob may fetch next.
pub(crate) enum Hole {
    /// From where it is up to this offset; none: to the end.
    Until(Option<u64>),
    /// None: another stream has the next, they have come, or clients wait for the streams that there may be.
    Taken,
}

impl Fills {
    /// Subscribes to the fill of `key`, or to the one that `begin` returns if there is none. Second: true if it was under way.
    ///
    /// # Errors
    /// [`CacheError::Bypass`] if there is no memory for one more.
    pub(crate) fn join(
        &self,
        key: &Key,
        requester: &Requester,
        demand: Demand,
        begin: impl FnOnce(Key, Share) -> Arc<Fill>,
    ) -> Result<(Subscription, bool), CacheError> {
        let mut fills = self.fills();
        if let Some(subscription) =
            fills.get(key).and_then(|fill| Subscription::join(fill, requester, demand))
        {
            return Ok((subscription, true));
        }
        let share = self.memory.take().ok_or(CacheError::Bypass(BypassReason::NoMemory))?;
        let fill = begin(key.clone(), share);
        let subscription = Subscription::first(&fill, requester, demand);
        if let Some(ending) = fills.insert(key.clone(), fill) {
            self.ending.lock().push(ending);
        }
        Ok((subscription, false))
    }

    /// Returns by what the next bytes of a part of the blob `whole` come, or begins a fill for them by `begin`. `pays` is asked
    /// whether so many bytes may be fetched behind those that are wanted.
    ///
    /// No two fills write the same byte: a stream that is under way ends where the new one begins, and the new one ends where
    /// another begins or the file has bytes. Both are decided while all others that would are kept out.
    ///
    /// # Errors
    /// [`CacheError::Bypass`] if there is no memory for one more.
    pub(crate) fn next(
        &self,
        whole: &Key,
        requester: &Requester,
        wanted: &Wanted<'_>,
        pays: impl FnOnce(u64) -> bool,
        begin: impl FnOnce(Key, Share) -> Arc<Fill>,
    ) -> Result<Next, CacheError> {
        let at = wanted.at;
        let mut fills = self.fills();
        let waits = || Ok(Next::Waits(Waiter::new(&self.waiters, whole)));
        let follow = |fill: &Arc<Fill>| Subscription::join(fill, requester, Demand::REQUIRED);
        let main = fills.get(whole).cloned();
        // Nothing of the store goes to a client before the whole is proved: not from the file either.
        if let Some(main) = main.as_ref().filter(|main| main.state().stored) {
            let Some(subscription) = follow(main) else { return waits() };
            return Ok(Next::Coming(subscription, true, wanted.end));
        }
        if self.ending.lock().iter().any(|fill| fill.key == *whole && fill.state().stored) {
            return waits();
        }
        // Bytes of the object store are given up together with the fill that read them.
        let partial = wanted.partial.filter(|partial| partial.is_usable());
        if let Some(end) = partial.and_then(|partial| partial.end_at(at)) {
            return Ok(Next::There(end));
        }
        let comes_soon = |main: &&Arc<Fill>| {
            let state = main.state();
            // Where it only waits for its turn, a stream for what is wanted costs less than one for all that is missing.
            state.is_near(at) && (state.fetches || state.is_required() || state.ring.end() > at)
        };
        if let Some(main) = main.as_ref().filter(comes_soon)
            && let Some(subscription) = follow(main)
        {
            return Ok(Next::Coming(subscription, true, wanted.end));
        }
        let parts = fills.values().filter(|fill| fill.key.is_part_of(whole));
        let claims: Vec<_> = parts.filter_map(|fill| Some((fill.clone(), fill.claim()?))).collect();
        let has_main = main.as_ref().is_some_and(|main| main.state().fetches);
        let is_full = claims.len() + usize::from(has_main) >= STREAMS && !wanted.urgent;
        let before = claims.iter().find(|(_, (first, end))| (*first..*end).contains(&at));
        if let Some((fill, (_, end))) = before {
            let (is_near, is_closed) = {
                let state = fill.state();
                (state.is_near(at), state.closed)
            };
            if is_near || is_full || is_closed {
                // A fill that is over may not have written its last bytes yet.
                let Some(subscription) = follow(fill) else { return waits() };
                return Ok(Next::Coming(subscription, true, Some(*end)));
            }
        }
        if is_full {
            return waits();
        }
        let next = claims.iter().map(|(_, (first, _))| *first).filter(|first| *first > at).min();
        let there = partial.and_then(|partial| partial.next_after(at));
        let cut = before.map(|(_, (_, end))| *end);
        let bound = [next, there, cut, wanted.total].into_iter().flatten().min();
        let ending: Vec<_> = self.ending.lock().iter().filter(|fill| fill.key == *whole).cloned().collect();
        for fill in main.iter().chain(&ending).chain(before.map(|(fill, _)| fill)) {
            let mut state = fill.state();
            if state.may_write() && state.ring.end() > at {
                // The byte has come since, and is not written yet.
                return waits();
            }
            state.until = state.until.min(at);
            fill.wake.notify_one();
        }
        // A stream that ended after the first look and before its claim was asked for has noted its bytes by now.
        if let Some(end) = partial.and_then(|partial| partial.end_at(at)) {
            return Ok(Next::There(end));
        }
        let end = wanted.end.map(|end| {
            let whole =
                bound.map_or(u64::MAX, |bound| bound.max(end)).min(end.next_multiple_of(SEGMENT_BYTES));
            // The bytes behind a long part are asked for next.
            let is_small = end.saturating_sub(at) < SEGMENT_BYTES;
            if is_small && whole > end && pays(whole - end) { whole } else { end }
        });
        let end = [end, bound.filter(|bound| *bound < u64::MAX)].into_iter().flatten().min();
        let part = ByteSpan { first: at, last: end.map(|end| end.saturating_sub(1)) };
        let key = Key { part: Some(part), ..whole.clone() };
        // A fill that is not kept is joined by requesters of the same part alone.
        if let Some(subscription) = fills.get(&key).and_then(follow) {
            return Ok(Next::Coming(subscription, true, end));
        }
        let share = self.memory.take().ok_or(CacheError::Bypass(BypassReason::NoMemory))?;
        let fill = begin(key.clone(), share);
        let subscription = Subscription::first(&fill, requester, Demand::REQUIRED);
        fills.insert(key, fill);
        Ok(Next::Coming(subscription, false, end))
    }

    /// Lets the stream of the whole blob that is being filled by `main` run on over what is there already, as the upstream sends it
    /// anyway, up to where another fill writes.
    pub(crate) fn run_over(&self, main: &Fill, at: u64) {
        let fills = self.fills();
        let claims =
            fills.values().filter(|fill| fill.key.is_part_of(&main.key)).filter_map(|fill| fill.claim());
        let until = claims.filter(|(_, end)| *end > at).map(|(first, _)| first).min();
        main.state().until = until.unwrap_or(u64::MAX);
    }

    /// Returns the hole that begins at `at`, for the stream of the whole blob that is being filled by `main`.
    pub(crate) fn hole(&self, main: &Fill, at: u64) -> Hole {
        let fills = self.fills();
        let hole = self.hole_among(&fills, main, at);
        let mut state = main.state();
        let fetches = matches!(hole, Hole::Until(_));
        if let Hole::Until(until) = hole {
            state.until = until.unwrap_or(u64::MAX);
        }
        if std::mem::replace(&mut state.fetches, fetches) && !fetches {
            // There may be one more stream.
            drop(state);
            self.note_change();
        }
        hole
    }

    fn hole_among(&self, fills: &HashMap<Key, Arc<Fill>>, main: &Fill, at: u64) -> Hole {
        let (partial, may_write, is_required) = {
            let state = main.state();
            (state.partial.clone(), state.may_write(), state.is_required())
        };
        if !may_write {
            // The fill goes on without the file, and so needs all bytes itself.
            return Hole::Until(None);
        }
        let parts = fills.values().filter(|fill| fill.key.is_part_of(&main.key));
        let claims: Vec<_> = parts.filter_map(|fill| fill.claim()).collect();
        let is_busy = || claims.len() + 1 >= STREAMS || self.waiters.has(&main.key);
        let is_ending = |fill: &Arc<Fill>| {
            fill.key == main.key && !std::ptr::eq(&**fill, main) && fill.state().may_write()
        };
        if claims.iter().any(|(first, end)| (*first..*end).contains(&at))
            || self.ending.lock().iter().any(is_ending)
            || (!is_required && is_busy())
        {
            return Hole::Taken;
        }
        // A stream that ended since the caller looked has noted its bytes by now.
        if partial.as_ref().is_some_and(|partial| partial.end_at(at).is_some()) {
            return Hole::Taken;
        }
        let next = claims.into_iter().map(|(first, _)| first).filter(|first| *first > at).min();
        let there = partial.as_ref().and_then(|partial| partial.next_after(at));
        // A blob that no client waits for is asked for in pieces, if others ask for parts: a client that wants some of these bytes
        // finds them near then, and no stream has to be cut for it.
        let is_limited = !is_required && partial.is_some_and(|partial| partial.is_scattered());
        let limit = is_limited.then(|| at.saturating_add(NEAR_BYTES));
        Hole::Until([next, there, limit].into_iter().flatten().min())
    }

    /// Returns a future that is ready when the fill of a part has begun, any has ended, or there may be one more stream; it counts
    /// from this call on.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.waiters.changed.notified()
    }

    /// Wakes those that wait for a change.
    pub(crate) fn note_change(&self) {
        self.waiters.changed.notify_waiters();
    }

    /// Returns the partials in use.
    pub(crate) fn partials(&self) -> &OpenPartials {
        &self.partials
    }

    /// Returns the budget of the bytes that fills hold in memory.
    pub(crate) fn memory(&self) -> &Budget {
        self.memory.budget()
    }

    /// Subscribes to the fill of `key` if there is one.
    pub(crate) fn follow(&self, key: &Key, requester: &Requester) -> Option<Subscription> {
        let fill = self.fills().get(key).cloned();
        fill.and_then(|fill| Subscription::join(&fill, requester, Demand::REQUIRED))
    }

    /// Returns true if a blob is on its way, for any requester.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.fills().contains_key(key)
    }

    /// Returns true if a blob or a part of it is on its way, and for other repositories than the requester's alone.
    pub(crate) fn is_foreign(&self, key: &Key, requester: &Requester) -> bool {
        let is_of = |fill: &&Arc<Fill>| fill.key == *key || fill.key.is_part_of(key);
        let fills: Vec<_> = self.fills().values().filter(is_of).cloned().collect();
        let is_foreign = |fill: &Arc<Fill>| {
            let state = fill.state();
            state
                .subscribers
                .iter()
                .all(|subscriber| subscriber.requester.repository() != requester.repository())
        };
        !fills.is_empty() && fills.iter().all(is_foreign)
    }

    /// Returns the number of fills from `upstream` that clients wait for.
    pub(crate) fn wanted(&self, upstream: &str) -> usize {
        let fills = self.fills();
        let of_it = fills.iter().filter(|(key, _)| &*key.upstream == upstream);
        of_it.filter(|(_, fill)| fill.state().is_required()).count()
    }

    /// Returns how far a blob is, and of how many bytes, whichever upstream it comes from.
    pub(crate) fn progress(&self, digest: &Digest) -> Option<(u64, Option<u64>)> {
        let fills = self.fills();
        let (_, fill) = fills.iter().find(|(key, _)| key.digest == *digest && key.part.is_none())?;
        let state = fill.state();
        Some((state.ring.end(), state.head.as_ref().and_then(|head| head.total)))
    }

    /// Stops all fills, which leave their partials. Returns true if there were any.
    pub(crate) fn stop(&self) -> bool {
        let fills: Vec<_> = self.fills().values().cloned().collect();
        for fill in &fills {
            fill.state().stopping = true;
            fill.wake.notify_one();
        }
        !fills.is_empty()
    }

    /// Removes a fill that is over: the next requester finds what is kept, or begins anew.
    pub(crate) fn remove(&self, fill: &Arc<Fill>) {
        let mut fills = self.fills();
        if fills.get(&fill.key).is_some_and(|known| Arc::ptr_eq(known, fill)) {
            fills.remove(&fill.key);
        }
        self.ending.lock().retain(|ending| !Arc::ptr_eq(ending, fill));
        drop(fills);
        self.note_change();
    }

    fn fills(&self) -> MutexGuard<'_, HashMap<Key, Arc<Fill>>> {
        self.fills.lock()
    }
}

/// The streams that fetch parts of one blob at a time, with that of the whole: as many as a registry's storage gives each client
/// its full speed, and few enough for each to be long.
const STREAMS: usize = 4;

/// A part of less than this that a client asks for is fetched up to a multiple of it, if the client has credit for that: the more,
/// the fewer requests small parts cost, and the more is fetched that no client may ask for. With 4 MiB, 64 KiB in 200 places of a blob of 256 MiB
/// cost some 120 requests and half of its bytes, and then it is completed.
pub(crate) const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::blobs::fill::ring::Ring;
    use crate::cache::blobs::fill::state::Head;
    use crate::cache::counters::Counters;
    use crate::cache::origin::Provenance;
    use crate::cache::scripted_origin::Place;

    const TOTAL: u64 = 64 << 20;

    fn new(key: Key, share: Share) -> Arc<Fill> {
        Fill::new(key, Arc::<Counters>::default(), share)
    }

    /// Begins a fill, which is kept.
    fn begin(fill: &Arc<Fill>, partial: &Arc<Partial>) {
        let first = fill.key.part.map_or(0, |part| part.first);
        let end = fill.key.part.and_then(|part| part.last).map_or(TOTAL, |last| last + 1);
        let mut state = fill.state();
        let (total, content_type) = (Some(TOTAL), None);
        let (end_of, etag, is_unasked, from) = (Some(end), None, false, Provenance::Upstream);
        let head = Head { total, first, end: end_of, content_type, etag, is_unasked, from };
        state.head = Some(Arc::new(head));
        (state.ring, state.kept, state.partial) = (Ring::at(first), true, Some(partial.clone()));
        state.until = state.until.min(end);
    }

    /// Returns a partial of a blob that does not come in order, and the key of the blob.
    fn scattered(place: &Place, name: u64) -> (Arc<Partial>, Key) {
        let digest = Digest::sha256_of(&name.to_le_bytes());
        let partial = place.upstream_cache.cache.store.begin("up", &digest, Some(TOTAL), None).unwrap();
        partial.scatter().unwrap();
        (Arc::new(partial), Key { upstream: "up".into(), digest, part: None })
    }

    #[tokio::test]
    async fn a_fill_waits_until_the_one_before_has_written() {
        let (place, fills) = (Place::new(), Fills::default());
        let requester = place.repository().requester;
        let (partial, whole) = scattered(&place, 0);
        let join = || fills.join(&whole, &requester, Demand::REQUIRED, new).unwrap();
        let (before, _) = join();
        begin(&before.fill, &partial);
        assert!(matches!(fills.hole(&before.fill, 0), Hole::Until(None)));
        // Its client has left, and what has come waits for the disk.
        before.fill.state().ring.pass(20 << 20);
        before.fill.state().closed = true;
        let (after, was_under_way) = join();
        assert!(!was_under_way);
        begin(&after.fill, &partial);
        assert!(matches!(fills.hole(&after.fill, 0), Hole::Taken));
        let next = |at| {
            let wanted = Wanted { at, end: None, partial: Some(&partial), total: Some(TOTAL), urgent: false };
            fills.next(&whole, &requester, &wanted, |_| true, new).unwrap()
        };
        assert!(matches!(next(19 << 20), Next::Waits(_)));
        assert!(matches!(next(40 << 20), Next::Coming(_, false, _)));
        partial.reached(0, 20 << 20);
        fills.remove(&before.fill);
        assert!(matches!(next(19 << 20), Next::There(_)));
        assert!(matches!(fills.hole(&after.fill, 20 << 20), Hole::Until(Some(end)) if end == 40 << 20));
    }

    #[tokio::test]
    async fn background_work_takes_no_stream_from_a_client() {
        let (place, fills) = (Place::new(), Fills::default());
        let requester = place.repository().requester;
        let (partial, whole) = scattered(&place, 0);
        let (main, _) = fills.join(&whole, &requester, Demand::background(TOTAL), new).unwrap();
        begin(&main.fill, &partial);
        let next = |at: u64| {
            let (end, total) = (Some(at + (9 << 20)), Some(TOTAL));
            let wanted = Wanted { at, end, partial: Some(&partial), total, urgent: false };
            fills.next(&whole, &requester, &wanted, |_| false, new).unwrap()
        };
        let streams: Vec<_> = [0, 9, 18, 27].map(|at| next(at << 20)).into();
        for stream in &streams {
            assert!(matches!(stream, Next::Coming(_, false, _)));
        }
        let waits = next(36 << 20);
        assert!(matches!(waits, Next::Waits(_)));
        let listed: Vec<_> = fills.fills().values().filter(|fill| fill.key.part.is_some()).cloned().collect();
        listed.iter().for_each(|fill| fills.remove(fill));
        assert!(matches!(fills.hole(&main.fill, 0), Hole::Taken), "a reader waits");
        let changed = fills.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        drop(waits);
        changed.await;
        assert!(matches!(fills.hole(&main.fill, 0), Hole::Until(Some(NEAR_BYTES))));
    }

    /// Returns the bytes that the streams under way will write.
    fn owned(fills: &Fills, main: Option<&Arc<Fill>>) -> Vec<(u64, u64)> {
        let listed: Vec<_> = fills.fills().values().filter(|fill| fill.key.part.is_some()).cloned().collect();
        let rest = |fill: &Arc<Fill>| {
            let state = fill.state();
            (state.ring.end(), state.until.min(TOTAL))
        };
        let mut owned: Vec<_> = listed.iter().chain(main).map(rest).filter(|(at, end)| at < end).collect();
        owned.sort_unstable();
        owned
    }

    #[tokio::test]
    async fn no_byte_is_given_to_two_streams() {
        let place = Place::new();
        let requester = place.repository().requester;
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..100_u64 {
            let ((partial, whole), fills) = (scattered(&place, round), Fills::default());
            let mut subscriptions = Vec::new();
            let mut main = None;
            for step in 0..80 {
                let listed: Vec<_> = fills.fills().values().cloned().collect();
                let some = |at: u64| listed.get(usize::try_from(at).unwrap() % listed.len().max(1));
                match random(8) {
                    0..=3 => {
                        let at = random(TOTAL);
                        let end = Some((at + 1 + random(20 << 20)).min(TOTAL)).filter(|end| end % 5 > 0);
                        let (total, urgent) = (Some(TOTAL), random(9) == 0);
                        let wanted = Wanted { at, end, partial: Some(&partial), total, urgent };
                        let pays = |_| at % 2 == 0;
                        let next = fills.next(&whole, &requester, &wanted, pays, new);
                        if let Next::Coming(subscription, ..) = next.unwrap() {
                            subscriptions.push(subscription);
                        }
                    }
                    4..=5 => {
                        // Some of what a stream brings.
                        let Some(fill) = some(random(100)) else { continue };
                        if fill.state().head.is_none() && fill.key.part.is_some() {
                            begin(fill, &partial);
                            continue;
                        }
                        let mut state = fill.state();
                        let (at, end) = (state.ring.end(), state.until.min(TOTAL));
                        let to = (at + random(4 << 20)).min(end).max(at);
                        let is_streaming = fill.key.part.is_some() || main.is_some();
                        if is_streaming {
                            state.ring.pass(to);
                            drop(state);
                            partial.reached(at, to);
                        }
                    }
                    6 => {
                        let Some(fill) = some(random(100)).filter(|fill| fill.key.part.is_some()) else {
                            continue;
                        };
                        fill.state().closed = random(2) == 0;
                        fills.remove(fill);
                    }
                    _ => {
                        let demand =
                            if round % 2 == 0 { Demand::REQUIRED } else { Demand::background(TOTAL) };
                        let (subscription, was_under_way) =
                            fills.join(&whole, &requester, demand, new).unwrap();
                        let fill = subscription.fill.clone();
                        if !was_under_way {
                            begin(&fill, &partial);
                        }
                        subscriptions.push(subscription);
                        let mut at = fill.state().ring.end();
                        at = partial.end_at(at).unwrap_or(at);
                        fill.state().ring.pass(at);
                        let hole = fills.hole(&fill, at);
                        // Without a hole it has no stream.
                        main = matches!(hole, Hole::Until(_)).then_some(fill.clone());
                        if main.is_none() {
                            fill.state().until = at;
                        }
                    }
                }
                let owned = owned(&fills, main.as_ref());
                assert!(owned.is_sorted_by(|one, next| one.1 <= next.0), "{round} {step}: {owned:?}");
                for (at, end) in owned {
                    let there =
                        partial.end_at(at).or_else(|| partial.next_after(at).filter(|next| *next < end));
                    assert_eq!(there, None, "{round} {step}: {at} to {end}");
                }
            }
        }
    }
}
