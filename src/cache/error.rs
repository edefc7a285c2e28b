//! Reasons why the cache gives nothing.

use std::time::Duration;

use crate::meaning::{Meaning, UpstreamFailure};

/// The reason why something is not given.
#[derive(Debug, Clone)]
pub(crate) enum CacheError {
    /// The upstream gave nothing.
    Origin(UpstreamFailure),
    /// The upstream has said lately that there is no such manifest.
    NotFound,
    /// The content is not here, and the requester may not have it fetched.
    FetchForbidden,
    /// The content is not here, and the upstream is not asked (`offline`).
    Offline,
    /// The content is not here, and the upstream's circuit is open.
    CircuitOpen,
    /// The upstream wants to be left alone for this time; the request was not needed at once.
    RateLimited(Duration),
    /// None of the requested bytes is in the blob (RFC 9110 section 15.5.17), which has this many.
    Unsatisfiable(u64),
    /// The request is not for the cache: let the upstream answer.
    Bypass(BypassReason),
    /// The content was on its way, and that has just ended: ask again.
    Retry,
}

impl CacheError {
    /// Returns the error for an upstream's answer that must not be passed on.
    pub(crate) fn unusable(reason: &'static str) -> Self {
        Self::Origin(UpstreamFailure::unusable(reason))
    }

    /// Returns true if content that is held already may serve in spite of it: the registry itself has not said no.
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

/// The reason why an answer is the upstream's own, and not cached.
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
    /// The length of the blob is not known, and HEAD must tell it.
    UnknownLength,
    /// The blob that is held is not as long as the upstream says.
    OtherLength,
    /// The upstream serves neither ranges nor lengths.
    NoRanges,
    /// Downloads that the request joined ended each time before it had a byte.
    Unsettled,
}

impl BypassReason {
    /// All of them.
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
