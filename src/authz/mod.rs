//! Authorization: rules to a permit. Pure.
//!
//! The first rule that matches who, where and what decides; none matching, it is denied. A [`Permit`] can be made
//! nowhere else, and whatever touches an upstream needs one: a route that forgot to ask does not compile.

mod explanation;
mod groups;
mod limits;
mod networks;
mod ngrams;
mod question;
mod region;
mod rule_list;
mod screen;
mod subject;
mod wish;

use crate::authz::question::Question;
use crate::authz::rule_list::{Rule, RuleList};
use crate::budget::Client;
use crate::config::{AccessRule, RepositoryPattern, UserPattern};
use crate::proto::identity::Identity;
use crate::proto::{Action, Operation, RepositoryName};

pub(crate) use explanation::{Explanation, Obstacle, Verdict};
pub(crate) use limits::Limits;
pub(crate) use region::Region;
pub use subject::Subject;
pub(crate) use wish::Wish;

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

    /// Creates a permit for a question of another replica of this gateway, whose rules have decided. What is asked of the upstream
    /// is charged to `client`. Never for a request of a client.
    pub(crate) fn replica(client: Client, may_fetch: bool) -> Self {
        Self { may_fetch, client, ..Self::operator(Identity::Anonymous) }
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
    rules: RuleList,
    logins: bool,
}

impl Rules {
    /// Returns the rules of the configuration, in their order. `logins` says whether there is any way to log in: then
    /// `/v2/` asks for it, since clients decide there whether they will ever send credentials.
    pub fn new(rules: Vec<AccessRule>, logins: bool) -> Self {
        Self { rules: RuleList::new(rules), logins }
    }

    /// Decides whether `subject` may do `operation`, whose names are canonical.
    ///
    /// # Errors
    /// [`Denied`] names the access that was missing. It depends on the rules alone, never on what an upstream holds.
    pub fn authorize(&self, subject: &Subject, operation: &Operation) -> Result<Permit, Denied> {
        let (repository, action) = (operation.repository(), operation.action());
        let question = Question::new(&self.rules, subject, repository);
        let (subject, repository) = (subject.clone(), repository.cloned());
        match self.decide(&question, operation, |action| question.is_granted(action)) {
            Some(may_fetch) => Ok(Permit { subject, repository, may_fetch, client: Client::Trusted }),
            None => {
                let lacks_grant =
                    subject.access.is_some() && self.decide(&question, operation, |_| true).is_some();
                let by = if lacks_grant { Side::Token } else { Side::Rules };
                Err(Denied { repository, action, by })
            }
        }
    }

    /// Returns whether the operation is allowed, and if so, whether it may cause a first download. Of the actions only those
    /// count that `is_granted`.
    fn decide(
        &self,
        question: &Question<'_>,
        operation: &Operation,
        is_granted: impl Fn(Action) -> bool,
    ) -> Option<bool> {
        match operation.action() {
            None => self.may_come(question.subject()).then_some(true),
            Some(Action::Pull) => {
                let pulls = is_granted(Action::Pull).then(|| self.pulls(question)).flatten();
                // Clients look before they upload: who may push may see whether it is there already, and only the
                // upstream knows. Some look with a token that only pulls.
                let looks = operation.is_head()
                    && pulls != Some(true)
                    && (pulls.is_some() || is_granted(Action::Push))
                    && self.allows(question, Action::Push);
                if looks { Some(true) } else { pulls }
            }
            Some(action) => (is_granted(action) && self.allows(question, action)).then_some(true),
        }
    }

    /// Returns true if the subject need not log in first. An anonymous client with a token has been asked to, and has decided.
    fn may_come(&self, subject: &Subject) -> bool {
        !self.logins || !subject.identity.is_anonymous() || subject.access.is_some()
    }

    /// Returns true if an access token of the subject may grant `action`: the rules allow it, and a robot's own limits.
    pub(crate) fn grant(
        &self,
        subject: &Subject,
        repository: Option<&RepositoryName>,
        action: Action,
    ) -> bool {
        self.allows(&Question::new(&self.rules, subject, repository), action)
    }

