//! The errors of the cache.

use std::time::Duration;

use crate::meaning::{Meaning, UpstreamFailure};

/// The reason why the cache does not serve a request.
#[derive(Debug, Clone)]
pub(crate) enum CacheError {
    /// The upstream was asked, and gave no usable answer.
    Origin(UpstreamFailure),
    /// The upstream has answered lately that there is no such manifest.
    NotFound,
    /// The content is not here, and the requester may not have it fetched.
    FetchForbidden,
    /// The content is not here, and the upstream is not asked (`offline`).
    Offline,
    /// The content is not here, and the upstream's circuit is open.
    CircuitOpen,
    /// The upstream limits the rate for this much longer. The request was not sent: it can wait.
    RateLimited(Duration),
    /// None of the requested bytes is in the blob (RFC 9110 section 15.5.17), which has this many.
    Unsatisfiable(u64),
    /// The cache can't answer this request: pass it on to the upstream.
    Bypass(BypassReason),
    /// The download that the request was to join has just ended: ask the cache again.
    Retry,
}

impl CacheError {
    /// Returns the error for an upstream's answer that must not be passed on.
    pub(crate) fn unusable(reason: &'static str) -> Self {
        Self::Origin(UpstreamFailure::unusable(reason))
    }

    /// Returns true if held content may be served despite this error, because the registry itself has not refused.
    pub(crate) fn allows_stale(&self) -> bool {
        match self {
            Self::Origin(failure) => failure.meaning.allows_stale(),
            Self::CircuitOpen | Self::RateLimited(_) => true,
            Self::NotFound
            | Self::FetchForbidden
            | Self::Offline
            | Self::Unsatisfiable(_)
            | Self::Bypass(_)
            | Self::Retry => false,
        }
    }

    /// Returns the meaning of the upstream's answer, if the upstream was asked and gave nothing.
    pub(crate) fn meaning(&self) -> Option<Meaning> {
        match self {
            Self::Origin(failure) => Some(failure.meaning),
            _ => None,
        }
    }
}

/// The reason why the upstream's answer is passed on without the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BypassReason {
    /// The client does not accept the type of the manifest that is held.
    NotAccepted,
    /// The upstream's manifest is not understood: it does not parse, or has both layers and manifests.
    NotUnderstood,
    /// A signed schema 1 manifest, whose digest does not cover its signatures.
    SignedSchema1,
    /// The upstream answered with another success than 200.
    StrangeStatus,
    /// The digest's algorithm is not checked here.
    UnknownAlgorithm,
    /// A HEAD request asks for the length of the blob, which is not known.
    UnknownLength,
    /// The blob that is held is not as long as the upstream says.
    OtherLength,
    /// The upstream serves neither ranges nor lengths.
    NoRanges,
    /// Each download that the request joined ended before its first byte.
    Unsettled,
}

impl BypassReason {
    /// All reasons, in the order of the enum.
    pub(crate) const ALL: [Self; 9] = [
        Self::NotAccepted,
        Self::NotUnderstood,
        Self::SignedSchema1,
        Self::StrangeStatus,
        Self::UnknownAlgorithm,
        Self::UnknownLength,
        Self::OtherLength,
        Self::NoRanges,
        Self::Unsettled,
    ];

    /// Returns the reason as it stands in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotAccepted => "type_not_accepted",
            Self::NotUnderstood => "manifest_not_understood",
            Self::SignedSchema1 => "signed_schema1",
            Self::StrangeStatus => "unexpected_status",
            Self::UnknownAlgorithm => "unknown_digest_algorithm",
            Self::UnknownLength => "unknown_length",
            Self::OtherLength => "length_mismatch",
            Self::NoRanges => "no_ranges",
            Self::Unsettled => "download_unsettled",
        }
    }
}
