//! The one place where refusals and failures become HTTP responses.
//!
//! A client's mistake is a 4xx in the registry's own words, an upstream's failure a 502 or 504, and none of them is ever an
//! HTML page.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};

use crate::authn::Failure;
use crate::body::Body;
use crate::budget::Spent;
use crate::config::limits;
use crate::gateway::handle::SealError;
use crate::gateway::host::HostError;
use crate::gateway::route::RouteError;
use crate::meaning::{Meaning, RATE_LIMITED, UpstreamFailure, Words};
use crate::proto::{Access, Action, BearerError, ContentRange, ErrorBody, ErrorCode, Operation, TargetError};

/// A request that is not answered with what it asked for.
#[derive(Debug)]
pub(super) enum Problem {
    /// HTTP that could be read in two ways, or breaks a rule that keeps proxies safe.
    Malformed(&'static str),
    /// A head longer than any client's should be.
    HeadTooLarge,
    /// A host that is not served, or not just one host.
    Host(HostError),
    /// A request that has already been here.
    Loop,
    /// A request outside the registry's grammar.
    Target(TargetError),
    /// A login is needed, or another token.
    Unauthorized(Box<Unauthorized>),
    /// Too many logins failed.
    Throttled(Duration),
    /// The rules do not allow it. Holds the text that says what was missing.
    Denied(String),
    /// No upstream holds such a repository.
    Route(RouteError),
    /// A write to an upstream with `read_only`.
    ReadOnly,
    /// An upload's handle that was not sealed here, or not for this client.
    UploadUnknown,
    /// A manifest larger than any registry must take.
    ManifestTooLarge,
    /// A budget had nothing for it.
    Spent(Spent),
    /// The client's own request broke off.
    ClientGone,
    /// The upstream gave nothing usable. `code` is the one that fits the operation.
    Upstream { upstream: Arc<str>, failure: Box<UpstreamFailure>, code: ErrorCode },
    /// A range outside the blob, which has this many bytes.
    Unsatisfiable(u64),
    /// Not in the cache, and the upstream is not asked. Holds the code for what is missing, and the reason.
    NotCached(ErrorCode, &'static str),
    /// A list that is not known, and the upstream is not asked.
    NotListed,
    /// The upstream limits the rate of this account; it is asked again after `wait`.
    RateLimited { upstream: Arc<str>, wait: Duration },
    /// The upstream's circuit breaker is open, the last time for `cause`.
    CircuitOpen { upstream: Arc<str>, cause: Option<Arc<str>> },
    /// A handle could not be sealed.
    Seal(SealError),
    /// The keys of a token's issuer cannot be had: whether the token is good is not known.
    IssuerSilent { provider: String, why: Arc<str> },
}

/// A refusal for want of a login.
#[derive(Debug, Default)]
pub(super) struct Unauthorized {
    /// The accesses that were asked for, in the client's own names.
    pub(super) accesses: Vec<Access>,
    /// The defect of the token that was shown.
    pub(super) error: Option<BearerError>,
    /// The reason why the token or the robot does not count, which the client is not told.
    pub(super) reason: Option<String>,
    /// True if the token was good once.
    pub(super) expired: bool,
    /// The value of `WWW-Authenticate`, where it is not the Basic challenge.
    pub(super) challenge: Option<HeaderValue>,
}

impl Problem {
    /// Returns the refusal of an operation for want of a login, or for a defect of the token.
    pub(super) fn unauthorized(operation: Option<&Operation>, error: Option<BearerError>) -> Self {
        let accesses = operation.map(accesses).unwrap_or_default();
        Self::Unauthorized(Box::new(Unauthorized { accesses, error, ..Unauthorized::default() }))
    }

    /// Returns the refusal of a token or certificate, for a reason that the log has.
    pub(super) fn refused_token(
        operation: Option<&Operation>,
        error: Option<BearerError>,
        reason: String,
        expired: bool,
    ) -> Self {
        let (accesses, reason) = (operation.map(accesses).unwrap_or_default(), Some(reason));
        Self::Unauthorized(Box::new(Unauthorized { accesses, error, reason, expired, challenge: None }))
    }

    pub(super) fn authentication(failure: Failure, operation: Option<&Operation>) -> Self {
        match failure {
            Failure::Invalid => Self::unauthorized(operation, None),
            Failure::Throttled { retry_after } => Self::Throttled(retry_after),
        }
    }

    /// Returns the problem of an upstream that gave nothing usable for `operation`.
    pub(super) fn upstream(upstream: &str, failure: UpstreamFailure, operation: &Operation) -> Self {
        match failure.meaning {
            Meaning::ClientGone => return Self::ClientGone,
            Meaning::Loop => return Self::Loop,
            _ => {}
        }
        let status = failure.meaning.client_status().and_then(|status| StatusCode::from_u16(status).ok());
        let code = code_for(status.unwrap_or(StatusCode::BAD_GATEWAY), operation);
        Self::Upstream { upstream: upstream.into(), failure: Box::new(failure), code }
    }

    /// Returns the problem of an upstream's success that is not what was asked for.
    pub(super) fn unusable(upstream: &str, reason: &'static str) -> Self {
        let failure = Box::new(UpstreamFailure::unusable(reason));
        Self::Upstream { upstream: upstream.into(), failure, code: ErrorCode::Unavailable }
    }

    /// Returns the response. `challenge` is the value of `WWW-Authenticate` in a 401 that has none of its own.
    pub(super) fn respond(&self, challenge: &HeaderValue) -> Response<Body> {
        let (status, body) = self.status_and_body();
        let mut response = Response::new(Body::full(body.render()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.header(challenge) {
            headers.insert(name, value);
        }
        response
    }

    fn header(&self, challenge: &HeaderValue) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized(unauthorized) => {
                Some((header::WWW_AUTHENTICATE, unauthorized.challenge.as_ref().unwrap_or(challenge).clone()))
            }
            Self::Throttled(after) => Some((header::RETRY_AFTER, after.as_secs().max(1).into())),
            Self::RateLimited { wait, .. } => Some(later(*wait)),
            Self::Spent(spent) => Some(later(spent.retry_after)),
            Self::Upstream { failure, .. } => match (failure.retry_after, failure.unsatisfied) {
                (Some(after), _) => Some(later(after)),
                (None, Some(total)) => unsatisfied(total),
                (None, None) => None,
            },
            Self::Unsatisfiable(total) => unsatisfied(*total),
            Self::CircuitOpen { .. } => Some((header::RETRY_AFTER, HeaderValue::from_static("5"))),
            Self::IssuerSilent { .. } => Some(later(limits::OIDC_REFETCH_PAUSE)),
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
            Self::Host(error) => (host_status(error), text(ErrorCode::NameUnknown, error.to_string())),
            Self::Loop => (S::LOOP_DETECTED, text(ErrorCode::Unavailable, "the gateway is its own upstream")),
            Self::Target(error) => {
                let status = S::from_u16(error.status()).unwrap_or(S::NOT_FOUND);
                (status, text(error.code(), error.to_string()))
            }
            Self::Unauthorized(unauthorized) => {
                (S::UNAUTHORIZED, ErrorBody::unauthorized(unauthorized.accesses.clone()))
            }
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
            Self::Spent(_) => (
                S::SERVICE_UNAVAILABLE,
                text(ErrorCode::Unavailable, "the gateway holds too much at once; try again"),
            ),
            Self::ClientGone => {
                (S::BAD_REQUEST, text(ErrorCode::BlobUploadInvalid, "the request's body broke off"))
            }
            Self::RateLimited { .. } => {
                (S::TOO_MANY_REQUESTS, text(ErrorCode::TooManyRequests, RATE_LIMITED))
            }
            Self::Upstream { failure, code, .. } => {
                let status = failure.meaning.client_status().and_then(|status| S::from_u16(status).ok());
                (status.unwrap_or(S::BAD_GATEWAY), body_of(failure, *code))
            }
            Self::Unsatisfiable(_) => (S::RANGE_NOT_SATISFIABLE, ErrorBody::new(ErrorCode::RangeInvalid)),
            Self::NotCached(code, reason) => (S::NOT_FOUND, text(*code, *reason)),
            Self::NotListed => (
                S::BAD_GATEWAY,
                text(
                    ErrorCode::Unavailable,
                    "this list is not known here, and the upstream is not asked (offline)",
                ),
            ),
            Self::CircuitOpen { .. } => (
                S::BAD_GATEWAY,
                text(
                    ErrorCode::Unavailable,
                    "the upstream has failed several times and is left alone for a moment",
                ),
            ),
            Self::IssuerSilent { .. } => (
                S::SERVICE_UNAVAILABLE,
                text(ErrorCode::Unavailable, "the keys of the token's issuer cannot be had now; try again"),
            ),
            Self::Seal(_) => (S::INTERNAL_SERVER_ERROR, ErrorBody::new(ErrorCode::Unknown)),
        }
    }

    /// Returns what the client is told, in one line.
    pub(super) fn summary(&self) -> String {
        let (status, body) = self.status_and_body();
        let message = body.errors.first().map(|entry| entry.message.as_str()).unwrap_or_default();
        format!("{message} ({})", status.as_u16())
    }

    /// Returns the word for the cause, in the access log.
    #[deny(clippy::wildcard_enum_match_arm)]
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::HeadTooLarge => "head_too_large",
            Self::Host(HostError::Misdirected(_)) => "misdirected",
            Self::Host(HostError::NotOne | HostError::Differ | HostError::Malformed) => "malformed",
            Self::Loop => "loop",
            Self::Target(_) => "no_such_resource",
            Self::Unauthorized(refused) if refused.expired => "token_expired",
            Self::Unauthorized(_) => "unauthorized",
            Self::Throttled(_) => "throttled",
            Self::Denied(_) => "denied",
            Self::Route(_) => "no_such_upstream",
            Self::ReadOnly => "read_only",
            Self::UploadUnknown => "upload_unknown",
            Self::ManifestTooLarge => "manifest_too_large",
            Self::Spent(_) => "budget_spent",
            Self::ClientGone => "client_gone",
            Self::Upstream { failure, .. } => failure.meaning.word(),
            Self::Unsatisfiable(_) => "range",
            Self::NotCached(..) => "not_cached",
            Self::NotListed => "not_listed",
            Self::RateLimited { .. } => "rate_limited",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::Seal(_) => "internal",
            Self::IssuerSilent { .. } => "issuer_silent",
        }
    }

