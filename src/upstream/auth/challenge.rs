//! Answers an upstream's challenges: presents credentials, and learns from its 401s.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;

use crate::body::RequestBody;
use crate::budget::Budget;
use crate::clock;
use crate::config;
use crate::upstream::auth::credentials::{Credential, Credentials};
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::lockout::Lockouts;
use crate::upstream::auth::scheme::{
    AuthScheme, ChallengeDetails, KnownScheme, TokenEndpoint, offers_basic_alone,
};
use crate::upstream::auth::scope::RequiredScope;
use crate::upstream::auth::token::{
    AccessToken, KeptTokens, Missing, TokenCache, TokenClient, TokenKey, TokenRequest, TokenSource, basic,
    bearer,
};
use crate::upstream::egress::{Destination, EgressPolicy};
use crate::upstream::error::{Error, TokenError, Unauthorized};
use crate::upstream::exchange::{Outgoing, Purpose, Request, Response};
use crate::upstream::rate_limit::{RateLimit, RateLimits, ToldRateLimit};
use crate::upstream::transport::client::HttpClient;

/// Sends requests to one upstream's own host with the credentials that it asks for.
pub(crate) struct Authenticator {
    /// The upstream's name, for the log.
    upstream: String,
    /// The path of `/v2/`, below the path of the upstream's URL.
    version_target: String,
    client: Arc<HttpClient>,
    egress: Arc<EgressPolicy>,
    credentials: Arc<Credentials>,
    lockouts: Arc<Lockouts>,
    scheme: KnownScheme,
    tokens: TokenCache<TokenRequest>,
    token_source: Arc<TokenSource>,
    rate_limits: RateLimits,
    /// The last challenge that could be read only in part.
    partial: Mutex<Option<String>>,
}

impl Authenticator {
    pub(crate) fn new(
        settings: &config::Upstream,
        client: Arc<HttpClient>,
        egress: Arc<EgressPolicy>,
        credentials: Arc<Credentials>,
    ) -> Self {
        let lockouts = Arc::new(Lockouts::new());
        let counters = client.counters().clone();
        let token_client = TokenClient::new(client.clone(), egress.clone());
        let token_source =
            TokenSource::new(settings.name.clone(), token_client, credentials.clone(), lockouts.clone());
        Self {
            upstream: settings.name.clone(),
            version_target: [settings.url.path.as_str(), "/v2/"].concat(),
            client,
            egress,
            credentials,
            lockouts,
            scheme: KnownScheme::default(),
            tokens: TokenCache::new(counters),
            token_source: Arc::new(token_source),
            rate_limits: RateLimits::default(),
            partial: Mutex::default(),
        }
    }

    /// Returns the upstream's name.
    pub(crate) fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Returns true if the upstream is known to want credentials.
    pub(crate) fn knows_scheme(&self) -> bool {
        self.scheme.get().is_some()
    }

    /// Returns the last rate limit that the upstream has told `identity`.
    pub(crate) fn rate_limit(&self, identity: impl FnOnce() -> UpstreamIdentity) -> Option<RateLimit> {
        self.rate_limits.last(identity)
    }

    /// Returns the last rate limit that the upstream has told each of the gateway's own accounts.
    pub(crate) fn rate_limits(&self) -> Vec<(String, ToldRateLimit)> {
        self.rate_limits.own()
    }

    /// Returns the tokens that are kept, and why there is none where the token endpoint gives none.
    pub(crate) fn tokens(&self) -> KeptTokens {
        self.tokens.kept()
    }

    /// Returns the budget of requests for tokens.
    pub(crate) fn token_requests(&self) -> &Budget {
        self.tokens.requests()
    }

    /// Renews the tokens that are in use and near their end. To be called every few seconds.
    pub(crate) fn renew_tokens(&self) {
        self.tokens.renew();
    }

    /// Drops the token that a login of `identity` got: a token of an earlier time says nothing of the password today.
    pub(crate) fn forget_login(&self, identity: &UpstreamIdentity) {
        self.tokens.drop_kept(&token_key(identity, &RequiredScope::Version));
    }

