//! The rate limits that Docker Hub reports: `ratelimit-limit`, `ratelimit-remaining`, `docker-ratelimit-source`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::exchange::Response;

/// A rate limit as an answer reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// Requests in each window.
    pub limit: Option<u64>,
    /// Requests that are left.
    pub remaining: u64,
    /// The length of a window.
    pub window: Option<Duration>,
    /// The address or account that it is counted for.
    pub source: Option<String>,
    /// The fields as they came, for clients that ask about it.
    pub fields: Arc<[(HeaderName, HeaderValue)]>,
}

impl RateLimit {
    /// Reads the fields of an answer; `None` without them.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (remaining, window) = count(text("ratelimit-remaining")?)?;
        let limit = text("ratelimit-limit").and_then(count);
        let source = text("docker-ratelimit-source").map(|text| text.chars().take(SOURCE_LONGEST).collect());
        let window = limit.and_then(|(_, window)| window).or(window);
        let is_told = |(name, value): &(&HeaderName, &HeaderValue)| {
            FIELDS.contains(&name.as_str()) && value.len() <= FIELD_LONGEST
        };
        let fields =
            headers.iter().filter(is_told).map(|(name, value)| (name.clone(), value.clone())).collect();
        Some(Self { limit: limit.map(|(limit, _)| limit), remaining, window, source, fields })
    }

    /// Returns after how long the upstream says that the window begins anew. Docker Hub does not say: its window slides.
    pub(crate) fn reset(&self) -> Option<Duration> {
        let (_, value) = self.fields.iter().find(|(name, _)| name == "ratelimit-reset")?;
        value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    }

    /// Returns true if less than a tenth is left.
    pub(crate) fn is_low(&self) -> bool {
        self.limit.is_some_and(|limit| self.remaining < limit.div_ceil(10))
    }
}

/// A rate limit, and when the upstream has told it.
#[derive(Debug, Clone)]
pub(crate) struct ToldRateLimit {
    pub(crate) limit: RateLimit,
    pub(crate) at: SystemTime,
}

/// Parses `20;w=21600`: a number, and the window in seconds.
fn count(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((number, window.map(Duration::from_secs)))
}

const SOURCE_LONGEST: usize = 64;

/// The fields that tell a client of the limit; the first three are Docker Hub's.
const FIELDS: [&str; 5] = [
    "ratelimit-limit",
    "ratelimit-remaining",
    "docker-ratelimit-source",
    "ratelimit-reset",
    "ratelimit-policy",
];

/// The longest value of such a field that is passed on, in bytes.
const FIELD_LONGEST: usize = 256;

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} left", self.remaining)?;
        if let Some(limit) = self.limit {
            write!(f, " of {limit}")?;
        }
        if let Some(window) = self.window {
            write!(f, " in {} s", window.as_secs())?;
        }
        if let Some(source) = &self.source {
            write!(f, " for {source}")?;
        }
        Ok(())
    }
}

/// The rate limits of one upstream, by identity. The least recently used goes first.
#[derive(Debug)]
pub(crate) struct RateLimits {
    limits: Cache<UpstreamIdentity, ToldRateLimit>,
    /// True as soon as there is one: most registries never send any.
    any: AtomicBool,
}

impl Default for RateLimits {
    fn default() -> Self {
        // moka's default policy may refuse a fresh entry.
        let limits = Cache::builder().max_capacity(IDENTITIES).eviction_policy(EvictionPolicy::lru());
        Self { limits: limits.build(), any: AtomicBool::new(false) }
    }
}

impl RateLimits {
    /// Keeps the rate limit of an answer, and warns when it runs low. Refusals to a client's own credentials are not
    /// kept: a client may send any name.
    pub(crate) fn note(&self, upstream: &str, identity: &UpstreamIdentity, response: &Response) {
        let Some(now) = RateLimit::of(&response.headers) else { return };
        let before = self.limits.get(identity).map(|told| told.limit);
        if is_known(identity, response.status) {
            let told = ToldRateLimit { limit: now.clone(), at: clock::wall() };
            self.limits.insert(identity.clone(), told);
            self.any.store(true, Ordering::Relaxed);
        }
        let limited = response.status == StatusCode::TOO_MANY_REQUESTS;
        let newly_low = now.is_low() && !before.as_ref().is_some_and(RateLimit::is_low);
        if limited || newly_low {
            tracing::warn!(upstream, %identity, left = %now, "the upstream's rate limit is near");
        } else if before.as_ref() != Some(&now) {
            tracing::debug!(upstream, %identity, left = %now, "the upstream's rate limit");
        }
    }

