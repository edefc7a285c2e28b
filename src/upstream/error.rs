//! Errors of exchanges with an upstream.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::body::BodyError;
use crate::budget::Spent;
use crate::config::limits;
use crate::upstream::auth::credentials::CredentialError;
use crate::upstream::egress::EgressError;
use crate::upstream::transport::connect::DialError;
use crate::upstream::transport::http1::ExchangeError;

/// The reason why an upstream gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The upstream could not be reached.
    #[error(transparent)]
    Dial(Arc<DialError>),
    /// The upstream accepted the request and did not answer in time.
    #[error("it did not answer within response_timeout")]
    Timeout,
    /// The connection broke before an answer was there, or the answer was not HTTP.
    #[error(transparent)]
    Broken(BrokenExchange),
    /// The *client's* request broke off; the upstream is not at fault.
    #[error("the client's request broke off")]
    Client(#[source] BodyError),
    /// The upstream names a place that the egress policy forbids.
    #[error(transparent)]
    EgressPolicy(#[from] EgressError),
    /// The upstream redirects in a way that cannot be followed.
    #[error("{0}")]
    Redirect(&'static str),
    /// The upstream redirects a write to itself, in a way that a write can't follow.
    #[error("it redirects a write to {url}: set its url = {url:?}")]
    WriteRedirected {
        /// Scheme, host and port.
        url: String,
    },
    /// The registry redirected to storage, and storage gave nothing.
    #[error("its storage {host}: {source}")]
    Storage {
        /// Host and port.
        host: String,
        /// The failure there.
        source: StorageError,
    },
    /// There are no credentials to present.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The upstream sends no challenge, and so can't tell if a password is right.
    #[error(
        "it sends no challenge, so that it can't check a forwarded password: remove upstream.credentials.forward"
    )]
    AnonymousUpstream,
    /// The upstream accepts a password under any name, as registries do with access tokens: its holder could log in
    /// under the name of another client.
    #[error(
        "it accepts this password, an access token perhaps, under any user name, so that it proves none: log in with \
         the account's own password, or remove upstream.credentials.forward"
    )]
    UsernameIgnored,
    /// The upstream has been asked too often.
    #[error("it limits the rate of requests (429)")]
    Limited {
        /// Its Retry-After.
        retry_after: Option<Duration>,
    },
    /// The upstream was not asked: too much is asked of it already.
    #[error("it is not asked: {0}")]
    Spent(#[from] Spent),
    /// The upstream is the gateway itself, or forwards to it.
    #[error("it is this gateway itself, or leads back to it (508)")]
    Loop,
    /// There is no token to present.
    #[error(transparent)]
    Token(Arc<TokenError>),
    /// The upstream refused the credentials.
    #[error(transparent)]
    Unauthorized(Unauthorized),
}

/// The reason why storage gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// The host answered with an error's status. Holds that and the first words of the answer.
    #[error("it answered {0}")]
    Status(String),
    /// The host gave no answer.
    #[error(transparent)]
    NoAnswer(Box<Error>),
    /// The host failed several times in a row and is not asked for a moment.
    #[error("circuit open: it failed several times in a row, and is not asked for a moment")]
    CircuitOpen,
}

/// The meaning of a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unauthorized {
    /// The upstream wants credentials, and the gateway has none of the kind.
    #[error("it wants credentials, and there are none: set upstream.credentials")]
    NoCredentials,
    /// The upstream sent a 401 without a challenge.
    #[error("it answers 401 without a challenge")]
    NoChallenge,
    /// The name and password are wrong.
    #[error("it refuses the name and password of upstream.credentials")]
    Password,
    /// The upstream does not take the tokens that its own token endpoint gives.
    #[error("it refuses the tokens of its own token endpoint: invalid_token")]
    InvalidToken,
    /// The token is valid and insufficient: the repository does not exist, or is not for this account.
    #[error("not there, or not for this gateway's account")]
    Insufficient,
}

