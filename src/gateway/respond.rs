//! Every refusal and failure to HTTP, in one place.
//!
//! Each error knows whose fault it was, and that survives here: a client's mistake is a 4xx in the registry's own
//! words, an upstream's failure a 502 or 504, and none of them is ever an HTML page.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};

use crate::authn::Failure;
use crate::body::Body;
use crate::cache;
use crate::cache::FailureKind;
use crate::gateway::handle::SealError;
use crate::gateway::host::HostError;
use crate::gateway::route::RouteError;
use crate::proto::{Access, Action, ContentRange, ErrorBody, ErrorCode, Operation, TargetError};
use crate::upstream;

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
    /// Its HTTP could be read in two ways, or breaks a rule that keeps proxies safe.
    Malformed(&'static str),
    /// Its head is longer than any client's should be.
    HeadTooLarge,
    /// It is for a host that is not served here.
    Host(HostError),
    /// It has already been here.
    Loop,
    /// It is outside the registry's grammar.
    Target(TargetError),
    /// It needs a login. Holds the accesses that it asked for, in the client's own names.
    Unauthorized(Vec<Access>),
    /// Too many logins failed.
    Throttled(Duration),
    /// Whoever asks may not. Holds the text that says what was missing.
    Denied(String),
    /// No upstream holds such a repository.
    Route(RouteError),
    /// The upstream is only read from here.
    ReadOnly,
    /// The upload's handle is not one of ours, or not for this client.
    UploadUnknown,
    /// The manifest is larger than any registry must take.
    ManifestTooLarge,
    /// Too much is held already.
    Busy,
    /// The client's own request broke off.
    ClientGone,
    /// The upstream refused, and said so in a way that is the client's to know.
    Refused { status: StatusCode, code: ErrorCode, message: Option<String>, retry_after: Option<HeaderValue> },
    /// The upstream says that it is not there, or not for this gateway's account: which of them nobody can tell.
    NotThere(ErrorCode),
    /// The upstream gave no usable answer.
    Upstream { name: String, error: Arc<upstream::Error> },
    /// The upstream answered something that must not be passed on.
    BadUpstreamResponse { name: String, reason: &'static str },
    /// What the cache would have passed on is not for anybody.
    Cached(cache::Unusable),
    /// No byte that is asked for is in the blob, which has this many.
    Unsatisfiable(u64),
    /// It is not in the cache, and the upstream is not asked. Holds what is missing.
    NotCached(ErrorCode, &'static str),
    /// The upstream has failed too often to be asked now.
    CircuitOpen,
    /// A handle could not be sealed.
    Seal(SealError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream { error, .. } => f.write_str(&chain(error)),
            problem => {
                let (status, body) = problem.status_and_body();
                let message = body.errors.first().map(|error| error.message.clone());
                write!(f, "{} {}", status.as_u16(), message.unwrap_or_default())
            }
        }
    }
}

impl std::error::Error for Problem {}

impl Problem {
    pub(crate) fn authentication(failure: Failure, operation: Option<&Operation>) -> Self {
        match failure {
            Failure::Invalid => Self::Unauthorized(operation.map(accesses).unwrap_or_default()),
            Failure::Throttled { retry_after } => Self::Throttled(retry_after),
        }
    }

    /// Whether it is the upstream that can't be asked, so that what is known of it already may serve: the registry itself
    /// has not said no.
    pub(crate) fn allows_stale(&self) -> bool {
        match self {
            Self::Upstream { error, .. } => !matches!(**error, upstream::Error::Unauthorized(_)),
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::CircuitOpen | Self::NotCached(..) => true,
            _ => false,
        }
    }

    /// What an upstream's failure says of the upstream.
    pub(crate) fn means(&self) -> FailureKind {
        use upstream::Error;
        match self {
            Self::Upstream { error, .. } => match &**error {
                Error::Dial(_) | Error::Timeout | Error::Broken(_) => FailureKind::Unreachable,
                Error::Limited { retry_after } => FailureKind::Limited { retry_after: *retry_after },
                Error::Token(_) | Error::Credentials(_) => FailureKind::Credentials,
                _ => FailureKind::Other,
            },
            Self::Refused { status: StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, .. } => {
                FailureKind::Unusable
            }
            Self::Refused { status: StatusCode::TOO_MANY_REQUESTS, retry_after, .. } => {
                let text = retry_after.as_ref().and_then(|value| value.to_str().ok());
                let seconds = text.and_then(|text| text.parse().ok()).map(Duration::from_secs);
                FailureKind::Limited { retry_after: seconds }
            }
            _ => FailureKind::Other,
        }
    }

    /// The answer; `realm` is what a challenge is for.
    pub(crate) fn respond(&self, realm: &HeaderValue) -> Response<Body> {
        let (status, body) = self.status_and_body();
        let mut response = Response::new(Body::full(body.render()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.header(realm) {
            headers.insert(name, value);
        }
        response
    }

    fn header(&self, realm: &HeaderValue) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized(_) => Some((header::WWW_AUTHENTICATE, realm.clone())),
            Self::Throttled(after) => Some((header::RETRY_AFTER, after.as_secs().max(1).into())),
            Self::Refused { retry_after: Some(after), .. } => Some((header::RETRY_AFTER, after.clone())),
            Self::Unsatisfiable(total) => {
                let range = HeaderValue::try_from(ContentRange::Unsatisfied { total: *total }.to_string());
                range.ok().map(|range| (header::CONTENT_RANGE, range))
            }
            Self::CircuitOpen => Some((header::RETRY_AFTER, HeaderValue::from_static("5"))),
            Self::Target(TargetError::MethodNotAllowed { allow }) => {
                Some((header::ALLOW, HeaderValue::from_static(allow)))
            }
            _ => None,
        }
    }

    #[deny(clippy::wildcard_enum_match_arm)]
    fn status_and_body(&self) -> (StatusCode, ErrorBody) {
        use StatusCode as S;
        fn text(code: ErrorCode, message: impl Into<String>) -> ErrorBody {
            ErrorBody::with_message(code, message)
        }
        match self {
            Self::Malformed(reason) => (S::BAD_REQUEST, text(ErrorCode::Unsupported, *reason)),
            Self::HeadTooLarge => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                text(ErrorCode::SizeInvalid, "the request's head is longer than 64 KiB"),
            ),
            Self::Host(error) => (error.status(), text(ErrorCode::NameUnknown, error.to_string())),
            Self::Loop => (S::LOOP_DETECTED, text(ErrorCode::Unavailable, "the gateway is its own upstream")),
            Self::Target(error) => {
                let status = S::from_u16(error.status()).unwrap_or(S::NOT_FOUND);
                (status, text(error.code(), error.to_string()))
            }
            Self::Unauthorized(accesses) => (S::UNAUTHORIZED, ErrorBody::unauthorized(accesses.clone())),
            Self::Throttled(_) => {
                (S::TOO_MANY_REQUESTS, text(ErrorCode::TooManyRequests, "too many failed logins"))
            }
            Self::Denied(message) => (S::FORBIDDEN, text(ErrorCode::Denied, message.as_str())),
            Self::Route(error) => route(error),
            Self::ReadOnly => {
                (S::METHOD_NOT_ALLOWED, text(ErrorCode::Unsupported, "this upstream is only read from here"))
            }
            Self::UploadUnknown => (S::NOT_FOUND, ErrorBody::new(ErrorCode::BlobUploadUnknown)),
            Self::ManifestTooLarge => {
                (S::PAYLOAD_TOO_LARGE, text(ErrorCode::ManifestInvalid, "the manifest is larger than 4 MiB"))
            }
            Self::Busy => (
                S::SERVICE_UNAVAILABLE,
                text(ErrorCode::Unavailable, "too many manifests at once; try again"),
            ),
            Self::ClientGone => {
                (S::BAD_REQUEST, text(ErrorCode::BlobUploadInvalid, "the request's body broke off"))
            }
            Self::Refused { status, code, message, .. } => (
                *status,
                message.as_ref().map_or_else(|| ErrorBody::new(*code), |message| text(*code, message)),
            ),
            Self::NotThere(code) => {
                (S::NOT_FOUND, text(*code, "not there, or not for this gateway's account at the registry"))
            }
            Self::Upstream { error, .. } => upstream(error),
            Self::Unsatisfiable(_) => (S::RANGE_NOT_SATISFIABLE, ErrorBody::new(ErrorCode::RangeInvalid)),
            Self::NotCached(code, reason) => (S::NOT_FOUND, text(*code, *reason)),
            Self::CircuitOpen => (
                S::BAD_GATEWAY,
                text(
                    ErrorCode::Unavailable,
                    "the upstream has failed several times and is left alone for a moment",
                ),
            ),
            Self::BadUpstreamResponse { .. } | Self::Cached(_) => {
                (S::BAD_GATEWAY, text(ErrorCode::Unavailable, "the upstream's answer can't be used"))
            }
            Self::Seal(_) => (S::INTERNAL_SERVER_ERROR, ErrorBody::new(ErrorCode::Unknown)),
        }
    }

    /// Tells the operator what the client is not told.
    pub(crate) fn log(&self, request_id: &str) {
        match self {
            Self::Upstream { name, error } => {
                tracing::warn!(request_id, upstream = name, error = %chain(error), "no answer from the upstream");
            }
            Self::BadUpstreamResponse { name, reason } => {
                tracing::warn!(request_id, upstream = name, reason, "the upstream's answer can't be used");
            }
            Self::Cached(reason) => {
                tracing::warn!(request_id, %reason, "the upstream's answer can't be used")
            }
            Self::Seal(error) => tracing::error!(request_id, %error, "cannot seal a handle"),
            Self::Loop => tracing::warn!(request_id, "the gateway is its own upstream"),
            _ => tracing::debug!(request_id, problem = ?self, "refused"),
        }
    }
}

