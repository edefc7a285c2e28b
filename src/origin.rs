//! The adapter that lets the cache ask upstreams.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::authz::Permit;
use crate::body::{Body, RequestBody};
use crate::cache;
use crate::cache::{Asking, OriginRequest, OriginResponse, Resource, UpstreamCache};
use crate::config::limits;
use crate::meaning::{Meaning, Retry, UpstreamFailure};
use crate::proto::media_type::FULL_ACCEPT;
use crate::proto::{ByteRange, Digest, MediaType, Operation, Reference, RepositoryName, Span};
use crate::upstream;
use crate::upstream::answer::{is_json_object, is_page};
use crate::upstream::{Purpose, RequiredScope, Upstream};

/// A repository of an upstream, asked with the permit of one request.
struct UpstreamOrigin {
    upstream: Arc<Upstream>,
    permit: Permit,
    repository: RepositoryName,
    /// Sent with every request: `User-Agent` and `Via`.
    headers: HeaderMap,
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
        headers: HeaderMap,
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
            OriginRequest::Public(Resource::Blob(digest)) => {
                self.blob_exists(digest, Account::Anonymous).await
            }
            OriginRequest::ManifestHead(reference) => self.manifest_head(reference, Account::Requester).await,
            OriginRequest::Public(Resource::Manifest(reference)) => {
                self.manifest_head(reference, Account::Anonymous).await
            }
            OriginRequest::Blob { digest, bytes, validator } => {
                let mut headers = self.headers.clone();
                set_range(&mut headers, bytes, validator);
                let operation = self.blob(digest, false);
                self.send(Purpose::Blob, &operation, headers, Account::Requester).await
            }
            OriginRequest::Manifest(reference) => self.manifest(reference).await,
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
        let operation = Operation::GetManifest { repository: self.repository.clone(), reference, head: true };
        let answer = self.send(Purpose::Other, &operation, self.manifest_headers(), account).await?;
        if says_manifest(&answer) {
            return Ok(answer);
        }
        // GET may say more: it decides.
        let reason = "a head that says neither a manifest's type nor its digest";
        Err(UpstreamFailure { meaning: NOT_SAID_BY_HEAD, ..UpstreamFailure::unusable(reason) })
    }

    /// Fetches a manifest whole, at most [`limits::MANIFEST_BYTES`] long.
    async fn manifest(&self, reference: Reference) -> Result<OriginResponse, UpstreamFailure> {
        let operation =
            Operation::GetManifest { repository: self.repository.clone(), reference, head: false };
        let answer =
            self.send(Purpose::Other, &operation, self.manifest_headers(), Account::Requester).await?;
        let collected = Limited::new(answer.body, limits::MANIFEST_BYTES).collect().await;
        let bytes = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(error) => {
                let reason = format!("a manifest that is too long, or broke off: {error}");
                return Err(UpstreamFailure::unusable(reason));
            }
        };
        if !is_json_object(&bytes) {
            return Err(UpstreamFailure::unusable("something else than the manifest that was asked for"));
        }
        Ok(OriginResponse { body: Body::full(bytes), ..answer })
    }

    fn manifest_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(header::ACCEPT, HeaderValue::from_static(FULL_ACCEPT));
        headers
    }

    /// Asks whether a blob is there: by HEAD; and where that is refused, which need not mean that GET would be (ECR Public
    /// answers 401, a signed URL for GET 403), by a GET of the first byte. A redirect by itself says nothing: some
    /// registries redirect whatever is asked for.
    async fn blob_exists(&self, digest: Digest, account: Account) -> Result<OriginResponse, UpstreamFailure> {
        let by_head = self.blob(digest.clone(), true);
        match self.send(Purpose::Existence, &by_head, self.headers.clone(), account).await {
            Err(failure) if is_doubtful(&failure) => {}
            result => return says_blob(&digest, result?),
        }
        let mut headers = self.headers.clone();
        set_range(&mut headers, Some(cache::ByteSpan { first: 0, last: Some(0) }), None);
        let by_get = self.blob(digest.clone(), false);
        let answer = match self.send(Purpose::Existence, &by_get, headers, account).await {
            // The empty blob has no first byte.
            Err(UpstreamFailure { unsatisfied: Some(0), .. }) => {
                OriginResponse { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::empty() }
            }
            result => result?,
        };
        says_blob(&digest, OriginResponse { body: Body::empty(), ..answer })
    }

    async fn send(
        &self,
        purpose: Purpose,
        operation: &Operation,
        headers: HeaderMap,
        account: Account,
    ) -> Result<OriginResponse, UpstreamFailure> {
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
        if !answer.status.is_success() {
            return Err(Upstream::refusal(&answer));
        }
        Ok(OriginResponse { status: answer.status, headers: answer.headers, body: answer.body })
    }

    /// Asks at `/v2/`. Every answer of the registry is one, but those that say that it is unavailable.
    async fn ping(&self) -> Result<OriginResponse, UpstreamFailure> {
        let operation = Operation::Version;
        match self.send(Purpose::Other, &operation, self.headers.clone(), Account::Requester).await {
            Err(failure) if !failure.meaning.is_silence() => {
                Ok(OriginResponse { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::empty() })
            }
            result => result,
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

/// The meaning of a HEAD whose answer says too little: GET may be answered better.
const NOT_SAID_BY_HEAD: Meaning = Meaning::NotOffered { status: 405 };

/// Returns true if the no to a HEAD of a blob need not be one to GET. Docker Hub's 401 for "no such repository" is another
/// registry's way of not liking HEAD.
fn is_doubtful(failure: &UpstreamFailure) -> bool {
    match failure.meaning {
        Meaning::Denied
        | Meaning::LoginRefused
        | Meaning::CredentialsRefused
        | Meaning::Hidden
        | Meaning::NotOffered { .. }
        | Meaning::Rejected { .. } => true,
        // A plain 404 is a no; that by 401 need not be.
        Meaning::NotFound => failure.message.is_some(),
        Meaning::StorageFailed
        | Meaning::Usable
        | Meaning::RateLimited { .. }
        | Meaning::Unavailable { .. }
        | Meaning::Unusable
        | Meaning::ClientGone
        | Meaning::Loop => false,
    }
}

/// Returns the answer if it is a registry's, about the blob that was asked for: a page that a proxy puts in front of
/// everything is a success too.
fn says_blob(asked: &Digest, answer: OriginResponse) -> Result<OriginResponse, UpstreamFailure> {
    let digest =
        text(&answer, &upstream::DOCKER_CONTENT_DIGEST).and_then(|digest| Digest::parse(digest).ok());
    let another = digest.is_some_and(|digest| digest.algorithm() == asked.algorithm() && digest != *asked);
    let status = matches!(answer.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if another || !status || is_page(&answer.headers) {
        return Err(UpstreamFailure::unusable("something else than the blob that was asked for"));
    }
    Ok(answer)
}

/// Returns true if a manifest's head says its type or its digest. One that says neither may still do so with GET.
fn says_manifest(answer: &OriginResponse) -> bool {
    let named = answer.headers.contains_key(upstream::DOCKER_CONTENT_DIGEST);
    let media_type = text(answer, &header::CONTENT_TYPE).and_then(|text| MediaType::parse(text).ok());
    let typed = media_type.is_some_and(|media_type| media_type.is_manifest());
    answer.status == StatusCode::OK && (named || typed) && !is_page(&answer.headers)
}

fn text<'a>(answer: &'a OriginResponse, name: &header::HeaderName) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
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
