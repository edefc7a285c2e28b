//! The adapter that lets the cache ask upstreams.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::authz::Permit;
use crate::body::{Body, RequestBody};
use crate::cache;
use crate::cache::{Asking, OriginRequest, OriginResponse, Provenance, Resource, UpstreamCache};
use crate::meaning::{Meaning, OtherWay, Retry, UpstreamFailure};
use crate::proto::media_type::FULL_ACCEPT;
use crate::proto::{ByteRange, Digest, Operation, Reference, RepositoryName, Span};
use crate::upstream;
use crate::upstream::{Purpose, RequiredScope, Upstream, answer};

/// A repository of an upstream, asked with the permit of one request.
struct UpstreamOrigin {
    upstream: Arc<Upstream>,
    permit: Permit,
    repository: RepositoryName,
    /// Sent with every request: `User-Agent` and `Via`.
    headers: Arc<HeaderMap>,
}

/// The identity that the upstream sees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Account {
    /// The one that the permit's identity has there.
    Requester,
    /// None, whatever credentials there are.
    Anonymous,
}

/// The way to one upstream.
struct UpstreamOrigins(Arc<Upstream>);

impl cache::Origins for UpstreamOrigins {
    fn origin(
        &self,
        permit: &Permit,
        repository: &RepositoryName,
        headers: Arc<HeaderMap>,
    ) -> Arc<dyn cache::Origin> {
        let (upstream, permit, repository) = (self.0.clone(), permit.clone(), repository.clone());
        Arc::new(UpstreamOrigin { upstream, permit, repository, headers })
    }
}

/// Returns the caches, each of which asks the upstream of its name.
pub(crate) fn attach(
    caches: impl IntoIterator<Item = Arc<UpstreamCache>>,
    upstreams: &[Arc<Upstream>],
) -> Vec<Arc<UpstreamCache>> {
    let attach = |cache: Arc<UpstreamCache>| {
        let upstream = upstreams.iter().find(|upstream| upstream.settings().name == cache.name());
        match upstream {
            Some(upstream) => cache.with_origins(Arc::new(UpstreamOrigins(upstream.clone()))),
            None => cache,
        }
    };
    caches.into_iter().map(attach).collect()
}

impl UpstreamOrigin {
    async fn answer(&self, request: OriginRequest) -> Result<OriginResponse, UpstreamFailure> {
        match self.answer_once(request.clone()).await {
            Err(failure) if failure.meaning.retry() == Retry::Once => self.answer_once(request).await,
            result => result,
        }
    }

    async fn answer_once(&self, request: OriginRequest) -> Result<OriginResponse, UpstreamFailure> {
        match request {
            OriginRequest::BlobExists(digest) => self.blob_exists(digest, Account::Requester).await,
            OriginRequest::BlobFirstByte(digest) => self.first_byte(digest, Account::Requester).await,
            OriginRequest::Public(Resource::Blob(digest)) => {
                self.blob_exists(digest, Account::Anonymous).await
            }
            OriginRequest::ManifestHead(reference) => self.manifest_head(reference, Account::Requester).await,
            OriginRequest::Public(Resource::Manifest(reference)) => {
                self.manifest_head(reference, Account::Anonymous).await
            }
            OriginRequest::Blob { digest, bytes, validator } => {
                let mut headers = HeaderMap::clone(&self.headers);
                set_range(&mut headers, bytes, validator);
                let operation = self.blob(digest, false);
                self.send(Purpose::Blob, &operation, headers, Account::Requester).await.map(of)
            }
            OriginRequest::Manifest(reference) => {
                self.manifest(reference, HeaderValue::from_static(FULL_ACCEPT)).await
            }
            OriginRequest::ManifestFor(reference, accept) => self.manifest(reference, accept).await,
            OriginRequest::Ping => self.ping().await,
        }
    }

    fn blob(&self, digest: Digest, head: bool) -> Operation {
        Operation::GetBlob { repository: self.repository.clone(), digest, head }
    }

    async fn manifest_head(
        &self,
        reference: Reference,
        account: Account,
    ) -> Result<OriginResponse, UpstreamFailure> {
        let heads = self.upstream.manifest_heads();
        if heads.are_useless() {
            return Err(UpstreamFailure {
                meaning: USELESS_HEAD,
                ..UpstreamFailure::unusable("nothing by HEAD")
            });
        }
        let operation = Operation::GetManifest { repository: self.repository.clone(), reference, head: true };
        let headers = self.manifest_headers(HeaderValue::from_static(FULL_ACCEPT));
        match self.send(Purpose::Other, &operation, headers, account).await {
            Ok(answer) => answer::manifest_head(answer).map(of),
            Err(failure) => {
                if account == Account::Requester && failure.meaning.other_way() != OtherWay::Useless {
                    heads.refused(&self.upstream.target_of(&operation));
                }
                Err(failure)
            }
        }
    }

