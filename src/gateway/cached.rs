//! Requests to an upstream that has a cache: what the cache gives, as the registry's answer.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::cache::{Blob, CacheError, CacheStatus, Manifest, Requester, UpstreamCache};
use crate::gateway::forward::set;
use crate::gateway::respond::{Problem, code_for};
use crate::gateway::{AuthorizedRequest, rewrite};
use crate::origin::UpstreamOrigin;
use crate::proto::{Accept, Action, ByteRange, ContentRange, Digest, ErrorCode, Reference, RepositoryName};
use crate::upstream::DOCKER_CONTENT_DIGEST;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

impl AuthorizedRequest<'_> {
    /// What is kept of the upstream, where it has a cache.
    pub(crate) fn site(&self) -> Option<&Arc<UpstreamCache>> {
        let route = self.place.as_ref().and_then(|place| self.core.routes.get(place.route));
        route.and_then(|route| route.site.as_ref())
    }

    /// Begins a write, to `reference` or to the repository as a whole.
    pub(crate) fn unsettled(&self, reference: Option<&Reference>) -> WriteGuard {
        let written = self.site().cloned().zip(self.place.as_ref());
        let about = written.map(|(site, place)| (site, place.remote.clone(), reference.cloned()));
        WriteGuard { about }
    }

    /// The repository, as the cache has it.
    pub(crate) fn cached(&self) -> Result<Option<Requester>, Problem> {
        let (Some(site), Some(place)) = (self.site(), &self.place) else { return Ok(None) };
        let headers = self.core.lasting.via.mark_own(self.headers);
        let upstream = self.upstream()?.clone();
        let source = UpstreamOrigin::shared(upstream, self.permit.clone(), place.remote.clone(), headers);
        Ok(Some(site.repository(&self.permit, &place.remote, source)))
    }

    /// A blob, whole or in part.
    ///
    /// # Errors
    /// `Ok(None)`: it is for the upstream to answer.
    pub(crate) async fn cached_blob(
        &self,
        repository: &Requester,
        digest: &Digest,
        head: bool,
    ) -> Result<Option<Response<Body>>, Problem> {
        let etag = etag_of(digest);
        let unchanged = is_listed(self.headers, &header::IF_NONE_MATCH, &etag);
        let range = self.range(&etag).filter(|_| !unchanged);
        match repository.blob(digest, range.as_ref(), head || unchanged).await {
            Ok(blob) => {
                repository.site().cache().counters().answered(blob.outcome);
                Ok(Some(self.blob_response(blob, digest, etag, unchanged, head)))
            }
            Err(CacheError::Bypass) => Ok(None),
            Err(refusal) => Err(self.cache_problem(refusal)),
        }
    }

    fn blob_response(
        &self,
        blob: Blob,
        digest: &Digest,
        etag: HeaderValue,
        unchanged: bool,
        head: bool,
    ) -> Response<Body> {
        let content_type = blob.content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        let mut response = self.content(blob.outcome, content_type, digest, etag);
        let headers = response.headers_mut();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
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
        response
    }

    /// A manifest.
    ///
    /// # Errors
    /// `Ok(None)`: it is for the upstream to answer.
    pub(crate) async fn cached_manifest(
        &self,
        repository: &Requester,
        reference: &Reference,
        head: bool,
    ) -> Result<Option<Response<Body>>, Problem> {
        let lines = self.headers.get_all(header::ACCEPT);
        let accept = Accept::from_lines(lines.iter().map(HeaderValue::as_bytes));
        match repository.manifest(reference, &accept, head).await {
            Ok(manifest) => {
                repository.site().cache().counters().answered(manifest.outcome);
                Ok(Some(self.manifest_response(manifest, head)))
            }
            Err(CacheError::Bypass) => Ok(None),
            Err(refusal) => Err(self.cache_problem(refusal)),
        }
    }

    fn manifest_response(&self, manifest: Manifest, head: bool) -> Response<Body> {
        let etag = etag_of(&manifest.digest);
        let unchanged = is_listed(self.headers, &header::IF_NONE_MATCH, &etag);
        let kind = HeaderValue::from_str(manifest.media_type.as_str());
        let kind = kind.unwrap_or(HeaderValue::from_static("application/json"));
        let mut response = self.content(manifest.outcome, kind, &manifest.digest, etag);
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if head {
            response.headers_mut().insert(header::CONTENT_LENGTH, manifest.length.into());
        } else {
            *response.body_mut() = Body::full(manifest.bytes.unwrap_or_default());
        }
        response
    }

    /// What every answer out of the cache has.
    fn content(
        &self,
        outcome: CacheStatus,
        content_type: HeaderValue,
        digest: &Digest,
        etag: HeaderValue,
    ) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::ETAG, etag);
        headers.insert(header::CACHE_CONTROL, rewrite::cache_control(&self.operation));
        set(headers, DOCKER_CONTENT_DIGEST, digest.as_str());
        mark(headers, outcome);
        response
    }

    /// What an upstream with a cache was asked for all the same says so.
    pub(crate) fn mark_miss(&self, headers: &mut HeaderMap) {
        let reads = self.operation.action() == Some(Action::Pull);
        if reads && self.site().is_some() && !headers.contains_key(&X_CACHE) {
            mark(headers, CacheStatus::Miss);
        }
    }

    /// The part of a blob that is asked for. `If-Range` (RFC 9110 section 13.1.5) with anything but the blob's own
    /// validator asks for the whole.
    fn range(&self, etag: &HeaderValue) -> Option<ByteRange> {
        let range = self.headers.get(header::RANGE)?;
        let same = self.headers.get(header::IF_RANGE).is_none_or(|validator| validator == etag);
        same.then(|| ByteRange::parse(range.as_bytes()))
    }

    /// What the cache's no is to the client.
    pub(crate) fn cache_problem(&self, refusal: CacheError) -> Problem {
        let not_found = code_for(StatusCode::NOT_FOUND, &self.operation);
        match refusal {
            CacheError::Origin(failure) => {
                let upstream = self.upstream().map(|upstream| upstream.settings().name.clone());
                self.failed(&upstream.unwrap_or_default(), failure)
            }
            CacheError::NotFound => {
                Problem::NotCached(not_found, "the upstream has said lately that there is none")
            }
            CacheError::Offline => Problem::NotCached(
                not_found,
                "it is not in the cache, and the upstream is not asked (offline)",
            ),
            CacheError::FetchForbidden => {
                let name = self.permit.repository().map(ToString::to_string).unwrap_or_default();
                let who = self.permit.identity();
                Problem::Denied(format!(
                    "requested access to the resource is denied: {who} may not fetch {name}, and has what is in the cache \
                     already"
                ))
            }
            CacheError::CircuitOpen => Problem::CircuitOpen,
            CacheError::RateLimited(wait) => Problem::RateLimited(wait),
            CacheError::Unsatisfiable(total) => Problem::Unsatisfiable(total),
            CacheError::Bypass | CacheError::Retry => {
                Problem::NotCached(ErrorCode::Unavailable, "it was on its way, and did not come")
            }
        }
    }
}

