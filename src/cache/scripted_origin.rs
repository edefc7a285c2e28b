//! A registry in memory, for tests of what an upstream is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;

use crate::authz::Permit;
use crate::body::Body;
use crate::budget::Client;
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::origin::{Asking, Origin, OriginRequest, OriginResponse, Provenance};
use crate::cache::store::Kind;
use crate::cache::view::View;
use crate::cache::{Cache, UpstreamCache};
use crate::config;
use crate::config::{Environment, MinFree, PullAuthorization, UpstreamCacheOptions};
use crate::meaning::{Meaning, UpstreamFailure};
use crate::proto::identity::{Identity, UserName};
use crate::proto::{Digest, Reference, RepositoryName, Tag, media_type};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// An upstream, and what it was asked.
#[derive(Default)]
pub(crate) struct Registry(Mutex<Holding>);

#[derive(Default)]
pub(crate) struct Holding {
    tags: BTreeMap<String, Digest>,
    manifests: BTreeMap<Digest, (&'static str, Bytes)>,
    /// Lies about a digest.
    pub(crate) forged: BTreeMap<Digest, Bytes>,
    /// The requests so far, such as `HEAD latest`.
    pub(crate) asked: Vec<String>,
    /// The failure of every request; of HEAD; of GET.
    pub(crate) fails: Option<Meaning>,
    pub(crate) head_fails: Option<Meaning>,
    pub(crate) get_fails: Option<Meaning>,
    /// The account that is refused.
    pub(crate) refused: Option<&'static str>,
    /// HEAD does not tell the digest.
    pub(crate) says_no_digest: bool,
    /// The number of requests, with those that wait.
    pub(crate) begun: usize,
    /// Every request waits for a permit.
    pub(crate) gate: Option<Arc<Semaphore>>,
}

impl Registry {
    pub(crate) fn with(&self) -> MutexGuard<'_, Holding> {
        self.0.lock().unwrap()
    }

    /// Takes the requests since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.with().asked)
    }

    /// Lets `tag` point to `bytes`.
    pub(crate) fn push(&self, tag: &str, bytes: &str) -> Digest {
        self.push_as(tag, media_type::OCI_MANIFEST, bytes)
    }

    pub(crate) fn push_as(&self, tag: &str, kind: &'static str, bytes: &str) -> Digest {
        let digest = Digest::sha256_of(bytes.as_bytes());
        let mut holding = self.with();
        holding.manifests.insert(digest.clone(), (kind, bytes.to_owned().into()));
        holding.tags.insert(tag.to_owned(), digest.clone());
        digest
    }

    pub(crate) fn delete(&self, digest: &Digest) {
        let mut holding = self.with();
        holding.manifests.remove(digest);
        holding.tags.retain(|_, tagged| tagged != digest);
    }
}

impl Holding {
    fn answer(&mut self, account: &str, question: &OriginRequest) -> Result<OriginResponse, UpstreamFailure> {
        let (method, reference) = match question {
            OriginRequest::ManifestHead(reference) => ("HEAD", reference.to_string()),
            OriginRequest::Manifest(reference) => ("GET", reference.to_string()),
            OriginRequest::ManifestFor(reference, _) => ("GETFOR", reference.to_string()),
            OriginRequest::Blob { digest, .. } => ("BLOB", digest.to_string()),
            OriginRequest::BlobExists(digest) => ("HELD", digest.to_string()),
            OriginRequest::BlobFirstByte(digest) => ("BLOB", digest.to_string()),
            OriginRequest::Public(_) => ("PUBLIC", String::new()),
            OriginRequest::Ping => ("PING", String::new()),
        };
        self.asked.push(format!("{method} {reference}").trim_end().to_owned());
        if self.refused == Some(account) {
            return Err(failure(Meaning::Denied));
        }
        let kind = match method {
            "HEAD" => self.head_fails,
            "GET" => self.get_fails,
            _ => None,
        };
        if let Some(kind) = kind.or(self.fails) {
            return Err(failure(kind));
        }
        match question {
            OriginRequest::ManifestHead(reference) => self.manifest(reference, true),
            OriginRequest::Manifest(reference) => self.manifest(reference, false),
            OriginRequest::ManifestFor(reference, _) => self.manifest(reference, false),
            OriginRequest::Ping | OriginRequest::BlobExists(_) => Ok(answer(HeaderMap::new(), Bytes::new())),
            _ => Err(failure(Meaning::NotFound)),
        }
    }

    fn manifest(&self, reference: &Reference, head: bool) -> Result<OriginResponse, UpstreamFailure> {
        let digest = match reference {
            Reference::Tag(tag) => self.tags.get(tag.as_str()),
            Reference::Digest(digest) => Some(digest),
        };
        let found = digest.and_then(|digest| Some((digest, self.manifests.get(digest)?)));
        let (digest, (kind, bytes)) = found.ok_or_else(|| failure(Meaning::NotFound))?;
        let bytes = self.forged.get(digest).unwrap_or(bytes);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, bytes.len().into());
        if !self.says_no_digest {
            headers.insert("docker-content-digest", digest.as_str().parse().unwrap());
        }
        Ok(answer(headers, if head { Bytes::new() } else { bytes.clone() }))
    }
}

fn answer(headers: HeaderMap, bytes: Bytes) -> OriginResponse {
    OriginResponse { status: StatusCode::OK, headers, body: Body::full(bytes), from: Provenance::Upstream }
}

pub(crate) fn failure(kind: Meaning) -> UpstreamFailure {
    UpstreamFailure::of(kind)
}

