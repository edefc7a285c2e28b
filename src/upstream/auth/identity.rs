//! The identities that the gateway has at an upstream.

use std::fmt;
use std::sync::Arc;

use crate::proto::identity::Forwarded;

/// An identity that the gateway has at an upstream. Two identities never share a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum UpstreamIdentity {
    /// A client without credentials.
    Anonymous,
    /// The gateway itself.
    Gateway,
    /// The identity of `users[N]`.
    User(usize),
    /// A client, by its own name and password.
    Client(Arc<Forwarded>),
}

impl fmt::Display for UpstreamIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Gateway => f.write_str("gateway"),
            Self::User(place) => write!(f, "users[{place}]"),
            Self::Client(client) => f.write_str(client.shown_username()),
        }
    }
}
