//! One upstream, asked one step at a time: what the gateway does in one go, for people who want to see it.
//!
//! The rules are those of the gateway: the same hops, the same credentials, the same token requests.

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
use crate::upstream::egress::{Destination, EgressError};
use crate::upstream::error::{Error, TokenError};
use crate::upstream::exchange::{Outgoing, Purpose, Request, Response};
use crate::upstream::registry::Upstream;
use crate::upstream::transport::connect::{Certificate, DialError, TlsSettingsError};

/// An upstream under examination. Runs on one thread.
pub(crate) struct Probe {
    upstream: Arc<Upstream>,
    permit: Permit,
    identity: UpstreamIdentity,
    /// What must not be read in anything that is told.
    secrets: Mutex<Vec<Secret>>,
}

/// Leave to send a request to one place.
#[derive(Debug, Clone)]
pub(crate) struct Way(Destination);

/// What a request shows for itself. Neither `Debug` nor `Display` says it.
#[derive(Clone, Default)]
pub(crate) struct Pass(Option<HeaderValue>);

/// A request for a token that has not been sent.
pub(crate) struct ProbeTokenRequest {
    endpoint: TokenEndpoint,
    credential: Credential,
    scopes: ScopeSet,
}

/// What came of it.
pub(crate) struct TokenGiven {
    /// The token and what is said of it.
    pub answer: TokenAnswer,
    /// The token as it is shown.
    pub pass: Pass,
}

impl Probe {
    /// Dials nothing yet.
    ///
    /// # Errors
    /// When the TLS settings can't be used.
    pub(crate) fn new(settings: config::Upstream, permit: Permit) -> Result<Self, TlsSettingsError> {
        let upstream = Upstream::new(settings, limits::STALL_TIMEOUT, 1)?;
        let identity = upstream.identity_of(&permit);
        Ok(Self { upstream, permit, identity, secrets: Mutex::default() })
    }

    /// Its part of the configuration.
    pub(crate) fn settings(&self) -> &config::Upstream {
        self.upstream.settings()
    }

    /// The name that it is asked by: none where that is nobody in particular, or a token without a name.
    ///
    /// # Errors
    /// When there should be credentials and are none.
    pub(crate) async fn username(&self) -> Result<Option<String>, CredentialError> {
        Ok(match self.credential().await? {
            Credential::Password(login) => Some(login.username),
            Credential::Nothing | Credential::IdentityToken(_) | Credential::RegistryToken(_) => None,
        })
    }

    /// Whether it is asked as somebody.
    ///
    /// # Errors
    /// As [`Self::username`].
    pub(crate) async fn is_somebody(&self) -> Result<bool, CredentialError> {
        Ok(!matches!(self.credential().await?, Credential::Nothing))
    }

    /// The upstream itself. `target` begins with `/v2/`; the path of the upstream's URL goes before it.
    pub(crate) fn own(&self, target: &str) -> Way {
        Way(self.upstream.egress().own([self.settings().url.path.as_str(), target].concat()))
    }

    /// Where a redirect leads that came in answer to `from`.
    ///
    /// # Errors
    /// When the gateway would not follow it.
    pub(crate) fn redirect(&self, from: &Way, location: &str) -> Result<Way, EgressError> {
        self.upstream.egress().redirect(from.0.url(), location).map(Way)
    }

