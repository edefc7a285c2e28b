//! Membership of blobs: whether a repository holds one, by its upstream's word there.

use std::sync::Arc;
use std::time::SystemTime;

use http::{StatusCode, header};

use crate::cache::error::CacheError;
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::record::Membership;
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::gate::Gate;
use crate::cache::origin::{OriginRequest, OriginResponse, Priority};
use crate::cache::requester::Requester;
use crate::cache::store::disk_pool::Use;
use crate::cache::store::{Kind, disk_pool};
use crate::clock;
use crate::config::limits;
use crate::meaning::Ends;
use crate::proto::{Coding, ContentRange, Digest, MediaType, RepositoryName};
use crate::single_flight::{Abandoned, SingleFlight};

/// The blobs that the repositories of one upstream hold, asked of the upstream where that is not known.
pub(crate) struct BlobMembership {
    gate: Arc<Gate>,
    metadata: Arc<UpstreamMetadata>,
    lookups: SingleFlight<(RepositoryName, Digest, Arc<str>, Proof), Lookup>,
}

/// The request by which the upstream proves that a repository holds a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Proof {
    /// HEAD, of which the client may not even see the bytes.
    Head,
    /// GET of the first byte.
    FirstByte,
}

/// The answer to whether a repository holds a blob, and the account that it was given to.
#[derive(Clone)]
struct Lookup {
    account: Arc<str>,
    result: Result<Membership, CacheError>,
}

impl BlobMembership {
    /// Returns what `metadata` knows of blobs, and what the upstream behind `gate` says of others.
    pub(crate) fn new(gate: Arc<Gate>, metadata: Arc<UpstreamMetadata>) -> Self {
        Self { gate, metadata, lookups: SingleFlight::default() }
    }

    /// Reads the record of a blob into memory, where it is not there. Where the disk does not answer in time, there is none.
    pub(crate) async fn load(&self, repository: &RepositoryName, digest: &Digest) {
        let (_, missed) = disk_pool::in_memory(|| self.recorded(repository, digest));
        if missed {
            let (ledger, repository, digest) =
                (self.metadata.ledger().clone(), repository.clone(), digest.clone());
            let read = move || ledger.held(&repository, Kind::Blob, &digest);
            let _ = self.metadata.disk().run(Use::Read, "reading a record", read).await;
        }
    }

    /// Returns the record of a blob, if it is not too old to be believed. Asks nothing.
    pub(crate) fn known(&self, repository: &RepositoryName, digest: &Digest) -> Option<Membership> {
        self.recorded(repository, digest).filter(Self::is_believed)
    }

    /// Returns the record of a blob that the requester's repository holds; the upstream is asked where that is not known,
    /// once for all who ask.
    ///
    /// # Errors
    /// The upstream's no, which ends what was believed; and why it could not be asked, where nothing was believed.
    pub(crate) async fn holds(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
    ) -> Result<Membership, CacheError> {
        self.load(requester.repository(), digest).await;
        let old = match self.recorded(requester.repository(), digest) {
            Some(held) if Self::is_believed(&held) => return Ok(held),
            old => old,
        };
        self.holds_still(requester, digest, old, Proof::Head).await
    }

    /// Returns the record of a blob of which the record is `old`, or missing, as [`holds`](Self::holds) does. The upstream is
    /// asked by GET, like one for a blob that has to be downloaded: how long a refusal takes does not tell whether it is here.
    ///
    /// # Errors
    /// As [`holds`](Self::holds).
    pub(crate) async fn holds_by_get(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        old: Option<Membership>,
    ) -> Result<Membership, CacheError> {
        self.holds_still(requester, digest, old, Proof::FirstByte).await
    }

    async fn holds_still(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        old: Option<Membership>,
        proof: Proof,
    ) -> Result<Membership, CacheError> {
        // A request for held content must not begin a question that others would join.
        if requester.is_for_held_content() {
            return Err(CacheError::FetchForbidden);
        }
        // A requester that may not fetch learns nothing of what is not here; asking whether it still is there is no fetch.
        let old = match (self.gate.upstream().held_only(requester), old) {
            // Another replica may be asked all the same.
            (Some(_), None) if self.gate.has_others(requester) => {
                return self.ask_once(requester, digest, Priority::Held, proof).await;
            }
            (Some(refusal), None) => return Err(refusal),
            (Some(_), Some(old)) if self.gate.upstream().is_offline() => return Ok(old),
            (_, old) => old,
        };
        let old =
            old.filter(|held| self.gate.upstream().may_serve_stale(held.age(), limits::RECORD_BELIEVED));
        let priority = if old.is_some() { Priority::Refresh } else { Priority::Required };
        let asking = Box::pin(self.ask_once(requester, digest, priority, proof));
        let Some(old) = old else { return asking.await };
        match self.gate.upstream().patiently(asking).await {
            Err(refusal) if refusal.allows_stale() => Ok(old),
            result => result,
        }
    }

