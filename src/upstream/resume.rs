//! A blob's stream that goes on where it broke.
//!
//! What a digest names never changes, so the rest of a blob may come by another connection, from another host, and by
//! another signed URL than its beginning. The client sees one stream. What comes must be the very rest: the same
//! total, from the very byte, with the same strong validator where there is one; anything else ends the stream as the
//! break would have.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::body::{Body, BodyError, RequestBody, Stream};
use crate::proto::ContentRange;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::scope::RequiredScope;
use crate::upstream::exchange::{Purpose, Request, Response};
use crate::upstream::redirect::RedirectingClient;
use crate::upstream::transport::backoff::Backoff;

/// The body of one answer, and what it takes to ask for its rest.
pub(crate) struct ResumingBody {
    state: State,
    /// Where in the blob the next byte is.
    at: u64,
    /// The first byte that is not asked for any more.
    end: u64,
    /// Bytes since the stream last broke.
    run: u64,
    /// Bytes that the upstream sends again before them, since it knows no ranges.
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
    /// Bytes that come before it and are passed over.
    skipped: u64,
}

/// What it takes to ask for the rest of a blob.
struct Rest {
    client: Arc<RedirectingClient>,
    /// The identity that the beginning was asked for with, by a permit that was good for all of it.
    identity: UpstreamIdentity,
    target: String,
    headers: HeaderMap,
    access: RequiredScope,
    /// Bytes of the whole blob.
    total: u64,
    /// The strong validator of the first answer (RFC 9110 section 8.8.3).
    etag: Option<HeaderValue>,
    /// What the first answer said that the blob's digest is.
    digest: Option<HeaderValue>,
}

impl ResumingBody {
    /// Makes the stream of `response` one that goes on, if it is one that can: the answer to a GET, of known length, in
    /// no coding, and not already here as a whole.
    pub(crate) fn wrap(
        client: Arc<RedirectingClient>,
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
            identity,
            target: request.target,
            headers: request.headers,
            access: request.access,
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

    /// What was written to the client counts: a stream that makes headway may break as often as it likes. What is sent
    /// again only to be passed over must be worth it, or a blob could cost the upstream its square.
    fn broke(&mut self, error: BodyError) {
        let name = self.rest.client.upstream();
        tracing::info!(upstream = name, at = self.at, %error, "a blob's stream broke; going on where it did");
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
                        self.attempts = attempts;
                        self.skipped = resumed.skipped;
                        self.state = State::Flowing(resumed.body);
                    }
                    Err(error) => {
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

/// Why the rest did not come.
enum NoRest {
    /// It may come yet.
    NotNow,
    /// It will never come.
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
                    tracing::warn!(upstream = name, at, reason, "the rest of a blob can't be had");
                    return Err(error);
                }
            }
        }
    }

    /// Begins at the registry, whose redirect is a fresh one: the last signed URL may be over by now.
    async fn ask_once(&self, at: u64, end: u64) -> Result<Resumed, NoRest> {
        let mut nothing = RequestBody::empty();
        let mut request = Request {
            method: Method::GET,
            target: self.target.clone(),
            headers: self.headers_for(at, end),
            body: &mut nothing,
            access: self.access.clone(),
            subject: Purpose::Blob,
        };
        let response = self.client.fetch(&self.identity, &mut request).await;
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

    /// A 206 must begin at the very byte, end where it was asked to, and be of the same whole.
    fn part(&self, at: u64, end: u64, response: Response) -> Result<Resumed, NoRest> {
        let range = content_range(&response.headers);
        let exact = range == Some((at, end, self.total));
        let length = response.body.remaining().is_none_or(|length| length == end - at);
        let same = exact && length && self.is_same(&response.headers);
        let resumed = Resumed { body: response.body, skipped: 0 };
        same.then_some(resumed).ok_or(NoRest::Never("what it goes on with is not the rest"))
    }

    /// A 200 is the blob from its beginning: what is there already is passed over.
    fn whole(&self, at: u64, end: u64, response: Response) -> Result<Resumed, NoRest> {
        let same = response.body.remaining() == Some(self.total) && self.is_same(&response.headers);
        let resumed = || Resumed { body: response.body.slice(at, end - at), skipped: at };
        same.then(resumed).ok_or(NoRest::Never("what it begins anew is not the same"))
    }

    /// Where both answers have a strong validator or a digest, it must be one and the same.
    fn is_same(&self, headers: &HeaderMap) -> bool {
        let etag = headers.get(header::ETAG).filter(|etag| is_strong(etag));
        let agree = |first: &Option<HeaderValue>, now: Option<&HeaderValue>| {
            first.as_ref().zip(now).is_none_or(|(first, now)| first == now)
        };
        agree(&self.etag, etag) && agree(&self.digest, headers.get(&DIGEST)) && is_plain(headers)
    }
}

/// From which byte to which a body goes, and of how many. `None` where it can't be gone on with.
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

/// Begin, end and total of a Content-Range that says all three (RFC 9110 section 14.4).
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    match ContentRange::parse(headers.get(header::CONTENT_RANGE)?.as_bytes())? {
        ContentRange::Part { span, total: Some(total) } => Some((span.first, span.last + 1, total)),
        ContentRange::Part { total: None, .. } | ContentRange::Unsatisfied { .. } => None,
    }
}

/// Offsets count the bytes of the blob itself, not of a coding of it.
fn is_plain(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

fn is_strong(etag: &HeaderValue) -> bool {
    etag.as_bytes().starts_with(b"\"")
}

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A stream that has brought this many bytes since it last broke, in bytes, has all its attempts again.
const HEADWAY: u64 = 64 * 1024;
