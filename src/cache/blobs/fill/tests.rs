//! Tests of fills, with an upstream of a few lines.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::mpsc;

use crate::authz::Permit;
use crate::body::{Body, BodyError, Stream};
use crate::cache::error::CacheError;
use crate::cache::origin::{Asking, ByteSpan, Origin, OriginRequest, OriginResponse, Provenance};
use crate::cache::view::View;
use crate::cache::{Blob, Cache, CacheStatus, UpstreamCache};
use crate::config;
use crate::config::{Environment, MinFree, PullAuthorization, UpstreamCacheOptions};
use crate::meaning::{Fault, Meaning, UpstreamFailure};
use crate::proto::identity::Identity;
use crate::proto::{ByteRange, Digest, RepositoryName};

/// An upstream of one blob, which gives it in frames that a test lets through one by one.
struct Given {
    blob: Mutex<Bytes>,
    /// Failures that it answers first.
    failures: Mutex<VecDeque<Meaning>>,
    frames: Mutex<Option<mpsc::UnboundedReceiver<usize>>>,
    asked: Mutex<Vec<Option<ByteSpan>>>,
    held: AtomicUsize,
}

struct Paced {
    rest: Bytes,
    frames: mpsc::UnboundedReceiver<usize>,
}

impl Stream for Paced {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        match self.frames.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Some(Err(BodyError::Reset))),
            Poll::Ready(Some(length)) => {
                Poll::Ready(Some(Ok(self.rest.split_to(length.min(self.rest.len())))))
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.rest.len() as u64)
    }
}

impl Given {
    fn new(blob: Bytes) -> Arc<Self> {
        Arc::new(Self {
            blob: Mutex::new(blob),
            failures: Mutex::default(),
            frames: Mutex::default(),
            asked: Mutex::default(),
            held: AtomicUsize::new(0),
        })
    }

    /// The next answer goes by these frames.
    fn paced(&self) -> mpsc::UnboundedSender<usize> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.frames.lock().unwrap() = Some(receiver);
        sender
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn answer(&self, question: OriginRequest) -> Result<OriginResponse, UpstreamFailure> {
        let OriginRequest::Blob { bytes, .. } = question else {
            self.held.fetch_add(1, Ordering::Relaxed);
            return Ok(OriginResponse {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Body::empty(),
                from: Provenance::Upstream,
            });
        };
        self.asked.lock().unwrap().push(bytes);
        if let Some(kind) = self.failures.lock().unwrap().pop_front() {
            return Err(UpstreamFailure::of(kind));
        }
        let blob = self.blob.lock().unwrap().clone();
        let total = blob.len();
        let mut headers = HeaderMap::new();
        let (status, rest) = match bytes {
            None => (StatusCode::OK, blob),
            Some(part) => {
                let first = part.first as usize;
                let end = part.last.map_or(total, |last| total.min(last as usize + 1));
                let range = format!("bytes {first}-{}/{total}", end - 1);
                headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(range).unwrap());
                (StatusCode::PARTIAL_CONTENT, blob.slice(first..end))
            }
        };
        let body = match self.frames.lock().unwrap().take() {
            Some(frames) => Body::stream(Paced { rest, frames }),
            None => Body::full(rest),
        };
        Ok(OriginResponse { status, headers, body, from: Provenance::Upstream })
    }
}

struct As(Arc<Given>, &'static str);

impl Origin for As {
    fn ask(&self, question: OriginRequest) -> Asking<'_> {
        Box::pin(async move { self.0.answer(question) })
    }

    fn account(&self) -> Arc<str> {
        self.1.into()
    }
}

struct Place {
    upstream_cache: Arc<UpstreamCache>,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upstream_cache = upstream_cache(dir.path());
        Self { upstream_cache, _dir: dir }
    }

    fn of(&self, given: &Arc<Given>, repository: &str, account: &'static str) -> View {
        let name = RepositoryName::parse(repository).unwrap();
        let permit = Permit::operator(Identity::Anonymous);
        View::new(&self.upstream_cache, permit, name, Arc::new(As(given.clone(), account)))
    }
}

