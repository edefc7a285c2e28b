//! The question that rules are asked.

use std::cell::RefCell;
use std::net::IpAddr;

use crate::authz::Subject;
use crate::authz::rule_list::{Rule, RuleList};
use crate::config::{Group, UserPattern};
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
    groups: &'a [Group],
    /// True for the groups that the subject is in, by their numbers: many rules name the same ones.
    memberships: RefCell<Vec<Option<bool>>>,
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
        Self {
            subject,
            repository,
            user,
            address: subject.address.map(|address| address.to_canonical()),
            home: user.filter(is_component),
            components,
            groups: rules.groups(),
            memberships: RefCell::default(),
        }
    }

    /// Returns the subject.
    pub(super) fn subject(&self) -> &Subject {
        self.subject
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

    fn is_member(&self, group: usize) -> bool {
        let mut known = self.memberships.borrow_mut();
        if known.is_empty() {
            known.resize(self.groups.len(), None);
        }
        *known[group].get_or_insert_with(|| {
            let Group { name, members } = &self.groups[group];
            self.subject.is_in(name) || members.iter().any(|pattern| pattern.matches(self.user))
        })
    }
}
