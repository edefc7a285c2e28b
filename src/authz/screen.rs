//! A first look at all rules.

use std::ops::Range;

use crate::authz::ngrams::Ngrams;
use crate::authz::wish::Wish;
use crate::config::{AccessRule, RepositoryPattern, UserPattern};

/// A part of every rule, side by side in their order: a decision reads it from end to end, and the rules themselves only where they
/// may match. It has 32 bytes for each pattern over users and repositories, and 56 for each rule.
#[derive(Debug, Default)]
pub(super) struct Screen {
    rows: Vec<Row>,
    users: Vec<Ngrams>,
    /// The numbers of groups.
    groups: Vec<usize>,
    repositories: Vec<Ngrams>,
}

/// The part of one rule.
#[derive(Debug)]
struct Row {
    /// The bits of the wishes that it decides.
    wishes: u8,
    /// True if it may be for any user, whatever the name.
    every_user: bool,
    /// True if it is for all repositories.
    every_repository: bool,
    /// The places of its users, groups and repositories among those of all rules.
    users: Range<usize>,
    groups: Range<usize>,
    repositories: Range<usize>,
}

/// The n-grams of the names that rules are asked about.
#[derive(Debug)]
pub(super) struct AskedNgrams {
    /// Those of the user's name; none for an anonymous client.
    pub(super) user: Ngrams,
    /// Those of the repository's name; none for the catalog.
    pub(super) repository: Option<Ngrams>,
}

impl Screen {
    /// Adds the next rule, with the numbers of its groups.
    pub(super) fn push(&mut self, rule: &AccessRule, groups: &[usize]) {
        let row = Row {
            wishes: Wish::bits_decided_by(rule),
            every_user: rule.users.iter().any(|pattern| pattern.as_glob().is_none()),
            every_repository: rule.repositories.iter().any(RepositoryPattern::is_every),
            users: extend(&mut self.users, rule.users.iter().filter_map(user)),
            groups: extend(&mut self.groups, groups.iter().copied()),
            repositories: extend(&mut self.repositories, rule.repositories.iter().map(repository)),
        };
        self.rows.push(row);
    }

    /// Returns the numbers of the rules that decide about a wish and may match, in their order. The others do not match.
    pub(super) fn candidates(
        &self,
        wish: Wish,
        asked: &AskedNgrams,
        is_member: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = usize> {
        let fit = |patterns: &[Ngrams], name: &Ngrams| patterns.iter().any(|pattern| name.contain(pattern));
        let is_at = move |row: &Row| {
            let fits = |name: &Ngrams| fit(&self.repositories[row.repositories.clone()], name);
            row.every_repository || asked.repository.as_ref().is_none_or(fits)
        };
        let is_by = move |row: &Row| {
            row.every_user
                || fit(&self.users[row.users.clone()], &asked.user)
                || self.groups[row.groups.clone()].iter().any(|group| is_member(*group))
        };
        let may_match = move |row: &Row| row.wishes & wish.bit() != 0 && is_at(row) && is_by(row);
        self.rows.iter().enumerate().filter(move |(_, row)| may_match(row)).map(|(number, _)| number)
    }
}

/// Appends the parts of a rule to those of all, and returns their places.
fn extend<T>(all: &mut Vec<T>, own: impl Iterator<Item = T>) -> Range<usize> {
    let start = all.len();
    all.extend(own);
    start..all.len()
}

/// Returns what the names of the users have that a pattern is for; none if it is for users of any name.
fn user(pattern: &UserPattern) -> Option<Ngrams> {
    pattern.as_glob().map(|glob| Ngrams::of(glob.as_str()))
}

/// Returns what the names of the repositories have that a pattern is for.
fn repository(pattern: &RepositoryPattern) -> Ngrams {
    let own = Ngrams::of(pattern.as_str());
    pattern.component_count().map_or(own, |components| own.with_length(components))
}
