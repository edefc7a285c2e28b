//! Blobs: end-2 and end-10.

use http::Response;

use crate::body::Body;
use crate::gateway::answer::Answer;
use crate::gateway::authorized::AuthorizedRepository;
use crate::gateway::respond::Problem;
use crate::gateway::write_guard::WriteGuard;
use crate::proto::{Digest, Reference};

/// Returns a blob, or a part of it: out of the cache, if there is one, else streamed from the upstream at the client's pace.
pub(super) async fn get(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    head: bool,
) -> Result<Answer, Problem> {
    match request.cached_blob(digest, head).await? {
        Some(answer) => Ok(answer),
        None => Ok(request.ask().await?.into()),
    }
}

pub(super) async fn delete(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
) -> Result<Response<Body>, Problem> {
    let _guard = WriteGuard::new(request, Some(&Reference::Digest(digest.clone())));
    request.ask().await
}