/// The reason why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The egress policy forbids the realm.
    #[error(transparent)]
    EgressPolicy(#[from] EgressError),
    /// There are no credentials to ask with.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The endpoint refuses the credentials.
    #[error("the token endpoint {endpoint} refuses the credentials ({status})")]
    Refused {
        /// Scheme, host and path.
        endpoint: String,
        /// The status of the answer.
        status: StatusCode,
    },
    /// The endpoint has been asked too often.
    #[error("the token endpoint {endpoint} limits the rate of requests (429)")]
    Limited {
        /// Scheme, host and path.
        endpoint: String,
        /// Its Retry-After.
        retry_after: Option<Duration>,
    },
    /// The endpoint answers something else.
    #[error("the token endpoint {endpoint} answers {status}")]
    Status {
        /// Scheme, host and path.
        endpoint: String,
        /// The status of the answer.
        status: StatusCode,
    },
    /// The endpoint could not be asked.
    #[error("the token endpoint {endpoint}: {source}")]
    Failed {
        /// Scheme, host and path.
        endpoint: String,
        /// The failure.
        #[source]
        source: Box<Error>,
    },
    /// The answer is too long, breaks off, or holds no token.
    #[error("the token endpoint {endpoint} gives no token: {reason}")]
    Answer {
        /// Scheme, host and path.
        endpoint: String,
        /// The defect of the answer.
        reason: String,
    },
    /// The credentials were refused lately, and are not presented for a while.
    #[error("the credentials were refused lately, and are locked out for a while")]
    LockedOut,
    /// The registry does not take the tokens that its own token endpoint gives.
    #[error("the registry refuses the tokens of its own token endpoint: invalid_token")]
    TokensRefused,
    /// The endpoint was not asked: too many tokens are being asked for at a time.
    #[error(transparent)]
    Spent(Spent),
    /// Too many tokens are being asked for already.
    #[error("too many requests for tokens are under way")]
    Busy,
    /// The task that asked has ended without an answer.
    #[error("the request for a token was abandoned")]
    Abandoned,
}

impl TokenError {
    /// Returns the budget that was spent, so that no endpoint was asked.
    pub(crate) fn spent(&self) -> Option<Spent> {
        match self {
            Self::Spent(spent) => Some(*spent),
            Self::Failed { source, .. } => source.spent(),
            _ => None,
        }
    }

    /// Returns true if the endpoint refuses the credentials, or did so lately.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::LockedOut)
    }

    /// Returns true if another token endpoint might have given one.
    pub(crate) fn may_depend_on_endpoint(&self) -> bool {
        match self {
            Self::Limited { .. }
            | Self::Refused { .. }
            | Self::LockedOut
            | Self::Credentials(_)
            | Self::TokensRefused
            | Self::Busy
            | Self::Spent(_)
            | Self::Abandoned => false,
            Self::Failed { source, .. } if source.spent().is_some() => false,
            Self::EgressPolicy(_) | Self::Status { .. } | Self::Failed { .. } | Self::Answer { .. } => true,
        }
    }

    /// Returns how long not to ask again: short after an accident, longer after a refusal.
    pub(crate) fn pause(&self) -> Duration {
        match self {
            Self::Limited { retry_after, .. } => retry_after
                .unwrap_or(limits::REFUSED_PAUSE)
                .clamp(limits::TOKEN_FAILED_PAUSE, limits::TOKEN_LIMITED_MOST),
            Self::Refused { .. } | Self::Credentials(_) => limits::REFUSED_PAUSE,
            Self::Status { .. }
            | Self::Failed { .. }
            | Self::Answer { .. }
            | Self::TokensRefused
            | Self::EgressPolicy(_) => limits::TOKEN_FAILED_PAUSE,
            // No endpoint was asked.
            Self::LockedOut | Self::Abandoned | Self::Busy | Self::Spent(_) => Duration::ZERO,
        }
    }
}

/// A broken exchange. Opaque: its cause is for the log, not for decisions.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct BrokenExchange(ExchangeError);

impl From<DialError> for Error {
    fn from(error: DialError) -> Self {
        Self::Dial(Arc::new(error))
    }
}

impl From<ExchangeError> for Error {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Body(error) => Self::Client(error),
            ExchangeError::Timeout(_) => Self::Timeout,
            error @ (ExchangeError::Closed | ExchangeError::Io(_) | ExchangeError::Malformed(_)) => {
                Self::Broken(BrokenExchange(error))
            }
        }
    }
}

impl Error {
    /// Returns the budget that was spent, so that the upstream was not asked.
    pub(crate) fn spent(&self) -> Option<Spent> {
        match self {
            Self::Spent(spent) => Some(*spent),
            Self::Token(error) => error.spent(),
            _ => None,
        }
    }

    /// Returns true if another attempt may help. After a timeout there is no time left, and a refusal stays one.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_transient(),
            Self::Broken(BrokenExchange(error)) => {
                matches!(error, ExchangeError::Closed | ExchangeError::Io(_))
            }
            Self::Timeout
            | Self::Client(_)
            | Self::EgressPolicy(_)
            | Self::Redirect(_)
            | Self::WriteRedirected { .. }
            | Self::Credentials(_)
            | Self::AnonymousUpstream
            | Self::UsernameIgnored
            | Self::Limited { .. }
            | Self::Spent(_)
            | Self::Loop
            | Self::Storage { .. }
            | Self::Token(_)
            | Self::Unauthorized(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_of_a_token_endpoint_is_clamped() {
        let pause = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            TokenError::Limited { endpoint: String::new(), retry_after }.pause()
        };
        assert_eq!(pause(0), limits::TOKEN_FAILED_PAUSE);
        assert_eq!(pause(30), Duration::from_secs(30));
        assert_eq!(pause(u64::MAX), limits::TOKEN_LIMITED_MOST);
    }
}
