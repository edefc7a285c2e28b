//! TCP, TLS and HTTP. Knows nothing of registries.
//!
//! A single task accepts connections and hands them to workers, each a thread with its own runtime: a connection, its
//! requests and its upstream connections stay on one core, so that no frame crosses threads.

mod accept;
mod accepted;
mod activity;
mod admission;
mod connection;
mod head_scan;
mod listener;
pub(crate) mod proxy_protocol;
mod shown_certificate;
mod tls;
mod worker;

pub(crate) use accept::Server;
pub(crate) use connection::{Handler, Service};
pub(crate) use listener::{ListenError, Listener};
pub(crate) use tls::{CertificateError, Certificates};
