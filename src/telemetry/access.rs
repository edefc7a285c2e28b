//! The access log: one line a request.

use crate::body::BodyError;

/// What is known of one request, written when its response has ended.
#[derive(Debug, Default)]
pub struct AccessRecord {
    bytes: u64,
}

impl AccessRecord {
    /// `bytes` more of the response's body were handed to the connection.
    pub fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The body broke on its way.
    pub fn broke(&mut self, _error: &BodyError) {}
}
