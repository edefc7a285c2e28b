//! Asks token endpoints (token auth, token.md and oauth.md).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::body::RequestBody;
use crate::clock;
use crate::config::{Login, limits};
use crate::proto::{Authorization, ScopeSet, Secret, TokenAnswer, percent};
use crate::upstream::auth::credentials::Credential;
use crate::upstream::auth::scheme::TokenEndpoint;
use crate::upstream::auth::token::access_token::AccessToken;
use crate::upstream::auth::token::lifetime::Lifetime;
use crate::upstream::egress::{Destination, EgressError, EgressPolicy, url};
use crate::upstream::error::TokenError;
use crate::upstream::exchange::{Outgoing, Purpose, Response, is_redirect};
use crate::upstream::transport::backoff;
use crate::upstream::transport::client::HttpClient;

/// Asks token endpoints on behalf of one upstream.
pub(crate) struct TokenClient {
    client: Arc<HttpClient>,
    egress: Arc<EgressPolicy>,
}

/// A token endpoint's answer.
pub(crate) struct IssuedToken {
    pub(crate) answer: TokenAnswer,
    /// Returns `Bearer …`, marked as sensitive.
    pub(crate) header: HeaderValue,
    /// The time of the endpoint's clock.
    pub(crate) date: Option<std::time::SystemTime>,
}

impl TokenClient {
    pub(crate) fn new(client: Arc<HttpClient>, egress: Arc<EgressPolicy>) -> Self {
        Self { client, egress }
    }

    /// Returns a token for `scopes`, asked for with `credential`.
    pub(crate) async fn fetch(
        &self,
        endpoint: &TokenEndpoint,
        credential: &Credential,
        scopes: ScopeSet,
    ) -> Result<AccessToken, TokenError> {
        let asked = clock::now();
        if let Credential::RegistryToken(token) = credential {
            return ready(token, scopes, asked, endpoint);
        }
        let IssuedToken { answer, header, date } = self.ask(endpoint, credential, &scopes).await?;
        Ok(AccessToken::new(header, scopes, asked, Lifetime::of(&answer, date, clock::wall())))
    }

    /// Returns the endpoint's answer to a request for `scopes` with `credential`.
    pub(crate) async fn ask(
        &self,
        endpoint: &TokenEndpoint,
        credential: &Credential,
        scopes: &ScopeSet,
    ) -> Result<IssuedToken, TokenError> {
        let (destination, response) = match credential {
            Credential::IdentityToken(refresh) => self.post(endpoint, refresh, scopes).await?,
            Credential::Password(login) => {
                let first = self.egress.realm(&request_url(endpoint, Some(login), scopes))?;
                self.get(first, Some(login)).await?
            }
            Credential::Nothing | Credential::RegistryToken(_) => {
                self.get(self.egress.realm(&request_url(endpoint, None, scopes))?, None).await?
            }
        };
        issued(&destination, response).await
    }

    /// Returns an anonymous token of `endpoint`, which the host that a redirect led to has named.
    pub(crate) async fn fetch_as_guest(
        &self,
        host: &Destination,
        endpoint: &TokenEndpoint,
        scopes: ScopeSet,
    ) -> Result<AccessToken, TokenError> {
        let asked = clock::now();
        let realm = request_url(endpoint, None, &scopes);
        let mut destination = self.egress.guest_realm(host, &realm)?;
        for _ in 0..limits::REDIRECTS {
            let mut nothing = RequestBody::empty();
            let response = self.send(&destination, &Method::GET, &mut fields(), &mut nothing).await?;
            let Some(location) = next(&response) else {
                let IssuedToken { answer, header, date } = issued(&destination, response).await?;
                return Ok(AccessToken::new(
                    header,
                    scopes,
                    asked,
                    Lifetime::of(&answer, date, clock::wall()),
                ));
            };
            let url = destination.url().join(&location).map_err(EgressError::Url)?;
            destination = self.egress.guest_realm(host, &url.expose())?;
        }
        Err(redirects_without_end(&destination))
    }

    /// Sends a GET with the password as Basic, which every registry understands. Follows redirects to where the
    /// credentials may go and nowhere else.
    async fn get(
        &self,
        mut destination: Destination,
        login: Option<&Login>,
    ) -> Result<(Destination, Response), TokenError> {
        for _ in 0..limits::REDIRECTS {
            let mut headers = fields();
            if let Some(login) = login {
                headers.insert(header::AUTHORIZATION, basic(login));
            }
            let mut nothing = RequestBody::empty();
            let response = self.send(&destination, &Method::GET, &mut headers, &mut nothing).await?;
            match next(&response) {
                None => return Ok((destination, response)),
                Some(location) => destination = self.egress.realm_redirect(destination.url(), &location)?,
            }
        }
        Err(redirects_without_end(&destination))
    }

