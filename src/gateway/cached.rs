//! Asking the cache: the parts that blobs, manifests and lists share.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::cache::{CacheError, Requester, UpstreamCache};
use crate::gateway::authorized::AuthorizedRepository;
use crate::gateway::denial::fetch_denial;
use crate::gateway::forward::set;
use crate::gateway::respond::{Problem, code_for};
use crate::gateway::rewrite;
use crate::proto::{Digest, ErrorCode};
use crate::upstream::DOCKER_CONTENT_DIGEST;

impl AuthorizedRepository<'_> {
    /// Returns the upstream's cache and the requester that asks it, if the upstream has a cache.
    pub(super) fn cached(&self) -> Option<(&Arc<UpstreamCache>, Requester)> {
        let upstream_cache = self.upstream_cache()?;
        let (permit, remote) = (&self.request.permit, &self.repository.remote);
        let headers = self.request.core.shared.via.mark_own(self.request.headers);
        Some((upstream_cache, upstream_cache.requester(permit, remote, headers)))
    }

    /// Returns the head that every answer out of the cache has.
    pub(super) fn cached_head(
        &self,
        content_type: HeaderValue,
        digest: &Digest,
        etag: HeaderValue,
    ) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        // Room for all that an answer gets: to grow costs more than to insert.
        *response.headers_mut() = HeaderMap::with_capacity(HEADERS);
        let headers = response.headers_mut();
        let content_type = rewrite::content_type(&self.request.operation, content_type);
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::ETAG, etag);
        headers.insert(header::CACHE_CONTROL, rewrite::cache_control(&self.request.operation));
        set(headers, DOCKER_CONTENT_DIGEST, digest.as_str());
        response
    }

    /// Returns the problem that the client is told of when the cache gives nothing.
    pub(super) fn cache_problem(&self, error: CacheError) -> Problem {
        let not_found = code_for(StatusCode::NOT_FOUND, &self.request.operation);
        match error {
            CacheError::Origin(failure) => self.request.failed(&self.upstream().settings().name, failure),
            CacheError::NotFound(code) => {
                Problem::NotCached(code, "the upstream has answered lately that there is none")
            }
            CacheError::Offline => Problem::NotCached(
                not_found,
                "it is not in the cache, and the upstream is not asked (offline)",
            ),
            CacheError::FetchForbidden => fetch_denial(self),
            CacheError::CircuitOpen => {
                let cause = self.upstream_cache().and_then(|upstream_cache| upstream_cache.last_failure());
                Problem::CircuitOpen { upstream: self.repository.route.name.clone(), cause }
            }
            CacheError::RateLimited(wait) => {
                Problem::RateLimited { upstream: self.repository.route.name.clone(), wait }
            }
            CacheError::Unsatisfiable(total) => Problem::Unsatisfiable(total),
            CacheError::Bypass(_) | CacheError::Retry => Problem::NotCached(
                ErrorCode::Unavailable,
                "the download that would have brought it ended without it",
            ),
        }
    }
}

/// Returns the validator of a digest's content. It is strong: the content never changes.
pub(super) fn etag_of(digest: &Digest) -> HeaderValue {
    let text = ["\"", digest.as_str(), "\""].concat();
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Returns true if a list of validators has `etag` (RFC 9110 section 13.1.2: compared weakly), or `*`.
pub(super) fn is_listed(headers: &HeaderMap, name: &HeaderName, etag: &HeaderValue) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let etag = etag.to_str().unwrap_or_default();
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == etag)
}

/// The headers that an answer from the cache has at most, but for rare ones.
const HEADERS: usize = 12;
