//! The headers by which browsers let a page of another origin use the registry (Fetch, "HTTP CORS protocol").

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::body::Body;
use crate::config::Cors;
use crate::gateway::answer::Answer;

/// Returns the answer to a page's question whether it may send a request. Browsers ask without a login. `None` for a
/// request that is no such question, or of a page that may not.
pub(super) fn preflight(cors: Option<&Cors>, method: &Method, headers: &HeaderMap) -> Option<Answer> {
    allowed(cors?, headers).filter(|_| *method == Method::OPTIONS)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_FIELDS));
    fields.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    if headers.contains_key("access-control-request-private-network") {
        let name = HeaderName::from_static("access-control-allow-private-network");
        fields.insert(name, HeaderValue::from_static("true"));
    }
    Some(response.into())
}

/// Adds to an answer of any kind what lets the page read it.
pub(super) fn allow(cors: Option<&Cors>, request: &HeaderMap, response: &mut HeaderMap) {
    let Some(cors) = cors else { return };
    if *cors != Cors::Any {
        // A cache on the way must not give one page the answer for another.
        response.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    let Some(origin) = allowed(cors, request) else { return };
    response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_FIELDS));
    if *cors == Cors::Any {
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        return;
    }
    response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
}

/// Returns the origin of the page that sends a request, if it may.
fn allowed<'a>(cors: &Cors, request: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let mut fields = request.get_all(header::ORIGIN).iter();
    let origin = fields.next().filter(|origin| origin.to_str().is_ok_and(|origin| cors.allows(origin)))?;
    fields.next().is_none().then_some(origin)
}

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The fields that requests of the registry API have.
const REQUEST_FIELDS: &str = "Authorization, Accept, Cache-Control, Content-Range, Content-Type, If-None-Match, Range, X-Requested-With";

/// The fields of answers that pages have a use for, besides those that browsers show anyway.
const RESPONSE_FIELDS: &str = "Content-Length, Content-Range, Docker-Content-Digest, Docker-Distribution-Api-Version, \
                               Docker-Upload-UUID, ETag, Link, Location, OCI-Filters-Applied, OCI-Subject, Range, \
                               RateLimit-Limit, RateLimit-Remaining, Retry-After, Warning, WWW-Authenticate, X-Cache, \
                               X-Request-Id";

/// In seconds. Chromium remembers an answer for two hours at most, and a changed configuration should be seen sooner.
const MAX_AGE: &str = "600";
