//! A manifest's bytes, as far as the cache looks into them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::limits;
use crate::proto::{Digest, Family, MediaType, media_type};

/// The parts of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// Its type: its own `mediaType`, else what the upstream called it.
    pub(crate) media_type: MediaType,
    /// Configuration and layers of an image, in its order; those that lie elsewhere (`urls`) are not among them.
    pub(crate) blobs: Vec<Part>,
}

/// A blob that a manifest names. That is no proof that the repository holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its length in bytes, by the manifest's word.
    pub(crate) size: Option<u64>,
}

/// The reason why bytes are no manifest that is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotAManifest(pub(crate) &'static str);

impl Document {
    /// Reads a manifest that the upstream called `content_type`.
    ///
    /// # Errors
    /// When it does not parse as what it claims to be, or has both `layers` and `manifests` (CVE-2021-41190). So is one
    /// that two readers could take for two things: where a name that matters stands twice, or in other letters.
    pub(crate) fn parse(bytes: &[u8], content_type: Option<&MediaType>) -> Result<Self, NotAManifest> {
        let fields = Fields::parse(bytes)?;
        if fields.has("layers") && fields.has("manifests") {
            return Err(NotAManifest("it has both layers and manifests"));
        }
        let media_type = fields.media_type(content_type, || Family::of(bytes))?;
        let blobs = match Shape::of(&media_type) {
            Shape::Image => fields.image()?,
            Shape::Index => fields.index()?,
            Shape::Artifact => fields.without(&["layers", "manifests", "fsLayers"])?,
            Shape::Schema1 => fields.schema1()?,
        };
        // A subject that is malformed makes the manifest none.
        fields.read::<Descriptor>("subject")?;
        Ok(Self { media_type, blobs })
    }

    /// Reads a manifest that has been proved by its digest. One that is not of the type that the upstream says is of that which
    /// its shape says; one that is too odd to be understood has a type, and no parts.
    pub(crate) fn read(bytes: &[u8], content_type: Option<&MediaType>) -> Self {
        let document = Self::parse(bytes, content_type).or_else(|_| Self::parse(bytes, None));
        document.unwrap_or_else(|_| Self::opaque(bytes, content_type))
    }

    /// Returns a document of no parts: of its own type, else of what the upstream called it.
    fn opaque(bytes: &[u8], content_type: Option<&MediaType>) -> Self {
        #[derive(serde::Deserialize)]
        struct Own {
            #[serde(rename = "mediaType")]
            media_type: String,
        }
        let own =
            serde_json::from_slice::<Own>(bytes).ok().and_then(|own| MediaType::parse(&own.media_type).ok());
        let named = own.filter(MediaType::is_of_registries);
        let named = named.or_else(|| content_type.filter(|kind| kind.is_of_registries()).cloned());
        Self { media_type: named.unwrap_or_else(MediaType::unknown), blobs: Vec::new() }
    }

    /// Returns true if it is an image's, and no index.
    pub(crate) fn is_image(&self) -> bool {
        Shape::of(&self.media_type) == Shape::Image
    }
}

/// The shape of a type of manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Image,
    Index,
    Artifact,
    Schema1,
}

impl Shape {
    fn of(media_type: &MediaType) -> Self {
        match media_type.as_str() {
            media_type::OCI_INDEX | media_type::DOCKER_MANIFEST_LIST => Self::Index,
            media_type::OCI_ARTIFACT_MANIFEST | media_type::ORAS_ARTIFACT_MANIFEST => Self::Artifact,
            media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED => Self::Schema1,
            _ => Self::Image,
        }
    }
}

/// The fields of a manifest that matter here, each unread.
struct Fields<'a>(BTreeMap<&'static str, &'a RawValue>);

const NAMES: [&str; 9] = [
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "subject",
    "annotations",
    "schemaVersion",
];

