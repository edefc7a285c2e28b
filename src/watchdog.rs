//! The beats of the workers: a worker that does not beat has something on its thread that does not end.
//!
//! A beat is a task of the worker's own runtime, so that it comes only between the polls of others. What is being polled is
//! noted around each poll, and read by a thread that is no worker.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::clock;

/// The part of the gateway that a worker is polling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Polled {
    Nothing,
    Connection,
    Manifest,
    Blob,
    Upload,
    List,
    Download,
}

impl Polled {
    const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Connection,
        Self::Manifest,
        Self::Blob,
        Self::Upload,
        Self::List,
        Self::Download,
    ];

    /// Returns the words in the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "the runtime",
            Self::Connection => "a connection",
            Self::Manifest => "a request for a manifest",
            Self::Blob => "a request for a blob",
            Self::Upload => "an upload",
            Self::List => "a request for a list",
            Self::Download => "a download into the cache",
        }
    }
}

/// The beats of all workers of a server.
#[derive(Clone)]
pub(crate) struct Beats(Arc<[Arc<Beat>]>);

/// The last beat of a worker, which writes here twice a poll. Aligned to two cache lines, which processors fetch together, so
/// that no other worker waits for it.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Beat {
    /// Milliseconds since the first use of this clock.
    last: AtomicU64,
    polled: AtomicU8,
    told: AtomicBool,
}

/// A worker that does not beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stall {
    pub(crate) worker: usize,
    pub(crate) time: Duration,
    pub(crate) polled: Polled,
}

thread_local! {
    static OWN: RefCell<Option<Arc<Beat>>> = const { RefCell::new(None) };
}

impl Beats {
    /// Returns the beats of `count` workers, which a thread watches as long as there are any.
    pub(crate) fn watched(count: usize) -> Self {
        let beats = Self((0..count).map(|_| Arc::new(Beat::new())).collect());
        let watched = Arc::downgrade(&beats.0);
        // Without the thread a stall is not logged, but still told by `/healthz`.
        let _ = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(&watched));
        beats
    }

    /// Makes this thread that of a worker, and returns the task that beats for it.
    pub(crate) fn enter(&self, worker: usize) -> impl Future<Output = ()> + Send + use<> {
        let beat = self.0.get(worker).cloned();
        OWN.set(beat.clone());
        async move {
            let Some(beat) = beat else { return };
            loop {
                beat.last.store(now(), Ordering::Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        }
    }

    /// Returns the longest stall of now, if a worker has not beaten for `least`.
    pub(crate) fn stall(&self, least: Duration) -> Option<Stall> {
        let stalls = self.0.iter().enumerate().map(|(worker, beat)| beat.stall(worker));
        stalls.filter(|stall| stall.time >= least).max_by_key(|stall| stall.time)
    }
}

impl Beat {
    fn new() -> Self {
        Self { last: AtomicU64::new(now()), ..Self::default() }
    }

    fn stall(&self, worker: usize) -> Stall {
        let time = Duration::from_millis(now().saturating_sub(self.last.load(Ordering::Relaxed)));
        let polled = Polled::ALL.get(usize::from(self.polled.load(Ordering::Relaxed)));
        Stall { worker, time, polled: polled.copied().unwrap_or(Polled::Nothing) }
    }
}

/// Logs stalls, until the beats are gone.
fn watch(beats: &Weak<[Arc<Beat>]>) {
    while let Some(beats) = beats.upgrade() {
        for (worker, beat) in beats.iter().enumerate() {
            let stall = beat.stall(worker);
            let stalls = stall.time >= LOGGED;
            let told = beat.told.swap(stalls, Ordering::Relaxed);
            let (polling, milliseconds) = (stall.polled.as_str(), stall.time.as_millis());
            if stalls && !told {
                tracing::warn!(worker, polling, milliseconds, "a worker does not go on with its requests");
            } else if told && !stalls {
                tracing::info!(worker, "the worker goes on");
            }
        }
        drop(beats);
        std::thread::sleep(BEAT);
    }
}

/// Milliseconds of the monotonic clock.
fn now() -> u64 {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    let begun = *BEGUN.get_or_init(clock::now);
    u64::try_from(clock::now().saturating_duration_since(begun).as_millis()).unwrap_or(u64::MAX)
}

/// A future that notes on its worker when it is polled.
pub(crate) struct Noted<F> {
    polled: Polled,
    future: F,
}

/// Returns `future`, noted as this part of the gateway while it is polled. It is pinned by the caller: a box for each request
/// would be of a size that nothing else has, and cost the allocator a page each time.
pub(crate) fn noted<F: Future + Unpin>(polled: Polled, future: F) -> Noted<F> {
    Noted { polled, future }
}

impl<F: Future + Unpin> Future for Noted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let before = note(self.polled as u8);
        let polled = Pin::new(&mut self.future).poll(cx);
        note(before);
        polled
    }
}

/// Notes what this worker polls from now on. Returns what it polled before. No other thread writes it.
fn note(polled: u8) -> u8 {
    OWN.with_borrow(|own| {
        own.as_ref().map_or(0, |beat| {
            let before = beat.polled.load(Ordering::Relaxed);
            beat.polled.store(polled, Ordering::Relaxed);
            before
        })
    })
}

/// The time between two beats.
const BEAT: Duration = Duration::from_millis(250);
/// A stall this long is logged.
const LOGGED: Duration = Duration::from_secs(1);
/// A stall this long makes the gateway unhealthy.
pub(crate) const UNHEALTHY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_seen_with_its_cause_until_it_ends() {
        let beats = Beats::watched(2);
        let (worker, long) = (beats.clone(), Duration::from_millis(1200));
        let stalling = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let beat = worker.enter(1);
                tokio::spawn(beat);
                tokio::time::sleep(BEAT).await;
                #[expect(clippy::unused_async, reason = "it holds up its worker")]
                async fn hangs(long: Duration) {
                    std::thread::sleep(long);
                }
                noted(Polled::Blob, std::pin::pin!(hangs(long))).await;
                tokio::time::sleep(BEAT * 2).await;
                assert_eq!(worker.stall(LOGGED).filter(|stall| stall.worker == 1), None, "it goes on");
            });
        });
        let mut seen = None;
        while !stalling.is_finished() {
            let stall = beats.0.get(1).map(|beat| beat.stall(1));
            seen = seen.or_else(|| stall.filter(|stall| stall.time >= LOGGED));
            std::thread::sleep(Duration::from_millis(5));
        }
        stalling.join().unwrap();
        let seen = seen.expect("a stall");
        assert_eq!((seen.worker, seen.polled), (1, Polled::Blob));
        assert!(beats.stall(Duration::from_secs(1)).is_some_and(|stall| stall.worker == 0), "it never began");
    }
}
