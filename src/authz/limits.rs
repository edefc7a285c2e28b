//! The limits of robots.

use crate::authz::region::Region;
use crate::config::RepositoryPattern;
use crate::proto::{Action, Grant, RepositoryName};

/// The repositories and actions that a robot was minted for. The rules may allow less.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    repositories: Vec<(RepositoryPattern, Grant)>,
    catalog: bool,
}

impl Limits {
    /// Returns the limits of a robot's token. A name that is no pattern stands for no repository.
    pub(crate) fn of(access: &[Grant]) -> Self {
        let of_repositories = access.iter().filter(|grant| grant.is_of_repository());
        let pattern = |grant: &Grant| Some((RepositoryPattern::parse(&grant.name).ok()?, grant.clone()));
        let repositories = of_repositories.filter_map(pattern).collect();
        Self { repositories, catalog: access.iter().any(Grant::is_catalog) }
    }

    /// Returns true if they contain the action, in the catalog where there is no repository.
    pub(super) fn allow(&self, repository: Option<&RepositoryName>, action: Action) -> bool {
        let Some(name) = repository else { return action == Action::Catalog && self.catalog };
        self.repositories.iter().any(|(pattern, grant)| grant.contains(action) && pattern.matches(name))
    }

    /// Returns true if they may contain the action at some repository of a region.
    pub(super) fn may_allow(&self, region: &Region<'_>, action: Action) -> bool {
        self.repositories.iter().any(|(pattern, grant)| grant.contains(action) && region.may_match(pattern))
    }
}
