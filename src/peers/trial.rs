//! A trial of the members of a configuration that does not run here.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::config;
use crate::config::Address;
use crate::peers::connections::Connections;
use crate::peers::identity::Identity;
use crate::peers::membership::Membership;
use crate::peers::vigil::Watch;

/// Returns the members, each with why it does not answer, if it does not. This replica itself is among them, and may not run.
///
/// # Errors
/// Why there are no members.
pub(crate) async fn try_members(settings: &config::Peers) -> Result<Vec<(Arc<str>, Option<String>)>, String> {
    let listening = match &settings.address {
        Address::Tcp(address) => *address,
        Address::Any(port) => (Ipv4Addr::UNSPECIFIED, *port).into(),
        Address::Unix(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
    };
    let membership = Arc::new(Membership::new(settings.clone(), listening));
    membership.refresh().await;
    if let Some(problem) = membership.problem() {
        return Err(problem.to_string());
    }
    let identity = Identity::derive(&settings.secret).and_then(|identity| identity.client());
    let tls = identity.map_err(|error| error.to_string())?;
    let connections = Arc::new(Connections::new(tls, settings.connect_timeout, 0));
    let watch = Watch::new(connections, membership.clone(), settings.resting);
    let mut tried = Vec::new();
    for member in membership.members() {
        let answer = watch.try_alive(&member).await;
        tried.push((member.name, answer.err()));
    }
    Ok(tried)
}
