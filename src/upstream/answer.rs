//! The one place that says what an exchange with an upstream means.
//!
//! The table is that of the design: which hop answered, what was asked, status, headers and the first bytes of the body
//! give one [`Meaning`].

use std::error::Error as StdError;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};

use crate::authz::Permit;
use crate::body::{Body, WholeError};
use crate::budget::plan::Plan;
use crate::budget::{Lease, Spent};
use crate::config::{CredentialSource, limits};
use crate::meaning::{Fault, Meaning, RATE_LIMITED, UpstreamFailure};
use crate::proto::identity::Identity;
use crate::proto::{Algorithm, ContentRange, Digest, ErrorBody, Family, MediaType, Reference};
use crate::upstream::error::StorageError;
use crate::upstream::said::{Said, excerpt};
use crate::upstream::{
    DOCKER_CONTENT_DIGEST, DialError, EgressError, Error, Response, TokenError, Unauthorized, Upstream,
    retry_after,
};

impl Upstream {
    /// Returns what an answer of the registry means by its head. Storage's failures are [`Error::Storage`] and never get
    /// here.
    pub(crate) fn meaning_of(response: &Response) -> Meaning {
        match response.status {
            StatusCode::NOT_FOUND => Meaning::NotFound,
            StatusCode::FORBIDDEN => Meaning::Denied,
            StatusCode::UNAUTHORIZED => Meaning::CredentialsRefused,
            StatusCode::TOO_MANY_REQUESTS => {
                Meaning::RateLimited { retry_after: retry_after(&response.headers) }
            }
            StatusCode::LOOP_DETECTED => Meaning::Loop,
            StatusCode::METHOD_NOT_ALLOWED => Meaning::NotOffered { status: response.status.as_u16() },
            StatusCode::REQUEST_TIMEOUT | StatusCode::MISDIRECTED_REQUEST | StatusCode::TOO_EARLY => {
                Meaning::Unavailable { late: false, of: Fault::Object }
            }
            StatusCode::GATEWAY_TIMEOUT => Meaning::Unavailable { late: true, of: Fault::Registry },
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
                Meaning::Unavailable { late: false, of: Fault::Registry }
            }
            status if status.is_server_error() => Meaning::Unavailable { late: false, of: Fault::Object },
            status if status.is_client_error() => Meaning::Rejected { status: status.as_u16() },
            // Redirects to follow have been followed; the others are for the client.
            _ => Meaning::Usable,
        }
    }

    /// Returns the failure that a refusal of the registry is, with its own words.
    pub(crate) async fn refusal(&self, response: Response) -> UpstreamFailure {
        let meaning = Self::meaning_of(&response);
        let message = match meaning {
            Meaning::Unavailable { late: true, .. } => Some("the upstream does not answer"),
            Meaning::Unavailable { late: false, .. } => Some("the upstream failed"),
            Meaning::RateLimited { .. } => Some(RATE_LIMITED),
            Meaning::CredentialsRefused => Some(CREDENTIALS_REFUSED),
            _ => None,
        };
        let (unsatisfied, retry_after) = (unsatisfied(&response), retry_after(&response.headers));
        let said = Said::read(response.status, &response.headers, response.body).await;
        let cause = format!("the upstream answered {}", said.behind(response.status));
        UpstreamFailure {
            unsatisfied,
            retry_after,
            key: self.key_of(meaning),
            errors: said.errors.map(Arc::new),
            ..failure(meaning, message, &cause)
        }
    }

    /// Returns the key of the configuration that may turn an answer with this meaning into a good one.
    fn key_of(&self, meaning: Meaning) -> Option<&'static str> {
        let anonymous = self.settings().credentials.source == CredentialSource::Anonymous;
        match meaning {
            Meaning::Denied | Meaning::LoginRefused | Meaning::CredentialsRefused => Some(CREDENTIALS),
            Meaning::RateLimited { .. } if anonymous => Some(CREDENTIALS),
            Meaning::Loop => Some("upstream.url"),
            Meaning::Usable
            | Meaning::NotFound
            | Meaning::Hidden
            | Meaning::RateLimited { .. }
            | Meaning::Busy { .. }
            | Meaning::Unavailable { .. }
            | Meaning::StorageFailed
            | Meaning::Unusable
            | Meaning::NotOffered { .. }
            | Meaning::Rejected { .. }
            | Meaning::ClientGone => None,
        }
    }

    /// Returns the failure of a registry without the referrers API, if an answer to a request for referrers shows that: only
    /// a JSON index is a list of them, and a 404 that is not the registry's own JSON is a router's (docker-registry 2.8 answers
    /// "404 page not found").
    pub(crate) fn without_referrers(status: StatusCode, body: &[u8]) -> Option<UpstreamFailure> {
        let family = Family::of(body);
        let own = || ErrorBody::parse(body).is_some_and(|body| !body.errors.is_empty());
        let reason = match status {
            StatusCode::OK if matches!(family, Some(Family::Index | Family::DockerIndex)) => return None,
            status if status.is_success() => "no image index",
            StatusCode::NOT_FOUND if own() => return None,
            StatusCode::NOT_FOUND => "404 without an error of the registry API",
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => "405 or 501",
            _ => return None,
        };
        let cause = format!("the upstream answered a request for referrers with {reason}");
        Some(failure(
            Meaning::NotOffered { status: 404 },
            Some("the upstream does not list referrers"),
            &cause,
        ))
    }

    /// Returns the failure that an exchange without an answer is. `permit` is the requester's; a login has none.
    pub(crate) fn no_answer(&self, permit: Option<&Permit>, error: &Error) -> UpstreamFailure {
        let meaning = self.meaning_of_error(permit, error);
        let key = key_of_error(error).or_else(|| self.key_of(meaning));
        UpstreamFailure { key, ..failure(meaning, message(error, meaning), &chain(error)) }
    }

    fn meaning_of_error(&self, permit: Option<&Permit>, error: &Error) -> Meaning {
        let identity = permit.map(Permit::identity);
        let forwarded = matches!(identity, Some(Identity::Forwarded(_)));
        let forwards = self.settings().credentials.source == CredentialSource::Forward;
        // The registry would take the client's own, had it shown any.
        let wants_login = forwards && identity.is_some_and(Identity::is_anonymous);
        let refused = if forwarded { Meaning::LoginRefused } else { Meaning::CredentialsRefused };
        match error {
            Error::Dial(error) => Meaning::Unavailable {
                late: matches!(**error, DialError::Timeout { .. }),
                of: Fault::Registry,
            },
            Error::Timeout => Meaning::Unavailable { late: true, of: Fault::Registry },
            Error::Broken(_) => Meaning::Unavailable { late: false, of: Fault::Registry },
            Error::Storage { .. } => Meaning::StorageFailed,
            Error::EgressPolicy(_) | Error::Redirect(_) | Error::WriteRedirected { .. } => Meaning::Unusable,
            Error::Client(_) => Meaning::ClientGone,
            Error::Loop => Meaning::Loop,
            Error::Spent(spent) => Meaning::Busy { retry_after: spent.retry_after },
            Error::Limited { retry_after } => Meaning::RateLimited { retry_after: *retry_after },
            Error::Token(error) => of_token(error, refused),
            Error::Credentials(_) | Error::AnonymousUpstream | Error::UsernameIgnored => {
                Meaning::CredentialsRefused
            }
            Error::Unauthorized(why) => match why {
                Unauthorized::NoCredentials | Unauthorized::Insufficient if wants_login => {
                    Meaning::LoginRefused
                }
                Unauthorized::Insufficient if permit.is_some_and(|permit| self.is_everyones(permit)) => {
                    Meaning::NotFound
                }
                Unauthorized::Insufficient => Meaning::Hidden,
                Unauthorized::Password => refused,
                Unauthorized::NoCredentials | Unauthorized::NoChallenge | Unauthorized::InvalidToken => {
                    Meaning::CredentialsRefused
                }
            },
        }
    }
}

