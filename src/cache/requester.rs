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
}

impl Requester {
    /// Returns the requester that holds `permit` and asks by `origin`. `repository` is the upstream's own name.
    pub(crate) fn new(permit: Permit, repository: RepositoryName, origin: Arc<dyn Origin>) -> Self {
        Self { permit, repository, origin }
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
