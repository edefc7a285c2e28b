//! The settings by which requests are served.

use std::sync::Arc;
use std::time::Duration;

use crate::authn::{AccessTokens, Authenticator, Workloads};
use crate::authz::Rules;
use crate::cache::UpstreamCache;
use crate::config::Cors;
use crate::gateway::host::{KnownHosts, TrustedProxies};
use crate::proto::Fingerprint;
use crate::upstream::Upstream;
use crate::x509::NameKind;

/// The parts of a [`Core`](super::Core) that come from the configuration.
#[derive(Clone)]
pub(crate) struct Settings {
    pub authenticator: Arc<Authenticator>,
    pub rules: Rules,
    pub upstreams: Vec<Arc<Upstream>>,
    /// The caches of those upstreams that have one.
    pub upstream_caches: Vec<Arc<UpstreamCache>>,
    /// The hosts that are served.
    pub hosts: KnownHosts,
    pub proxies: TrustedProxies,
    /// The web pages that may use the registry.
    pub cors: Option<Cors>,
    /// The realm of Basic challenges.
    pub realm: String,
    /// The platforms whose tokens are logins.
    pub workloads: Arc<Workloads>,
    /// The names by which clients' certificates are logins; none: they are none.
    pub certificate_names: Option<NameKind>,
    /// The fingerprint of the authorities of these certificates.
    pub client_authorities: Option<Fingerprint>,
    /// The token service, if there is one.
    pub tokens: Option<Arc<AccessTokens>>,
    /// True if clients are to be asked for tokens.
    pub bearer: bool,
    /// The origin by which clients know the gateway, if it is configured.
    pub external_url: Option<String>,
    /// How long a client may send no byte of a body.
    pub stall_timeout: Duration,
}

impl Settings {
    /// Returns true if a client can log in.
    pub(super) fn has_logins(&self) -> bool {
        self.authenticator.has_logins()
            || self.tokens.is_some()
            || !self.workloads.is_empty()
            || self.certificate_names.is_some()
    }
}