/// Returns the failure of an answer for which there is no room.
fn no_room(spent: Spent) -> UpstreamFailure {
    let meaning = Meaning::Busy { retry_after: spent.retry_after };
    UpstreamFailure { key: Some(key_of_budget(spent)), ..failure(meaning, Some(NO_ROOM), &spent.to_string()) }
}

const NO_ROOM: &str = "the gateway holds too much at once; try again";

fn key_of_budget(spent: Spent) -> &'static str {
    if spent.budget == Plan::HELD_BYTES { "server.max_held_bytes" } else { "upstream.max_connections" }
}

fn failure(meaning: Meaning, message: Option<&'static str>, cause: &str) -> UpstreamFailure {
    let retry_after = match meaning {
        Meaning::RateLimited { retry_after } => retry_after,
        Meaning::Busy { retry_after } => Some(retry_after),
        _ => None,
    };
    UpstreamFailure {
        meaning,
        message,
        unsatisfied: None,
        retry_after,
        cause: cause.into(),
        key: None,
        errors: None,
        by_head: false,
        by_replica: false,
    }
}

/// Returns the key of the configuration that may let such an exchange succeed.
fn key_of_error(error: &Error) -> Option<&'static str> {
    match error {
        Error::Dial(error) => key_of_dial(error),
        Error::Timeout => Some("upstream.response_timeout"),
        Error::EgressPolicy(error) => key_of_egress(error),
        Error::Storage { source: StorageError::NoAnswer(source), .. } => key_of_error(source),
        Error::Token(error) => match &**error {
            TokenError::EgressPolicy(error) => key_of_egress(error),
            TokenError::Failed { source, .. } => key_of_error(source),
            TokenError::Credentials(_) | TokenError::Refused { .. } | TokenError::LockedOut => {
                Some(CREDENTIALS)
            }
            TokenError::Limited { .. }
            | TokenError::Status { .. }
            | TokenError::Answer { .. }
            | TokenError::TokensRefused
            | TokenError::Busy
            | TokenError::Spent(_)
            | TokenError::Abandoned => None,
        },
        Error::Credentials(_) => Some(CREDENTIALS),
        Error::Spent(spent) => Some(key_of_budget(*spent)),
        Error::WriteRedirected { .. } => Some("upstream.url"),
        Error::AnonymousUpstream | Error::UsernameIgnored => Some("upstream.credentials.forward"),
        Error::Unauthorized(why) => match why {
            Unauthorized::NoCredentials | Unauthorized::Password | Unauthorized::Insufficient => {
                Some(CREDENTIALS)
            }
            Unauthorized::NoChallenge | Unauthorized::InvalidToken => None,
        },
        Error::Storage { source: StorageError::Status(_) | StorageError::CircuitOpen, .. }
        | Error::Broken(_)
        | Error::Redirect(_)
        | Error::Client(_)
        | Error::Limited { .. }
        | Error::Loop => None,
    }
}

