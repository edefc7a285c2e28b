//! The subject of a decision.

use std::net::IpAddr;

use crate::proto::identity::Identity;

/// The requester as rules see it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its identity.
    pub identity: Identity,
    /// The address that it comes from, a loopback address for a client of a unix socket; none for the operator.
    pub address: Option<IpAddr>,
    /// The groups that its identity provider says it is in, besides those of the configuration.
    pub groups: Vec<Box<str>>,
}

impl From<Identity> for Subject {
    /// Returns an identity without an address.
    fn from(identity: Identity) -> Self {
        Self { identity, address: None, groups: Vec::new() }
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

    /// Returns true if its identity provider says that it is in a group.
    pub(super) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|name| **name == *group)
    }
}
