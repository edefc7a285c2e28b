//! Pulls of images into a cache before a client asks for them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use crate::cache::error::CacheError;
use crate::cache::maintenance::event::{Event, Progress};
use crate::cache::maintenance::platform::Platforms;
use crate::cache::maintenance::reachable::Links;
use crate::cache::manifests::document::{Document, Part};
use crate::cache::requester::Requester;
use crate::cache::store::Kind;
use crate::cache::upstream_cache::UpstreamCache;
use crate::proto::{Accept, Digest, Reference};

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

/// Pulls one image. Returns true if all of it is here.
async fn one(goal: &WarmTarget, platforms: &Platforms, tell: Tell<'_>) -> bool {
    let WarmTarget { image, upstream_cache, requester, reference } = goal;
    let warming = Warming { image, upstream_cache, requester, platforms, tell };
    match warming.blobs(reference).await {
        Ok(blobs) => warming.fetch(blobs).await,
        Err(why) => {
            tell(Event::Failed { image: image.clone(), digest: None, why });
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

impl Warming<'_> {
    /// Pulls the manifests that are meant. Returns the blobs that they name, each once.
    async fn blobs(&self, reference: &Reference) -> Result<Vec<Part>, String> {
        let mut ahead = vec![(reference.clone(), 0)];
        let (mut top, mut blobs) = (None, Vec::new());
        while let Some((reference, depth)) = ahead.pop() {
            let accept = Accept::default();
            let manifest = self.upstream_cache.manifest(self.requester, &reference, &accept, false).await;
            let manifest = manifest.map_err(|refusal| words(&refusal))?;
            let bytes = manifest.bytes.unwrap_or_default();
            let listed = Links::parse(&bytes).map(|links| links.listed()).unwrap_or_default();
            if listed.is_empty() {
                let document = Document::parse(&bytes, Some(&manifest.media_type));
                blobs.extend(document.map_err(|error| error.to_string())?.blobs);
            } else if depth < DEPTH {
                let chosen = self.platforms.choose(&listed)?.into_iter().rev();
                ahead.extend(chosen.map(|digest| (Reference::Digest(digest), depth + 1)));
            }
            top.get_or_insert(manifest.digest);
        }
        let blobs = each_once(blobs);
        self.found(top.as_ref(), &blobs);
        Ok(blobs)
    }

    fn found(&self, digest: Option<&Digest>, blobs: &[Part]) {
        (self.tell)(Event::Image {
            image: self.image.to_owned(),
            digest: digest.map(Digest::to_string).unwrap_or_default(),
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
        let cache = self.upstream_cache.cache();
        let here = cache.store().has(Kind::Blob, &blob.digest);
        let mut fetching = pin!(self.upstream_cache.blobs.fetch_ahead(self.requester, &blob.digest));
        let fetched = loop {
            match tokio::time::timeout(PACE, &mut fetching).await {
                Ok(fetched) => break fetched.map_err(|refusal| words(&refusal)),
                Err(_) => self.coming(blob),
            }
        };
        match fetched.and_then(|()| self.is_kept(&blob.digest)) {
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
    fn is_kept(&self, digest: &Digest) -> Result<u64, String> {
        let store = self.upstream_cache.cache().store();
        let why = || store.degraded_reason().unwrap_or_else(|| "there was no room for it".to_owned());
        store.length(Kind::Blob, digest).ok_or_else(|| format!("it was not kept: {}", why()))
    }
}

/// Returns the parts without repetitions.
fn each_once(parts: Vec<Part>) -> Vec<Part> {
    let mut known = std::collections::HashSet::new();
    parts.into_iter().filter(|part| known.insert(part.digest.clone())).collect()
}

fn words(refusal: &CacheError) -> String {
    match refusal {
        CacheError::Origin(failure) => failure.to_string(),
        CacheError::NotFound => "the upstream has no such manifest".to_owned(),
        CacheError::FetchForbidden => "it is not here, and may not be fetched".to_owned(),
        CacheError::Offline => "it is not here, and the upstream is offline".to_owned(),
        CacheError::CircuitOpen => {
            "the upstream has failed so often that it is not asked for a moment".to_owned()
        }
        CacheError::RateLimited(wait) => {
            format!("the upstream wants to be left alone for {} s", wait.as_secs().max(1))
        }
        CacheError::Unsatisfiable(length) => {
            format!("it has {length} bytes, and not those that were asked for")
        }
        CacheError::Retry => "it was on its way, and did not come".to_owned(),
        CacheError::Bypass(reason) => format!("it cannot be cached ({})", reason.as_str()),
    }
}
