//! Pulls of images into a cache before a client asks for them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use serde_json::Value;

use crate::cache::maintenance::event::{Event, Progress};
use crate::cache::maintenance::platform;
use crate::cache::maintenance::platform::{Declared, Listed, Platform, Platforms};
use crate::cache::maintenance::reachable::Links;
use crate::cache::manifests::document::{Document, Part};
use crate::cache::requester::Requester;
use crate::cache::store::disk_pool::Use;
use crate::cache::store::{Kind, Store};
use crate::cache::upstream_cache::UpstreamCache;
use crate::proto::{Accept, Digest, MediaType, Reference};

/// An image that is to be pulled.
pub(crate) struct WarmTarget {
    /// The image as the operator wrote it.
    pub image: String,
    /// The cache of the upstream where it is.
    pub upstream_cache: Arc<UpstreamCache>,
    /// The requester by which its repository is asked.
    pub requester: Requester,
    /// The manifest.
    pub reference: Reference,
}

/// Blobs that come at a time: enough to fill a line over which one connection does not.
const LAYERS: usize = 4;

/// The time between two reports of a blob's progress.
const PACE: Duration = Duration::from_millis(250);

/// An index within an index is allowed; deeper ones than this are not known.
const DEPTH: usize = 3;

/// A receiver of events.
type Tell<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// A resolver of image names.
type Resolve<'a> = &'a (dyn Fn(&str) -> Result<WarmTarget, String> + Send + Sync);

/// Pulls images of these platforms, one after another, and gives `tell` the events. Returns the last event.
pub(crate) async fn warm(
    images: &[String],
    platforms: &Platforms,
    resolve: Resolve<'_>,
    tell: Tell<'_>,
) -> Event {
    let (mut whole, mut failed) = (0, 0);
    for image in images {
        let good = match resolve(image) {
            Ok(goal) => one(&goal, platforms, tell).await,
            Err(why) => {
                tell(Event::Failed { image: image.clone(), digest: None, why });
                false
            }
        };
        *(if good { &mut whole } else { &mut failed }) += 1;
    }
    Event::Done { images: whole, failed }
}

/// Pulls one image. Returns true if all of it is here that was asked for.
async fn one(goal: &WarmTarget, platforms: &Platforms, tell: Tell<'_>) -> bool {
    let WarmTarget { image, upstream_cache, requester, reference } = goal;
    let warming = Warming { image, upstream_cache, requester, platforms, tell };
    match warming.contents(reference).await {
        Ok(contents) => {
            let fetched = warming.fetch(contents.blobs).await;
            let suited = match contents.config {
                Some(config) => warming.suits(&config).await,
                None => true,
            };
            fetched && suited && contents.is_whole
        }
        Err(why) => {
            warming.failed(why);
            false
        }
    }
}

struct Warming<'a> {
    image: &'a str,
    upstream_cache: &'a UpstreamCache,
    requester: &'a Requester,
    platforms: &'a Platforms,
    tell: Tell<'a>,
}

/// The blobs and manifests of an image.
struct Contents {
    /// The blobs of all its manifests that are meant, each once.
    blobs: Vec<Part>,
    /// The configuration of an image that no index leads to.
    config: Option<Digest>,
    /// Nothing that was asked for is missing so far.
    is_whole: bool,
}

