//! The parts that the project's own tests and benches drive directly. Not a stable interface.

pub use crate::app::{App, Origin};
pub use crate::authn::{Authenticator, HtpasswdFile};
pub use crate::authz::{Rules, Subject};
pub use crate::config::{AccessRule, Config, Environment, RepositoryPattern};
pub use crate::proto::identity::{Identity, UserName};
pub use crate::proto::media_type::FULL_ACCEPT;
pub use crate::proto::scope::ScopeSet;
pub use crate::proto::{
    Accept, Authorization, Challenge, Digest, ErrorBody, ErrorCode, Operation, RepositoryName, Secret, Target,
};

pub mod certificate {
    pub use crate::cli::certificate::issue;
}
pub mod challenge {
    pub use crate::proto::challenge::parse_all;
}
pub mod clock {
    pub use crate::clock::{now, wall};
}
pub mod disk {
    pub use crate::cache::store::faults::{Access, Fault, Ordered, order};
}
pub mod htpasswd {
    pub use crate::authn::htpasswd::hash;
}
pub mod image {
    pub use crate::demo::image::seed;
}
pub mod limits {
    pub use crate::config::limits::{CATALOG_UPSTREAM_PAGES, HANDSHAKE_DEADLINE, TOKEN_FAILED_PAUSE};
}
pub mod link {
    pub use crate::proto::link::next;
}
pub mod registry {
    pub use crate::demo::registry::{Registry, sha256};
}
pub mod telemetry {
    pub use crate::telemetry::log::{flush, start};
}

/// Tries the object store of a configuration, as `dockgate check` does. Returns true if it keeps versions.
///
/// # Errors
/// The reason why it cannot be used.
pub async fn try_store(config: &Config) -> Result<bool, String> {
    let settings = config.store.as_ref().ok_or("there is no [cache.store]")?;
    crate::bucket::try_bucket(settings).await.map_err(|error| error.to_string())
}

/// Sweeps the object store of a configuration. Returns the objects that were deleted, and those that are left.
///
/// # Errors
/// The reason why it was not swept.
pub async fn sweep_store(config: &Config) -> Result<(u64, u64), String> {
    let settings = config.store.as_ref().ok_or("there is no [cache.store]")?;
    let sum = crate::bucket::sweep_bucket(settings).await.map_err(|error| error.to_string())?;
    Ok((sum.deleted, sum.kept))
}

/// Reads a blob from the object store of a configuration as a fill does, and returns how many bytes came. Hashed if `proves`.
///
/// # Errors
/// The reason why it was not read, or is not what its digest says.
pub async fn read_stored(config: &Config, digest: &Digest, proves: bool) -> Result<u64, String> {
    let settings = config.store.as_ref().ok_or("there is no [cache.store]")?;
    crate::bucket::read_blob(settings, digest, proves).await.map_err(|error| error.to_string())
}

/// Returns the settings with which a replica with this `server.secret` connects to another, for tests of their listener.
#[expect(clippy::expect_used, reason = "for tests")]
pub fn peer_tls(secret: &Secret) -> std::sync::Arc<rustls::ClientConfig> {
    let identity = crate::peers::identity::Identity::derive(secret).expect("a key");
    identity.client().expect("settings")
}
