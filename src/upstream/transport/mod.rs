//! Connections to an upstream, and HTTP over them.

pub(crate) mod backoff;
pub(crate) mod chunked;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod health;
pub(crate) mod http1;
pub(crate) mod http1_body;
pub(crate) mod http2;
pub(crate) mod pool;
pub(crate) mod sockets;
