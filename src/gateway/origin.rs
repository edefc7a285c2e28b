//! Upstreams, as the cache asks them.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::authz::Permit;
use crate::body::{Body, RequestBody};
use crate::cache;
use crate::cache::{Asking, FailureKind, OriginError, OriginRequest, OriginResponse};
use crate::config::limits;
use crate::gateway::forward;
use crate::gateway::forward::Meaning;
use crate::gateway::respond::Problem;
use crate::gateway::rewrite;
use crate::proto::media_type::FULL_ACCEPT;
use crate::proto::{ByteRange, ContentRange, Digest, MediaType, Operation, Reference, RepositoryName, Span};
use crate::upstream;
use crate::upstream::{Purpose, Upstream};

/// One repository of an upstream, asked by one request's permit.
pub(crate) struct UpstreamSource {
    upstream: Arc<Upstream>,
    permit: Permit,
    repository: RepositoryName,
    /// What goes with every question: who asks, and which way the request has come.
    headers: HeaderMap,
}

impl UpstreamSource {
    /// `repository` is the upstream's own name. `headers` go with every question, besides what it needs itself.
    pub(crate) fn source(
        upstream: Arc<Upstream>,
        permit: Permit,
        repository: RepositoryName,
        headers: HeaderMap,
    ) -> Arc<dyn cache::Origin> {
        Arc::new(Self { upstream, permit, repository, headers })
    }

    async fn answer(&self, question: OriginRequest) -> Result<OriginResponse, OriginError> {
        match question {
            OriginRequest::BlobExists(digest) => self.exists(self.blob(digest, true), false).await,
            OriginRequest::Public(cache::Resource::Blob(digest)) => {
                self.exists(self.blob(digest, true), true).await
            }
            OriginRequest::Public(cache::Resource::Manifest(reference)) => {
                let operation = self.manifest(reference, true);
                let headers = self.manifest_headers();
                says_manifest(self.send(Purpose::Other, operation, headers, true).await?)
            }
            OriginRequest::Blob { digest, bytes, validator } => {
                let mut headers = self.headers.clone();
                set_range(&mut headers, bytes, validator);
                self.send(Purpose::Blob, self.blob(digest, false), headers, false).await
            }
            OriginRequest::ManifestHead(reference) => {
                let operation = self.manifest(reference, true);
                let headers = self.manifest_headers();
                says_manifest(self.send(Purpose::Other, operation, headers, false).await?)
            }
            OriginRequest::Manifest(reference) => {
                let operation = self.manifest(reference, false);
                let answer = self.send(Purpose::Other, operation, self.manifest_headers(), false).await?;
                held_whole(answer).await
            }
            OriginRequest::Ping => self.ping().await,
        }
    }

    fn blob(&self, digest: Digest, head: bool) -> Operation {
        Operation::GetBlob { repository: self.repository.clone(), digest, head }
    }

    fn manifest(&self, reference: Reference, head: bool) -> Operation {
        Operation::GetManifest { repository: self.repository.clone(), reference, head }
    }

