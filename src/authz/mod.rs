//! What an identity may do: rules to a permit. Pure.
//!
//! The first rule that matches who, where and what decides; none matching, it is denied. A [`Permit`] can be made
//! nowhere else, and whatever touches an upstream needs one: a route that forgot to ask does not compile.

use std::sync::Arc;

use crate::authn::Identity;
use crate::config::{AccessRule, UserPattern};
use crate::proto::{Action, Operation, RepositoryName};

/// The proof that an operation is allowed. Its fields are private and only [`Rules`] makes one,
/// and [`Permit::operator`].
#[derive(Clone, Debug)]
pub struct Permit {
    identity: Identity,
    repository: Option<RepositoryName>,
}

impl Permit {
    /// For commands that the operator runs: whoever can read the gateway's configuration could ask its upstreams
    /// without it. Never for a request that comes in.
    pub fn operator(identity: Identity) -> Self {
        Self { identity, repository: None }
    }

    /// Who was allowed.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where, by the canonical name; none for what concerns no repository.
    pub fn repository(&self) -> Option<&RepositoryName> {
        self.repository.as_ref()
    }
}

/// The access that was missing.
#[derive(Debug, PartialEq, Eq)]
pub struct Denied {
    /// The repository's canonical name; none for the catalog, and for `/v2/` itself.
    pub repository: Option<RepositoryName>,
    /// What was asked for; none for `/v2/`, which wants no more than a login.
    pub action: Option<Action>,
}

/// The access rules in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Arc<[AccessRule]>,
    logins: bool,
}

impl Rules {
    /// The rules of the configuration, in their order. `logins` says whether there is any way to log in: then
    /// `/v2/` asks for it, since clients decide there whether they will ever send credentials.
    pub fn new(rules: Vec<AccessRule>, logins: bool) -> Self {
        Self { rules: rules.into(), logins }
    }

    /// Decides whether `identity` may do `operation`, whose names are canonical.
    ///
    /// # Errors
    /// [`Denied`] names the access that was missing. It depends on the rules alone, never on what an upstream holds.
    pub fn authorize(&self, identity: &Identity, operation: &Operation) -> Result<Permit, Denied> {
        let (repository, action) = (operation.repository(), operation.action());
        let allowed = match action {
            None => !(self.logins && identity.is_anonymous()),
            Some(action) => {
                self.allows(identity, repository, action)
                    // Clients look before they upload: who may push may see whether it is there already.
                    || (operation.is_head() && self.allows(identity, repository, Action::Push))
            }
        };
        if allowed {
            return Ok(Permit { identity: identity.clone(), repository: repository.cloned() });
        }
        Err(Denied { repository: repository.cloned(), action })
    }

    /// Whether the holder of `permit`, which is for pushing, may also read `from`, from which he wants to mount.
    pub fn may_mount(&self, permit: &Permit, from: &RepositoryName) -> bool {
        self.allows(&permit.identity, Some(from), Action::Pull)
    }

    /// Whether the holder of `permit`, which is for the catalog, may learn that `repository` exists.
    pub fn may_list(&self, permit: &Permit, repository: &RepositoryName) -> bool {
        self.allows(&permit.identity, Some(repository), Action::Pull)
    }

    /// `repository` is `None` for the catalog: who and what decide then.
    fn allows(&self, identity: &Identity, repository: Option<&RepositoryName>, action: Action) -> bool {
        self.rules.iter().any(|rule| {
            rule.actions.contains(action)
                && rule.users.iter().any(|pattern| matches_user(pattern, identity))
                && repository.is_none_or(|name| rule.repositories.iter().any(|pattern| pattern.matches(name)))
        })
    }
}

/// What nobody in particular may do, everybody may: who has logged in could as well come without a name.
fn matches_user(pattern: &UserPattern, identity: &Identity) -> bool {
    matches!(pattern, UserPattern::Anonymous)
        || pattern.matches((!identity.is_anonymous()).then(|| identity.name()))
}
