//! TCP, TLS and HTTP. Knows nothing of registries.
//!
//! A single task accepts connections and hands them to workers, each a thread with its own runtime: a connection, its
//! requests and its upstream connections stay on one core, so that no frame crosses threads.

mod accept;
mod accepted;
mod activity;
mod admission;
mod alpn_challenges;
mod connection;
mod counters;
mod head_scan;
mod listener;
mod passed_sockets;
pub(crate) mod proxy_protocol;
mod shown_certificate;
mod tls;
mod turns;
mod worker;

pub(crate) use accept::Server;
pub(crate) use alpn_challenges::{AlpnChallenges, ShownChallenge};
pub(crate) use connection::{Audience, FromReplica, Handler, Service};
pub(crate) use counters::{ConnectionCounters, HandshakeFailure};
pub(crate) use listener::{ListenError, Listener};
pub(crate) use passed_sockets::PassedSockets;
pub(crate) use tls::{CertificateError, CertificateInForce, Certificates, pinned};
