//! The one place that says what an exchange with an upstream means.
//!
//! The table is that of the design: which hop answered, what was asked, status, headers and the first bytes of the body
//! give one [`Meaning`].

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;

use crate::authz::Permit;
use crate::body::Body;
use crate::config::{CredentialSource, limits};
use crate::meaning::{Fault, Meaning, UpstreamFailure};
use crate::proto::identity::Identity;
use crate::proto::{ContentRange, ErrorBody};
use crate::upstream::{DialError, Error, Response, TokenError, Unauthorized, Upstream, retry_after};

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

    /// Returns the failure that a refusal of the registry is.
    pub(crate) fn refusal(response: &Response) -> UpstreamFailure {
        let meaning = Self::meaning_of(response);
        let message = match meaning {
            Meaning::Unavailable { late: true, .. } => Some("the upstream does not answer"),
            Meaning::Unavailable { late: false, .. } => Some("the upstream failed"),
            Meaning::CredentialsRefused => Some(CREDENTIALS_REFUSED),
            _ => None,
        };
        let cause = format!("the upstream answered {}", response.status);
        UpstreamFailure {
            unsatisfied: unsatisfied(response),
            retry_after: retry_after(&response.headers),
            ..failure(meaning, message, &cause)
        }
    }

    /// Returns the failure that a refusal of the registry is, with what the registry's own errors say. A 401 is about the
    /// gateway's credentials, and nothing for clients.
    pub(crate) async fn refused(response: Response) -> UpstreamFailure {
        let failure = Self::refusal(&response);
        if matches!(failure.meaning, Meaning::CredentialsRefused | Meaning::Loop) {
            return failure;
        }
        let Some(body) = error_body(response.body).await else { return failure };
        let words = body.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let shown: String = words.escape_debug().take(SHOWN_CHARACTERS).collect();
        let cause = format!("{}: {shown}", failure.cause);
        UpstreamFailure { said: Some(Arc::new(body)), cause: cause.into(), ..failure }
    }

    /// Returns the failure of a registry without the referrers API, if an answer to a request for referrers shows that: only
    /// a JSON index is a list of them, and a 404 that is not the registry's own JSON is a router's (docker-registry 2.8 answers
    /// "404 page not found").
    pub(crate) fn without_referrers(status: StatusCode, body: &[u8]) -> Option<UpstreamFailure> {
        let own = || ErrorBody::parse(body).is_some_and(|body| !body.errors.is_empty());
        let reason = match status {
            StatusCode::OK if is_index(body) => return None,
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
        failure(meaning, message(error, meaning), &chain(error))
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

fn failure(meaning: Meaning, message: Option<&'static str>, cause: &str) -> UpstreamFailure {
    let retry_after = match meaning {
        Meaning::RateLimited { retry_after } => retry_after,
        _ => None,
    };
    UpstreamFailure { meaning, message, unsatisfied: None, retry_after, said: None, cause: cause.into() }
}

/// Reads the registry's own errors out of a refusal's body. `None` for a page, and for anything else that is not the
/// registry API's JSON.
pub(crate) async fn error_body(body: Body) -> Option<ErrorBody> {
    let collected = Limited::new(body, limits::ERROR_BODY_BYTES).collect();
    let collected = tokio::time::timeout(limits::ERROR_BODY_DEADLINE, collected).await.ok()?.ok()?;
    ErrorBody::parse(&collected.to_bytes()).filter(|body| !body.errors.is_empty())
}

/// The most characters of a registry's own errors in one line of the log.
const SHOWN_CHARACTERS: usize = 500;

/// Returns what a missing token means; `refused` is the meaning of credentials that the endpoint does not take.
fn of_token(error: &TokenError, refused: Meaning) -> Meaning {
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
        TokenError::Busy | TokenError::Abandoned => unavailable(false),
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
        _ => match error {
            Error::Dial(_) => "the upstream can't be reached",
            Error::Broken(_) => "the upstream broke off",
            Error::Token(_) => "the upstream gives this gateway no token",
            Error::Credentials(_)
            | Error::Unauthorized(_)
            | Error::AnonymousUpstream
            | Error::UsernameIgnored => CREDENTIALS_REFUSED,
            Error::EgressPolicy(_) | Error::Redirect(_) | Error::WriteRedirected { .. } => {
                "the upstream's answer can't be used"
            }
            Error::Storage { .. }
            | Error::Timeout
            | Error::Client(_)
            | Error::Limited { .. }
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

/// Returns true if an answer says that it is a page for people: many a proxy puts one in front of everything, with 200.
pub(crate) fn is_page(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    text.trim_ascii_start().get(..9).is_some_and(|text| text.eq_ignore_ascii_case(b"text/html"))
}

/// Returns true if a body is an image index (image-spec, "Image Index"), whatever it is called.
fn is_index(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let object: Option<BTreeMap<String, Box<RawValue>>> = serde_json::from_slice(body).ok();
    // Go writes an empty list as null.
    let is_list = |value: &RawValue| value.get().starts_with('[') || value.get() == "null";
    object.is_some_and(|object| object.get("manifests").is_some_and(|value| is_list(value)))
}

/// Returns true if a body's first bytes are a JSON object's, as every manifest's are (image-spec, "Image Manifest").
pub(crate) fn is_json_object(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().first() == Some(&b'{')
}
