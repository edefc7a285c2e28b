//! The breaker of an upstream: not every request waits for one that is dead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::cache::origin::{FailureKind, Origin, OriginRequest};
use crate::cache::requester::Requester;
use crate::cache::upstream_cache::UpstreamCache;
use crate::clock;
use crate::config::limits;

/// Opens after [`limits::BREAKER_FAILURES`] failures to reach the upstream in a row; a probe in the background closes it.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<Standing>);

#[derive(Debug, Default)]
struct Standing {
    failures: u32,
    is_open: bool,
    /// How often it has opened: a probe that was started for an earlier time is over.
    openings: u64,
    /// Whether the probe has found nobody either since it opened.
    is_confirmed: bool,
    /// How long the next probe waits, or waited last.
    pause: Duration,
    /// When it closed last.
    closed: Option<Instant>,
}

impl Standing {
    /// What fails again soon after it came back is left alone for longer, not from the beginning.
    fn open(&mut self) {
        let soon = |closed: Instant| clock::now().duration_since(closed) < limits::BREAKER_REMEMBERED;
        self.pause = match self.closed {
            Some(closed) if soon(closed) => longer(self.pause),
            _ => limits::BREAKER_PAUSE,
        };
        self.is_open = true;
        self.is_confirmed = false;
        self.openings += 1;
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(limits::BREAKER_PAUSE, limits::BREAKER_PAUSE_MOST)
}

/// What a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// The upstream is asked.
    Closed,
    /// It is not, but by the probe.
    Open,
}

impl Breaker {
    /// Whether the upstream may be asked now.
    pub(crate) fn is_closed(&self) -> bool {
        !self.standing().is_open
    }

    /// Nobody could be reached. The answer is whether it has just opened.
    #[must_use]
    pub(crate) fn failed(&self) -> bool {
        let mut standing = self.standing();
        standing.failures = standing.failures.saturating_add(1);
        if standing.is_open || standing.failures < limits::BREAKER_FAILURES {
            return false;
        }
        standing.open();
        true
    }

    /// Whether it is open, and not by clients' questions alone: the probe has found nobody either.
    pub(crate) fn is_confirmed(&self) -> bool {
        let standing = self.standing();
        standing.is_open && standing.is_confirmed
    }

    /// How long the probe waits that was started for this opening, if that lasts.
    fn pause(&self, opening: u64) -> Option<Duration> {
        let standing = self.standing();
        (standing.is_open && standing.openings == opening).then_some(standing.pause)
    }

    /// The probe of this opening has found nobody.
    fn confirm(&self, opening: u64) {
        let mut standing = self.standing();
        if standing.openings == opening {
            standing.is_confirmed = true;
            standing.pause = longer(standing.pause);
        }
    }

    /// Somebody is there. The answer is whether it was open.
    pub(crate) fn close(&self) -> bool {
        let mut standing = self.standing();
        standing.failures = 0;
        let was_open = std::mem::take(&mut standing.is_open);
        if was_open {
            standing.closed = Some(clock::now());
        }
        was_open
    }

    /// For metrics and `/readyz`.
    pub(crate) fn state(&self) -> BreakerState {
        if self.is_closed() { BreakerState::Closed } else { BreakerState::Open }
    }

