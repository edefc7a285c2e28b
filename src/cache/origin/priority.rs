//! The importance of a request to an upstream.

/// The importance of a request to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// No held content can serve: sent even while the upstream limits the account's rate.
    Required,
    /// Held content can serve if the upstream is not asked.
    Refresh,
    /// No client waits for it.
    Background,
    /// The check of the requester's right to read. Sent even while the breaker is open, until the probe has had no answer
    /// either: a requester must not extend an old grant by making the breaker open.
    Authorization,
    /// Only what another replica of this gateway holds is wanted: the upstream is not asked.
    Held,
}
