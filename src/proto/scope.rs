//! The scopes of tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::proto::operation::Action;

/// A scope (token auth, scope.md).
///
/// ```text
/// resourcescope := resourcetype ":" resourcename ":" action [ ',' action ]*
/// resourcetype  := [a-z]+ [ '(' [a-z0-9]+ ')' ]
/// action        := [a-z]* | '*'
/// ```
///
/// The type ends at the first `:` and the actions begin after the last one, since a name may contain `:` (a host with
/// its port). What is not of this form is opaque (`aws`, `https://…`): it is passed on and covers only itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Actions on a resource.
    Resource(ResourceScope),
    /// A word that means something to its own registry.
    Opaque(String),
}

/// Actions on one resource: `repository:samalba/my-app:pull,push`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceScope {
    /// `repository`, `registry`.
    pub kind: String,
    /// The deprecated class in parentheses (`repository(plugin)`): echoed, without a meaning for authorization.
    pub class: Option<String>,
    /// The resource's name, which need not be a repository's.
    pub name: String,
    /// The permitted actions; `*` stands alone and means every action.
    pub actions: BTreeSet<String>,
}

/// A set of scopes in canonical form: one entry per resource, entries and actions sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ScopeSet {
    resources: BTreeMap<Resource, BTreeSet<String>>,
    opaque: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Resource {
    kind: String,
    name: String,
    class: Option<String>,
}

impl Scope {
    /// Reads one scope, without space in it. Every text is a scope, if only an opaque one.
    pub fn parse(text: &str) -> Self {
        ResourceScope::parse(text).map_or_else(|| Self::Opaque(text.into()), Self::Resource)
    }

    /// Returns an action on a repository: `repository:NAME:pull`. A push asks for `pull,push`, as every client does;
    /// [`Action::Catalog`] is `registry:catalog:*`, whatever the name.
    pub fn repository(name: &str, action: Action) -> Self {
        let (kind, name, actions) = match action {
            Action::Pull => ("repository", name, &["pull"][..]),
            Action::Push => ("repository", name, &["pull", "push"][..]),
            Action::Delete => ("repository", name, &["delete"][..]),
            Action::Catalog => ("registry", "catalog", &["*"][..]),
        };
        let actions = actions.iter().map(|&action| action.to_owned()).collect();
        Self::Resource(ResourceScope { kind: kind.into(), class: None, name: name.into(), actions })
    }
}

impl ResourceScope {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let (kind, class) = parse_kind(kind)?;
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        let actions = parse_actions(actions).filter(|_| plain)?;
        Some(Self { kind: kind.into(), class: class.map(str::to_owned), name: name.into(), actions })
    }

    /// Returns true if this permits all that `other` asks. The class is not looked at.
    pub fn covers(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name == other.name && permits(&self.actions, &other.actions)
    }
}

impl ScopeSet {
    /// Reads a list of scopes divided by spaces; doubled ones are merged.
    pub fn parse(text: &str) -> Self {
        text.split_ascii_whitespace().map(Scope::parse).collect()
    }

    /// Returns true if nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.opaque.is_empty()
    }

    /// Adds a scope; actions on the same resource are merged.
    pub fn insert(&mut self, scope: Scope) {
        match scope {
            Scope::Opaque(word) => {
                self.opaque.insert(word);
            }
            Scope::Resource(ResourceScope { kind, class, name, actions }) => {
                let known = self.resources.entry(Resource { kind, name, class }).or_default();
                known.extend(actions);
                reduce(known);
            }
        }
    }

    /// Returns all scopes, sorted: resources first.
    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        let resources =
            self.resources.iter().map(|(resource, actions)| Scope::Resource(resource.with(actions)));
        resources.chain(self.opaque.iter().cloned().map(Scope::Opaque))
    }

    /// Returns the union of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// Returns true if this permits all that `other` asks: every action on every resource. `*` permits every action; a
    /// scope that asks for `*` needs `*`.
    pub fn covers(&self, other: &Self) -> bool {
        other.opaque.is_subset(&self.opaque)
            && other.resources.iter().all(|(resource, actions)| permits(&self.actions_on(resource), actions))
    }

    fn actions_on(&self, wanted: &Resource) -> BTreeSet<String> {
        let same =
            self.resources.iter().filter(|(known, _)| known.kind == wanted.kind && known.name == wanted.name);
        same.flat_map(|(_, actions)| actions.iter().cloned()).collect()
    }
}

