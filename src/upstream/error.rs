//! What can go wrong on the way to an upstream and back, and whose fault it is.

use super::connect::DialError;
use super::wire::WireError;
use crate::body::BodyError;

/// Why an upstream gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It took the request and did not answer in time.
    #[error("it did not answer within response_timeout")]
    Timeout,
    /// The connection broke before an answer was there, or the answer was not HTTP.
    #[error(transparent)]
    Broken(BrokenExchange),
    /// The *client's* request broke off; nothing is wrong with the upstream.
    #[error("the client's request broke off")]
    Client(#[source] BodyError),
}

/// An exchange that broke. Opaque: how it broke is for the log, not for decisions.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BrokenExchange(WireError);

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Body(error) => Self::Client(error),
            WireError::Timeout(_) => Self::Timeout,
            error @ (WireError::Closed | WireError::Io(_) | WireError::Malformed(_)) => {
                Self::Broken(BrokenExchange(error))
            }
        }
    }
}

impl Error {
    /// Whether asking again may help. Time is already lost on a timeout, and a client that left is gone.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Dial(_) => true,
            Self::Broken(BrokenExchange(error)) => matches!(error, WireError::Closed | WireError::Io(_)),
            Self::Timeout | Self::Client(_) => false,
        }
    }
}
