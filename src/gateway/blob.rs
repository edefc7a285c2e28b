//! Blobs: end-2 and end-10.

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::cache::{Blob, BypassReason, CacheError};
use crate::gateway::answer::Answer;
use crate::gateway::authorized::{AuthorizedRepository, AuthorizedRequest};
use crate::gateway::cached::{etag_of, is_listed};
use crate::gateway::forward::set;
use crate::gateway::manifest::deleted;
use crate::gateway::respond::Problem;
use crate::gateway::write_guard::WriteGuard;
use crate::proto::media_type::OCTET_STREAM;
use crate::proto::range::Resolved;
use crate::proto::{ByteRange, ContentRange, Digest, MediaType, Reference};
use crate::upstream::answer;

/// Returns a blob, or a part of it: out of the cache, if there is one, else streamed from the upstream at the client's pace.
pub(super) async fn get(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    head: bool,
) -> Result<Answer, Problem> {
    let Some((upstream_cache, requester)) = request.cached() else {
        return Ok(Box::pin(pass(request, digest, head)).await?.into());
    };
    if head && may_push(request) {
        // After a garbage collection what the cache believes would make the client skip the upload, and its manifest could
        // never be pushed (distribution#1803).
        return Ok(Answer::bypassed(Box::pin(pass(request, digest, head)).await?, BypassReason::MayPush));
    }
    let etag = etag_of(digest);
    let unchanged = is_listed(request.request.headers, &header::IF_NONE_MATCH, &etag);
    let range = range(request, &etag).filter(|_| !unchanged);
    match upstream_cache.blob(&requester, digest, range.as_ref(), head || unchanged).await {
        Ok(mut blob) => {
            upstream_cache.cache().counters().answered(blob.outcome);
            let bypass = blob.bypass;
            let content_type = blob.multipart.clone();
            let content_type = content_type.unwrap_or_else(|| harmless(blob.content_type.take().as_ref()));
            let response = request.cached_head(content_type, digest, etag);
            Ok(Answer { bypass, ..cached_answer(blob, response, unchanged, head) })
        }
        Err(CacheError::Bypass(reason)) => {
            Ok(Answer::bypassed(Box::pin(pass(request, digest, head)).await?, reason))
        }
        Err(error) => Err(request.cache_problem(error)),
    }
}

/// Returns true if the client may push blobs to the repository: it asks whether it has to.
fn may_push(request: &AuthorizedRepository<'_>) -> bool {
    let AuthorizedRequest { core, permit, .. } = &request.request;
    !request.upstream().settings().read_only && core.rules.may_push(permit)
}

/// Returns the upstream's own answer. A range behind the end is 416 with the blob's length (RFC 9110 section 15.5.17), also if
/// the upstream ignores ranges, or does not say the length.
async fn pass(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    head: bool,
) -> Result<Response<Body>, Problem> {
    let mut response = request.ask().await?;
    if response.status().is_success() {
        judged(request, digest, head, &mut response)?;
    }
    let headers = request.request.headers;
    let Some(range) = headers.get(header::RANGE).filter(|_| !head && !headers.contains_key(header::IF_RANGE))
    else {
        return Ok(response);
    };
    let range = ByteRange::parse(range.as_bytes());
    let is_behind = |total| range.resolve(total) == Resolved::Unsatisfiable;
    match response.status() {
        StatusCode::OK => match response.body().remaining() {
            Some(total) if is_behind(total) => Err(Problem::Unsatisfiable(total)),
            _ => Ok(response),
        },
        StatusCode::RANGE_NOT_SATISFIABLE if !response.headers().contains_key(header::CONTENT_RANGE) => {
            if let Some(total) = request.length_of(digest).await.filter(|total| is_behind(*total)) {
                let range = ContentRange::Unsatisfied { total }.to_string();
                set(response.headers_mut(), header::CONTENT_RANGE, &range);
            }
            Ok(response)
        }
        _ => Ok(response),
    }
}

/// Checks what the head of a success says of the blob, and what of it may go to a client.
fn judged(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    head: bool,
    response: &mut Response<Body>,
) -> Result<(), Problem> {
    let unusable = |failure| request.request.failed(&request.upstream().settings().name, failure);
    answer::blob(digest, response.status(), response.headers()).map_err(unusable)?;
    let headers = response.headers_mut();
    // Several ranges are in parts, whose boundary stands in the type (RFC 9110 section 14.6).
    let parts =
        |kind: &HeaderValue| kind.as_bytes().to_ascii_lowercase().starts_with(b"multipart/byteranges");
    if !headers.get(header::CONTENT_TYPE).is_some_and(parts) {
        let content_type = harmless(headers.get(header::CONTENT_TYPE));
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    // The bytes were asked for without a coding. One that is said all the same would make clients decode what is none.
    headers.remove(header::CONTENT_ENCODING);
    if head && headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0") && !digest.is_of(b"") {
        // Not known. Clients would take the blob for empty.
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok(())
}

/// Returns the type under which a blob goes out: the upstream's, if it is one of the registry world, and never one that a
/// browser runs.
fn harmless(content_type: Option<&HeaderValue>) -> HeaderValue {
    // Most blobs have this, or none.
    let unknown = HeaderValue::from_static(OCTET_STREAM);
    let Some(text) = content_type.filter(|given| *given != unknown).and_then(|given| given.to_str().ok())
    else {
        return unknown;
    };
    let kind = MediaType::parse(text).ok().filter(MediaType::is_of_registries);
    kind.and_then(|kind| HeaderValue::from_str(kind.as_str()).ok()).unwrap_or(unknown)
}

/// Returns the part of a blob that is asked for. `If-Range` (RFC 9110 section 13.1.5) with anything but the blob's own
/// validator asks for the whole.
fn range(request: &AuthorizedRepository<'_>, etag: &HeaderValue) -> Option<ByteRange> {
    let headers = request.request.headers;
    let range = headers.get(header::RANGE)?;
    let same = headers.get(header::IF_RANGE).is_none_or(|validator| validator == etag);
    same.then(|| ByteRange::parse(range.as_bytes()))
}

fn cached_answer(blob: Blob, mut response: Response<Body>, unchanged: bool, head: bool) -> Answer {
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Answer::cached(response, blob.outcome);
    }
    if blob.multipart.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        *response.body_mut() = blob.body;
        return Answer::cached(response, blob.outcome);
    }
    let length = blob.span.map_or(blob.total, |span| Some(span.length()));
    // An empty body would go out over HTTP/2 without its length.
    if let Some(length) = length.filter(|length| head || *length == 0) {
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

pub(super) async fn delete(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
) -> Result<Response<Body>, Problem> {
    let guard = WriteGuard::new(request, &[Reference::Digest(digest.clone())]);
    let answer = request.ask().await;
    guard.end().await;
    Ok(deleted(answer?))
}
