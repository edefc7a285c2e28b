//! One request's view of a repository at its upstream.

use std::sync::Arc;

use crate::authz::Permit;
use crate::cache::origin::Origin;
use crate::proto::RepositoryName;
use crate::proto::identity::Identity;

/// The requester of something in one repository of an upstream. Cheap to clone, for work in the background.
#[derive(Clone)]
pub(crate) struct Requester {
    pub(crate) permit: Permit,
    /// As the upstream calls it.
    pub(crate) name: RepositoryName,
    pub(crate) source: Arc<dyn Origin>,
}

impl Requester {
    /// Returns the repository, as the upstream calls it.
    pub(crate) fn repository(&self) -> &RepositoryName {
        &self.name
    }

    /// Returns the upstream, as this requester asks it.
    pub(crate) fn origin(&self) -> &Arc<dyn Origin> {
        &self.source
    }

    /// Returns the account as which the upstream is asked.
    pub(crate) fn account(&self) -> Arc<str> {
        self.source.account()
    }

    /// Returns the identity that the permit is for.
    pub(crate) fn identity(&self) -> &Identity {
        self.permit.identity()
    }

    /// Returns true if the permit lets what is not held be fetched.
    pub(crate) fn may_fetch(&self) -> bool {
        self.permit.may_fetch()
    }
}
