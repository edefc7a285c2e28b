//! A registry with images in it, that counts who asks for what, and answers otherwise where it is told to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::message::Headers;
use super::script::Reply;
use super::upstream::{Heard, Upstream};
use super::{noise, sha256};
use parking_lot::{Mutex, MutexGuard};

pub(crate) const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// An index of nothing: the shortest manifest there is.
pub(crate) const EMPTY_INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

/// Returns a manifest that says `mark`.
pub(crate) fn index_of(mark: &str) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"mark":"{mark}"}}}}"#)
}

/// The registry. What the scripted upstream beneath it expects comes first.
pub(crate) struct Origin {
    pub(crate) upstream: Upstream,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    /// By the target.
    blobs: HashMap<String, Arc<Vec<u8>>>,
    /// Type and bytes, by the target.
    manifests: HashMap<String, (String, Vec<u8>)>,
    /// True if answers to manifests name their digest.
    nameless: bool,
    /// Instead of all else, by status and further header field.
    ill: Option<(u16, Option<(String, String)>)>,
}

/// An image that a registry has.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

/// Where a blob of these bytes is in a repository.
pub(crate) fn blob_at(repository: &str, bytes: &[u8]) -> String {
    format!("/v2/{repository}/blobs/{}", sha256(bytes))
}

/// Where a manifest is.
pub(crate) fn manifest_at(repository: &str, reference: &str) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let upstream = Upstream::start().await;
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let known = shelf.clone();
        upstream.otherwise(move |heard| lock(&known).answer(heard));
        Self { upstream, shelf }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    /// A repository holds a blob. The answer is where.
    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let target = blob_at(repository, bytes);
        lock(&self.shelf).blobs.insert(target.clone(), Arc::new(bytes.to_vec()));
        target
    }

    /// A repository holds a manifest, and a tag of it points there. The answer is the digest.
    pub(crate) fn manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let entry = (kind.to_owned(), bytes.to_vec());
        let mut shelf = lock(&self.shelf);
        shelf.manifests.insert(manifest_at(repository, &digest), entry.clone());
        shelf.manifests.insert(manifest_at(repository, tag), entry);
        digest
    }

    /// A repository holds an image with layers of these bytes, and a tag of it points there.
    pub(crate) fn image(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Image {
        let image = Image::of(tag, layers);
        self.blob(repository, &image.config);
        layers.iter().for_each(|layer| drop(self.blob(repository, layer)));
        self.manifest(repository, tag, OCI_IMAGE, &image.manifest);
        image
    }

    /// Removes it.
    pub(crate) fn removes(&self, target: &str) {
        let mut shelf = lock(&self.shelf);
        let known = shelf.blobs.remove(target).is_some() | shelf.manifests.remove(target).is_some();
        assert!(known, "it never was: {target}");
    }

    /// From now on no answer names a manifest's digest.
    pub(crate) fn names_no_digest(&self) {
        lock(&self.shelf).nameless = true;
    }

    /// From now on every answer is this.
    pub(crate) fn falls_ill(&self, status: u16) {
        lock(&self.shelf).ill = Some((status, None));
    }

    /// Adds a header field.
    pub(crate) fn falls_ill_with(&self, status: u16, name: &str, value: &str) {
        lock(&self.shelf).ill = Some((status, Some((name.to_owned(), value.to_owned()))));
    }

    pub(crate) fn recovers(&self) {
        lock(&self.shelf).ill = None;
    }

    /// How often that was asked for.
    pub(crate) fn count(&self, method: &str, target: &str) -> usize {
        let heard = self.upstream.heard();
        heard.iter().filter(|heard| heard.method == method && heard.target == target).count()
    }

    /// Each request, in its order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.upstream.heard().iter().map(|heard| format!("{} {}", heard.method, heard.target)).collect()
    }

    /// From now on it is counted anew.
    pub(crate) fn forgets_requests(&self) {
        self.upstream.forget_heard();
    }

    /// The answer to a GET of all of a blob.
    pub(crate) fn whole(bytes: &[u8]) -> Reply {
        blob_reply(Reply::ok(bytes), bytes)
    }

    /// Its bytes from `at` up to `end`, as a part of it.
    pub(crate) fn part(bytes: &[u8], at: usize, end: usize) -> Reply {
        let range = format!("bytes {at}-{}/{}", end - 1, bytes.len());
        blob_reply(Reply::status(206).body(&bytes[at..end]), bytes).header("Content-Range", &range)
    }

    /// Returns the answer about a blob to a request with these header fields.
    pub(crate) fn serve(bytes: &[u8], headers: &Headers) -> Reply {
        let range = headers.get("range").filter(|_| {
            headers.get("if-range").is_none_or(|validator| validator == format!("\"{}\"", sha256(bytes)))
        });
        match range.map(|range| resolve(range, bytes.len())) {
            None => Self::whole(bytes),
            Some(Some((at, end))) => Self::part(bytes, at, end),
            Some(None) => Reply::status(416).header("Content-Range", &format!("bytes */{}", bytes.len())),
        }
    }
}

