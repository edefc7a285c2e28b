//! The parts of a manifest that a registry must understand.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::proto::Digest;

/// The parts of a manifest or an index that a registry must understand.
///
/// A single shape reads all kinds: OCI image manifest and index, Docker schema 2 manifest and list, and the
/// withdrawn OCI artifact manifest. The bytes themselves are kept apart and never written anew.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    urls: Option<Vec<String>>,
}

/// The reason why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("it is not a JSON object of a manifest's shape: {0}")]
    Shape(String),
    #[error("schemaVersion must be 2")]
    SchemaVersion,
    #[error("the Content-Type {declared} is not the mediaType {written}")]
    MediaTypes { declared: String, written: String },
    #[error("neither a Content-Type nor a mediaType says what it is")]
    NoMediaType,
    #[error("{0} is missing, though its media type demands it")]
    Missing(&'static str),
    #[error("{0:?} is not a digest")]
    Digest(String),
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

impl Document {
    /// Reads `bytes`, sent under the media type `declared`, and gives the media type to keep with them.
    ///
    /// OCI distribution-spec, "Pushing Manifests": the Content-Type is the manifest's media type, its
    /// parameters are ignored, and a `mediaType` in the body must be the same.
    pub(super) fn read(bytes: &[u8], declared: Option<&str>) -> Result<(Self, String), DocumentError> {
        let document: Self =
            serde_json::from_slice(bytes).map_err(|error| DocumentError::Shape(error.to_string()))?;
        let media_type = document.settle(declared)?;
        document.demand_parts(&media_type)?;
        document.demand_digests()?;
        Ok((document, media_type))
    }

    /// Returns the blobs that must be in the repository before the manifest may be: not the layers that are
    /// fetched from elsewhere.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> {
        let layers = self.layers.iter().chain(&self.blobs).flatten().filter(|layer| !layer.is_foreign());
        self.config.iter().chain(layers).filter_map(Descriptor::digest)
    }

    /// Returns the children of an index, which must be in the repository before it may be.
    pub(super) fn children(&self) -> impl Iterator<Item = Digest> {
        self.manifests.iter().flatten().filter_map(Descriptor::digest)
    }

    /// Returns the manifest that this one refers to. It need not exist.
    pub(super) fn subject(&self) -> Option<Digest> {
        self.subject.as_ref().and_then(Descriptor::digest)
    }

    /// Returns `artifactType`, and where it is missing or empty (distribution-spec, "Listing Referrers") the config's
    /// media type; an index without one has none.
    pub(super) fn artifact_type(&self) -> Option<&str> {
        let own = self.artifact_type.as_deref().filter(|own| !own.is_empty());
        own.or_else(|| self.config.as_ref().map(|config| config.media_type.as_str()))
    }

    pub(super) fn annotations(&self) -> Option<&BTreeMap<String, String>> {
        self.annotations.as_ref()
    }

    fn settle(&self, declared: Option<&str>) -> Result<String, DocumentError> {
        let declared = declared.map(|value| value.split(';').next().unwrap_or_default().trim());
        let declared = declared.filter(|value| !value.is_empty());
        match (declared, self.media_type.as_deref()) {
            (Some(declared), Some(written)) if declared != written => {
                Err(DocumentError::MediaTypes { declared: declared.into(), written: written.into() })
            }
            (Some(media_type), _) | (None, Some(media_type)) if is_printable(media_type) => {
                Ok(media_type.into())
            }
            _ => Err(DocumentError::NoMediaType),
        }
    }

    fn demand_parts(&self, media_type: &str) -> Result<(), DocumentError> {
        let is_image = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type);
        let is_index = [OCI_INDEX, DOCKER_LIST].contains(&media_type);
        if (is_image || is_index) && self.schema_version != Some(2) {
            return Err(DocumentError::SchemaVersion);
        }
        if is_image && self.config.is_none() {
            return Err(DocumentError::Missing("config"));
        }
        if is_image && self.layers.is_none() {
            return Err(DocumentError::Missing("layers"));
        }
        if is_index && self.manifests.is_none() {
            return Err(DocumentError::Missing("manifests"));
        }
        Ok(())
    }

    fn demand_digests(&self) -> Result<(), DocumentError> {
        let lists = [&self.layers, &self.blobs, &self.manifests];
        let listed = lists.into_iter().flatten().flatten();
        let mut all = self.config.iter().chain(&self.subject).chain(listed);
        match all.find(|descriptor| descriptor.digest().is_none()) {
            Some(bad) => Err(DocumentError::Digest(bad.digest.clone())),
            None => Ok(()),
        }
    }
}

