//! The circuit breaker of an upstream, so that not every request waits for an upstream that does not answer.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::cache::origin::{Origin, OriginRequest};
use crate::clock;
use crate::config::limits;
use crate::meaning::{Circuit, Meaning};

/// A circuit breaker. It opens when the registry host has failed [`limits::BREAKER_FAILURES`] times in a row, for at least
/// two different objects or, if all failures are about one object, when `/v2/` does not answer either. So a bad object does
/// not make a healthy registry unavailable for others. A probe in the background closes the breaker.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// The upstream's name, for the log.
    upstream: Arc<str>,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    failures: u32,
    /// The object that the first of the failures was about.
    first_object: u64,
    /// At least one failure was about another object.
    is_general: bool,
    /// A request to `/v2/` is under way, because all failures are about one object.
    is_suspected: bool,
    is_open: bool,
    /// The number of openings: a probe that was started for an earlier one is over.
    openings: u64,
    /// The probe has had no answer either since the breaker opened.
    is_confirmed: bool,
    /// The time before the next probe. Kept after closing, for an upstream that soon fails again.
    pause: Duration,
    /// The time when the breaker opened last.
    opened: Option<Instant>,
    /// The time when the breaker closed last.
    closed: Option<Instant>,
}

impl Standing {
    /// Opens the breaker. For an upstream that fails again soon after the last closing, the pause goes on growing.
    fn open(&mut self) {
        let soon = |closed: Instant| clock::now().duration_since(closed) < limits::BREAKER_REMEMBERED;
        self.pause = match self.closed {
            Some(closed) if soon(closed) => longer(self.pause),
            _ => limits::BREAKER_PAUSE,
        };
        self.is_open = true;
        self.opened = Some(clock::now());
        self.is_confirmed = false;
        self.openings += 1;
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(limits::BREAKER_PAUSE, limits::BREAKER_PAUSE_MOST)
}

/// The consequence of an exchange for the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learned {
    /// The breaker has not changed.
    Nothing,
    /// The breaker has just opened: the upstream is to be probed until it answers.
    Opened,
    /// A single object failed several times: a request to `/v2/` is to show whether the registry answers at all.
    Suspicion,
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// Requests go to the upstream.
    Closed,
    /// Only the probe goes to the upstream.
    Open,
}

impl Breaker {
    /// Returns true if requests may go to the upstream.
    pub(crate) fn is_closed(&self) -> bool {
        !self.standing().is_open
    }

    /// Counts a failed request for `object`.
    #[must_use]
    fn failed(&self, object: u64) -> Learned {
        let mut standing = self.standing();
        if standing.failures == 0 {
            standing.first_object = object;
            standing.is_general = false;
        }
        standing.failures = standing.failures.saturating_add(1);
        standing.is_general |= object != standing.first_object;
        if standing.is_open || standing.failures < limits::BREAKER_FAILURES {
            return Learned::Nothing;
        }
        if standing.is_general {
            standing.open();
            return Learned::Opened;
        }
        match std::mem::replace(&mut standing.is_suspected, true) {
            true => Learned::Nothing,
            false => Learned::Suspicion,
        }
    }

    /// Ends a suspicion. `silent` is true if `/v2/` did not answer either. Returns true if that has opened the breaker.
    fn resolve(&self, silent: bool) -> bool {
        let mut standing = self.standing();
        standing.is_suspected = false;
        if !silent {
            standing.failures = 0;
            return false;
        }
        let opens = !standing.is_open;
        if opens {
            standing.open();
        }
        opens
    }

    /// Returns true if the breaker is open and the probe has had no answer either: clients' requests alone do not confirm it.
    pub(crate) fn is_confirmed(&self) -> bool {
        let standing = self.standing();
        standing.is_open && standing.is_confirmed
    }

    /// Returns the time before the next probe, if the breaker is still open since this opening.
    fn pause(&self, opening: u64) -> Option<Duration> {
        let standing = self.standing();
        (standing.is_open && standing.openings == opening).then_some(standing.pause)
    }

    /// Notes that the probe of this opening has had no answer.
    fn confirm(&self, opening: u64) {
        let mut standing = self.standing();
        if standing.openings == opening {
            standing.is_confirmed = true;
            standing.pause = longer(standing.pause);
        }
    }

    /// Closes the breaker. Returns true if it was open.
    pub(crate) fn close(&self) -> bool {
        let mut standing = self.standing();
        standing.failures = 0;
        let was_open = std::mem::take(&mut standing.is_open);
        if was_open {
            standing.closed = Some(clock::now());
        }
        was_open
    }