impl Shelf {
    fn answer(&self, heard: &Heard) -> Option<Reply> {
        if heard.method != "GET" && heard.method != "HEAD" {
            return None;
        }
        if let Some((status, field)) = &self.ill {
            let reply = Reply::status(*status);
            return Some(field.iter().fold(reply, |reply, (name, value)| reply.header(name, value)));
        }
        if let Some(bytes) = self.blobs.get(&heard.target) {
            return Some(Origin::serve(bytes, &heard.headers));
        }
        if let Some((kind, bytes)) = self.manifests.get(&heard.target) {
            let reply = Reply::ok(bytes).header("Content-Type", kind);
            let named = !self.nameless;
            return Some(if named { reply.header("Docker-Content-Digest", &sha256(bytes)) } else { reply });
        }
        Some(if heard.target == "/v2/" { Reply::ok("{}") } else { not_there(&heard.target) })
    }
}

impl Image {
    /// Creates an image with layers of these bytes, and a configuration of its own.
    pub(crate) fn of(name: &str, layers: &[Vec<u8>]) -> Self {
        let config =
            format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"name\":\"{name}\"}}").into_bytes();
        let layer = |bytes: &Vec<u8>| descriptor("application/vnd.oci.image.layer.v1.tar", bytes);
        let all: Vec<_> = layers.iter().map(layer).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": all,
        });
        let manifest = manifest.to_string().into_bytes();
        Self { digest: sha256(&manifest), manifest, config, layers: layers.to_vec() }
    }

    /// One without layers.
    pub(crate) fn empty(name: &str) -> Self {
        Self::of(name, &[])
    }

    /// An image index of these images.
    pub(crate) fn index(images: &[&Self]) -> Vec<u8> {
        let entry = |image: &&Self| descriptor(OCI_IMAGE, &image.manifest);
        let manifests: Vec<_> = images.iter().map(entry).collect();
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        index.to_string().into_bytes()
    }

    /// Creates an image with unique layers of so many bytes each.
    pub(crate) fn layers(sizes: &[usize]) -> Vec<Vec<u8>> {
        let bytes = noise(sizes.iter().sum());
        let mut at = 0;
        let mut next = |size: usize| {
            at += size;
            bytes[at - size..at].to_vec()
        };
        sizes.iter().map(|size| next(*size)).collect()
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({ "mediaType": kind, "digest": sha256(bytes), "size": bytes.len() })
}

fn blob_reply(reply: Reply, bytes: &[u8]) -> Reply {
    let reply = reply.header("Content-Type", "application/octet-stream").header("Accept-Ranges", "bytes");
    reply.header("ETag", &format!("\"{}\"", sha256(bytes)))
}

fn not_there(target: &str) -> Reply {
    let codes = [("/manifests/", "MANIFEST_UNKNOWN"), ("/blobs/", "BLOB_UNKNOWN")];
    let code = codes.iter().find(|(kind, _)| target.contains(kind)).map_or("NAME_UNKNOWN", |(_, code)| code);
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"not there"}}]}}"#);
    Reply::status(404).body(body).header("Content-Type", "application/json")
}

/// First byte and the one behind the last of `bytes=a-b`, `a-` or `-n`.
fn resolve(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (at, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (first, (last + 1).min(length)),
        (Ok(first), Err(_)) => (first, length),
        (Err(_), Ok(suffix)) => (length - suffix.min(length), length),
        (Err(_), Err(_)) => return None,
    };
    (at < end).then_some((at, end))
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock()
}
