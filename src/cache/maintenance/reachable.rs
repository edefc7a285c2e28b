//! Content that manifests lead to, as far as they are here.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::cache::maintenance::platform::{Listed, Platform};
use crate::cache::store::{Kind, Store};
use crate::proto::Digest;

/// Content that some manifests lead to, themselves among it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) manifests: BTreeSet<Digest>,
    pub(crate) blobs: BTreeSet<Digest>,
}

/// The links of a manifest of any kind. A list that is absent is empty.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Links {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Docker, schema 1.
    #[serde(default, rename = "fsLayers")]
    fs_layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    #[serde(rename = "blobSum")]
    sum: String,
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
            reach.blobs.extend(links.blobs());
            ahead.extend(links.listed().into_iter().map(|listed| listed.digest));
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
    /// Reads them from a manifest's bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn kept(store: &Store, digest: &Digest) -> Option<Self> {
        // This does not count as a use.
        Self::parse(&store.peek(Kind::Manifest, digest)?)
    }

    /// Returns the manifests of an index.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        let one = |descriptor: &Descriptor| {
            let digest = Digest::parse(&descriptor.digest).ok()?;
            Some(Listed { digest, platform: descriptor.platform.clone() })
        };
        self.manifests.iter().filter_map(one).collect()
    }

    fn blobs(&self) -> Vec<Digest> {
        let image = self.config.iter().chain(&self.layers).map(|descriptor| &descriptor.digest);
        let old = self.fs_layers.iter().map(|layer| &layer.sum);
        image.chain(old).filter_map(|digest| Digest::parse(digest).ok()).collect()
    }
}