    /// Sends one request and takes whatever answer comes: no challenge is answered, no redirect followed. `pass` is
    /// shown to the upstream itself alone.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        way: &Way,
        mut headers: HeaderMap,
        pass: &Pass,
    ) -> Result<Response, Error> {
        set_authorization(&mut headers, pass.0.clone().filter(|_| way.is_own()));
        let mut body = RequestBody::empty();
        let request = Outgoing { method, headers: &mut headers, body: &mut body, subject: Purpose::Other };
        self.upstream.client().client().send(&way.0, request).await
    }

    /// The name and password, or the token that came with the credentials; nothing where there are none.
    ///
    /// # Errors
    /// As [`Self::username`].
    pub(crate) async fn basic(&self) -> Result<Pass, CredentialError> {
        Ok(Pass(match self.credential().await? {
            Credential::Password(login) => Some(basic(&login)),
            Credential::RegistryToken(token) => bearer(&token),
            Credential::Nothing | Credential::IdentityToken(_) => None,
        }))
    }

    /// The request for a token that `challenge` asks for; `None` where it names no token endpoint.
    ///
    /// # Errors
    /// As [`Self::username`].
    pub(crate) async fn token_request(
        &self,
        challenge: &Challenge,
        access: &RequiredScope,
    ) -> Result<Option<ProbeTokenRequest>, CredentialError> {
        let Some(endpoint) = TokenEndpoint::of(challenge) else { return Ok(None) };
        let challenged = challenge.param("scope").map(ScopeSet::parse).unwrap_or_default();
        let scopes = access.scopes(&challenged);
        Ok(Some(ProbeTokenRequest { endpoint, credential: self.credential().await?, scopes }))
    }

    /// Sends it, by the rules of `realm_hosts`.
    ///
    /// # Errors
    /// When there is no token.
    pub(crate) async fn token(&self, request: &ProbeTokenRequest) -> Result<TokenGiven, TokenError> {
        let ProbeTokenRequest { endpoint, credential, scopes } = request;
        let client =
            TokenClient::new(self.upstream.client().client().clone(), self.upstream.egress().clone());
        let IssuedToken { answer, header, .. } = client.ask(endpoint, credential, scopes).await?;
        self.hide(&answer.token);
        Ok(TokenGiven { answer, pass: Pass(Some(header)) })
    }

    /// Sends a request as the gateway does, challenges answered and redirects followed.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Response, Error> {
        self.upstream.send(&self.permit, request).await
    }

    /// The same, but the redirect is the answer.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub(crate) async fn send_here(&self, way: &Way, mut request: Request<'_>) -> Result<Response, Error> {
        self.upstream.client().authenticator().send(&self.identity, &way.0, &mut request).await
    }

    /// Where an upload goes on: as [`Upstream::upload_location`].
    ///
    /// # Errors
    /// When that is elsewhere.
    pub(crate) fn upload_location(&self, target: &str, headers: &HeaderMap) -> Result<Option<String>, Error> {
        self.upstream.upload_location(target, headers)
    }

    /// The certificates that the upstream shows, its own first; `None` where it is asked by plain HTTP.
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

    /// Whether the upstream speaks the other of http and https at its port: the one that its URL does not say. It is
    /// told nothing of us.
    pub(crate) async fn speaks_the_other(&self) -> bool {
        let mut settings = self.settings().clone();
        settings.url.https = !settings.url.https;
        settings.credentials = config::Credentials::default();
        settings.client_certificate = None;
        settings.retries = 0;
        settings.connect_timeout = settings.connect_timeout.min(SHORT);
        settings.response_timeout = settings.response_timeout.min(SHORT);
        let Ok(other) = Self::new(settings, self.permit.clone()) else { return false };
        match other.certificates().await {
            Ok(Some(_)) => true,
            Err(error) => error.certificate_fault().is_some(),
            Ok(None) => {
                let (way, pass) = (other.own("/v2/"), Pass::default());
                let asked = other.ask(&Method::GET, &way, HeaderMap::new(), &pass).await;
                // What wants TLS often says so by a 400 in plain HTTP.
                asked.is_ok_and(|response| response.status != StatusCode::BAD_REQUEST)
            }
        }
    }

    /// `text`, which a peer has said, without any secret that it was shown or has given.
    pub(crate) fn veiled(&self, text: &str) -> String {
        let secrets = self.secrets.lock();
        let hidden = |text: String, secret: &Secret| match secret.expose() {
            short if short.len() < SHORTEST => text,
            secret => text.replace(secret, "[secret]"),
        };
        secrets.iter().fold(text.to_owned(), hidden)
    }

    async fn credential(&self) -> Result<Credential, CredentialError> {
        let credential = self.upstream.credentials().credential(&self.identity).await?;
        match &credential {
            Credential::Nothing => {}
            Credential::IdentityToken(secret) | Credential::RegistryToken(secret) => self.hide(secret),
            Credential::Password(login) => {
                self.hide(&login.password);
                let (user, password) = (login.username.clone(), login.password.clone());
                let rendered = Authorization::Basic { user, password }.render();
                let pair = rendered.and_then(|line| Some(line.expose().split_once(' ')?.1.to_owned()));
                pair.into_iter().for_each(|pair| self.hide(&Secret::new(pair)));
            }
        }
        Ok(credential)
    }

    fn hide(&self, secret: &Secret) {
        let mut secrets = self.secrets.lock();
        if !secrets.iter().any(|known| known.ct_eq(secret)) {
            secrets.push(secret.clone());
        }
    }
}

