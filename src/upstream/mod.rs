//! The registries behind the gateway: connections to them, credentials for them, and answers that hold.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::authz::Permit;
use crate::body::{Body, RequestBody};
use crate::config;
use crate::config::{CredentialSource, Redirects, limits};
use crate::file_stamp::Stamp;

pub(crate) mod answer;
pub(crate) mod auth;
pub(crate) mod egress;
pub(crate) mod error;
pub(crate) mod operation;
pub(crate) mod probe;
pub(crate) mod rate_limit;
pub(crate) mod resume;
pub(crate) mod storage_circuit;
pub(crate) mod transport;

pub(crate) use crate::upstream::auth::credentials::CredentialError;
use crate::upstream::auth::credentials::Credentials;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::lockout::Lockouts;
use crate::upstream::auth::login::Judging;
use crate::upstream::auth::scheme::Known;
pub(crate) use crate::upstream::auth::scope::RequiredScope;
pub(crate) use crate::upstream::auth::token::TokenError;
use crate::upstream::auth::token::Tokens;
use crate::upstream::auth::token_request::TokenRequest;
pub(crate) use crate::upstream::egress::EgressError;
use crate::upstream::egress::{Destination, EgressPolicy};
use crate::upstream::resume::ResumingBody;
pub(crate) use crate::upstream::transport::backoff::retry_after;
use crate::upstream::transport::client::{Client, Outgoing};
pub(crate) use crate::upstream::transport::connect::TlsSettingsError;
pub(crate) use crate::upstream::transport::connect::{Certificate, CertificateFault, DialError};
pub(crate) use crate::upstream::transport::health::Health;
pub(crate) use error::{Error, StorageError, Unauthorized};
pub(crate) use operation::{DOCKER_CONTENT_DIGEST, method_of};
pub(crate) use probe::{Pass, Probe, Way};
pub(crate) use rate_limit::RateLimit;
use rate_limit::RateLimits;
use storage_circuit::StorageCircuits;

/// A request as the upstream is to see it.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Path and query at the upstream (origin-form, RFC 9112 section 3.2.1); for an upload that goes on elsewhere, the
    /// URL that [`Upstream::upload_location`] gave.
    pub target: String,
    /// All header fields but Host, Authorization and those that frame the body.
    pub headers: HeaderMap,
    /// What the client sends with it.
    pub body: &'a mut RequestBody,
    /// What it needs to be allowed there.
    pub access: RequiredScope,
    /// What is asked for.
    pub subject: Purpose,
}

/// What a request asks for, as far as its answer is treated differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A blob: its redirect may be the client's to follow, and its stream is gone on with when it breaks.
    Blob,
    /// Whether a blob is there: its stream is not wanted, and is not gone on with.
    Existence,
    /// Anything else.
    Other,
}

/// An upstream's answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status.
    pub status: StatusCode,
    /// All header fields, as they came.
    pub headers: HeaderMap,
    /// The body, which has its connection until it is read.
    pub body: Body,
}

/// One registry behind the gateway.
pub(crate) struct Upstream {
    settings: config::Upstream,
    client: Arc<Client>,
    reach: EgressPolicy,
    credentials: Credentials,
    known: Known,
    tokens: Tokens<TokenRequest>,
    standings: Lockouts,
    rate_limits: RateLimits,
    judging: Judging,
    storage: StorageCircuits,
    accounts: RandomState,
    certificates: Vec<(PathBuf, Stamp)>,
    /// Itself, for the tasks that must not keep it alive.
    me: Weak<Self>,
}

impl Upstream {
    /// An upstream that `workers` workers will use. Dials nothing: the gateway starts with a dead upstream.
    ///
    /// # Errors
    /// [`TlsSettingsError`] when its TLS settings can't be used.
    pub(crate) fn new(
        settings: config::Upstream,
        stall_timeout: Duration,
        workers: usize,
    ) -> Result<Arc<Self>, TlsSettingsError> {
        // Looked at before they are read: a change during the reading is a change.
        let certificates = certificates(&settings);
        let client = Arc::new(Client::new(&settings, stall_timeout, workers + 1)?);
        let (reach, credentials) = (EgressPolicy::new(&settings), Credentials::new(&settings));
        Ok(Arc::new_cyclic(|me| Self {
            settings,
            client,
            reach,
            credentials,
            known: Known::default(),
            tokens: Tokens::new(),
            standings: Lockouts::new(),
            rate_limits: RateLimits::default(),
            judging: Judging::default(),
            storage: StorageCircuits::default(),
            accounts: RandomState::new(),
            certificates,
            me: me.clone(),
        }))
    }

