//! The form of every answer here.

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::Body;

/// Returns an answer of plain text.
pub(super) fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    new(status, "text/plain; charset=utf-8", Body::full(body))
}

/// Returns an answer of the type `content_type`.
pub(super) fn new(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