fn key_of_dial(error: &DialError) -> Option<&'static str> {
    match error {
        DialError::Resolve { .. } | DialError::Connect { .. } => Some("upstream.url"),
        DialError::Private { .. } => Some("upstream.redirect_hosts"),
        DialError::Proxy { .. } => Some("upstream.proxy"),
        DialError::Tls { .. } => error.certificate_fault().map(|_| "upstream.ca"),
        DialError::Timeout { .. } => Some("upstream.connect_timeout"),
    }
}

fn key_of_egress(error: &EgressError) -> Option<&'static str> {
    match error {
        EgressError::ForeignRealm(_) | EgressError::PlainRealm(_) => Some("upstream.realm_hosts"),
        EgressError::UnlistedRedirect(_)
        | EgressError::PrivateRedirect(_)
        | EgressError::PlainRedirect(_)
        | EgressError::ProxiedRedirect(_)
        | EgressError::ForeignUpload(_) => Some("upstream.redirect_hosts"),
        EgressError::Url(_) | EgressError::SentBack => None,
    }
}

const CREDENTIALS: &str = "upstream.credentials";

/// Returns what a missing token means; `refused` is the meaning of credentials that the endpoint does not take.
fn of_token(error: &TokenError, refused: Meaning) -> Meaning {
    if let Some(spent) = error.spent() {
        return Meaning::Busy { retry_after: spent.retry_after };
    }
    let unavailable = |late| Meaning::Unavailable { late, of: Fault::TokenEndpoint };
    match error {
        TokenError::Limited { retry_after, .. } => Meaning::RateLimited { retry_after: *retry_after },
        TokenError::Refused { .. } | TokenError::LockedOut => refused,
        TokenError::Failed { source, .. } => match &**source {
            Error::Timeout => unavailable(true),
            Error::Dial(error) => unavailable(matches!(**error, DialError::Timeout { .. })),
            Error::Broken(_) => unavailable(false),
            _ => Meaning::CredentialsRefused,
        },
        TokenError::Status { status, .. } if status.is_server_error() => unavailable(false),
        TokenError::Busy | TokenError::Spent(_) | TokenError::Abandoned => unavailable(false),
        TokenError::Answer { .. } => Meaning::Unusable,
        TokenError::Status { .. }
        | TokenError::EgressPolicy(_)
        | TokenError::Credentials(_)
        | TokenError::TokensRefused => Meaning::CredentialsRefused,
    }
}

