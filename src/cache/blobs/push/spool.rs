//! The spool of an upload: what has passed to the upstream of it, written and hashed behind it.

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

/// The copy of an upload. Dropped, it is given up.
pub(crate) struct Spool {
    upstream: Arc<str>,
    writer: VerifyingWriter,
    outcome: Arc<Outcome>,
}

/// The end of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It has the digest, and is in its place.
    Kept,
    /// It is not there as a whole, or could not be checked, or put in its place.
    NotKept,
    /// It does not have the digest.
    Wrong,
}

/// Waits for the end of a spool.
#[derive(Default)]
struct Outcome(Mutex<Option<Tell>>);

type Tell = Box<dyn FnOnce(End) + Send>;

/// Copies what passes into a spool.
struct SpoolTap {
    upstream: Arc<str>,
    input: WriterInput,
}

impl Spool {
    /// Returns a spool for an upload to `upstream`. Makes no file before something comes. `backlog` counts what waits of all
    /// spools.
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
        // Most digests are of this algorithm. If the last request names another, all is hashed again, from the file.
        let writer = VerifyingWriter::new(pool, Hasher::sha256(), target, Source::Runs(backlog), observer);
        Self { upstream, writer, outcome }
    }

    /// Returns the bytes that have come.
    pub(crate) fn end(&self) -> u64 {
        self.writer.end()
    }

    /// Returns a tap that copies what passes.
    pub(crate) fn tap(&self) -> Box<dyn Tap> {
        Box::new(SpoolTap { upstream: self.upstream.clone(), input: self.writer.input() })
    }

    /// Ends it: all has come, and the upstream has taken it as `digest`. `tell` is told what becomes of it here.
    pub(crate) fn finish(self, digest: Digest, tell: impl FnOnce(End) + Send + 'static) {
        *self.outcome.0.lock() = Some(Box::new(tell));
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
        let tell = self.0.lock().take();
        let Some(tell) = tell else { return };
        tell(match result {
            Verified::Right(Some(_)) => End::Kept,
            Verified::Right(None) | Verified::Unknown => End::NotKept,
            Verified::Wrong => End::Wrong,
        });
    }
}

#[cfg(test)]
mod tests;
