//! The gate to what is behind a cache: asks the other replicas of this gateway, the object store and the upstream, in this order.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::error::CacheError;
use crate::cache::origin::store_access::StoreAccess;
use crate::cache::origin::store_question::StoreQuestion;
use crate::cache::origin::upstream_gate::UpstreamGate;
use crate::cache::origin::{ByteSpan, Fleet, FleetQuestion, OriginRequest, OriginResponse, Priority};
use crate::cache::requester::Requester;
use crate::meaning::{Meaning, UpstreamFailure};
use crate::proto::Digest;

/// The gate to what is behind the cache of one upstream.
pub(crate) struct Gate {
    /// The other replicas of this gateway; none if this one is alone.
    fleet: Option<FleetAccess>,
    /// The object store behind the disks, if there is one.
    store: Option<StoreAccess>,
    upstream: UpstreamGate,
}

/// The other replicas, as they are asked about one upstream.
pub(crate) struct FleetAccess {
    pub(crate) fleet: Arc<dyn Fleet>,
    /// The upstream's name and URL, by which all replicas call it.
    pub(crate) upstream: Arc<str>,
    /// How long a replica may take until it answers: longer than the upstream may have it wait.
    pub(crate) patience: Duration,
}

impl Gate {
    /// Returns the gate to the other replicas, the store, and the upstream.
    pub(crate) fn new(
        fleet: Option<FleetAccess>,
        store: Option<StoreAccess>,
        upstream: UpstreamGate,
    ) -> Self {
        let upstream = upstream.with_store(store.clone());
        Self { fleet, store, upstream }
    }

    /// Returns the other replicas of this gateway.
    pub(crate) fn fleet(&self) -> Option<&FleetAccess> {
        self.fleet.as_ref()
    }

    /// Returns the object store, if there is one.
    pub(crate) fn store(&self) -> Option<&StoreAccess> {
        self.store.as_ref()
    }

    /// Returns the gate to the upstream alone.
    pub(crate) fn upstream(&self) -> &UpstreamGate {
        &self.upstream
    }

    /// Returns true if others than the upstream may be asked for the requester: other replicas, or the store.
    pub(crate) fn has_others(&self, requester: &Requester) -> bool {
        (self.fleet.is_some() && !requester.is_replica())
            || self.readable_store(requester, Priority::Held).is_some()
    }

    /// Notes that content does not have its digest: if other replicas have sent it, they are not asked for it for a while.
    pub(crate) fn distrust(&self, digest: &Digest) {
        if let Some(FleetAccess { fleet, upstream, .. }) = &self.fleet {
            fleet.clone().distrust(upstream, digest);
        }
    }

    /// Returns the length of a blob that the store has, if it may be read for the requester.
    pub(crate) async fn stored_length(&self, requester: &Requester, digest: &Digest) -> Option<u64> {
        self.readable_store(requester, Priority::Required)?.store.blob_length(digest).await
    }

    /// Asks the other replicas of this gateway, then the store, and the upstream if none of them has an answer, or a stale one. What may
    /// be asked of the upstream says [`UpstreamGate::ask`].
    ///
    /// # Errors
    /// As there. The registry's word that a replica hands on is [`CacheError::Origin`] too.
    pub(crate) async fn ask(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        match self.ask_fleet(requester, priority, &request).await {
            Some(Ok(stale)) if stale.from.is_stale() && priority != Priority::Held => {
                return self.ask_behind(stale, requester, priority, request).await;
            }
            Some(answer) => return answer,
            None => {}
        }
        if let Some(question) = self.readable_store(requester, priority)
            && let Some(answer) = Box::pin(question.ask(&request)).await
        {
            return answer;
        }
        self.ask_behind_others(requester, priority, request).await
    }

