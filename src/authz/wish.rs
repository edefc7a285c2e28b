//! The questions to rules.

use crate::config::AccessRule;
use crate::proto::Action;

/// A question to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// May this be done?
    Do(Action),
    /// May a pull cause a first download?
    Fetch,
}

impl Wish {
    const ALL: [Self; 5] = [
        Self::Do(Action::Pull),
        Self::Do(Action::Push),
        Self::Do(Action::Delete),
        Self::Do(Action::Catalog),
        Self::Fetch,
    ];

    /// Returns true if a rule decides about it, given that the rule is for the subject and the repository.
    pub(super) fn is_decided_by(self, rule: &AccessRule) -> bool {
        match self {
            Self::Do(Action::Catalog) => rule.covers_catalog(),
            Self::Do(action) => rule.actions.contains(action),
            Self::Fetch => rule.actions.decide_fetch(),
        }
    }

    /// Returns the bits of all that a rule decides.
    pub(super) fn bits_decided_by(rule: &AccessRule) -> u8 {
        let decided = Self::ALL.into_iter().filter(|wish| wish.is_decided_by(rule));
        decided.fold(0, |bits, wish| bits | wish.bit())
    }

    /// Returns its bit in a set of wishes.
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Do(Action::Pull) => 1,
            Self::Do(Action::Push) => 1 << 1,
            Self::Do(Action::Delete) => 1 << 2,
            Self::Do(Action::Catalog) => 1 << 3,
            Self::Fetch => 1 << 4,
        }
    }
}