/// A registry, as an account sees it.
struct As(Arc<Registry>, &'static str);

impl Origin for As {
    fn ask(&self, question: OriginRequest) -> Asking<'_> {
        Box::pin(async move {
            let gate = {
                let mut holding = self.0.with();
                holding.begun += 1;
                holding.gate.clone()
            };
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            self.0.with().answer(self.1, &question)
        })
    }

    fn account(&self) -> Arc<str> {
        self.1.into()
    }

    fn is_shared(&self) -> bool {
        self.1 != "own"
    }
}

/// A cache in front of a registry.
pub(crate) struct Place {
    pub(crate) registry: Arc<Registry>,
    pub(crate) upstream_cache: Arc<UpstreamCache>,
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut UpstreamCacheOptions)) -> Self {
        Self::build(change, false)
    }

    /// With `[cache] prefetch`.
    pub(crate) fn prefetching() -> Self {
        Self::build(|_| {}, true)
    }

    fn build(change: impl FnOnce(&mut UpstreamCacheOptions), prefetch: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = UpstreamCacheOptions {
            tag_ttl: HOUR,
            stale_after: Duration::from_secs(3600),
            stale_if_error: HOUR,
            not_found_ttl: HOUR,
            offline: false,
            pull_authorization: PullAuthorization::Shared,
            grant_stale: HOUR,
        };
        change(&mut settings);
        let upstream_cache = upstream_cache(dir.path(), &settings, prefetch);
        Self { registry: Arc::default(), upstream_cache, directory: dir }
    }

    /// Returns the cache with other settings.
    pub(crate) fn again(self, change: impl FnOnce(&mut UpstreamCacheOptions)) -> Self {
        let mut settings = self.upstream_cache.settings.clone();
        change(&mut settings);
        let upstream = config::Upstream::at("https://a.example", &Environment::default()).unwrap();
        let upstream_cache = UpstreamCache::new(self.upstream_cache.cache.clone(), &upstream, &settings);
        Self { upstream_cache, ..self }
    }

    /// Opens the directory again, as another process would.
    pub(crate) fn restarted(self) -> Self {
        let settings = self.upstream_cache.settings.clone();
        let Self { registry, upstream_cache: old, directory } = self;
        drop(old);
        let upstream_cache = upstream_cache(directory.path(), &settings, false);
        Self { registry, upstream_cache, directory }
    }

    /// The repository `a/b`.
    pub(crate) fn repository(&self) -> View {
        self.repository_as("")
    }

    pub(crate) fn repository_as(&self, account: &'static str) -> View {
        let permit = Permit::operator(Identity::Anonymous);
        View::new(&self.upstream_cache, permit, name(), Arc::new(As(self.registry.clone(), account)))
    }

    /// Returns the repository for a user, or an anonymous client if that is empty, at an address.
    pub(crate) fn repository_from(&self, user: &str, client: Client) -> View {
        let identity = UserName::parse(user).map_or(Identity::Anonymous, Identity::User);
        let permit = Permit::operator(identity).charged_to(client);
        View::new(&self.upstream_cache, permit, name(), Arc::new(As(self.registry.clone(), "")))
    }

    /// Returns the repository for a requester that may pull, but not fetch.
    pub(crate) fn repository_of_held(&self) -> View {
        let permit = crate::cache::origin::tests::permit("alice", false);
        View::new(&self.upstream_cache, permit, name(), Arc::new(As(self.registry.clone(), "")))
    }

    /// Another upstream with the same registry behind the same cache, each time.
    pub(crate) fn elsewhere(self) -> Self {
        let url = format!("https://{}.example", self.registry.with().begun);
        let upstream = config::Upstream::at(&url, &Environment::default()).unwrap();
        let upstream_cache =
            UpstreamCache::new(self.upstream_cache.cache.clone(), &upstream, &self.upstream_cache.settings);
        Self { upstream_cache, ..self }
    }

    /// Lets the record of the manifest `digest` be as old as `age`.
    pub(crate) fn age_manifest(&self, digest: &Digest, age: Duration) {
        let held = self.upstream_cache.ledger.held(&name(), Kind::Manifest, digest).unwrap();
        let held = Membership { confirmed: crate::clock::wall() - age, ..held };
        self.upstream_cache.ledger.hold(&name(), Kind::Manifest, digest, &held);
    }

    /// Lets the record of `tag` be as old as `age`.
    pub(crate) fn age_tag(&self, tag: &str, age: Duration) {
        let tag = Tag::parse(tag).unwrap();
        let pointer = self.upstream_cache.ledger.tag(&name(), &tag).unwrap();
        let confirmed = crate::clock::wall() - age;
        self.upstream_cache.ledger.point(&name(), &tag, &TagRecord { confirmed, ..pointer });
    }
}

pub(crate) fn name() -> RepositoryName {
    RepositoryName::parse("a/b").unwrap()
}

fn upstream_cache(
    path: &std::path::Path,
    settings: &UpstreamCacheOptions,
    prefetch: bool,
) -> Arc<UpstreamCache> {
    config::private_folder::make_private(path);
    let cache = config::Cache {
        path: path.to_owned(),
        max_size: 1 << 30,
        min_free: MinFree::Bytes(0),
        max_object: u64::MAX,
        verify_after: config::limits::VERIFY_AFTER,
        prefetch,
        keep: Vec::new(),
    };
    let upstream = config::Upstream::at("https://a.example", &Environment::default()).unwrap();
    UpstreamCache::new(Cache::open(&cache, None, None), &upstream, settings)
}

/// Lets everything that can go on go on.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A manifest without layers, which differs from others by `mark`.
pub(crate) fn image(mark: &str) -> String {
    let config = Digest::sha256_of(mark.as_bytes());
    format!(r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":{}}},"layers":[]}}"#, mark.len())
}
