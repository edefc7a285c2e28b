//! Answers to the questions of other replicas, from the caches of this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::authz::Permit;
use crate::body::{Body, BodyError, Stream};
use crate::cache::{ByteSpan, CacheError, CacheStatus, FleetWrite, Requester, RequesterReach, UpstreamCache};
use crate::clock;
use crate::config::limits;
use crate::meaning::{Meaning, UpstreamFailure};
use crate::peers::membership::Membership;
use crate::peers::message;
use crate::peers::message::{Leave, Question, Subject};
use crate::peers::notice::Notice;
use crate::peers::orders::OrderJobs;
use crate::peers::refusal::Refusal;
use crate::proto::media_type::FULL_ACCEPT;
use crate::proto::{Accept, Digest, ErrorBody, Reference};

/// The caches of this replica, as they are in force.
pub(crate) trait Caches: Send + Sync {
    /// Returns the cache of an upstream by its name and URL.
    fn find(&self, upstream: &str) -> Option<Arc<UpstreamCache>>;

    /// Returns all of them.
    fn all(&self) -> Vec<Arc<UpstreamCache>>;
}

/// The answers to other replicas.
#[derive(Clone)]
pub(crate) struct PeerAnswers(Arc<Inner>);

struct Inner {
    caches: Arc<dyn Caches>,
    orders: OrderJobs,
    membership: Arc<Membership>,
    is_draining: AtomicBool,
    questions: AtomicU64,
    bytes: AtomicU64,
}

impl PeerAnswers {
    /// Returns the answers out of `caches` to the replicas of `membership`.
    pub(crate) fn new(caches: Arc<dyn Caches>, membership: Arc<Membership>) -> Self {
        let (questions, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (is_draining, orders) = (AtomicBool::new(false), OrderJobs::new());
        Self(Arc::new(Inner { caches, orders, membership, is_draining, questions, bytes }))
    }

    /// Answers no further question: the others ask the next in order. What is under way goes on.
    pub(crate) fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
    }

    /// Returns how many questions it has been asked, and how many bytes of content it has given.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.0.questions.load(Ordering::Relaxed), self.0.bytes.load(Ordering::Relaxed))
    }

    /// Answers a request of another replica.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let is_draining = self.0.is_draining.load(Ordering::Relaxed);
        match (&parts.method, parts.uri.path()) {
            // The streams that a draining replica sends go on.
            (&Method::GET, message::ALIVE) if is_draining => draining(StatusCode::NO_CONTENT),
            (&Method::GET, message::ALIVE) => status(StatusCode::NO_CONTENT),
            (&Method::POST, message::WRITTEN) => self.hear(body).await,
            (&Method::POST, message::DOUBT) => self.doubt(&parts),
            _ if is_draining => draining(StatusCode::SERVICE_UNAVAILABLE),
            (&Method::POST, message::ORDER) => self.obey(body).await,
            _ => match self.question(&parts) {
                Ok((cache, question)) => {
                    self.0.questions.fetch_add(1, Ordering::Relaxed);
                    let answered = Box::pin(answer_by(&cache, &question)).await;
                    answered.map_or_else(refuse, |response| self.counted(response))
                }
                Err(refused) => status(refused),
            },
        }
    }

    /// Returns a request's question and the cache that it is for.
    fn question(&self, parts: &Parts) -> Result<(Arc<UpstreamCache>, Question), StatusCode> {
        let mut question = Question::parse(parts).ok_or(StatusCode::BAD_REQUEST)?;
        let (asker, object) = (question.asker.clone(), question.object());
        if !asker.is_some_and(|asker| self.0.membership.is_before(&asker, &object)) {
            // A download that is under way here may wait for the asker.
            question.leave = Leave::Hold;
        }
        // Another configuration: this replica does not know the upstream.
        let cache = self.0.caches.find(&question.upstream).ok_or(StatusCode::GATEWAY_TIMEOUT)?;
        Ok((cache, question))
    }

    /// Does what an operator wants who has asked another replica.
    async fn obey(&self, body: Incoming) -> Response<Body> {
        let Some(order) = read(body).await else { return status(StatusCode::BAD_REQUEST) };
        let obeyed = self.0.orders.obey(order, self.0.caches.all());
        obeyed.map_or_else(status, Response::new)
    }

    /// Takes note of a write through another replica.
    async fn hear(&self, body: Incoming) -> Response<Body> {
        let Some((FleetWrite { upstream, repository, references, believed }, unheard)) =
            read::<Notice>(body).await.and_then(Notice::write)
        else {
            return status(StatusCode::BAD_REQUEST);
        };
        let object = message::repository_object(&upstream, &repository).into();
        let until = clock::now() + believed;
        for member in unheard {
            self.0.membership.unheard().note(&member, &object, until, None);
        }
        if let Some(cache) = self.0.caches.find(&upstream) {
            cache.written_elsewhere(&repository, &references);
        }
        status(StatusCode::NO_CONTENT)
    }

    /// Has content hashed again that came to another replica without its digest.
    fn doubt(&self, parts: &Parts) -> Response<Body> {
        let Some((upstream, digest)) = message::parse_doubt(parts) else {
            return status(StatusCode::BAD_REQUEST);
        };
        if let Some(cache) = self.0.caches.find(upstream) {
            tracing::warn!(upstream, %digest, "another replica was given bytes without their digest; they are hashed again");
            cache.doubt_content(&digest);
        }
        status(StatusCode::NO_CONTENT)
    }

    fn counted(&self, response: Response<Body>) -> Response<Body> {
        response.map(|body| Body::stream(Counted { body, answers: self.0.clone() }))
    }
}

