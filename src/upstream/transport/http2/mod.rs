//! HTTP/2 towards an upstream (RFC 9113): many requests at a time on one connection, which a task of its own drives.
//!
//! Uses the h2 crate itself rather than hyper's client: hyper shows a stream that was reset with NO_ERROR or CANCEL as
//! a clean end, hides if a request was processed, and starts a task for each.

mod active_requests;
mod body;
mod connection;
mod connections;
mod head;
mod upload;

pub(crate) use active_requests::ActiveRequest;
pub(crate) use connection::{Http2Connection, RequestFailure, Timeouts, Windows};
pub(crate) use connections::{HostProtocol, Outcome, SharedConnections};