impl<'a> Fields<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, NotAManifest> {
        if bytes.len() > limits::MANIFEST_BYTES {
            return Err(NotAManifest("it is longer than a manifest may be"));
        }
        serde_json::from_slice(bytes).map_err(|_| NotAManifest("it is no JSON object that all read alike"))
    }

    /// Returns true if the field is present, and not `null`, which Go writes for an empty list.
    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.get() != "null")
    }

    fn read<T: Deserialize<'a>>(&self, name: &'static str) -> Result<Option<T>, NotAManifest> {
        let value = self.0.get(name).filter(|value| value.get() != "null");
        let read = value.map(|value| serde_json::from_str(value.get())).transpose();
        read.map_err(|_| NotAManifest("a field of it has the wrong form"))
    }

    /// Returns its own type, else what the upstream called it, if that says anything; else OCI lets `mediaType` be left out,
    /// and its `family` tells.
    fn media_type(
        &self,
        content_type: Option<&MediaType>,
        family: impl FnOnce() -> Option<Family>,
    ) -> Result<MediaType, NotAManifest> {
        let own = self.read::<String>("mediaType")?.filter(|own| !own.is_empty());
        let own_type = own.as_deref().and_then(|own| MediaType::parse(own).ok());
        if let Some(known) = own_type.filter(MediaType::is_manifest) {
            return Ok(known);
        }
        match content_type {
            Some(known) if known.is_manifest() => Ok(known.clone()),
            Some(strange) if strange.is_of_registries() => Err(NotAManifest("it is of no type of manifest")),
            _ if own.is_some() => Err(NotAManifest("it says that it is of no type of manifest")),
            _ => {
                let name = family().and_then(Family::media_type);
                let named = name.and_then(|name| MediaType::parse(name).ok());
                named.ok_or(NotAManifest("nothing says of what type it is"))
            }
        }
    }

    fn without(&self, names: &[&str]) -> Result<Vec<Part>, NotAManifest> {
        if names.iter().any(|name| self.has(name)) {
            return Err(NotAManifest("it has what its type does not have"));
        }
        Ok(Vec::new())
    }

    fn image(&self) -> Result<Vec<Part>, NotAManifest> {
        self.without(&["manifests", "fsLayers"])?;
        let config = self.read::<Descriptor>("config")?.ok_or(NotAManifest("it has no config"))?;
        if !self.0.contains_key("layers") {
            return Err(NotAManifest("it has no layers"));
        }
        let layers = self.read::<Vec<Descriptor>>("layers")?.unwrap_or_default();
        let here = std::iter::once(config).chain(layers).filter(|blob| !blob.lies_elsewhere());
        Ok(here.map(|blob| Part { digest: blob.digest, size: blob.size }).collect())
    }

    fn index(&self) -> Result<Vec<Part>, NotAManifest> {
        self.without(&["config", "layers", "fsLayers"])?;
        if !self.0.contains_key("manifests") {
            return Err(NotAManifest("it has no manifests"));
        }
        self.read::<Vec<Descriptor>>("manifests").map(|_| Vec::new())
    }

    fn schema1(&self) -> Result<Vec<Part>, NotAManifest> {
        if !self.0.contains_key("fsLayers") {
            return Err(NotAManifest("it has no fsLayers"));
        }
        self.without(&["config", "layers", "manifests"])
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let Some(name) = NAMES.into_iter().find(|name| folded(name) == folded(&key)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if name != key || fields.insert(name, map.next_value()?).is_some() {
                return Err(de::Error::custom("two readers could read this in two ways"));
            }
        }
        Ok(Fields(fields))
    }
}

/// Compares names of fields as Go does, in which most readers are written: without case, and so that the long s and the
/// Kelvin sign are letters.
fn folded(name: &str) -> String {
    let plain = |letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(plain).collect()
}

/// An image-spec descriptor.
#[derive(serde::Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(deserialize_with = "digest")]
    digest: Digest,
    size: Option<u64>,
    urls: Option<Vec<String>>,
}