    /// Exchanges a refresh token by POST (oauth.md).
    async fn post(
        &self,
        endpoint: &TokenEndpoint,
        refresh: &Secret,
        scopes: &ScopeSet,
    ) -> Result<(Destination, Response), TokenError> {
        let destination = self.egress.realm(&endpoint.realm)?;
        let scope = scopes.to_string();
        let form = encoded([
            ("grant_type", "refresh_token"),
            ("service", endpoint.service.as_deref().unwrap_or_default()),
            ("client_id", "dockgate"),
            ("scope", &scope),
            ("refresh_token", refresh.expose()),
        ]);
        let mut headers = fields();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        let mut body = RequestBody::held(Bytes::from(form));
        let response = self.send(&destination, &Method::POST, &mut headers, &mut body).await?;
        Ok((destination, response))
    }

    async fn send(
        &self,
        destination: &Destination,
        method: &Method,
        headers: &mut HeaderMap,
        body: &mut RequestBody,
    ) -> Result<Response, TokenError> {
        let request = Outgoing { method, headers, body, purpose: Purpose::Other };
        let sent = self.client.send(destination, request).await;
        let endpoint = || destination.url().to_string();
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

fn redirects_without_end(destination: &Destination) -> TokenError {
    let endpoint = destination.url().to_string();
    TokenError::Answer { endpoint, reason: "it redirects too many times".to_owned() }
}

/// Reads the token out of an endpoint's answer.
async fn issued(destination: &Destination, response: Response) -> Result<IssuedToken, TokenError> {
    let place = destination.url().to_string();
    let date = date(&response.headers);
    let body = body(response, &place).await?;
    let wrong = |reason: String| TokenError::Answer { endpoint: place.clone(), reason };
    let answer = TokenAnswer::parse(&body).map_err(|error| wrong(error.to_string()))?;
    let header = bearer(&answer.token).ok_or_else(|| wrong("it can stand in no header".to_owned()))?;
    Ok(IssuedToken { answer, header, date })
}

/// Returns the token that came with the credentials, whose lifetime is not known.
fn ready(
    token: &Secret,
    scopes: ScopeSet,
    asked: Instant,
    endpoint: &TokenEndpoint,
) -> Result<AccessToken, TokenError> {
    let wrong = || TokenError::Answer {
        endpoint: endpoint.realm.split('?').next().unwrap_or_default().to_owned(),
        reason: "the registry token can stand in no header".to_owned(),
    };
    Ok(AccessToken::new(bearer(token).ok_or_else(wrong)?, scopes, asked, Lifetime::UNKNOWN))
}

/// Returns `Bearer …`, marked as sensitive.
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

/// Returns `Basic …`, marked as sensitive.
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
    location.map(|value| url::written(value.as_bytes()))
}

/// Returns the URL of a GET for a token. The password is not in it.
pub(crate) fn request_url(endpoint: &TokenEndpoint, login: Option<&Login>, scopes: &ScopeSet) -> String {
    with_query(&endpoint.realm, &query(endpoint, login, scopes))
}

/// Renders the query of a GET. `account` is not in the specification; docker sends it, and some token servers read it.
/// Each scope has a parameter of its own, as docker sends them.
fn query(endpoint: &TokenEndpoint, login: Option<&Login>, scopes: &ScopeSet) -> String {
    let service = endpoint.service.as_deref().map(|service| ("service", service));
    let account = login.map(|login| ("account", login.username.as_str()));
    let scopes: Vec<String> = scopes.iter().map(|scope| scope.to_string()).collect();
    let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
    encoded(account.into_iter().chain(service).chain(scopes))
}

/// Appends a query to a realm, which may have parameters of its own.
fn with_query(realm: &str, query: &str) -> String {
    let realm = realm.split('#').next().unwrap_or_default();
    match realm.split_once('?') {
        _ if query.is_empty() => realm.to_owned(),
        Some((_, "")) => format!("{realm}{query}"),
        Some(_) => format!("{realm}&{query}"),
        None => format!("{realm}?{query}"),
    }
}

/// Encodes pairs as application/x-www-form-urlencoded, every byte but the unreserved ones of RFC 3986.
fn encoded<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.extend(percent::encode(value));
    }
    out
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

    fn bearer() -> TokenEndpoint {
        TokenEndpoint { realm: "https://auth.example/token".into(), service: Some("registry.example".into()) }
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
    fn headers_with_secrets_are_marked() {
        let header = basic(&Login { username: "a".into(), password: Secret::new("b") });
        assert!(header.is_sensitive());
        assert_eq!(header.as_bytes(), b"Basic YTpi");
    }
}
