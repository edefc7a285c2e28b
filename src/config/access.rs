//! `[[access]]`: who may do what, where.

use std::fmt;

use ipnet::IpNet;

use crate::config::credentials;
use crate::config::credentials::CredentialSource;
use crate::config::group::Group;
use crate::config::group_list::groups_of;
use crate::config::mistake::Place;
use crate::config::pattern::{FORWARDED, PatternError, RepositoryPattern, UserPattern};
use crate::config::reader::{Item, Reader};
use crate::config::schema::{Key, Kind, key};
use crate::config::server;
use crate::config::upstream::Upstream;
use crate::config::value_error::ValueError;
use crate::proto::Action;
use crate::proto::identity::ROBOT;

/// An access rule. The first rule that matches who, where from, repository and action decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// The users; at least one pattern here or one group.
    pub users: Vec<UserPattern>,
    /// The groups whose members it is for besides.
    pub groups: Vec<Group>,
    /// The networks that it is for; every address if there is none. Without an address a client is in no network.
    pub networks: Vec<IpNet>,
    /// The repositories, by their canonical names; at least one pattern.
    pub repositories: Vec<RepositoryPattern>,
    /// The actions; at least one.
    pub actions: Actions,
    /// The decision.
    pub effect: Effect,
    /// Where it is written; none for the rule in force where none is written.
    pub place: Option<Place>,
}

/// The decision of a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Effect {
    /// The actions are allowed.
    #[default]
    Allow,
    /// The actions are denied, whatever later rules say.
    Deny,
}

impl AccessRule {
    /// Returns the rule in force where none is written: every logged-in user may do everything.
    pub fn everything() -> Self {
        Self {
            users: vec![UserPattern::Anyone],
            groups: Vec::new(),
            networks: Vec::new(),
            repositories: RepositoryPattern::parse("**").into_iter().collect(),
            actions: Actions::ALL,
            effect: Effect::Allow,
            place: None,
        }
    }

    /// Returns the users and groups as they are written.
    pub fn subjects(&self) -> String {
        let groups = self.groups.iter().map(|group| format!("group {}", group.name));
        let users = self.users.iter().map(ToString::to_string);
        users.chain(groups).collect::<Vec<_>>().join(", ")
    }

    /// Returns true if it allows what it matches.
    pub fn allows(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// Returns true if it decides for the list of all repositories, given that it is for the requester. Which
    /// repositories may be listed is a question of its own; so what a rule denies of some of them alone is not the
    /// list.
    pub fn covers_catalog(&self) -> bool {
        self.actions.catalog && (self.allows() || self.repositories.iter().any(RepositoryPattern::is_every))
    }
}

/// Users, networks, actions and repositories. The effect is left to the caller.
impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subjects())?;
        if !self.networks.is_empty() {
            write!(f, " from {}", join(&self.networks))?;
        }
        write!(f, ": {} in {}", self.actions, join(&self.repositories))
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
    /// Cause a first download, as written; [`pull`](Self::pull) implies it: see [`decide_fetch`](Self::decide_fetch).
    pub fetch: bool,
}

impl Actions {
    /// Every action.
    pub const ALL: Self = Self { pull: true, push: true, delete: true, catalog: true, fetch: true };

    /// Returns true if the action is one of them.
    pub const fn contains(self, action: Action) -> bool {
        match action {
            Action::Pull => self.pull,
            Action::Push => self.push,
            Action::Delete => self.delete,
            Action::Catalog => self.catalog,
        }
    }

    /// Returns true if a rule with these decides who may cause a first download, and have more than what is held
    /// already.
    pub const fn decide_fetch(self) -> bool {
        self.fetch || self.pull
    }

    /// Returns true if nothing can be done by these alone: to fetch is a part of pulling.
    fn grant_nothing(self) -> bool {
        Self { fetch: false, ..self }.is_empty()
    }

    fn without(self, other: Self) -> Self {
        Self {
            pull: self.pull && !other.pull,
            push: self.push && !other.push,
            delete: self.delete && !other.delete,
            catalog: self.catalog && !other.catalog,
            fetch: self.fetch && !other.fetch,
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
            fetch: self.fetch || other.fetch,
        }
    }