fn route(error: &RouteError) -> (StatusCode, ErrorBody) {
    let (status, code) = match error {
        RouteError::Unknown | RouteError::UnknownNamespace => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        RouteError::Disagree | RouteError::Name(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
    };
    (status, ErrorBody::with_message(code, error.to_string()))
}

fn upstream(error: &upstream::Error) -> (StatusCode, ErrorBody) {
    use upstream::{Error, TokenError};
    let late = (StatusCode::GATEWAY_TIMEOUT, "the upstream does not answer");
    let (status, message) = match error {
        Error::Dial(error) if matches!(**error, upstream::DialError::Timeout { .. }) => late,
        Error::Timeout => late,
        Error::Dial(_) => (StatusCode::BAD_GATEWAY, "the upstream can't be reached"),
        Error::Broken(_) => (StatusCode::BAD_GATEWAY, "the upstream broke off"),
        Error::Client(_) => return Problem::ClientGone.status_and_body(),
        Error::Loop => return Problem::Loop.status_and_body(),
        Error::Limited { .. } => {
            return (StatusCode::TOO_MANY_REQUESTS, ErrorBody::new(ErrorCode::TooManyRequests));
        }
        Error::Token(error) => match &**error {
            TokenError::Failed { source, .. } => return upstream(source),
            _ => (StatusCode::BAD_GATEWAY, "the upstream gives this gateway no token"),
        },
        // The client must not be asked for a password that cannot help.
        Error::Credentials(_)
        | Error::Unauthorized(_)
        | Error::AnonymousUpstream
        | Error::UsernameIgnored => {
            (StatusCode::BAD_GATEWAY, "the upstream does not take this gateway's credentials")
        }
        Error::EgressPolicy(_) | Error::Redirect(_) => {
            (StatusCode::BAD_GATEWAY, "the upstream's answer can't be used")
        }
    };
    (status, ErrorBody::with_message(ErrorCode::Unavailable, message))
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The accesses that an operation asks for, as the body of a 401 lists them. Writing is asked for together with
/// reading, as distribution does it.
pub(crate) fn accesses(operation: &Operation) -> Vec<Access> {
    let actions: &[Action] = match operation.action() {
        None => &[],
        Some(Action::Catalog) => return vec![Access::catalog()],
        Some(Action::Pull) => &[Action::Pull],
        Some(Action::Push) => &[Action::Pull, Action::Push],
        Some(Action::Delete) => &[Action::Delete],
    };
    let Some(name) = operation.repository() else { return Vec::new() };
    actions.iter().map(|action| Access::repository(name.as_str(), action.as_str())).collect()
}
