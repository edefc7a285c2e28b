//! The subject of a decision.

use std::net::IpAddr;
use std::sync::Arc;

use crate::authz::limits::Limits;
use crate::proto::identity::Identity;
use crate::proto::{Action, Grant, RepositoryName};

/// The requester as rules see it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its identity.
    pub identity: Identity,
    /// The address that it comes from, a loopback address for a client of a unix socket; none for the operator.
    pub address: Option<IpAddr>,
    /// The groups that its identity provider says it is in, besides those of the configuration.
    pub groups: Vec<Box<str>>,
    /// The grants of its access token; none for a client that came without one.
    pub(crate) access: Option<Arc<[Grant]>>,
    /// The limits of a robot, whatever the rules say.
    pub(crate) limits: Option<Arc<Limits>>,
}

impl From<Identity> for Subject {
    /// Returns an identity without an address.
    fn from(identity: Identity) -> Self {
        Self { identity, address: None, groups: Vec::new(), access: None, limits: None }
    }
}

impl Subject {
    /// Returns an identity at an address.
    pub fn at(identity: Identity, address: IpAddr) -> Self {
        Self { address: Some(address), ..Self::from(identity) }
    }

    /// Returns the name of a user; none for an anonymous client.
    pub fn user(&self) -> Option<&str> {
        (!self.identity.is_anonymous()).then(|| self.identity.name())
    }

    /// Returns true if its access token, where it has one, grants the action.
    pub(super) fn is_granted(&self, repository: Option<&RepositoryName>, action: Action) -> bool {
        let Some(access) = &self.access else { return true };
        let Some(name) = repository else { return access.iter().any(Grant::is_catalog) };
        let mut own = access.iter().filter(|grant| grant.is_of_repository() && grant.name == name.as_str());
        own.any(|grant| grant.contains(action))
    }

    /// Returns true if its own limits, where it has some, contain the action.
    pub(super) fn is_within_limits(&self, repository: Option<&RepositoryName>, action: Action) -> bool {
        self.limits.as_ref().is_none_or(|limits| limits.allow(repository, action))
    }
}
