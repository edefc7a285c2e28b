//! The listener for the other replicas.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::app::start_error::StartError;
use crate::config;
use crate::config::limits;
use crate::peers::identity::Identity;
use crate::peers::{Membership, PeerFleet};
use crate::server::{Audience, Listener, PassedSockets, Service, pinned};

/// The listener for the other replicas, before it accepts.
pub(super) struct PeerListener {
    pub(super) socket: Listener,
    pub(super) fleet: Arc<PeerFleet>,
    pub(super) service: Service,
}

impl PeerListener {
    /// Opens it, as the first step of the start.
    ///
    /// # Errors
    /// [`StartError::Peers`], [`StartError::PeerKey`].
    pub(super) fn open(
        settings: &config::Peers,
        sockets: &mut PassedSockets,
        workers: usize,
    ) -> Result<Self, StartError> {
        let socket = sockets.listen(&settings.address).map_err(StartError::Peers)?;
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listening = socket.local_address().unwrap_or(nowhere);
        let identity = Identity::derive(&settings.secret)?;
        let membership = Arc::new(Membership::new(settings.clone(), listening));
        let fleet = PeerFleet::new(settings, &identity, membership, workers)?;
        let service = Service {
            tls: Some(pinned(identity.server()?)),
            // Nothing is said to those that are not let in.
            not_tls: Bytes::new(),
            proxies: [].into(),
            trusted: [].into(),
            header_timeout: limits::PEER_HEADER_TIMEOUT,
            idle_timeout: limits::PEER_IDLE_TIMEOUT,
            stall_timeout: limits::STALL_TIMEOUT,
            audience: Audience::Replicas,
            counters: Arc::default(),
        };
        Ok(Self { socket, fleet, service })
    }
}
