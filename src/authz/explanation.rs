//! The explanation of a decision: the rule that made it, and what would have to be different.

use crate::authz::{Rules, Subject, is_at, is_for_name, matches};
use crate::config::AccessRule;
use crate::proto::{Action, RepositoryName};

/// A question to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// May this be done?
    Do(Action),
    /// May a pull cause a first download?
    Fetch,
}

/// A decision with its reasons.
#[derive(Debug)]
pub(crate) struct Explanation<'a> {
    /// True if it is allowed.
    pub(crate) allowed: bool,
    /// The rule that decides; none if none matches.
    pub(crate) rule: Option<&'a AccessRule>,
    /// If it is denied, the rules that would allow it were it not for one thing, in their order.
    pub(crate) near: Vec<(&'a AccessRule, Obstacle)>,
}

/// The one thing that keeps a rule from allowing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The rule is for other users.
    Users,
    /// The rule is for other networks.
    Networks,
    /// The rule is for other repositories.
    Repositories,
    /// The rule is for other actions.
    Actions,
    /// A rule before it denies.
    Order,
}

impl Rules {
    /// Explains what [`authorize`](Self::authorize) decides about `wish`. `repository` is none for the catalog.
    pub(crate) fn explain(
        &self,
        subject: &Subject,
        repository: Option<&RepositoryName>,
        wish: Wish,
    ) -> Explanation<'_> {
        let rule = match (wish, repository) {
            (Wish::Do(action), _) => self.first(subject, repository, action),
            (Wish::Fetch, _) => self.fetch_rule(subject, repository),
        };
        let allowed = rule.is_some_and(AccessRule::allows);
        let obstacle = |rule| Some((rule, obstacle(rule, subject, repository, wish)?));
        let near = if allowed { Vec::new() } else { self.rules.iter().filter_map(obstacle).collect() };
        Explanation { allowed, rule, near }
    }

    /// Returns the rule that decides about a first download: that about pulling, where it denies.
    fn fetch_rule(&self, subject: &Subject, repository: Option<&RepositoryName>) -> Option<&AccessRule> {
        let pull = self.first(subject, repository, Action::Pull)?;
        let fetches = |rule: &&AccessRule| rule.actions.decide_fetch() && matches(rule, subject, repository);
        if pull.allows() { self.rules.iter().find(fetches) } else { Some(pull) }
    }
}

/// Returns what alone keeps `rule` from allowing the wish; none if it denies, or if two things do.
fn obstacle(
    rule: &AccessRule,
    subject: &Subject,
    repository: Option<&RepositoryName>,
    wish: Wish,
) -> Option<Obstacle> {
    let covers = match (wish, repository) {
        (Wish::Do(Action::Catalog), _) => rule.covers_catalog(),
        (Wish::Do(action), _) => rule.actions.contains(action),
        (Wish::Fetch, _) => rule.actions.decide_fetch(),
    };
    let checks = [
        (is_for_name(rule, subject), Obstacle::Users),
        (rule.covers_address(subject.address), Obstacle::Networks),
        (is_at(rule, subject, repository), Obstacle::Repositories),
        (covers, Obstacle::Actions),
    ];
    let mut failed = checks.into_iter().filter_map(|(holds, obstacle)| (!holds).then_some(obstacle));
    match (rule.allows(), failed.next(), failed.next()) {
        (false, ..) | (true, Some(_), Some(_)) => None,
        (true, Some(one), None) => Some(one),
        (true, None, _) => Some(Obstacle::Order),
    }
}
