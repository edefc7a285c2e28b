//! Turns: a future that computes much, as a TLS handshake does, lets the requests of its worker run before the next begins.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

thread_local! {
    /// The turn of this worker, which is a thread.
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Runs `work`, and polls it only when it is its turn. After each poll of any such work, everything else that is ready on this
/// thread runs first. So a crowd that comes at once, with a millisecond of arithmetic for each, holds up a request for
/// one of them and not for all.
pub(super) async fn in_turn<F: Future>(work: F) -> F::Output {
    let turn = TURN.with(Arc::clone);
    let mut work = pin!(work);
    loop {
        // Nothing closes it.
        let Ok(permit) = turn.clone().acquire_owned().await else { return work.await };
        if let Some(output) = once(work.as_mut(), permit).await {
            return output;
        }
    }
}

/// Polls `work` once. Returns None as soon as it may go on, if it has to wait for something.
async fn once<F: Future>(mut work: Pin<&mut F>, permit: OwnedSemaphorePermit) -> Option<F::Output> {
    let mut permit = Some(permit);
    std::future::poll_fn(move |cx| {
        let Some(permit) = permit.take() else { return Poll::Ready(None) };
        let polled = work.as_mut().poll(cx);
        tokio::spawn(async move {
            // Woken after the runtime has looked for what has arrived: that runs before the turn passes on.
            tokio::task::yield_now().await;
            drop(permit);
        });
        match polled {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn requests_run_between_any_two_handshakes() {
        let (passes, handshakes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = passes.clone();
        let request = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let crowd: Vec<_> = (0..50)
            .map(|_| {
                let (passes, handshakes) = (passes.clone(), handshakes.clone());
                tokio::spawn(in_turn(async move {
                    handshakes.fetch_add(1, Ordering::Relaxed);
                    passes.load(Ordering::Relaxed)
                }))
            })
            .collect();
        let mut seen = Vec::new();
        for handshake in crowd {
            seen.push(handshake.await.unwrap());
        }
        request.abort();
        assert_eq!(handshakes.load(Ordering::Relaxed), 50);
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
    }

    #[tokio::test]
    async fn work_that_waits_leaves_its_turn_to_others() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<u8>();
        let waiting = tokio::spawn(in_turn(receiver));
        tokio::task::yield_now().await;
        assert_eq!(in_turn(async { 1 }).await, 1);
        sender.send(2).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn work_that_is_given_up_leaves_its_turn_to_others() {
        let never = std::future::poll_fn(|_| Poll::<()>::Pending);
        let limit = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(limit, in_turn(never)).await.is_err());
        assert_eq!(in_turn(async { 1 }).await, 1);
    }
}
