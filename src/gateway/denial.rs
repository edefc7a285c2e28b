//! Denials, in the words of the client.

use crate::authz::{Denied, Verdict, Wish};
use crate::gateway::authorized::AuthorizedRepository;
use crate::gateway::respond::Problem;
use crate::proto::ErrorCode;
use crate::proto::identity::Identity;

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

/// Returns the registry's own words, which clients look for, and the sentence of `dockgate explain`.
fn told(verdict: &Verdict<'_>) -> String {
    format!("{}: {verdict}", ErrorCode::Denied.message())
}