    /// Returns the cause in words, if the operator may have to do something about it: not for what clients do wrong, and
    /// not for what is merely not there.
    pub(super) fn shown(&self) -> Option<String> {
        match self {
            Self::Host(error @ HostError::Misdirected(_)) => Some(error.to_string()),
            Self::Denied(reason) => Some(reason.clone()),
            Self::Upstream { failure, .. } => is_shown(failure).then(|| failure.to_string()),
            Self::CircuitOpen { cause: Some(cause), .. } => Some(format!("circuit open: {cause}")),
            Self::IssuerSilent { provider, why } => {
                Some(format!("the keys of {provider} cannot be had: {why}"))
            }
            Self::Spent(spent) => Some(spent.to_string()),
            Self::Loop
            | Self::Throttled(_)
            | Self::ReadOnly
            | Self::ManifestTooLarge
            | Self::NotListed
            | Self::RateLimited { .. }
            | Self::CircuitOpen { cause: None, .. }
            | Self::Seal(_) => Some(self.summary()),
            _ => None,
        }
    }

    /// Logs what the operator needs to know and the client is not told: one line, which names the upstream where it is the
    /// cause.
    pub(super) fn log(&self, request_id: &str) {
        match self {
            Self::Upstream { upstream, failure, .. } => log_failure(request_id, upstream, failure),
            Self::CircuitOpen { upstream, cause } => {
                let (upstream, last) = (&**upstream, cause.as_deref());
                tracing::info!(request_id, upstream, last, "circuit open: the upstream was not asked");
            }
            Self::RateLimited { upstream, wait } => {
                let (upstream, seconds) = (&**upstream, wait.as_secs());
                tracing::info!(
                    request_id,
                    upstream,
                    seconds,
                    "the upstream limits the rate: it was not asked"
                );
            }
            Self::Spent(spent) => {
                tracing::info!(request_id, budget = spent.budget, "refused: the budget is spent")
            }
            Self::IssuerSilent { provider, why } => {
                tracing::warn!(request_id, provider, error = %why, "cannot check a token: its issuer's keys cannot be had");
            }
            Self::Seal(error) => tracing::error!(request_id, %error, "cannot seal a handle"),
            Self::Loop => tracing::warn!(request_id, "the gateway is its own upstream"),
            Self::Unauthorized(refused) if refused.reason.is_some() && !refused.expired => {
                let reason = refused.reason.as_deref();
                tracing::info!(request_id, reason, "refused a token");
            }
            _ => tracing::debug!(request_id, problem = ?self, "refused"),
        }
    }
}

