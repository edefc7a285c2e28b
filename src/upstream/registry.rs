//! A registry behind the gateway.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderMap;

use crate::authz::Permit;
use crate::budget::{Budget, Client, Lease, payer};
use crate::config;
use crate::config::{CredentialSource, limits};
use crate::file_stamp::Stamp;
use crate::proto::identity::Forwarded;
use crate::upstream::auth::challenge::Authenticator;
use crate::upstream::auth::credentials::Credentials;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::login::{self, LoginAnswer};
use crate::upstream::auth::token::KeptTokens;
use crate::upstream::counters::UpstreamCounters;
use crate::upstream::egress::{EgressPolicy, GatewayNames};
use crate::upstream::error::Error;
use crate::upstream::exchange::{Purpose, Request, Response};
use crate::upstream::manifest_heads::ManifestHeads;
use crate::upstream::rate_limit::{RateLimit, ToldRateLimit};
use crate::upstream::redirect::RedirectingClient;
use crate::upstream::resume::ResumingBody;
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::connect::TlsSettingsError;
use crate::upstream::transport::health::Health;

/// A registry behind the gateway.
pub(crate) struct Upstream {
    settings: config::Upstream,
    egress: Arc<EgressPolicy>,
    credentials: Arc<Credentials>,
    client: Arc<RedirectingClient>,
    manifest_heads: ManifestHeads,
    /// Names clients in [`Self::account`] without showing their passwords.
    accounts: RandomState,
    certificates: Vec<(PathBuf, Stamp)>,
    /// The bytes of bodies that are held whole; unbounded if none was set.
    held_bytes: OnceLock<Arc<Budget>>,
}

impl Upstream {
    /// Creates an upstream that `workers` workers will use. Dials nothing: the gateway starts with a dead upstream.
    ///
    /// # Errors
    /// [`TlsSettingsError`] when its TLS settings can't be used.
    pub(crate) fn new(
        settings: config::Upstream,
        stall_timeout: Duration,
        workers: usize,
    ) -> Result<Arc<Self>, TlsSettingsError> {
        // The stamps are taken before the files are read: a change during the reading is a change.
        let certificates = certificates(&settings);
        let client = Arc::new(HttpClient::new(&settings, stall_timeout, workers + 1)?);
        let (egress, credentials) =
            (Arc::new(EgressPolicy::new(&settings)), Arc::new(Credentials::new(&settings)));
        let authenticator =
            Authenticator::new(&settings, client.clone(), egress.clone(), credentials.clone());
        let client = RedirectingClient::new(&settings, authenticator, client, egress.clone());
        Ok(Arc::new(Self {
            settings,
            egress,
            credentials,
            client: Arc::new(client),
            manifest_heads: ManifestHeads::default(),
            accounts: RandomState::new(),
            certificates,
            held_bytes: OnceLock::new(),
        }))
    }

    /// Returns its part of the configuration.
    pub(crate) fn settings(&self) -> &config::Upstream {
        &self.settings
    }

    /// Returns the outcome of the last attempts to reach it.
    pub(crate) fn health(&self) -> &Health {
        self.client.client().health()
    }

    /// Returns the counters of its exchanges.
    pub(crate) fn counters(&self) -> &UpstreamCounters {
        self.client.client().counters()
    }

    /// Returns the tokens that are kept, and why there is none where the token endpoint gives none.
    pub(crate) fn tokens(&self) -> KeptTokens {
        self.client.authenticator().tokens()
    }

    /// Returns the last rate limit that the upstream has told each of the gateway's own accounts.
    pub(crate) fn rate_limits(&self) -> Vec<(String, ToldRateLimit)> {
        self.client.authenticator().rate_limits()
    }

    /// Returns true if the certificate and key files of its settings are still those that it was made with.
    pub(crate) fn is_current(&self) -> bool {
        self.certificates.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }

    /// Closes the connections that have been idle for too long, and renews the tokens that are in use and near their
    /// end. To be called every second or two, always on the same runtime, which then runs the renewals.
    pub(crate) fn maintain(&self) {
        self.client.client().sweep();
        self.client.authenticator().renew_tokens();
    }

    /// Sends `request` and waits for the answer's head. Needs the permit for what the request does.
    ///
    /// The upstream's challenge is answered here, with the credentials that the permit's identity has at the upstream.
    /// Redirects of reads are followed, as far as [`EgressError`](crate::upstream::EgressError) allows; credentials do
    /// not go along. GET and HEAD are retried on connection errors and on answers that may pass (408, 421, 425, 500, 502 to 504), up to `retries` times with
    /// growing pauses; any method is retried on a kept connection that turns out to be dead, as long as its body has
    /// not begun. The stream of a blob is resumed where it breaks.
    ///
    /// # Errors
    /// When no answer came, or one that the client could do nothing with. An answer with any status but 401 is none.
    pub(crate) async fn send(&self, permit: &Permit, mut request: Request<'_>) -> Result<Response, Error> {
        let identity = self.identity_of(permit);
        // Boxed: it is the largest part of all that waits for it.
        let fetch = Box::pin(self.client.fetch(&identity, &mut request));
        let response = payer::charging(permit.client(), fetch).await;
        self.sent(permit.client(), identity, request, response)
    }

