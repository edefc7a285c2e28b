//! Workloads, which log in by the token of their platform: CI jobs, pods (OpenID Connect Core 1.0 section 3.1.3.7).

mod issuer_keys;

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest::{SHA256, digest};
use moka::sync::Cache;
use serde_json::{Map, Value};

use crate::authn::oidc::issuer_keys::{Candidates, IssuerKeyring};
use crate::clock;
use crate::config::{IssuerKeys, OidcProvider, RequiredClaim, limits};
use crate::proto::claim_template::{ClaimError, text_of};
use crate::proto::identity::ProvidedName;
use crate::proto::jwt::{Unverified, numeric_date};
use crate::proto::{Fingerprint, Secret};

pub(crate) use issuer_keys::FetchKeys;

/// The platforms whose tokens are logins here.
#[derive(Debug, Default)]
pub(crate) struct Workloads(Vec<Provider>);

impl Workloads {
    /// Returns the platforms of `providers`, each with the way to its keys.
    pub(crate) fn new(providers: impl IntoIterator<Item = (OidcProvider, Arc<dyn FetchKeys>)>) -> Self {
        Self(providers.into_iter().map(|(settings, fetch)| Provider::new(settings, fetch)).collect())
    }

    /// Returns true if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the provider that a user name stands for.
    pub(crate) fn named(&self, user: &str) -> Option<&Provider> {
        self.0.iter().find(|provider| provider.settings.name == user)
    }

    /// Returns the provider that a token says it is by. Nothing of that is proved.
    pub(crate) fn issuer_of(&self, token: &Secret) -> Option<&Provider> {
        if let Some(provider) = self.0.iter().find(|provider| provider.remembered(token).is_some()) {
            return Some(provider);
        }
        let claims = Unverified::parse(token.expose())?.claims::<Map<String, Value>>()?;
        let issuer = claims.get("iss")?.as_str()?;
        let meant = self.0.iter().find(|provider| provider.is_meant(issuer, claims.get("aud")));
        meant.or_else(|| self.0.iter().find(|provider| provider.settings.issuer == issuer))
    }

    /// Returns true if the platform that gives such names has the settings of this fingerprint.
    pub(crate) fn give(&self, name: &ProvidedName, settings: Option<Fingerprint>) -> bool {
        let mut provider =
            self.0.iter().filter(|provider| provider.settings.user.provider() == name.provider());
        provider.any(|provider| settings == Some(provider.fingerprint))
    }

    /// Has all keys asked for anew, and all tokens checked again.
    pub(crate) fn forget(&self) {
        self.0.iter().for_each(Provider::forget);
    }
}

/// A platform whose tokens are logins here.
pub(crate) struct Provider {
    settings: OidcProvider,
    /// The fingerprint of the settings.
    fingerprint: Fingerprint,
    keys: IssuerKeyring,
    /// Tokens that were found right, by their hash, each with the generation of the keys.
    known: Cache<[u8; 32], (Arc<Workload>, u64)>,
}

/// A workload, as its token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    /// The name that rules and logs know.
    pub(crate) name: ProvidedName,
    /// The groups that its provider says it is in.
    pub(crate) groups: Vec<Box<str>>,
    /// When the token dies, in seconds since 1970.
    pub(crate) expires: u64,
    /// The fingerprint of its platform's settings.
    pub(crate) settings: Fingerprint,
}

/// The reason why a token is no login. The client is told only that it is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefusal {
    /// No token in the form of RFC 7515.
    #[error("it is malformed")]
    Malformed,
    /// None of the issuer's keys has its `kid` and its algorithm.
    #[error("no key of the issuer is called {kid:?} and signs by {algorithm:?}")]
    Key {
        /// The key that it names.
        kid: String,
        /// The algorithm that it names.
        algorithm: String,
    },
    /// The issuer's keys cannot be had now.
    #[error("the issuer's keys cannot be had: {0}")]
    NoKeys(Arc<str>),
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
    /// `iss` is another.
    #[error("its issuer is another")]
    Issuer,
    /// `aud` is another.
    #[error("its audience is another")]
    Audience,
    /// `exp` has passed, or is missing. The workload is still good for uploads that it began, unless that was long ago.
    #[error("it has expired")]
    Expired(Option<Arc<Workload>>),
    /// `nbf` or `iat` is yet to come.
    #[error("it is not valid yet")]
    Early,
    /// A claim is not what `require` says.
    #[error("the claim {0} does not match `require`")]
    Required(String),
    /// A claim that the name needs.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

