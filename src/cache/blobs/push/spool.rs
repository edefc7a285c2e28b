//! The spool of an upload: a copy of the bytes that pass to the upstream, written and hashed in the background.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::body::Tap;
use crate::cache::store::Store;
use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::verifying_writer::{
    Observer, Source, Target, Verified, VerifyingWriter, WriterInput,
};
use crate::proto::{Digest, Hasher};

/// The copy of an upload. The copy is given up if this is dropped.
pub(crate) struct Spool {
    upstream: Arc<str>,
    writer: VerifyingWriter,
    outcome: Arc<Outcome>,
}

/// The result of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The bytes have the digest, and are in the store.
    Kept,
    /// The copy is incomplete, could not be checked, or could not be put into the store.
    NotKept,
    /// The bytes do not have the digest.
    Wrong,
}

/// The callback for the result of a spool, until it is called.
#[derive(Default)]
struct Outcome(Mutex<Option<OnEnd>>);

type OnEnd = Box<dyn FnOnce(End) + Send>;

/// A tap that copies the bytes of an upload into a spool.
struct SpoolTap {
    upstream: Arc<str>,
    input: WriterInput,
}

impl Spool {
    /// Returns a spool for an upload to `upstream`. Creates no file before the first byte. `backlog` counts the bytes of all
    /// spools that wait to be written.
    pub(crate) fn new(
        store: Arc<Store>,
        pool: &Arc<HashPool>,
        upstream: Arc<str>,
        backlog: Arc<AtomicUsize>,
    ) -> Self {
        let name = upstream.clone();
        let target = Target::Later(Box::new(move || store.begin_unknown_digest(&name)));
        let outcome = Arc::<Outcome>::default();
        let observer: Arc<dyn Observer> = outcome.clone();
        // Most digests are of this algorithm. If the last request names another, the file is hashed again as a whole.
        let writer =
            VerifyingWriter::new(pool, Some(Hasher::sha256()), 0, target, Source::Runs(backlog), observer);
        Self { upstream, writer, outcome }
    }

    /// Returns the number of bytes that have come.
    pub(crate) fn end(&self) -> u64 {
        self.writer.end()
    }

    /// Returns a tap that copies the bytes as they pass.
    pub(crate) fn tap(&self) -> Box<dyn Tap> {
        Box::new(SpoolTap { upstream: self.upstream.clone(), input: self.writer.input() })
    }

    /// Ends the spool: the upload is complete, and the upstream has accepted it as `digest`. Calls `on_end` with the result.
    pub(crate) fn finish(self, digest: Digest, on_end: impl FnOnce(End) + Send + 'static) {
        *self.outcome.0.lock() = Some(Box::new(on_end));
        self.writer.finish(digest);
    }
}

impl Tap for SpoolTap {
    fn pass(&self, data: &Bytes) {
        if !self.input.offer(data) {
            tracing::debug!(
                upstream = &*self.upstream,
                "an upload is faster than the cache's disk; it is not cached"
            );
        }
    }
}

impl Observer for Outcome {
    fn disk_failed(&self, error: &io::Error) {
        tracing::debug!(%error, "an upload can't be written to the cache's disk; it is not cached");
    }

    fn verified(&self, result: Verified) {
        let on_end = self.0.lock().take();
        let Some(on_end) = on_end else { return };
        on_end(match result {
            Verified::Right(Some(_)) => End::Kept,
            Verified::Right(None) | Verified::Unknown => End::NotKept,
            Verified::Wrong => End::Wrong,
        });
    }
}

#[cfg(test)]
mod tests;