impl Descriptor {
    fn digest(&self) -> Option<Digest> {
        Digest::parse(&self.digest).ok()
    }

    /// Returns true for image-spec's "Non-Distributable Layers" and Docker's foreign layers: they stay where their URLs
    /// say.
    fn is_foreign(&self) -> bool {
        let has_urls = self.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        has_urls || self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }
}

/// Returns true for a media type that a header can carry: it comes back in one.
fn is_printable(media_type: &str) -> bool {
    !media_type.is_empty() && media_type.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn read(json: &str, declared: Option<&str>) -> Result<(Document, String), DocumentError> {
        Document::read(json.replace("DIGEST", DIGEST).as_bytes(), declared)
    }

    const IMAGE: &str =
        r#"{"schemaVersion":2,"config":{"mediaType":"c/c","digest":"DIGEST","size":2},"layers":[]}"#;

    #[test]
    fn parameters_of_the_content_type_are_ignored() {
        let (_, media_type) =
            read(IMAGE, Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).unwrap();
        assert_eq!(media_type, OCI_MANIFEST);
    }

    #[test]
    fn the_body_says_its_type_where_the_header_does_not() {
        let (_, media_type) = read(r#"{"mediaType":"a/b"}"#, None).unwrap();
        assert_eq!(media_type, "a/b");
        assert_eq!(read("{}", None).unwrap_err(), DocumentError::NoMediaType);
        assert_eq!(read(r#"{"mediaType":"a\n"}"#, None).unwrap_err(), DocumentError::NoMediaType);
    }

    #[test]
    fn two_media_types_that_differ_are_refused() {
        let error = read(r#"{"mediaType":"a/b"}"#, Some("a/c")).unwrap_err();
        assert!(matches!(error, DocumentError::MediaTypes { .. }));
    }

    #[test]
    fn a_known_type_must_have_its_parts() {
        assert_eq!(read("{}", Some(OCI_INDEX)).unwrap_err(), DocumentError::SchemaVersion);
        let lacks = |json, media_type| read(json, Some(media_type)).unwrap_err();
        assert_eq!(lacks(r#"{"schemaVersion":2}"#, DOCKER_LIST), DocumentError::Missing("manifests"));
        assert_eq!(lacks(r#"{"schemaVersion":2}"#, OCI_MANIFEST), DocumentError::Missing("config"));
    }

    #[test]
    fn a_descriptor_without_a_proper_digest_is_refused() {
        let error = read(r#"{"layers":[{"mediaType":"a/b","digest":"sha256:abc","size":1}]}"#, Some("a/b"));
        assert_eq!(error.unwrap_err(), DocumentError::Digest("sha256:abc".into()));
        assert!(matches!(read("[]", Some("a/b")), Err(DocumentError::Shape(_))));
    }

    #[test]
    fn a_layer_from_elsewhere_is_not_demanded() {
        let layer = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
        let json = format!(r#"{{"layers":[{{"mediaType":"{layer}","digest":"{DIGEST}","size":1}}]}}"#);
        let (document, _) = read(&json, Some("a/b")).unwrap();
        assert_eq!(document.blobs().count(), 0);
    }

    #[test]
    fn the_artifact_type_falls_back_to_the_config() {
        let (document, _) = read(IMAGE, Some(OCI_MANIFEST)).unwrap();
        assert_eq!(document.artifact_type(), Some("c/c"));
        let (document, _) = read(r#"{"schemaVersion":2,"manifests":[]}"#, Some(OCI_INDEX)).unwrap();
        assert_eq!(document.artifact_type(), None);
    }
}