const CREDENTIALS_REFUSED: &str = "the upstream does not take this gateway's credentials";

/// Returns the sentence for the client: no host, account or address of the operator's.
fn message(error: &Error, meaning: Meaning) -> Option<&'static str> {
    Some(match meaning {
        Meaning::NotFound | Meaning::Hidden => "not there, or not for this gateway's account at the registry",
        Meaning::Unavailable { late: true, .. } => "the upstream does not answer",
        Meaning::StorageFailed => "the upstream's storage failed",
        Meaning::RateLimited { .. } => RATE_LIMITED,
        Meaning::Busy { .. } => "too many requests to the upstream at once; try again",
        _ => match error {
            Error::Dial(_) => "the upstream can't be reached",
            Error::Broken(_) => "the upstream broke off",
            Error::Token(_) => "the upstream gives this gateway no token",
            Error::Credentials(_) | Error::Unauthorized(_) | Error::AnonymousUpstream => CREDENTIALS_REFUSED,
            Error::UsernameIgnored => {
                "the upstream accepts this password under any name; log in with the account's own password"
            }
            Error::EgressPolicy(_) | Error::Redirect(_) | Error::WriteRedirected { .. } => {
                "the upstream's answer can't be used"
            }
            Error::Storage { .. }
            | Error::Timeout
            | Error::Client(_)
            | Error::Limited { .. }
            | Error::Spent(_)
            | Error::Loop => {
                return None;
            }
        },
    })
}

/// Returns an error and all its causes, in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Returns the length of a blob none of whose bytes the requested range covers (RFC 9110 section 15.5.17).
fn unsatisfied(response: &Response) -> Option<u64> {
    let range = response.headers.get(header::CONTENT_RANGE)?;
    match ContentRange::parse(range.as_bytes())? {
        ContentRange::Unsatisfied { total } if response.status == StatusCode::RANGE_NOT_SATISFIABLE => {
            Some(total)
        }
        _ => None,
    }
}

/// Returns the answer to a HEAD of a manifest if it says enough to be believed.
///
/// # Errors
/// [`Meaning::NotOffered`] if it does not: GET may say more. [`Meaning::Unusable`] for a manifest that is too long.
pub(crate) fn manifest_head(answer: Response) -> Result<Response, UpstreamFailure> {
    let typed = media_type(&answer.headers).is_some_and(|media_type| media_type.is_manifest());
    let named = digest(&answer.headers).is_some() && !is_page(&answer.headers);
    if answer.status != StatusCode::OK || !(typed || named) {
        let meaning = Meaning::NotOffered { status: StatusCode::METHOD_NOT_ALLOWED.as_u16() };
        let reason = "a head that says neither a manifest's type nor its digest";
        return Err(UpstreamFailure { meaning, ..UpstreamFailure::unusable(reason) });
    }
    match length(&answer.headers) {
        Some(length) if length > limits::MANIFEST_BYTES as u64 => {
            Err(UpstreamFailure::unusable(format_args!("a manifest of {length} bytes, which is too long")))
        }
        _ => Ok(answer),
    }
}