    fn parse(written: &str) -> Result<Self, ValueError> {
        let none = Self::default();
        match written {
            "*" => Ok(Self::ALL),
            "pull" => Ok(Self { pull: true, ..none }),
            "push" => Ok(Self { push: true, ..none }),
            "delete" => Ok(Self { delete: true, ..none }),
            "catalog" => Ok(Self { catalog: true, ..none }),
            "fetch" => Ok(Self { fetch: true, ..none }),
            _ => Err(ValueError::value(
                "is unknown; write \"pull\", \"push\", \"delete\", \"catalog\", \"fetch\" or \"*\"",
            )),
        }
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.pull, "pull"),
            (self.push, "push"),
            (self.delete, "delete"),
            (self.catalog, "catalog"),
            // Beside "pull" it says nothing.
            (self.fetch && !self.pull, "fetch"),
        ];
        let names: Vec<&str> = all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        f.write_str(&names.join(", "))
    }
}

pub(super) const KEYS: &[Key] = &[
    key("users", Kind::Texts),
    key("repositories", Kind::Texts),
    key("actions", Kind::Texts),
    key("groups", Kind::Texts),
    key("networks", Kind::Texts),
    key("effect", Kind::Text),
];

/// The rules as written.
pub(super) struct Rules<'a> {
    pub(super) rules: Vec<AccessRule>,
    /// The first mention of "anonymous" in a rule that allows something.
    pub(super) anonymous: Option<Item<'a>>,
    /// True if a rule could not be read: what it grants is not known, so nothing is said about it.
    pub(super) has_mistakes: bool,
}

pub(super) fn read<'a>(root: &Reader<'a>) -> Rules<'a> {
    let tables = root.tables("access");
    root.context.set_groups(&groups(root));
    let rules: Vec<AccessRule> = tables.iter().filter_map(rule).collect();
    let denies = |table: &&Reader<'_>| table.text("effect").is_some_and(|item| item.value() == "deny");
    let users = tables.iter().filter(|table| !denies(table)).flat_map(|table| table.texts("users"));
    let anonymous = users.into_iter().find(|item| item.value() == "anonymous");
    Rules { has_mistakes: rules.len() < tables.len() || root.is_broken("access"), rules, anonymous }
}

impl Rules<'_> {
    /// Returns the rules, or the default if none is written.
    pub(super) fn or_default(self, root: &Reader<'_>, upstreams: &[Upstream]) -> Vec<AccessRule> {
        if !root.has("access") {
            refuse_default_rule_with_forward(root);
            return vec![AccessRule::everything()];
        }
        if self.rules.is_empty() && root.is_list("access") && !self.has_mistakes {
            root.wrong(
                "access",
                "without any rule no client may do anything; write [[access]] rules, or remove it",
            );
        }
        self.refuse_nothing(root);
        self.warn_of_strangers(root, upstreams);
        warn_of_fetching(root, upstreams);
        self.rules
    }

    /// Refuses rules that together allow nothing to any user.
    fn refuse_nothing(&self, root: &Reader<'_>) {
        let logins = credentials::login_key(root).is_some();
        let nothing = |(at, rule)| granted(rule, &self.rules[..at], logins).grant_nothing();
        // A configuration without any login is reported elsewhere.
        let known = self.has_mistakes || self.rules.is_empty() || !logins && self.anonymous.is_none();
        if !known && self.rules.iter().enumerate().all(nothing) {
            let text = "by these rules no client may do anything: what no rule allows is denied; write one with \
                        `effect = \"allow\"`, in front of those that deny the same";
            root.wrong("access", text);
        }
    }

    /// Warns of rules that can never match, since no login has such a name.
    fn warn_of_strangers(&self, root: &Reader<'_>, upstreams: &[Upstream]) {
        let htpasswd = root.section("auth").has("htpasswd");
        let judges: Vec<&str> =
            upstreams.iter().filter(forwards).map(|upstream| upstream.name.as_str()).collect();
        let providers = providers(root);
        if !htpasswd && judges.is_empty() && providers.is_empty() {
            return self.warn_of_people(root);
        }
        let groups = root.section("auth").section("groups");
        let members = groups.names().flat_map(|name| groups.texts(name));
        let users = root.tables("access").into_iter().flat_map(|table| table.texts("users"));
        for item in users.chain(members) {
            if let Some(why) = stranger(item.value(), htpasswd, &judges, &providers) {
                root.context.warn(format!("{}: no user is called {:?}: {why}", item.place(), item.value()));
            }
        }
    }

    fn warn_of_people(&self, root: &Reader<'_>) {
        let people = |rule: &AccessRule| !rule.users.contains(&UserPattern::Anonymous);
        for (rule, table) in self.rules.iter().zip(root.tables("access")) {
            if people(rule) {
                let place = table.place_of("users");
                let text = "this rule matches no client, since no user can log in without [auth.htpasswd]";
                root.context.warn(format!("{place}: {text}"));
            }
        }
    }
}

