//! The images in the bucket, by its records: for operators.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;

use crate::bucket::client::BucketClient;
use crate::bucket::error::BucketError;
use crate::bucket::layout::ObjectNames;
use crate::bucket::seal::RecordSeal;
use crate::bucket::writer::RECORD_BYTES;
use crate::cache::maintenance::Links;
use crate::cache::manifests::document::{Document, Part};
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::store::Kind;
use crate::cache::{MeantRepositories, RecordSubject, StoredImage};
use crate::config::limits;
use crate::proto::{Digest, RepositoryName, Tag};

/// The look at what is in a bucket.
pub(super) struct Inventory {
    pub(super) client: Arc<BucketClient>,
    pub(super) names: ObjectNames,
    pub(super) seal: Arc<RecordSeal>,
}

/// The records of one repository.
#[derive(Debug, Default)]
struct Records {
    tags: Vec<Tag>,
    manifests: BTreeSet<Digest>,
    blobs: HashSet<Digest>,
}

/// A manifest in the bucket.
#[derive(Debug)]
struct StoredManifest {
    length: u64,
    blobs: Vec<Part>,
    listed: Vec<Digest>,
}

/// The manifests that have been read; `None` for one that is not there, or is none.
type Known = HashMap<Digest, Option<StoredManifest>>;

/// The manifests that one leads to, itself among them, and the bytes that are there of all that they name.
#[derive(Debug, Default)]
struct Reached {
    manifests: BTreeSet<Digest>,
    bytes: u64,
}

