//! Authorization: rules to a permit. Pure.
//!
//! The first rule that matches who, where and what decides; none matching, it is denied. A [`Permit`] can be made
//! nowhere else, and whatever touches an upstream needs one: a route that forgot to ask does not compile.

mod explanation;
mod limits;
mod region;
mod subject;

use std::sync::Arc;

use crate::budget::Client;
use crate::config::{AccessRule, Group, RepositoryPattern, UserPattern};
use crate::proto::identity::Identity;
use crate::proto::{Action, Operation, RepositoryName};

pub(crate) use explanation::{Explanation, Obstacle, Wish};
pub(crate) use limits::Limits;
pub(crate) use region::Region;
pub use subject::Subject;

/// The proof that an operation is allowed. Its fields are private and only [`Rules`] makes one,
/// and [`Permit::operator`].
#[derive(Clone, Debug)]
pub struct Permit {
    subject: Subject,
    repository: Option<RepositoryName>,
    may_fetch: bool,
    client: Client,
}

impl Permit {
    /// Creates a permit for commands that the operator runs: a user who can read the gateway's configuration could ask
    /// its upstreams
    /// without it. Never for a request that comes in.
    pub fn operator(identity: Identity) -> Self {
        Self { subject: identity.into(), repository: None, may_fetch: true, client: Client::Trusted }
    }

    /// Creates an operator's permit for one repository, by its canonical name.
    pub fn operator_at(identity: Identity, repository: RepositoryName) -> Self {
        Self { repository: Some(repository), ..Self::operator(identity) }
    }

    /// Returns this permit, with what it lets be done charged to `client`.
    #[must_use]
    pub(crate) fn charged_to(self, client: Client) -> Self {
        Self { client, ..self }
    }

    /// Returns the client to which what it lets be done is charged.
    pub(crate) fn client(&self) -> Client {
        self.client
    }

    /// Returns the subject that was allowed.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Returns the identity that was allowed.
    pub fn identity(&self) -> &Identity {
        &self.subject.identity
    }

    /// Returns the groups that its provider says the identity is in.
    pub(crate) fn groups(&self) -> &[Box<str>] {
        &self.subject.groups
    }

    /// Returns true if it may cause a first download, beyond what is held already.
    pub fn may_fetch(&self) -> bool {
        self.may_fetch
    }

    /// Returns the repository, by its canonical name; none for operations without one.
    pub fn repository(&self) -> Option<&RepositoryName> {
        self.repository.as_ref()
    }
}

/// The access that was missing.
#[derive(Debug, PartialEq, Eq)]
pub struct Denied {
    /// The repository's canonical name; none for the catalog, and for `/v2/` itself.
    pub repository: Option<RepositoryName>,
    /// The action that was asked for; none for `/v2/`, which needs a login only.
    pub action: Option<Action>,
    /// The side that does not grant it.
    pub by: Side,
}

/// A side that must grant an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The rules, or a robot's own limits: no token helps.
    Rules,
    /// The access token that was shown: another one may.
    Token,
}

/// The access rules in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Arc<[AccessRule]>,
    logins: bool,
}

impl Rules {
    /// Returns the rules of the configuration, in their order. `logins` says whether there is any way to log in: then
    /// `/v2/` asks for it, since clients decide there whether they will ever send credentials.
    pub fn new(rules: Vec<AccessRule>, logins: bool) -> Self {
        Self { rules: rules.into(), logins }
    }

    /// Decides whether `subject` may do `operation`, whose names are canonical.
    ///
    /// # Errors
    /// [`Denied`] names the access that was missing. It depends on the rules alone, never on what an upstream holds.
    pub fn authorize(&self, subject: &Subject, operation: &Operation) -> Result<Permit, Denied> {
        let (repository, action) = (operation.repository(), operation.action());
        let may_fetch = match (action, repository) {
            // An anonymous client with a token has been asked to log in, and has decided.
            (None, _) => {
                (!self.logins || !subject.identity.is_anonymous() || subject.access.is_some()).then_some(true)
            }
            (Some(Action::Pull), Some(name)) => self.reads(subject, name, operation.is_head()),
            (Some(action), _) => self.allows(subject, repository, action).then_some(true),
        };
        let granted = action.is_none_or(|action| subject.is_granted(repository, action, operation.is_head()));
        let repository = repository.cloned();
        match may_fetch {
            Some(may_fetch) if granted => {
                let client = Client::Trusted;
                Ok(Permit { subject: subject.clone(), repository, may_fetch, client })
            }
            Some(_) => Err(Denied { repository, action, by: Side::Token }),
            None => Err(Denied { repository, action, by: Side::Rules }),
        }
    }

    /// Returns true if an access token of the subject may grant `action`: the rules allow it, and a robot's own limits.
    pub(crate) fn grant(
        &self,
        subject: &Subject,
        repository: Option<&RepositoryName>,
        action: Action,
    ) -> bool {
        self.allows(subject, repository, action)
    }

    /// Returns true if a rule allows something to clients that have not logged in.
    pub(crate) fn know_anonymous(&self) -> bool {
        self.rules.iter().any(|rule| rule.allows() && rule.users.contains(&UserPattern::Anonymous))
    }

    /// Returns true if the holder of `permit`, which is for pushing, may also read `from`, the source of a mount.
    pub fn may_mount(&self, permit: &Permit, from: &RepositoryName) -> bool {
        permit.subject.is_granted(Some(from), Action::Pull, false)
            && self.allows(&permit.subject, Some(from), Action::Pull)
    }

    /// Returns true if the holder of `permit`, which is for reading its repository, may also push there.
    pub fn may_push(&self, permit: &Permit) -> bool {
        self.allows(&permit.subject, permit.repository.as_ref(), Action::Push)
    }

