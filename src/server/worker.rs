//! Workers: one thread with a runtime of its own for each core.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, watch};

use crate::server::accepted::Accepted;
use crate::server::connection::Handler;
use crate::watchdog::{Beats, Polled, noted};
use crate::worker_id;

/// All workers, among which the accepting task distributes connections.
#[derive(Clone)]
pub(super) struct Workers(Arc<[Worker]>);

struct Worker {
    inbox: mpsc::UnboundedSender<Accepted>,
    /// The number of its connections.
    load: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` workers. They run as long as the process does.
    ///
    /// # Errors
    /// The system's, when it gives no thread or no runtime.
    pub(super) fn start(
        count: usize,
        handler: impl Handler,
        drain: &watch::Receiver<bool>,
        beats: &Beats,
    ) -> io::Result<Self> {
        let start = |number| Worker::start(number, handler.clone(), drain.clone(), beats.clone());
        Ok(Self((0..count).map(start).collect::<io::Result<Vec<_>>>()?.into()))
    }

    /// Hands a connection to the worker that has the fewest.
    pub(super) fn assign(&self, accepted: Accepted) {
        let least = self.0.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.load.fetch_add(1, Ordering::Relaxed);
            // Fails only when the worker's thread is gone; the connection is then closed.
            let _ = worker.inbox.send(accepted);
        }
    }
}

impl Worker {
    fn start(
        number: usize,
        handler: impl Handler,
        drain: watch::Receiver<bool>,
        beats: Beats,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (inbox, mut accepted) = mpsc::unbounded_channel::<Accepted>();
        let load = Arc::new(AtomicUsize::new(0));
        let shared = load.clone();
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            worker_id::enter(number);
            let beat = beats.enter(number);
            // With the last holder the watchdog ends, and with the worker its beats.
            drop(beats);
            runtime.block_on(async move {
                tokio::spawn(beat);
                let tending = handler.clone();
                tokio::spawn(async move { tending.tend().await });
                while let Some(accepted) = accepted.recv().await {
                    let (load, handler, drain) = (Load(shared.clone()), handler.clone(), drain.clone());
                    let serving = async move {
                        accepted.serve(handler, drain).await;
                        drop(load);
                    };
                    tokio::spawn(noted(Polled::Connection, Box::pin(serving)));
                }
            });
        })?;
        Ok(Self { inbox, load })
    }
}

/// A connection's share of its worker's load, taken off when this is dropped.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