    /// Returns the last rate limit of an identity, if the upstream has told any.
    pub(crate) fn last(&self, identity: impl FnOnce() -> UpstreamIdentity) -> Option<RateLimit> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.limits.get(&identity()).map(|told| told.limit)
    }

    /// Returns the rate limit of each account that is not a client's: a client may have any name.
    pub(crate) fn own(&self) -> Vec<(String, ToldRateLimit)> {
        let is_own = |identity: &UpstreamIdentity| !matches!(identity, UpstreamIdentity::Client(_));
        let own = self.limits.iter().filter(|(identity, _)| is_own(identity));
        let mut own: Vec<_> = own.map(|(identity, told)| (identity.to_string(), told)).collect();
        own.sort_by(|(one, _), (other, _)| one.cmp(other));
        own
    }

    /// Returns the rate limit of each identity.
    #[cfg(test)]
    pub(crate) fn all(&self) -> Vec<(String, RateLimit)> {
        self.limits.iter().map(|(identity, told)| (identity.to_string(), told.limit)).collect()
    }
}

/// Returns true if the upstream has accepted this identity.
fn is_known(identity: &UpstreamIdentity, status: StatusCode) -> bool {
    !matches!(identity, UpstreamIdentity::Client(_)) || status.is_success() || status.is_redirection()
}

/// Identities that are remembered; with forwarded credentials there may be many.
const IDENTITIES: u64 = 1000;

#[cfg(test)]
mod tests {

    use super::*;
    use crate::body::Body;
    use crate::proto::Secret;
    use crate::proto::identity::Forwarded;

    fn answer(fields: &[(&'static str, &str)]) -> Response {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Response { status: StatusCode::OK, headers: fields.collect(), body: Body::empty() }
    }

    #[test]
    fn docker_hubs_fields_are_read() {
        let answer = answer(&[
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
            ("docker-ratelimit-source", "192.0.2.7"),
        ]);
        let limit = RateLimit::of(&answer.headers).unwrap();
        assert_eq!(limit.to_string(), "76 left of 100 in 21600 s for 192.0.2.7");
        assert!(!limit.is_low());
    }

    #[test]
    fn without_the_fields_nothing_is_limited() {
        assert_eq!(RateLimit::of(&HeaderMap::new()), None);
        assert_eq!(RateLimit::of(&answer(&[("ratelimit-remaining", "many")]).headers), None);
    }

    #[test]
    fn each_identity_has_its_own_allowance() {
        let limits = RateLimits::default();
        limits.note("up", &UpstreamIdentity::Anonymous, &answer(&[("ratelimit-remaining", "5")]));
        limits.note("up", &UpstreamIdentity::Gateway, &answer(&[("ratelimit-remaining", "190")]));
        limits.note("up", &UpstreamIdentity::Gateway, &answer(&[]));
        let mut all: Vec<_> =
            limits.all().into_iter().map(|(identity, limit)| (identity, limit.remaining)).collect();
        all.sort();
        assert_eq!(all, [("anonymous".to_owned(), 5), ("gateway".to_owned(), 190)]);
    }

    #[test]
    fn a_client_name_is_no_own_account() {
        let limits = RateLimits::default();
        let told = answer(&[("ratelimit-remaining", "5;w=60"), ("ratelimit-reset", "30")]);
        for identity in [client("alice"), UpstreamIdentity::User(0), UpstreamIdentity::Gateway] {
            limits.note("up", &identity, &told);
        }
        let own = limits.own();
        let names: Vec<_> = own.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["gateway", "users[0]"]);
        assert_eq!(own[0].1.limit.reset(), Some(Duration::from_secs(30)));
    }

    fn client(name: impl Into<String>) -> UpstreamIdentity {
        UpstreamIdentity::Client(Arc::new(Forwarded::new("up", name.into(), Secret::new("pw"))))
    }

    #[test]
    fn limits_of_refused_clients_are_not_kept() {
        let limits = RateLimits::default();
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS] {
            let refusal = Response { status, ..answer(&[("ratelimit-remaining", "5")]) };
            limits.note("up", &client("mallory"), &refusal);
        }
        assert_eq!(limits.all(), []);
        limits.note("up", &client("alice"), &answer(&[("ratelimit-remaining", "5")]));
        assert_eq!(limits.all()[0].0, "alice");
    }

    #[test]
    fn many_identities_do_not_evict_an_active_one() {
        let limits = RateLimits::default();
        for number in 0..IDENTITIES * 2 {
            limits.note("up", &client(format!("user{number}")), &answer(&[("ratelimit-remaining", "5")]));
            limits.note("up", &UpstreamIdentity::Gateway, &answer(&[("ratelimit-remaining", "190")]));
        }
        limits.limits.run_pending_tasks();
        assert!(limits.limits.entry_count() <= IDENTITIES);
        assert!(limits.all().iter().any(|(identity, _)| identity == "gateway"));
    }
}
