//! end-3, end-7, end-9: manifests.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;

use crate::demo::registry::answer::{
    Answer, DOCKER_CONTENT_DIGEST, OCI_SUBJECT, OCI_TAG, entity_tag, is_known_to_client,
};
use crate::demo::registry::digester;
use crate::demo::registry::document::Document;
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::state::{Registry, repository};
use crate::demo::registry::store::Manifest;
use crate::proto::{Digest, Reference, RepositoryName, Tag, TargetError};

/// distribution-spec, "Pushing Manifests": clients and registries expect at least 4 MiB to work; what is longer is
/// answered 413.
const MOST_BYTES: usize = 4 << 20;

/// How much of a manifest that is too long is read all the same: a client that is still writing would not see the
/// answer if the connection closed under it.
const MOST_DRAINED: usize = 32 << 20;

impl Registry {
    /// Puts a manifest into a repository as `PUT` does, and gives its sha256 digest.
    ///
    /// Fails where that would: what the manifest names must be there already.
    pub fn push_manifest(
        &self,
        name: &str,
        tag: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, Refusal> {
        let name = repository(name)?;
        let tag = Tag::parse(tag).map_err(|_| TargetError::TagInvalid)?;
        let digest = digester::canonical(&bytes);
        self.keep_manifest(&name, &digest, &[tag], Some(media_type), bytes)?;
        Ok(digest)
    }

    pub(super) fn get_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        headers: &HeaderMap,
    ) -> Result<Answer, Refusal> {
        let (digest, manifest) = self.store().manifest(name, reference)?;
        let answer = match is_known_to_client(headers, &digest) {
            true => Answer::new(StatusCode::NOT_MODIFIED),
            false => Answer::json(StatusCode::OK, &manifest.media_type, manifest.bytes.clone()),
        };
        let answer = answer.header(DOCKER_CONTENT_DIGEST, digest.as_str());
        Ok(answer.header(header::ETAG, &entity_tag(&digest)))
    }

    pub(super) async fn put_manifest<B: Body<Data = Bytes>>(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        tags: Vec<Tag>,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Answer, Refusal> {
        let bytes = read(body).await?;
        let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let (digest, tags) = settle(reference, tags, &bytes)?;
        let subject = self.keep_manifest(name, &digest, &tags, declared, bytes)?;
        Ok(created(name, reference, &digest, tags, subject))
    }

    pub(super) fn delete_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Answer, Refusal> {
        self.store().delete_manifest(name, reference)?;
        Ok(Answer::new(StatusCode::ACCEPTED))
    }

    /// Checks and keeps a manifest, and gives its subject.
    fn keep_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        tags: &[Tag],
        declared: Option<&str>,
        bytes: Bytes,
    ) -> Result<Option<Digest>, Refusal> {
        let (document, media_type) = Document::read(&bytes, declared)?;
        let subject = document.subject();
        let space = self.space.reserve(bytes.len())?;
        let manifest = Manifest { media_type, bytes, document, _space: space };
        self.store().put_manifest(name, digest, tags, manifest)?;
        Ok(subject)
    }
}

/// Returns the digest and the tags that the bytes are to be kept under.
fn settle(reference: &Reference, tags: Vec<Tag>, bytes: &[u8]) -> Result<(Digest, Vec<Tag>), Refusal> {
    match reference {
        Reference::Tag(tag) => Ok((digester::canonical(bytes), vec![tag.clone()])),
        Reference::Digest(digest) => {
            let computed = digester::digest(digest.algorithm(), bytes).ok_or(Refusal::AlgorithmUnknown)?;
            match computed == *digest {
                true => Ok((computed, tags)),
                false => Err(Refusal::DigestInvalid(digest.clone())),
            }
        }
    }
}

/// `OCI-Subject` tells the client that it need not keep the referrers tag itself (distribution-spec, "Pushing
/// Manifests with Subject"); `OCI-Tag` names the tags of end-7b.
fn created(
    name: &RepositoryName,
    reference: &Reference,
    digest: &Digest,
    tags: Vec<Tag>,
    subject: Option<Digest>,
) -> Answer {
    let answer = Answer::new(StatusCode::CREATED)
        .header(header::LOCATION, &format!("/v2/{name}/manifests/{digest}"))
        .header(DOCKER_CONTENT_DIGEST, digest.as_str());
    let answer = subject.iter().fold(answer, |answer, subject| answer.header(OCI_SUBJECT, subject.as_str()));
    match reference {
        Reference::Tag(_) => answer,
        Reference::Digest(_) => tags.iter().fold(answer, |answer, tag| answer.header(OCI_TAG, tag.as_str())),
    }
}

async fn read<B: Body<Data = Bytes>>(body: B) -> Result<Bytes, Refusal> {
    let mut body = pin!(body);
    let mut bytes = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::BodyBroken)?.into_data() else { continue };
        length += data.len();
        if length > MOST_DRAINED {
            break;
        }
        if length <= MOST_BYTES {
            bytes.extend_from_slice(&data);
        }
    }
    if length > MOST_BYTES { Err(Refusal::ManifestTooLong(MOST_BYTES)) } else { Ok(bytes.freeze()) }
}
