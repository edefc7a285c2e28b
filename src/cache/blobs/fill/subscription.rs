//! A requester's part in a fill.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::cache::blobs::fill::ring::Place;
use crate::cache::blobs::fill::state::{Demand, End, Fill, FillState, Head, Subscriber};
use crate::cache::error::CacheError;
use crate::cache::requester::Requester;
use crate::cache::store::Partial;
use crate::proto::Digest;

/// A requester's subscription to a fill. A fill goes on as long as it has subscriptions.
pub(crate) struct Subscription {
    pub(crate) fill: Arc<Fill>,
    number: u64,
    /// The length of the longest blob that is wanted.
    most: u64,
    opened: Option<oneshot::Receiver<Result<Arc<Head>, CacheError>>>,
}

impl Subscription {
    /// Subscribes to `fill`; none if it has been closed, has failed, or no longer has its first bytes.
    pub(crate) fn join(fill: &Arc<Fill>, requester: &Requester, demand: Demand) -> Option<Self> {
        let mut state = fill.state();
        let usable = !state.closed && !matches!(state.end, End::Failed);
        // A fill that is not kept in a file may have dropped its first bytes.
        let is_dropped = |head: &Arc<Head>| state.ring.look(head.first) == Place::Before;
        let whole = state.kept || !state.head.as_ref().is_some_and(is_dropped);
        (usable && whole).then(|| Self::enter(fill, &mut state, requester, demand))
    }

    /// Subscribes to a fill that has just been made.
    pub(crate) fn first(fill: &Arc<Fill>, requester: &Requester, demand: Demand) -> Self {
        Self::enter(fill, &mut fill.state(), requester, demand)
    }

    fn enter(fill: &Arc<Fill>, state: &mut FillState, requester: &Requester, demand: Demand) -> Self {
        let number = state.next;
        state.next += 1;
        state.most = state.most.max(demand.most);
        let (sender, receiver) = oneshot::channel();
        let requester = requester.clone();
        state.subscribers.push(Subscriber { number, requester, demand, opened: Some(sender) });
        state.open();
        fill.wake.notify_one();
        Self { fill: fill.clone(), number, most: demand.most, opened: Some(receiver) }
    }

    /// Waits until the upstream has answered with a success.
    ///
    /// # Errors
    /// The upstream's refusal to this requester, or to another one if it holds for both.
    pub(crate) async fn head(&mut self) -> Result<Arc<Head>, CacheError> {
        if let Some(opened) = self.opened.take()
            && let Ok(answer) = opened.await
        {
            return answer;
        }
        let state = self.fill.state();
        let head = state.head.clone().filter(|_| !matches!(state.end, End::Failed));
        head.ok_or(CacheError::Retry)
    }

    /// Returns the digest of the blob.
    pub(crate) fn digest(&self) -> &Digest {
        &self.fill.key.digest
    }

    /// Returns true if the byte at `at` has come, or will soon.
    pub(crate) fn is_near(&self, at: u64) -> bool {
        self.fill.state().is_near(at)
    }

    /// Returns the partial into which what comes is written.
    pub(crate) fn partial(&self) -> Option<Arc<Partial>> {
        self.fill.state().partial.clone()
    }

    /// Returns true if what comes is kept in a file.
    pub(crate) fn is_kept(&self) -> bool {
        self.fill.state().kept
    }

    /// Returns true if background work has the fill finished, also when all clients leave.
    pub(crate) fn is_finished_anyway(&self) -> bool {
        self.fill.state().subscribers.iter().any(|subscriber| !subscriber.demand.is_required())
    }

    /// Waits until the fill is over, or longer than it is wanted. Returns true if the blob came whole and has its digest.
    pub(crate) async fn done(&self) -> bool {
        loop {
            let changed = Change::of(&self.fill);
            {
                let state = self.fill.state();
                match state.end {
                    End::Verified { .. } => return true,
                    End::Failed => return false,
                    End::NotYet if state.ring.end() > self.most => return false,
                    End::NotYet => {}
                }
            }
            changed.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let number = self.number;
        self.fill.state().subscribers.retain(|subscriber| subscriber.number != number);
        // A fill that is not kept in a file ends when only background subscribers are left.
        self.fill.wake.notify_one();
    }
}

/// A future that is ready when the fill announces its next change.
struct Change<'a> {
    fill: &'a Fill,
    place: usize,
    begun: bool,
}

impl<'a> Change<'a> {
    fn of(fill: &'a Fill) -> Self {
        Self { fill, place: fill.state().waiting.enter(), begun: false }
    }
}

impl Future for Change<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.begun {
            return Poll::Ready(());
        }
        self.begun = true;
        let mut state = self.fill.state();
        if matches!(state.end, End::NotYet) {
            state.waiting.wait(self.place, cx.waker());
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.fill.state().waiting.leave(self.place);
    }
}