    fn manifest_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(header::ACCEPT, HeaderValue::from_static(FULL_ACCEPT));
        headers
    }

    /// HEAD; and where that is refused, which need not mean that GET would be (ECR Public answers 401, a signed URL for GET
    /// 403), a GET of the first byte. A redirect by itself says nothing: some registries send whatever they are asked for on.
    async fn exists(&self, operation: Operation, nobody: bool) -> Result<OriginResponse, OriginError> {
        let by_head = operation.clone();
        let headers = self.headers.clone();
        match self.send(Purpose::Existence, by_head, headers, nobody).await {
            Err(OriginError { kind: FailureKind::Denied | FailureKind::Other, .. }) => {}
            Err(failure) if is_by_challenge(&failure) => {}
            result => return says_blob(&operation, result?),
        }
        let Operation::GetBlob { repository, digest, .. } = &operation else {
            return Err(failed(FailureKind::Other, Problem::ReadOnly));
        };
        let by_get =
            Operation::GetBlob { repository: repository.clone(), digest: digest.clone(), head: false };
        let mut headers = self.headers.clone();
        set_range(&mut headers, Some(cache::ByteSpan { first: 0, last: Some(0) }), None);
        let answer = match self.send(Purpose::Existence, by_get, headers, nobody).await {
            // It has no first byte, and is there.
            Err(failure) if is_empty_blob(&failure) => {
                OriginResponse { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::empty() }
            }
            result => result?,
        };
        says_blob(&operation, OriginResponse { body: Body::empty(), ..answer })
    }

    async fn send(
        &self,
        subject: Purpose,
        operation: Operation,
        headers: HeaderMap,
        nobody: bool,
    ) -> Result<OriginResponse, OriginError> {
        let target = forward::target_of(&operation, &self.upstream);
        let (method, access) = (forward::method(&operation), forward::access(&operation));
        let mut body = RequestBody::empty();
        let request = upstream::Request { method, target, headers, body: &mut body, access, subject };
        let sent = match nobody {
            false => self.upstream.send(&self.permit, request).await,
            true => self.upstream.send_as_nobody(&self.permit, request).await,
        };
        let mut answer = sent.map_err(|error| self.failure(&operation, error))?;
        let status = answer.status;
        if status.is_success() {
            rewrite::to_client(&operation, &mut answer.headers);
            return Ok(OriginResponse { status, headers: answer.headers, body: answer.body });
        }
        let problem = match unsatisfiable(&answer) {
            Some(total) => Problem::Unsatisfiable(total),
            None => forward::refused(&operation, &answer),
        };
        Err(failed(kind_of(&answer), problem))
    }

    async fn ping(&self) -> Result<OriginResponse, OriginError> {
        let mut body = RequestBody::empty();
        let request = upstream::Request {
            method: Method::GET,
            target: forward::target_of(&Operation::Version, &self.upstream),
            headers: self.headers.clone(),
            body: &mut body,
            access: upstream::RequiredScope::Version,
            subject: Purpose::Other,
        };
        match self.upstream.send(&self.permit, request).await {
            Ok(answer) if answer.status.is_server_error() => {
                let problem = forward::refused(&Operation::Version, &answer);
                Err(failed(FailureKind::Unreachable, problem))
            }
            Ok(answer) => {
                Ok(OriginResponse { status: answer.status, headers: answer.headers, body: Body::empty() })
            }
            Err(error) => Err(self.failure(&Operation::Version, error)),
        }
    }

    fn failure(&self, operation: &Operation, error: upstream::Error) -> OriginError {
        let kind = self.kind(&error);
        match forward::meaning(&self.upstream, &self.permit, operation, error) {
            Meaning::Login => failed(FailureKind::Denied, Problem::Unauthorized(Vec::new())),
            Meaning::Problem(problem) => failed(kind, problem),
        }
    }

    /// What a failure means for what is kept already: whether it is the registry's own word.
    fn kind(&self, error: &upstream::Error) -> FailureKind {
        use upstream::{Error, TokenError, Unauthorized};
        // Not the gateway's credentials but somebody's own.
        let own = !self.upstream.is_everyones(&self.permit);
        match error {
            Error::Dial(_) | Error::Timeout | Error::Broken(_) => FailureKind::Unreachable,
            // It answers; but this answer leads nowhere.
            Error::EgressPolicy(_) | Error::Redirect(_) => FailureKind::Unusable,
            Error::Client(_) | Error::Loop => FailureKind::Other,
            Error::Limited { retry_after } => FailureKind::Limited { retry_after: *retry_after },
            Error::Token(error) => match &**error {
                TokenError::Limited { retry_after, .. } => FailureKind::Limited { retry_after: *retry_after },
                // It is the client's own login that was refused.
                error if error.is_refusal() && own => FailureKind::Denied,
                _ => FailureKind::Credentials,
            },
            Error::Credentials(_) => FailureKind::Credentials,
            Error::Unauthorized(Unauthorized::InvalidToken) => FailureKind::Credentials,
            Error::Unauthorized(Unauthorized::Insufficient) if own => FailureKind::Denied,
            Error::Unauthorized(Unauthorized::Insufficient) => FailureKind::NotFound,
            Error::Unauthorized(_) | Error::AnonymousUpstream | Error::UsernameIgnored => FailureKind::Denied,
        }
    }
}

impl cache::Origin for UpstreamSource {
    fn ask(&self, question: OriginRequest) -> Asking<'_> {
        Box::pin(self.answer(question))
    }

    fn account(&self) -> Arc<str> {
        self.upstream.account(&self.permit)
    }

    fn is_shared(&self) -> bool {
        self.upstream.is_everyones(&self.permit)
    }
}

