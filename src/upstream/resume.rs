//! Resumes a blob's stream where it broke.
//!
//! The content of a digest never changes, so the rest of a blob may come over another connection, from another host,
//! and by another signed URL than its beginning. The client sees one stream. The rest must have the same total, begin
//! at the exact byte, and have the same strong validator where there is one; anything else ends the stream as the break
//! would have.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::body::{Body, BodyError, RequestBody, Stream};
use crate::budget::{Client, payer};
use crate::proto::{Coding, ContentRange};
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::scope::RequiredScope;
use crate::upstream::counters::ResumeResult;
use crate::upstream::exchange::{Purpose, Request, Response};
use crate::upstream::redirect::RedirectingClient;
use crate::upstream::transport::backoff::Backoff;

/// The body of a response that asks for its rest when it breaks.
pub(crate) struct ResumingBody {
    state: State,
    /// The offset of the next byte in the blob.
    at: u64,
    /// The offset behind the last byte asked for.
    end: u64,
    /// Bytes since the stream last broke.
    run: u64,
    /// Bytes that the upstream sent again before them, because it ignores ranges.
    skipped: u64,
    attempts: Backoff,
    rest: Arc<Rest>,
}

enum State {
    Flowing(Body),
    Broken(Pin<Box<dyn Future<Output = Continued> + Send>>),
    Ended,
}

/// The rest, and the attempts that are left for it.
type Continued = Result<(Resumed, Backoff), BodyError>;

/// The rest of a blob.
struct Resumed {
    body: Body,
    /// Bytes before it that were sent again.
    skipped: u64,
}

/// A request for the rest of a blob.
struct Rest {
    client: Arc<RedirectingClient>,
    /// The client that pays for it.
    payer: Client,
    /// The identity that the beginning was asked for with, by a permit for the whole blob.
    identity: UpstreamIdentity,
    target: String,
    headers: HeaderMap,
    scope: RequiredScope,
    /// Bytes of the whole blob.
    total: u64,
    /// The strong validator of the first answer (RFC 9110 section 8.8.3).
    etag: Option<HeaderValue>,
    /// The blob's digest in the first answer.
    digest: Option<HeaderValue>,
}

impl ResumingBody {
    /// Returns `response` with a body that is resumed when it breaks, if that can be: the answer to a GET, of known
    /// length, without a coding, and not held whole.
    pub(crate) fn wrap(
        client: Arc<RedirectingClient>,
        payer: Client,
        identity: UpstreamIdentity,
        request: Request<'_>,
        response: Response,
    ) -> Response {
        let Some((at, end, total)) = extent(&request.method, &response) else { return response };
        let etag = response.headers.get(header::ETAG).filter(|etag| is_strong(etag)).cloned();
        let digest = response.headers.get(&DIGEST).cloned();
        let attempts = client.client().backoff(&Method::GET);
        let rest = Rest {
            client,
            payer,
            identity,
            target: request.target,
            headers: request.headers,
            scope: request.scope,
            total,
            etag,
            digest,
        };
        let state = State::Flowing(response.body);
        let stream = Self { state, at, end, run: 0, skipped: 0, attempts, rest: Arc::new(rest) };
        Response { body: Body::stream(stream), ..response }
    }

    fn take(&mut self, data: Bytes) -> Option<Result<Bytes, BodyError>> {
        let length = data.len() as u64;
        if length > self.end - self.at {
            self.state = State::Ended;
            return Some(Err(BodyError::Chunk));
        }
        self.at += length;
        self.run += length;
        Some(Ok(data))
    }

    /// Begins an attempt to resume. A stream that made progress has all its attempts again. Progress must exceed what
    /// the upstream sent again to be skipped, or a blob could cost the upstream its square.
    fn broke(&mut self, error: BodyError) {
        let name = self.rest.client.upstream();
        tracing::info!(upstream = name, at = self.at, %error, "a blob's stream broke; resuming it");
        if self.run >= HEADWAY.max(self.skipped) {
            self.attempts = self.rest.client.client().backoff(&Method::GET);
        }
        self.run = 0;
        let rest = self.rest.clone().ask(self.at, self.end, self.attempts.clone(), error);
        self.state = State::Broken(Box::pin(rest));
    }
}

impl Stream for ResumingBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Flowing(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(data)) => return Poll::Ready(self.take(data)),
                    None if self.at == self.end => {
                        self.state = State::Ended;
                        return Poll::Ready(None);
                    }
                    None => self.broke(BodyError::Short { missing: self.end - self.at }),
                    Some(Err(error)) => self.broke(error),
                },
                State::Broken(rest) => match ready!(rest.as_mut().poll(cx)) {
                    Ok((resumed, attempts)) => {
                        self.rest.client.client().counters().resumed(ResumeResult::Resumed);
                        self.attempts = attempts;
                        self.skipped = resumed.skipped;
                        self.state = State::Flowing(resumed.body);
                    }
                    Err(error) => {
                        self.rest.client.client().counters().resumed(ResumeResult::Failed);
                        self.state = State::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.end - self.at)
    }
}

