//! The authentication scheme of an upstream, learned from its challenges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderValue, header};

use crate::proto::challenge;
use crate::proto::challenge::Challenge;
use crate::proto::{BearerError, Scheme as Name, ScopeSet};

/// The authentication scheme that an upstream wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AuthScheme {
    /// RFC 7617, on every request.
    Basic,
    /// A token of this endpoint.
    Bearer(Arc<TokenEndpoint>),
}

/// The token endpoint that a Bearer challenge names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenEndpoint {
    /// Its URL.
    pub(crate) realm: String,
    /// The service that the token is for.
    pub(crate) service: Option<String>,
}

/// The scheme that an upstream is known to want. Empty as long as it has not asked for credentials.
#[derive(Debug, Default)]
pub(crate) struct KnownScheme {
    scheme: ArcSwapOption<AuthScheme>,
    /// The upstream has answered at `/v2/`, where registries that want credentials challenge.
    pinged: AtomicBool,
}

/// The details of a 401 besides the scheme.
#[derive(Debug, Default)]
pub(crate) struct ChallengeDetails {
    /// The scopes that the registry names for the request.
    pub(crate) scopes: ScopeSet,
    /// The token is invalid, rather than insufficient.
    pub(crate) invalid_token: bool,
    /// A line that could be read only in part, escaped.
    pub(crate) partial: Option<String>,
}

impl KnownScheme {
    /// Returns the scheme; `None` where the upstream has not asked for credentials.
    pub(crate) fn get(&self) -> Option<Arc<AuthScheme>> {
        self.scheme.load_full()
    }

    /// Returns true if it is known whether the upstream wants credentials.
    pub(crate) fn is_settled(&self) -> bool {
        self.pinged.load(Ordering::Relaxed) || self.scheme.load().is_some()
    }

    /// Notes that the upstream answered at `/v2/`, with any status.
    pub(crate) fn settle(&self) {
        self.pinged.store(true, Ordering::Relaxed);
    }

    /// Takes the scheme from a 401 and returns true if it differs from the one before. A 401 without a challenge
    /// changes nothing: some registries challenge at `/v2/` alone.
    ///
    /// Of several, Bearer is preferred: a token reveals less than a password does.
    pub(crate) fn learn(&self, headers: &HeaderMap) -> (bool, ChallengeDetails) {
        let (challenges, partial) = read(headers);
        let bearer = challenges.iter().find_map(|challenge| Some((challenge, TokenEndpoint::of(challenge)?)));
        let refusal =
            bearer.as_ref().map(|(challenge, _)| ChallengeDetails::of(challenge)).unwrap_or_default();
        let refusal = ChallengeDetails { partial, ..refusal };
        let basic = || challenges.iter().any(|challenge| challenge.scheme == Name::Basic);
        let scheme = match bearer {
            Some((_, endpoint)) => AuthScheme::Bearer(Arc::new(endpoint)),
            None if basic() => AuthScheme::Basic,
            None => return (false, refusal),
        };
        let same = self.scheme.load().as_deref() == Some(&scheme);
        if !same {
            self.scheme.store(Some(Arc::new(scheme)));
        }
        (!same, refusal)
    }
}

impl TokenEndpoint {
    /// Returns the endpoint of a Bearer challenge; `None` for another scheme, and for a challenge without a realm.
    pub(crate) fn of(challenge: &Challenge) -> Option<Self> {
        let bearer = challenge.scheme == Name::Bearer;
        let realm = challenge.param("realm").filter(|_| bearer)?.to_owned();
        Some(Self { realm, service: challenge.param("service").map(str::to_owned) })
    }
}

impl ChallengeDetails {
    fn of(challenge: &Challenge) -> Self {
        Self {
            scopes: challenge.param("scope").map(ScopeSet::parse).unwrap_or_default(),
            invalid_token: challenge.param("error") == Some(BearerError::InvalidToken.as_str()),
            partial: None,
        }
    }
}

