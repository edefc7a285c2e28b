//! Denials, in the words of the client.

use crate::authz::{Denied, Rules, Subject, Verdict, Wish};
use crate::gateway::authorized::AuthorizedRepository;
use crate::gateway::respond::Problem;
use crate::proto::identity::Identity;
use crate::proto::{ErrorCode, Operation};

/// Returns the problem of a client whom the rules deny an action. `denied` has the repository as the client names it.
pub(super) fn denial(identity: &Identity, denied: &Denied) -> Problem {
    let Some(action) = denied.action else { return Problem::Denied(ErrorCode::Denied.message().to_owned()) };
    let repository = denied.repository.as_ref();
    Problem::Denied(told(&Verdict {
        who: identity.own_name(),
        allowed: false,
        wish: Wish::Do(action),
        repository,
    }))
}

/// Returns the problem of a client that may pull, but not cause a first download of what it asks for.
pub(super) fn fetch_denial(asked: &AuthorizedRepository<'_>) -> Problem {
    let name = asked.request.addressing.shown_name(&asked.named);
    let who = asked.request.permit.identity().own_name();
    let verdict = Verdict { who, allowed: false, wish: Wish::Fetch, repository: Some(&name) };
    Problem::Denied(told(&verdict) + "; what is in the cache already may be pulled")
}

/// Returns the rule by which `operation` is denied, for the operator alone: `dockgate.toml:12`, or that none allows it.
pub(super) fn deciding_rule(rules: &Rules, subject: &Subject, operation: &Operation) -> Option<String> {
    let wish = Wish::Do(operation.action()?);
    let explanation = rules.explain(subject, operation.repository(), wish);
    // The rules allow it: the login is for another upstream.
    if explanation.allowed {
        return None;
    }
    Some(match explanation.rule {
        Some(rule) => {
            let place = rule.place.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{place} {rule}").trim_start().to_owned()
        }
        None => "no rule allows it".to_owned(),
    })
}

/// Returns the registry's own words, which clients look for, and the sentence of `dockgate explain`.
fn told(verdict: &Verdict<'_>) -> String {
    format!("{}: {verdict}", ErrorCode::Denied.message())
}
