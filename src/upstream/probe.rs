//! Asks one upstream step by step, for `dockgate probe`.
//!
//! The rules are those of the gateway: the same destinations, credentials and token requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;

use crate::authz::Permit;
use crate::body::RequestBody;
use crate::config;
use crate::config::limits;
use crate::proto::{Authorization, Challenge, ScopeSet, Secret, TokenAnswer};
use crate::upstream::auth::challenge::set_authorization;
use crate::upstream::auth::credentials::{Credential, CredentialError};
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::scheme::TokenEndpoint;
use crate::upstream::auth::scope::RequiredScope;
use crate::upstream::auth::token::{IssuedToken, TokenClient, basic, bearer, request_url};
use crate::upstream::egress::{Destination, EgressError, GatewayNames};
use crate::upstream::error::{Error, TokenError};
use crate::upstream::exchange::{Outgoing, Purpose, Request, Response};
use crate::upstream::registry::Upstream;
use crate::upstream::transport::connect::{DialError, TlsSettingsError};
use crate::x509::Certificate;

/// An upstream under examination. Runs on one thread.
pub(crate) struct Probe {
    upstream: Arc<Upstream>,
    permit: Permit,
    identity: UpstreamIdentity,
    /// Secrets to remove from everything that is shown.
    secrets: Mutex<Vec<Secret>>,
}

/// A destination that the gateway's rules allow.
#[derive(Debug, Clone)]
pub(crate) struct ProbeDestination(Destination);

/// The Authorization of a request, if any. Has neither `Debug` nor `Display`.
#[derive(Clone, Default)]
pub(crate) struct ProbeAuthorization(Option<HeaderValue>);

/// A request for a token that has not been sent.
pub(crate) struct ProbeTokenRequest {
    endpoint: TokenEndpoint,
    credential: Credential,
    scopes: ScopeSet,
}

/// A token endpoint's answer.
pub(crate) struct ProbeToken {
    /// The token and its lifetime.
    pub answer: TokenAnswer,
    /// The token as it is presented.
    pub pass: ProbeAuthorization,
}

impl Probe {
    /// Creates a probe. Dials nothing yet.
    ///
    /// # Errors
    /// When the TLS settings can't be used.
    pub(crate) fn new(settings: config::Upstream, permit: Permit) -> Result<Self, TlsSettingsError> {
        let upstream = Upstream::new(settings, limits::STALL_TIMEOUT, 1)?;
        let identity = upstream.identity_of(&permit);
        Ok(Self { upstream, permit, identity, secrets: Mutex::default() })
    }

    /// Sets the names by which clients reach the gateway: a location there means the upstream itself.
    pub(crate) fn set_gateway(&self, names: GatewayNames) {
        self.upstream.set_gateway(names);
    }

    /// Returns the upstream's part of the configuration.
    pub(crate) fn settings(&self) -> &config::Upstream {
        self.upstream.settings()
    }

    /// Returns the user name of the credentials; `None` without credentials, and for a token.
    ///
    /// # Errors
    /// When there should be credentials and are none.
    pub(crate) async fn username(&self) -> Result<Option<String>, CredentialError> {
        Ok(match self.credential().await? {
            Credential::Password(login) => Some(login.username),
            Credential::Nothing | Credential::IdentityToken(_) | Credential::RegistryToken(_) => None,
        })
    }

    /// Returns true if there are credentials.
    ///
    /// # Errors
    /// Those of [`Self::username`].
    pub(crate) async fn has_credentials(&self) -> Result<bool, CredentialError> {
        Ok(!matches!(self.credential().await?, Credential::Nothing))
    }

    /// Returns the upstream itself. `target` begins with `/v2/`; the path of the upstream's URL goes before it.
    pub(crate) fn own(&self, target: &str) -> ProbeDestination {
        ProbeDestination(self.upstream.egress().own([self.settings().url.path.as_str(), target].concat()))
    }

    /// Returns the destination of a redirect that answered a request to `from`.
    ///
    /// # Errors
    /// When the gateway would not follow it.
    pub(crate) fn redirect(
        &self,
        from: &ProbeDestination,
        location: &str,
    ) -> Result<ProbeDestination, EgressError> {
        self.upstream.egress().redirect(from.0.url(), location).map(ProbeDestination)
    }

