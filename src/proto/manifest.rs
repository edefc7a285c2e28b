//! The shape of manifests, which tells them from all else that comes with 200: a page, an error, half a manifest.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::proto::media_type;
use crate::proto::media_type::MediaType;

/// The families of manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// An image, or an artifact in an image's form.
    Image,
    /// An image of Docker's schema 2.
    DockerImage,
    /// An index of manifests.
    Index,
    /// An index of manifests of Docker's.
    DockerIndex,
    /// Docker's schema 1.
    Schema1,
    /// The same with signatures: its digest is that of the bytes without them.
    SignedSchema1,
    /// An artifact manifest of OCI 1.1-rc or ORAS.
    Artifact,
    /// A manifest that calls itself by a type which is not known here.
    Unknown,
}

/// The names of the members that tell the families apart.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Member {
    SchemaVersion,
    MediaType,
    Manifests,
    Config,
    Layers,
    FsLayers,
    Signatures,
    Blobs,
    #[serde(other)]
    Other,
}

/// The members of a JSON object, unread. Of two with the same name the last counts, as for most readers.
#[derive(Default)]
struct Members<'a>([Option<&'a RawValue>; Member::Other as usize]);

impl<'a> Members<'a> {
    fn get(&self, member: Member) -> Option<&'a str> {
        self.0.get(member as usize).copied().flatten().map(RawValue::get)
    }

    /// Returns the first character of a member, which tells what it is; none where there is no such member.
    fn first(&self, member: Member) -> Option<u8> {
        self.get(member).and_then(|value| value.bytes().next())
    }

    /// Returns true for a list, and for `null`, which Go writes for an empty one.
    fn is_list(&self, member: Member) -> bool {
        matches!(self.first(member), Some(b'[' | b'n'))
    }

    fn read<T: Deserialize<'a>>(&self, member: Member) -> Option<T> {
        serde_json::from_str(self.get(member)?).ok()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some((member, value)) = map.next_entry::<Member, &RawValue>()? {
            if let Some(place) = members.0.get_mut(member as usize) {
                *place = Some(value);
            }
        }
        Ok(members)
    }
}

/// An object of which only the type matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
}

impl Typed {
    fn is_docker(&self) -> bool {
        self.media_type.as_deref().is_some_and(|kind| kind.starts_with("application/vnd.docker."))
    }
}

impl Family {
    /// Returns the family of the manifest `bytes`; none if they are no manifest. Whether it is a *good* one is not looked at.
    ///
    /// image-spec: an image has `config` and `layers`, an index `manifests`; schema 1 has `fsLayers`. An artifact manifest
    /// is known by its `mediaType`, or by `blobs`. Another `mediaType` of the kind, with `schemaVersion`, is a manifest that is
    /// not known yet.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let members: Members<'_> = serde_json::from_slice(bytes).ok()?;
        let own = members.read::<String>(Member::MediaType).and_then(|own| MediaType::parse(&own).ok());
        if members.is_list(Member::Manifests) {
            let docker = members
                .read::<Vec<Typed>>(Member::Manifests)
                .is_some_and(|list| list.iter().any(Typed::is_docker));
            return Some(if docker { Self::DockerIndex } else { Self::Index });
        }
        if members.first(Member::Config) == Some(b'{') && members.is_list(Member::Layers) {
            let docker = members.read::<Typed>(Member::Config).is_some_and(|config| config.is_docker());
            return Some(if docker { Self::DockerImage } else { Self::Image });
        }
        if members.first(Member::FsLayers) == Some(b'[') {
            let signed =
                members.read::<Vec<IgnoredAny>>(Member::Signatures).is_some_and(|list| !list.is_empty());
            return Some(if signed { Self::SignedSchema1 } else { Self::Schema1 });
        }
        if members.is_list(Member::Blobs) || own.as_ref().is_some_and(MediaType::is_artifact_manifest) {
            return Some(Self::Artifact);
        }
        let unknown = own.is_some_and(|own| own.is_of_registries() && !own.is_manifest());
        (unknown && members.read::<u64>(Member::SchemaVersion).is_some()).then_some(Self::Unknown)
    }

    /// Returns the media type of a manifest of this family that does not say it; none where that can't be told.
    pub(crate) fn media_type(self) -> Option<&'static str> {
        match self {
            Self::Image => Some(media_type::OCI_MANIFEST),
            Self::DockerImage => Some(media_type::DOCKER_MANIFEST),
            Self::Index => Some(media_type::OCI_INDEX),
            Self::DockerIndex => Some(media_type::DOCKER_MANIFEST_LIST),
            Self::Schema1 => Some(media_type::DOCKER_SCHEMA1),
            Self::SignedSchema1 => Some(media_type::DOCKER_SCHEMA1_SIGNED),
            Self::Artifact | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<Family> {
        Family::of(text.as_bytes())
    }

    #[test]
    fn each_family_is_known_by_its_fields() {
        let cases = [
            (r#"{"schemaVersion":2,"config":{},"layers":[]}"#, Family::Image),
            (r#"{"config":{"mediaType":"application/vnd.oci.empty.v1+json"},"layers":null}"#, Family::Image),
            (
                r#"{"config":{"mediaType":"application/vnd.docker.container.image.v1+json"},"layers":[{}]}"#,
                Family::DockerImage,
            ),
            (r#"{"schemaVersion":2,"manifests":[]}"#, Family::Index),
            (r#"{"manifests":null,"layers":[]}"#, Family::Index),
            (
                r#"{"manifests":[{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}]}"#,
                Family::DockerIndex,
            ),
            (r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}],"history":[]}"#, Family::Schema1),
            (r#"{"fsLayers":[],"signatures":[{}]}"#, Family::SignedSchema1),
            (r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}"#, Family::Artifact),
            (r#"{"mediaType":"application/vnd.cncf.oras.artifact.manifest.v1+json"}"#, Family::Artifact),
            (r#"{"blobs":[]}"#, Family::Artifact),
            (r#"{"manifests":1,"manifests":[],"manifests":[]}"#, Family::Index),
            (r#"{"schemaVersion":3,"mediaType":"application/vnd.example.new.v3+json"}"#, Family::Unknown),
            ("\u{feff}\n {\"manifests\":[]}", Family::Index),
        ];
        for (text, family) in cases {
            assert_eq!(of(text), Some(family), "{text}");
        }
    }

    #[test]
    fn pages_errors_and_halves_are_no_manifests() {
        let cases = [
            "",
            " ",
            "null",
            "{}",
            "[]",
            "<!DOCTYPE html><html></html>",
            "404 page not found",
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"","detail":{}}]}"#,
            r#"{"errors":[],"schemaVersion":2}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{}}"#,
            r#"{"schemaVersion":2,"mediaType":"text/html"}"#,
            r#"{"schemaVersion":2,"config":{},"layers":[{"mediaType":"#,
            r#"{"config":{},"layers":{}}"#,
            r#"{"manifests":"none"}"#,
            r#"{"token":"x","expires_in":300}"#,
            r#"{"manifests":[]}<html>"#,
        ];
        for text in cases {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn no_prefix_of_a_manifest_is_one() {
        let whole =
            r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:00","size":2},"layers":[]}"#;
        for end in 0..whole.len() {
            assert_eq!(of(&whole[..end]), None, "{}", &whole[..end]);
        }
        assert!(of(whole).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), likely in "[{}\\[\\]:,\"a-zA-Z0-9]{0,60}") {
            let _ = (Family::of(&bytes), of(&likely));
        }
    }
}
