//! The scopes that requests need at the upstream (token auth, scope.md).

use crate::proto::{Action, RepositoryName, ResourceScope, Scope, ScopeSet};

/// The least scope that a request needs. Repository names are the upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequiredScope {
    /// No scope, only a valid login: `/v2/`.
    Version,
    /// An action on a repository.
    Repository(RepositoryName, Action),
    /// Cancelling an upload to it: part of a push, and for some registries a delete.
    Cancel(RepositoryName),
    /// Pushing to the first, with a blob of the second.
    Mount(RepositoryName, RepositoryName),
    /// The list of repositories.
    Catalog,
}

impl RequiredScope {
    /// Returns the scopes, divided by spaces (token auth, scope.md). Tokens are kept under it.
    pub(crate) fn as_text(&self) -> String {
        match self {
            Self::Version => String::new(),
            Self::Repository(name, action) => repository(name, *action),
            Self::Cancel(name) => repository(name, Action::Push),
            Self::Mount(to, from) if to == from => repository(to, Action::Push),
            Self::Mount(to, from) => {
                [repository(to, Action::Push), " ".to_owned(), repository(from, Action::Pull)].concat()
            }
            Self::Catalog => "registry:catalog:*".to_owned(),
        }
    }

    /// Returns the scopes to ask the token endpoint for after a challenge that named `challenged`.
    ///
    /// An opaque word (`aws`) replaces the scopes: the registry's tokens are for everything. Otherwise the challenge's
    /// names of the resource are added to the request's own, with no more actions than the request needs. A delete
    /// takes the challenge's actions, since registries name it differently.
    pub(crate) fn scopes(&self, challenged: &ScopeSet) -> ScopeSet {
        let own = ScopeSet::parse(&self.as_text());
        let opaque: ScopeSet = challenged.iter().filter(is_word).collect();
        if !opaque.is_empty() {
            return opaque;
        }
        let resources = || own.iter().filter_map(resource);
        let theirs = challenged.iter().filter_map(resource);
        let theirs = theirs.filter_map(|scope| self.narrowed(scope, resources()));
        own.iter().chain(theirs.map(Scope::Resource)).collect()
    }

    fn narrowed(
        &self,
        mut scope: ResourceScope,
        own: impl Iterator<Item = ResourceScope>,
    ) -> Option<ResourceScope> {
        let own: Vec<_> = own.filter(|own| own.kind == scope.kind).collect();
        let is_delete = matches!(self, Self::Repository(_, Action::Delete) | Self::Cancel(_));
        if !(is_delete && own.iter().any(|own| own.name == scope.name)) {
            scope.actions.retain(|action| own.iter().any(|own| own.actions.contains(action)));
        }
        (!scope.actions.is_empty()).then_some(scope)
    }
}

fn resource(scope: Scope) -> Option<ResourceScope> {
    match scope {
        Scope::Resource(scope) => Some(scope),
        Scope::Opaque(_) => None,
    }
}

/// Returns true for an opaque word. A malformed resource scope is not asked for.
fn is_word(scope: &Scope) -> bool {
    matches!(scope, Scope::Opaque(word) if !word.contains(':'))
}

/// Renders the scope of an action. A push asks for `pull,push`, as every client does.
fn repository(name: &RepositoryName, action: Action) -> String {
    let actions = match action {
        Action::Pull => "pull",
        Action::Push => "pull,push",
        Action::Delete => "delete",
        Action::Catalog => return "registry:catalog:*".to_owned(),
    };
    ["repository:", name.as_str(), ":", actions].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> RepositoryName {
        RepositoryName::parse(name).unwrap()
    }

    fn asked(scope: &RequiredScope, challenged: &str) -> String {
        scope.scopes(&ScopeSet::parse(challenged)).to_string()
    }

    #[test]
    fn the_scope_is_the_least_needed() {
        let pull = RequiredScope::Repository(name("library/alpine"), Action::Pull);
        assert_eq!(pull.as_text(), "repository:library/alpine:pull");
        assert_eq!(asked(&pull, ""), "repository:library/alpine:pull");
        assert_eq!(asked(&pull, "repository:library/alpine:pull,push"), "repository:library/alpine:pull");
        let push = RequiredScope::Repository(name("a"), Action::Push);
        assert_eq!(asked(&push, "repository:a:push,pull"), "repository:a:pull,push");
        assert_eq!(asked(&RequiredScope::Version, "repository:a:pull"), "");
        assert_eq!(asked(&RequiredScope::Catalog, "registry:catalog:*"), "registry:catalog:*");
    }

    #[test]
    fn the_scopes_of_a_mount_are_in_one_token() {
        let mount = RequiredScope::Mount(name("b"), name("a"));
        assert_eq!(asked(&mount, ""), "repository:a:pull repository:b:pull,push");
        assert_eq!(asked(&RequiredScope::Mount(name("b"), name("b")), ""), "repository:b:pull,push");
    }

    #[test]
    fn an_opaque_scope_takes_the_place_of_ours() {
        assert_eq!(asked(&RequiredScope::Repository(name("a"), Action::Pull), "aws"), "aws");
    }

    #[test]
    fn another_resource_name_gets_no_more_actions() {
        let pull = RequiredScope::Repository(name("a"), Action::Pull);
        assert_eq!(
            asked(&pull, "repository:group/a:pull,push,delete"),
            "repository:a:pull repository:group/a:pull"
        );
        assert_eq!(asked(&pull, "repository:other:push"), "repository:a:pull");
        assert_eq!(asked(&pull, "repository:a:Pull"), "repository:a:pull", "no word of the grammar");
        assert_eq!(asked(&RequiredScope::Catalog, "repository:a:*"), "registry:catalog:*");
    }

    #[test]
    fn a_delete_asks_for_the_challenges_actions() {
        let delete = RequiredScope::Repository(name("a"), Action::Delete);
        assert_eq!(asked(&delete, "repository:a:*"), "repository:a:*");
        assert_eq!(asked(&delete, "repository:b:*"), "repository:a:delete");
        let cancel = RequiredScope::Cancel(name("a"));
        assert_eq!(asked(&cancel, ""), "repository:a:pull,push");
        assert_eq!(asked(&cancel, "repository:a:delete"), "repository:a:delete,pull,push");
    }
}