    /// Returns true if the holder of `permit`, which is for the catalog, may learn that `repository` exists. A token need not
    /// name it: the catalog lists all repositories for which the holder could get a token.
    pub fn may_list(&self, permit: &Permit, repository: &RepositoryName) -> bool {
        self.allows(&permit.subject, Some(repository), Action::Pull)
    }

    /// Returns true if the holder of `permit`, which is for the catalog, may learn of every repository that exists.
    pub fn may_list_all(&self, permit: &Permit) -> bool {
        if permit.subject.limits.is_some() {
            return false;
        }
        let mut rules = self.rules.iter().filter(|rule| rule.actions.contains(Action::Pull));
        let every = |rule: &&AccessRule| rule.repositories.iter().any(RepositoryPattern::is_every);
        let is_for = |rule: &&AccessRule| is_for(rule, &permit.subject);
        rules.find(|rule| is_for(rule) && (every(rule) || !rule.allows())).is_some_and(AccessRule::allows)
    }

    /// Returns true if the rules may allow `action` to the subject at some repository of `region`. Where they may not, it
    /// must not even learn that the region exists.
    pub(crate) fn may_anywhere(&self, subject: &Subject, region: &Region<'_>, action: Action) -> bool {
        if subject.limits.as_ref().is_some_and(|limits| !limits.may_allow(region, action)) {
            return false;
        }
        let rules = self.rules.iter().filter(|rule| rule.actions.contains(action));
        for rule in rules.filter(|rule| is_for(rule, subject)) {
            let mut patterns = rule.repositories.iter();
            if rule.allows() && patterns.any(|pattern| region.may_match(pattern)) {
                return true;
            }
            if !rule.allows() && patterns.any(|pattern| pattern.matches_all_below(region.prefix)) {
                return false;
            }
        }
        false
    }

    /// Returns whether the subject may read, and if so, whether it may cause a first download.
    fn reads(&self, subject: &Subject, repository: &RepositoryName, is_head: bool) -> Option<bool> {
        let pulls = self.pulls(subject, repository);
        let pulls = pulls.filter(|_| subject.is_within_limits(Some(repository), Action::Pull));
        // Clients look before they upload: who may push may see whether it is there already, and only the upstream
        // knows.
        if is_head && pulls != Some(true) && self.allows(subject, Some(repository), Action::Push) {
            return Some(true);
        }
        pulls
    }

    /// Returns as [`reads`](Self::reads) does, for subjects that may pull. The rule that decides about pulling is
    /// never in front of the
    /// one that decides about fetching, since every rule for pulling is one for fetching: one pass finds both.
    fn pulls(&self, subject: &Subject, repository: &RepositoryName) -> Option<bool> {
        let mut may_fetch = None;
        for rule in self.rules.iter() {
            if rule.actions.decide_fetch() && matches(rule, subject, Some(repository)) {
                let may_fetch = *may_fetch.get_or_insert_with(|| rule.allows());
                if rule.actions.pull {
                    return rule.allows().then_some(may_fetch);
                }
            }
        }
        None
    }

    /// Returns true if the rules allow `action`. `repository` is `None` for the catalog, which users and actions alone
    /// decide.
    fn allows(&self, subject: &Subject, repository: Option<&RepositoryName>, action: Action) -> bool {
        subject.is_within_limits(repository, action)
            && self.first(subject, repository, action).is_some_and(AccessRule::allows)
    }

    /// Returns the first rule for `action` that matches.
    fn first(
        &self,
        subject: &Subject,
        repository: Option<&RepositoryName>,
        action: Action,
    ) -> Option<&AccessRule> {
        let decides = |rule: &&AccessRule| match repository {
            Some(_) => rule.actions.contains(action),
            None => rule.covers_catalog(),
        };
        self.rules.iter().filter(decides).find(|rule| matches(rule, subject, repository))
    }
}

/// Returns true if the rule is for them, from there, at that repository.
fn matches(rule: &AccessRule, subject: &Subject, repository: Option<&RepositoryName>) -> bool {
    is_for(rule, subject) && is_at(rule, subject, repository)
}

/// Returns true if the rule is for the subject, where that comes from.
fn is_for(rule: &AccessRule, subject: &Subject) -> bool {
    is_for_name(rule, subject) && rule.covers_address(subject.address)
}

/// Returns true if the rule is for the subject, wherever that comes from.
fn is_for_name(rule: &AccessRule, subject: &Subject) -> bool {
    let identity = &subject.identity;
    let is_member = |group: &Group| {
        subject.is_in(&group.name)
            || group.members.iter().any(|pattern| matches_user(pattern, identity, rule.allows()))
    };
    rule.users.iter().any(|pattern| matches_user(pattern, identity, rule.allows()))
        || rule.groups.iter().any(is_member)
}

/// Returns true if the rule is for the repository, or for the catalog where there is none.
fn is_at(rule: &AccessRule, subject: &Subject, repository: Option<&RepositoryName>) -> bool {
    let matches = |name| rule.repositories.iter().any(|pattern| pattern.matches_for(name, subject.user()));
    repository.is_none_or(matches)
}

/// Returns true if the pattern is for the identity. A rule that allows anonymous clients allows every user, who could
/// come without a name; one that
/// particular may *not* do is no matter of those who have logged in.
fn matches_user(pattern: &UserPattern, identity: &Identity, allows: bool) -> bool {
    allows && matches!(pattern, UserPattern::Anonymous)
        || pattern.matches((!identity.is_anonymous()).then(|| identity.name()))
}

#[cfg(test)]
mod tests;
