//! A token of an upstream's token endpoint.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http::HeaderValue;

use crate::clock;
use crate::config::limits;
use crate::proto::ScopeSet;
use crate::upstream::auth::scheme::ChallengeDetails;
use crate::upstream::auth::scope::RequiredScope;
use crate::upstream::auth::token::lifetime::Lifetime;

/// A token that can be presented.
#[derive(Debug)]
pub(crate) struct AccessToken {
    /// `Bearer …`, marked as sensitive.
    header: HeaderValue,
    /// The scopes that were asked for.
    scopes: ScopeSet,
    made: Instant,
    /// From this time on the token is renewed if it is in use.
    renew: Instant,
    /// From this time on the token is not presented any more.
    expires: Instant,
    /// The token has been presented.
    used: AtomicBool,
    /// A renewal is under way, or has been refused.
    renewing: AtomicBool,
}

impl AccessToken {
    /// Creates a token that was asked for at `asked`.
    pub(crate) fn new(header: HeaderValue, scopes: ScopeSet, asked: Instant, lifetime: Lifetime) -> Self {
        let (renew, expires) = (asked + lifetime.until_renewal, asked + lifetime.until_end);
        let (used, renewing) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { header, scopes, made: clock::now(), renew, expires, used, renewing }
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        now >= self.expires
    }

    /// Notes that a request presents it: only a token in use is renewed.
    pub(crate) fn note_use(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Returns true, and marks the renewal as begun, if it is in use and near its end and no renewal is under way.
    pub(crate) fn begin_renewal(&self, now: Instant) -> bool {
        let due = (self.renew..self.expires).contains(&now) && self.used.load(Ordering::Relaxed);
        due && !self.renewing.swap(true, Ordering::Relaxed)
    }

    /// Allows another attempt at a renewal.
    pub(crate) fn end_renewal(&self) {
        self.renewing.store(false, Ordering::Relaxed);
    }

    /// Returns true if another token could do better, after the upstream has refused this one with `refusal` to a
    /// request for `scope` that began at `began`: an invalid one is replaced unless it was made for this very request,
    /// an insufficient one when it is old enough for rights to have changed, or when the registry names another scope.
    pub(crate) fn may_be_bettered(
        &self,
        refusal: &ChallengeDetails,
        scope: &RequiredScope,
        began: Instant,
    ) -> bool {
        if refusal.invalid_token {
            return self.made < began;
        }
        let old = clock::now().duration_since(self.made) >= limits::TOKEN_FRESH;
        old || !self.scopes.covers(&scope.scopes(&refusal.scopes))
    }

    /// Returns about how many bytes it holds.
    pub(crate) fn weight(&self) -> usize {
        self.header.len() + 512
    }
}
