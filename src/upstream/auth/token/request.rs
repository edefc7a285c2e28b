//! Asking a token endpoint (token auth, token.md and oauth.md).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::body::RequestBody;
use crate::clock;
use crate::config::{Login, limits};
use crate::proto::{Authorization, Challenge, ScopeSet, Secret, TokenAnswer};
use crate::upstream::auth::credentials::{Credential, CredentialError};
use crate::upstream::auth::token::{Lifetime, Token};
use crate::upstream::egress::{Destination, EgressError, EgressPolicy};
use crate::upstream::transport::backoff;
use crate::upstream::transport::client::{Client, Outgoing};
use crate::upstream::{Error, Purpose, Response};

/// UpstreamIdentity gives the tokens for an upstream, as its challenge says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// The URL of the token endpoint.
    pub(crate) realm: String,
    /// Whom the token is for.
    pub(crate) service: Option<String>,
}

impl Bearer {
    /// `None` for another scheme, and for a challenge without a realm.
    pub(crate) fn of(challenge: &Challenge) -> Option<Self> {
        let bearer = challenge.scheme == crate::proto::Scheme::Bearer;
        let realm = challenge.param("realm").filter(|_| bearer)?.to_owned();
        Some(Self { realm, service: challenge.param("service").map(str::to_owned) })
    }

