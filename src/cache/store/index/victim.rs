//! Files that were chosen to go.

use crate::cache::store::layout::Kind;
use crate::proto::Digest;

/// A file that has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Victim {
    Partial(String, u64),
    Content(Kind, Digest, u64),
}

impl Victim {
    /// Returns the room that it takes of the blobs' share.
    pub(crate) fn room(&self) -> u64 {
        match self {
            Self::Partial(_, bytes) | Self::Content(Kind::Blob, _, bytes) => *bytes,
            Self::Content(Kind::Manifest, ..) => 0,
        }
    }
}