/// The reason why the rest did not come.
enum NoRest {
    /// Another attempt may help.
    NotNow,
    /// No attempt can help.
    Never(&'static str),
}

impl Rest {
    /// Asks for the bytes from `at` to `end`, until they come or there are no attempts left; then `error` is what the
    /// client gets.
    async fn ask(self: Arc<Self>, at: u64, end: u64, mut attempts: Backoff, error: BodyError) -> Continued {
        loop {
            let Some(pause) = attempts.after_error() else { return Err(error) };
            tokio::time::sleep(pause).await;
            match self.ask_once(at, end).await {
                Ok(resumed) => return Ok((resumed, attempts)),
                Err(NoRest::NotNow) => {}
                Err(NoRest::Never(reason)) => {
                    let name = self.client.upstream();
                    tracing::warn!(upstream = name, at, reason, "a blob's stream can't be resumed");
                    return Err(error);
                }
            }
        }
    }

    /// Asks the registry, whose redirect is a fresh one: the last signed URL may have expired.
    async fn ask_once(&self, at: u64, end: u64) -> Result<Resumed, NoRest> {
        let mut nothing = RequestBody::empty();
        let mut request = Request {
            method: Method::GET,
            target: self.target.clone(),
            headers: self.headers_for(at, end),
            body: &mut nothing,
            scope: self.scope.clone(),
            purpose: Purpose::Blob,
        };
        let fetch = self.client.fetch(&self.identity, &mut request);
        let response = payer::charging(self.payer, fetch).await;
        let response = response.map_err(|_| NoRest::NotNow)?;
        match response.status {
            StatusCode::PARTIAL_CONTENT => self.part(at, end, response),
            StatusCode::OK => self.whole(at, end, response),
            StatusCode::TOO_MANY_REQUESTS => Err(NoRest::NotNow),
            status if status.is_server_error() => Err(NoRest::NotNow),
            _ => Err(NoRest::Never("it refuses to go on")),
        }
    }

    fn headers_for(&self, at: u64, end: u64) -> HeaderMap {
        let mut headers = self.headers.clone();
        for name in [header::IF_RANGE, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_MATCH] {
            headers.remove(name);
        }
        let range =
            if end == self.total { format!("bytes={at}-") } else { format!("bytes={at}-{}", end - 1) };
        if let Ok(range) = HeaderValue::try_from(range) {
            headers.insert(header::RANGE, range);
        }
        if let Some(etag) = &self.etag {
            headers.insert(header::IF_RANGE, etag.clone());
        }
        headers
    }

    /// Checks a 206: it must begin at the exact byte, end where it was asked to, and be of the same blob.
    fn part(&self, at: u64, end: u64, response: Response) -> Result<Resumed, NoRest> {
        let range = content_range(&response.headers);
        let exact = range == Some((at, end, self.total));
        let length = response.body.remaining().is_none_or(|length| length == end - at);
        let same = exact && length && self.is_same(&response.headers);
        let resumed = Resumed { body: response.body, skipped: 0 };
        same.then_some(resumed).ok_or(NoRest::Never("what it goes on with is not the rest"))
    }

    /// Skips in a 200, which is the blob from its beginning, what is there already.
    fn whole(&self, at: u64, end: u64, response: Response) -> Result<Resumed, NoRest> {
        let same = response.body.remaining() == Some(self.total) && self.is_same(&response.headers);
        let resumed = || Resumed { body: response.body.slice(at, end - at), skipped: at };
        same.then(resumed).ok_or(NoRest::Never("what it begins anew is not the same"))
    }

    /// Returns true if both answers have the same strong validator and digest, where both have one.
    fn is_same(&self, headers: &HeaderMap) -> bool {
        let etag = headers.get(header::ETAG).filter(|etag| is_strong(etag));
        let agree = |first: &Option<HeaderValue>, now: Option<&HeaderValue>| {
            first.as_ref().zip(now).is_none_or(|(first, now)| first == now)
        };
        agree(&self.etag, etag) && agree(&self.digest, headers.get(&DIGEST)) && is_plain(headers)
    }
}

/// Returns begin, end and total of a body; `None` where it can't be resumed.
fn extent(method: &Method, response: &Response) -> Option<(u64, u64, u64)> {
    if *method != Method::GET || response.body.is_held() || !is_plain(&response.headers) {
        return None;
    }
    let length = response.body.remaining()?;
    match response.status {
        StatusCode::OK => Some((0, length, length)),
        StatusCode::PARTIAL_CONTENT => {
            content_range(&response.headers).filter(|(begin, end, _)| end - begin == length)
        }
        _ => None,
    }
}

/// Returns begin, end and total of a Content-Range that has all three (RFC 9110 section 14.4).
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    match ContentRange::parse(headers.get(header::CONTENT_RANGE)?.as_bytes())? {
        ContentRange::Part { span, total: Some(total) } => Some((span.first, span.last + 1, total)),
        ContentRange::Part { total: None, .. } | ContentRange::Unsatisfied { .. } => None,
    }
}

/// Returns true for a body without a coding: offsets count the bytes of the blob itself.
fn is_plain(headers: &HeaderMap) -> bool {
    Coding::of(headers) == Coding::Plain
}

fn is_strong(etag: &HeaderValue) -> bool {
    etag.as_bytes().starts_with(b"\"")
}

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Bytes since the last break after which a stream has all its attempts again.
const HEADWAY: u64 = 64 * 1024;