    /// Sends to the upstream itself and answers its challenge: first with what is known of it beforehand, and once more
    /// after a 401 if that can help and the body can be sent again.
    pub(crate) async fn send(
        &self,
        identity: &UpstreamIdentity,
        destination: &Destination,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        let began = clock::now();
        let is_anonymous = *identity == UpstreamIdentity::Anonymous;
        if request.body.is_unfinished() && !is_anonymous && !self.scheme.is_settled() {
            // A streamed body can't be sent twice: what the upstream wants must be known before.
            Box::pin(self.ping(HeaderMap::new())).await?;
        }
        let first = match self.attempt(identity, destination, request, None, began).await? {
            Attempt::Answered(response) => return Ok(response),
            Attempt::Refused(first) => first,
        };
        if first.retry.is_none() {
            return Err(self.give_up(identity, &first));
        }
        if request.body.has_begun() {
            return Err(Error::Unauthorized(first.meaning));
        }
        match self.attempt(identity, destination, request, Some(&first), began).await? {
            Attempt::Answered(response) => Ok(response),
            Attempt::Refused(second) => Err(self.give_up(identity, &second)),
        }
    }

    /// Sends to `/v2/` and answers the challenge, as `docker login` does it.
    pub(crate) async fn send_login(
        &self,
        identity: &UpstreamIdentity,
        headers: HeaderMap,
    ) -> Result<Response, Error> {
        let mut request = Request {
            method: Method::GET,
            target: self.version_target.clone(),
            headers,
            body: &mut RequestBody::empty(),
            scope: RequiredScope::Version,
            purpose: Purpose::Other,
        };
        let destination = self.egress.own(request.target.clone());
        self.send(identity, &destination, &mut request).await
    }

    /// Asks at `/v2/`, where registries say what they want, without credentials. Returns true with the answer if the
    /// upstream wants something else than before.
    pub(crate) async fn ping(&self, mut headers: HeaderMap) -> Result<(Response, bool), Error> {
        let destination = self.egress.own(self.version_target.clone());
        let (method, mut body) = (Method::GET, RequestBody::empty());
        let request =
            Outgoing { method: &method, headers: &mut headers, body: &mut body, purpose: Purpose::Other };
        let response = self.client.send(&destination, request).await?;
        let changed = response.status == StatusCode::UNAUTHORIZED && self.learn(&response.headers).0;
        self.scheme.settle();
        Ok((response, changed))
    }

    /// Sends once. `before` is the refusal of the first attempt, if this is the second.
    async fn attempt(
        &self,
        identity: &UpstreamIdentity,
        destination: &Destination,
        request: &mut Request<'_>,
        before: Option<&Refused>,
        began: Instant,
    ) -> Result<Attempt, Error> {
        let presented = self.present(identity, &request.scope, before).await?;
        let authorization = presented.authorization();
        if let Some(Refused { meaning, .. }) =
            before.filter(|it| it.presented.authorization() == authorization)
        {
            // Credentials that were refused would be refused again.
            return Ok(Attempt::Refused(Refused { presented, meaning: *meaning, retry: None }));
        }
        set_authorization(&mut request.headers, authorization);
        let response = self.client.send(destination, request.outgoing()).await?;
        self.rate_limits.note(&self.upstream, identity, &response);
        if response.status != StatusCode::UNAUTHORIZED {
            if before.is_none()
                && !request.body.has_begun()
                && self.may_hide_a_challenge(identity, &presented, response.status).await?
            {
                let retry = Some(ChallengeDetails::default());
                return Ok(Attempt::Refused(Refused {
                    presented,
                    meaning: Unauthorized::NoCredentials,
                    retry,
                }));
            }
            if matches!(presented, Presented::Fixed(_)) {
                self.lockouts.note_accepted(identity);
            }
            return Ok(Attempt::Answered(response));
        }
        let learned = self.learn_from(&presented, &response.headers).await?;
        let mut verdict = self.judge(identity, &presented, learned, &request.scope, began);
        if verdict.meaning == Unauthorized::NoChallenge && !self.scheme.is_settled() {
            // Some registries challenge at `/v2/` alone.
            Box::pin(self.ping(HeaderMap::new())).await?;
            verdict.retry = self.scheme.get().map(|_| ChallengeDetails::default());
        }
        let Verdict { meaning, retry } = verdict;
        Ok(Attempt::Refused(Refused { presented, meaning, retry }))
    }

