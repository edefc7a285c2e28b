//! The check of `pull_authorization = "each"`: the upstream must let the requester read with its own credentials.

use std::sync::Arc;

use crate::cache::error::CacheError;
use crate::cache::metadata::grants::{Grant, Grants};
use crate::cache::metadata::membership::BlobMembership;
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::gate::Gate;
use crate::cache::origin::{OriginRequest, Priority, Resource};
use crate::cache::requester::Requester;
use crate::config::PullAuthorization;
use crate::meaning::{Ends, OtherWay};
use crate::proto::{Digest, Reference};
use crate::single_flight::{Abandoned, SingleFlight};

/// The check that requesters may read repositories of one upstream.
pub(crate) struct PullAuthorizer {
    pub(crate) mode: PullAuthorization,
    /// True if the upstream is shown a client certificate: then no request is anonymous.
    pub(crate) shows_certificate: bool,
    pub(crate) gate: Arc<Gate>,
    pub(crate) metadata: Arc<UpstreamMetadata>,
    pub(crate) membership: Arc<BlobMembership>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) lookups: Lookups,
}

/// The lookups under way, one for all requesters that want the same grant. The key names a resource only if a lookup by
/// another resource was refused.
pub(crate) type Lookups = SingleFlight<(Grant, Option<Resource>), Lookup>;

/// The result of a lookup for a grant, and the resource that the upstream was asked for.
#[derive(Clone)]
pub(crate) struct Lookup {
    resource: Resource,
    result: Result<(), CacheError>,
}

impl PullAuthorizer {
    /// Checks that the requester may read the repository at the upstream. Of another replica's client that replica has. With `"shared"` the access rules have
    /// decided; with `"each"` the upstream is asked for the manifest, unless the requester's grant is fresh.
    ///
    /// # Errors
    /// The upstream's refusal, or the reason why the upstream could not be asked: this fails closed.
    pub(crate) async fn authorize_manifest(
        self: &Arc<Self>,
        requester: &Requester,
        reference: &Reference,
    ) -> Result<(), CacheError> {
        match self.mode {
            _ if requester.is_replica() => Ok(()),
            PullAuthorization::Shared => Ok(()),
            PullAuthorization::Each => self.check(requester, || Resource::Manifest(reference.clone())).await,
        }
    }

    /// Checks the same by a request for a blob.
    ///
    /// # Errors
    /// As [`authorize_manifest`](Self::authorize_manifest).
    pub(crate) async fn authorize_blob(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
    ) -> Result<(), CacheError> {
        match self.mode {
            _ if requester.is_replica() => Ok(()),
            PullAuthorization::Shared => Ok(()),
            PullAuthorization::Each => self.check(requester, || Resource::Blob(digest.clone())).await,
        }
    }

    async fn check(
        self: &Arc<Self>,
        requester: &Requester,
        resource: impl FnOnce() -> Resource,
    ) -> Result<(), CacheError> {
        let own = (Some(requester.identity().clone()), requester.repository().clone());
        let public = (None, requester.repository().clone());
        if self.grants.is_fresh(&own) || self.grants.is_fresh(&public) {
            return Ok(());
        }
        let is_bearable = || self.grants.is_bearable(&own) || self.grants.is_bearable(&public);
        let resource = resource();
        let bearable = is_bearable();
        // A client that is let in meanwhile does not wait for the answer, which is of use to the next.
        let abandoned = if bearable { Abandoned::Lasts } else { Abandoned::Ends };
        let renewal = Box::pin(self.renew(requester, &own, &public, &resource, abandoned));
        let result = match bearable {
            _ if self.gate.upstream().is_offline() => Err(CacheError::Offline),
            true => self.gate.upstream().patiently(renewal).await,
            false => renewal.await,
        };
        match result {
            // The grant may have ended during the request.
            Err(refusal) if is_out_of_reach(&refusal) && is_bearable() => Ok(()),
            result => result,
        }
    }