    /// Sends one request, answers no challenge and follows no redirect. `pass` goes to the upstream itself alone.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        destination: &ProbeDestination,
        mut headers: HeaderMap,
        pass: &ProbeAuthorization,
    ) -> Result<Response, Error> {
        set_authorization(&mut headers, pass.0.clone().filter(|_| destination.is_own()));
        let mut body = RequestBody::empty();
        let request = Outgoing { method, headers: &mut headers, body: &mut body, purpose: Purpose::Other };
        self.upstream.client().client().send(&destination.0, request).await
    }

    /// Returns the name and password, or the token that came with the credentials; nothing where there are none.
    ///
    /// # Errors
    /// Those of [`Self::username`].
    pub(crate) async fn basic(&self) -> Result<ProbeAuthorization, CredentialError> {
        Ok(ProbeAuthorization(match self.credential().await? {
            Credential::Password(login) => Some(basic(&login)),
            Credential::RegistryToken(token) => bearer(&token),
            Credential::Nothing | Credential::IdentityToken(_) => None,
        }))
    }

    /// Returns the request for a token that `challenge` asks for; `None` where it names no token endpoint.
    ///
    /// # Errors
    /// Those of [`Self::username`].
    pub(crate) async fn token_request(
        &self,
        challenge: &Challenge,
        scope: &RequiredScope,
    ) -> Result<Option<ProbeTokenRequest>, CredentialError> {
        let Some(endpoint) = TokenEndpoint::of(challenge) else { return Ok(None) };
        let challenged = challenge.param("scope").map(ScopeSet::parse).unwrap_or_default();
        let scopes = scope.scopes(&challenged);
        Ok(Some(ProbeTokenRequest { endpoint, credential: self.credential().await?, scopes }))
    }

    /// Sends a request for a token, by the rules of `realm_hosts`.
    ///
    /// # Errors
    /// When there is no token.
    pub(crate) async fn token(&self, request: &ProbeTokenRequest) -> Result<ProbeToken, TokenError> {
        let ProbeTokenRequest { endpoint, credential, scopes } = request;
        let client =
            TokenClient::new(self.upstream.client().client().clone(), self.upstream.egress().clone());
        let IssuedToken { answer, header, .. } = client.ask(endpoint, credential, scopes).await?;
        self.note_secret(&answer.token);
        Ok(ProbeToken { answer, pass: ProbeAuthorization(Some(header)) })
    }

    /// Sends a request as the gateway does, challenges answered and redirects followed.
    ///
    /// # Errors
    /// Those of [`Upstream::send`].
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Response, Error> {
        self.upstream.send(&self.permit, request).await
    }

    /// Sends a request and answers challenges, but follows no redirect.
    ///
    /// # Errors
    /// Those of [`Upstream::send`].
    pub(crate) async fn send_without_redirects(
        &self,
        destination: &ProbeDestination,
        mut request: Request<'_>,
    ) -> Result<Response, Error> {
        self.upstream.client().authenticator().send(&self.identity, &destination.0, &mut request).await
    }

    /// Returns where an upload continues: as [`Upstream::upload_location`].
    ///
    /// # Errors
    /// When that is elsewhere.
    pub(crate) fn upload_location(&self, target: &str, headers: &HeaderMap) -> Result<Option<String>, Error> {
        self.upstream.upload_location(target, headers)
    }

    /// Returns the upstream's certificates, its own first; `None` where its URL says http.
    ///
    /// # Errors
    /// When there is no connection.
    pub(crate) async fn certificates(&self) -> Result<Option<Vec<Certificate>>, DialError> {
        let destination = self.own("/v2/").0;
        if !destination.url().origin.https {
            return Ok(None);
        }
        self.upstream.client().client().certificates(&destination).await.map(Some)
    }

    /// Returns true if the upstream speaks the other of http and https at its port than its URL says. Sends no
    /// credentials.
    pub(crate) async fn speaks_other_scheme(&self) -> bool {
        let mut settings = self.settings().clone();
        settings.url.https = !settings.url.https;
        settings.credentials = config::Credentials::default();
        settings.client_certificate = None;
        settings.retries = 0;
        settings.connect_timeout = settings.connect_timeout.min(OTHER_SCHEME_TIMEOUT);
        settings.response_timeout = settings.response_timeout.min(OTHER_SCHEME_TIMEOUT);
        let Ok(other) = Self::new(settings, self.permit.clone()) else { return false };
        match other.certificates().await {
            Ok(Some(_)) => true,
            Err(error) => error.certificate_fault().is_some(),
            Ok(None) => {
                let (destination, pass) = (other.own("/v2/"), ProbeAuthorization::default());
                let asked = other.ask(&Method::GET, &destination, HeaderMap::new(), &pass).await;
                // A TLS port often answers plain HTTP with 400.
                asked.is_ok_and(|response| response.status != StatusCode::BAD_REQUEST)
            }
        }
    }

    /// Returns a server's `text` without the secrets that it received or gave.
    pub(crate) fn without_secrets(&self, text: &str) -> String {
        let secrets = self.secrets.lock();
        let hidden = |text: String, secret: &Secret| match secret.expose() {
            short if short.len() < SHORTEST_SECRET => text,
            secret => text.replace(secret, "[secret]"),
        };
        secrets.iter().fold(text.to_owned(), hidden)
    }

    async fn credential(&self) -> Result<Credential, CredentialError> {
        let credential = self.upstream.credentials().credential(&self.identity).await?;
        match &credential {
            Credential::Nothing => {}
            Credential::IdentityToken(secret) | Credential::RegistryToken(secret) => self.note_secret(secret),
            Credential::Password(login) => {
                self.note_secret(&login.password);
                let (user, password) = (login.username.clone(), login.password.clone());
                let rendered = Authorization::Basic { user, password }.render();
                let pair = rendered.and_then(|line| Some(line.expose().split_once(' ')?.1.to_owned()));
                pair.into_iter().for_each(|pair| self.note_secret(&Secret::new(pair)));
            }
        }
        Ok(credential)
    }

    fn note_secret(&self, secret: &Secret) {
        let mut secrets = self.secrets.lock();
        if !secrets.iter().any(|known| known.ct_eq(secret)) {
            secrets.push(secret.clone());
        }
    }
}