    /// Asks as [`ask`](Self::ask) does, for a blob that is proved by its digest once it has come whole: the store is asked before
    /// the upstream, and while it has not begun to send in time, the upstream too. The first that does is the answer.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn ask_beside_store(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if let Some(answer) = self.ask_fleet(requester, priority, &request).await {
            return answer;
        }
        let (Some(question), OriginRequest::Blob { digest, bytes, .. }) =
            (self.readable_store(requester, priority), &request)
        else {
            return self.ask_behind_others(requester, priority, request).await;
        };
        let (digest, bytes) = (digest.clone(), *bytes);
        let asked = self.ask_behind_others(requester, priority, request);
        beside(question, &digest, bytes, asked).await
    }

    /// Asks the upstream, unless only what others hold is wanted.
    async fn ask_behind_others(
        &self,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        match priority {
            Priority::Held => Err(self.upstream.held_only(requester).unwrap_or(CacheError::FetchForbidden)),
            _ => self.upstream.ask(requester, priority, request).await,
        }
    }

    /// Asks the upstream, which another replica could not ask: it gave a `stale` answer, which serves if this one cannot either.
    async fn ask_behind(
        &self,
        stale: OriginResponse,
        requester: &Requester,
        priority: Priority,
        request: OriginRequest,
    ) -> Result<OriginResponse, CacheError> {
        if self.upstream.is_silent() || self.upstream.refrains(requester).is_some() {
            return Ok(stale);
        }
        match self.upstream.patiently(self.upstream.ask(requester, priority, request)).await {
            Err(refusal) if refusal.allows_stale() => Ok(stale),
            result => result,
        }
    }

    /// Returns a question to the store, if it may be read for the requester. Another replica that wants what is held here reads the
    /// store itself, and a check of rights is the upstream's.
    fn readable_store<'a>(
        &'a self,
        requester: &'a Requester,
        priority: Priority,
    ) -> Option<StoreQuestion<'a>> {
        let may_read = !requester.is_for_held_content() && priority != Priority::Authorization;
        let store = self.store.as_ref().filter(|_| may_read)?;
        Some(StoreQuestion { store, upstream: &self.upstream, requester, priority })
    }

    /// Asks the other replicas. `None` if none of them has an answer, or none may be asked: whether the requester may read it, the
    /// upstream is asked here, with the requester's own credentials.
    async fn ask_fleet(
        &self,
        requester: &Requester,
        priority: Priority,
        request: &OriginRequest,
    ) -> Option<Result<OriginResponse, CacheError>> {
        let FleetAccess { fleet, upstream, patience } = self.fleet.as_ref()?;
        if requester.is_replica() || priority == Priority::Authorization {
            return None;
        }
        // Another replica has no credentials but the gateway's own.
        let is_shared = requester.origin().is_shared();
        let question = FleetQuestion {
            upstream: upstream.clone(),
            repository: requester.repository().clone(),
            request: request.clone(),
            held_only: !is_shared || self.upstream.held_only(requester).is_some(),
            client: requester.client(),
            patience: *patience,
        };
        let is_hint = request.is_hint();
        let answer = Box::pin(fleet.ask(question)).await?;
        Some(answer.map_err(|failure| {
            if let Meaning::RateLimited { retry_after } = failure.meaning {
                self.upstream.note_limit(&requester.account(), retry_after);
            }
            CacheError::Origin(UpstreamFailure { by_head: is_hint, ..failure })
        }))
    }
}

/// Reads a blob from the store, and has the upstream `asked` too if that does not begin in time. The first that sends it is the
/// answer; the other is dropped.
async fn beside(
    question: StoreQuestion<'_>,
    digest: &Digest,
    bytes: Option<ByteSpan>,
    asked: impl Future<Output = Result<OriginResponse, CacheError>>,
) -> Result<OriginResponse, CacheError> {
    let store = question.store;
    let reading = store.blob(question.requester.repository(), digest, bytes);
    tokio::pin!(reading, asked);
    if let Ok(read) = tokio::time::timeout(store.hedge(), &mut reading).await {
        let Some(read) = read else { return asked.await };
        return match question.blob(read, digest, bytes).await {
            Some(answer) => answer,
            None => asked.await,
        };
    }
    let stored = async { question.blob(reading.await?, digest, bytes).await };
    tokio::pin!(stored);
    let (answer, upstream_was_first) = tokio::select! {
        biased;
        stored = &mut stored => match stored {
            Some(Ok(answer)) => (Ok(answer), false),
            Some(Err(_)) | None => (asked.await, true),
        },
        answer = &mut asked => match answer {
            Ok(answer) => (Ok(answer), true),
            Err(refusal) => match stored.await {
                Some(Ok(answer)) => (Ok(answer), false),
                Some(Err(_)) | None => (Err(refusal), true),
            },
        },
    };
    store.count_hedge(upstream_was_first);
    answer
}
