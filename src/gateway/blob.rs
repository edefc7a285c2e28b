//! Blobs: end-2 and end-10.

use http::Response;

use super::Allowed;
use super::respond::Problem;
use crate::body::Body;
use crate::proto::{Digest, Reference};

/// A blob, or a part of it: out of the cache, where there is one, else streamed from the upstream at the client's pace.
pub(super) async fn get(
    allowed: &Allowed<'_>,
    digest: &Digest,
    head: bool,
) -> Result<Response<Body>, Problem> {
    if let Some(repository) = allowed.cached()?
        && let Some(response) = allowed.cached_blob(&repository, digest, head).await?
    {
        return Ok(response);
    }
    allowed.ask().await
}

pub(super) async fn delete(allowed: &Allowed<'_>, digest: &Digest) -> Result<Response<Body>, Problem> {
    let _deleted = allowed.unsettled(Some(&Reference::Digest(digest.clone())));
    allowed.ask().await
}