fn failed(kind: FailureKind, problem: Problem) -> OriginError {
    OriginError { kind, cause: Arc::new(problem) }
}

/// Docker Hub's way of saying "no such repository" is another registry's way of not liking HEAD.
fn is_by_challenge(failure: &OriginError) -> bool {
    matches!(failure.cause.downcast_ref::<Problem>(), Some(Problem::NotThere(_)))
}

fn is_empty_blob(failure: &OriginError) -> bool {
    matches!(failure.cause.downcast_ref::<Problem>(), Some(Problem::Unsatisfiable(0)))
}

/// Whether an answer is a registry's, about the blob that was asked for: a page that somebody puts in front of everything is
/// a success too.
fn says_blob(operation: &Operation, answer: OriginResponse) -> Result<OriginResponse, OriginError> {
    let text = |name| answer.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let digest = text(forward::DOCKER_CONTENT_DIGEST).and_then(|digest| Digest::parse(digest).ok());
    let another = digest
        .zip(operation.digest())
        .is_some_and(|(said, asked)| said.algorithm() == asked.algorithm() && said != *asked);
    let status = matches!(answer.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if another || !status || is_page(&answer.headers) {
        let problem = Problem::Cached(cache::Unusable("something else than the blob that was asked for"));
        return Err(failed(FailureKind::Unusable, problem));
    }
    Ok(answer)
}

/// The same of a manifest's head, which says its type or its digest. What says neither may still do so with GET.
fn says_manifest(answer: OriginResponse) -> Result<OriginResponse, OriginError> {
    let named = answer.headers.contains_key(forward::DOCKER_CONTENT_DIGEST);
    let text = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let typed = text.and_then(|text| MediaType::parse(text).ok()).is_some_and(|kind| kind.is_manifest());
    if answer.status != StatusCode::OK || !(named || typed) || is_page(&answer.headers) {
        let problem = Problem::Cached(cache::Unusable("something else than the manifest that was asked for"));
        return Err(failed(FailureKind::Other, problem));
    }
    Ok(answer)
}

fn is_page(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.trim_start().to_ascii_lowercase().starts_with("text/html")
}

fn kind_of(answer: &upstream::Response) -> FailureKind {
    match answer.status {
        StatusCode::NOT_FOUND => FailureKind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::Denied,
        StatusCode::TOO_MANY_REQUESTS => {
            FailureKind::Limited { retry_after: upstream::retry_after(&answer.headers) }
        }
        StatusCode::LOOP_DETECTED => FailureKind::Other,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            FailureKind::Unreachable
        }
        // It may be this one thing that it stumbles over.
        status if status.is_server_error() => FailureKind::Unusable,
        _ => FailureKind::Other,
    }
}

/// The length of a blob none of whose bytes were asked for.
fn unsatisfiable(answer: &upstream::Response) -> Option<u64> {
    let range = answer.headers.get(header::CONTENT_RANGE)?;
    match ContentRange::parse(range.as_bytes())? {
        ContentRange::Unsatisfied { total } if answer.status == StatusCode::RANGE_NOT_SATISFIABLE => {
            Some(total)
        }
        _ => None,
    }
}

fn set_range(headers: &mut HeaderMap, bytes: Option<cache::ByteSpan>, validator: Option<HeaderValue>) {
    let Some(bytes) = bytes else { return };
    let range = match bytes.last.and_then(|last| Span::new(bytes.first, last)) {
        Some(span) => ByteRange::from(span).to_string(),
        None => format!("bytes={}-", bytes.first),
    };
    if let Ok(range) = HeaderValue::try_from(range) {
        headers.insert(header::RANGE, range);
    }
    if let Some(validator) = validator {
        headers.insert(header::IF_RANGE, validator);
    }
}

/// A manifest, which is never longer than [`limits::MANIFEST_BYTES`].
async fn held_whole(answer: OriginResponse) -> Result<OriginResponse, OriginError> {
    let limited = Limited::new(answer.body, limits::MANIFEST_BYTES);
    let unusable = || Problem::Cached(cache::Unusable("a manifest that is too long, or broke off"));
    let collected = limited.collect().await;
    let bytes = collected.map_err(|_| failed(FailureKind::Unusable, unusable()))?.to_bytes();
    Ok(OriginResponse { body: Body::full(bytes), ..answer })
}