    /// Returns the state, for metrics and `/readyz`.
    pub(crate) fn state(&self) -> BreakerState {
        if self.is_closed() { BreakerState::Closed } else { BreakerState::Open }
    }

    /// Returns for how long the state has been so; `None` for a breaker that has never opened.
    pub(crate) fn age(&self) -> Option<Duration> {
        let standing = self.standing();
        let changed = if standing.is_open { standing.opened } else { standing.closed };
        changed.map(|at| clock::now().saturating_duration_since(at))
    }

    /// Returns the number of times that it has opened.
    pub(crate) fn openings(&self) -> u64 {
        self.standing().openings
    }

    /// Returns the number of the current opening, if the breaker is open.
    fn opening(&self) -> Option<u64> {
        let standing = self.standing();
        standing.is_open.then_some(standing.openings)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock()
    }
}

impl Breaker {
    /// Returns the breaker of the upstream called `upstream`, closed.
    pub(crate) fn new(upstream: Arc<str>) -> Self {
        Self { upstream, standing: Mutex::default() }
    }

    /// Counts an exchange about `object`, and starts the probe of `origin` in the background if the breaker opens.
    pub(crate) fn learn(self: &Arc<Self>, origin: &Arc<dyn Origin>, meaning: Meaning, object: u64) {
        match self.note(meaning, object) {
            Learned::Nothing => {}
            Learned::Opened => self.probe(origin),
            Learned::Suspicion => self.confirm_silence(origin),
        }
    }

    /// Counts an exchange about `object` as the registry host's success or failure.
    #[must_use]
    pub(crate) fn note(&self, meaning: Meaning, object: u64) -> Learned {
        match meaning.circuit() {
            Circuit::Failure => {
                let learned = self.failed(object);
                if learned == Learned::Opened {
                    self.log_opened();
                }
                return learned;
            }
            Circuit::Reset => self.answered(),
            Circuit::Unaffected => {}
        }
        Learned::Nothing
    }

    fn log_opened(&self) {
        let upstream = &*self.upstream;
        tracing::info!(upstream, "circuit open: the upstream does not answer; probing it until it does");
    }

    fn answered(&self) {
        if self.close() {
            tracing::info!(upstream = &*self.upstream, "circuit closed: the upstream answers again");
        }
    }

    /// Probes the upstream in the background, with the credentials of the request that opened the breaker, until it
    /// answers.
    fn probe(self: &Arc<Self>, origin: &Arc<dyn Origin>) {
        let Some(opening) = self.opening() else { return };
        tokio::spawn(probe(Arc::downgrade(self), origin.clone(), opening));
    }

    /// Asks `/v2/` in the background, and opens the breaker if that does not answer either.
    fn confirm_silence(self: &Arc<Self>, origin: &Arc<dyn Origin>) {
        let (breaker, origin) = (self.clone(), origin.clone());
        tokio::spawn(async move {
            let answer = origin.ask(OriginRequest::Ping).await;
            let silent = answer.is_err_and(|failure| failure.meaning.is_silence());
            if breaker.resolve(silent) {
                breaker.log_opened();
                breaker.probe(&origin);
            }
        });
    }
}

