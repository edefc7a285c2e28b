//! A small, whole registry in memory, without authentication: the demo's upstream, and that of the tests.
//!
//! It obeys the OCI distribution specification 1.1.1 in all four categories (pull, push, content discovery, content
//! management), and where that is silent does what distribution does: delete by tag, `_catalog`, `ETag`,
//! `Docker-Upload-UUID`. One file per resource; `store` is what is kept, `upload` what is on its way.

mod answer;
mod blobs;
mod digester;
mod document;
mod listings;
mod manifests;
mod pushes;
mod refusal;
mod serve;
mod space;
mod store;
mod upload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;

use crate::demo::registry::answer::Answer;
pub use crate::demo::registry::digester::canonical as sha256;
pub(crate) use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::space::Space;
use crate::demo::registry::store::Store;
use crate::demo::registry::upload::Uploads;
use crate::proto::{Digest, Operation, Reference, RepositoryName, Tag, Target, TargetError};

/// How many bytes a registry holds unless told otherwise: room for any image that a person tries, and an end to
/// what a mistake can take from the machine.
pub(crate) const DEFAULT_LIMIT: u64 = 4 << 30;

/// A registry. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    space: Arc<Space>,
    store: Arc<Mutex<Store>>,
    uploads: Uploads,
}

impl Registry {
    /// An empty registry that holds [`DEFAULT_LIMIT`] bytes.
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }

    /// An empty registry that holds `bytes` bytes: blobs, manifests and unfinished uploads together.
    pub fn with_limit(bytes: u64) -> Self {
        Self { space: Space::new(bytes), store: Arc::default(), uploads: Uploads::default() }
    }

    /// Answers one request.
    pub async fn handle<B: Body<Data = Bytes>>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let answer = match parse(&head) {
            Ok(operation) => self.answer(operation, &head.headers, body).await,
            Err(error) => Err(error.into()),
        };
        let answer = answer.unwrap_or_else(|refusal| refusal.answer());
        let answer = if head.method == Method::HEAD { answer.without_body() } else { answer };
        answer.into_response()
    }

    /// Puts a blob into a repository, and gives its sha256 digest.
    ///
    /// Fails when the name is outside the grammar, or the registry is full.
    pub fn push_blob(&self, name: &str, bytes: Bytes) -> Result<Digest, Refusal> {
        let name = repository(name)?;
        let digest = digester::canonical(&bytes);
        let space = self.space.reserve(bytes.len())?;
        self.store().put_blob(&name, &digest, bytes, space);
        Ok(digest)
    }

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

    /// The digest, media type and bytes of a manifest; `reference` is a tag or a digest.
    pub fn manifest(&self, name: &str, reference: &str) -> Option<(Digest, String, Bytes)> {
        let name = RepositoryName::parse(name).ok()?;
        let reference = Reference::parse(reference).ok()?;
        let (digest, manifest) = self.store().manifest(&name, &reference).ok()?;
        Some((digest, manifest.media_type.clone(), manifest.bytes.clone()))
    }

    /// The bytes of a blob or manifest, whichever repository has it.
    pub fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.store().content(digest)
    }

    /// The tags of a repository in ASCII order; none where there is no such repository.
    pub fn tags(&self, name: &str) -> Vec<String> {
        let Ok(name) = RepositoryName::parse(name) else { return Vec::new() };
        let store = self.store();
        store.tags(&name).map(|tags| tags.map(str::to_owned).collect()).unwrap_or_default()
    }

    async fn answer<B: Body<Data = Bytes>>(
        &self,
        operation: Operation,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Answer, Refusal> {
        use Operation as Op;
        match operation {
            Op::Version => Ok(Answer::json(StatusCode::OK, "application/json", Bytes::from_static(b"{}"))),
            Op::Catalog { page } => Ok(self.catalog(page)),
            Op::GetManifest { repository, reference, .. } => {
                self.get_manifest(&repository, &reference, headers)
            }
            Op::PutManifest { repository, reference, tags } => {
                self.put_manifest(&repository, &reference, tags, headers, body).await
            }
            Op::DeleteManifest { repository, reference } => self.delete_manifest(&repository, &reference),
            Op::GetBlob { repository, digest, head } => self.get_blob(&repository, &digest, head, headers),
            Op::DeleteBlob { repository, digest } => self.delete_blob(&repository, &digest),
            Op::ListTags { repository, page } => self.list_tags(repository, page),
            Op::Referrers { repository, digest, artifact_type, page } => {
                Ok(self.list_referrers(repository, digest, artifact_type, page))
            }
            Op::StartUpload { repository, start } => self.start_upload(&repository, start, body).await,
            Op::UploadStatus { repository, session } => self.upload_status(&repository, &session),
            Op::PatchUpload { repository, session } => {
                self.patch_upload(&repository, &session, headers, body).await
            }
            Op::FinishUpload { repository, session, digest } => {
                self.finish_upload(&repository, &session, &digest, headers, body).await
            }
            Op::CancelUpload { repository, session } => self.cancel_upload(&repository, &session),
        }
    }

    /// Held for moments only, never while waiting for anything.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// An upstream has no prefixes. `?ns=` is for proxies; registries pass over it (distribution-spec, "Registry
/// Proxying").
fn parse(head: &http::request::Parts) -> Result<Operation, TargetError> {
    let target = Target::parse(head.method.as_str(), head.uri.path(), head.uri.query())?;
    match target.prefix {
        None => Ok(target.operation),
        Some(_) => Err(TargetError::NotFound),
    }
}

fn repository(name: &str) -> Result<RepositoryName, Refusal> {
    Ok(RepositoryName::parse(name).map_err(|_| TargetError::NameInvalid)?)
}

#[cfg(test)]
mod tests;
