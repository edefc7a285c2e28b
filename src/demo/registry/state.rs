//! The registry as a value, and what a test may look up in it or put into it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::demo::registry::digester;
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::space::Space;
use crate::demo::registry::store::Store;
use crate::demo::registry::upload::Uploads;
use crate::proto::{Digest, Reference, RepositoryName, TargetError};

/// How many bytes a registry holds unless told otherwise: room for any image that a person tries, and an end to
/// what a mistake can take from the machine.
pub(crate) const DEFAULT_LIMIT: u64 = 4 << 30;

/// A registry. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    pub(super) space: Arc<Space>,
    store: Arc<Mutex<Store>>,
    pub(super) uploads: Uploads,
}

impl Registry {
    /// Returns an empty registry that holds [`DEFAULT_LIMIT`] bytes.
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }

    /// Returns an empty registry that holds `bytes` bytes: blobs, manifests and unfinished uploads together.
    pub fn with_limit(bytes: u64) -> Self {
        Self { space: Space::new(bytes), store: Arc::default(), uploads: Uploads::default() }
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

    /// Returns the digest, media type and bytes of a manifest; `reference` is a tag or a digest.
    pub fn manifest(&self, name: &str, reference: &str) -> Option<(Digest, String, Bytes)> {
        let name = RepositoryName::parse(name).ok()?;
        let reference = Reference::parse(reference).ok()?;
        let (digest, manifest) = self.store().manifest(&name, &reference).ok()?;
        Some((digest, manifest.media_type.clone(), manifest.bytes.clone()))
    }

    /// Returns the bytes of a blob or manifest, whichever repository has it.
    pub fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.store().content(digest)
    }

    /// Returns the tags of a repository in ASCII order; none where there is no such repository.
    pub fn tags(&self, name: &str) -> Vec<String> {
        let Ok(name) = RepositoryName::parse(name) else { return Vec::new() };
        let store = self.store();
        store.tags(&name).map(|tags| tags.map(str::to_owned).collect()).unwrap_or_default()
    }

    /// Locks the store. Hold it for moments only, never while waiting.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn repository(name: &str) -> Result<RepositoryName, Refusal> {
    Ok(RepositoryName::parse(name).map_err(|_| TargetError::NameInvalid)?)
}
