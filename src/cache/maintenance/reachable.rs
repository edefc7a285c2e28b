//! Content that manifests lead to, as far as they are here.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::cache::maintenance::platform::{Declared, Listed};
use crate::cache::store::{Kind, Store};
use crate::proto::Digest;

/// Content that some manifests lead to, themselves among it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) manifests: BTreeSet<Digest>,
    pub(crate) blobs: BTreeSet<Digest>,
}

/// The links of a manifest of any kind. What is absent, or not as it should be, leads nowhere; the rest of the manifest is
/// read even so: people write indexes by hand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// The manifests of an index.
    pub(crate) listed: Vec<Listed>,
    /// The blobs of an image, its configuration first.
    pub(crate) blobs: Vec<Digest>,
    /// True for an index, also for one of nothing.
    pub(crate) is_index: bool,
}

impl Reach {
    /// Returns what `roots` lead to. Those that are not here, or are not understood, lead nowhere.
    pub(crate) fn of(store: &Store, roots: impl IntoIterator<Item = Digest>) -> Self {
        let mut reach = Self::default();
        let mut ahead: Vec<Digest> = roots.into_iter().collect();
        while let Some(digest) = ahead.pop() {
            if !reach.manifests.insert(digest.clone()) {
                continue;
            }
            let Some(links) = Links::kept(store, &digest) else { continue };
            reach.blobs.extend(links.blobs);
            ahead.extend(links.listed.into_iter().map(|listed| listed.digest));
        }
        reach
    }

    /// Returns the bytes of it that are here.
    pub(crate) fn bytes(&self, store: &Store) -> u64 {
        let sum = |kind, digests: &BTreeSet<Digest>| {
            digests.iter().filter_map(|digest| store.length(kind, digest)).sum::<u64>()
        };
        sum(Kind::Manifest, &self.manifests) + sum(Kind::Blob, &self.blobs)
    }
}

impl Links {
    /// Reads them from a manifest's bytes. `None` where those are no JSON object.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let manifest: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
        let list = |name: &str| manifest.get(name).and_then(Value::as_array).into_iter().flatten();
        let digest = |descriptor: &Value, name: &str| Digest::parse(descriptor.get(name)?.as_str()?).ok();
        // `blobs` is that of the OCI artifact manifest.
        let image = manifest.get("config").into_iter().chain(list("layers")).chain(list("blobs"));
        let blobs = image.filter_map(|blob| digest(blob, "digest"));
        // Docker, schema 1.
        let old = list("fsLayers").filter_map(|layer| digest(layer, "blobSum"));
        let listed = list("manifests")
            .filter_map(|one| Some(Listed { digest: digest(one, "digest")?, platform: Declared::of(one) }));
        Some(Self {
            listed: listed.collect(),
            blobs: blobs.chain(old).collect(),
            is_index: manifest.contains_key("manifests"),
        })
    }

    fn kept(store: &Store, digest: &Digest) -> Option<Self> {
        // This does not count as a use.
        Self::parse(&store.peek(Kind::Manifest, digest)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::maintenance::platform::Platform;

    fn digest(digit: &str) -> Digest {
        Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()
    }

    fn parse(text: &str) -> Links {
        let long = ["a", "b", "c", "d"].iter().fold(text.to_owned(), |text, digit| {
            text.replace(&format!("\"{digit}\""), &format!("\"{}\"", digest(digit)))
        });
        Links::parse(long.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_odd_in_an_index_hides_nothing_else() {
        let odd = r#"{"layers":null,"config":null,"manifests":[{"digest":"a","platform":{}},{"digest":7},null,
            {"digest":"sha256:short"},{"digest":"b","platform":{"os":"linux","architecture":"amd64","features":null}},
            {"digest":"c","platform":null},{"digest":"d","platform":"linux/amd64"}]}"#;
        let links = parse(odd);
        let listed: Vec<_> =
            links.listed.iter().map(|one| (one.digest.clone(), one.platform.clone())).collect();
        let amd64 = Declared::Platform(Platform::parse("linux/amd64").unwrap());
        assert_eq!(
            listed,
            [
                (digest("a"), Declared::Unusable),
                (digest("b"), amd64),
                (digest("c"), Declared::Nothing),
                (digest("d"), Declared::Unusable),
            ]
        );
        assert!(links.is_index && links.blobs.is_empty());
    }

    #[test]
    fn images_of_every_schema_lead_to_their_blobs() {
        let image = parse(
            r#"{"config":{"digest":"a"},"layers":[{"digest":"b"},{},{"digest":"c"}],"manifests":null}"#,
        );
        assert_eq!(image.blobs, [digest("a"), digest("b"), digest("c")]);
        assert_eq!(parse(r#"{"fsLayers":[{"blobSum":"d"}]}"#).blobs, [digest("d")]);
        assert!(Links::parse(b"[]").is_none() && Links::parse(b"<html>").is_none());
    }
}
