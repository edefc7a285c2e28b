//! Anonymous tokens of the hosts that an upstream redirects to.
//!
//! Some registries are names for another one: lscr.io redirects to ghcr.io, which challenges everyone and gives anonymous
//! tokens to whoever asks (docker-registry-proxy#158). The gateway's credentials are for the upstream alone, and never shown
//! there.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock;
use crate::upstream::auth::scheme::{AuthScheme, ChallengeDetails, KnownScheme};
use crate::upstream::auth::token::{AccessToken, TokenClient};
use crate::upstream::egress::Destination;
use crate::upstream::error::TokenError;

/// The anonymous tokens at the hosts that one upstream redirects to.
pub(crate) struct GuestTokens {
    client: TokenClient,
    kept: Cache<GuestKey, Arc<AccessToken>>,
}

/// The host, its token endpoint and the scopes, as its challenge names them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct GuestKey {
    host: String,
    realm: String,
    service: Option<String>,
    scopes: String,
}

impl GuestTokens {
    pub(crate) fn new(client: TokenClient) -> Self {
        Self {
            client,
            kept: Cache::builder().max_capacity(TOKENS).eviction_policy(EvictionPolicy::lru()).build(),
        }
    }

    /// Returns what to show `host`, which has answered 401 with `headers`. `None` if it wants no token. `refused` is what it
    /// was shown before.
    ///
    /// # Errors
    /// When its token endpoint is somewhere where the gateway does not go, or gives none.
    pub(crate) async fn token(
        &self,
        host: &Destination,
        headers: &HeaderMap,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, TokenError> {
        let known = KnownScheme::default();
        let (_, ChallengeDetails { scopes, .. }) = known.learn(headers);
        let Some(AuthScheme::Bearer(endpoint)) = known.get().as_deref().cloned() else { return Ok(None) };
        let key = GuestKey {
            host: host.entry(),
            realm: endpoint.realm.clone(),
            service: endpoint.service.clone(),
            scopes: scopes.to_string(),
        };
        let kept = self.kept.get(&key).filter(|token| !token.is_expired(clock::now()));
        if let Some(token) = kept.filter(|token| Some(&token.header()) != refused) {
            return Ok(Some(token.header()));
        }
        let token = Arc::new(self.client.fetch_as_guest(host, &endpoint, scopes).await?);
        self.kept.insert(key, token.clone());
        Ok(Some(token.header()))
    }
}

/// Tokens that are kept: one for each repository that is pulled that way.
const TOKENS: u64 = 1000;
