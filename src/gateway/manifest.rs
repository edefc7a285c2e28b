//! Manifests: end-3, end-7, end-9.

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::body::{Body, CollectError, RequestBody};
use crate::budget::Lease;
use crate::cache::{CacheError, Manifest};
use crate::config::limits;
use crate::gateway::answer::Answer;
use crate::gateway::authorized::{AuthorizedRepository, AuthorizedRequest};
use crate::gateway::cached::{etag_of, is_listed};
use crate::gateway::forward::set;
use crate::gateway::respond::Problem;
use crate::gateway::write_guard::WriteGuard;
use crate::meaning::{Meaning, OtherWay, Retry};
use crate::proto::{Accept, Digest, MediaType, Operation, Reference, Tag};
use crate::upstream;
use crate::upstream::{DOCKER_CONTENT_DIGEST, Upstream, answer};

/// Returns a manifest: out of the cache, if there is one, else from the upstream.
pub(super) async fn get(
    request: &AuthorizedRepository<'_>,
    reference: &Reference,
    head: bool,
) -> Result<Answer, Problem> {
    let Some((upstream_cache, requester)) = request.cached() else {
        return Ok(Box::pin(passed(request, reference, head)).await?.into());
    };
    let lines = request.request.headers.get_all(header::ACCEPT);
    let accept = Accept::from_lines(lines.iter().map(HeaderValue::as_bytes));
    match upstream_cache.manifest(&requester, reference, &accept, head).await {
        Ok(manifest) => {
            upstream_cache.cache().counters().answered(manifest.outcome);
            Ok(answer(request, manifest, &accept, head))
        }
        Err(CacheError::Bypass(reason)) => {
            Ok(Answer::bypassed(Box::pin(passed(request, reference, head)).await?, reason))
        }
        Err(error) => Err(request.cache_problem(error)),
    }
}

/// Returns the upstream's own answer, if it is usable: a manifest is checked whole, and what is none is asked for once more.
async fn passed(
    request: &AuthorizedRepository<'_>,
    reference: &Reference,
    head: bool,
) -> Result<Response<Body>, Problem> {
    if head && let Some(response) = passed_head(request).await? {
        return Ok(response);
    }
    let mut response = whole(request, reference).await?;
    if head && response.status() == StatusCode::OK {
        let length = response.body().remaining();
        *response.body_mut() = Body::empty();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.unwrap_or_default().into());
    }
    Ok(response)
}

/// Returns the upstream's answer to a HEAD; none where GET has to decide: the registry refuses HEAD as such, or says too
/// little.
async fn passed_head(request: &AuthorizedRepository<'_>) -> Result<Option<Response<Body>>, Problem> {
    let heads = request.upstream().manifest_heads();
    if heads.are_useless() {
        return Ok(None);
    }
    let answer = request.answer(true).await?;
    let meaning = Upstream::meaning_of(&answer);
    match meaning.other_way() {
        _ if meaning == Meaning::Usable && !answer.status.is_success() => {}
        OtherWay::Useless if meaning == Meaning::Usable => {
            let says_length = answer.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length != "0");
            match answer::manifest_head(answer) {
                Ok(answer) if says_length => return request.sort(answer).await.map(Some),
                Err(failure) if failure.meaning == Meaning::Unusable => {
                    return Err(request.request.failed(&request.upstream().settings().name, failure));
                }
                Ok(_) | Err(_) => return Ok(None),
            }
        }
        OtherWay::Always => {
            heads.refused(&request.target());
            return Ok(None);
        }
        OtherWay::Useless | OtherWay::ForContent => {}
    }
    request.sort(answer).await.map(Some)
}

/// Returns the upstream's answer to a GET, with a manifest that has been checked.
async fn whole(request: &AuthorizedRepository<'_>, reference: &Reference) -> Result<Response<Body>, Problem> {
    let mut repeats = true;
    loop {
        let room = request.upstream().room(&request.request.permit).await;
        let room = room.map_err(|error| request.request.problem(request.upstream(), &error))?;
        let answer = request.answer(false).await?;
        if Upstream::meaning_of(&answer) != Meaning::Usable || answer.status == StatusCode::NOT_MODIFIED {
            return request.sort(answer).await;
        }
        match answer::manifest(reference, answer, room).await {
            Ok(answer) => return checked(request, answer).await,
            Err(failure) if failure.meaning.retry() == Retry::Once && std::mem::take(&mut repeats) => {}
            Err(failure) => {
                return Err(request.request.failed(&request.upstream().settings().name, failure));
            }
        }
    }
}

