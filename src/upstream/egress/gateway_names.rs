//! The names by which clients reach this gateway.
//!
//! A registry that a gateway was put in front of later still calls itself by its public name, which is the gateway's now: its
//! URLs lead here, and mean the registry.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::upstream::egress::url::Origin;

/// The names of this gateway, and its ports.
#[derive(Clone)]
pub(crate) struct GatewayNames {
    is_name: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    ports: Vec<u16>,
    listeners: Vec<SocketAddr>,
}

impl GatewayNames {
    /// Returns the hosts that `is_name` says yes to, at one of `ports`, and the addresses that it listens on.
    pub(crate) fn new(
        is_name: impl Fn(&str) -> bool + Send + Sync + 'static,
        ports: Vec<u16>,
        listeners: Vec<SocketAddr>,
    ) -> Self {
        Self { is_name: Arc::new(is_name), ports, listeners }
    }

    /// Returns true if an origin is this gateway. Another port of its host is another service.
    pub(crate) fn contains(&self, origin: &Origin) -> bool {
        let address = origin.host.parse::<IpAddr>().ok();
        let listens = address.is_some_and(|address| {
            self.listeners.contains(&SocketAddr::new(address, origin.port)) && !address.is_unspecified()
        });
        listens || (self.ports.contains(&origin.port) && (self.is_name)(&origin.host))
    }
}

impl Default for GatewayNames {
    fn default() -> Self {
        Self::new(|_| false, Vec::new(), Vec::new())
    }
}

impl fmt::Debug for GatewayNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayNames").field("ports", &self.ports).finish_non_exhaustive()
    }
}
