//! The copies of uploads to one upstream.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::oneshot;

use crate::body::Tap;
use crate::cache::blobs::push::sessions::Sessions;
use crate::cache::blobs::push::spool::{End, Spool};
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::{Kind, Store};
use crate::config::limits;
use crate::proto::{Digest, RepositoryName};

/// The copies of uploads under way, to all upstreams.
pub(crate) struct PushSpools {
    store: Arc<Store>,
    pool: Arc<HashPool>,
    sessions: Arc<Sessions>,
    /// What waits to be written, of all of them, in bytes.
    backlog: Arc<AtomicUsize>,
}

impl PushSpools {
    /// Returns copies that go into `store`, hashed on `pool`.
    pub(crate) fn new(store: Arc<Store>, pool: Arc<HashPool>) -> Self {
        Self { store, pool, sessions: Arc::default(), backlog: Arc::default() }
    }
}

/// The copies of uploads to one upstream.
pub(crate) struct Pushes {
    upstream: Arc<str>,
    spools: Arc<PushSpools>,
    metadata: Arc<UpstreamMetadata>,
}

/// The copy of one upload, in the hands of the request that sends a part of it. Dropped, it is given up.
pub(crate) struct Push {
    sessions: Arc<Sessions>,
    id: String,
    /// There until it is given back.
    spool: Option<Spool>,
}

impl Pushes {
    /// Returns the copies of uploads to `upstream`, of which `metadata` records what it has taken.
    pub(crate) fn new(upstream: Arc<str>, spools: Arc<PushSpools>, metadata: Arc<UpstreamMetadata>) -> Self {
        Self { upstream, spools, metadata }
    }

    /// Begins the copy of an upload. Returns its id, by which later requests find it; none if there are too many.
    pub(crate) fn begin(&self) -> Option<String> {
        let PushSpools { store, pool, sessions, backlog } = &*self.spools;
        let spool = Spool::new(store.clone(), pool, self.upstream.clone(), backlog.clone());
        sessions.open(spool)
    }

    /// Returns the copy called `id`, for bytes of which the first is at `first`; without that they are taken to go on where the
    /// copy ends. Bytes that do not go on there, and those that come while another request is sending, end it.
    pub(crate) fn take(&self, id: &str, first: Option<u64>) -> Option<Push> {
        let sessions = &self.spools.sessions;
        let spool = sessions.take(id)?;
        let fits = first.is_none_or(|first| first == spool.end());
        let push = Push { sessions: sessions.clone(), id: id.to_owned(), spool: Some(spool) };
        fits.then_some(push)
    }

    /// Keeps `push` as a blob that the upstream has taken. Waits until that is done, but not for long: a client that pulls at
    /// once should find it.
    pub(crate) async fn finish(&self, repository: &RepositoryName, digest: &Digest, push: Push) {
        let Some(spool) = push.into_spool() else { return };
        let (sender, receiver) = oneshot::channel();
        let (upstream, metadata) = (self.upstream.clone(), self.metadata.clone());
        let (repository, named) = (repository.clone(), digest.clone());
        spool.finish(digest.clone(), move |end| {
            match end {
                End::Kept => metadata.ledger().note_served(&named),
                End::Wrong => {
                    tracing::warn!(
                        upstream = &*upstream,
                        repository = repository.as_str(),
                        digest = %named,
                        "the upstream has taken a push whose bytes do not have the digest; they are not kept"
                    );
                    // Its word that it holds the blob is not enough.
                    metadata.ledger().release(&repository, Kind::Blob, &named);
                }
                End::NotKept => {}
            }
            // The request may have stopped waiting.
            let _ = sender.send(());
        });
        let _ = tokio::time::timeout(limits::PUSH_SETTLED, receiver).await;
    }
}

impl Push {
    /// Returns a tap that takes what passes into the copy.
    pub(crate) fn tap(&self) -> Option<Box<dyn Tap>> {
        self.spool.as_ref().map(Spool::tap)
    }

    /// Gives the copy back for the next part: the upstream has taken all of this one.
    pub(crate) fn keep(mut self) {
        if let Some(spool) = self.spool.take() {
            self.sessions.give_back(&self.id, spool);
        }
    }

    fn into_spool(mut self) -> Option<Spool> {
        self.sessions.close(&self.id);
        self.spool.take()
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        if self.spool.is_some() {
            self.sessions.close(&self.id);
        }
    }
}