impl Resource {
    fn with(&self, actions: &BTreeSet<String>) -> ResourceScope {
        let Self { kind, name, class } = self.clone();
        ResourceScope { kind, class, name, actions: actions.clone() }
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut set = Self::default();
        set.extend(scopes);
        set
    }
}

impl Extend<Scope> for ScopeSet {
    fn extend<I: IntoIterator<Item = Scope>>(&mut self, scopes: I) {
        scopes.into_iter().for_each(|scope| self.insert(scope));
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(scope) => scope.fmt(f),
            Self::Opaque(word) => f.write_str(word),
        }
    }
}

impl fmt::Display for ResourceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if let Some(class) = &self.class {
            write!(f, "({class})")?;
        }
        let actions: Vec<_> = self.actions.iter().map(String::as_str).collect();
        write!(f, ":{}:{}", self.name, actions.join(","))
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            write!(f, "{}{scope}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

fn parse_kind(text: &str) -> Option<(&str, Option<&str>)> {
    let (kind, class) = match text.strip_suffix(')') {
        Some(open) => open.split_once('(').map(|(kind, class)| (kind, Some(class)))?,
        None => (text, None),
    };
    let plain = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase());
    let classed = class.is_none_or(|class| {
        !class.is_empty() && class.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    (plain && classed).then_some((kind, class))
}

/// Splits actions; an empty one asks for nothing and is left out.
fn parse_actions(text: &str) -> Option<BTreeSet<String>> {
    let known = |action: &str| action == "*" || action.bytes().all(|b| b.is_ascii_lowercase());
    if !text.split(',').all(known) {
        return None;
    }
    let mut actions = text.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
    reduce(&mut actions);
    Some(actions)
}

fn reduce(actions: &mut BTreeSet<String>) {
    if actions.contains("*") {
        actions.retain(|action| action == "*");
    }
}

fn permits(granted: &BTreeSet<String>, asked: &BTreeSet<String>) -> bool {
    granted.contains("*") || asked.is_subset(granted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resource(text: &str) -> (String, Option<String>, String, Vec<String>) {
        match Scope::parse(text) {
            Scope::Resource(scope) => {
                (scope.kind, scope.class, scope.name, scope.actions.into_iter().collect())
            }
            Scope::Opaque(word) => panic!("{word} is opaque"),
        }
    }

    fn covers(granted: &str, asked: &str) -> bool {
        ScopeSet::parse(granted).covers(&ScopeSet::parse(asked))
    }

    #[test]
    fn the_type_ends_at_the_first_colon_and_the_actions_begin_after_the_last() {
        let cases = [
            ("repository:samalba/my-app:pull,push", "samalba/my-app", vec!["pull", "push"]),
            ("repository:localhost:5000/a/b:pull", "localhost:5000/a/b", vec!["pull"]),
            ("repository:a:*", "a", vec!["*"]),
            ("repository:a:", "a", vec![]),
            ("repository:a:pull,,pull", "a", vec!["pull"]),
            ("repository:a:push,*", "a", vec!["*"]),
        ];
        for (text, name, actions) in cases {
            let parsed = resource(text);
            assert_eq!(
                (parsed.0.as_str(), parsed.2.as_str(), parsed.3),
                ("repository", name, actions.iter().map(|&a| a.into()).collect())
            );
        }
    }

    #[test]
    fn a_class_is_echoed_and_means_nothing() {
        assert_eq!(resource("repository(plugin):x/y:pull").1.as_deref(), Some("plugin"));
        assert_eq!(ScopeSet::parse("repository(plugin):x/y:pull").to_string(), "repository(plugin):x/y:pull");
        assert!(covers("repository:x/y:pull", "repository(plugin):x/y:pull"));
        assert!(covers("repository(plugin):x/y:push repository:x/y:pull", "repository:x/y:pull,push"));
    }

    #[test]
    fn what_is_of_no_known_form_is_opaque() {
        for text in [
            "aws",
            "a:b",
            "Repository:a:pull",
            "repository::pull",
            "repository:a:Pull",
            "re(po:a:b",
            "r():a:b",
            ":a:pull",
            "https://x/y",
        ] {
            assert_eq!(Scope::parse(text), Scope::Opaque(text.into()));
            assert_eq!(Scope::parse(text).to_string(), text);
        }
    }

    #[test]
    fn a_list_is_merged_and_rendered_canonically() {
        let set = ScopeSet::parse(
            " repository:b:push aws repository:a:pull  repository:b:pull aws registry:catalog:* ",
        );
        assert_eq!(set.to_string(), "registry:catalog:* repository:a:pull repository:b:pull,push aws");
        assert!(ScopeSet::parse("  ").is_empty());
    }

    #[test]
    fn covering_is_action_by_action() {
        assert!(covers("repository:a:pull,push", "repository:a:pull"));
        assert!(covers("repository:a:*", "repository:a:delete"));
        assert!(covers("aws repository:a:pull", "aws"));
        assert!(covers("", ""));
        assert!(!covers("repository:a:pull", "repository:a:pull,push"));
        assert!(!covers("repository:a:pull,push,delete", "repository:a:*"));
        assert!(!covers("repository:a:pull", "repository:a/b:pull"));
        assert!(!covers("registry:a:pull", "repository:a:pull"));
        assert!(!covers("repository:a:*", "aws"));
    }

    #[test]
    fn an_actions_scope_is_what_clients_ask_for() {
        let render = |action| Scope::repository("a/b", action).to_string();
        assert_eq!(render(Action::Pull), "repository:a/b:pull");
        assert_eq!(render(Action::Push), "repository:a/b:pull,push");
        assert_eq!(render(Action::Delete), "repository:a/b:delete");
        assert_eq!(render(Action::Catalog), "registry:catalog:*");
    }

    fn any_set() -> impl Strategy<Value = ScopeSet> {
        let scope = "(repository|registry|repository\\(plugin\\)):(a|b|h:5000/a):(pull|push|delete|\\*)(,(pull|push))?|aws|other";
        proptest::collection::vec(scope, 0..6).prop_map(|scopes| ScopeSet::parse(&scopes.join(" ")))
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(set in any_set()) {
            prop_assert_eq!(ScopeSet::parse(&set.to_string()), set);
        }

        #[test]
        fn every_set_covers_itself_and_nothing(set in any_set()) {
            prop_assert!(set.covers(&set));
            prop_assert!(set.covers(&ScopeSet::default()));
        }

        #[test]
        fn covers_is_monotone(a in any_set(), b in any_set(), c in any_set()) {
            prop_assert!(a.union(&b).covers(&a) && a.union(&b).covers(&b));
            if a.covers(&c) {
                prop_assert!(a.union(&b).covers(&c));
            }
            if a.covers(&b.union(&c)) {
                prop_assert!(a.covers(&b) && a.covers(&c));
            }
        }

        #[test]
        fn covers_is_transitive(a in any_set(), b in any_set(), c in any_set()) {
            let (ab, abc) = (a.union(&b), a.union(&b).union(&c));
            prop_assert!(abc.covers(&ab) && ab.covers(&a) && abc.covers(&a));
            if a.covers(&b) && b.covers(&c) {
                prop_assert!(a.covers(&c));
            }
        }

        #[test]
        fn union_is_commutative_and_idempotent(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.union(&a), a);
        }

        #[test]
        fn no_text_panics_and_all_of_it_renders_back(text in "\\PC{0,40}") {
            let set = ScopeSet::parse(&text);
            prop_assert_eq!(ScopeSet::parse(&set.to_string()), set);
        }
    }
}
