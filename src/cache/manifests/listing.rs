//! Known tags and referrers, for when the upstream cannot be asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::cache::error::CacheError;
use crate::cache::manifests::document::{Description, Document};
use crate::cache::manifests::memory::ManifestMemory;
use crate::cache::metadata::record::{Membership, age};
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::gate::Gate;
use crate::cache::pull_authorization::PullAuthorizer;
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::config::limits;
use crate::proto::{Digest, Reference, RepositoryName, Tag, media_type};
use crate::single_flight::SingleFlight;

/// The tags and referrers that are known of one upstream's repositories.
pub(crate) struct Listings {
    tag_ttl: Duration,
    gate: Arc<Gate>,
    metadata: Arc<UpstreamMetadata>,
    memory: Arc<ManifestMemory>,
    authorizer: Arc<PullAuthorizer>,
    /// The lists that are being made, each once for all who ask.
    tags: SingleFlight<RepositoryName, Arc<[Tag]>>,
    referrers: SingleFlight<RepositoryName, Arc<[Referrer]>>,
}

impl Listings {
    /// Returns the lists of what `metadata` knows, for requesters that `authorizer` lets pass. A tag is believed for `tag_ttl`.
    pub(crate) fn new(
        tag_ttl: Duration,
        gate: Arc<Gate>,
        metadata: Arc<UpstreamMetadata>,
        memory: Arc<ManifestMemory>,
        authorizer: Arc<PullAuthorizer>,
    ) -> Self {
        let (tags, referrers) = (SingleFlight::default(), SingleFlight::default());
        Self { tag_ttl, gate, metadata, memory, authorizer, tags, referrers }
    }

    /// Returns the tags that are known and could still be pulled, in ASCII order.
    ///
    /// # Errors
    /// If the requester may not read the repository.
    pub(crate) async fn known_tags(self: &Arc<Self>, requester: &Requester) -> Result<Vec<Tag>, CacheError> {
        let repository = requester.repository();
        let list = || {
            let (this, repository) = (self.clone(), repository.clone());
            off_the_worker(move || this.young_tags(&repository))
        };
        let tags = self.tags.join(repository.clone(), list).await.0.unwrap_or_default();
        if let Some(tag) = tags.first() {
            self.authorizer.authorize_manifest(requester, &Reference::Tag(tag.clone())).await?;
        }
        Ok(tags.to_vec())
    }

    fn young_tags(&self, repository: &RepositoryName) -> Arc<[Tag]> {
        let ledger = self.metadata.ledger();
        let is_young = |tag: &Tag| {
            let record = ledger.tag(repository, tag);
            record.is_some_and(|record| self.gate.may_serve_stale(age(record.confirmed), self.tag_ttl))
        };
        ledger.tags(repository).into_iter().filter(is_young).collect()
    }

    /// Returns an image index of the manifests that are known to be about `subject`, in the order of their digests (end-12a);
    /// only those of `artifact_type`, where there is one. Of a repository with very many not all are looked at.
    ///
    /// # Errors
    /// As [`known_tags`](Self::known_tags).
    pub(crate) async fn known_referrers(
        self: &Arc<Self>,
        requester: &Requester,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<u8>, CacheError> {
        self.authorizer.authorize_manifest(requester, &Reference::Digest(subject.clone())).await?;
        let repository = requester.repository();
        let list = || {
            let (this, repository) = (self.clone(), repository.clone());
            off_the_worker(move || this.all_referrers(&repository))
        };
        let all = self.referrers.join(repository.clone(), list).await.0.unwrap_or_default();
        let is_meant = |referrer: &&Referrer| {
            let kind = referrer.artifact_type.as_deref();
            referrer.subject == *subject && (artifact_type.is_none() || kind == artifact_type)
        };
        Ok(index(all.iter().filter(is_meant).collect()))
    }

    /// Returns referrers of any subject: requests for one list after another have the manifests read once at a time.
    fn all_referrers(&self, repository: &RepositoryName) -> Arc<[Referrer]> {
        let ledger = self.metadata.ledger();
        let young = |digest| {
            let held = ledger.held(repository, Kind::Manifest, &digest)?;
            self.gate.may_serve_stale(held.age(), limits::RECORD_BELIEVED).then_some((digest, held))
        };
        let held = ledger.manifests(repository).into_iter().filter_map(young);
        held.take(limits::REFERRERS_READ).filter_map(|(digest, held)| self.referrer(&digest, &held)).collect()
    }

    fn referrer(&self, digest: &Digest, held: &Membership) -> Option<Referrer> {
        if !self.metadata.ledger().served(digest) {
            return None;
        }
        let kept = self.memory.glance(digest, held.media_type.as_ref())?;
        let document = Document::parse(&kept.bytes, held.media_type.as_ref()).ok()?;
        let subject = document.subject?;
        let Description { artifact_type, annotations } = Description::parse(&kept.bytes).ok()?;
        Some(Referrer {
            subject,
            media_type: document.media_type.to_string(),
            digest: digest.to_string(),
            size: kept.bytes.len(),
            artifact_type,
            annotations,
        })
    }
}

/// Makes a list on a thread that may wait for the disk.
async fn off_the_worker<T: Send + 'static>(list: impl FnOnce() -> Arc<[T]> + Send + 'static) -> Arc<[T]>
where
    Arc<[T]>: Send + Default,
{
    tokio::task::spawn_blocking(list).await.unwrap_or_default()
}

