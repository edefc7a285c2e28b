//! Answering an upstream's challenge: what is shown to it, and what it says to that.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::body::RequestBody;
use crate::clock;
use crate::upstream::auth::credentials::Credential;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::scheme::{Refusal, Scheme};
use crate::upstream::auth::token;
use crate::upstream::auth::token::{Key, Missing, Token, TokenError};
use crate::upstream::auth::token_request::TokenRequest;
use crate::upstream::egress::Destination;
use crate::upstream::transport::client::Outgoing;
use crate::upstream::{Error, Purpose, Request, RequiredScope, Response, Unauthorized, Upstream, outgoing};

impl Upstream {
    /// Sends to the upstream itself, and answers its challenge: with what is known of it beforehand, and once more after
    /// a 401 if that can help and the body can be sent again.
    pub(crate) async fn authorized(
        &self,
        who: &UpstreamIdentity,
        hop: &Destination,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        let began = clock::now();
        if request.body.is_unfinished() && *who != UpstreamIdentity::Anonymous && !self.known.is_settled() {
            // A body that flows can't be sent twice: what the upstream wants must be known before.
            self.ping(HeaderMap::new()).await?;
        }
        let (mut refusal, mut before) = (Refusal::default(), None::<(Option<HeaderValue>, Unauthorized)>);
        loop {
            let first = before.is_none();
            let shown = self.show(who, &request.access, &refusal, first).await?;
            let value = shown.header();
            if let Some((_, meaning)) = before.as_ref().filter(|(before, _)| *before == value) {
                // The same would be refused the same.
                self.note_refusal(who, &shown, *meaning);
                return Err(Error::Unauthorized(*meaning));
            }
            set_authorization(&mut request.headers, value.clone());
            let response = self.client.send(hop, outgoing(request)).await?;
            self.rate_limits.note(&self.settings.name, who, &response);
            if response.status != StatusCode::UNAUTHORIZED {
                if matches!(shown, Presented::Fixed(_)) {
                    self.standings.taken(who);
                }
                return Ok(response);
            }
            let mut verdict = self.refused(who, &shown, &response.headers, &request.access, began);
            if matches!(verdict, Verdict::Final(Unauthorized::NoChallenge)) && !self.known.is_settled() {
                // Some say what they want at `/v2/` alone.
                self.ping(HeaderMap::new()).await?;
                if self.known.get().is_some() {
                    verdict = Verdict::Again(Refusal::default(), Unauthorized::NoChallenge);
                }
            }
            match verdict {
                Verdict::Again(said, meaning) if first && !request.body.has_begun() => {
                    (refusal, before) = (said, Some((value, meaning)));
                }
                // Another attempt would have helped.
                Verdict::Again(_, meaning) if first => return Err(Error::Unauthorized(meaning)),
                Verdict::Again(_, meaning) | Verdict::Final(meaning) => {
                    self.note_refusal(who, &shown, meaning);
                    return Err(Error::Unauthorized(meaning));
                }
            }
        }
    }

    /// What is shown for a request; `refusal` is what the upstream said to the last attempt, if this is not the first.
    async fn show(
        &self,
        who: &UpstreamIdentity,
        access: &RequiredScope,
        refusal: &Refusal,
        first: bool,
    ) -> Result<Presented, Error> {
        let Some(scheme) = self.known.get() else { return Ok(Presented::Unasked) };
        if *scheme == Scheme::Basic {
            if self.standings.is_shunned(who) {
                return Err(Error::Unauthorized(Unauthorized::Password));
            }
            return Ok(match self.credentials.credential(who).await? {
                Credential::Password(login) => Presented::Fixed(token::basic(&login)),
                Credential::RegistryToken(token) => {
                    token::bearer(&token).map_or(Presented::Nothing, Presented::Fixed)
                }
                Credential::Nothing | Credential::IdentityToken(_) => Presented::Nothing,
            });
        }
        match self.token(who, access, &scheme, refusal).await {
            Ok((key, token)) => Ok(Presented::Token(key, token)),
            Err(missing) if missing.error.is_refusal() => {
                Err(self.refused_token(who, access, &scheme, missing.error).await)
            }
            // Its token endpoint may be elsewhere by now.
            Err(missing) if first && missing.is_news && self.has_moved(&missing.error).await => {
                let scheme = self.known.get().unwrap_or(scheme);
                let token = self.token(who, access, &scheme, refusal).await;
                token
                    .map(|(key, token)| Presented::Token(key, token))
                    .map_err(|missing| Error::Token(missing.error))
            }
            Err(missing) => Err(Error::Token(missing.error)),
        }
    }

    async fn token(
        &self,
        who: &UpstreamIdentity,
        access: &RequiredScope,
        scheme: &Arc<Scheme>,
        refusal: &Refusal,
    ) -> Result<(Key, Arc<Token>), Missing> {
        let key = Key { who: who.clone(), scope: access.scope() };
        let errand = TokenRequest {
            upstream: self.me.clone(),
            who: who.clone(),
            scheme: scheme.clone(),
            access: access.clone(),
            challenged: refusal.scopes.clone(),
        };
        let token = self.tokens.get(key.clone(), errand).await?;
        Ok((key, token))
    }

