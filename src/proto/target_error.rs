//! The ways in which a request is outside the distribution API.

use thiserror::Error;

use crate::proto::digest::DigestError;
use crate::proto::error_code::ErrorCode;

/// The reason why a request is outside the distribution API, and the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetError {
    /// The path is outside the grammar: 404.
    #[error("no such resource in the distribution API")]
    NotFound,
    /// The path has the API's shape, but the repository's name is outside the grammar: 400 `NAME_INVALID`.
    #[error("invalid repository name")]
    NameInvalid,
    /// A digest, or what has a `:` in a digest's place, is malformed or missing: 400 `DIGEST_INVALID`.
    #[error("invalid digest")]
    DigestInvalid,
    /// Reading a tag that cannot exist: 404 `MANIFEST_UNKNOWN`.
    #[error("manifest unknown")]
    TagUnknown,
    /// Writing a tag that cannot exist: 400 `TAG_INVALID`.
    #[error("invalid tag")]
    TagInvalid,
    /// The resource does not know the method: 405 `UNSUPPORTED`.
    #[error("the operation is unsupported")]
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: &'static str,
    },
    /// A parameter is doubled, malformed or does not decode: 400.
    #[error("invalid query parameter {parameter:?}")]
    QueryInvalid {
        /// Its name; empty when the parameter is none of ours.
        parameter: &'static str,
    },
    /// An upload session that this program cannot have given out: 404 `BLOB_UPLOAD_UNKNOWN`.
    #[error("blob upload unknown to registry")]
    UploadUnknown,
}

impl TargetError {
    /// Returns the HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound | Self::TagUnknown | Self::UploadUnknown => 404,
            Self::NameInvalid | Self::DigestInvalid | Self::TagInvalid | Self::QueryInvalid { .. } => 400,
            Self::MethodNotAllowed { .. } => 405,
        }
    }

    /// Returns the code in the body of the answer.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::NameUnknown,
            Self::NameInvalid => ErrorCode::NameInvalid,
            Self::DigestInvalid => ErrorCode::DigestInvalid,
            Self::TagUnknown => ErrorCode::ManifestUnknown,
            Self::TagInvalid => ErrorCode::TagInvalid,
            Self::MethodNotAllowed { .. } => ErrorCode::Unsupported,
            Self::QueryInvalid { parameter } => code_of_parameter(parameter),
            Self::UploadUnknown => ErrorCode::BlobUploadUnknown,
        }
    }
}

fn code_of_parameter(parameter: &str) -> ErrorCode {
    match parameter {
        "n" => ErrorCode::PaginationNumberInvalid,
        "ns" => ErrorCode::NameInvalid,
        "digest" | "digest-algorithm" => ErrorCode::DigestInvalid,
        "tag" => ErrorCode::TagInvalid,
        _ => ErrorCode::Unsupported,
    }
}

impl From<DigestError> for TargetError {
    fn from(_: DigestError) -> Self {
        Self::DigestInvalid
    }
}