    /// Sends `request` without credentials, whatever credentials there are: its answer is for everyone.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub(crate) async fn send_anonymously(
        &self,
        permit: &Permit,
        mut request: Request<'_>,
    ) -> Result<Response, Error> {
        let fetch = Box::pin(self.client.fetch(&UpstreamIdentity::Anonymous, &mut request));
        let response = payer::charging(permit.client(), fetch).await;
        self.sent(permit.client(), UpstreamIdentity::Anonymous, request, response)
    }

    fn sent(
        &self,
        client: Client,
        identity: UpstreamIdentity,
        request: Request<'_>,
        response: Result<Response, Error>,
    ) -> Result<Response, Error> {
        if let Err(error) = &response {
            self.client.client().counters().failed(error);
        }
        if let Err(error) = &response
            && self.settings.credentials.source != CredentialSource::Forward
            && !matches!((&identity, error), (UpstreamIdentity::Anonymous, Error::Unauthorized(_)))
        {
            // A client's own wrong or missing password says nothing of the upstream.
            self.health().record_refusal(error);
        }
        let response = response?;
        Ok(match request.purpose {
            Purpose::Blob => ResumingBody::wrap(self.client.clone(), client, identity, request, response),
            Purpose::Existence | Purpose::Other => response,
        })
    }

    /// Returns the identity that the upstream sees for the holder of `permit`.
    pub(crate) fn identity_of(&self, permit: &Permit) -> UpstreamIdentity {
        self.credentials.identify(permit.identity(), permit.groups())
    }

    /// Returns a name, unique within this process, for the account that the upstream sees for the holder of `permit`.
    /// Clients with one name and two passwords are two accounts.
    pub(crate) fn account(&self, permit: &Permit) -> Arc<str> {
        match self.identity_of(permit) {
            identity @ UpstreamIdentity::Client(_) => {
                format!("client {:016x}", self.accounts.hash_one(&identity)).into()
            }
            identity => identity.to_string().into(),
        }
    }

    /// Returns true if the upstream sees the holder of `permit` as it sees every client without credentials of its own.
    pub(crate) fn is_everyones(&self, permit: &Permit) -> bool {
        matches!(self.identity_of(permit), UpstreamIdentity::Anonymous | UpstreamIdentity::Gateway)
    }

    /// Returns the last rate limit that the upstream has told the account of the holder of `permit`.
    pub(crate) fn rate_limit(&self, permit: &Permit) -> Option<RateLimit> {
        self.client.authenticator().rate_limit(|| self.identity_of(permit))
    }

    /// Asks this upstream about the name and password of `client`. `headers` go with every request to `/v2/`; `payer` is
    /// where the client comes from.
    ///
    /// # Errors
    /// Those of [`login::check`].
    pub(crate) async fn login(
        &self,
        client: Arc<Forwarded>,
        headers: HeaderMap,
        payer: Client,
    ) -> Result<LoginAnswer, Error> {
        payer::charging(payer, login::check(self.client.authenticator(), client, headers)).await
    }

    /// Sets the budget of the bytes of bodies that are held whole. The first one stays.
    pub(crate) fn set_held_bytes(&self, budget: Arc<Budget>) {
        let _ = self.held_bytes.set(budget);
    }

    /// Takes room for a body that is to be held whole, for the holder of `permit`: it grows with what arrives.
    ///
    /// # Errors
    /// [`Error::Spent`] if there is none.
    pub(crate) async fn room(&self, permit: &Permit) -> Result<Option<Lease>, Error> {
        let Some(budget) = self.held_bytes.get() else { return Ok(None) };
        Ok(Some(budget.take(permit.client(), limits::UNCOUNTED_BYTES).await?))
    }

    /// Returns its budgets: of what it is asked at a time, and of requests for its tokens.
    pub(crate) fn budgets(&self) -> [&Budget; 2] {
        [self.client.client().budget(), self.client.authenticator().token_requests()]
    }

    /// Returns where an upload continues, as `response` to a request for `target` says: path and query at the
    /// upstream, or a whole URL where `redirect_hosts` names its host. `None` where it does not say.
    ///
    /// # Errors
    /// [`Error::EgressPolicy`] when it is elsewhere, and when another host names the upstream.
    pub(crate) fn upload_location(&self, target: &str, headers: &HeaderMap) -> Result<Option<String>, Error> {
        self.client.upload_location(target, headers)
    }

    /// Returns the memory of its way with HEAD of manifests.
    pub(crate) fn manifest_heads(&self) -> &ManifestHeads {
        &self.manifest_heads
    }

    /// Replaces the names of this gateway, which the upstream may take for its own.
    pub(crate) fn set_gateway(&self, names: GatewayNames) {
        self.egress.set_gateway(names);
    }

    /// Returns the rules for where its requests may go.
    pub(crate) fn egress(&self) -> &Arc<EgressPolicy> {
        &self.egress
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Returns the client that follows its redirects and answers its challenges.
    pub(crate) fn client(&self) -> &RedirectingClient {
        &self.client
    }
}

fn certificates(settings: &config::Upstream) -> Vec<(PathBuf, Stamp)> {
    let pair = settings.client_certificate.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
    settings.ca.iter().chain(pair).map(|path| (path.clone(), Stamp::of(path))).collect()
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.settings.name).finish_non_exhaustive()
    }
}
