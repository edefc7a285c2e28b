//! Manifests.

use serde_json::Value;

use crate::cache::manifests::document::Document;
use crate::proto::{MediaType, media_type};

/// The `Content-Type`s of an upstream's manifests.
const TYPES: [&str; 7] = [
    media_type::OCI_MANIFEST,
    media_type::OCI_INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_MANIFEST_LIST,
    media_type::OCI_ARTIFACT_MANIFEST,
    media_type::DOCKER_SCHEMA1_SIGNED,
    media_type::OCTET_STREAM,
];

/// Reads `data` as a manifest of each type.
pub fn manifest(data: &[u8]) {
    // The second reader takes the last of two equal names. The strict one refuses the document.
    let value: Option<Value> = serde_json::from_slice(data).ok();
    let types = TYPES.iter().map(|name| MediaType::parse(name).ok());
    for content_type in types.chain([None]) {
        let Ok(document) = Document::parse(data, content_type.as_ref()) else { continue };
        assert!(document.media_type.is_manifest());
        let Some(value) = &value else { continue };
        let has = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
        assert!(!(has("layers") && has("manifests")), "CVE-2021-41190");
        let again = Document::parse(&serde_json::to_vec(value).unwrap(), content_type.as_ref());
        assert_eq!(again.as_ref(), Ok(&document), "two readers read different documents");
        let listed = value.get("layers").and_then(Value::as_array).map_or(0, Vec::len);
        assert!(document.blobs.len() <= listed + 1);
    }
}
