//! The view that a request has of a repository at its upstream.

use std::sync::Arc;

use crate::authz::Permit;
use crate::budget::Client;
use crate::cache::origin::Origin;
use crate::proto::RepositoryName;
use crate::proto::identity::Identity;

/// The requester of something in one repository of an upstream. Cheap to clone, for work in the background.
#[derive(Clone)]
pub(crate) struct Requester {
    permit: Permit,
    repository: RepositoryName,
    origin: Arc<dyn Origin>,
    reach: RequesterReach,
}

/// The parties that are asked for a requester, besides this gateway's own cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequesterReach {
    /// The other replicas, and then the upstream: for a client.
    Fleet,
    /// The upstream: for another replica, which may have this one ask.
    Upstream,
    /// None: for another replica, which is given what is held and what is on its way.
    Joins,
    /// None: for another replica, which is given what is held alone.
    Held,
}

impl Requester {
    /// Returns the requester that holds `permit` and asks by `origin`. `repository` is the upstream's own name.
    pub(crate) fn new(permit: Permit, repository: RepositoryName, origin: Arc<dyn Origin>) -> Self {
        Self { permit, repository, origin, reach: RequesterReach::Fleet }
    }

    /// Returns the requester for which others are asked by `reach`.
    pub(crate) fn reaching(self, reach: RequesterReach) -> Self {
        Self { reach, ..self }
    }

    /// Returns who is asked for it.
    pub(crate) fn reach(&self) -> RequesterReach {
        self.reach
    }

    /// Returns true if it is another replica of this gateway: its own rules have decided that its client may read.
    pub(crate) fn is_replica(&self) -> bool {
        self.reach != RequesterReach::Fleet
    }

    /// Returns true if only what is here may serve it: nothing is asked for it.
    pub(crate) fn is_for_held_content(&self) -> bool {
        matches!(self.reach, RequesterReach::Joins | RequesterReach::Held)
    }

    /// Returns the repository, as the upstream calls it.
    pub(crate) fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// Returns the upstream, as this requester asks it.
    pub(crate) fn origin(&self) -> &Arc<dyn Origin> {
        &self.origin
    }

    /// Returns the account as which the upstream is asked.
    pub(crate) fn account(&self) -> Arc<str> {
        self.origin.account()
    }

    /// Returns the identity that the permit is for.
    pub(crate) fn identity(&self) -> &Identity {
        self.permit.identity()
    }

    /// Returns the client to which what is asked of the upstream is charged.
    pub(crate) fn client(&self) -> Client {
        self.permit.client()
    }

    /// Returns true if the permit lets what is not held be fetched.
    pub(crate) fn may_fetch(&self) -> bool {
        self.permit.may_fetch()
    }

    /// Returns the same requester in another repository, by the same origin.
    #[cfg(test)]
    pub(crate) fn in_repository(self, repository: RepositoryName) -> Self {
        Self { repository, ..self }
    }
}
