//! The errors of the cache.

use std::fmt;
use std::time::Duration;

use crate::meaning::{Meaning, OtherWay, UpstreamFailure};
use crate::proto::ErrorCode;

/// The reason why the cache does not serve a request.
#[derive(Debug, Clone)]
pub(crate) enum CacheError {
    /// The upstream was asked, and gave no usable answer.
    Origin(UpstreamFailure),
    /// The upstream has said lately that there is no such manifest, with this code.
    NotFound(ErrorCode),
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
            Self::NotFound(_)
            | Self::FetchForbidden
            | Self::Offline
            | Self::Unsatisfiable(_)
            | Self::Bypass(_)
            | Self::Retry => false,
        }
    }

    /// Returns the key of the configuration that may help, if there is one.
    pub(crate) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Origin(failure) => failure.key,
            _ => None,
        }
    }

    /// Returns the worth of asking in another way, where a HEAD was refused.
    pub(crate) fn other_way_than_head(&self) -> OtherWay {
        match self {
            Self::Origin(failure) => failure.other_way_than_head(),
            _ => OtherWay::Useless,
        }
    }

    /// Returns true if the upstream was not asked, since too much is asked of it for this requester's client.
    pub(crate) fn is_busy(&self) -> bool {
        self.meaning().is_some_and(Meaning::is_busy)
    }

    /// Returns true if another replica of this gateway was told so, and hands it on.
    pub(crate) fn is_told(&self) -> bool {
        matches!(self, Self::Origin(failure) if failure.by_replica)
    }

    /// Returns the meaning of the upstream's answer, if the upstream was asked and gave nothing.
    pub(crate) fn meaning(&self) -> Option<Meaning> {
        match self {
            Self::Origin(failure) => Some(failure.meaning),
            _ => None,
        }
    }
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin(failure) => failure.fmt(f),
            Self::NotFound(_) => f.write_str("the upstream has no such manifest"),
            Self::FetchForbidden => f.write_str("it is not here, and may not be fetched"),
            Self::Offline => f.write_str("it is not here, and the upstream is offline"),
            Self::CircuitOpen => {
                f.write_str("the upstream has failed so often that it is not asked for a moment")
            }
            Self::RateLimited(wait) => {
                write!(f, "the upstream wants to be left alone for {} s", wait.as_secs().max(1))
            }
            Self::Unsatisfiable(length) => {
                write!(f, "it has {length} bytes, and not those that were asked for")
            }
            Self::Retry => f.write_str("it was on its way, and did not come"),
            Self::Bypass(reason) => write!(f, "it cannot be cached ({})", reason.as_str()),
        }
    }
}

/// The reason why an answer is the upstream's own, and not cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BypassReason {
    /// The digest's algorithm is not checked here.
    UnknownAlgorithm,
    /// A HEAD request asks for the length of the blob, which is not known.
    UnknownLength,
    /// The upstream serves neither ranges nor lengths.
    NoRanges,
    /// The client may push, and asks whether it has to: the upstream alone knows.
    MayPush,
    /// The blob is larger than `max_object`.
    TooLarge,
    /// Downloads that the request joined ended each time before it had a byte.
    Unsettled,
    /// The downloads under way take all the memory that they may.
    NoMemory,
    /// The disk does not answer in time.
    DiskBusy,
}

impl BypassReason {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::UnknownAlgorithm,
        Self::UnknownLength,
        Self::NoRanges,
        Self::MayPush,
        Self::TooLarge,
        Self::Unsettled,
        Self::NoMemory,
        Self::DiskBusy,
    ];

    /// Returns true if `X-Cache` tells the client the reason: the cache is too small or too busy for what it understands.
    pub(crate) fn is_passing(self) -> bool {
        match self {
            Self::TooLarge | Self::NoMemory | Self::DiskBusy => true,
            Self::UnknownAlgorithm
            | Self::UnknownLength
            | Self::NoRanges
            | Self::MayPush
            | Self::Unsettled => false,
        }
    }

    /// Returns the reason as it stands in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::UnknownAlgorithm => "unknown_digest_algorithm",
            Self::UnknownLength => "unknown_length",
            Self::NoRanges => "no_ranges",
            Self::MayPush => "may_push",
            Self::TooLarge => "too_large",
            Self::Unsettled => "download_unsettled",
            Self::NoMemory => "downloads_memory",
            Self::DiskBusy => "disk_busy",
        }
    }
}