impl Provider {
    /// Returns the provider; its keys come by `fetch` when they are first needed.
    fn new(settings: OidcProvider, fetch: Arc<dyn FetchKeys>) -> Self {
        let weigh = |_: &[u8; 32], (workload, _): &(Arc<Workload>, u64)| {
            let groups: usize = workload.groups.iter().map(|group| group.len() + 16).sum();
            u32::try_from(256 + workload.name.as_str().len() + groups).unwrap_or(u32::MAX)
        };
        let known = Cache::builder().weigher(weigh).max_capacity(limits::TOKEN_MEMORY_BYTES).build();
        Self { keys: IssuerKeyring::new(fetch), fingerprint: fingerprint(&settings), settings, known }
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Returns true if its tokens have this issuer and, among others, this audience.
    fn is_meant(&self, issuer: &str, audience: Option<&Value>) -> bool {
        self.settings.issuer == issuer && is_for(audience, &self.settings.audience)
    }

    /// Returns the workload of a token that was looked at before and is still good, and so is the key that signed it.
    fn remembered(&self, token: &Secret) -> Option<Arc<Workload>> {
        let (workload, generation) = self.known.get(&hash(token))?;
        (is_alive(workload.expires, now()) && generation == self.keys.generation()).then_some(workload)
    }

    /// Returns the workload that a token proves.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    pub(crate) async fn verify(&self, token: &Secret) -> Result<Arc<Workload>, TokenRefusal> {
        if let Some(workload) = self.remembered(token) {
            self.keys.renew_if_old();
            return Ok(workload);
        }
        let unverified = Unverified::parse(token.expose()).ok_or(TokenRefusal::Malformed)?;
        let generation = self.check_signature(&unverified).await?;
        let claims = unverified.claims::<Map<String, Value>>().ok_or(TokenRefusal::Malformed)?;
        let (workload, now) = (Arc::new(self.workload(&claims, now())?), now());
        if !is_alive(workload.expires, now) {
            let recent = now - workload.expires <= limits::TOKEN_UPLOAD_GRACE.as_secs();
            return Err(TokenRefusal::Expired(recent.then_some(workload)));
        }
        self.known.insert(hash(token), (workload.clone(), generation));
        Ok(workload)
    }

    /// Forgets which tokens were right, and asks for the keys again: they may have been withdrawn.
    fn forget(&self) {
        self.known.invalidate_all();
        self.keys.expire();
    }

    /// Checks the signature. Returns the generation of the keys of which one has made it.
    async fn check_signature(&self, token: &Unverified<'_>) -> Result<u64, TokenRefusal> {
        let (kid, algorithm) = (token.header.kid.as_deref(), token.header.alg.as_str());
        let candidates = self.keys.candidates(kid, algorithm).await;
        let Candidates { keys, generation } = candidates.map_err(TokenRefusal::NoKeys)?;
        if keys.is_empty() {
            let kid = kid.unwrap_or_default().chars().take(100).collect();
            let algorithm = algorithm.chars().take(20).collect();
            return Err(TokenRefusal::Key { kid, algorithm });
        }
        let verifies = keys.iter().any(|key| key.verifies(token.signed.as_bytes(), &token.signature));
        if verifies { Ok(generation) } else { Err(TokenRefusal::Signature) }
    }

    fn workload(&self, claims: &Map<String, Value>, now: u64) -> Result<Workload, TokenRefusal> {
        let settings = &self.settings;
        if claims.get("iss").and_then(Value::as_str) != Some(&settings.issuer) {
            return Err(TokenRefusal::Issuer);
        }
        if !is_for(claims.get("aud"), &settings.audience) {
            return Err(TokenRefusal::Audience);
        }
        let expires = claims.get("exp").and_then(numeric_date).ok_or(TokenRefusal::Expired(None))?;
        for name in ["nbf", "iat"] {
            let early = claims
                .get(name)
                .is_some_and(|time| numeric_date(time).is_none_or(|time| time > now + LEEWAY));
            if early {
                return Err(TokenRefusal::Early);
            }
        }
        if let Some(missing) = settings.require.iter().find(|required| !is_met(required, claims)) {
            return Err(TokenRefusal::Required(missing.path.join("/")));
        }
        let name = settings.user.render(claims)?;
        let groups = settings.groups.iter().map(|group| group.render(claims).map(String::into_boxed_str));
        let name = ProvidedName::new(&name).ok_or_else(|| ClaimError(settings.user.to_string()))?;
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(Workload { name, groups, expires, settings: self.fingerprint })
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// Returns the fingerprint of all that decides who can log in, and under which name.
fn fingerprint(settings: &OidcProvider) -> Fingerprint {
    let keys = match &settings.keys {
        IssuerKeys::Discovered { .. } => String::new(),
        IssuerKeys::Url { url, .. } => url.clone(),
        IssuerKeys::File(path) => path.display().to_string(),
    };
    let mut parts = vec![settings.issuer.clone(), settings.audience.clone(), keys, settings.user.to_string()];
    parts.extend(settings.groups.iter().map(ToString::to_string));
    for required in &settings.require {
        // The number says where the patterns end.
        parts.push(format!("{} {}", required.patterns.len(), required.path.join("/")));
        parts.extend(required.patterns.iter().map(ToString::to_string));
    }
    Fingerprint::of("oidc", parts.iter().map(String::as_bytes))
}

/// The seconds by which clocks may differ.
const LEEWAY: u64 = 60;

fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn is_alive(expires: u64, now: u64) -> bool {
    now < expires.saturating_add(LEEWAY)
}

fn hash(token: &Secret) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
    hash
}

/// Returns true if a token's audience is `wanted`, or has it (RFC 7519 section 4.1.3).
fn is_for(audience: Option<&Value>, wanted: &str) -> bool {
    match audience {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(wanted)),
        _ => false,
    }
}

fn is_met(required: &RequiredClaim, claims: &Map<String, Value>) -> bool {
    let value = text_of(claims, &required.path);
    value.is_some_and(|value| required.patterns.iter().any(|pattern| pattern.matches(value)))
}

#[cfg(test)]
mod tests;
