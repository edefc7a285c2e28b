//! Blobs: end-2 and end-10.

use http::Response;

use crate::body::Body;
use crate::gateway::AuthorizedRequest;
use crate::gateway::respond::Problem;
use crate::proto::{Digest, Reference};

/// A blob, or a part of it: out of the cache, where there is one, else streamed from the upstream at the client's pace.
pub(crate) async fn get(
    allowed: &AuthorizedRequest<'_>,
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

pub(crate) async fn delete(
    allowed: &AuthorizedRequest<'_>,
    digest: &Digest,
) -> Result<Response<Body>, Problem> {
    let _deleted = allowed.unsettled(Some(&Reference::Digest(digest.clone())));
    allowed.ask().await
}
