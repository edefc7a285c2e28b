//! TCP, TLS and HTTP. Knows nothing of registries.
//!
//! One task accepts and hands connections to workers, each a thread with a runtime of its own: a connection, its
//! requests and its upstream connections stay on one core, so that no frame crosses threads.

mod activity;
mod connection;
mod head_scan;
mod listener;
mod proxy_protocol;
mod tls;
mod worker;

pub use connection::{Handler, Service};
pub use listener::{ListenError, Listener, Server};
pub use tls::{CertificateError, Certificates, dns_names};
