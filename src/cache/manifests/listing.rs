//! What the cache knows of tags and referrers, for when the upstream can't be asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::cache::manifests::document::{Description, Document};
use crate::cache::manifests::pull::age;
use crate::cache::metadata::record::Membership;
use crate::cache::requester::{CacheError, Requester};
use crate::cache::store::Kind;
use crate::config::limits;
use crate::proto::{Digest, Reference, RepositoryName, Tag, media_type};
use crate::single_flight::SingleFlight;

/// The lists that are being made, each once for all who ask.
#[derive(Default)]
pub(crate) struct Lists {
    tags: SingleFlight<RepositoryName, Arc<[Tag]>>,
    referrers: SingleFlight<RepositoryName, Arc<[Referrer]>>,
}

impl Requester {
    /// The tags that are known and could still be pulled, in ASCII order.
    ///
    /// # Errors
    /// Where whoever asks may not read the repository.
    pub(crate) async fn known_tags(&self) -> Result<Vec<Tag>, CacheError> {
        let repository = self.clone();
        let list = || off_the_worker(move || repository.young_tags());
        let tags = self.site.lists.tags.join(self.name.clone(), list).await.0.unwrap_or_default();
        if let Some(tag) = tags.first() {
            self.entitled(&Reference::Tag(tag.clone())).await?;
        }
        Ok(tags.to_vec())
    }

    fn young_tags(&self) -> Arc<[Tag]> {
        let ledger = &self.site.ledger;
        let is_young = |tag: &Tag| {
            let pointer = ledger.tag(&self.name, tag);
            pointer.is_some_and(|at| self.may_serve_stale(age(at.confirmed), self.site.settings.tag_ttl))
        };
        ledger.tags(&self.name).into_iter().filter(is_young).collect()
    }

    /// An image index of the manifests that are known to be about `subject`, in the order of their digests (end-12a); only
    /// those of `artifact_type`, where there is one. Of a repository with very many not all are looked at.
    ///
    /// # Errors
    /// As [`Requester::known_tags`].
    pub(crate) async fn known_referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<u8>, CacheError> {
        self.entitled(&Reference::Digest(subject.clone())).await?;
        let repository = self.clone();
        let list = || off_the_worker(move || repository.referrers());
        let all = self.site.lists.referrers.join(self.name.clone(), list).await.0.unwrap_or_default();
        let is_meant = |referrer: &&Referrer| {
            let kind = referrer.artifact_type.as_deref();
            referrer.subject == *subject && (artifact_type.is_none() || kind == artifact_type)
        };
        Ok(index(all.iter().filter(is_meant).collect()))
    }

    /// Whatever they are about: who asks for one list after another has the manifests read once for those at a time.
    fn referrers(&self) -> Arc<[Referrer]> {
        let young = |digest| {
            let held = self.site.ledger.held(&self.name, Kind::Manifest, &digest)?;
            self.may_serve_stale(held.age(), limits::RECORD_BELIEVED).then_some((digest, held))
        };
        let held = self.site.ledger.manifests(&self.name).into_iter().filter_map(young);
        held.take(limits::REFERRERS_READ).filter_map(|(digest, held)| self.referrer(&digest, &held)).collect()
    }

    fn referrer(&self, digest: &Digest, held: &Membership) -> Option<Referrer> {
        let cache = &self.site.cache;
        if !self.site.ledger.served(digest) {
            return None;
        }
        let kept = cache.hot.glance(&cache.store, digest, held.media_type.as_ref())?;
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

/// Directories and files are read for a list.
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
    async fn tags_that_were_pulled_are_known() {
        let place = Place::new();
        for tag in ["v2", "v1"] {
            place.registry.push(tag, &image(tag));
            pull(&place, tag).await;
        }
        let tags = place.repository().known_tags().await.unwrap();
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["v1", "v2"]);
    }

    #[tokio::test]
    async fn what_is_too_old_to_be_pulled_is_not_listed() {
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
    async fn manifests_about_another_are_known_as_its_referrers() {
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
