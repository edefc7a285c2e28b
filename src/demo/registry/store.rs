//! The registry's contents by digest, and their repositories.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::demo::registry::document::Document;
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::space::Reservation;
use crate::proto::{Digest, Reference, RepositoryName, Tag};

/// All repositories. A blob's bytes are there once, however many repositories hold it; but it can be read
/// only where it was pushed or mounted.
#[derive(Default)]
pub(super) struct Store {
    contents: HashMap<Digest, Content>,
    repositories: BTreeMap<RepositoryName, Repository>,
}

/// A manifest as it was pushed.
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
    pub(super) document: Document,
    pub(super) _space: Reservation,
}

#[derive(Default)]
struct Repository {
    blobs: HashSet<Digest>,
    manifests: HashMap<Digest, Arc<Manifest>>,
    tags: BTreeMap<String, Digest>,
}

struct Content {
    bytes: Bytes,
    holders: usize,
    _space: Reservation,
}

impl Store {
    pub(super) fn blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Bytes, Refusal> {
        let held = self.repositories.get(name).is_some_and(|repository| repository.blobs.contains(digest));
        let content = self.contents.get(digest).filter(|_| held);
        content.map(|content| content.bytes.clone()).ok_or_else(|| Refusal::BlobUnknown(digest.clone()))
    }

    /// Returns the content wherever it is, for tests that look behind the door.
    pub(super) fn content(&self, digest: &Digest) -> Option<Bytes> {
        let manifests = || self.repositories.values().find_map(|repository| repository.manifests.get(digest));
        let blob = self.contents.get(digest).map(|content| content.bytes.clone());
        blob.or_else(|| manifests().map(|manifest| manifest.bytes.clone()))
    }

    pub(super) fn put_blob(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
        bytes: Bytes,
        space: Reservation,
    ) {
        let new = || Content { bytes, holders: 0, _space: space };
        self.contents.entry(digest.clone()).or_insert_with(new);
        self.hold(name, digest);
    }

    /// Lets `name` hold a blob of `from`. False when `from` has no such blob.
    pub(super) fn mount(&mut self, name: &RepositoryName, digest: &Digest, from: &RepositoryName) -> bool {
        let found = self.blob(from, digest).is_ok();
        if found {
            self.hold(name, digest);
        }
        found
    }

    pub(super) fn delete_blob(&mut self, name: &RepositoryName, digest: &Digest) -> Result<(), Refusal> {
        let repository = self.repositories.get_mut(name);
        if !repository.is_some_and(|repository| repository.blobs.remove(digest)) {
            return Err(Refusal::BlobUnknown(digest.clone()));
        }
        self.release(digest);
        Ok(())
    }

    pub(super) fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<(Digest, Arc<Manifest>), Refusal> {
        let unknown = || Refusal::ManifestUnknown(reference.to_string());
        let repository = self.repositories.get(name).ok_or_else(unknown)?;
        let digest = repository.resolve(reference).ok_or_else(unknown)?;
        let manifest = repository.manifests.get(digest).ok_or_else(unknown)?;
        Ok((digest.clone(), Arc::clone(manifest)))
    }

    /// Keeps a manifest whose blobs and children are in the repository, and tags it.
    ///
    /// distribution-spec, "Pushing Manifests": a registry may demand what a manifest names, except its subject.
    pub(super) fn put_manifest<'a>(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
        tags: impl IntoIterator<Item = &'a Tag>,
        manifest: Manifest,
    ) -> Result<(), Refusal> {
        let missing = self.missing(name, &manifest.document);
        if !missing.is_empty() {
            return Err(Refusal::ManifestBlobUnknown(missing));
        }
        let repository = self.repositories.entry(name.clone()).or_default();
        repository.manifests.insert(digest.clone(), Arc::new(manifest));
        for tag in tags {
            repository.tags.insert(tag.as_str().to_owned(), digest.clone());
        }
        Ok(())
    }

    /// Forgets a tag, or by digest a manifest and every tag that points at it.
    pub(super) fn delete_manifest(
        &mut self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), Refusal> {
        let repository = self.repositories.get_mut(name);
        match repository.is_some_and(|repository| repository.delete(reference)) {
            true => Ok(()),
            false => Err(Refusal::ManifestUnknown(reference.to_string())),
        }
    }

    /// Returns the tags in ASCII order.
    pub(super) fn tags(&self, name: &RepositoryName) -> Result<impl Iterator<Item = &str>, Refusal> {
        let repository = self.repositories.get(name).ok_or_else(|| Refusal::NameUnknown(name.clone()))?;
        Ok(repository.tags.keys().map(String::as_str))
    }

    /// Returns the repositories that have something to pull, in ASCII order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let pullable = self.repositories.iter().filter(|(_, repository)| !repository.manifests.is_empty());
        pullable.map(|(name, _)| name.as_str())
    }

    /// Returns the manifests in `name` whose subject is `subject`, in the order of their digests.
    pub(super) fn referrers(&self, name: &RepositoryName, subject: &Digest) -> Vec<(Digest, Arc<Manifest>)> {
        let manifests = self.repositories.get(name).into_iter().flat_map(|repository| &repository.manifests);
        let refers = |manifest: &Manifest| manifest.document.subject().as_ref() == Some(subject);
        let referring = manifests.filter(|(_, manifest)| refers(manifest));
        let mut found: Vec<_> =
            referring.map(|(digest, manifest)| (digest.clone(), Arc::clone(manifest))).collect();
        found.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        found
    }

    fn hold(&mut self, name: &RepositoryName, digest: &Digest) {
        let repository = self.repositories.entry(name.clone()).or_default();
        if repository.blobs.insert(digest.clone())
            && let Some(content) = self.contents.get_mut(digest)
        {
            content.holders += 1;
        }
    }

    /// Takes a content out of memory when the last repository has let go of it.
    fn release(&mut self, digest: &Digest) {
        let Some(content) = self.contents.get_mut(digest) else { return };
        content.holders -= 1;
        if content.holders == 0 {
            self.contents.remove(digest);
        }
    }

    fn missing(&self, name: &RepositoryName, document: &Document) -> Vec<Digest> {
        let repository = self.repositories.get(name);
        let has_blob = |digest: &Digest| repository.is_some_and(|it| it.blobs.contains(digest));
        // BuildKit's registry cache is an index of blobs, so a child may be either.
        let has_child = |digest: &Digest| {
            repository.is_some_and(|it| it.manifests.contains_key(digest)) || has_blob(digest)
        };
        let blobs = document.blobs().filter(|digest| !has_blob(digest));
        blobs.chain(document.children().filter(|digest| !has_child(digest))).collect()
    }
}

impl Repository {
    fn resolve<'a>(&'a self, reference: &'a Reference) -> Option<&'a Digest> {
        match reference {
            Reference::Tag(tag) => self.tags.get(tag.as_str()),
            Reference::Digest(digest) => Some(digest),
        }
    }

    fn delete(&mut self, reference: &Reference) -> bool {
        match reference {
            Reference::Tag(tag) => self.tags.remove(tag.as_str()).is_some(),
            Reference::Digest(digest) => {
                self.tags.retain(|_, tagged| tagged != digest);
                self.manifests.remove(digest).is_some()
            }
        }
    }
}
