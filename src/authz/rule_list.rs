//! The rules in their order.

use std::sync::Arc;

use crate::authz::networks::Networks;
use crate::config::{AccessRule, Group};

/// Access rules in their order, with the groups that they name. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RuleList {
    rules: Arc<[Rule]>,
    /// Each once, however many rules name it.
    groups: Arc<[Group]>,
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

impl RuleList {
    pub(super) fn new(written: Vec<AccessRule>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut number = |group: &Group| {
            groups.iter().position(|known| known == group).unwrap_or_else(|| {
                groups.push(group.clone());
                groups.len() - 1
            })
        };
        let rules = written.into_iter().map(|written| Rule {
            networks: Networks::new(&written.networks),
            groups: written.groups.iter().map(&mut number).collect(),
            written,
        });
        let rules = rules.collect();
        Self { rules, groups: groups.into() }
    }

    /// Returns the rules in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Returns the groups that rules name, by their numbers.
    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }
}
