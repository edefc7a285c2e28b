//! `[[access]]`: who may do what, where.

use std::fmt;

use super::credentials::{self, CredentialSource};
use super::pattern::{FORWARDED, PatternError, RepositoryPattern, UserPattern};
use super::reader::{Item, Reader, Wrong};
use super::schema::{Key, Kind, NO_ITEMS, Plain, key};
use super::upstream::Upstream;
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
    pub(super) fn or_default(self, root: &Reader<'_>, upstreams: &[Upstream]) -> Vec<AccessRule> {
        if !root.has("access") {
            refuse_whoever(root);
            return vec![AccessRule::everything()];
        }
        if self.rules.is_empty() && root.is_list("access") && !self.has_mistakes {
            root.wrong(
                "access",
                "without any rule nobody may do anything; write [[access]] rules, or remove it",
            );
        }
        self.warn_of_strangers(root, upstreams);
        self.rules
    }

    /// Rules that can never match: nobody logs in, or nobody under such a name.
    fn warn_of_strangers(&self, root: &Reader<'_>, upstreams: &[Upstream]) {
        let htpasswd = root.section("auth").has("htpasswd");
        let judges: Vec<&str> =
            upstreams.iter().filter(forwards).map(|upstream| upstream.name.as_str()).collect();
        if !htpasswd && judges.is_empty() {
            return self.warn_of_people(root);
        }
        for item in root.tables("access").iter().flat_map(|table| table.texts("users")) {
            if let Some(why) = stranger(item.value(), htpasswd, &judges) {
                root.context.warn(format!("{}: nobody is called {:?}: {why}", item.place(), item.value()));
            }
        }
    }

    fn warn_of_people(&self, root: &Reader<'_>) {
        let people = |rule: &AccessRule| !rule.users.contains(&UserPattern::Anonymous);
        for (rule, table) in self.rules.iter().zip(root.tables("access")) {
            if people(rule) {
                let place = table.place_of("users");
                let text = "this rule is for nobody, since nobody can log in without [auth.htpasswd]";
                root.context.warn(format!("{place}: {text}"));
            }
        }
    }
}

fn forwards(upstream: &&Upstream) -> bool {
    upstream.credentials.source == CredentialSource::Forward
}

/// Why nobody can have a name, where that is plain.
fn stranger(name: &str, htpasswd: bool, judges: &[&str]) -> Option<String> {
    let (provider, _) = name.split_once(':').unwrap_or((name, ""));
    if provider.contains(['*', '?']) || name == "anonymous" {
        return None;
    }
    match name.strip_prefix(FORWARDED).filter(|_| name.contains(':')) {
        Some(rest) => {
            let judged = |judge: &&str| rest.strip_prefix(*judge).is_some_and(|rest| rest.starts_with(':'));
            let unknown = || "no upstream of that name has credentials with `forward = true`".to_owned();
            (!judges.iter().any(judged)).then(unknown)
        }
        None if htpasswd => None,
        None => judges
            .first()
            .map(|judge| format!("those whom an upstream knows are called \"{FORWARDED}{judge}:NAME\"")),
    }
}

/// Everyone on earth may have an account there.
fn refuse_whoever(root: &Reader<'_>) {
    let Some(credentials) = credentials::forward(root) else { return };
    let advice = root.context.advice(
        "[[access]] rules, in which `users = [\"*\"]` is anyone who has logged in",
        "DOCKGATE_ACCESS__0__USERS=*, with __REPOSITORIES and __ACTIONS",
    );
    let why = "whoever has an account at this registry could do everything here";
    credentials.wrong("forward", format!("{why}; {advice}"));
}

fn rule(table: &Reader<'_>) -> Option<AccessRule> {
    let users = table.all("users", "a rule", "users = [\"alice\"]", UserPattern::parse);
    let repositories = table.all("repositories", "a rule", "repositories = [\"team/**\"]", repository);
    let actions = table.all("actions", "a rule", "actions = [\"pull\", \"push\"]", Actions::parse);
    let actions = actions?.into_iter().fold(Actions::default(), Actions::with);
    let rule = AccessRule { users: users?, repositories: repositories?, actions };
    (!rule.actions.is_empty()).then_some(rule)
}

fn repository(written: &str) -> Result<RepositoryPattern, Wrong> {
    RepositoryPattern::parse(written).map_err(PatternError::wrong)
}
