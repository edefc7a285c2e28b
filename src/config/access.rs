//! `[[access]]`: who may do what, where.

use std::fmt;

use super::pattern::{PatternError, RepositoryPattern, UserPattern};
use super::reader::{Item, Reader, Wrong};
use super::schema::{Key, Kind, NO_ITEMS, Plain, key};
use crate::proto::Action;

/// One rule. The first that matches who, where and what decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Who; at least one pattern.
    pub users: Vec<UserPattern>,
    /// Where: canonical names; at least one pattern.
    pub repositories: Vec<RepositoryPattern>,
    /// What; at least one action.
    pub actions: Actions,
}

impl AccessRule {
    /// What holds where no rule is written: whoever has logged in may do everything.
    pub fn everything() -> Self {
        Self {
            users: vec![UserPattern::Anyone],
            repositories: RepositoryPattern::parse("**").into_iter().collect(),
            actions: Actions::ALL,
        }
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {}", join(&self.users), self.actions, join(&self.repositories))
    }
}

fn join(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions {
    /// Read.
    pub pull: bool,
    /// Write.
    pub push: bool,
    /// Delete.
    pub delete: bool,
    /// List repositories.
    pub catalog: bool,
}

impl Actions {
    /// Every action.
    pub const ALL: Self = Self { pull: true, push: true, delete: true, catalog: true };

    /// Whether the action is one of them.
    pub const fn contains(self, action: Action) -> bool {
        match action {
            Action::Pull => self.pull,
            Action::Push => self.push,
            Action::Delete => self.delete,
            Action::Catalog => self.catalog,
        }
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn with(self, other: Self) -> Self {
        Self {
            pull: self.pull || other.pull,
            push: self.push || other.push,
            delete: self.delete || other.delete,
            catalog: self.catalog || other.catalog,
        }
    }

    fn parse(written: &str) -> Result<Self, Wrong> {
        let none = Self::default();
        match written {
            "*" => Ok(Self::ALL),
            "pull" => Ok(Self { pull: true, ..none }),
            "push" => Ok(Self { push: true, ..none }),
            "delete" => Ok(Self { delete: true, ..none }),
            "catalog" => Ok(Self { catalog: true, ..none }),
            "fetch" => Err(Wrong::value("is not available in this version; \"pull\" implies it")),
            _ => Err(Wrong::value("is unknown; write \"pull\", \"push\", \"delete\", \"catalog\" or \"*\"")),
        }
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all =
            [(self.pull, "pull"), (self.push, "push"), (self.delete, "delete"), (self.catalog, "catalog")];
        let names: Vec<&str> = all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        f.write_str(&names.join(", "))
    }
}

pub(super) const KEYS: &[Key] = &[
    key("users", Kind::Texts),
    key("repositories", Kind::Texts),
    key("actions", Kind::Texts),
    key("groups", Kind::Later(NO_ITEMS)),
    key("networks", Kind::Later(NO_ITEMS)),
    key("effect", Kind::Later(&[Plain::Text("allow")])),
];

/// The rules as written.
pub(super) struct Rules<'a> {
    pub(super) rules: Vec<AccessRule>,
    /// The first mention of "anonymous".
    pub(super) anonymous: Option<Item<'a>>,
    /// Whether a rule could not be read: what it grants is not known, so nothing is said about it.
    pub(super) has_mistakes: bool,
}

pub(super) fn read<'a>(root: &Reader<'a>) -> Rules<'a> {
    let tables = root.tables("access");
    let users = tables.iter().flat_map(|table| table.texts("users"));
    let anonymous = users.into_iter().find(|item| item.value() == "anonymous");
    let rules: Vec<AccessRule> = tables.iter().filter_map(rule).collect();
    Rules { has_mistakes: rules.len() < tables.len() || root.is_broken("access"), rules, anonymous }
}

impl Rules<'_> {
    /// The rules; where none is written, the default.
    pub(super) fn or_default(self, root: &Reader<'_>) -> Vec<AccessRule> {
        if !root.has("access") {
            return vec![AccessRule::everything()];
        }
        if self.rules.is_empty() && root.is_list("access") && !self.has_mistakes {
            root.wrong(
                "access",
                "without any rule nobody may do anything; write [[access]] rules, or remove it",
            );
        }
        self.warn_of_strangers(root);
        self.rules
    }

    /// Rules that can never match, since nobody logs in.
    fn warn_of_strangers(&self, root: &Reader<'_>) {
        let strangers = |rule: &AccessRule| !rule.users.contains(&UserPattern::Anonymous);
        if root.section("auth").has("htpasswd") {
            return;
        }
        for (rule, table) in self.rules.iter().zip(root.tables("access")) {
            if strangers(rule) {
                let place = table.place_of("users");
                let text = "this rule is for nobody, since nobody can log in without [auth.htpasswd]";
                root.context.warn(format!("{place}: {text}"));
            }
        }
    }
}

fn rule(table: &Reader<'_>) -> Option<AccessRule> {
    let users = all(table, "users", "users = [\"alice\"]", UserPattern::parse);
    let repositories = all(table, "repositories", "repositories = [\"team/**\"]", repository);
    let actions = all(table, "actions", "actions = [\"pull\", \"push\"]", Actions::parse);
    let actions = actions?.into_iter().fold(Actions::default(), Actions::with);
    let rule = AccessRule { users: users?, repositories: repositories?, actions };
    (!rule.actions.is_empty()).then_some(rule)
}

fn repository(written: &str) -> Result<RepositoryPattern, Wrong> {
    RepositoryPattern::parse(written).map_err(PatternError::wrong)
}

/// The list, if it is there and nothing in it is wrong.
fn all<T>(
    table: &Reader<'_>,
    name: &str,
    example: &str,
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> Option<Vec<T>> {
    let items = table.texts(name);
    if items.is_empty() && !table.is_broken(name) {
        table.wrong(name, format!("a rule without {name} matches nothing; {}", table.advice(example)));
    }
    let parsed: Vec<T> = items.iter().filter_map(|item| item.parsed(&parse)).collect();
    (!parsed.is_empty() && parsed.len() == items.len()).then_some(parsed)
}