/// Reads a body of JSON. `None` if it is none, or does not come in time.
async fn read<T: DeserializeOwned>(body: Incoming) -> Option<T> {
    let whole = Limited::new(body, limits::PEER_NOTICE_BYTES).collect();
    let whole = tokio::time::timeout(limits::PEER_HEADER_TIMEOUT, whole).await.ok()?.ok()?;
    serde_json::from_slice(&whole.to_bytes()).ok()
}

/// A body whose bytes are counted.
struct Counted {
    body: Body,
    answers: Arc<Inner>,
}

impl Stream for Counted {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let item = self.body.poll_data(cx);
        if let Poll::Ready(Some(Ok(data))) = &item {
            self.answers.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        item
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }
}

async fn answer_by(cache: &UpstreamCache, question: &Question) -> Result<Response<Body>, CacheError> {
    let reach = match question.leave {
        Leave::Ask => RequesterReach::Upstream,
        Leave::Join => RequesterReach::Joins,
        Leave::Hold => RequesterReach::Held,
    };
    // The edge has decided whether the client may have it, by its own rules.
    let permit = Permit::replica(question.client, question.leave == Leave::Ask);
    let requester = cache.replica_requester(&permit, &question.repository, reach);
    // Another account than the gateway's own might see what the client may not.
    let requester = match requester.origin().is_shared() {
        true => requester,
        false => requester.reaching(RequesterReach::Held),
    };
    match &question.subject {
        Subject::Blob { digest, bytes } => blob(cache, &requester, digest, *bytes).await,
        Subject::Membership(digest) => membership(cache, &requester, digest).await,
        Subject::Manifest { reference, accept, head } => {
            manifest(cache, &requester, reference, accept.as_ref(), *head).await
        }
    }
}