/// Returns the actions that `rule` allows to some user: those that no rule `before` it denies to all of its users.
fn granted(rule: &AccessRule, before: &[AccessRule], logins: bool) -> Actions {
    if !rule.allows() || !logins && !rule.users.contains(&UserPattern::Anonymous) {
        return Actions::default();
    }
    let covering = before.iter().filter(|other| !other.allows() && covers(other, rule, logins));
    covering.fold(rule.actions, |actions, other| actions.without(other.actions))
}

/// Returns true if the denying rule `other` plainly is for all users and repositories that the allowing `rule` is for.
fn covers(other: &AccessRule, rule: &AccessRule, logins: bool) -> bool {
    let anyone = !logins || other.users.contains(&UserPattern::Anyone);
    let user = |user: &UserPattern| match user {
        // An allowance for anonymous clients holds for every user; a denial does not.
        UserPattern::Anonymous => anyone && other.users.contains(user),
        UserPattern::Anyone | UserPattern::Glob(_) => anyone || other.users.contains(user),
    };
    let group = |group: &Group| anyone || other.groups.contains(group);
    let every = other.repositories.iter().any(RepositoryPattern::is_every);
    let repository = |pattern: &RepositoryPattern| every || other.repositories.contains(pattern);
    other.networks.is_empty()
        && rule.users.iter().all(user)
        && rule.groups.iter().all(group)
        && rule.repositories.iter().all(repository)
}

/// Warns of "fetch" at upstreams without a cache: every pull fetches there, so that a denial denies nothing.
fn warn_of_fetching(root: &Reader<'_>, upstreams: &[Upstream]) {
    let cached = upstreams.iter().any(|upstream| upstream.cache.is_some());
    for table in root.tables("access") {
        let actions = table.texts("actions");
        let Some(fetch) = actions.iter().find(|item| item.value() == "fetch") else { continue };
        if !cached {
            root.context.warn(format!("{}: \"fetch\" has no meaning without a cache", fetch.place()));
            continue;
        }
        let pulls = actions.iter().any(|item| ["pull", "*"].contains(&item.value()));
        let denies = table.text("effect").is_some_and(|item| item.value() == "deny");
        let names = if denies && !pulls { uncached(&table, upstreams) } else { Vec::new() };
        if !names.is_empty() {
            let (place, names) = (fetch.place(), names.join(", "));
            let text = format!("this denies nothing at {names}, without a cache: every pull fetches there");
            root.context.warn(format!("{place}: {text}; deny \"pull\""));
        }
    }
}

/// Returns the names of the upstreams without a cache for whose repositories a rule may be.
fn uncached<'a>(table: &Reader<'_>, upstreams: &'a [Upstream]) -> Vec<&'a str> {
    let written = table.texts("repositories");
    let patterns = written.iter().filter_map(|item| RepositoryPattern::parse_for_users(item.value()).ok());
    let patterns: Vec<RepositoryPattern> = patterns.collect();
    let prefixed = |pattern: &RepositoryPattern| {
        let below = |upstream: &Upstream| {
            let rest = pattern.as_str().strip_prefix(&upstream.prefix);
            !upstream.prefix.is_empty() && rest.is_some_and(|rest| rest.starts_with('/'))
        };
        upstreams.iter().any(below)
    };
    let concerned = |upstream: &&Upstream| {
        let takes_rest = upstream.prefix.is_empty();
        let is_for = |pattern: &RepositoryPattern| {
            pattern.may_match_below(&upstream.prefix) && !(takes_rest && prefixed(pattern))
        };
        upstream.cache.is_none() && patterns.iter().any(is_for)
    };
    upstreams.iter().filter(concerned).map(|upstream| upstream.name.as_str()).collect()
}

fn forwards(upstream: &&Upstream) -> bool {
    upstream.credentials.source == CredentialSource::Forward
}

/// Returns the words with which the names of providers other than htpasswd begin.
fn providers(root: &Reader<'_>) -> Vec<String> {
    let auth = root.section("auth");
    let robots = auth.has("token").then(|| ROBOT.trim_end_matches(':').to_owned());
    let platforms = auth.tables("oidc").into_iter().filter_map(|table| {
        let user = table.text("user")?;
        user.value().split_once(':').map(|(word, _)| word.to_owned())
    });
    let certificates = auth.section("client_certificate").text("user");
    let certificates = certificates.map(|user| user.value().trim_start_matches("san:").to_owned());
    robots.into_iter().chain(platforms).chain(certificates).collect()
}