    /// Its part of the configuration.
    pub(crate) fn settings(&self) -> &config::Upstream {
        &self.settings
    }

    /// How the last attempts to reach it went.
    pub(crate) fn health(&self) -> &Health {
        self.client.health()
    }

    /// Whether the certificates and keys that its settings name are still those that it was made with.
    pub(crate) fn is_current(&self) -> bool {
        self.certificates.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }

    /// Closes the connections that have been idle for too long, and renews the tokens that are in use and near their
    /// end. To be called every second or two, always on the same runtime, which then does the renewing.
    pub(crate) fn maintain(&self) {
        self.client.sweep();
        self.tokens.renew();
    }

    /// Sends `request` and waits for the answer's
    /// head. Needs the permit for what the request does.
    ///
    /// The answer to the upstream's challenge is given here: the credentials are those that the permit's identity has
    /// at the upstream. Redirects of reads are followed, as far as [`EgressError`] lets them; credentials do not go
    /// along. GET and HEAD are tried again on connection errors and on 502, 503 and 504, up to `retries` times with
    /// growing pauses; any method is on a kept connection that turns out to be dead, as long as its body has not begun.
    /// The stream of a blob that breaks off is gone on with where it broke.
    ///
    /// # Errors
    /// When no answer came, or one that the client could do nothing with. An answer with any status but 401 is none.
    pub(crate) async fn send(&self, permit: &Permit, mut request: Request<'_>) -> Result<Response, Error> {
        let who = self.credentials.identify(permit.identity());
        let response = self.fetch(&who, &mut request).await;
        self.sent(who, request, response)
    }