fn upstream_cache(path: &std::path::Path) -> Arc<UpstreamCache> {
    config::private_folder::make_private(path);
    let settings = config::Cache {
        path: path.to_owned(),
        max_size: 1 << 30,
        min_free: MinFree::Bytes(0),
        max_object: u64::MAX,
        verify_after: config::limits::VERIFY_AFTER,
        prefetch: true,
        keep: Vec::new(),
    };
    let upstream = config::Upstream::at("https://a.example", &Environment::default()).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let cache = UpstreamCacheOptions {
        tag_ttl: hour,
        stale_after: hour,
        stale_if_error: hour,
        not_found_ttl: hour,
        offline: false,
        pull_authorization: PullAuthorization::Shared,
        grant_stale: hour,
    };
    UpstreamCache::new(Cache::open(&settings, None, None), &upstream, &cache)
}

fn blob(length: usize) -> (Bytes, Digest) {
    let bytes: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
    let digest = Digest::sha256_of(&bytes);
    (bytes.into(), digest)
}

async fn read(mut body: Body) -> Result<Vec<u8>, BodyError> {
    let mut all = Vec::new();
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        all.extend_from_slice(&data?);
    }
    Ok(all)
}

async fn whole(view: &View, digest: &Digest) -> Blob {
    view.blob(digest, None, false).await.unwrap()
}