    /// Records that the upstream has served or confirmed a blob, at `confirmed`; it was asked when the repository was at `generation`. Where
    /// the repository has been written to since, that may be out of date, and is for those who asked alone. What the upstream
    /// did not say this time is still as it was.
    pub(crate) fn confirm(
        &self,
        repository: &RepositoryName,
        generation: Generation,
        digest: &Digest,
        media_type: Option<MediaType>,
        size: Option<u64>,
        confirmed: SystemTime,
    ) -> Membership {
        let old = self.recorded(repository, digest);
        // Another replica may tell of an earlier time than is known here.
        let confirmed = old.as_ref().map_or(confirmed, |old| confirmed.max(old.confirmed.min(clock::wall())));
        let (old_type, old_size) = old.map_or((None, None), |old| (old.media_type, old.size));
        let held = Membership { media_type: media_type.or(old_type), size: size.or(old_size), confirmed };
        self.metadata.hold_since(generation, repository, Kind::Blob, digest, &held);
        held
    }

    /// Records that the upstream has answered the question whether it has a blob with `answer`, as [`confirm`](Self::confirm).
    pub(crate) fn confirm_by(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        answer: &OriginResponse,
        generation: Generation,
    ) -> Membership {
        let (media_type, size) = described(digest, answer);
        self.confirm(repository, generation, digest, media_type, size, answer.from.confirmed())
    }

    /// Forgets that the repository holds a blob: the upstream's bytes for it did not have its digest.
    pub(crate) fn unconfirm(&self, repository: &RepositoryName, digest: &Digest) {
        self.metadata.ledger().release(repository, Kind::Blob, digest);
    }

    /// Returns true if a record is not too old to be believed.
    pub(crate) fn is_believed(held: &Membership) -> bool {
        held.age() < limits::RECORD_BELIEVED
    }

    /// Returns the record of a blob, however old it is.
    pub(crate) fn recorded(&self, repository: &RepositoryName, digest: &Digest) -> Option<Membership> {
        self.metadata.ledger().held(repository, Kind::Blob, digest)
    }

    /// Asks once for all, in `"shared"`. Where the others have accounts of their own at the upstream, its no to one is not one
    /// to them.
    async fn ask_once(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        priority: Priority,
        proof: Proof,
    ) -> Result<Membership, CacheError> {
        let account = requester.account();
        let lookup = self
            .look_up(requester, digest, priority, proof, self.gate.upstream().shared_account(requester))
            .await;
        match lookup {
            Some(Lookup { account: other, result: Err(_) }) if other != account => {
                self.look_up(requester, digest, priority, proof, account).await
            }
            lookup => lookup,
        }
        .map_or_else(
            || Err(CacheError::unusable("no answer: the request for it ended")),
            |lookup| lookup.result,
        )
    }

    async fn look_up(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        priority: Priority,
        proof: Proof,
        account: Arc<str>,
    ) -> Option<Lookup> {
        let key = (requester.repository().clone(), digest.clone(), account, proof);
        let ask = || {
            let (this, requester, digest) = (self.clone(), requester.clone(), digest.clone());
            async move { this.ask(&requester, &digest, priority, proof).await }
        };
        let abandoned = match priority {
            Priority::Required | Priority::Authorization | Priority::Held => Abandoned::Ends,
            Priority::Refresh | Priority::Background => Abandoned::Lasts,
        };
        loop {
            match self.lookups.join(key.clone(), abandoned, ask).await {
                // The budget that another client has spent is no answer to this one.
                (Some(Lookup { result: Err(refusal), .. }), true) if refusal.is_busy() => {}
                (lookup, _) => return lookup,
            }
        }
    }

    async fn ask(&self, requester: &Requester, digest: &Digest, priority: Priority, proof: Proof) -> Lookup {
        let repository = requester.repository();
        let generation = self.metadata.generation(repository);
        let request = match proof {
            Proof::Head => OriginRequest::BlobExists(digest.clone()),
            Proof::FirstByte => OriginRequest::BlobFirstByte(digest.clone()),
        };
        let result = match self.gate.ask(requester, priority, request).await {
            Ok(answer) => {
                self.load(repository, digest).await;
                Ok(self.confirm_by(repository, digest, &answer, generation))
            }
            Err(refusal) => {
                // Where nothing was believed, a refused download looks for no record either.
                let is_recorded = proof == Proof::Head || priority == Priority::Refresh;
                let ends = |meaning| self.gate.upstream().ends(requester, meaning) == Ends::Entry;
                if is_recorded && refusal.meaning().is_some_and(ends) {
                    self.metadata.release_since(generation, repository, Kind::Blob, digest);
                }
                Err(refusal)
            }
        };
        Lookup { account: requester.account(), result }
    }
}

/// Type and size of a blob by a head. A redirect's are its own, and so is the length of what is encoded; a length of 0 means
/// that it is not known, but for the empty blob (godoxy#169).
fn described(digest: &Digest, answer: &OriginResponse) -> (Option<MediaType>, Option<u64>) {
    if Coding::of(&answer.headers) == Coding::Unasked {
        return (None, None);
    }
    let text = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let media_type = text(header::CONTENT_TYPE).and_then(|text| MediaType::parse(text).ok());
    let size = match answer.status {
        StatusCode::OK => text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok()),
        StatusCode::PARTIAL_CONTENT => total(answer),
        _ => return (None, None),
    };
    (media_type, size.filter(|size| *size > 0 || digest.is_of(b"")))
}

/// Bytes of the whole, of which a part has come.
fn total(answer: &OriginResponse) -> Option<u64> {
    match ContentRange::parse(answer.headers.get(header::CONTENT_RANGE)?.as_bytes())? {
        ContentRange::Part { total, .. } => total,
        ContentRange::Unsatisfied { .. } => None,
    }
}

#[cfg(test)]
mod tests;