    /// The number of the opening that lasts, if one does.
    fn opening(&self) -> Option<u64> {
        let standing = self.standing();
        standing.is_open.then_some(standing.openings)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UpstreamCache {
    /// Something came of asking the upstream, or nothing did. The answer is whether a probe has to be started. Refusals of
    /// any kind say that somebody is there; what can't be used, or was not for the upstream to answer, says nothing.
    #[must_use]
    pub(crate) fn learn(&self, failure: Option<FailureKind>) -> bool {
        match failure {
            Some(FailureKind::Unreachable) => return self.failed(),
            Some(FailureKind::Unusable | FailureKind::Other) => {}
            _ => self.answered(),
        }
        false
    }

    fn failed(&self) -> bool {
        let opened = self.breaker.failed();
        if opened {
            tracing::info!(
                upstream = self.name(),
                "the upstream can't be reached; it is left alone, and probed"
            );
        }
        opened
    }

    fn answered(&self) {
        if self.breaker.close() {
            tracing::info!(upstream = self.name(), "the upstream answers again");
        }
    }

    /// Whether the upstream is asked, or left alone because it is dead.
    pub(crate) fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }
}

impl Requester {
    /// Asks the upstream in the background whether anybody is there, as whoever found that nobody was, until somebody is.
    pub(crate) fn probe(&self) {
        let Some(opening) = self.site.breaker.opening() else { return };
        let site = Arc::downgrade(&self.site);
        tokio::spawn(probe(site, self.source.clone(), opening));
    }
}

/// Ends with the site, too: after a change of the configuration there may be another.
async fn probe(site: Weak<UpstreamCache>, source: Arc<dyn Origin>, opening: u64) {
    let pause = || site.upgrade().and_then(|site| site.breaker.pause(opening));
    loop {
        let Some(length) = pause() else { return };
        tokio::time::sleep(length).await;
        if pause().is_none() {
            return;
        }
        let silence = source.ask(OriginRequest::Ping).await.err().map(|failure| failure.kind);
        if silence != Some(FailureKind::Unreachable) {
            break;
        }
        if let Some(site) = site.upgrade() {
            site.breaker.confirm(opening);
        }
    }
    if let Some(site) = site.upgrade() {
        site.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheError;
    use crate::cache::scripted_origin::{HOUR, Place, SECOND, image};
    use crate::proto::{Accept, Reference};

    async fn get(place: &Place) -> Result<(), CacheError> {
        let reference = Reference::parse("v1").unwrap();
        place.repository().manifest(&reference, &Accept::default(), false).await.map(drop)
    }

    async fn fail(place: &Place, kind: FailureKind) {
        place.registry.with().fails = Some(kind);
        assert!(get(place).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_can_not_be_used_neither_open_nor_close_anything() {
        let place = Place::new();
        for _ in 0..5 {
            fail(&place, FailureKind::Unusable).await;
        }
        assert_eq!(place.site.breaker_state(), BreakerState::Closed);
        for kind in [FailureKind::Unreachable, FailureKind::Unreachable, FailureKind::Unusable] {
            fail(&place, kind).await;
        }
        fail(&place, FailureKind::Unreachable).await;
        assert_eq!(place.site.breaker_state(), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_fails_again_soon_is_left_alone_for_longer() {
        let breaker = Breaker::default();
        let open = || (0..3).filter(|_| breaker.failed()).count();
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
            assert_eq!(place.site.breaker_state(), BreakerState::Closed);
            fail(&place, FailureKind::Unreachable).await;
        }
        place.registry.asked();
        place
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_can_not_be_reached_three_times_is_left_alone() {
        let place = broken().await;
        assert_eq!(place.site.breaker_state(), BreakerState::Open);
        assert!(matches!(get(&place).await, Err(CacheError::CircuitOpen)));
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_is_left_alone_is_probed_until_it_answers() {
        let place = broken().await;
        let mut probes = Vec::new();
        for second in 0..130 {
            tokio::time::sleep(SECOND).await;
            probes.extend(place.registry.asked().iter().map(|_| second));
        }
        let pauses: Vec<_> = probes.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        place.registry.with().fails = Some(FailureKind::Denied);
        tokio::time::sleep(31 * SECOND).await;
        assert_eq!(
            (place.registry.asked(), place.site.breaker_state()),
            (vec!["PING".to_owned()], BreakerState::Closed)
        );
        tokio::time::sleep(HOUR).await;
        assert!(place.registry.asked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_answers_say_that_somebody_is_there() {
        let refusals = [
            FailureKind::Credentials,
            FailureKind::Denied,
            FailureKind::NotFound,
            FailureKind::Limited { retry_after: None },
        ];
        for refusal in refusals {
            let place = Place::with(|settings| settings.not_found_ttl = Duration::ZERO);
            for kind in
                [FailureKind::Unreachable, FailureKind::Unreachable, refusal, FailureKind::Unreachable]
            {
                fail(&place, kind).await;
            }
            assert_eq!(place.site.breaker_state(), BreakerState::Closed, "{refusal:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_here_serves_at_once_while_the_upstream_is_left_alone() {
        let place = Place::new();
        place.registry.push("v1", &image("a"));
        get(&place).await.unwrap();
        place.age_tag("v1", HOUR + SECOND);
        place.registry.with().fails = Some(FailureKind::Unreachable);
        for _ in 0..5 {
            get(&place).await.unwrap();
        }
        assert_eq!(place.registry.asked().len(), 2 + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_ends_with_its_site() {
        let place = broken().await;
        let Place { registry, site, .. } = place;
        drop(site);
        tokio::time::sleep(HOUR).await;
        assert!(registry.asked().is_empty());
    }
}
