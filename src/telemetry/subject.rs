//! The subject of a request.

use crate::proto::{Digest, Reference};

/// The subject of a request within its repository.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// A manifest.
    Manifest(Reference),
    /// A blob, or the subject of referrers.
    Digest(Digest),
}

impl Subject {
    /// Returns the tag or digest.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Manifest(reference) => reference.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}