async fn blob(
    cache: &UpstreamCache,
    requester: &Requester,
    digest: &Digest,
    bytes: Option<ByteSpan>,
) -> Result<Response<Body>, CacheError> {
    let range = bytes.and_then(message::byte_range);
    let blob = cache.blob(requester, digest, range.as_ref(), false).await?;
    let mut response = Response::new(blob.body);
    let headers = response.headers_mut();
    if let Some(content_type) = blob.content_type {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    if let Some(length) = blob.span.map(|span| span.length()).or(blob.total) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let content_range = blob
        .span
        .zip(blob.total)
        .map(|(span, total)| HeaderValue::try_from(format!("bytes {}-{}/{total}", span.first, span.last)));
    if let Some(Ok(content_range)) = content_range {
        headers.insert(header::CONTENT_RANGE, content_range);
    }
    message::set_age(headers, cache.blob_confirmed(requester.repository(), digest), false);
    if blob.is_unproved {
        headers.insert(message::UNPROVED, HeaderValue::from_static("1"));
    }
    if blob.span.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

async fn membership(
    cache: &UpstreamCache,
    requester: &Requester,
    digest: &Digest,
) -> Result<Response<Body>, CacheError> {
    let held = cache.holds(requester, digest).await?;
    let mut response = status(StatusCode::OK);
    let headers = response.headers_mut();
    if let Some(content_type) = held.content_type() {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    if let Some(size) = held.size {
        headers.insert(message::SIZE, size.into());
    }
    message::set_age(headers, held.confirmed, false);
    Ok(response)
}

async fn manifest(
    cache: &UpstreamCache,
    requester: &Requester,
    reference: &Reference,
    accept: Option<&HeaderValue>,
    head: bool,
) -> Result<Response<Body>, CacheError> {
    let accept = accept.map_or(FULL_ACCEPT.as_bytes(), HeaderValue::as_bytes);
    let manifest = cache.manifest(requester, reference, &Accept::from_lines([accept]), head).await?;
    let mut response = status(StatusCode::OK);
    let headers = response.headers_mut();
    set(headers, header::CONTENT_TYPE, manifest.media_type.as_str());
    set(headers, DOCKER_CONTENT_DIGEST, manifest.digest.as_str());
    message::set_age(headers, manifest.confirmed, manifest.outcome == CacheStatus::Stale);
    if head {
        headers.insert(message::SIZE, manifest.length.into());
    } else {
        *response.body_mut() = Body::full(manifest.bytes.unwrap_or_default());
    }
    Ok(response)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Returns the answer for a question that the cache gives nothing for.
fn refuse(error: CacheError) -> Response<Body> {
    let told = |failure: &UpstreamFailure| {
        let Some(refusal) = Refusal::of(failure) else { return status(StatusCode::BAD_GATEWAY) };
        let mut response = status(StatusCode::FAILED_DEPENDENCY);
        *response.body_mut() = Body::full(serde_json::to_vec(&refusal).unwrap_or_default());
        response
    };
    let of = |meaning, cause: &CacheError| UpstreamFailure {
        meaning,
        cause: cause.to_string().into(),
        ..UpstreamFailure::unusable("nothing")
    };
    match &error {
        CacheError::Origin(failure) => told(failure),
        CacheError::NotFound(code) => {
            let errors = Some(Arc::new(ErrorBody::new(*code)));
            told(&UpstreamFailure { errors, ..of(Meaning::NotFound, &error) })
        }
        CacheError::RateLimited(wait) => told(&of(Meaning::RateLimited { retry_after: Some(*wait) }, &error)),
        CacheError::Unsatisfiable(total) => {
            let failure = of(Meaning::Rejected { status: 416 }, &error);
            told(&UpstreamFailure { unsatisfied: Some(*total), ..failure })
        }
        CacheError::CircuitOpen => status(StatusCode::BAD_GATEWAY),
        // RFC 9111 section 5.2.1.7.
        CacheError::FetchForbidden | CacheError::Offline | CacheError::Bypass(_) | CacheError::Retry => {
            status(StatusCode::GATEWAY_TIMEOUT)
        }
    }
}

/// Returns the answer of a replica that is about to end.
fn draining(code: StatusCode) -> Response<Body> {
    let mut response = status(code);
    response.headers_mut().insert(message::DRAINING, HeaderValue::from_static("1"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
