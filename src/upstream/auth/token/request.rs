//! Requests for tokens with the credentials of an upstream's identities.

use std::sync::{Arc, Weak};

use crate::proto::ScopeSet;
use crate::upstream::auth::credentials::Credentials;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::lockout::Lockouts;
use crate::upstream::auth::scheme::TokenEndpoint;
use crate::upstream::auth::scope::RequiredScope;
use crate::upstream::auth::token::access_token::AccessToken;
use crate::upstream::auth::token::cache::FetchToken;
use crate::upstream::auth::token::client::TokenClient;
use crate::upstream::error::TokenError;

/// Obtains tokens for the identities of one upstream, unless their credentials are locked out.
pub(crate) struct TokenSource {
    /// The upstream's name, for the log.
    upstream: String,
    client: TokenClient,
    credentials: Arc<Credentials>,
    lockouts: Arc<Lockouts>,
}

/// A request for a token, to be sent now and again when the token is renewed.
#[derive(Clone)]
pub(crate) struct TokenRequest {
    /// Gone when the upstream is no longer configured.
    pub(crate) source: Weak<TokenSource>,
    pub(crate) identity: UpstreamIdentity,
    pub(crate) endpoint: Arc<TokenEndpoint>,
    pub(crate) scope: RequiredScope,
    /// The scopes that the registry's own challenge named.
    pub(crate) challenged: ScopeSet,
}

impl FetchToken for TokenRequest {
    async fn fetch(&self) -> Option<Result<AccessToken, TokenError>> {
        Some(self.source.upgrade()?.fetch(self).await)
    }
}

impl TokenSource {
    pub(crate) fn new(
        upstream: String,
        client: TokenClient,
        credentials: Arc<Credentials>,
        lockouts: Arc<Lockouts>,
    ) -> Self {
        Self { upstream, client, credentials, lockouts }
    }

    async fn fetch(&self, request: &TokenRequest) -> Result<AccessToken, TokenError> {
        let result = self.ask(request).await;
        match &result {
            Ok(_) => self.lockouts.note_accepted(&request.identity),
            Err(TokenError::LockedOut) => {}
            Err(error) => tracing::warn!(upstream = self.upstream, %error, "no token from the upstream"),
        }
        result
    }

    async fn ask(&self, request: &TokenRequest) -> Result<AccessToken, TokenError> {
        let TokenRequest { identity, endpoint, scope, challenged, .. } = request;
        if self.lockouts.is_locked_out(identity) {
            return Err(TokenError::LockedOut);
        }
        let credential = self.credentials.credential(identity).await?;
        let result = self.client.fetch(endpoint, &credential, scope.scopes(challenged)).await;
        // A request for no scope at all is refused for its credentials, not for what it asks for.
        if *scope == RequiredScope::Version && matches!(result, Err(TokenError::Refused { .. })) {
            self.lockouts.note_refused(identity);
            self.credentials.refused(identity);
        }
        result
    }
}