/// Probes the upstream until it answers, or until the breaker is dropped: a reload may have replaced it.
async fn probe(breaker: Weak<Breaker>, origin: Arc<dyn Origin>, opening: u64) {
    let pause = || breaker.upgrade().and_then(|breaker| breaker.pause(opening));
    loop {
        let Some(length) = pause() else { return };
        tokio::time::sleep(length).await;
        if pause().is_none() {
            return;
        }
        if !origin.ask(OriginRequest::Ping).await.is_err_and(|failure| failure.meaning.is_silence()) {
            break;
        }
        if let Some(breaker) = breaker.upgrade() {
            breaker.confirm(opening);
        }
    }
    if let Some(breaker) = breaker.upgrade() {
        breaker.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheError;
    use crate::cache::scripted_origin::{HOUR, Place, SECOND, image};
    use crate::meaning::{Fault, UNAVAILABLE};
    use crate::proto::{Accept, Reference};

    async fn get(place: &Place) -> Result<(), CacheError> {
        get_tag(place, "v1").await
    }

    async fn get_tag(place: &Place, tag: &str) -> Result<(), CacheError> {
        let reference = Reference::parse(tag).unwrap();
        place.repository().manifest(&reference, &Accept::default(), false).await.map(drop)
    }

    /// Lets the request for another tag each time fail.
    async fn fail(place: &Place, meaning: Meaning) {
        place.registry.with().fails = Some(meaning);
        let tag = format!("v{}", place.registry.with().begun);
        assert!(get_tag(place, &tag).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_object_opens_nothing_while_v2_answers() {
        let place = Place::new();
        place.registry.with().head_fails = Some(UNAVAILABLE);
        place.registry.with().get_fails = Some(UNAVAILABLE);
        for _ in 0..20 {
            assert!(get(&place).await.is_err());
            tokio::task::yield_now().await;
        }
        assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Closed);
        assert!(place.registry.asked().contains(&"PING".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_object_opens_it_when_v2_is_silent_too() {
        let place = Place::new();
        place.registry.with().fails = Some(UNAVAILABLE);
        for _ in 0..3 {
            assert!(get(&place).await.is_err());
        }
        tokio::time::sleep(SECOND / 10).await;
        assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn dead_storage_and_bad_credentials_open_nothing() {
        let meanings = [
            Meaning::StorageFailed,
            Meaning::CredentialsRefused,
            Meaning::RateLimited { retry_after: None },
            Meaning::Unavailable { late: false, of: Fault::TokenEndpoint },
        ];
        for meaning in meanings {
            let place = Place::new();
            for _ in 0..10 {
                fail(&place, meaning).await;
            }
            assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Closed, "{meaning:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unusable_answers_neither_open_nor_close_it() {
        let place = Place::new();
        for _ in 0..5 {
            fail(&place, Meaning::Unusable).await;
        }
        assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Closed);
        for kind in [UNAVAILABLE, UNAVAILABLE, Meaning::Unusable] {
            fail(&place, kind).await;
        }
        fail(&place, UNAVAILABLE).await;
        assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_opening_soon_after_lasts_longer() {
        let breaker = Breaker::default();
        let open = || (0..3).filter(|object| breaker.failed(*object) == Learned::Opened).count();
        let mut pauses = Vec::new();
        for closed in [0, 1, 1, 60] {
            tokio::time::advance(closed * SECOND).await;
            assert_eq!(open(), 1);
            pauses.extend(breaker.pause(breaker.opening().unwrap()));
            assert!(breaker.close());
        }
        assert_eq!(pauses, [SECOND, 2 * SECOND, 4 * SECOND, SECOND]);
    }

    async fn broken() -> Place {
        let place = Place::new();
        for _ in 0..3 {
            assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Closed);
            fail(&place, UNAVAILABLE).await;
        }
        place.registry.asked();
        place
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_open_it() {
        let place = broken().await;
        assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Open);
        assert!(matches!(get(&place).await, Err(CacheError::CircuitOpen)));
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_circuit_is_probed_until_an_answer() {
        let place = broken().await;
        let mut probes = Vec::new();
        for second in 0..130 {
            tokio::time::sleep(SECOND).await;
            probes.extend(place.registry.asked().iter().map(|_| second));
        }
        let pauses: Vec<_> = probes.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        place.registry.with().fails = Some(Meaning::Denied);
        tokio::time::sleep(31 * SECOND).await;
        assert_eq!(
            (place.registry.asked(), place.upstream_cache.breaker_state()),
            (vec!["PING".to_owned()], BreakerState::Closed)
        );
        tokio::time::sleep(HOUR).await;
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_keep_it_closed() {
        let refusals =
            [Meaning::Denied, Meaning::NotFound, Meaning::Hidden, Meaning::Rejected { status: 400 }];
        for refusal in refusals {
            let place = Place::with(|settings| settings.not_found_ttl = Duration::ZERO);
            for kind in [UNAVAILABLE, UNAVAILABLE, refusal, UNAVAILABLE] {
                fail(&place, kind).await;
            }
            assert_eq!(place.upstream_cache.breaker_state(), BreakerState::Closed, "{refusal:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn held_content_serves_while_it_is_open() {
        let place = Place::new();
        place.registry.push("v1", &image("a"));
        get(&place).await.unwrap();
        place.age_tag("v1", HOUR + SECOND);
        place.registry.with().fails = Some(UNAVAILABLE);
        for _ in 0..5 {
            get(&place).await.unwrap();
            tokio::time::sleep(SECOND / 100).await;
        }
        // Three requests for one object fail, and `/v2/` is asked.
        assert_eq!(place.registry.asked().len(), 2 + 3 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_ends_with_its_breaker() {
        let place = broken().await;
        let Place { registry, upstream_cache, .. } = place;
        drop(upstream_cache);
        tokio::time::sleep(HOUR).await;
        assert!(registry.asked().is_empty());
    }
}