    /// Returns the error of a request that is not tried again. Credentials and tokens that were refused are not
    /// presented again with the very next request.
    fn give_up(&self, identity: &UpstreamIdentity, refused: &Refused) -> Error {
        match (&refused.presented, refused.meaning) {
            (Presented::Fixed(_), Unauthorized::Password) => self.lockouts.note_refused(identity),
            (Presented::Token(key, _), Unauthorized::InvalidToken) => {
                self.tokens.fail(key.clone(), TokenError::TokensRefused);
            }
            _ => {}
        }
        Error::Unauthorized(refused.meaning)
    }

    /// Returns what to present for a request.
    async fn present(
        &self,
        identity: &UpstreamIdentity,
        scope: &RequiredScope,
        before: Option<&Refused>,
    ) -> Result<Presented, Error> {
        let Some(scheme) = self.scheme.get() else { return Ok(Presented::Unasked) };
        match &*scheme {
            AuthScheme::Basic => self.present_password(identity).await,
            AuthScheme::Bearer(endpoint) => self.present_token(identity, scope, endpoint, before).await,
        }
    }

    async fn present_password(&self, identity: &UpstreamIdentity) -> Result<Presented, Error> {
        if self.lockouts.is_locked_out(identity) {
            return Err(Error::Unauthorized(Unauthorized::Password));
        }
        Ok(match self.credentials.credential(identity).await? {
            Credential::Password(login) => Presented::Fixed(basic(&login)),
            Credential::RegistryToken(token) => bearer(&token).map_or(Presented::Nothing, Presented::Fixed),
            Credential::Nothing | Credential::IdentityToken(_) => Presented::Nothing,
        })
    }

    async fn present_token(
        &self,
        identity: &UpstreamIdentity,
        scope: &RequiredScope,
        endpoint: &Arc<TokenEndpoint>,
        before: Option<&Refused>,
    ) -> Result<Presented, Error> {
        let refusal = before.and_then(|before| before.retry.as_ref());
        match self.token(identity, scope, endpoint, refusal).await {
            Ok((key, token)) => Ok(Presented::Token(key, token)),
            Err(missing) if missing.error.is_refusal() => {
                let explanation = self.explain_refused_token(identity, scope, endpoint, missing.error);
                Err(Box::pin(explanation).await)
            }
            // The token endpoint may have moved.
            Err(missing)
                if before.is_none() && missing.is_news && Box::pin(self.has_moved(&missing.error)).await =>
            {
                let Some(AuthScheme::Bearer(moved)) = self.scheme.get().as_deref().cloned() else {
                    return Err(Error::Token(Arc::new(TokenError::Abandoned)));
                };
                let token = self.token(identity, scope, &moved, refusal).await;
                token
                    .map(|(key, token)| Presented::Token(key, token))
                    .map_err(|missing| Error::Token(missing.error))
            }
            Err(missing) => Err(Error::Token(missing.error)),
        }
    }

    async fn token(
        &self,
        identity: &UpstreamIdentity,
        scope: &RequiredScope,
        endpoint: &Arc<TokenEndpoint>,
        refusal: Option<&ChallengeDetails>,
    ) -> Result<(TokenKey, Arc<AccessToken>), Missing> {
        let key = token_key(identity, scope);
        let request = TokenRequest {
            source: Arc::downgrade(&self.token_source),
            identity: identity.clone(),
            endpoint: endpoint.clone(),
            scope: scope.clone(),
            challenged: refusal.map(|refusal| refusal.scopes.clone()).unwrap_or_default(),
        };
        let token = self.tokens.get(key.clone(), request).await?;
        Ok((key, token))
    }