impl Warming<'_> {
    /// Pulls the manifests that are meant. What is missing of an index is told, and the rest pulled even so.
    async fn contents(&self, reference: &Reference) -> Result<Contents, String> {
        let (top, parts) = self.manifest(reference).await?;
        let mut contents = Contents { blobs: Vec::new(), config: None, is_whole: true };
        let mut indexes = Vec::new();
        let mut ahead = Vec::new();
        match parts {
            Parts::Blobs(blobs) => {
                contents.config = blobs.first().map(|config| config.digest.clone());
                contents.blobs = blobs;
            }
            Parts::Manifests(listed) => {
                ahead.extend(self.chosen(&listed, 1));
                indexes.push(listed);
            }
        }
        while let Some((digest, depth)) = ahead.pop() {
            let manifest = self.manifest(&Reference::Digest(digest.clone())).await;
            match manifest.map(|(_, parts)| parts) {
                Ok(Parts::Blobs(blobs)) => contents.blobs.extend(blobs),
                Ok(Parts::Manifests(listed)) if depth < DEPTH => {
                    ahead.extend(self.chosen(&listed, depth + 1));
                    indexes.push(listed);
                }
                Ok(Parts::Manifests(_)) => {
                    contents.is_whole = false;
                    self.failed(format!(
                        "{digest} is an index within {depth} others, which are not followed so far"
                    ));
                }
                Err(why) => {
                    contents.is_whole = false;
                    self.failed(format!("{digest}: {why}"));
                }
            }
        }
        contents.is_whole &= self.has_all_platforms(&indexes);
        contents.blobs = each_once(contents.blobs);
        match (contents.blobs.is_empty(), contents.is_whole) {
            (true, true) if !indexes.is_empty() => Err("its manifests name no blobs".to_owned()),
            // `has_all_platforms` has reported the missing parts.
            (true, false) => Ok(contents),
            _ => {
                self.found(&top, &contents.blobs);
                Ok(contents)
            }
        }
    }

    /// Pulls a manifest, and returns its digest and what it consists of.
    async fn manifest(&self, reference: &Reference) -> Result<(Digest, Parts), String> {
        let accept = Accept::default();
        let manifest = self.upstream_cache.manifest(self.requester, reference, &accept, false).await;
        let manifest = manifest.map_err(|refusal| refusal.to_string())?;
        Ok((manifest.digest, Parts::of(&manifest.bytes.unwrap_or_default(), &manifest.media_type)?))
    }

    /// Returns the manifests of an index that are meant, the last first.
    fn chosen(&self, listed: &[Listed], depth: usize) -> Vec<(Digest, usize)> {
        let chosen = self.platforms.choose(listed).chosen.into_iter().rev();
        chosen.map(|digest| (digest, depth)).collect()
    }

    /// Returns true if each platform that was asked for is in one of the indexes, which lie within each other.
    fn has_all_platforms(&self, indexes: &[Vec<Listed>]) -> bool {
        let says_something =
            |listed: &&Vec<Listed>| listed.iter().any(|one| one.platform != Declared::Nothing);
        let missing_in = |listed: &Vec<Listed>| self.platforms.choose(listed).missing;
        let telling: Vec<Vec<Platform>> = indexes.iter().filter(says_something).map(missing_in).collect();
        let mut missing = telling.first().cloned().unwrap_or_default();
        missing.retain(|platform| telling.iter().all(|missing| missing.contains(platform)));
        let all: Vec<Listed> = indexes.iter().flatten().cloned().collect();
        missing.iter().for_each(|platform| self.failed(platform::missing(platform, &all)));
        missing.is_empty()
    }

    /// Returns true if an image that no index leads to is for all platforms that the operator has named.
    async fn suits(&self, config: &Digest) -> bool {
        let config = self.on_disk(config, |store, config| store.peek(Kind::Blob, config)).await.flatten();
        let config = config.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let Some(own) = config.as_ref().and_then(Platform::of) else { return true };
        let unsuited = self.platforms.unsuited(&own);
        unsuited
            .iter()
            .for_each(|platform| self.failed(format!("it is for {own} alone, and not for {platform}")));
        unsuited.is_empty()
    }

    fn failed(&self, why: String) {
        (self.tell)(Event::Failed { image: self.image.to_owned(), digest: None, why });
    }

    fn found(&self, digest: &Digest, blobs: &[Part]) {
        (self.tell)(Event::Image {
            image: self.image.to_owned(),
            digest: digest.to_string(),
            layers: blobs.len() as u64,
            bytes: blobs.iter().filter_map(|blob| blob.size).sum(),
        });
    }

    async fn fetch(&self, blobs: Vec<Part>) -> bool {
        let fetching = stream::iter(blobs).map(|blob| async move { self.blob(&blob).await });
        fetching.buffer_unordered(LAYERS).fold(true, |all, one| async move { all && one }).await
    }

    /// Fetches a blob, also if it is here: the repository must be known to hold it. Returns true if it is here.
    async fn blob(&self, blob: &Part) -> bool {
        let has = |store: &Store, digest: &Digest| store.has(Kind::Blob, digest);
        let here = self.on_disk(&blob.digest, has).await.unwrap_or_default();
        let mut fetching = pin!(self.upstream_cache.blobs.fetch_ahead(self.requester, &blob.digest, None));
        let fetched = loop {
            match tokio::time::timeout(PACE, &mut fetching).await {
                Ok(fetched) => break fetched.map_err(|refusal| refusal.to_string()),
                Err(_) => self.coming(blob),
            }
        };
        let kept = match fetched {
            Ok(()) => self.is_kept(&blob.digest).await,
            Err(why) => Err(why),
        };
        match kept {
            Ok(size) => {
                self.layer(blob, size, if here { Progress::Here } else { Progress::Fetched });
                true
            }
            Err(why) => {
                let digest = Some(blob.digest.to_string());
                (self.tell)(Event::Failed { image: self.image.to_owned(), digest, why });
                false
            }
        }
    }

    fn coming(&self, blob: &Part) {
        let progress = self.upstream_cache.cache().fills.progress(&blob.digest);
        self.layer(blob, progress.map_or(0, |(done, _)| done), Progress::Coming);
    }

    fn layer(&self, blob: &Part, done: u64, progress: Progress) {
        let size = blob.size.unwrap_or(if progress == Progress::Coming { 0 } else { done });
        (self.tell)(Event::Layer { digest: blob.digest.to_string(), size, done, progress });
    }

    /// Returns the length of a blob that has come, unless it passed without being kept.
    async fn is_kept(&self, digest: &Digest) -> Result<u64, String> {
        let length = self.on_disk(digest, |store, digest| store.length(Kind::Blob, digest)).await.flatten();
        let store = &self.upstream_cache.cache().store;
        let why = || store.degraded_reason().unwrap_or_else(|| "there was no room for it".to_owned());
        length.ok_or_else(|| format!("it was not kept: {}", why()))
    }

    /// Returns what a look at the disk finds; none where it does not answer in time.
    async fn on_disk<T: Send + 'static>(&self, digest: &Digest, look: fn(&Store, &Digest) -> T) -> Option<T> {
        let (store, digest) = (self.upstream_cache.cache().store.clone(), digest.clone());
        let disk = store.disk().clone();
        disk.run(Use::Read, "looking for a blob", move || look(&store, &digest)).await.ok()
    }
}

/// The parts of a manifest.
enum Parts {
    Blobs(Vec<Part>),
    Manifests(Vec<Listed>),
}

impl Parts {
    fn of(bytes: &[u8], media_type: &MediaType) -> Result<Self, String> {
        let links = Links::parse(bytes).ok_or("it is no manifest")?;
        if links.is_index && links.blobs.is_empty() {
            return match links.listed.is_empty() {
                true => Err("the index names no manifest".to_owned()),
                false => Ok(Self::Manifests(links.listed)),
            };
        }
        // Of an image that is understood, the blobs that lie elsewhere are left out.
        let blobs =
            Document::parse(bytes, Some(media_type)).map(|document| document.blobs).unwrap_or_default();
        if !blobs.is_empty() {
            return Ok(Self::Blobs(blobs));
        }
        let blobs = links.blobs.into_iter().map(|digest| Part { digest, size: None });
        Ok(Self::Blobs(blobs.collect()))
    }
}

/// Returns the parts without repetitions.
fn each_once(parts: Vec<Part>) -> Vec<Part> {
    let mut known = std::collections::HashSet::new();
    parts.into_iter().filter(|part| known.insert(part.digest.clone())).collect()
}
