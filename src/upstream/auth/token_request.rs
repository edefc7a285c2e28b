//! An errand for a token.

use std::sync::{Arc, Weak};

use crate::proto::ScopeSet;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::scheme::Scheme;
use crate::upstream::auth::token;
use crate::upstream::auth::token::{Fetch, Token, TokenError};
use crate::upstream::{RequiredScope, Upstream};

/// What it takes to ask for a token, now and when it is renewed.
#[derive(Clone)]
pub(crate) struct TokenRequest {
    pub(crate) upstream: Weak<Upstream>,
    pub(crate) who: UpstreamIdentity,
    pub(crate) scheme: Arc<Scheme>,
    pub(crate) access: RequiredScope,
    /// What the registry's own challenge named.
    pub(crate) challenged: ScopeSet,
}

impl Fetch for TokenRequest {
    /// `None` where the upstream is no longer configured.
    async fn fetch(&self) -> Option<Result<Token, TokenError>> {
        let upstream = self.upstream.upgrade()?;
        let Scheme::Bearer(bearer) = &*self.scheme else { return None };
        let result = self.ask(&upstream, bearer).await;
        match &result {
            Ok(_) => upstream.standings.taken(&self.who),
            Err(TokenError::Shunned) => {}
            Err(error) => {
                tracing::warn!(upstream = upstream.settings.name, %error, "no token from the upstream");
            }
        }
        Some(result)
    }
}

impl TokenRequest {
    async fn ask(&self, upstream: &Upstream, bearer: &token::Bearer) -> Result<Token, TokenError> {
        if upstream.standings.is_shunned(&self.who) {
            return Err(TokenError::Shunned);
        }
        let grant = upstream.credentials.credential(&self.who).await?;
        let asking = token::Asking { client: &upstream.client, reach: &upstream.reach };
        let result = asking.fetch(bearer, &grant, self.access.scopes(&self.challenged)).await;
        // Where nothing in particular was asked for, it is the credentials that are refused.
        if self.access == RequiredScope::Version && matches!(result, Err(TokenError::Refused { .. })) {
            upstream.standings.refused(&self.who);
            upstream.credentials.refused(&self.who);
        }
        result
    }
}