/// A descriptor in the list (distribution-spec, "Listing Referrers").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    #[serde(skip)]
    subject: Digest,
    media_type: String,
    digest: String,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<&'a Referrer>,
}

fn index(manifests: Vec<&Referrer>) -> Vec<u8> {
    let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX, manifests };
    // Text and numbers can always be written.
    serde_json::to_vec(&index).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::scripted_origin::{HOUR, Place, SECOND, image};
    use crate::proto::Accept;

    fn referrer(subject: &Digest, kind: &str) -> String {
        let fields = format!(
            r#"{{"artifactType":"{kind}","annotations":{{"a":"b"}},"subject":{{"digest":"{subject}","size":1}},"#
        );
        image(kind).replacen('{', &fields, 1)
    }

    async fn pull(place: &Place, tag: &str) {
        let reference = Reference::parse(tag).unwrap();
        place.repository().manifest(&reference, &Accept::default(), false).await.unwrap();
    }

    async fn referrers(place: &Place, subject: &Digest, kind: Option<&str>) -> Value {
        serde_json::from_slice(&place.repository().known_referrers(subject, kind).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn pulled_tags_are_known() {
        let place = Place::new();
        for tag in ["v2", "v1"] {
            place.registry.push(tag, &image(tag));
            pull(&place, tag).await;
        }
        let tags = place.repository().known_tags().await.unwrap();
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["v1", "v2"]);
    }

    #[tokio::test]
    async fn records_too_old_to_serve_are_not_listed() {
        let place = Place::new();
        let subject = place.registry.push("v1", &image("a"));
        let digest = place.registry.push("v2", &referrer(&subject, "application/x"));
        for tag in ["v1", "v2"] {
            pull(&place, tag).await;
        }
        place.age_tag("v1", HOUR + HOUR + SECOND);
        place.age_tag("v2", HOUR + SECOND);
        let tags = place.repository().known_tags().await.unwrap();
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["v2"]);
        place.age_manifest(&digest, limits::RECORD_BELIEVED + SECOND);
        assert_eq!(referrers(&place, &subject, None).await["manifests"].as_array().unwrap().len(), 1);
        place.age_manifest(&digest, limits::RECORD_BELIEVED + HOUR + SECOND);
        assert_eq!(referrers(&place, &subject, None).await["manifests"], json!([]));
    }

    #[tokio::test]
    async fn manifests_are_listed_as_referrers() {
        let place = Place::new();
        let subject = place.registry.push("v1", &image("a"));
        let mut all = Vec::new();
        for kind in ["application/x", "application/y"] {
            let digest = place.registry.push(kind.split('/').next_back().unwrap(), &referrer(&subject, kind));
            all.push((digest, kind));
        }
        for tag in ["v1", "x", "y"] {
            pull(&place, tag).await;
        }
        all.sort();
        let descriptor = |(digest, kind): &(Digest, &str)| {
            let size = referrer(&subject, kind).len();
            json!({
                "mediaType": media_type::OCI_MANIFEST,
                "digest": digest.as_str(),
                "size": size,
                "artifactType": kind,
                "annotations": {"a": "b"},
            })
        };
        let expected: Vec<_> = all.iter().map(descriptor).collect();
        let index = referrers(&place, &subject, None).await;
        let whole = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": expected});
        assert_eq!(index, whole);
        let some = referrers(&place, &subject, Some("application/y")).await;
        assert_eq!(some["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(some["manifests"][0]["artifactType"], "application/y");
        let none = referrers(&place, &all[0].0, None).await;
        assert_eq!(none["manifests"], json!([]));
    }
}