/// Returns true if the operator may have to do something about an upstream's failure: not where something is merely not
/// there, or the client has left.
pub(super) fn is_shown(failure: &UpstreamFailure) -> bool {
    match failure.meaning {
        Meaning::Usable
        | Meaning::NotFound
        | Meaning::Hidden
        | Meaning::NotOffered { .. }
        | Meaning::Rejected { .. }
        | Meaning::ClientGone => false,
        Meaning::Denied
        | Meaning::LoginRefused
        | Meaning::CredentialsRefused
        | Meaning::RateLimited { .. }
        | Meaning::Busy { .. }
        | Meaning::Unavailable { .. }
        | Meaning::StorageFailed
        | Meaning::Unusable
        | Meaning::Loop => true,
    }
}

fn later(wait: Duration) -> (header::HeaderName, HeaderValue) {
    // Rounded up: a client that comes back a moment too early is refused again.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    (header::RETRY_AFTER, seconds.clamp(1, limits::LIMITED_PAUSE_MOST.as_secs()).into())
}

fn unsatisfied(total: u64) -> Option<(header::HeaderName, HeaderValue)> {
    let range = HeaderValue::try_from(ContentRange::Unsatisfied { total }.to_string());
    range.ok().map(|range| (header::CONTENT_RANGE, range))
}