#[tokio::test]
async fn many_readers_cost_one_download_and_the_next_costs_none() {
    let (place, (bytes, digest)) = (Place::new(), blob(3_000_000));
    let given = Given::new(bytes.clone());
    let go = given.paced();
    let view = place.of(&given, "a/b", "x");
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let (view, digest) = (view.clone(), digest.clone());
            tokio::spawn(async move { read(whole(&view, &digest).await.body).await.unwrap() })
        })
        .collect();
    for _ in 0..3 {
        go.send(1_000_000).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), bytes);
    }
    assert_eq!(given.asked(), 1);
    while place.upstream_cache.cache.fills.progress(&digest).is_some() {
        tokio::task::yield_now().await;
    }
    let again = whole(&view, &digest).await;
    assert_eq!(again.outcome, CacheStatus::Hit);
    assert_eq!(read(again.body).await.unwrap(), bytes);
    assert_eq!((given.asked(), given.held.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn the_last_bytes_wait_until_the_digest_holds() {
    for length in [1, 1000, 70_000, 3_000_000] {
        let (place, (bytes, digest)) = (Place::new(), blob(length));
        let mut wrong = bytes.to_vec();
        wrong[0] ^= 1;
        let given = Given::new(wrong.into());
        let view = place.of(&given, "a/b", "x");
        // The head of a blob that is withheld as a whole waits too.
        match view.blob(&digest, None, false).await {
            Ok(got) => assert!(read(got.body).await.is_err(), "{length}"),
            Err(refusal) => assert!(length < 16_384 && refusal.allows_stale(), "{length} {refusal:?}"),
        }
        *given.blob.lock().unwrap() = bytes.clone();
        let got = whole(&view, &digest).await;
        assert_eq!(got.outcome, CacheStatus::Miss);
        assert_eq!(read(got.body).await.unwrap(), bytes);
        assert_eq!(given.asked(), 2);
    }
}

#[tokio::test]
async fn a_fill_that_was_left_is_resumed() {
    let (place, (bytes, digest)) = (Place::new(), blob(40_000_000));
    let given = Given::new(bytes.clone());
    let go = given.paced();
    let view = place.of(&given, "a/b", "x");
    go.send(1_000_000).unwrap();
    let mut first = whole(&view, &digest).await.body;
    assert!(poll_fn(|cx| first.poll_data(cx)).await.unwrap().is_ok());
    drop(first);
    while place.upstream_cache.cache.fills.progress(&digest).is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // The sync thread syncs and unlocks the partial.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let again = whole(&view, &digest).await;
    assert!(read(again.body).await.unwrap() == bytes);
    let asked = given.asked.lock().unwrap().clone();
    assert_eq!(asked, [None, Some(ByteSpan { first: 1_000_000, last: None })]);
}

/// Leaves the first million bytes of a blob of 40 million.
async fn leave_a_million(place: &Place, view: &View, given: &Given, digest: &Digest) {
    let go = given.paced();
    go.send(1_000_000).unwrap();
    let mut first = whole(view, digest).await.body;
    assert!(poll_fn(|cx| first.poll_data(cx)).await.unwrap().is_ok());
    drop(first);
    until_over(place, digest).await;
}

async fn until_over(place: &Place, digest: &Digest) {
    while place.upstream_cache.cache.fills.progress(digest).is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_refusal_keeps_what_was_left() {
    let unavailable = Meaning::Unavailable { late: false, of: Fault::Registry };
    let refusals = [
        vec![Meaning::NotFound],
        vec![Meaning::Denied],
        vec![Meaning::RateLimited { retry_after: None }],
        vec![unavailable],
        vec![Meaning::StorageFailed],
        vec![Meaning::Unusable],
        // The rest is refused, and then the whole too.
        vec![Meaning::Rejected { status: 416 }, unavailable],
    ];
    for refusals in refusals {
        let (place, (bytes, digest)) = (Place::new(), blob(40_000_000));
        let given = Given::new(bytes);
        leave_a_million(&place, &place.of(&given, "a/b", "x"), &given, &digest).await;
        given.failures.lock().unwrap().extend(refusals.iter().copied());
        let refused = place.of(&given, "c/d", "y").blob(&digest, None, false).await;
        assert!(refused.is_err(), "{refusals:?}");
        until_over(&place, &digest).await;
        assert_eq!(place.upstream_cache.cache.store.usage().partials.bytes, 1_000_000, "{refusals:?}");
    }
}

#[tokio::test]
async fn a_stream_without_a_byte_keeps_what_was_left() {
    let (place, (bytes, digest)) = (Place::new(), blob(40_000_000));
    let given = Given::new(bytes.clone());
    let view = place.of(&given, "a/b", "x");
    leave_a_million(&place, &view, &given, &digest).await;
    drop(given.paced());
    assert!(view.blob(&digest, None, false).await.is_err());
    until_over(&place, &digest).await;
    assert!(read(whole(&view, &digest).await.body).await.unwrap() == bytes);
    let asked = given.asked.lock().unwrap().clone();
    let rest = Some(ByteSpan { first: 1_000_000, last: None });
    assert_eq!(asked, [None, rest, rest]);
}

#[tokio::test]
async fn a_denied_subscriber_does_not_fail_the_others() {
    let (place, (bytes, digest)) = (Place::new(), blob(100_000));
    let given = Given::new(bytes.clone());
    given.failures.lock().unwrap().push_back(Meaning::Denied);
    let (first, second) = (place.of(&given, "a/b", "x"), place.of(&given, "a/b", "y"));
    let (no, yes) = tokio::join!(first.blob(&digest, None, false), second.blob(&digest, None, false));
    assert!(matches!(no, Err(CacheError::Origin(UpstreamFailure { meaning: Meaning::Denied, .. }))));
    assert_eq!(read(yes.unwrap().body).await.unwrap(), bytes);
    assert_eq!(given.asked(), 2);
}

#[tokio::test]
async fn a_part_of_a_fill_waits_only_for_its_own_bytes() {
    let (place, (bytes, digest)) = (Place::new(), blob(1_000_000));
    let given = Given::new(bytes.clone());
    let go = given.paced();
    let view = place.of(&given, "a/b", "x");
    go.send(500_000).unwrap();
    let everything = whole(&view, &digest).await;
    let range = ByteRange::parse(b"bytes=100-299999");
    let part = view.blob(&digest, Some(&range), false).await.unwrap();
    assert_eq!((part.total, part.outcome), (Some(1_000_000), CacheStatus::Fill));
    assert_eq!(read(part.body).await.unwrap(), &bytes[100..300_000]);
    go.send(500_000).unwrap();
    assert_eq!(read(everything.body).await.unwrap(), bytes);
    assert_eq!(given.asked(), 1);
}

#[tokio::test]
async fn a_part_is_passed_through_while_the_blob_fills() {
    let (place, (bytes, digest)) = (Place::new(), blob(1_000_000));
    let given = Given::new(bytes.clone());
    let view = place.of(&given, "a/b", "x");
    let range = ByteRange::parse(b"bytes=100-199");
    let part = view.blob(&digest, Some(&range), false).await.unwrap();
    assert_eq!(read(part.body).await.unwrap(), &bytes[100..200]);
    while view.blob(&digest, Some(&range), false).await.unwrap().outcome != CacheStatus::Hit {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let beyond = ByteRange::parse(b"bytes=1000000-");
    let beyond = view.blob(&digest, Some(&beyond), false).await;
    assert!(matches!(beyond, Err(CacheError::Unsatisfiable(1_000_000))));
}