    /// Returns what it means that the token endpoint refuses a token for `scope`: wrong credentials, or a repository
    /// that does not exist or is not for them. A token for no scope at all, as `docker login` asks for it, tells which.
    /// An anonymous client has no credentials to be wrong.
    async fn explain_refused_token(
        &self,
        identity: &UpstreamIdentity,
        scope: &RequiredScope,
        endpoint: &Arc<TokenEndpoint>,
        error: Arc<TokenError>,
    ) -> Error {
        if *identity == UpstreamIdentity::Anonymous {
            return Error::Unauthorized(Unauthorized::Insufficient);
        }
        if *scope == RequiredScope::Version {
            return Error::Token(error);
        }
        if self.lockouts.is_verified(identity) {
            return Error::Unauthorized(Unauthorized::Insufficient);
        }
        self.forget_login(identity);
        match self.token(identity, &RequiredScope::Version, endpoint, None).await {
            Ok(_) => {
                self.lockouts.note_verified(identity);
                Error::Unauthorized(Unauthorized::Insufficient)
            }
            Err(missing) if missing.error.is_refusal() => Error::Token(missing.error),
            Err(_) => Error::Token(error),
        }
    }

    /// Returns true if an answer other than 401 may be a challenge all the same, and credentials can be presented now.
    ///
    /// Some registries answer 404 or 403 to requests without credentials, and challenge at `/v2/` alone (containerd#3291,
    /// renovate#11446). ECR answers 403 to a password that has expired, for which the credential helper may have another
    /// by now (amazon-ecr-credential-helper#7).
    async fn may_hide_a_challenge(
        &self,
        identity: &UpstreamIdentity,
        presented: &Presented,
        status: StatusCode,
    ) -> Result<bool, Error> {
        if *identity == UpstreamIdentity::Anonymous {
            return Ok(false);
        }
        match presented {
            Presented::Unasked
                if matches!(status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN)
                    && !self.scheme.is_settled() =>
            {
                self.ping(HeaderMap::new()).await?;
                Ok(self.scheme.get().is_some())
            }
            Presented::Fixed(shown) if status == StatusCode::FORBIDDEN => {
                self.credentials.refused(identity);
                let by_now = self.present_password(identity).await?.authorization();
                Ok(by_now.is_some_and(|by_now| by_now != shown))
            }
            _ => Ok(false),
        }
    }

    /// Learns from a 401 to what was presented. Returns true if the scheme has changed, with what else the 401 says.
    ///
    /// Azure offers Basic to requests whose token it refuses, though it takes passwords at its token endpoint alone
    /// (Azure/acr#466): what a registry wants is what it says at `/v2/` to a request without credentials.
    async fn learn_from(
        &self,
        presented: &Presented,
        headers: &HeaderMap,
    ) -> Result<(bool, ChallengeDetails), Error> {
        if !matches!(presented, Presented::Token(..)) || !offers_basic_alone(headers) {
            return Ok(self.learn(headers));
        }
        let (_, changed) = self.ping(HeaderMap::new()).await?;
        Ok((changed, ChallengeDetails { invalid_token: true, ..ChallengeDetails::default() }))
    }

