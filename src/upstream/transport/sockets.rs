//! Counts the open connections to an upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The open connections to one upstream and the hosts that it redirects to, idle ones and those being opened included.
#[derive(Debug, Default)]
pub(crate) struct Sockets(AtomicU64);

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenSocket(Arc<Sockets>);

impl Sockets {
    /// Counts one more. Second: how many there are with it.
    pub(crate) fn open(self: &Arc<Self>) -> (OpenSocket, u64) {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        (OpenSocket(self.clone()), number)
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