impl Descriptor {
    fn lies_elsewhere(&self) -> bool {
        let foreign = self.media_type.as_deref().is_some_and(|media_type| {
            media_type == media_type::DOCKER_FOREIGN_LAYER || media_type.contains(".nondistributable.")
        });
        foreign || self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

fn digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    Digest::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const C: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

    fn kind(name: &str) -> MediaType {
        MediaType::parse(name).unwrap()
    }

    fn part(digest: &str, size: u64) -> Part {
        Part { digest: Digest::parse(digest).unwrap(), size: Some(size) }
    }

    fn parse(text: &str, content_type: &str) -> Result<Document, NotAManifest> {
        Document::parse(text.as_bytes(), Some(&kind(content_type)))
    }

    fn image() -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{A}","size":2}},"layers":[{{"digest":"{B}","size":3}},{{"digest":"{C}","size":4}}]}}"#
        )
    }

    fn index() -> String {
        format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{A}","size":2}}]}}"#)
    }

    #[test]
    fn an_image_names_its_config_and_its_layers_in_order() {
        let document = parse(&image(), media_type::OCI_MANIFEST).unwrap();
        assert_eq!(document.blobs, [part(A, 2), part(B, 3), part(C, 4)]);
        assert!(document.is_image());
    }

    #[test]
    fn an_index_names_no_blobs() {
        let document = parse(&index(), media_type::DOCKER_MANIFEST_LIST).unwrap();
        assert!(document.blobs.is_empty() && !document.is_image());
        assert!(document.media_type == *media_type::DOCKER_MANIFEST_LIST);
    }

    #[test]
    fn blobs_that_lie_elsewhere_are_left_out() {
        let layer = |rest: &str| format!(r#"{{"digest":"{B}","size":3,{rest}}}"#);
        let layers = [
            layer(r#""urls":["https://example.com/"]"#),
            layer(&format!(r#""mediaType":"{}""#, media_type::DOCKER_FOREIGN_LAYER)),
            layer(&format!(
                r#""mediaType":"{}""#,
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            )),
            layer(r#""urls":[]"#),
        ];
        let text = format!(r#"{{"config":{{"digest":"{A}","size":2}},"layers":[{}]}}"#, layers.join(","));
        let document = parse(&text, media_type::OCI_MANIFEST).unwrap();
        assert_eq!(document.blobs, [part(A, 2), part(B, 3)]);
    }

    #[test]
    fn its_own_type_wins_over_the_upstreams_word() {
        let own = image().replacen('{', &format!(r#"{{"mediaType":"{}","#, media_type::DOCKER_MANIFEST), 1);
        for content_type in [media_type::OCI_MANIFEST, media_type::OCI_INDEX, "application/json", "text/html"]
        {
            let document = parse(&own, content_type).unwrap();
            assert!(document.media_type == *media_type::DOCKER_MANIFEST, "{content_type}");
        }
    }

    #[test]
    fn a_manifest_that_is_called_nothing_is_known_by_its_shape() {
        for content_type in ["application/json", "binary/octet-stream", "text/html", "text/plain"] {
            let document = parse(&image(), content_type).unwrap();
            assert!(document.media_type == *media_type::OCI_MANIFEST, "{content_type}");
        }
        let docker = image().replace("vnd.oci.image.config.v1+json", "vnd.docker.container.image.v1+json");
        assert!(
            parse(&docker, "application/octet-stream").unwrap().media_type == *media_type::DOCKER_MANIFEST
        );
        let index = Document::parse(index().as_bytes(), None).unwrap();
        assert!(index.media_type == *media_type::OCI_INDEX);
        assert!(Document::parse(br#"{"schemaVersion":2}"#, None).is_err());
        assert!(parse(&image(), "application/vnd.example.thing+json").is_err());
    }

    #[test]
    fn what_is_not_understood_keeps_its_type() {
        let read = |text: &str, content_type| Document::read(text.as_bytes(), Some(&kind(content_type)));
        let own = r#"{"mediaType":"application/vnd.example.thing+json","layers":[],"manifests":[]}"#;
        let cases = [
            (own, "text/html", "application/vnd.example.thing+json"),
            (own, media_type::OCI_MANIFEST, "application/vnd.example.thing+json"),
            (
                r#"{"mediaType":"text/html"}"#,
                "application/vnd.example.other",
                "application/vnd.example.other",
            ),
            ("<html>", media_type::OCI_INDEX, media_type::OCI_INDEX),
            ("<html>", "text/html", media_type::OCTET_STREAM),
            ("", "image/svg+xml", media_type::OCTET_STREAM),
        ];
        for (text, content_type, expected) in cases {
            let document = read(text, content_type);
            assert!(document.media_type == *expected, "{text} {content_type}: {document:?}");
            assert!(document.blobs.is_empty());
        }
        assert_eq!(read(&image(), "text/html").blobs.len(), 3);
    }

    #[test]
    fn documents_of_another_shape_are_refused() {
        let both = image().replacen('{', r#"{"manifests":[],"#, 1);
        let cases = [
            (both.as_str(), media_type::OCI_MANIFEST),
            (&both, media_type::OCI_INDEX),
            (&image(), media_type::OCI_INDEX),
            (&index(), media_type::OCI_MANIFEST),
            (&image(), media_type::DOCKER_SCHEMA1),
            (&index(), media_type::OCI_ARTIFACT_MANIFEST),
            ("{}", media_type::OCI_MANIFEST),
            ("[]", media_type::OCI_INDEX),
            ("null", media_type::OCI_INDEX),
            ("<html>", media_type::OCI_MANIFEST),
            ("", media_type::OCI_MANIFEST),
            (r#"{"manifests":[{}]}"#, media_type::OCI_INDEX),
            (r#"{"manifests":[{"digest":"sha256:x"}]}"#, media_type::OCI_INDEX),
            (r#"{"manifests":{}}"#, media_type::OCI_INDEX),
            (r#"{"manifests":[]}{}"#, media_type::OCI_INDEX),
            (r#"{"mediaType":"text/html","manifests":[]}"#, "application/json"),
        ];
        for (text, content_type) in cases {
            assert!(parse(text, content_type).is_err(), "{text} {content_type}");
        }
    }

    #[test]
    fn ambiguous_documents_are_refused() {
        let twice = r#"{"manifests":[],"manifests":[]}"#;
        let escaped = r#"{"manifests":[],"m\u0061nifests":[]}"#;
        let letters = r#"{"manifests":[],"Layers":[]}"#;
        let folded = "{\"manifests\":[],\"layer\u{17f}\":[]}";
        for text in [twice, escaped, letters, folded] {
            assert!(parse(text, media_type::OCI_INDEX).is_err(), "{text}");
        }
        let twice_within = image().replacen(r#""size":2"#, r#""size":2,"size":3"#, 1);
        assert!(parse(&twice_within, media_type::OCI_MANIFEST).is_err());
        let unknown_twice = r#"{"manifests":[],"x":1,"x":2}"#;
        assert!(parse(unknown_twice, media_type::OCI_INDEX).is_ok());
    }

    #[test]
    fn schema_1_is_allowed_and_names_no_blobs() {
        let text = format!(r#"{{"schemaVersion":1,"name":"a","fsLayers":[{{"blobSum":"{A}"}}]}}"#);
        let document = parse(&text, media_type::DOCKER_SCHEMA1_SIGNED).unwrap();
        assert!(document.blobs.is_empty() && !document.is_image());
    }

    #[test]
    fn a_list_of_nothing_may_be_written_as_null() {
        let text = format!(r#"{{"config":{{"digest":"{A}","size":2,"urls":null}},"layers":null}}"#);
        assert_eq!(parse(&text, media_type::OCI_MANIFEST).unwrap().blobs, [part(A, 2)]);
    }

    #[test]
    fn oversized_documents_are_refused() {
        let long = format!(r#"{{"x":"{}","manifests":[]}}"#, "x".repeat(limits::MANIFEST_BYTES));
        assert!(parse(&long, media_type::OCI_INDEX).is_err());
    }

    #[test]
    fn a_malformed_subject_makes_no_manifest() {
        for (subject, is_one) in [(format!(r#"{{"digest":"{C}","size":1}}"#), true), ("{}".to_owned(), false)]
        {
            let text = image().replacen('{', &format!(r#"{{"subject":{subject},"#), 1);
            assert_eq!(parse(&text, media_type::OCI_MANIFEST).is_ok(), is_one, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), likely in "[{}\\[\\]:,\"a-zA-Z0-9]{0,60}") {
            for bytes in [bytes.as_slice(), likely.as_bytes()] {
                let _ = Document::parse(bytes, None);
            }
        }
    }
}
