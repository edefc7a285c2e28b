//! Exchanges with an upstream, as the cache has them. The cache knows no upstream: `crate::origin` implements these traits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::authz::Permit;
use crate::body::Body;
use crate::meaning::UpstreamFailure;
use crate::proto::{Digest, Reference, RepositoryName};

/// A repository at its upstream, asked with the permit of one request and as its account there.
pub(crate) trait Origin: Send + Sync + 'static {
    /// Asks the upstream. An answer is a success, or the redirect that [`OriginRequest::BlobExists`] takes for one; all else
    /// that the upstream says is an [`UpstreamFailure`].
    fn ask(&self, request: OriginRequest) -> Asking<'_>;

    /// Returns the account as which the upstream is asked. Requesters with the same account share the upstream's limits.
    fn account(&self) -> Arc<str>;

    /// Returns true if every client has that account there: the gateway's own, or none. A no to another account says nothing
    /// of what the others may read.
    fn is_shared(&self) -> bool {
        true
    }
}

/// The way to origins: one upstream, as any request asks it.
pub(crate) trait Origins: Send + Sync + 'static {
    /// Returns the origin for `repository`, which is the upstream's own name, asked with one request's permit. `headers` go
    /// with every request.
    fn origin(&self, permit: &Permit, repository: &RepositoryName, headers: HeaderMap) -> Arc<dyn Origin>;
}

/// The answer to an [`OriginRequest`], under way.
pub(crate) type Asking<'a> =
    Pin<Box<dyn Future<Output = Result<OriginResponse, UpstreamFailure>> + Send + 'a>>;

/// A request to an upstream.
#[derive(Debug, Clone)]
pub(crate) enum OriginRequest {
    /// A blob's bytes (end-2).
    Blob {
        /// The blob.
        digest: Digest,
        /// The bytes of it; all if there is none. The answer may have more: see its status.
        bytes: Option<ByteSpan>,
        /// `If-Range` (RFC 9110 section 13.1.5): the strong validator of the bytes that are here already.
        validator: Option<HeaderValue>,
    },
    /// The existence of a blob in the repository: HEAD, or where HEAD is refused a GET whose redirect is not followed. Of the
    /// answer only that there is one matters.
    BlobExists(Digest),
    /// As [`OriginRequest::BlobExists`] of a blob, and [`OriginRequest::ManifestHead`] of a manifest, but anonymously: whether
    /// everyone may have it.
    Public(Resource),
    /// A manifest's head, asked for with every type of manifest that there is (HEAD of end-3). Docker Hub does not count it.
    ManifestHead(Reference),
    /// A manifest, likewise (end-3). The body is not longer than it may be, and held whole.
    Manifest(Reference),
    /// The API's version (end-1), to see whether the upstream answers: every answer below 500 is one.
    Ping,
}

impl OriginRequest {
    /// Returns true if it is for content. To ask for rights, or where a tag points, is no fetch.
    pub(crate) fn is_for_bytes(&self) -> bool {
        matches!(self, Self::Blob { .. } | Self::Manifest(_))
    }
}

/// A thing that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// A blob.
    Blob(Digest),
    /// A manifest.
    Manifest(Reference),
}

/// Bytes of a blob: from `first` on, up to `last`, or to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ByteSpan {
    /// The first byte.
    pub first: u64,
    /// The last; none: the blob's.
    pub last: Option<u64>,
}

/// An upstream's answer.
#[derive(Debug)]
pub(crate) struct OriginResponse {
    /// The status.
    pub status: StatusCode,
    /// The header fields that are for a client.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}
