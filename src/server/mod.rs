//! TCP, TLS and HTTP. Knows nothing of registries.
//!
//! One acceptor hands connections to workers, each a thread with a runtime of its own: a connection, its requests and
//! its upstream connections stay on one core, so that no frame crosses threads.

pub mod connection;
pub mod listener;
pub mod tls;
pub mod worker;
