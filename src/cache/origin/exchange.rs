//! Exchanges with an upstream, as the cache has them. The cache knows no upstream: `crate::origin` implements these traits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::authz::Permit;
use crate::body::Body;
use crate::meaning::UpstreamFailure;
use crate::proto::{Digest, Reference, RepositoryName};

/// One repository at its upstream, as seen by whoever asks here: by his permit and as his identity there.
pub(crate) trait Origin: Send + Sync + 'static {
    /// Asks the upstream. An answer is a success, or the redirect
    /// that [`OriginRequest::BlobExists`] takes for one; whatever else the upstream says is a [`UpstreamFailure`].
    fn ask(&self, question: OriginRequest) -> Asking<'_>;

    /// As whom the upstream is asked: those for whom it is the same share the upstream's limits.
    fn account(&self) -> Arc<str>;

    /// Whether that is who every client is there: the gateway itself, or nobody. A no to somebody else says nothing of what
    /// the others may read.
    fn is_shared(&self) -> bool {
        true
    }
}

/// The way to origins: one upstream, as any request asks it.
pub(crate) trait Origins: Send + Sync + 'static {
    /// Returns the origin for `repository`, which is the upstream's own name, asked with one request's permit. `headers` go
    /// with every question.
    fn origin(&self, permit: &Permit, repository: &RepositoryName, headers: HeaderMap) -> Arc<dyn Origin>;
}

/// The answer to a [`OriginRequest`], under way.
pub(crate) type Asking<'a> =
    Pin<Box<dyn Future<Output = Result<OriginResponse, UpstreamFailure>> + Send + 'a>>;

/// What an upstream is asked.
#[derive(Debug, Clone)]
pub(crate) enum OriginRequest {
    /// A blob's bytes (end-2).
    Blob {
        /// Which.
        digest: Digest,
        /// Which of them; all where there is none. The answer may have more: see its status.
        bytes: Option<ByteSpan>,
        /// `If-Range` (RFC 9110 section 13.1.5): the strong validator of what is here already.
        validator: Option<HeaderValue>,
    },
    /// Whether the repository holds a blob: HEAD, or where HEAD is refused a GET whose redirect is not followed. What
    /// matters of the answer is that there is one.
    BlobExists(Digest),
    /// As [`OriginRequest::BlobExists`] of a blob, and [`OriginRequest::ManifestHead`] of a manifest, but as nobody in particular: whether
    /// everyone may have it.
    Public(Resource),
    /// A manifest's head, asked for with every type of manifest that there is (HEAD of end-3). Docker Hub does not count it.
    ManifestHead(Reference),
    /// A manifest, likewise (end-3). The body is not longer than it may be, and held whole.
    Manifest(Reference),
    /// Whether anybody is there (end-1). Every answer below 500 is one.
    Ping,
}

impl OriginRequest {
    /// Whether it is for content. Asking of somebody's rights, and of where a tag points, is no fetch.
    pub(crate) fn is_for_bytes(&self) -> bool {
        matches!(self, Self::Blob { .. } | Self::Manifest(_))
    }
}

/// What somebody wants to read.
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
