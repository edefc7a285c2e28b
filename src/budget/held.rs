//! Bytes that count as held until they are sent.

use bytes::Bytes;

use crate::budget::budget::Lease;

/// Bytes, and the part of a budget that they take.
struct Held {
    bytes: Bytes,
    _lease: Lease,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns `bytes` as bytes that keep `lease` until the last copy of them is dropped: a response's, when they have been
/// written to the socket, whatever the layers above it have queued.
pub(crate) fn hold(bytes: Bytes, lease: Lease) -> Bytes {
    Bytes::from_owner(Held { bytes, _lease: lease })
}