/// Logs an upstream's failure that a client is told of: what the upstream said, and the key of the configuration that may
/// help. That something is not there is said of every image that a client looks for in vain.
pub(super) fn log_failure(request_id: &str, upstream: &str, failure: &UpstreamFailure) {
    let UpstreamFailure { meaning, key: set, .. } = failure;
    match meaning.client_status() {
        Some(500..) => {
            tracing::warn!(request_id, upstream, ?meaning, error = %failure, set, "no usable answer from the upstream");
        }
        _ if *meaning == Meaning::NotFound && failure.message.is_none() => {
            tracing::debug!(request_id, upstream, ?meaning, error = %failure, set, "the upstream refuses a request");
        }
        _ => {
            tracing::info!(request_id, upstream, ?meaning, error = %failure, set, "the upstream refuses a request");
        }
    }
}

/// Returns the body that tells a client of an upstream's failure: in the registry's own words, where it refuses the request
/// itself.
fn body_of(failure: &UpstreamFailure, code: ErrorCode) -> ErrorBody {
    let coded = |body: &ErrorBody| body.errors.iter().any(|entry| !entry.code.is_empty());
    let theirs = failure.errors.as_deref().filter(|body| coded(body));
    match (failure.meaning.words(), theirs) {
        (Words::Registrys, Some(theirs)) => theirs.clone(),
        (Words::Detailed, theirs) => ErrorBody::quoting(code, failure.message, theirs),
        (Words::Registrys | Words::Gateways, _) => ErrorBody::quoting(code, failure.message, None),
    }
}

fn host_status(error: &HostError) -> StatusCode {
    match error {
        HostError::NotOne | HostError::Differ | HostError::Malformed => StatusCode::BAD_REQUEST,
        HostError::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
    }
}

fn route(error: &RouteError) -> (StatusCode, ErrorBody) {
    let (status, code) = match error {
        RouteError::Unknown | RouteError::UnknownNamespace => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        RouteError::Disagree | RouteError::Name(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
    };
    (status, ErrorBody::with_message(code, error.to_string()))
}

/// Returns the accesses that an operation asks for, as the body of a 401 lists them. Writing is asked for together with
/// reading, as distribution does.
fn accesses(operation: &Operation) -> Vec<Access> {
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

/// Returns the code of a refusal whose own body is not an error of the registry API.
pub(super) fn code_for(status: StatusCode, operation: &Operation) -> ErrorCode {
    match status {
        StatusCode::NOT_FOUND => match operation {
            Operation::GetManifest { .. } | Operation::DeleteManifest { .. } => ErrorCode::ManifestUnknown,
            Operation::GetBlob { .. } | Operation::DeleteBlob { .. } => ErrorCode::BlobUnknown,
            // Clients fall back to the tag that stands for the list; on NAME_UNKNOWN oras would stop.
            Operation::Referrers { .. } => ErrorCode::Unsupported,
            Operation::UploadStatus { .. }
            | Operation::PatchUpload { .. }
            | Operation::FinishUpload { .. }
            | Operation::CancelUpload { .. } => ErrorCode::BlobUploadUnknown,
            _ => ErrorCode::NameUnknown,
        },
        StatusCode::FORBIDDEN => ErrorCode::Denied,
        StatusCode::TOO_MANY_REQUESTS => ErrorCode::TooManyRequests,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_ACCEPTABLE => ErrorCode::Unsupported,
        StatusCode::RANGE_NOT_SATISFIABLE => ErrorCode::RangeInvalid,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::SizeInvalid,
        status if status.is_server_error() => ErrorCode::Unavailable,
        _ => ErrorCode::Unknown,
    }
}