    /// What it means that there is no token for `access`: the credentials may be wrong, or what was asked for is not
    /// there or not for them. That shows when they are shown for nothing in particular, as `docker login` does it. Nobody
    /// in particular has none to be wrong.
    async fn refused_token(
        &self,
        who: &UpstreamIdentity,
        access: &RequiredScope,
        scheme: &Arc<Scheme>,
        error: Arc<TokenError>,
    ) -> Error {
        if *who == UpstreamIdentity::Anonymous {
            return Error::Unauthorized(Unauthorized::Insufficient);
        }
        if *access == RequiredScope::Version {
            return Error::Token(error);
        }
        if self.standings.is_believed(who) {
            return Error::Unauthorized(Unauthorized::Insufficient);
        }
        // A token of an earlier time says nothing of the credentials today.
        self.tokens.drop_kept(&Key { who: who.clone(), scope: RequiredScope::Version.scope() });
        match self.token(who, &RequiredScope::Version, scheme, &Refusal::default()).await {
            Ok(_) => {
                self.standings.believe(who);
                Error::Unauthorized(Unauthorized::Insufficient)
            }
            Err(missing) if missing.error.is_refusal() => Error::Token(missing.error),
            Err(_) => Error::Token(error),
        }
    }

    /// Credentials and tokens that are not good are not tried again with the very next request.
    fn note_refusal(&self, who: &UpstreamIdentity, shown: &Presented, meaning: Unauthorized) {
        match (shown, meaning) {
            (Presented::Fixed(_), Unauthorized::Password) => self.standings.refused(who),
            (Presented::Token(key, _), Unauthorized::InvalidToken) => {
                self.tokens.fail(key.clone(), TokenError::NotTaken);
            }
            _ => {}
        }
    }

    /// A 401: learns from it, and says whether asking once more can help.
    fn refused(
        &self,
        who: &UpstreamIdentity,
        shown: &Presented,
        headers: &HeaderMap,
        access: &RequiredScope,
        began: Instant,
    ) -> Verdict {
        let (changed, refusal) = self.known.learn(headers);
        if changed {
            self.tokens.clear();
        }
        match (shown, self.known.get().as_deref()) {
            (_, None) => Verdict::Final(Unauthorized::NoChallenge),
            (Presented::Nothing, _) if !changed => Verdict::Final(Unauthorized::NoCredentials),
            (Presented::Unasked, Some(Scheme::Basic)) if *who == UpstreamIdentity::Anonymous => {
                Verdict::Final(Unauthorized::NoCredentials)
            }
            (Presented::Unasked | Presented::Nothing, Some(_)) => {
                Verdict::Again(refusal, Unauthorized::NoCredentials)
            }
            (Presented::Fixed(_), Some(Scheme::Basic)) => {
                // A helper may have another password by now.
                self.credentials.refused(who);
                Verdict::Again(refusal, Unauthorized::Password)
            }
            (Presented::Fixed(_), Some(Scheme::Bearer(_))) => Verdict::Again(refusal, Unauthorized::Password),
            (Presented::Token(key, token), _) => {
                let meaning = if refusal.invalid_token {
                    Unauthorized::InvalidToken
                } else {
                    Unauthorized::Insufficient
                };
                if changed || token.may_be_bettered(&refusal, access, began) {
                    self.tokens.forget(key, token);
                    return Verdict::Again(refusal, meaning);
                }
                Verdict::Final(meaning)
            }
        }
    }

    /// Asks at `/v2/`, where registries say what they want. With the answer comes whether that is another thing than
    /// before.
    pub(crate) async fn ping(&self, mut headers: HeaderMap) -> Result<(Response, bool), Error> {
        let hop = self.reach.own(self.version_target());
        let (method, mut body) = (Method::GET, RequestBody::empty());
        let request =
            Outgoing { method: &method, headers: &mut headers, body: &mut body, subject: Purpose::Other };
        let response = self.client.send(&hop, request).await?;
        let changed = response.status == StatusCode::UNAUTHORIZED && self.known.learn(&response.headers).0;
        if changed {
            self.tokens.clear();
        }
        self.known.settle();
        Ok((response, changed))
    }

    /// Whether the upstream has another token endpoint by now than the one that has failed so.
    async fn has_moved(&self, error: &TokenError) -> bool {
        error.may_be_of_the_place() && matches!(self.ping(HeaderMap::new()).await, Ok((_, true)))
    }

    pub(crate) fn version_target(&self) -> String {
        [self.settings.url.path.as_str(), "/v2/"].concat()
    }
}

/// What was shown to the upstream.
enum Presented {
    /// Nothing: it was not known to want anything.
    Unasked,
    /// Nothing: there is none of what it wants.
    Nothing,
    /// A password, or a token that came with the credentials.
    Fixed(HeaderValue),
    Token(Key, Arc<Token>),
}

impl Presented {
    fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Unasked | Self::Nothing => None,
            Self::Fixed(value) => Some(value.clone()),
            Self::Token(_, token) => Some(token.header()),
        }
    }
}

/// What a 401 comes to.
enum Verdict {
    /// Another attempt may help. If there is none left, this is what it means.
    Again(Refusal, Unauthorized),
    Final(Unauthorized),
}

pub(crate) fn set_authorization(headers: &mut HeaderMap, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(header::AUTHORIZATION, value),
        None => headers.remove(header::AUTHORIZATION),
    };
}
