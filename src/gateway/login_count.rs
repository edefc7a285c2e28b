//! Counts logins, by the kind of credential and the result.

use crate::gateway::login::Requester;
use crate::gateway::record::RequestRecord;
use crate::gateway::respond::Problem;
use crate::proto::Authorization;
use crate::proto::identity::{Identity, ROBOT_PREFIX};
use crate::telemetry::metrics::{LoginMethod, LoginResult};

/// Counts a login that was accepted. Requests without credentials are none.
pub(super) fn count_accepted(record: &mut RequestRecord, requester: &Requester) {
    let method = match (&requester.identity, &requester.proof) {
        (Identity::Anonymous, None) => return,
        (Identity::Robot(_), _) => LoginMethod::Robot,
        (_, Some(_)) => LoginMethod::Token,
        (Identity::User(_), None) => LoginMethod::Password,
        (Identity::Forwarded(_), None) => LoginMethod::Upstream,
        (Identity::Workload(_), None) => LoginMethod::Workload,
        (Identity::Certificate(_), None) => LoginMethod::Certificate,
    };
    record.set_login(method, LoginResult::Accepted);
}

/// Counts a login by `method` that `problem` has ended.
pub(super) fn count_refused(record: &mut RequestRecord, method: LoginMethod, problem: &Problem) {
    let result = match problem {
        Problem::Unauthorized(refused) if refused.expired => LoginResult::Expired,
        Problem::Unauthorized(_) => LoginResult::Rejected,
        Problem::Throttled(_) => LoginResult::Throttled,
        _ => LoginResult::Unknown,
    };
    record.set_login(method, result);
}

/// Returns the method of a login that failed, by the form of the credentials: `field` is the value of the `Authorization`
/// field.
pub(super) fn method_of(field: Option<&[u8]>) -> LoginMethod {
    match field.map(Authorization::parse) {
        None => LoginMethod::Certificate,
        Some(Ok(Authorization::Basic { password, .. })) if password.expose().starts_with(ROBOT_PREFIX) => {
            LoginMethod::Robot
        }
        Some(Ok(Authorization::Basic { .. })) => LoginMethod::Password,
        Some(Ok(Authorization::Bearer(_))) => LoginMethod::Token,
        Some(_) => LoginMethod::Other,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    #[test]
    fn failed_logins_are_known_by_their_form() {
        let basic = |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("alice:{password}")));
        let robot = basic(&format!("{ROBOT_PREFIX}x"));
        for (field, method) in [
            (Some(basic("secret")), LoginMethod::Password),
            (Some(robot), LoginMethod::Robot),
            (Some("Bearer abc".to_owned()), LoginMethod::Token),
            (Some("Negotiate x".to_owned()), LoginMethod::Other),
            (None, LoginMethod::Certificate),
        ] {
            assert_eq!(method_of(field.as_ref().map(String::as_bytes)), method, "{field:?}");
        }
    }
}