/// Returns a manifest whole, if the answer to its GET is the one that was asked for.
///
/// Asked for by digest, bytes that have it are right whatever they are called. Asked for by tag, they must be a manifest's,
/// and have the digest that the answer names. A signed schema 1 has a digest that does not cover its signatures, so that its
/// bytes can't have it.
///
/// # Errors
/// [`Meaning::Unusable`] for all else that comes as a success: a page, an error body, half a manifest. [`Meaning::Busy`] if
/// there is not enough `room`, which is taken as the bytes come.
pub(crate) async fn manifest(
    reference: &Reference,
    answer: Response,
    room: Option<Lease>,
) -> Result<Response, UpstreamFailure> {
    let Response { status, headers, body } = answer;
    if status != StatusCode::OK {
        return Err(UpstreamFailure::unusable(format_args!("{status} instead of a manifest")));
    }
    let (most, deadline) = (limits::MANIFEST_BYTES, limits::HELD_BODY_DEADLINE);
    let whole = match room {
        Some(mut room) => body.whole_within(most, deadline, &mut room).await,
        None => body.whole(most, deadline).await,
    };
    let bytes = match whole {
        Ok(bytes) => bytes,
        Err(WholeError::Spent(spent)) => return Err(no_room(spent)),
        Err(error) => {
            return Err(UpstreamFailure::unusable(format_args!("no whole manifest: {error}")));
        }
    };
    let family = Family::of(&bytes);
    let expected = match reference {
        Reference::Digest(digest) => Some(digest.clone()),
        Reference::Tag(_) => digest(&headers),
    };
    let is_checked = |digest: &Digest| digest.algorithm() != Algorithm::Other;
    let fault = match (expected.filter(is_checked), reference) {
        (Some(digest), _) if !digest.is_of(&bytes) && family != Some(Family::SignedSchema1) => {
            Some("a manifest that is not what its digest says")
        }
        (Some(_), Reference::Digest(_)) => None,
        _ => family.is_none().then_some("something else than a manifest"),
    };
    match fault {
        None => Ok(Response { status, headers, body: Body::full(bytes) }),
        Some(fault) => {
            Err(UpstreamFailure::unusable(format_args!("{fault}: {}", described(&headers, &bytes))))
        }
    }
}

/// Returns the answer to the question whether a blob is there, if it is one by its status, digest and length. Its type does
/// not matter (go-containerregistry#1061), but for a page that names no digest: many a proxy puts one in front of everything.
///
/// # Errors
/// [`Meaning::Unusable`] for all else.
pub(crate) fn blob_head(asked: &Digest, answer: Response) -> Result<Response, UpstreamFailure> {
    blob(asked, answer.status, &answer.headers)?;
    let named = answer.headers.contains_key(DOCKER_CONTENT_DIGEST);
    if !named && answer.status == StatusCode::OK && is_page(&answer.headers) {
        return Err(UpstreamFailure::unusable("a page for the blob that was asked for"));
    }
    Ok(answer)
}

/// Checks what the head of an answer says of the blob that was asked for. Its bytes are the proof.
///
/// # Errors
/// [`Meaning::Unusable`] for another status than that of content, and for another digest.
pub(crate) fn blob(asked: &Digest, status: StatusCode, headers: &HeaderMap) -> Result<(), UpstreamFailure> {
    let another =
        digest(headers).is_some_and(|named| named.algorithm() == asked.algorithm() && named != *asked);
    if another || !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        let kind = described(headers, b"");
        let text = format_args!("something else than the blob that was asked for: {status}, {kind}");
        return Err(UpstreamFailure::unusable(text));
    }
    Ok(())
}

/// Returns what an answer is, for the log: its type and its first words.
fn described(headers: &HeaderMap, bytes: &[u8]) -> String {
    let kind = media_type(headers).map_or_else(|| "no type".to_owned(), |kind| kind.to_string());
    let words = excerpt(bytes);
    if words.is_empty() { kind } else { format!("{kind}, {words}") }
}

fn digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?).ok()
}

fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    MediaType::parse(headers.get(header::CONTENT_TYPE)?.to_str().ok()?).ok()
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_page(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media_type| media_type.as_str().starts_with("text/html"))
}