    /// Fetches a manifest whole.
    async fn manifest(
        &self,
        reference: Reference,
        accept: HeaderValue,
    ) -> Result<OriginResponse, UpstreamFailure> {
        let head = false;
        let repository = self.repository.clone();
        let operation = Operation::GetManifest { repository, reference: reference.clone(), head };
        let headers = self.manifest_headers(accept);
        let room = self.upstream.room(&self.permit).await;
        let room = room.map_err(|error| self.upstream.no_answer(Some(&self.permit), &error))?;
        let answer = self.send(Purpose::Other, &operation, headers, Account::Requester).await?;
        let whole = answer::manifest(&reference, answer, room).await?;
        if self.upstream.manifest_heads().got(&self.upstream.target_of(&operation)) {
            let upstream = &self.upstream.settings().name;
            tracing::info!(upstream, "the upstream refuses HEAD of manifests: asking by GET for an hour");
        }
        Ok(of(whole))
    }

    fn manifest_headers(&self, accept: HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::clone(&self.headers);
        headers.insert(header::ACCEPT, accept);
        headers
    }

    /// Asks whether a blob is there: by HEAD; and where that is refused, or looks wrong, by a GET of the first byte, which may
    /// be answered otherwise (ECR Public answers HEAD with 401, a URL that is signed for GET with 403). A redirect by itself
    /// says nothing: some registries redirect whatever is asked for.
    async fn blob_exists(&self, digest: Digest, account: Account) -> Result<OriginResponse, UpstreamFailure> {
        let by_head = self.blob(digest.clone(), true);
        let sent = self.send(Purpose::Existence, &by_head, HeaderMap::clone(&self.headers), account).await;
        match sent.and_then(|answer| answer::blob_head(&digest, answer)) {
            Err(failure) if failure.meaning.other_way() != OtherWay::Useless => {}
            result => return result.map(of),
        }
        self.first_byte(digest, account).await
    }

    async fn first_byte(&self, digest: Digest, account: Account) -> Result<OriginResponse, UpstreamFailure> {
        let mut headers = HeaderMap::clone(&self.headers);
        set_range(&mut headers, Some(cache::ByteSpan { first: 0, last: Some(0) }), None);
        let by_get = self.blob(digest.clone(), false);
        let answer = match self.send(Purpose::Existence, &by_get, headers, account).await {
            // The empty blob has no first byte.
            Err(UpstreamFailure { unsatisfied: Some(0), .. }) => {
                return Ok(nothing());
            }
            result => result?,
        };
        let answer = answer::blob_head(&digest, answer)?;
        Ok(OriginResponse { body: Body::empty(), ..of(answer) })
    }

    async fn send(
        &self,
        purpose: Purpose,
        operation: &Operation,
        headers: HeaderMap,
        account: Account,
    ) -> Result<upstream::Response, UpstreamFailure> {
        let mut body = RequestBody::empty();
        let request = upstream::Request {
            method: upstream::method_of(operation),
            target: self.upstream.target_of(operation),
            headers,
            body: &mut body,
            scope: RequiredScope::of(operation),
            purpose,
        };
        let sent = match account {
            Account::Requester => self.upstream.send(&self.permit, request).await,
            Account::Anonymous => self.upstream.send_anonymously(&self.permit, request).await,
        };
        let answer = sent.map_err(|error| self.upstream.no_answer(Some(&self.permit), &error))?;
        match Upstream::meaning_of(&answer) {
            // Redirects to follow have been followed, and nothing was asked on a condition.
            Meaning::Usable if answer.status.is_success() => Ok(answer),
            Meaning::Usable => {
                Err(UpstreamFailure::unusable(format_args!("{} instead of content", answer.status)))
            }
            _ => Err(self.upstream.refusal(answer).await),
        }
    }

    /// Asks at `/v2/`. Every answer of the registry is one, but those that say that it is unavailable.
    async fn ping(&self) -> Result<OriginResponse, UpstreamFailure> {
        let operation = Operation::Version;
        match self.send(Purpose::Other, &operation, HeaderMap::clone(&self.headers), Account::Requester).await
        {
            Err(failure) if !failure.meaning.is_silence() => Ok(nothing()),
            result => result.map(of),
        }
    }
}

impl cache::Origin for UpstreamOrigin {
    fn ask(&self, request: OriginRequest) -> Asking<'_> {
        Box::pin(self.answer(request))
    }

    fn account(&self) -> Arc<str> {
        self.upstream.account(&self.permit)
    }

    fn is_shared(&self) -> bool {
        self.upstream.is_everyones(&self.permit)
    }
}

/// The meaning of a HEAD that is not sent, since the registry refuses it.
const USELESS_HEAD: Meaning = Meaning::NotOffered { status: 405 };

/// Returns an answer whose status alone matters.
fn nothing() -> OriginResponse {
    let (status, from) = (StatusCode::OK, Provenance::Upstream);
    OriginResponse { status, headers: HeaderMap::new(), body: Body::empty(), from }
}

fn of(answer: upstream::Response) -> OriginResponse {
    OriginResponse {
        status: answer.status,
        headers: answer.headers,
        body: answer.body,
        from: Provenance::Upstream,
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
