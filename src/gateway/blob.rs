//! Blobs: end-2 and end-10.

use http::Response;

use super::Allowed;
use super::respond::Problem;
use crate::body::Body;

/// A blob, or a part of it, streamed from the upstream at the client's pace.
pub(super) async fn get(allowed: &Allowed<'_>) -> Result<Response<Body>, Problem> {
    allowed.ask().await
}

pub(super) async fn delete(allowed: &Allowed<'_>) -> Result<Response<Body>, Problem> {
    allowed.ask().await
}