/// A write that is under way. Should its client leave before the answer, it counts as done: nothing that it may have ended is
/// believed any more.
pub(crate) struct WriteGuard {
    about: Option<(Arc<UpstreamCache>, RepositoryName, Option<Reference>)>,
}

impl WriteGuard {
    /// The upstream has answered: what follows from that is up to whoever asked.
    pub(crate) fn settle(mut self) {
        self.about = None;
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        match self.about.take() {
            Some((site, repository, Some(reference))) => site.deleted(&repository, &reference),
            Some((site, repository, None)) => site.written(&repository),
            None => {}
        }
    }
}

/// Says what the cache did. What is too old says so besides (RFC 7234 section 5.5: 299 is a persistent warning).
pub(crate) fn mark(headers: &mut HeaderMap, outcome: CacheStatus) {
    headers.insert(X_CACHE, HeaderValue::from_static(outcome.as_str()));
    if outcome == CacheStatus::Stale {
        let warning = "299 - \"the upstream can't be asked; this is what it had when it was asked last\"";
        headers.insert(header::WARNING, HeaderValue::from_static(warning));
    }
}

/// What the cache did for an answer, as the log calls it.
pub(crate) fn word(headers: &HeaderMap) -> Option<&'static str> {
    let done = headers.get(X_CACHE)?;
    Some(match CacheStatus::ALL.into_iter().find(|outcome| done == outcome.as_str())? {
        CacheStatus::Hit => "hit",
        CacheStatus::Miss => "miss",
        CacheStatus::Fill => "fill",
        CacheStatus::Stale => "stale",
        CacheStatus::Revalidated => "revalidated",
    })
}

/// The strong validator of what a digest names: it never changes.
fn etag_of(digest: &Digest) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether a list of validators has `etag` (RFC 9110 section 13.1.2: compared weakly), or all.
fn is_listed(headers: &HeaderMap, name: &HeaderName, etag: &HeaderValue) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let etag = etag.to_str().unwrap_or_default();
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == etag)
}
