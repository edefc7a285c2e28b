//! The one reader of time. Everything else takes time as an argument or asks here.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::Sleep;

/// Returns the monotonic time, for deadlines and ages.
///
/// Under tokio's paused test clock this is tokio's time, so that tests can hold and advance it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns the wall clock, for what is written down or compared with another machine's time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Notices that a transfer has moved no byte for a while.
///
/// There is one for each direction of a stream. It costs nothing while bytes flow: the clock is read only when the
/// stream first has to wait, and the timer, once armed, is left alone until it fires.
#[derive(Debug)]
pub(crate) struct Stall {
    limit: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Returns a watch that fires after `limit` without [`Stall::progress`].
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, waiting_since: None, timer: None }
    }

    /// Restarts the clock: bytes have moved.
    pub(crate) fn progress(&mut self) {
        self.waiting_since = None;
    }

    /// Polls while no byte can move: ready when that has lasted for the whole limit, else it wakes the task then.
    pub(crate) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(now);
        let deadline = tokio::time::Instant::from_std(since + self.limit);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        while timer.as_mut().poll(cx).is_ready() {
            if tokio::time::Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_never_moves_is_noticed_after_the_limit() {
        let mut stall = Stall::new(Duration::from_secs(60));
        let start = now();
        poll_fn(|cx| stall.poll_waiting(cx)).await;
        assert_eq!((now() - start).as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_starts_the_count_anew() {
        let mut stall = Stall::new(Duration::from_secs(60));
        let start = now();
        let waited =
            tokio::time::timeout(Duration::from_secs(59), poll_fn(|cx| stall.poll_waiting(cx))).await;
        assert!(waited.is_err());
        stall.progress();
        poll_fn(|cx| stall.poll_waiting(cx)).await;
        assert_eq!((now() - start).as_secs(), 119);
    }
}