/// Returns why no user can have a name, where that is plain.
fn stranger(name: &str, htpasswd: bool, judges: &[&str], providers: &[String]) -> Option<String> {
    let (provider, _) = name.split_once(':').unwrap_or((name, ""));
    // A pattern that begins with a star was perhaps meant for the users of every provider.
    let leading = provider.starts_with(['*', '?']) && name != "*";
    if provider.contains(['*', '?']) && !leading || name == "anonymous" {
        return None;
    }
    match name.strip_prefix(FORWARDED).filter(|_| name.contains(':')) {
        Some(rest) => {
            let judged = |judge: &&str| rest.strip_prefix(*judge).is_some_and(|rest| rest.starts_with(':'));
            let unknown = || "no upstream of that name has credentials with `forward = true`".to_owned();
            (!judges.iter().any(judged)).then(unknown)
        }
        None if name.contains(':') => {
            let unknown = || format!("no provider's names begin with \"{provider}:\"");
            (!providers.iter().any(|known| known == provider)).then(unknown)
        }
        None if htpasswd || !providers.is_empty() => None,
        None => {
            judges.first().map(|judge| format!("users of an upstream are called \"{FORWARDED}{judge}:NAME\""))
        }
    }
}

/// Refuses forwarding without rules: anyone may have an account at a public registry.
fn refuse_default_rule_with_forward(root: &Reader<'_>) {
    let Some(credentials) = credentials::forward(root) else { return };
    let advice = root.context.advice(
        "[[access]] rules, in which `users = [\"*\"]` is anyone who has logged in",
        "DOCKGATE_ACCESS__0__USERS=*, with __REPOSITORIES and __ACTIONS",
    );
    let why = "every account at this registry could do everything here";
    credentials.wrong("forward", format!("{why}; {advice}"));
}

/// Reads `[auth.groups]`.
fn groups(root: &Reader<'_>) -> Vec<Group> {
    let table = root.section("auth").section("groups");
    let group = |name: &str| {
        let members = table.all(name, "a group", &format!("{name} = [\"builder-*\"]"), member)?;
        Some(Group { name: name.to_owned(), members })
    };
    table.names().filter_map(group).collect()
}

fn member(written: &str) -> Result<UserPattern, ValueError> {
    match UserPattern::parse(written)? {
        UserPattern::Anonymous => {
            Err(ValueError::value("is no member of a group; name it in the rule's `users`"))
        }
        pattern => Ok(pattern),
    }
}

fn networks(table: &Reader<'_>) -> Option<Vec<IpNet>> {
    let items = table.texts("networks");
    let networks: Vec<IpNet> = items.iter().filter_map(|item| item.parsed(server::network)).collect();
    (networks.len() == items.len()).then_some(networks)
}

fn rule(table: &Reader<'_>) -> Option<AccessRule> {
    let groups = groups_of(table);
    let users = match table.texts("groups").is_empty() || table.has("users") {
        false => Some(Vec::new()),
        true => table.all("users", "a rule", "users = [\"alice\"]", UserPattern::parse),
    };
    let networks = networks(table);
    let repositories = table.all("repositories", "a rule", "repositories = [\"team/**\"]", repository);
    let actions = table.all("actions", "a rule", "actions = [\"pull\", \"push\"]", Actions::parse);
    let effect = effect(table);
    let actions = actions?.into_iter().fold(Actions::default(), Actions::with);
    let rule = AccessRule {
        users: users?,
        groups: groups?,
        networks: networks?,
        repositories: repositories?,
        actions,
        effect: effect?,
        place: Some(table.place().clone()),
    };
    refuse_half_a_catalog(table, &rule);
    (!rule.actions.is_empty()).then_some(rule)
}

/// Reads the effect. `None` where it is malformed.
fn effect(table: &Reader<'_>) -> Option<Effect> {
    match table.choice("effect", &["allow", "deny"]) {
        Some("deny") => Some(Effect::Deny),
        Some(_) => Some(Effect::Allow),
        None => (!table.has("effect")).then_some(Effect::Allow),
    }
}

/// Refuses a rule that denies the catalog of some repositories only: the catalog lists what may be pulled.
fn refuse_half_a_catalog(table: &Reader<'_>, rule: &AccessRule) {
    let named = table.texts("actions").iter().any(|item| item.value() == "catalog");
    if named && !rule.covers_catalog() {
        let text = "the catalog cannot be denied for some repositories; deny \"pull\", and they are not listed, or \
                    write `repositories = [\"**\"]`";
        table.wrong("actions", text);
    }
}

fn repository(written: &str) -> Result<RepositoryPattern, ValueError> {
    RepositoryPattern::parse_for_users(written).map_err(PatternError::wrong)
}
