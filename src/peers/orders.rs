//! Does at this replica's disk what an operator asks of another replica, on a thread of its own.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::Semaphore;

use crate::body::Body;
use crate::cache::maintenance::{self, Selection, SelectionError};
use crate::cache::{Cache, FleetOrder, UpstreamCache};
use crate::config::limits;
use crate::json_lines;
use crate::json_lines::LineSender;

/// The jobs that are being done for other replicas.
pub(super) struct OrderJobs(Arc<Semaphore>);

impl OrderJobs {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(limits::PEER_ORDERS)))
    }

    /// Begins a job, and returns its lines: of a list each image, of a removal its sum, of a verification what happens.
    ///
    /// # Errors
    /// The status of a refusal: for a pattern that is none, and where too many jobs are running.
    pub(super) fn obey(
        &self,
        order: FleetOrder,
        caches: Vec<Arc<UpstreamCache>>,
    ) -> Result<Body, StatusCode> {
        let job = Job::of(order).map_err(|_| StatusCode::BAD_REQUEST)?;
        let running = self.0.clone().try_acquire_owned().map_err(|_| StatusCode::TOO_MANY_REQUESTS)?;
        let (sender, lines) = json_lines::channel();
        tokio::task::spawn_blocking(move || {
            let _running = running;
            // Without a cache there is nothing to do it to.
            if let Some(cache) = caches.first().map(|first| first.cache().clone()) {
                job.run(&cache, &caches, &sender);
            }
        });
        Ok(lines)
    }
}

/// An order whose pattern has been read.
enum Job {
    List(Selection),
    Remove { selection: Selection, note: Option<String> },
    Verify,
}

impl Job {
    fn of(order: FleetOrder) -> Result<Self, SelectionError> {
        Ok(match order {
            FleetOrder::List { pattern } => Self::List(Selection::parse(&pattern)?),
            FleetOrder::Remove { pattern, note } => {
                Self::Remove { selection: Selection::parse(&pattern)?, note }
            }
            FleetOrder::Verify => Self::Verify,
        })
    }

    fn run(self, cache: &Cache, caches: &[Arc<UpstreamCache>], sender: &LineSender) {
        match self {
            Self::List(selection) => {
                let mut entries = maintenance::list(caches, &selection).into_iter();
                let _ = entries.all(|entry| sender.send_blocking(&entry));
            }
            Self::Remove { selection, note } => {
                tracing::info!(
                    %selection,
                    "another replica has removed this from the cache: it is removed here too"
                );
                let removed = maintenance::remove_here(cache, caches, &selection);
                if let Some((remote, note)) = cache.remote.as_ref().zip(note) {
                    remote.note_done(note);
                }
                sender.send_blocking(&removed);
            }
            Self::Verify => maintenance::verify(cache, &mut |event| sender.send_blocking(&event)),
        }
    }
}