/// Returns true if a 401 offers Basic, and no Bearer.
pub(crate) fn offers_basic_alone(headers: &HeaderMap) -> bool {
    let (challenges, _) = read(headers);
    let bearer = challenges.iter().any(|challenge| TokenEndpoint::of(challenge).is_some());
    !bearer && challenges.iter().any(|challenge| challenge.scheme == Name::Basic)
}

/// Reads the challenges of an answer, and returns the first line in which there is more than could be read.
fn read(headers: &HeaderMap) -> (Vec<Challenge>, Option<String>) {
    let (mut challenges, mut partial) = (Vec::new(), None);
    for line in headers.get_all(header::WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes) {
        let parsed = challenge::parse(line);
        if parsed.is_partial() {
            partial = partial.or_else(|| Some(line.escape_ascii().take(SHOWN).map(char::from).collect()));
        }
        challenges.extend(parsed.challenges);
    }
    (challenges, partial)
}

/// The most characters of a line that are shown.
const SHOWN: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(lines: &[&'static str]) -> (Option<AuthScheme>, ChallengeDetails) {
        let known = KnownScheme::default();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(line));
        }
        let (_, refusal) = known.learn(&headers);
        (known.get().map(|scheme| AuthScheme::clone(&scheme)), refusal)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<AuthScheme> {
        let service = service.map(Into::into);
        Some(AuthScheme::Bearer(Arc::new(TokenEndpoint { realm: realm.into(), service })))
    }

    #[test]
    fn challenges_of_known_registries_are_understood() {
        let cases: &[(&[&'static str], Option<AuthScheme>, &str)] = &[
            (
                &[
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                ],
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
                "repository:library/alpine:pull",
            ),
            (
                &[r#"Basic realm="https://1.dkr.ecr.eu.amazonaws.com/",service="ecr.amazonaws.com""#],
                Some(AuthScheme::Basic),
                "",
            ),
            (
                &[r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#],
                bearer("https://public.ecr.aws/token/", Some("public.ecr.aws")),
                "aws",
            ),
            (
                &[r#"bearer REALM="https://gcr.io/v2/token", Service=gcr.io"#],
                bearer("https://gcr.io/v2/token", Some("gcr.io")),
                "",
            ),
            (&["bAsIc realm=x"], Some(AuthScheme::Basic), ""),
            (&[r#"Basic realm="x", Bearer realm="https://a/t""#], bearer("https://a/t", None), ""),
            (&[r#"Negotiate abc=="#, r#"Bearer realm="https://a/t""#], bearer("https://a/t", None), ""),
            (&["Negotiate"], None, ""),
            (&[], None, ""),
        ];
        for (lines, scheme, scopes) in cases {
            let (learned, refusal) = learned(lines);
            assert_eq!((&learned, refusal.scopes.to_string().as_str()), (scheme, *scopes), "{lines:?}");
        }
    }

    #[test]
    fn a_challenge_without_a_realm_names_no_token_endpoint() {
        let challenges = challenge::parse_all([&b"Bearer service=\"s\", Basic realm=\"x\""[..]]);
        assert_eq!(challenges.iter().find_map(TokenEndpoint::of), None);
    }

    #[test]
    fn a_401_without_a_challenge_changes_nothing() {
        let known = KnownScheme::default();
        let basic = HeaderValue::from_static("Basic realm=x");
        assert!(known.learn(&HeaderMap::from_iter([(header::WWW_AUTHENTICATE, basic.clone())])).0);
        assert!(!known.learn(&HeaderMap::new()).0);
        assert!(!known.learn(&HeaderMap::from_iter([(header::WWW_AUTHENTICATE, basic)])).0, "the same again");
        assert_eq!(known.get().as_deref(), Some(&AuthScheme::Basic));
    }

    #[test]
    fn an_invalid_token_is_told_from_an_insufficient_one() {
        let line = |error: &str| format!(r#"Bearer realm="https://a/t",error="{error}""#);
        for (error, invalid) in [("invalid_token", true), ("insufficient_scope", false)] {
            let headers = HeaderMap::from_iter([(header::WWW_AUTHENTICATE, line(error).parse().unwrap())]);
            assert_eq!(KnownScheme::default().learn(&headers).1.invalid_token, invalid);
        }
    }
}
