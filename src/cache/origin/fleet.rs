//! The other replicas of this gateway, as the cache asks them. The cache does not depend on `crate::peers`, which implements
//! this trait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::body::Body;
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

    /// Returns the names of the other replicas, also of those that do not answer.
    fn others(&self) -> Vec<Arc<str>>;

    /// Returns all replicas, this one among them, for operators.
    fn report(&self) -> Vec<MemberReport>;

    /// Has a replica do at its own disk what an operator wants. The answer is a line of JSON for each thing that happens there.
    fn order<'a>(&'a self, member: &'a str, order: &'a FleetOrder) -> FleetObeying<'a>;
}

/// A replica, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberReport {
    /// Its name.
    pub name: String,
    /// True for this replica itself.
    pub is_own: bool,
    /// Why it is passed over; none if it is not.
    pub resting: Option<String>,
    /// Questions that it was asked.
    pub asked: u64,
    /// The questions that it did not answer.
    pub failed: u64,
    /// Bytes of blobs and manifests that have come from it.
    pub bytes: u64,
}

/// The answer to a [`FleetOrder`], under way.
pub(crate) type FleetObeying<'a> = Pin<Box<dyn Future<Output = Result<Body, Disobedience>> + Send + 'a>>;

/// The reason why a replica has not done what an operator wants.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Disobedience(pub(crate) String);

/// Work of an operator that a replica does at its own disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum FleetOrder {
    /// Lists the images that a pattern means.
    List {
        /// The pattern.
        pattern: String,
    },
    /// Removes what a pattern means.
    Remove {
        /// The pattern.
        pattern: String,
        /// The note of it in the object store, which need not be followed after that.
        note: Option<String>,
    },
    /// Hashes all content again.
    Verify,
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
