//! The explanation of a decision: the rule that made it, and what would have to be different.

use std::fmt;

use crate::authz::question::Question;
use crate::authz::rule_list::Rule;
use crate::authz::wish::Wish;
use crate::authz::{Rules, Subject};
use crate::config::AccessRule;
use crate::proto::{Action, RepositoryName};

/// A decision in one sentence: `alice may not push team/app`. Operators and clients read the same. It has nothing that the
/// client has not said itself: rules, and the names that only the configuration has, are the operator's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict<'a> {
    /// The name of the subject, as its reader knows it.
    pub(crate) who: &'a str,
    /// True if it is allowed.
    pub(crate) allowed: bool,
    /// The question.
    pub(crate) wish: Wish,
    /// The repository, as its reader names it; none for the catalog.
    pub(crate) repository: Option<&'a RepositoryName>,
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.wish {
            Wish::Do(Action::Catalog) => "list",
            Wish::Do(action) => action.as_str(),
            Wish::Fetch => "fetch",
        };
        let not = if self.allowed { "" } else { "not " };
        write!(f, "{} may {not}{action} ", self.who)?;
        match self.repository {
            Some(name) => write!(f, "{name}"),
            None => f.write_str("the catalog"),
        }
    }
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
    pub(crate) fn explain<'a>(
        &'a self,
        subject: &Subject,
        repository: Option<&RepositoryName>,
        wish: Wish,
    ) -> Explanation<'a> {
        let question = Question::new(&self.rules, subject, repository);
        let rule = match wish {
            Wish::Do(_) => self.first(&question, wish),
            Wish::Fetch => self.fetch_rule(&question),
        };
        let allowed = rule.is_some_and(|rule| rule.written.allows());
        let obstacle = |rule: &'a Rule| Some((&rule.written, obstacle(rule, &question, wish)?));
        let near = if allowed { Vec::new() } else { self.rules.iter().filter_map(obstacle).collect() };
        Explanation { allowed, rule: rule.map(|rule| &rule.written), near }
    }

    /// Returns the rule that decides about a first download: that about pulling, where it denies.
    fn fetch_rule(&self, question: &Question<'_>) -> Option<&Rule> {
        let pull = self.first(question, Wish::Do(Action::Pull))?;
        if pull.written.allows() { self.first(question, Wish::Fetch) } else { Some(pull) }
    }
}

/// Returns what alone keeps `rule` from allowing the wish; none if it denies, or if two things do.
fn obstacle(rule: &Rule, question: &Question<'_>, wish: Wish) -> Option<Obstacle> {
    let checks = [
        (question.is_by_name(rule), Obstacle::Users),
        (question.is_from(rule), Obstacle::Networks),
        (question.is_at(rule), Obstacle::Repositories),
        (wish.is_decided_by(&rule.written), Obstacle::Actions),
    ];
    let mut failed = checks.into_iter().filter_map(|(holds, obstacle)| (!holds).then_some(obstacle));
    match (rule.written.allows(), failed.next(), failed.next()) {
        (false, ..) | (true, Some(_), Some(_)) => None,
        (true, Some(one), None) => Some(one),
        (true, None, _) => Some(Obstacle::Order),
    }
}
