//! The other replicas of this gateway, as the cache asks them. The cache does not depend on `crate::peers`, which implements
//! this trait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::Client;
use crate::cache::origin::{OriginRequest, OriginResponse};
use crate::meaning::UpstreamFailure;
use crate::proto::{Digest, Reference, RepositoryName};

/// The other replicas of this gateway: asked before the upstream is.
pub(crate) trait Fleet: Send + Sync + 'static {
    /// Asks those that come before this replica. `None` if none of them has an answer: the upstream is to be asked. A failure is
    /// the registry's own word, which it would give here as well.
    fn ask(&self, question: FleetQuestion) -> FleetAsking<'_>;

    /// Tells all that a repository has been written to, and waits until they know, for a moment at most. From the call on, one that
    /// does not know it is not asked about the repository.
    fn tell(self: Arc<Self>, write: FleetWrite) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Notes that content of the upstream does not have this digest. If replicas have sent it, they are told, and none is asked for
    /// it for a while.
    fn distrust(self: Arc<Self>, upstream: &Arc<str>, digest: &Digest);
}

/// The answer to a [`FleetQuestion`], under way.
pub(crate) type FleetAsking<'a> =
    Pin<Box<dyn Future<Output = Option<Result<OriginResponse, UpstreamFailure>>> + Send + 'a>>;

/// A question to the other replicas.
#[derive(Debug, Clone)]
pub(crate) struct FleetQuestion {
    /// The upstream's name and URL, by which all replicas call it.
    pub(crate) upstream: Arc<str>,
    /// The repository, by the upstream's own name.
    pub(crate) repository: RepositoryName,
    /// The request as the upstream would get it.
    pub(crate) request: OriginRequest,
    /// Only what a replica holds is wanted: none of them may ask the upstream.
    pub(crate) held_only: bool,
    /// The client to which what is asked of the upstream is charged.
    pub(crate) client: Client,
    /// How long a replica may take until it answers: longer than the upstream may have it wait.
    pub(crate) patience: Duration,
}

/// A write to a repository through this replica.
#[derive(Debug, Clone)]
pub(crate) struct FleetWrite {
    /// The upstream's name and URL.
    pub(crate) upstream: Arc<str>,
    /// The repository, by the upstream's own name.
    pub(crate) repository: RepositoryName,
    /// The references that were pushed or deleted, as far as they are known.
    pub(crate) references: Vec<Reference>,
    /// How long a replica that does not know it may believe what was before.
    pub(crate) believed: Duration,
}