    /// Returns true if a rule allows something to clients that have not logged in.
    pub(crate) fn know_anonymous(&self) -> bool {
        let mut written = self.rules.iter().map(|rule| &rule.written);
        written.any(|rule| rule.allows() && rule.users.contains(&UserPattern::Anonymous))
    }

    /// Returns true if the holder of `permit`, which is for pushing, may also read `from`, the source of a mount.
    pub fn may_mount(&self, permit: &Permit, from: &RepositoryName) -> bool {
        permit.subject.is_granted(Some(from), Action::Pull)
            && self.grant(&permit.subject, Some(from), Action::Pull)
    }

    /// Returns true if the holder of `permit`, which is for reading its repository, may also push there, perhaps with another
    /// token.
    pub fn may_push(&self, permit: &Permit) -> bool {
        self.grant(&permit.subject, permit.repository.as_ref(), Action::Push)
    }

    /// Returns true if the holder of `permit`, which is for the catalog, may learn that `repository` exists. A token need not
    /// name it: the catalog lists all repositories for which the holder could get a token.
    pub fn may_list(&self, permit: &Permit, repository: &RepositoryName) -> bool {
        self.grant(&permit.subject, Some(repository), Action::Pull)
    }

    /// Returns true if the holder of `permit`, which is for the catalog, may learn of every repository that exists.
    pub fn may_list_all(&self, permit: &Permit) -> bool {
        if permit.subject.limits.is_some() {
            return false;
        }
        let question = Question::new(&self.rules, &permit.subject, None);
        let mut decisive = self.candidates(&question, Wish::Do(Action::Pull)).filter(|rule| {
            let every = || rule.written.repositories.iter().any(RepositoryPattern::is_every);
            !rule.written.allows() || every()
        });
        decisive.find(|rule| question.is_by(rule)).is_some_and(|rule| rule.written.allows())
    }

    /// Returns true if the rules may allow `action` to the subject at some repository of `region`. Where they may not, it
    /// must not even learn that the region exists.
    pub(crate) fn may_anywhere(&self, subject: &Subject, region: &Region<'_>, action: Action) -> bool {
        if subject.limits.as_ref().is_some_and(|limits| !limits.may_allow(region, action)) {
            return false;
        }
        let question = Question::new(&self.rules, subject, None);
        let rules = self.candidates(&question, Wish::Do(action));
        for rule in rules.filter(|rule| question.is_by(rule)).map(|rule| &rule.written) {
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

    /// Returns whether the subject may pull, and if so, whether it may cause a first download. The rule that decides about pulling
    /// is never in front of the one that decides about fetching, since every rule for pulling is one for fetching: one
    /// pass finds both.
    fn pulls(&self, question: &Question<'_>) -> Option<bool> {
        if !question.is_within_limits(Action::Pull) {
            return None;
        }
        let mut may_fetch = None;
        for rule in self.matching(question, Wish::Fetch) {
            let may_fetch = *may_fetch.get_or_insert_with(|| rule.written.allows());
            if rule.written.actions.pull {
                return rule.written.allows().then_some(may_fetch);
            }
        }
        None
    }

    /// Returns true if the rules allow `action`, and the subject's own limits. Users and actions alone decide about the catalog.
    fn allows(&self, question: &Question<'_>, action: Action) -> bool {
        question.is_within_limits(action)
            && self.first(question, Wish::Do(action)).is_some_and(|rule| rule.written.allows())
    }

    /// Returns the first rule that decides about the wish and matches.
    fn first(&self, question: &Question<'_>, wish: Wish) -> Option<&Rule> {
        self.matching(question, wish).next()
    }

    /// Returns the rules that decide about the wish and match, in their order.
    fn matching(&self, question: &Question<'_>, wish: Wish) -> impl Iterator<Item = &Rule> {
        self.candidates(question, wish).filter(|rule| question.matches(rule))
    }

    /// Returns those that decide about the wish and may match. Only these need a closer look.
    fn candidates(&self, question: &Question<'_>, wish: Wish) -> impl Iterator<Item = &Rule> {
        self.rules.candidates(wish, question.ngrams(), |group| question.is_member(group))
    }
}

#[cfg(test)]
mod tests;
