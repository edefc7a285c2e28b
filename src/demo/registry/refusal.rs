//! The registry's refusals and their answers.

use bytes::Bytes;
use http::{StatusCode, header};

use crate::demo::registry::answer::Answer;
use crate::demo::registry::document::DocumentError;
use crate::demo::registry::space;
use crate::proto::range::{ContentRange, UploadRange};
use crate::proto::{Digest, ErrorBody, ErrorCode, RepositoryName, TargetError};

/// The reason why the registry does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request is outside the distribution API.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No such repository.
    #[error("the repository {0} is not known")]
    NameUnknown(RepositoryName),
    /// The repository holds no such blob.
    #[error("the repository has no blob {0}")]
    BlobUnknown(Digest),
    /// The repository has no such manifest or tag.
    #[error("the repository has no manifest {0}")]
    ManifestUnknown(String),
    /// The manifest is malformed.
    #[error("the manifest is refused: {0}")]
    ManifestInvalid(String),
    /// The manifest names blobs or manifests that the repository does not hold.
    #[error("the manifest names what the repository does not have: {}", .0.iter().map(Digest::as_str).collect::<Vec<_>>().join(", "))]
    ManifestBlobUnknown(Vec<Digest>),
    /// The manifest is longer than the registry takes.
    #[error("a manifest has at most {0} bytes here")]
    ManifestTooLong(usize),
    /// The content is not what the digest names.
    #[error("the content does not have the digest {0}")]
    DigestInvalid(Digest),
    /// The digest's algorithm cannot be computed here.
    #[error("digests are sha256 or sha512 here")]
    AlgorithmUnknown,
    /// No such upload session in this repository, or it has expired.
    #[error("the upload is not known; it may have expired")]
    UploadUnknown,
    /// Another request is writing into the session.
    #[error("another request is writing into the upload")]
    UploadBusy,
    /// Too many sessions are open.
    #[error("too many uploads are under way")]
    TooManyUploads,
    /// The chunk does not follow on what the session has received.
    #[error("the chunk does not follow on the {received} bytes that are there")]
    ChunkOutOfOrder {
        /// The location to go on at.
        location: String,
        /// The number of bytes received.
        received: u64,
    },
    /// `Content-Range` is malformed, or not as long as the body.
    #[error("the Content-Range is malformed, or the body is not as long as it says")]
    ChunkInvalid,
    /// The range lies outside the blob.
    #[error("the blob has only {0} bytes")]
    RangeUnsatisfiable(u64),
    /// The client broke off.
    #[error("the body broke off")]
    BodyBroken,
    /// The content is larger than the registry's whole memory.
    #[error("the content does not fit into the registry, which holds {0} bytes")]
    TooLarge(u64),
    /// The registry's memory limit is reached.
    #[error("the registry's memory limit is reached; delete something")]
    Full,
    /// The system gave no random bytes for a session's name.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

impl Refusal {
    /// Returns the code in the body of the answer.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Target(error) => error.code(),
            Self::NameUnknown(_) => ErrorCode::NameUnknown,
            Self::BlobUnknown(_) => ErrorCode::BlobUnknown,
            Self::ManifestUnknown(_) => ErrorCode::ManifestUnknown,
            Self::ManifestInvalid(_) | Self::ManifestTooLong(_) => ErrorCode::ManifestInvalid,
            Self::ManifestBlobUnknown(_) => ErrorCode::ManifestBlobUnknown,
            Self::DigestInvalid(_) | Self::AlgorithmUnknown => ErrorCode::DigestInvalid,
            Self::UploadUnknown => ErrorCode::BlobUploadUnknown,
            Self::UploadBusy | Self::BodyBroken => ErrorCode::BlobUploadInvalid,
            Self::TooManyUploads => ErrorCode::TooManyRequests,
            Self::ChunkOutOfOrder { .. } | Self::RangeUnsatisfiable(_) => ErrorCode::RangeInvalid,
            Self::ChunkInvalid | Self::TooLarge(_) => ErrorCode::SizeInvalid,
            Self::Full => ErrorCode::Unavailable,
            Self::NoRandomness => ErrorCode::Unknown,
        }
    }

    /// Returns the status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ManifestTooLong(_) | Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UploadBusy => StatusCode::CONFLICT,
            Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Target(error) => status(error.status()),
            other => status(other.code().status()),
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let body = ErrorBody::with_message(self.code(), self.to_string()).render();
        let answer = Answer::json(self.status(), "application/json", Bytes::from(body));
        match self {
            Self::Target(TargetError::MethodNotAllowed { allow }) => answer.header(header::ALLOW, allow),
            Self::ChunkOutOfOrder { location, received } => {
                let answer = answer.header(header::LOCATION, location);
                answer.header(header::RANGE, &UploadRange::received(*received).to_string())
            }
            Self::RangeUnsatisfiable(length) => answer
                .header(header::CONTENT_RANGE, &ContentRange::Unsatisfied { total: *length }.to_string()),
            Self::TooManyUploads => answer.header(header::RETRY_AFTER, "60"),
            _ => answer,
        }
    }
}

impl From<space::Full> for Refusal {
    fn from(_: space::Full) -> Self {
        Self::Full
    }
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Self {
        Self::ManifestInvalid(error.to_string())
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
