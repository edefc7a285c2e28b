//! Answers on their way to the client.

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::body::Body;
use crate::cache::{BypassReason, CacheStatus};

/// An answer, and what the cache did for it.
///
/// The status travels beside the response, not in its extensions: those cost three allocations at the first entry, and a
/// cached manifest is answered in some 25 µs.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// `None` where no cache was involved.
    pub(super) cache_status: Option<CacheStatus>,
    /// Why the cache left the request to the upstream.
    pub(super) bypass: Option<BypassReason>,
}

impl Answer {
    /// Returns an answer that the cache gave.
    pub(super) fn cached(response: Response<Body>, cache_status: CacheStatus) -> Self {
        Self { cache_status: Some(cache_status), ..response.into() }
    }

    /// Returns the upstream's own answer, to a request that the cache left to it.
    pub(super) fn bypassed(response: Response<Body>, reason: BypassReason) -> Self {
        Self { bypass: Some(reason), ..response.into() }
    }
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, cache_status: None, bypass: None }
    }
}

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Tells the client what the cache did. A stale answer carries a warning (RFC 7234 section 5.5: 299 is a persistent one).
pub(super) fn set_cache_status(
    headers: &mut HeaderMap,
    cache_status: CacheStatus,
    bypass: Option<BypassReason>,
) {
    let reason = bypass.filter(|reason| reason.is_passing());
    let told = reason.and_then(|reason| HeaderValue::try_from(format!("BYPASS ({})", reason.as_str())).ok());
    headers.insert(X_CACHE, told.unwrap_or_else(|| HeaderValue::from_static(cache_status.as_str())));
    if cache_status == CacheStatus::Stale {
        let warning = "299 - \"the upstream can't be asked; this is what it had when it was asked last\"";
        headers.insert(header::WARNING, HeaderValue::from_static(warning));
    }
}