    /// Returns what a 401 means, and if another attempt can help.
    fn judge(
        &self,
        identity: &UpstreamIdentity,
        presented: &Presented,
        (changed, refusal): (bool, ChallengeDetails),
        scope: &RequiredScope,
        began: Instant,
    ) -> Verdict {
        match (presented, self.scheme.get().as_deref()) {
            (_, None) => Verdict::last(Unauthorized::NoChallenge),
            (Presented::Nothing, _) if !changed => Verdict::last(Unauthorized::NoCredentials),
            (Presented::Unasked, Some(AuthScheme::Basic)) if *identity == UpstreamIdentity::Anonymous => {
                Verdict::last(Unauthorized::NoCredentials)
            }
            (Presented::Unasked | Presented::Nothing, Some(_)) => {
                Verdict::again(Unauthorized::NoCredentials, refusal)
            }
            (Presented::Fixed(_), Some(AuthScheme::Basic)) => {
                // A helper may have another password by now.
                self.credentials.refused(identity);
                Verdict::again(Unauthorized::Password, refusal)
            }
            (Presented::Fixed(_), Some(AuthScheme::Bearer(_))) => {
                Verdict::again(Unauthorized::Password, refusal)
            }
            (Presented::Token(key, token), _) => {
                let meaning = match refusal.invalid_token {
                    true => Unauthorized::InvalidToken,
                    false => Unauthorized::Insufficient,
                };
                if changed || token.may_be_bettered(&refusal, scope, began) {
                    self.tokens.forget(key, token);
                    return Verdict::again(meaning, refusal);
                }
                Verdict::last(meaning)
            }
        }
    }

    /// Takes the scheme from a 401. Returns true if it has changed, with what else the 401 says.
    fn learn(&self, headers: &HeaderMap) -> (bool, ChallengeDetails) {
        let (changed, refusal) = self.scheme.learn(headers);
        if changed {
            self.tokens.clear();
        }
        if let Some(line) = &refusal.partial {
            self.note_partial(line);
        }
        (changed, refusal)
    }

    /// Warns of a challenge that could be read only in part, once for each that differs from the last.
    fn note_partial(&self, line: &str) {
        let mut last = self.partial.lock();
        if last.as_deref() != Some(line) {
            let upstream = &*self.upstream;
            tracing::warn!(
                upstream,
                challenge = line,
                "the upstream's challenge is malformed; it is read as far as it can be"
            );
            *last = Some(line.to_owned());
        }
    }

    /// Returns true if the upstream names another token endpoint by now than the one that failed with `error`.
    async fn has_moved(&self, error: &TokenError) -> bool {
        error.may_depend_on_endpoint() && matches!(self.ping(HeaderMap::new()).await, Ok((_, true)))
    }
}

fn token_key(identity: &UpstreamIdentity, scope: &RequiredScope) -> TokenKey {
    TokenKey { identity: identity.clone(), scope: scope.as_text() }
}

/// The outcome of sending once.
enum Attempt {
    Answered(Response),
    Refused(Refused),
}

/// A 401 to one attempt.
struct Refused {
    presented: Presented,
    meaning: Unauthorized,
    /// The details of the 401 for another attempt, if one can help.
    retry: Option<ChallengeDetails>,
}

/// The meaning of a 401, and its details for another attempt if one can help.
struct Verdict {
    meaning: Unauthorized,
    retry: Option<ChallengeDetails>,
}

impl Verdict {
    fn last(meaning: Unauthorized) -> Self {
        Self { meaning, retry: None }
    }

    fn again(meaning: Unauthorized, refusal: ChallengeDetails) -> Self {
        Self { meaning, retry: Some(refusal) }
    }
}

/// The credentials that were presented to the upstream.
enum Presented {
    /// None: the upstream was not known to want any.
    Unasked,
    /// None: there are none of the kind that it wants.
    Nothing,
    /// A password, or a token that came with the credentials.
    Fixed(HeaderValue),
    Token(TokenKey, Arc<AccessToken>),
}

impl Presented {
    fn authorization(&self) -> Option<HeaderValue> {
        match self {
            Self::Unasked | Self::Nothing => None,
            Self::Fixed(value) => Some(value.clone()),
            Self::Token(_, token) => Some(token.header()),
        }
    }
}

/// Sets or removes the Authorization field.
pub(crate) fn set_authorization(headers: &mut HeaderMap, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(header::AUTHORIZATION, value),
        None => headers.remove(header::AUTHORIZATION),
    };
}

#[cfg(test)]
mod tests;