/// How long another guess may take.
const SHORT: Duration = Duration::from_secs(3);

/// In bytes. What is shorter would be found in ordinary words.
const SHORTEST: usize = 4;

impl Way {
    /// Whether it leads to the upstream itself.
    pub(crate) fn is_own(&self) -> bool {
        self.0.is_own()
    }

    /// As `redirect_hosts` would name it: the host, and the port where it must be written.
    pub(crate) fn host(&self) -> String {
        self.0.entry()
    }
}

/// The URL, without its query where that may be what opens the door: anywhere but at the upstream.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_own() { f.write_str(&self.0.url().expose()) } else { write!(f, "{}", self.0.url()) }
    }
}

impl Pass {
    /// Whether anything is shown.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
}

impl ProbeTokenRequest {
    /// How it is asked for.
    pub(crate) fn method(&self) -> &'static str {
        match self.credential {
            Credential::IdentityToken(_) => "POST",
            Credential::Nothing | Credential::Password(_) | Credential::RegistryToken(_) => "GET",
        }
    }

    /// The URL that is asked; there is no secret in it.
    pub(crate) fn url(&self) -> String {
        match &self.credential {
            Credential::IdentityToken(_) => self.endpoint.realm.clone(),
            Credential::Password(login) => request_url(&self.endpoint, Some(login), &self.scopes),
            Credential::Nothing | Credential::RegistryToken(_) => {
                request_url(&self.endpoint, None, &self.scopes)
            }
        }
    }

    /// What the token is to be for.
    pub(crate) fn scope(&self) -> String {
        self.scopes.to_string()
    }

    /// Whether the credentials hold a token that serves as it is: then none is asked for.
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
    async fn what_was_shown_is_not_told() {
        let probe = probe("https://a.example/sub", Some(("robot", "hunter2hunter2")));
        assert!(!probe.basic().await.unwrap().is_nothing());
        let pair = "cm9ib3Q6aHVudGVyMmh1bnRlcjI=";
        let told = probe.veiled(&format!("realm=\"hunter2hunter2\" Basic {pair} robot"));
        assert_eq!(told, "realm=\"[secret]\" Basic [secret] robot");
        assert_eq!(probe.own("/v2/").to_string(), "https://a.example/sub/v2/");
    }

    #[tokio::test]
    async fn the_request_for_a_token_has_no_secret_in_it() {
        let line = br#"Bearer realm="https://a.example/token",service="s",scope="repository:a:pull""#;
        let challenge = crate::proto::challenge::parse(line).challenges.remove(0);
        let access = RequiredScope::Repository("a".parse().unwrap(), crate::proto::Action::Pull);
        for (login, account) in [(None, ""), (Some(("robot", "hunter2hunter2")), "account=robot&")] {
            let request =
                probe("https://a.example", login).token_request(&challenge, &access).await.unwrap().unwrap();
            let url = format!("https://a.example/token?{account}service=s&scope=repository%3Aa%3Apull");
            assert_eq!((request.method(), request.url()), ("GET", url));
            assert_eq!(request.scope(), "repository:a:pull");
        }
    }

    #[test]
    fn the_query_of_a_foreign_url_is_not_told() {
        let probe = probe("https://a.example", None);
        let way = probe.redirect(&probe.own("/v2/x"), "https://cdn.example/b?sig=secret").unwrap();
        assert_eq!((way.to_string().as_str(), way.is_own()), ("https://cdn.example/b", false));
    }
}
