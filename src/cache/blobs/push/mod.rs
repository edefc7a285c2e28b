//! What is pushed through the gateway enters the cache as it passes.
//!
//! A copy of the bytes goes into a [`Spool`], in a file that nobody can read yet. Only when the upstream has taken the blob,
//! and the copy is what the digest says, is it put in its place. An upload neither fails nor waits because of its copy, which
//! is given up whenever something about it is in doubt: the blob is then fetched when somebody asks for it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::oneshot;

mod sessions;
mod spool;

use crate::body::Tap;
use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::{Kind, Store};
use crate::cache::upstream_cache::UpstreamCache;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName};
use sessions::Sessions;
use spool::{End, Spool};

/// The uploads under way, of all upstreams.
pub(crate) struct Pushes {
    store: Arc<Store>,
    desk: Arc<HashPool>,
    sessions: Arc<Sessions>,
    /// What waits to be written, of all of them, in bytes.
    backlog: Arc<AtomicUsize>,
}

/// The copy of one upload, in the hands of the request that sends a part of it. Dropped, it is given up.
pub(crate) struct Push {
    sessions: Arc<Sessions>,
    id: String,
    /// There until it is given back.
    spool: Option<Spool>,
}

impl Pushes {
    pub(crate) fn new(store: Arc<Store>, desk: Arc<HashPool>) -> Self {
        Self { store, desk, sessions: Arc::default(), backlog: Arc::default() }
    }
}

impl UpstreamCache {
    /// Begins the copy of an upload: whoever goes on with it finds it by the answer. `None`: there are too many.
    pub(crate) fn begin_push(&self) -> Option<String> {
        let Pushes { store, desk, sessions, backlog } = &self.cache.pushes;
        let spool = Spool::new(store.clone(), desk, self.name.clone(), backlog.clone());
        sessions.open(spool)
    }

    /// The copy called `id`, for bytes of which the first is at `first`; without that they are taken to go on where the copy
    /// ends. What does not go on there, and what comes while another request is sending, ends it.
    pub(crate) fn push(&self, id: &str, first: Option<u64>) -> Option<Push> {
        let sessions = &self.cache.pushes.sessions;
        let spool = sessions.take(id)?;
        let fits = first.is_none_or(|first| first == spool.end());
        let push = Push { sessions: sessions.clone(), id: id.to_owned(), spool: Some(spool) };
        fits.then_some(push)
    }

    /// The upstream has taken a blob there, of which `push` may be the copy. Waits until that has been kept, but not for
    /// long: whoever pulls at once should find it.
    pub(crate) async fn pushed(
        self: &Arc<Self>,
        repository: &RepositoryName,
        digest: &Digest,
        push: Option<Push>,
    ) {
        self.pushed_blob(repository, digest);
        let Some(spool) = push.and_then(Push::into_spool) else { return };
        let (sender, receiver) = oneshot::channel();
        let (site, repository, named) = (self.clone(), repository.clone(), digest.clone());
        spool.finish(digest.clone(), move |end| {
            match end {
                End::Kept => site.ledger.note_served(&named),
                End::Wrong => site.misled(&repository, &named),
                End::NotKept => {}
            }
            // Nobody waits any more.
            let _ = sender.send(());
        });
        // What is not done by then is done behind this.
        let _ = tokio::time::timeout(limits::PUSH_SETTLED, receiver).await;
    }

    /// The upstream has taken for `digest` what is something else, as far as it was seen: its word is not enough.
    fn misled(&self, repository: &RepositoryName, digest: &Digest) {
        let (upstream, repository_name) = (&*self.name, repository.as_str());
        tracing::warn!(
            upstream,
            repository = repository_name,
            %digest,
            "the upstream has taken a push whose bytes are not what the digest says; they are not kept"
        );
        self.ledger.release(repository, Kind::Blob, digest);
    }
}

impl Push {
    /// Takes what passes into the copy.
    pub(crate) fn tap(&self) -> Option<Box<dyn Tap>> {
        self.spool.as_ref().map(Spool::tap)
    }

    /// The upstream has taken all of it, and more will come.
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

#[cfg(test)]
mod tests;
