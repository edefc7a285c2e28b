//! The notice of a replica to the others that a repository has been written to.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::FleetWrite;
use crate::config::limits;
use crate::proto::{Reference, RepositoryName};

/// A write to a repository, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Notice {
    upstream: String,
    repository: String,
    references: Vec<String>,
    /// Members that have not heard of it: they are not to be asked about the repository.
    unheard: Vec<String>,
    /// For so many seconds.
    believed: u64,
}

impl Notice {
    /// Returns the notice of a write, of which the members `unheard` have not heard.
    pub(super) fn of(write: &FleetWrite, unheard: Vec<String>) -> Self {
        Self {
            upstream: write.upstream.to_string(),
            repository: write.repository.to_string(),
            references: write.references.iter().map(Reference::to_string).collect(),
            unheard,
            believed: write.believed.as_secs(),
        }
    }

    /// Returns the write, and the members that have not heard of it; none if a name in it is none.
    pub(super) fn write(self) -> Option<(FleetWrite, Vec<Arc<str>>)> {
        let references = self.references.iter().map(|reference| Reference::parse(reference).ok());
        let write = FleetWrite {
            upstream: self.upstream.into(),
            repository: RepositoryName::parse(&self.repository).ok()?,
            references: references.collect::<Option<_>>()?,
            believed: Duration::from_secs(self.believed).min(limits::RECORD_BELIEVED),
        };
        Some((write, self.unheard.into_iter().map(Into::into).collect()))
    }
}