/// The time limit of a request by the other scheme.
const OTHER_SCHEME_TIMEOUT: Duration = Duration::from_secs(3);

/// The shortest secret that is removed, in bytes: a shorter one would be found in ordinary words.
const SHORTEST_SECRET: usize = 4;

impl ProbeDestination {
    /// Returns true for the upstream itself.
    pub(crate) fn is_own(&self) -> bool {
        self.0.is_own()
    }

    /// Returns the host as `redirect_hosts` would name it.
    pub(crate) fn host(&self) -> String {
        self.0.entry()
    }
}

/// Writes the URL; at other hosts than the upstream without its query, which may hold a signature.
impl fmt::Display for ProbeDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_own() { f.write_str(&self.0.url().expose()) } else { write!(f, "{}", self.0.url()) }
    }
}

impl ProbeAuthorization {
    /// Returns true if there is none.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
}

impl ProbeTokenRequest {
    /// Returns the method of the request.
    pub(crate) fn method(&self) -> &'static str {
        match self.credential {
            Credential::IdentityToken(_) => "POST",
            Credential::Nothing | Credential::Password(_) | Credential::RegistryToken(_) => "GET",
        }
    }

    /// Returns the URL of the request, which holds no secret.
    pub(crate) fn url(&self) -> String {
        match &self.credential {
            Credential::IdentityToken(_) => self.endpoint.realm.clone(),
            Credential::Password(login) => request_url(&self.endpoint, Some(login), &self.scopes),
            Credential::Nothing | Credential::RegistryToken(_) => {
                request_url(&self.endpoint, None, &self.scopes)
            }
        }
    }

    /// Returns the scopes that are asked for.
    pub(crate) fn scope(&self) -> String {
        self.scopes.to_string()
    }

    /// Returns true if the credentials hold a token that serves as it is, so that none is asked for.
    pub(crate) fn is_needless(&self) -> bool {
        matches!(self.credential, Credential::RegistryToken(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CredentialSource, Environment, Login};
    use crate::proto::identity::Identity;

    fn probe(url: &str, login: Option<(&str, &str)>) -> Probe {
        let mut settings = config::Upstream::at(url, &Environment::default()).unwrap();
        if let Some((username, password)) = login {
            let login = Login { username: username.into(), password: Secret::new(password) };
            settings.credentials.source = CredentialSource::Login(login);
        }
        Probe::new(settings, Permit::operator(Identity::Anonymous)).unwrap()
    }

    #[tokio::test]
    async fn presented_secrets_are_not_shown() {
        let probe = probe("https://a.example/sub", Some(("robot", "hunter2hunter2")));
        assert!(!probe.basic().await.unwrap().is_nothing());
        let pair = "cm9ib3Q6aHVudGVyMmh1bnRlcjI=";
        let told = probe.without_secrets(&format!("realm=\"hunter2hunter2\" Basic {pair} robot"));
        assert_eq!(told, "realm=\"[secret]\" Basic [secret] robot");
        assert_eq!(probe.own("/v2/").to_string(), "https://a.example/sub/v2/");
    }

    #[tokio::test]
    async fn token_requests_show_no_secret() {
        let line = br#"Bearer realm="https://a.example/token",service="s",scope="repository:a:pull""#;
        let challenge = crate::proto::challenge::parse(line).challenges.remove(0);
        let scope = RequiredScope::Repository("a".parse().unwrap(), crate::proto::Action::Pull);
        for (login, account) in [(None, ""), (Some(("robot", "hunter2hunter2")), "account=robot&")] {
            let request =
                probe("https://a.example", login).token_request(&challenge, &scope).await.unwrap().unwrap();
            let url = format!("https://a.example/token?{account}service=s&scope=repository%3Aa%3Apull");
            assert_eq!((request.method(), request.url()), ("GET", url));
            assert_eq!(request.scope(), "repository:a:pull");
        }
    }

    #[test]
    fn queries_of_foreign_urls_are_not_shown() {
        let probe = probe("https://a.example", None);
        let destination = probe.redirect(&probe.own("/v2/x"), "https://cdn.example/b?sig=secret").unwrap();
        assert_eq!(
            (destination.to_string().as_str(), destination.is_own()),
            ("https://cdn.example/b", false)
        );
    }
}