/// Returns an answer whose manifest has been checked.
async fn checked(
    request: &AuthorizedRepository<'_>,
    mut answer: upstream::Response,
) -> Result<Response<Body>, Problem> {
    request.upstream().manifest_heads().got(&request.target());
    let length = answer.body.remaining().unwrap_or_default();
    answer.headers.insert(header::CONTENT_LENGTH, length.into());
    // The bytes are what was asked for as they are.
    answer.headers.remove(header::CONTENT_ENCODING);
    request.sort(answer).await
}

fn answer(request: &AuthorizedRepository<'_>, manifest: Manifest, accept: &Accept, head: bool) -> Answer {
    let etag = etag_of(&manifest.digest);
    let unchanged = is_listed(request.request.headers, &header::IF_NONE_MATCH, &etag);
    // A manifest of unknown type goes out under the type that the client asked for.
    let asked = accept.favourite_manifest().filter(|_| !manifest.media_type.is_of_registries());
    let content_type = HeaderValue::from_str(asked.unwrap_or(&manifest.media_type).as_str());
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
    let mut response = request.cached_head(content_type, &manifest.digest, etag);
    if let Some(limit) = request.upstream().rate_limit(&request.request.permit) {
        let fields = limit.fields.iter().map(|(name, value)| (name.clone(), value.clone()));
        response.headers_mut().extend(fields);
    }
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if head {
        response.headers_mut().insert(header::CONTENT_LENGTH, manifest.length.into());
    } else {
        *response.body_mut() = Body::full(manifest.bytes.unwrap_or_default());
    }
    Answer::cached(response, manifest.outcome)
}

/// Pushes a manifest. It is read whole before the upstream hears of it: one that is too large never gets there, and its
/// digest is known even where the upstream does not say it.
pub(super) async fn put(
    request: &AuthorizedRepository<'_>,
    reference: &Reference,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    let collected = tokio::time::timeout(limits::MANIFEST_DEADLINE, collect(request, body)).await;
    // Held until the upstream has answered.
    let (bytes, _held) = collected.map_err(|_| Problem::ClientGone)??;
    let digest = match reference {
        Reference::Digest(digest) => digest.clone(),
        Reference::Tag(_) => sha256(&bytes),
    };
    let (upstream_cache, remote) = (request.upstream_cache(), &request.repository.remote);
    let writing = upstream_cache.map(|upstream_cache| (upstream_cache, upstream_cache.begin_write(remote)));
    // A write that failed may have been done all the same.
    let tags = further_tags(request).iter().cloned().map(Reference::Tag);
    let written: Vec<_> = std::iter::once(reference.clone()).chain(tags).collect();
    let guard = WriteGuard::new(request, &written);
    let sent = request.send(request.target(), &mut RequestBody::held(bytes.clone())).await;
    if let Some(upstream_cache) = upstream_cache
        && misses_content(&sent)
    {
        upstream_cache.doubt_blobs(remote).await;
    }
    let mut response = match sent {
        Ok(response) => response,
        Err(problem) => {
            guard.end().await;
            return Err(problem);
        }
    };
    guard.settle();
    let success = response.status().is_success();
    if let Some((upstream_cache, writing)) = writing {
        if success && is_named(&response, &digest) {
            let media_type = media_type(request);
            let moved = moved_tags(further_tags(request), response.headers());
            upstream_cache.pushed_manifest(&writing, reference, &moved, &digest, media_type, &bytes);
        } else {
            upstream_cache.written(remote);
        }
        // A write that failed may have been done all the same.
        upstream_cache.tell(remote, &written).await;
    }
    if success {
        // 200, 202 and 204 are real (distribution#142, #744); some clients take 201 alone.
        let location = request.request.locations.manifest(&Reference::Digest(digest.clone()));
        let theirs = named(&response).filter(|theirs| {
            // The name by which a registry with another algorithm knows what was pushed by a tag.
            matches!(reference, Reference::Tag(_)) && theirs.algorithm() != digest.algorithm()
        });
        made(&mut response, StatusCode::CREATED, &location, &theirs.unwrap_or(digest));
    }
    Ok(response)
}

