//! The question that rules are asked.

use std::cell::OnceCell;
use std::net::IpAddr;

use crate::authz::Subject;
use crate::authz::groups::{Groups, Memberships};
use crate::authz::ngrams::Ngrams;
use crate::authz::rule_list::{Rule, RuleList};
use crate::authz::screen::AskedNgrams;
use crate::config::UserPattern;
use crate::proto::{Action, Components, RepositoryName};

/// A subject and a repository that rules are asked about, prepared once for all of them.
#[derive(Debug)]
pub(super) struct Question<'a> {
    subject: &'a Subject,
    /// None for the catalog.
    repository: Option<&'a RepositoryName>,
    user: Option<&'a str>,
    address: Option<IpAddr>,
    components: Option<Components<'a>>,
    /// The user's name, where a component of the repository is called so.
    home: Option<&'a str>,
    ngrams: AskedNgrams,
    groups: &'a Groups,
    /// Found when the first rule asks, for all.
    memberships: OnceCell<Memberships>,
}

impl<'a> Question<'a> {
    /// Returns a question about a subject, at a repository or, without one, for the catalog.
    pub(super) fn new(
        rules: &'a RuleList,
        subject: &'a Subject,
        repository: Option<&'a RepositoryName>,
    ) -> Self {
        let (user, components) = (subject.user(), repository.map(RepositoryName::indexed));
        let is_component = |user: &&str| components.as_ref().is_some_and(|name| name.contain(user));
        let home = user.filter(is_component);
        let ngrams = if rules.is_long() {
            AskedNgrams {
                user: user.map(Ngrams::of).unwrap_or_default(),
                repository: repository
                    .zip(components.as_ref())
                    .map(|(name, components)| ngrams_at(name, home.is_some()).with_length(components.len())),
            }
        } else {
            AskedNgrams { user: Ngrams::ALL, repository: repository.map(|_| Ngrams::ALL) }
        };
        Self {
            subject,
            repository,
            user,
            address: subject.address.map(|address| address.to_canonical()),
            home,
            components,
            ngrams,
            groups: rules.groups(),
            memberships: OnceCell::new(),
        }
    }

    /// Returns the subject.
    pub(super) fn subject(&self) -> &Subject {
        self.subject
    }

    /// Returns the n-grams of the names in it.
    pub(super) fn ngrams(&self) -> &AskedNgrams {
        &self.ngrams
    }

    /// Returns true if the subject's access token, where it has one, grants the action.
    pub(super) fn is_granted(&self, action: Action) -> bool {
        self.subject.is_granted(self.repository, action)
    }

    /// Returns true if the subject's own limits, where it has some, contain the action.
    pub(super) fn is_within_limits(&self, action: Action) -> bool {
        self.subject.is_within_limits(self.repository, action)
    }

    /// Returns true if the rule is for the subject, from there, at the repository.
    pub(super) fn matches(&self, rule: &Rule) -> bool {
        self.is_by(rule) && self.is_at(rule)
    }

    /// Returns true if the rule is for the subject, where that comes from.
    pub(super) fn is_by(&self, rule: &Rule) -> bool {
        self.is_from(rule) && self.is_by_name(rule)
    }

    /// Returns true if the rule is for the networks that the subject comes from.
    pub(super) fn is_from(&self, rule: &Rule) -> bool {
        rule.networks.contain(self.address)
    }

    /// Returns true if the rule is for the subject, wherever that comes from.
    pub(super) fn is_by_name(&self, rule: &Rule) -> bool {
        rule.written.users.iter().any(|pattern| self.is_user(pattern, rule.written.allows()))
            || rule.groups.iter().any(|group| self.is_member(*group))
    }

    /// Returns true if the rule is for the repository, or for the catalog where there is none.
    pub(super) fn is_at(&self, rule: &Rule) -> bool {
        let Some(name) = &self.components else { return true };
        rule.written.repositories.iter().any(|pattern| pattern.matches_components(name, self.home))
    }

    /// Returns true if the pattern is for the subject. A rule that allows anonymous clients allows every user, who could
    /// come without a name; what an anonymous client may *not* do says nothing of users who have logged in.
    fn is_user(&self, pattern: &UserPattern, allows: bool) -> bool {
        allows && matches!(pattern, UserPattern::Anonymous) || pattern.matches(self.user)
    }

    /// Returns true if the subject is in the group of this number.
    pub(super) fn is_member(&self, group: usize) -> bool {
        self.memberships.get_or_init(|| self.groups.of(self.subject)).contain(group)
    }
}

/// Returns the n-grams of a repository. Patterns write `{user}` for the component that is the name of the user who asks: where
/// there is such a component, the repository has this word too.
fn ngrams_at(name: &RepositoryName, is_home: bool) -> Ngrams {
    let own = Ngrams::of(name.as_str());
    if is_home { own.with(Ngrams::of("{user}")) } else { own }
}
