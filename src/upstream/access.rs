//! What a request needs to be allowed at the upstream, as scopes of the token documents.

use crate::proto::{Action, RepositoryName, Scope, ScopeSet};

/// The least that a request needs; names are the upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// No more than to be somebody: `/v2/`.
    Version,
    /// An action on a repository.
    Repository(RepositoryName, Action),
    /// Giving up an upload to it: part of a push, and to some registries a delete.
    Cancel(RepositoryName),
    /// Pushing to the first, with a blob of the second.
    Mount(RepositoryName, RepositoryName),
    /// The list of repositories.
    Catalog,
}

impl Access {
    /// The scopes, divided by spaces (token auth, scope.md). Equal for equal accesses, and so the name under which a
    /// token is kept.
    pub(super) fn scope(&self) -> String {
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

    /// What is asked of the token endpoint after a challenge that named `challenged`.
    ///
    /// An opaque scope (`aws`) is what the registry's tokens are for, whatever the request. Otherwise ours is asked
    /// for, and what the registry calls the repository when that differs; never more actions than the request needs,
    /// but for a delete, which registries call by different names.
    pub(super) fn scopes(&self, challenged: &ScopeSet) -> ScopeSet {
        let own = ScopeSet::parse(&self.scope());
        let opaque: ScopeSet = challenged.iter().filter(|scope| matches!(scope, Scope::Opaque(_))).collect();
        if !opaque.is_empty() {
            return opaque;
        }
        let theirs = challenged.iter().filter_map(|scope| self.narrowed(scope, &own));
        own.iter().chain(theirs).collect()
    }

    fn narrowed(&self, scope: Scope, own: &ScopeSet) -> Option<Scope> {
        let Scope::Resource(mut resource) = scope else { return None };
        let is_delete = matches!(self, Self::Repository(_, Action::Delete) | Self::Cancel(_));
        let named = own.iter().any(|own| matches!(own, Scope::Resource(own) if own.name == resource.name));
        if !(is_delete && named) {
            let needed = own.iter().filter_map(|own| match own {
                Scope::Resource(own) => Some(own.actions),
                Scope::Opaque(_) => None,
            });
            let needed: std::collections::BTreeSet<_> = needed.flatten().collect();
            resource.actions.retain(|action| needed.contains(action));
        }
        (!resource.actions.is_empty()).then_some(Scope::Resource(resource))
    }
}

/// A push asks for `pull,push`, as every client does.
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

    fn asked(access: &Access, challenged: &str) -> String {
        access.scopes(&ScopeSet::parse(challenged)).to_string()
    }

    #[test]
    fn the_scope_is_the_least_that_is_needed() {
        let pull = Access::Repository(name("library/alpine"), Action::Pull);
        assert_eq!(pull.scope(), "repository:library/alpine:pull");
        assert_eq!(asked(&pull, ""), "repository:library/alpine:pull");
        assert_eq!(asked(&pull, "repository:library/alpine:pull,push"), "repository:library/alpine:pull");
        let push = Access::Repository(name("a"), Action::Push);
        assert_eq!(asked(&push, "repository:a:push,pull"), "repository:a:pull,push");
        assert_eq!(asked(&Access::Version, "repository:a:pull"), "");
        assert_eq!(asked(&Access::Catalog, "registry:catalog:*"), "registry:catalog:*");
    }

    #[test]
    fn the_scopes_of_a_mount_are_in_one_token() {
        let mount = Access::Mount(name("b"), name("a"));
        assert_eq!(asked(&mount, ""), "repository:a:pull repository:b:pull,push");
        assert_eq!(asked(&Access::Mount(name("b"), name("b")), ""), "repository:b:pull,push");
    }

    #[test]
    fn an_opaque_scope_takes_the_place_of_ours() {
        assert_eq!(asked(&Access::Repository(name("a"), Action::Pull), "aws"), "aws");
    }

    #[test]
    fn a_registry_may_call_the_repository_otherwise_and_gets_no_more_actions() {
        let pull = Access::Repository(name("a"), Action::Pull);
        assert_eq!(
            asked(&pull, "repository:group/a:pull,push,delete"),
            "repository:a:pull repository:group/a:pull"
        );
        assert_eq!(asked(&pull, "repository:other:push"), "repository:a:pull");
    }

    #[test]
    fn a_delete_goes_by_the_name_that_the_registry_has_for_it() {
        let delete = Access::Repository(name("a"), Action::Delete);
        assert_eq!(asked(&delete, "repository:a:*"), "repository:a:*");
        assert_eq!(asked(&delete, "repository:b:*"), "repository:a:delete");
        let cancel = Access::Cancel(name("a"));
        assert_eq!(asked(&cancel, ""), "repository:a:pull,push");
        assert_eq!(asked(&cancel, "repository:a:delete"), "repository:a:delete,pull,push");
    }
}