    async fn renew(
        self: &Arc<Self>,
        requester: &Requester,
        own: &Grant,
        public: &Grant,
        resource: &Resource,
        abandoned: Abandoned,
    ) -> Result<(), CacheError> {
        let is_private = self.shows_certificate || self.grants.is_private(requester.repository());
        if !is_private && self.obtain(requester, public, resource, abandoned).await.is_ok() {
            return Ok(());
        }
        self.obtain(requester, own, resource, abandoned).await
    }

    /// Asks the upstream once for all requesters that want the same grant. A refusal of the first one's resource does not
    /// count for requests for another resource.
    async fn obtain(
        self: &Arc<Self>,
        requester: &Requester,
        grant: &Grant,
        resource: &Resource,
        abandoned: Abandoned,
    ) -> Result<(), CacheError> {
        let lookup = self.look_up(requester, grant, None, resource, abandoned).await;
        match lookup {
            Some(Lookup { resource: other, result: Err(refusal) })
                if other != *resource && self.is_no(requester, &refusal) =>
            {
                self.look_up(requester, grant, Some(resource.clone()), resource, abandoned).await
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
        grant: &Grant,
        alone: Option<Resource>,
        resource: &Resource,
        abandoned: Abandoned,
    ) -> Option<Lookup> {
        let ask = || {
            let (this, requester) = (self.clone(), requester.clone());
            let (grant, resource) = (grant.clone(), resource.clone());
            async move {
                let result = this.ask(&requester, &grant, &resource).await;
                Lookup { resource, result }
            }
        };
        let key = (grant.clone(), alone);
        loop {
            match self.lookups.join(key.clone(), abandoned, ask).await {
                // The budget that another client has spent is no answer to this one.
                (Some(Lookup { result: Err(refusal), .. }), true) if refusal.is_busy() => {}
                (lookup, _) => return lookup,
            }
        }
    }

    /// Returns true if the registry itself has refused the requester.
    fn is_no(&self, requester: &Requester, refusal: &CacheError) -> bool {
        refusal
            .meaning()
            .is_some_and(|meaning| self.gate.upstream().ends(requester, meaning) != Ends::Nothing)
    }

    async fn ask(&self, requester: &Requester, grant: &Grant, resource: &Resource) -> Result<(), CacheError> {
        let generation = self.metadata.generation(requester.repository());
        let request = match (&grant.0, resource) {
            (None, _) => OriginRequest::Public(resource.clone()),
            (Some(_), Resource::Blob(digest)) => OriginRequest::BlobExists(digest.clone()),
            (Some(_), Resource::Manifest(reference)) => OriginRequest::ManifestHead(reference.clone()),
        };
        let answer = match (self.gate.ask(requester, Priority::Authorization, request).await, resource) {
            // A HEAD's no is a hint: GET decides.
            (Err(refusal), Resource::Manifest(reference))
                if requester.may_fetch() && refusal.other_way_than_head() != OtherWay::Useless =>
            {
                let request = OriginRequest::Manifest(reference.clone());
                self.gate.ask(requester, Priority::Authorization, request).await
            }
            (answer, _) => answer,
        };
        let answer = answer.inspect_err(|refusal| {
            if self.is_no(requester, refusal) {
                self.grants.end(grant);
            }
        })?;
        self.grants.give(grant);
        if let Resource::Blob(digest) = resource {
            self.membership.load(requester.repository(), digest).await;
            self.membership.confirm_by(requester.repository(), digest, &answer, generation);
        }
        Ok(())
    }
}

/// Returns true if the upstream could not be reached or did not work, so that an older grant may still count. A rate limit,
/// refused credentials and an unusable answer do not count as such: a requester that may no longer read could cause them.
/// The circuit is open to [`Priority::Authorization`] only where the probe has had no answer either.
fn is_out_of_reach(refusal: &CacheError) -> bool {
    match refusal {
        CacheError::Origin(failure) => failure.meaning.is_registry_away(),
        CacheError::Offline | CacheError::CircuitOpen => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