impl Inventory {
    /// Returns the images of those repositories of an upstream that `meant` says.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn images(
        &self,
        upstream: &str,
        meant: MeantRepositories<'_>,
    ) -> Result<Vec<StoredImage>, BucketError> {
        let (mut images, mut known) = (Vec::new(), Known::default());
        let root = self.names.records_of(upstream);
        let mut ahead = vec![root.clone()];
        while let Some(folder) = ahead.pop() {
            let (lists, mut parts): (Vec<_>, Vec<_>) =
                self.client.folders(&folder).await?.into_iter().partition(ObjectNames::is_list);
            // The first is at the end.
            parts.sort_by(|one, other| other.cmp(one));
            ahead.append(&mut parts);
            if let Some(repository) = ObjectNames::repository_of(&root, &folder)
                && meant(&repository)
            {
                let records = self.records(&root, lists).await?;
                images.extend(self.of_repository(upstream, &repository, &records, &mut known).await?);
            }
        }
        Ok(images)
    }

    /// Returns the records of one repository, which are in these folders.
    async fn records(&self, root: &Path, lists: Vec<Path>) -> Result<Records, BucketError> {
        let mut records = Records::default();
        for list in lists {
            let mut listed = self.client.list(&list);
            while let Some(object) = listed.try_next().await? {
                match ObjectNames::record_in(root, &object.location) {
                    Some((_, RecordSubject::Tag(tag))) => records.tags.push(tag),
                    Some((_, RecordSubject::Content(Kind::Manifest, digest))) => {
                        records.manifests.insert(digest);
                    }
                    Some((_, RecordSubject::Content(Kind::Blob, digest))) => {
                        records.blobs.insert(digest);
                    }
                    None => {}
                }
            }
        }
        Ok(records)
    }

    async fn of_repository(
        &self,
        upstream: &str,
        repository: &RepositoryName,
        records: &Records,
        known: &mut Known,
    ) -> Result<Vec<StoredImage>, BucketError> {
        let image = |tag, digest: &Digest, size, confirmed| StoredImage {
            repository: repository.clone(),
            tag,
            digest: digest.clone(),
            size,
            confirmed,
        };
        let pointers = stream::iter(records.tags.clone()).map(|tag| self.pointer(upstream, repository, tag));
        let pointers: Vec<_> = pointers.buffered(READS).try_collect().await?;
        let (mut images, mut tagged) = (Vec::new(), BTreeSet::new());
        for (tag, pointer) in pointers {
            let Some(pointer) = pointer else { continue };
            let reached = self.reach(&pointer.digest, records, known).await?;
            images.push(image(Some(tag), &pointer.digest, reached.bytes, pointer.confirmed));
            tagged.extend(reached.manifests);
        }
        let mut others = Vec::new();
        for digest in records.manifests.difference(&tagged) {
            let mut reached = self.reach(digest, records, known).await?;
            reached.manifests.remove(digest);
            others.push((digest, reached));
        }
        let below: BTreeSet<_> = others.iter().flat_map(|(_, reached)| &reached.manifests).cloned().collect();
        for (digest, reached) in others.iter().filter(|(digest, _)| !below.contains(*digest)) {
            if let Some(confirmed) = self.confirmed(upstream, repository, digest).await? {
                images.push(image(None, digest, reached.bytes, confirmed));
            }
        }
        Ok(images)
    }

    async fn pointer(
        &self,
        upstream: &str,
        repository: &RepositoryName,
        tag: Tag,
    ) -> Result<(Tag, Option<TagRecord>), BucketError> {
        let path = self.names.tag(upstream, repository, &tag);
        let record = self.record(&path, TagRecord::parse).await?;
        Ok((tag, record))
    }

    async fn confirmed(
        &self,
        upstream: &str,
        repository: &RepositoryName,
        manifest: &Digest,
    ) -> Result<Option<SystemTime>, BucketError> {
        let path = self.names.held(upstream, repository, Kind::Manifest, manifest);
        Ok(self.record(&path, Membership::parse).await?.map(|held| held.confirmed))
    }

    /// Returns a record; none if no replica of this gateway has written it.
    async fn record<T>(&self, path: &Path, parse: fn(&[u8]) -> Option<T>) -> Result<Option<T>, BucketError> {
        let object = match self.client.get_small(path, RECORD_BYTES).await {
            Ok((object, _)) => object,
            Err(BucketError::Absent | BucketError::Other(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(self.seal.open(self.names.below_prefix(path), &object).and_then(parse))
    }

    /// Returns what a manifest leads to, of which the repository has records.
    async fn reach(
        &self,
        root: &Digest,
        records: &Records,
        known: &mut Known,
    ) -> Result<Reached, BucketError> {
        let (mut reached, mut blobs, mut ahead) = (Reached::default(), HashSet::new(), vec![root.clone()]);
        while let Some(digest) = ahead.pop() {
            if !reached.manifests.insert(digest.clone()) {
                continue;
            }
            if !known.contains_key(&digest) {
                let read = self.manifest(&digest).await?;
                known.insert(digest.clone(), read);
            }
            let Some(Some(manifest)) = known.get(&digest) else { continue };
            reached.bytes += manifest.length;
            ahead.extend(manifest.listed.iter().cloned());
            for blob in manifest.blobs.iter().filter(|blob| records.blobs.contains(&blob.digest)) {
                if blobs.insert(blob.digest.clone()) {
                    reached.bytes += blob.size.unwrap_or_default();
                }
            }
        }
        Ok(reached)
    }

    async fn manifest(&self, digest: &Digest) -> Result<Option<StoredManifest>, BucketError> {
        let path = self.names.content(Kind::Manifest, digest);
        let bytes = match self.client.get_small(&path, limits::MANIFEST_BYTES as u64).await {
            Ok((bytes, _)) => bytes,
            Err(BucketError::Absent | BucketError::Other(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !digest.is_of(&bytes) {
            return Ok(None);
        }
        let listed = Links::parse(&bytes).map(|links| links.listed).unwrap_or_default();
        let blobs = Document::parse(&bytes, None).map(|document| document.blobs).unwrap_or_default();
        let listed = listed.into_iter().map(|listed| listed.digest).collect();
        Ok(Some(StoredManifest { length: bytes.len() as u64, blobs, listed }))
    }
}

/// The records that are read at a time.
const READS: usize = 8;