/// Returns the tags that a push by digest gives its manifest besides (end-7b).
fn further_tags<'a>(request: &'a AuthorizedRepository<'_>) -> &'a [Tag] {
    match &request.request.operation {
        Operation::PutManifest { tags, .. } => tags,
        _ => &[],
    }
}

/// Returns those tags, each with whether the registry says in `OCI-Tag` that it points to the manifest now.
fn moved_tags(tags: &[Tag], headers: &HeaderMap) -> Vec<(Tag, bool)> {
    let lines = headers.get_all(OCI_TAG).iter().filter_map(|line| line.to_str().ok());
    let named: Vec<_> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    tags.iter().map(|tag| (tag.clone(), named.contains(&tag.as_str()))).collect()
}

/// The tags that a push by digest has moved (distribution-spec, "Pushing Manifests").
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Returns true if the upstream refuses the manifest, and may do so because it has lost a blob.
fn misses_content(sent: &Result<Response<Body>, Problem>) -> bool {
    match sent {
        // A refusal in the registry's own words.
        Ok(response) => !response.status().is_success(),
        Err(Problem::Upstream { failure, .. }) => failure.meaning.may_miss_content(),
        Err(_) => false,
    }
}

/// Returns true unless the upstream names another digest of the same algorithm.
pub(super) fn is_named(response: &Response<Body>, digest: &Digest) -> bool {
    named(response).is_none_or(|named| named.algorithm() != digest.algorithm() || named == *digest)
}

/// Returns the digest that the upstream names.
fn named(response: &Response<Body>) -> Option<Digest> {
    let named = response.headers().get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?;
    Digest::parse(named).ok()
}

/// Turns an upstream's success into the answer to a client that has pushed `digest`: with the status of the specification,
/// the place in the client's own words, and no body, whatever the upstream sent.
pub(super) fn made(response: &mut Response<Body>, status: StatusCode, location: &str, digest: &Digest) {
    *response.status_mut() = status;
    *response.body_mut() = Body::empty();
    let headers = response.headers_mut();
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_RANGE] {
        headers.remove(name);
    }
    headers.insert(header::CONTENT_LENGTH, 0.into());
    set(headers, DOCKER_CONTENT_DIGEST, digest.as_str());
    set(headers, header::LOCATION, location);
}

/// Reads a manifest whole, and takes room for what arrives of it.
async fn collect(
    request: &AuthorizedRepository<'_>,
    body: &mut RequestBody,
) -> Result<(Bytes, Lease), Problem> {
    let AuthorizedRequest { core, permit, .. } = &request.request;
    let lease = core.shared.held_bytes.take(permit.client(), limits::UNCOUNTED_BYTES).await;
    let mut lease = lease.map_err(Problem::Spent)?;
    match body.collect(limits::PUSHED_MANIFEST_BYTES, &mut lease).await {
        Ok(bytes) => Ok((bytes, lease)),
        Err(CollectError::Broken(_)) => Err(Problem::ClientGone),
        Err(CollectError::TooLong) => Err(Problem::ManifestTooLarge),
        Err(CollectError::Spent(spent)) => Err(Problem::Spent(spent)),
    }
}

pub(super) async fn delete(
    request: &AuthorizedRepository<'_>,
    reference: &Reference,
) -> Result<Response<Body>, Problem> {
    let guard = WriteGuard::new(request, std::slice::from_ref(reference));
    let answer = request.ask().await;
    guard.end().await;
    Ok(deleted(answer?))
}

/// Turns an upstream's success into the answer to a client that has deleted something: some clients take 202 alone.
pub(super) fn deleted(mut response: Response<Body>) -> Response<Body> {
    if response.status().is_success() {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
}

/// Returns the media type that the client declares.
fn media_type(request: &AuthorizedRepository<'_>) -> Option<MediaType> {
    let text = request.request.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    MediaType::parse(text).ok()
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut hash = [0u8; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    Digest::sha256(&hash)
}
