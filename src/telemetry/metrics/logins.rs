//! Counters of logins.

use crate::telemetry::metrics::counter::Counter;

/// The kind of credential that a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginMethod {
    /// A password of the htpasswd file.
    Password,
    /// A token of this gateway.
    Token,
    /// A robot's token.
    Robot,
    /// A platform's token.
    Workload,
    /// A client certificate.
    Certificate,
    /// A password that an upstream judges.
    Upstream,
    /// Credentials of another scheme, or malformed ones.
    Other,
}

impl LoginMethod {
    /// All methods.
    pub(crate) const ALL: [Self; 7] = [
        Self::Password,
        Self::Token,
        Self::Robot,
        Self::Workload,
        Self::Certificate,
        Self::Upstream,
        Self::Other,
    ];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Token => "token",
            Self::Robot => "robot",
            Self::Workload => "workload",
            Self::Certificate => "certificate",
            Self::Upstream => "upstream",
            Self::Other => "other",
        }
    }
}

/// The result of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginResult {
    /// The credentials count.
    Accepted,
    /// The credentials are wrong.
    Rejected,
    /// The credentials were right once, and have expired.
    Expired,
    /// The credentials were not checked: too many failures, or too many checks at once.
    Throttled,
    /// The credentials could not be checked: the issuer or upstream that judges them does not answer.
    Unknown,
}

impl LoginResult {
    /// All results.
    pub(crate) const ALL: [Self; 5] =
        [Self::Accepted, Self::Rejected, Self::Expired, Self::Throttled, Self::Unknown];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Unknown => "unknown",
        }
    }
}

/// The logins since the start, by method and result.
#[derive(Debug, Default)]
pub(crate) struct LoginMetrics([[Counter; LoginResult::ALL.len()]; LoginMethod::ALL.len()]);

impl LoginMetrics {
    /// Counts a login.
    pub(crate) fn note(&self, method: LoginMethod, result: LoginResult) {
        self.0[method as usize][result as usize].increment();
    }

    /// Returns the logins of this method that ended so.
    pub(crate) fn get(&self, method: LoginMethod, result: LoginResult) -> u64 {
        self.0[method as usize][result as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_counted_by_method_and_result() {
        let logins = LoginMetrics::default();
        logins.note(LoginMethod::Token, LoginResult::Accepted);
        logins.note(LoginMethod::Password, LoginResult::Rejected);
        assert_eq!(logins.get(LoginMethod::Token, LoginResult::Accepted), 1);
        assert_eq!(logins.get(LoginMethod::Token, LoginResult::Rejected), 0);
        assert_eq!(logins.get(LoginMethod::Password, LoginResult::Rejected), 1);
    }

    #[test]
    fn places_of_methods_and_results_are_their_numbers() {
        assert!(LoginMethod::ALL.iter().enumerate().all(|(place, method)| *method as usize == place));
        assert!(LoginResult::ALL.iter().enumerate().all(|(place, result)| *result as usize == place));
    }
}
