//! Requests to an upstream and its responses.

use http::{HeaderMap, Method, StatusCode};

use crate::body::{Body, RequestBody};
use crate::upstream::auth::scope::RequiredScope;

/// A request to an upstream.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Path and query at the upstream (origin-form, RFC 9112 section 3.2.1); for an upload that continues elsewhere,
    /// the URL that [`Upstream::upload_location`](crate::upstream::Upstream::upload_location) returned.
    pub target: String,
    /// All header fields but Host, Authorization and those that frame the body.
    pub headers: HeaderMap,
    /// The client's body.
    pub body: &'a mut RequestBody,
    /// The scope that the upstream must grant for it.
    pub scope: RequiredScope,
    /// The kind of thing that is asked for.
    pub purpose: Purpose,
}

/// The kind of thing that a request asks for, as far as its answer is treated differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A blob: its redirect may be handed to the client, and its stream is resumed when it breaks.
    Blob,
    /// The existence of a blob: its stream is not wanted, and is not resumed.
    Existence,
    /// Anything else.
    Other,
}

/// An upstream's answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status.
    pub status: StatusCode,
    /// All header fields, as they came.
    pub headers: HeaderMap,
    /// The body, which owns its connection until it is read.
    pub body: Body,
}

/// A request whose destination and authorization are decided: all that goes on the connection.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    /// All fields but Host and those that frame the body.
    pub(crate) headers: &'a mut HeaderMap,
    pub(crate) body: &'a mut RequestBody,
    pub(crate) purpose: Purpose,
}

impl Request<'_> {
    /// Borrows what goes on the connection.
    pub(crate) fn outgoing(&mut self) -> Outgoing<'_> {
        let Self { method, headers, body, purpose, .. } = self;
        Outgoing { method, headers, body, purpose: *purpose }
    }
}

impl Outgoing<'_> {
    /// Returns true for a request that is one of many small ones rather than a transfer.
    pub(crate) fn is_small(&self) -> bool {
        self.purpose != Purpose::Blob && !self.body.is_unfinished()
    }
}

/// Returns true for a status whose Location is to be asked instead.
pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
