//! A manifest for the client, and the upstream's word on one.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};

use crate::cache::manifests::memory::Kept;
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::tags::TagHead;
use crate::cache::origin::Provenance;
use crate::cache::outcome::CacheStatus;
use crate::proto::{Algorithm, Digest, MediaType};

/// A manifest, for the client.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// Its type.
    pub media_type: MediaType,
    /// Its length in bytes, for `Content-Length`.
    pub length: u64,
    /// Its bytes, never changed. Always there for a GET; for HEAD they may not be here at all.
    pub bytes: Option<Bytes>,
    /// The cache's part in the answer.
    pub outcome: CacheStatus,
    /// When the upstream confirmed it, or that the tag points to it.
    pub confirmed: SystemTime,
}

impl Manifest {
    /// Returns the manifest that is `kept`, which this repository calls `media_type`.
    pub(crate) fn of(
        digest: &Digest,
        media_type: MediaType,
        kept: &Arc<Kept>,
        outcome: CacheStatus,
        confirmed: SystemTime,
    ) -> Self {
        let bytes = kept.bytes.clone();
        let length = bytes.len() as u64;
        Self { digest: digest.clone(), media_type, length, bytes: Some(bytes), outcome, confirmed }
    }

    /// Returns the manifest as far as a HEAD of its tag has told of it.
    pub(crate) fn of_head(head: TagHead, outcome: CacheStatus) -> Self {
        let TagHead { digest, media_type, length, confirmed, generation: _ } = head;
        Self { digest, media_type, length, bytes: None, outcome, confirmed }
    }

    /// Returns the manifest as that of a tag, whose answer was `head`: it is as old and as stale as that.
    pub(crate) fn behind(self, head: &Self) -> Self {
        let outcome = if head.outcome == CacheStatus::Stale { head.outcome } else { self.outcome };
        Self { outcome, confirmed: head.confirmed, ..self }
    }

    /// Returns the manifest as it is for a requester that `joined` a fetch under way.
    pub(crate) fn following(self, joined: bool, head: bool) -> Self {
        let fill = joined && !head && self.outcome.is_fetched();
        let outcome = if fill { CacheStatus::Fill } else { self.outcome };
        Self { outcome, ..self }
    }
}

/// The upstream's word on a manifest that it has not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestHead {
    /// `Docker-Content-Digest`, of an algorithm that can be checked.
    pub(crate) digest: Option<Digest>,
    /// `Content-Type`, where that is a manifest's.
    pub(crate) media_type: Option<MediaType>,
    /// `Content-Length`, unless it is 0: no manifest is empty, so that this means that it is not known (godoxy#169).
    pub(crate) length: Option<u64>,
    /// The repository's, when the upstream was asked.
    pub(crate) generation: Generation,
    /// The sender of the head.
    pub(crate) from: Provenance,
}

impl ManifestHead {
    /// Returns what `headers` say, of a repository that was at `generation`.
    pub(crate) fn of(headers: &HeaderMap, from: Provenance, generation: Generation) -> Self {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok();
        Self {
            digest: named_digest(headers),
            media_type: content_type(headers).filter(MediaType::is_manifest),
            length: text(header::CONTENT_LENGTH)
                .and_then(|length| length.parse().ok())
                .filter(|length| *length > 0),
            generation,
            from,
        }
    }

    /// Returns true if it is about another content than `digest`. Another algorithm says nothing.
    pub(crate) fn denies(&self, digest: &Digest) -> bool {
        self.digest.as_ref().is_some_and(|said| said.algorithm() == digest.algorithm() && said != digest)
    }
}

/// Returns `Docker-Content-Digest`, where it is of an algorithm that can be checked.
pub(crate) fn named_digest(headers: &HeaderMap) -> Option<Digest> {
    let digest = Digest::parse(headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?).ok()?;
    (digest.algorithm() != Algorithm::Other).then_some(digest)
}

/// Returns the `Content-Type`, where it is one.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<MediaType> {
    MediaType::parse(headers.get(header::CONTENT_TYPE)?.to_str().ok()?).ok()
}

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
