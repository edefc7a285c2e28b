//! The rules in their order.

use std::sync::Arc;

use crate::authz::groups::Groups;
use crate::authz::networks::Networks;
use crate::authz::screen::{AskedNgrams, Screen};
use crate::authz::wish::Wish;
use crate::config::AccessRule;

/// Access rules in their order, with the groups that they name. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RuleList {
    rules: Arc<[Rule]>,
    screen: Arc<Screen>,
    groups: Arc<Groups>,
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// The rule as the configuration has it.
    pub(super) written: AccessRule,
    /// The networks that it is for.
    pub(super) networks: Networks,
    /// The numbers of its groups.
    pub(super) groups: Box<[usize]>,
}

/// The length up to which it takes less time to match each rule than to find the n-grams of the names.
const SHORT: usize = 8;

impl RuleList {
    pub(super) fn new(written: Vec<AccessRule>) -> Self {
        let (mut groups, mut screen) = (Groups::default(), Screen::default());
        let rules = written.into_iter().map(|written| {
            let numbers: Box<[usize]> = written.groups.iter().map(|group| groups.number(group)).collect();
            screen.push(&written, &numbers);
            Rule { networks: Networks::new(&written.networks), groups: numbers, written }
        });
        let rules = rules.collect();
        Self { rules, screen: screen.into(), groups: groups.into() }
    }

    /// Returns true if n-grams save time.
    pub(super) fn is_long(&self) -> bool {
        self.rules.len() > SHORT
    }

    /// Returns the rules in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Returns the rules that decide about a wish and may match, in their order. The others do not match.
    pub(super) fn candidates(
        &self,
        wish: Wish,
        asked: &AskedNgrams,
        is_member: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = &Rule> {
        self.screen.candidates(wish, asked, is_member).map(|number| &self.rules[number])
    }

    /// Returns the groups that rules name.
    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }
}