    /// What is asked by GET. The password is not in it.
    pub(crate) fn request_url(&self, login: Option<&Login>, scopes: &ScopeSet) -> String {
        with_query(&self.realm, &query(self, login, scopes))
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The realm is nowhere that the credentials may go.
    #[error(transparent)]
    EgressPolicy(#[from] EgressError),
    /// There are no credentials to ask with.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The endpoint refuses the credentials.
    #[error("the token endpoint {endpoint} refuses the credentials ({status})")]
    Refused {
        /// Scheme, host and path.
        endpoint: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The endpoint has been asked too often.
    #[error("the token endpoint {endpoint} wants to be left alone (429)")]
    Limited {
        /// Scheme, host and path.
        endpoint: String,
        /// For how long, where it said so.
        retry_after: Option<Duration>,
    },
    /// The endpoint answers something else.
    #[error("the token endpoint {endpoint} answers {status}")]
    Status {
        /// Scheme, host and path.
        endpoint: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The endpoint could not be asked.
    #[error("the token endpoint {endpoint}: {source}")]
    Failed {
        /// Scheme, host and path.
        endpoint: String,
        /// What happened.
        #[source]
        source: Box<Error>,
    },
    /// The answer is too long, breaks off, or holds no token.
    #[error("the token endpoint {endpoint} gives no token: {reason}")]
    Answer {
        /// Scheme, host and path.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The credentials were refused lately, and are not shown again for a while.
    #[error("the credentials were refused a short while ago; they are not tried again yet")]
    Shunned,
    /// The registry does not take the tokens that its own token endpoint gives.
    #[error("the registry takes none of its token endpoint's tokens: invalid_token")]
    NotTaken,
    /// Too many tokens are being asked for already.
    #[error("too many tokens are wanted at once")]
    Busy,
    /// The task that asked has ended without an answer.
    #[error("the request for a token was given up")]
    Abandoned,
}

impl TokenError {
    /// Whether the endpoint does not take the credentials.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Shunned)
    }

    /// Whether another token endpoint might have given one.
    pub(crate) fn may_be_of_the_place(&self) -> bool {
        match self {
            Self::Limited { .. }
            | Self::Refused { .. }
            | Self::Shunned
            | Self::Credentials(_)
            | Self::NotTaken
            | Self::Busy
            | Self::Abandoned => false,
            Self::EgressPolicy(_) | Self::Status { .. } | Self::Failed { .. } | Self::Answer { .. } => true,
        }
    }

    /// How long not to ask again: what failed by accident is tried again soon, what was decided does not change so fast.
    pub(crate) fn pause(&self) -> Duration {
        match self {
            Self::Limited { retry_after, .. } => retry_after
                .unwrap_or(limits::REFUSED_PAUSE)
                .clamp(limits::TOKEN_FAILED_PAUSE, limits::TOKEN_LIMITED_MOST),
            Self::Refused { .. } | Self::Credentials(_) => limits::REFUSED_PAUSE,
            Self::Status { .. }
            | Self::Failed { .. }
            | Self::Answer { .. }
            | Self::NotTaken
            | Self::EgressPolicy(_) => limits::TOKEN_FAILED_PAUSE,
            // Nobody was asked.
            Self::Shunned | Self::Abandoned | Self::Busy => Duration::ZERO,
        }
    }
}

/// Asks token endpoints on behalf of one upstream.
pub(crate) struct Asking<'a> {
    pub(crate) client: &'a Arc<Client>,
    pub(crate) reach: &'a EgressPolicy,
}

/// What a token endpoint has given.
pub(crate) struct Given {
    pub(crate) answer: TokenAnswer,
    /// `Bearer …`, marked as sensitive.
    pub(crate) header: HeaderValue,
    /// The time there.
    pub(crate) date: Option<std::time::SystemTime>,
}

impl Asking<'_> {
    /// A token for `scopes`, for whoever `grant` shows.
    pub(crate) async fn fetch(
        &self,
        endpoint: &Bearer,
        grant: &Credential,
        scopes: ScopeSet,
    ) -> Result<Token, TokenError> {
        let asked = clock::now();
        if let Credential::RegistryToken(token) = grant {
            return ready(token, scopes, asked, endpoint);
        }
        let Given { answer, header, date } = self.ask(endpoint, grant, &scopes).await?;
        Ok(Token::new(header, scopes, asked, Lifetime::of(&answer, date, clock::wall())))
    }

    /// The endpoint's answer, read.
    pub(crate) async fn ask(
        &self,
        endpoint: &Bearer,
        grant: &Credential,
        scopes: &ScopeSet,
    ) -> Result<Given, TokenError> {
        let (hop, response) = match grant {
            Credential::IdentityToken(refresh) => self.post(endpoint, refresh, scopes).await?,
            Credential::Password(login) => self.get(endpoint, Some(login), scopes).await?,
            Credential::Nothing | Credential::RegistryToken(_) => self.get(endpoint, None, scopes).await?,
        };
        let place = hop.url().to_string();
        let date = date(&response.headers);
        let body = body(response, &place).await?;
        let wrong = |reason: String| TokenError::Answer { endpoint: place.clone(), reason };
        let answer = TokenAnswer::parse(&body).map_err(|error| wrong(error.to_string()))?;
        let header = bearer(&answer.token).ok_or_else(|| wrong("it can stand in no header".to_owned()))?;
        Ok(Given { answer, header, date })
    }

    /// What every registry understands: GET with the password as Basic. A redirect is followed to where the
    /// credentials may go and nowhere else.
    async fn get(
        &self,
        bearer: &Bearer,
        login: Option<&Login>,
        scopes: &ScopeSet,
    ) -> Result<(Destination, Response), TokenError> {
        let mut hop = self.reach.realm(&bearer.request_url(login, scopes))?;
        for _ in 0..limits::REDIRECTS {
            let mut headers = fields();
            if let Some(login) = login {
                headers.insert(header::AUTHORIZATION, basic(login));
            }
            let mut nothing = RequestBody::empty();
            let response = self.send(&hop, &Method::GET, &mut headers, &mut nothing).await?;
            match next(&response) {
                None => return Ok((hop, response)),
                Some(location) => hop = self.reach.realm_redirect(hop.url(), &location)?,
            }
        }
        let endpoint = hop.url().to_string();
        Err(TokenError::Answer { endpoint, reason: "it redirects in circles".to_owned() })
    }

    /// A refresh token is exchanged by POST (oauth.md).
    async fn post(
        &self,
        bearer: &Bearer,
        refresh: &Secret,
        scopes: &ScopeSet,
    ) -> Result<(Destination, Response), TokenError> {
        let hop = self.reach.realm(&bearer.realm)?;
        let scope = scopes.to_string();
        let form = encoded([
            ("grant_type", "refresh_token"),
            ("service", bearer.service.as_deref().unwrap_or_default()),
            ("client_id", "dockgate"),
            ("scope", &scope),
            ("refresh_token", refresh.expose()),
        ]);
        let mut headers = fields();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        let mut body = RequestBody::held(Bytes::from(form));
        let response = self.send(&hop, &Method::POST, &mut headers, &mut body).await?;
        Ok((hop, response))
    }

    async fn send(
        &self,
        hop: &Destination,
        method: &Method,
        headers: &mut HeaderMap,
        body: &mut RequestBody,
    ) -> Result<Response, TokenError> {
        let request = Outgoing { method, headers, body, subject: Purpose::Other };
        let sent = self.client.send(hop, request).await;
        let endpoint = || hop.url().to_string();
        let response =
            sent.map_err(|source| TokenError::Failed { endpoint: endpoint(), source: Box::new(source) })?;
        match response.status {
            StatusCode::OK | StatusCode::CREATED => Ok(response),
            status if *method == Method::GET && is_redirect(status) => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(TokenError::Refused { endpoint: endpoint(), status })
            }
            // invalid_grant (RFC 6749 section 5.2): the refresh token is over.
            status @ StatusCode::BAD_REQUEST if *method == Method::POST => {
                Err(TokenError::Refused { endpoint: endpoint(), status })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = backoff::retry_after(&response.headers);
                Err(TokenError::Limited { endpoint: endpoint(), retry_after })
            }
            status => Err(TokenError::Status { endpoint: endpoint(), status }),
        }
    }
}

/// A token that came with the credentials is good for as long as they say so.
fn ready(token: &Secret, scopes: ScopeSet, asked: Instant, endpoint: &Bearer) -> Result<Token, TokenError> {
    let wrong = || TokenError::Answer {
        endpoint: endpoint.realm.split('?').next().unwrap_or_default().to_owned(),
        reason: "the registry token can stand in no header".to_owned(),
    };
    Ok(Token::new(bearer(token).ok_or_else(wrong)?, scopes, asked, Lifetime::UNKNOWN))
}

/// `Bearer …`, marked as sensitive.
pub(crate) fn bearer(token: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(["Bearer ", token.expose()].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn fields() -> HeaderMap {
    HeaderMap::from_iter([
        (header::ACCEPT, HeaderValue::from_static("application/json")),
        (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        (header::USER_AGENT, HeaderValue::from_static(concat!("dockgate/", env!("CARGO_PKG_VERSION")))),
    ])
}

/// `Basic …`, marked as sensitive.
pub(crate) fn basic(login: &Login) -> HeaderValue {
    let credentials = Authorization::Basic { user: login.username.clone(), password: login.password.clone() };
    let rendered = credentials.render().and_then(|value| HeaderValue::try_from(value.expose()).ok());
    // base64 can always stand in a header.
    let mut value = rendered.unwrap_or_else(|| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

fn next(response: &Response) -> Option<String> {
    let location = response.headers.get(header::LOCATION).filter(|_| is_redirect(response.status));
    location.map(|value| value.to_str().unwrap_or_default().to_owned())
}

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// `account` is not in the specification; docker sends it, and some token servers look at it. Each scope has a
/// parameter of its own, as docker sends them.
fn query(bearer: &Bearer, login: Option<&Login>, scopes: &ScopeSet) -> String {
    let service = bearer.service.as_deref().map(|service| ("service", service));
    let account = login.map(|login| ("account", login.username.as_str()));
    let scopes: Vec<String> = scopes.iter().map(|scope| scope.to_string()).collect();
    let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
    encoded(account.into_iter().chain(service).chain(scopes))
}

/// A realm may have parameters of its own; they stay.
fn with_query(realm: &str, query: &str) -> String {
    let realm = realm.split('#').next().unwrap_or_default();
    match realm.split_once('?') {
        _ if query.is_empty() => realm.to_owned(),
        Some((_, "")) => format!("{realm}{query}"),
        Some(_) => format!("{realm}&{query}"),
        None => format!("{realm}?{query}"),
    }
}

/// application/x-www-form-urlencoded, with every byte but the unreserved ones of RFC 3986 encoded.
fn encoded<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        value.bytes().for_each(|byte| push_encoded(&mut out, byte));
    }
    out
}

fn push_encoded(out: &mut String, byte: u8) {
    use std::fmt::Write as _;
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        out.push(char::from(byte));
    } else {
        // Writing to a String can't fail.
        let _ = write!(out, "%{byte:02X}");
    }
}

fn date(headers: &HeaderMap) -> Option<std::time::SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

async fn body(response: Response, endpoint: &str) -> Result<Bytes, TokenError> {
    let limited = Limited::new(response.body, limits::TOKEN_BYTES).collect();
    let collected = tokio::time::timeout(limits::TOKEN_DEADLINE, limited).await;
    let wrong =
        |reason: &str| TokenError::Answer { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
    let collected = collected.map_err(|_| wrong("it comes too slowly"))?;
    collected.map(|body| body.to_bytes()).map_err(|_| wrong("it is too long, or broke off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer() -> Bearer {
        Bearer { realm: "https://auth.example/token".into(), service: Some("registry.example".into()) }
    }

    #[test]
    fn every_scope_is_a_parameter_of_its_own() {
        let scopes = ScopeSet::parse("repository:a/b:pull,push repository:c:pull");
        let login = Login { username: "robot+1".into(), password: Secret::new("secret") };
        assert_eq!(
            query(&bearer(), Some(&login), &scopes),
            "account=robot%2B1&service=registry.example&scope=repository%3Aa%2Fb%3Apull%2Cpush\
             &scope=repository%3Ac%3Apull"
        );
        assert_eq!(query(&bearer(), None, &ScopeSet::default()), "service=registry.example");
    }

    #[test]
    fn a_realm_keeps_its_own_parameters() {
        assert_eq!(with_query("https://a/t", "x=1"), "https://a/t?x=1");
        assert_eq!(with_query("https://a/t?y=2", "x=1"), "https://a/t?y=2&x=1");
        assert_eq!(with_query("https://a/t?", "x=1"), "https://a/t?x=1");
        assert_eq!(with_query("https://a/t?y#f", "x=1"), "https://a/t?y&x=1");
        assert_eq!(with_query("https://a/t", ""), "https://a/t");
    }

    #[test]
    fn a_challenge_without_a_realm_names_no_token_endpoint() {
        let challenges =
            crate::proto::challenge::parse_all([&b"Bearer service=\"s\", Basic realm=\"x\""[..]]);
        assert_eq!(challenges.iter().find_map(Bearer::of), None);
    }

    #[test]
    fn whoever_wants_to_be_left_alone_is_whatever_time_he_names() {
        let pause = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            TokenError::Limited { endpoint: String::new(), retry_after }.pause()
        };
        assert_eq!(pause(0), limits::TOKEN_FAILED_PAUSE);
        assert_eq!(pause(30), Duration::from_secs(30));
        assert_eq!(pause(u64::MAX), limits::TOKEN_LIMITED_MOST);
    }

    #[test]
    fn headers_with_secrets_are_marked() {
        let header = basic(&Login { username: "a".into(), password: Secret::new("b") });
        assert!(header.is_sensitive());
        assert_eq!(header.as_bytes(), b"Basic YTpi");
    }
}
