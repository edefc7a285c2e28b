//! The copies of uploads to one upstream.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::oneshot;

use crate::body::Tap;
use crate::budget::plan::Plan;
use crate::budget::{Budget, Client};
use crate::cache::blobs::push::sessions::Sessions;
use crate::cache::blobs::push::spool::{End, Spool};
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::gate::Gate;
use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::{Kind, Store};
use crate::config::limits;
use crate::proto::{Digest, RepositoryName};

/// The state that the copies of uploads share, whichever their upstream.
pub(crate) struct PushSpools {
    store: Arc<Store>,
    pool: Arc<HashPool>,
    sessions: Arc<Sessions>,
    /// Bytes that wait to be written, of all copies.
    backlog: Arc<AtomicUsize>,
}

impl PushSpools {
    /// Returns the state of copies that go into `store` and are hashed on `pool`.
    pub(crate) fn new(store: Arc<Store>, pool: Arc<HashPool>) -> Self {
        let sessions = Arc::new(Sessions::new(Plan::spools().budget()));
        Self { store, pool, sessions, backlog: Arc::default() }
    }

    /// Returns the budget of copies.
    pub(crate) fn budget(&self) -> &Budget {
        self.sessions.budget()
    }
}

/// The copies that are made of uploads to one upstream while they pass.
pub(crate) struct Pushes {
    upstream: Arc<str>,
    spools: Arc<PushSpools>,
    metadata: Arc<UpstreamMetadata>,
    gate: Arc<Gate>,
}

/// The copy of one upload, held by the request that sends a part of it. The copy is given up if this is dropped.
pub(crate) struct Push {
    sessions: Arc<Sessions>,
    id: String,
    /// None once it has been given back.
    spool: Option<Spool>,
}

impl Pushes {
    /// Returns the copies of uploads to `upstream`, whose content `metadata` records, and which the object store behind `gate` gets.
    pub(crate) fn new(
        upstream: Arc<str>,
        spools: Arc<PushSpools>,
        metadata: Arc<UpstreamMetadata>,
        gate: Arc<Gate>,
    ) -> Self {
        Self { upstream, spools, metadata, gate }
    }

    /// Begins the copy of an upload of `client`. Returns its id, by which later requests find it; none if there are too many copies.
    pub(crate) fn begin(&self, client: Client) -> Option<String> {
        let PushSpools { store, pool, sessions, backlog } = &*self.spools;
        let spool = Spool::new(store.clone(), pool, self.upstream.clone(), backlog.clone());
        sessions.open(client, spool)
    }

    /// Returns the copy `id` for a request whose first byte has the offset `first`; none: it continues where the copy ends.
    /// A gap, an overlap, or a second request at the same time ends the copy.
    pub(crate) fn take(&self, id: &str, first: Option<u64>) -> Option<Push> {
        let sessions = &self.spools.sessions;
        let spool = sessions.take(id)?;
        let fits = first.is_none_or(|first| first == spool.end());
        let push = Push { sessions: sessions.clone(), id: id.to_owned(), spool: Some(spool) };
        fits.then_some(push)
    }

    /// Keeps the copy as a blob, after the upstream has accepted the upload. Waits a short time for it: a client that pulls
    /// at once should find the blob.
    pub(crate) async fn finish(&self, repository: &RepositoryName, digest: &Digest, push: Push) {
        let Some(spool) = push.into_spool() else { return };
        let (sender, receiver) = oneshot::channel();
        let (upstream, metadata, gate) = (self.upstream.clone(), self.metadata.clone(), self.gate.clone());
        let (repository, named) = (repository.clone(), digest.clone());
        spool.finish(digest.clone(), move |end| {
            match end {
                End::Kept => {
                    metadata.ledger().note_served(&named);
                    if let Some(store) = gate.store() {
                        store.keep_proved(Kind::Blob, &named, &repository, None);
                    }
                }
                End::Wrong => {
                    tracing::warn!(
                        upstream = &*upstream,
                        repository = repository.as_str(),
                        digest = %named,
                        "the upstream accepted a pushed blob, and what passed here does not match its digest: another replica \
                         had a part of the upload, or the content is wrong; it is not cached"
                    );
                    // The repository may not hold that blob, in spite of the upstream's answer.
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
    /// Returns a tap that copies the bytes as they pass.
    pub(crate) fn tap(&self) -> Option<Box<dyn Tap>> {
        self.spool.as_ref().map(Spool::tap)
    }

    /// Gives the copy back for the next part: the upstream has accepted all of this one.
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
