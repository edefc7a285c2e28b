//! Blobs: end-2 and end-10.

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::cache::{Blob, CacheError};
use crate::gateway::answer::Answer;
use crate::gateway::authorized::AuthorizedRepository;
use crate::gateway::cached::{etag_of, is_listed};
use crate::gateway::forward::set;
use crate::gateway::manifest::deleted;
use crate::gateway::respond::Problem;
use crate::gateway::write_guard::WriteGuard;
use crate::proto::range::Resolved;
use crate::proto::{ByteRange, ContentRange, Digest, Reference};

/// Returns a blob, or a part of it: out of the cache, if there is one, else streamed from the upstream at the client's pace.
pub(super) async fn get(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    head: bool,
) -> Result<Answer, Problem> {
    let Some((upstream_cache, requester)) = request.cached() else {
        return Ok(Box::pin(pass(request, digest, head)).await?.into());
    };
    let etag = etag_of(digest);
    let unchanged = is_listed(request.request.headers, &header::IF_NONE_MATCH, &etag);
    let range = range(request, &etag).filter(|_| !unchanged);
    match upstream_cache.blob(&requester, digest, range.as_ref(), head || unchanged).await {
        Ok(mut blob) => {
            upstream_cache.cache().counters().answered(blob.outcome);
            let content_type = blob.multipart.clone().or_else(|| blob.content_type.take());
            let content_type = content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
            let response = request.cached_head(content_type, digest, etag);
            Ok(answer(blob, response, unchanged, head))
        }
        Err(CacheError::Bypass(reason)) => {
            Ok(Answer::bypassed(Box::pin(pass(request, digest, head)).await?, reason))
        }
        Err(error) => Err(request.cache_problem(error)),
    }
}

/// Returns the upstream's own answer. A range behind the end is 416 with the blob's length (RFC 9110 section 15.5.17), also if
/// the upstream ignores ranges, or does not say the length.
async fn pass(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    head: bool,
) -> Result<Response<Body>, Problem> {
    let mut response = request.ask().await?;
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

/// Returns the part of a blob that is asked for. `If-Range` (RFC 9110 section 13.1.5) with anything but the blob's own
/// validator asks for the whole.
fn range(request: &AuthorizedRepository<'_>, etag: &HeaderValue) -> Option<ByteRange> {
    let headers = request.request.headers;
    let range = headers.get(header::RANGE)?;
    let same = headers.get(header::IF_RANGE).is_none_or(|validator| validator == etag);
    same.then(|| ByteRange::parse(range.as_bytes()))
}

fn answer(blob: Blob, mut response: Response<Body>, unchanged: bool, head: bool) -> Answer {
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

pub(super) async fn delete(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
) -> Result<Response<Body>, Problem> {
    let _guard = WriteGuard::new(request, Some(&Reference::Digest(digest.clone())));
    Ok(deleted(request.ask().await?))
}
