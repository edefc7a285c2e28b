//! Requests to an upstream that has a cache: what the cache gives, as the registry's answer.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::cache::{Blob, CacheError, Manifest, Requester, UpstreamCache};
use crate::gateway::answer::Answer;
use crate::gateway::authorized::AuthorizedRepository;
use crate::gateway::forward::set;
use crate::gateway::respond::{Problem, code_for};
use crate::gateway::rewrite;
use crate::origin::UpstreamOrigin;
use crate::proto::{Accept, ByteRange, ContentRange, Digest, ErrorCode, Reference};
use crate::upstream::DOCKER_CONTENT_DIGEST;

impl AuthorizedRepository<'_> {
    /// Returns the upstream's cache and the requester that asks it, if the upstream has a cache.
    pub(super) fn cached(&self) -> Option<(&Arc<UpstreamCache>, Requester)> {
        let upstream_cache = self.upstream_cache()?;
        let (permit, remote) = (&self.request.permit, &self.repository.remote);
        let headers = self.request.core.shared.via.mark_own(self.request.headers);
        let origin = UpstreamOrigin::shared(self.upstream().clone(), permit.clone(), remote.clone(), headers);
        Some((upstream_cache, upstream_cache.repository(permit, remote, origin)))
    }

    /// Returns a blob, whole or in part. `None`: it is for the upstream to answer.
    pub(super) async fn cached_blob(&self, digest: &Digest, head: bool) -> Result<Option<Answer>, Problem> {
        let Some((upstream_cache, requester)) = self.cached() else { return Ok(None) };
        let etag = etag_of(digest);
        let unchanged = is_listed(self.request.headers, &header::IF_NONE_MATCH, &etag);
        let range = self.range(&etag).filter(|_| !unchanged);
        match upstream_cache.blob(&requester, digest, range.as_ref(), head || unchanged).await {
            Ok(blob) => {
                upstream_cache.cache().counters().answered(blob.outcome);
                Ok(Some(self.blob_answer(blob, digest, etag, unchanged, head)))
            }
            Err(CacheError::Bypass(_)) => Ok(None),
            Err(error) => Err(self.cache_problem(error)),
        }
    }

    fn blob_answer(
        &self,
        blob: Blob,
        digest: &Digest,
        etag: HeaderValue,
        unchanged: bool,
        head: bool,
    ) -> Answer {
        let content_type = blob.content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        let mut response = self.content(content_type, digest, etag);
        let headers = response.headers_mut();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Answer::cached(response, blob.outcome);
        }
        let length = blob.span.map_or(blob.total, |span| Some(span.length()));
        if let (true, Some(length)) = (head, length) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        if let Some(span) = blob.span {
            let range = ContentRange::Part { span, total: blob.total }.to_string();
            set(headers, header::CONTENT_RANGE, &range);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        *response.body_mut() = blob.body;
        Answer::cached(response, blob.outcome)
    }

    /// Returns a manifest. `None`: it is for the upstream to answer.
    pub(super) async fn cached_manifest(
        &self,
        reference: &Reference,
        head: bool,
    ) -> Result<Option<Answer>, Problem> {
        let Some((upstream_cache, requester)) = self.cached() else { return Ok(None) };
        let lines = self.request.headers.get_all(header::ACCEPT);
        let accept = Accept::from_lines(lines.iter().map(HeaderValue::as_bytes));
        match upstream_cache.manifest(&requester, reference, &accept, head).await {
            Ok(manifest) => {
                upstream_cache.cache().counters().answered(manifest.outcome);
                Ok(Some(self.manifest_answer(manifest, head)))
            }
            Err(CacheError::Bypass(_)) => Ok(None),
            Err(error) => Err(self.cache_problem(error)),
        }
    }

    fn manifest_answer(&self, manifest: Manifest, head: bool) -> Answer {
        let etag = etag_of(&manifest.digest);
        let unchanged = is_listed(self.request.headers, &header::IF_NONE_MATCH, &etag);
        let content_type = HeaderValue::from_str(manifest.media_type.as_str());
        let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
        let mut response = self.content(content_type, &manifest.digest, etag);
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if head {
            response.headers_mut().insert(header::CONTENT_LENGTH, manifest.length.into());
        } else {
            *response.body_mut() = Body::full(manifest.bytes.unwrap_or_default());
        }
        Answer::cached(response, manifest.outcome)
    }

    /// Returns the head that every answer out of the cache has.
    fn content(&self, content_type: HeaderValue, digest: &Digest, etag: HeaderValue) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::ETAG, etag);
        headers.insert(header::CACHE_CONTROL, rewrite::cache_control(&self.request.operation));
        set(headers, DOCKER_CONTENT_DIGEST, digest.as_str());
        response
    }

    /// Returns the part of a blob that is asked for. `If-Range` (RFC 9110 section 13.1.5) with anything but the blob's own
    /// validator asks for the whole.
    fn range(&self, etag: &HeaderValue) -> Option<ByteRange> {
        let range = self.request.headers.get(header::RANGE)?;
        let same = self.request.headers.get(header::IF_RANGE).is_none_or(|validator| validator == etag);
        same.then(|| ByteRange::parse(range.as_bytes()))
    }

    /// Returns the problem that the client is told of when the cache gives nothing.
    pub(super) fn cache_problem(&self, error: CacheError) -> Problem {
        let not_found = code_for(StatusCode::NOT_FOUND, &self.request.operation);
        match error {
            CacheError::Origin(failure) => self.request.failed(&self.upstream().settings().name, failure),
            CacheError::NotFound => {
                Problem::NotCached(not_found, "the upstream has answered lately that there is none")
            }
            CacheError::Offline => Problem::NotCached(
                not_found,
                "it is not in the cache, and the upstream is not asked (offline)",
            ),
            CacheError::FetchForbidden => {
                let (name, who) = (&self.repository.canonical, self.request.permit.identity());
                Problem::Denied(format!(
                    "requested access to the resource is denied: {who} may not fetch {name}, and has what is in the cache \
                     already"
                ))
            }
            CacheError::CircuitOpen => Problem::CircuitOpen,
            CacheError::RateLimited(wait) => Problem::RateLimited(wait),
            CacheError::Unsatisfiable(total) => Problem::Unsatisfiable(total),
            CacheError::Bypass(_) | CacheError::Retry => Problem::NotCached(
                ErrorCode::Unavailable,
                "the download that would have brought it ended without it",
            ),
        }
    }
}

/// Returns the validator of a digest's content. It is strong: the content never changes.
fn etag_of(digest: &Digest) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Returns true if a list of validators has `etag` (RFC 9110 section 13.1.2: compared weakly), or `*`.
fn is_listed(headers: &HeaderMap, name: &HeaderName, etag: &HeaderValue) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let etag = etag.to_str().unwrap_or_default();
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == etag)
}