    /// As [`send`](Self::send), but as nobody in particular, whatever credentials there are: what comes is for everyone.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn send_as_nobody(
        &self,
        _permit: &Permit,
        mut request: Request<'_>,
    ) -> Result<Response, Error> {
        let response = self.fetch(&UpstreamIdentity::Anonymous, &mut request).await;
        self.sent(UpstreamIdentity::Anonymous, request, response)
    }

    /// As whom the upstream is asked for the holder of `permit`: a name for this process alone, which no other has. Clients with
    /// one name and two passwords are two.
    pub(crate) fn account(&self, permit: &Permit) -> Arc<str> {
        match self.credentials.identify(permit.identity()) {
            who @ UpstreamIdentity::Client(_) => {
                format!("client {:016x}", self.accounts.hash_one(&who)).into()
            }
            who => who.to_string().into(),
        }
    }

    /// Whether it is asked for the holder of `permit` as it is for everyone who has no credentials of his own.
    pub(crate) fn is_everyones(&self, permit: &Permit) -> bool {
        matches!(
            self.credentials.identify(permit.identity()),
            UpstreamIdentity::Anonymous | UpstreamIdentity::Gateway
        )
    }

    fn sent(
        &self,
        who: UpstreamIdentity,
        request: Request<'_>,
        response: Result<Response, Error>,
    ) -> Result<Response, Error> {
        if let Err(error) = &response
            && self.settings.credentials.source != CredentialSource::Forward
            && !matches!((&who, error), (UpstreamIdentity::Anonymous, Error::Unauthorized(_)))
        {
            // A client's own wrong password, or that it has shown none, says nothing of the upstream.
            self.client.health().record_refusal(error);
        }
        let response = response?;
        Ok(match self.me.upgrade() {
            Some(me) if request.subject == Purpose::Blob => ResumingBody::wrap(me, who, request, response),
            _ => response,
        })
    }

    /// One answer, from wherever it comes, with whatever stream it has.
    async fn fetch(&self, who: &UpstreamIdentity, request: &mut Request<'_>) -> Result<Response, Error> {
        match self.follow(who, request).await {
            // A signed URL may have expired, or led to a host that is down: the registry gives another.
            Err(Error::Storage { host, source }) if is_repeatable(request) => {
                tracing::debug!(upstream = self.settings.name, host, error = %source, "asking for a fresh redirect");
                self.follow(who, request).await
            }
            result => result,
        }
    }

    async fn follow(&self, who: &UpstreamIdentity, request: &mut Request<'_>) -> Result<Response, Error> {
        let mut hop = self.first_hop(&request.target)?;
        for _ in 0..=limits::REDIRECTS {
            // Only the egress policy lets a request lead here.
            let mut response = if hop.is_own() {
                self.authorized(who, &hop, request).await?
            } else {
                request.headers.remove(header::AUTHORIZATION);
                self.ask_storage(&hop, request).await?
            };
            if response.status == StatusCode::UNAUTHORIZED {
                // The client must not be asked for a password that another host wants.
                return Err(Error::Redirect("the host of its upload location wants credentials"));
            }
            match self.next_hop(&hop, request, &mut response)? {
                None => return Ok(response),
                Some(next) => hop = next,
            }
        }
        Err(Error::Redirect("it redirects in circles"))
    }

    /// Sends a request to another host than the registry. What fails there is storage's failure, whatever it is, but for
    /// its 429 and for a range that it can't satisfy, which are answers.
    async fn ask_storage(&self, hop: &Destination, request: &mut Request<'_>) -> Result<Response, Error> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            // An upload that goes on elsewhere: the answer is the client's.
            return self.client.send(hop, outgoing(request)).await;
        }
        let host = hop.url().origin.authority();
        let failed = |source| Error::Storage { host: host.clone(), source };
        if !self.storage.admits(&host) {
            return Err(failed(StorageError::CircuitOpen));
        }
        let response = match self.client.send_once(hop, outgoing(request)).await {
            Ok(response) => response,
            Err(Error::Client(error)) => return Err(Error::Client(error)),
            Err(error) => {
                self.storage_failed(&host);
                return Err(failed(StorageError::NoAnswer(Box::new(error))));
            }
        };
        if response.status.is_server_error() {
            self.storage_failed(&host);
        } else {
            self.storage.answered(&host);
        }
        match response.status {
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Error::Limited { retry_after: retry_after(&response.headers) })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            status if status.is_client_error() || status.is_server_error() => {
                Err(failed(StorageError::Status(status)))
            }
            _ => Ok(response),
        }
    }

    fn storage_failed(&self, host: &str) {
        if self.storage.failed(host) {
            let upstream = &self.settings.name;
            tracing::warn!(upstream, host, "circuit open: the storage host failed several times in a row");
        }
    }

    fn first_hop(&self, target: &str) -> Result<Destination, Error> {
        if target.starts_with('/') {
            return Ok(self.reach.own(target.to_owned()));
        }
        // The configuration may have changed since the location was sealed.
        Ok(self.reach.upload(self.reach.own("/".to_owned()).url(), target)?)
    }

    /// Where to ask instead. `None` where the answer is for whoever asked.
    fn next_hop(
        &self,
        hop: &Destination,
        request: &Request<'_>,
        response: &mut Response,
    ) -> Result<Option<Destination>, Error> {
        if !response.status.is_redirection() || response.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if !auth::token::is_redirect(response.status) {
            return Err(Error::Redirect("it redirects in a way that nobody follows"));
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(Error::Redirect("it redirects a write"));
        }
        let location = response.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or(Error::Redirect("it redirects to nowhere"))?;
        let next = self.reach.redirect(hop.url(), location);
        let own = next.as_ref().is_ok_and(Destination::is_own);
        if own || request.subject != Purpose::Blob || self.settings.redirects == Redirects::Follow {
            return Ok(Some(next?));
        }
        let url = hop.url().join(location).map_err(EgressError::Url)?;
        let location = HeaderValue::try_from(url.expose());
        let location = location.map_err(|_| Error::Redirect("it redirects to nowhere"))?;
        response.headers.insert(header::LOCATION, location);
        Ok(None)
    }

    /// Where an upload goes on that `response` to a request for `target` tells of: path and query at the upstream, or a
    /// whole URL where `redirect_hosts` names its host. `None` where it does not say.
    ///
    /// # Errors
    /// [`Error::EgressPolicy`] when it is elsewhere, and when it is the upstream on another host's word.
    pub(crate) fn upload_location(&self, target: &str, headers: &HeaderMap) -> Result<Option<String>, Error> {
        let Some(location) = headers.get(header::LOCATION) else { return Ok(None) };
        let location = location.to_str().map_err(|_| Error::Redirect("its upload location is no URL"))?;
        let from = self.first_hop(target)?;
        let hop = self.reach.upload(from.url(), location)?;
        Ok(Some(if hop.is_own() { hop.url().target.clone() } else { hop.url().expose() }))
    }
}

fn certificates(settings: &config::Upstream) -> Vec<(PathBuf, Stamp)> {
    let pair = settings.client_certificate.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
    settings.ca.iter().chain(pair).map(|path| (path.clone(), Stamp::of(path))).collect()
}

/// Returns true if the request can be sent again: it reads, and has no body that has begun.
fn is_repeatable(request: &Request<'_>) -> bool {
    matches!(request.method, Method::GET | Method::HEAD) && !request.body.has_begun()
}

fn outgoing<'a>(request: &'a mut Request<'_>) -> Outgoing<'a> {
    let subject = request.subject;
    Outgoing { method: &request.method, headers: &mut request.headers, body: request.body, subject }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.settings.name).finish_non_exhaustive()
    }
}
