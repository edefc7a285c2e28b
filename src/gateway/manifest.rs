//! Manifests: end-3, end-7, end-9.

use aws_lc_rs::digest;
use http::{Response, StatusCode, header};
use tokio::sync::SemaphorePermit;

use crate::body::{Body, RequestBody};
use crate::config::limits;
use crate::gateway::AuthorizedRequest;
use crate::gateway::forward::set;
use crate::gateway::respond::Problem;
use crate::proto::{Digest, MediaType, Reference};
use crate::upstream::DOCKER_CONTENT_DIGEST;

/// A manifest: out of the cache, where there is one, else from the upstream.
pub(crate) async fn get(
    allowed: &AuthorizedRequest<'_>,
    reference: &Reference,
    head: bool,
) -> Result<Response<Body>, Problem> {
    if let Some(repository) = allowed.cached()?
        && let Some(response) = allowed.cached_manifest(&repository, reference, head).await?
    {
        return Ok(response);
    }
    allowed.ask().await
}

/// A manifest is small and is read whole before the upstream hears of it: one that is too large never gets there, and
/// its digest is known even where the upstream does not say it.
pub(crate) async fn put(
    allowed: &AuthorizedRequest<'_>,
    reference: &Reference,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    let deadline = tokio::time::Instant::now() + limits::MANIFEST_DEADLINE;
    // Held until the upstream has answered.
    let _room = tokio::time::timeout_at(deadline, room(allowed, body)).await.map_err(|_| Problem::Busy)?;
    let collected = tokio::time::timeout_at(deadline, body.collect(limits::MANIFEST_BYTES)).await;
    let bytes = collected.map_err(|_| Problem::ClientGone)?.map_err(|_| Problem::ClientGone)?;
    let bytes = bytes.ok_or(Problem::ManifestTooLarge)?;
    let digest = match reference {
        Reference::Digest(digest) => digest.clone(),
        Reference::Tag(_) => sha256(&bytes),
    };
    let written = allowed.site().zip(allowed.place.as_ref());
    let writing = written.map(|(site, place)| site.begin_write(&place.remote));
    // Even a write that failed may have been done.
    let unsettled = allowed.unsettled(Some(reference));
    let mut response = allowed.send(allowed.target()?, &mut RequestBody::held(bytes.clone())).await?;
    unsettled.settle();
    if let (Some((site, place)), Some(writing)) = (written, writing) {
        match response.status() {
            StatusCode::CREATED => {
                site.pushed_manifest(&writing, reference, &digest, allowed.media_type(), &bytes);
            }
            _ => site.written(&place.remote),
        }
    }
    if response.status() == StatusCode::CREATED {
        let headers = response.headers_mut();
        if !headers.contains_key(DOCKER_CONTENT_DIGEST) {
            set(headers, DOCKER_CONTENT_DIGEST, digest.as_str());
        }
        set(headers, header::LOCATION, &allowed.naming.manifest(&Reference::Digest(digest)));
    }
    Ok(response)
}

/// Room for a manifest that is about to be held: all that are held at a time have [`limits::HELD_BYTES`] together.
async fn room<'a>(allowed: &AuthorizedRequest<'a>, body: &RequestBody) -> Option<SemaphorePermit<'a>> {
    let most = limits::MANIFEST_BYTES as u64;
    let bytes = body.remaining().unwrap_or(most).min(most);
    allowed.core.lasting.held.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await.ok()
}

pub(crate) async fn delete(
    allowed: &AuthorizedRequest<'_>,
    reference: &Reference,
) -> Result<Response<Body>, Problem> {
    let _deleted = allowed.unsettled(Some(reference));
    allowed.ask().await
}

impl AuthorizedRequest<'_> {
    /// What the client says that it sends.
    fn media_type(&self) -> Option<MediaType> {
        let text = self.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        MediaType::parse(text).ok()
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut hash = [0u8; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    Digest::sha256(&hash)
}
