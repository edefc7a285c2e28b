//! The ways in which a `cache` command fails.

use std::io;

use crate::cache::maintenance::PlatformError;
use crate::cli::cache::local::LocalCacheError;
use crate::cli::cache::remote::RemoteError;
use crate::cli::user::PasswordError;
use crate::config::ConfigErrors;

/// The reason why nothing was done, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    /// The configuration can't be read.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// There is nothing to look after.
    #[error("no upstream has a cache; write [upstream.cache] below the [[upstream]] that is to have one")]
    None,
    /// There are no other replicas.
    #[error("there are no [peers]: leave out --fleet")]
    NoFleet,
    /// There is no object store.
    #[error("there is no [cache.store]: leave out --store")]
    NoStore,
    /// Not a platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The directory can't be used.
    #[error(transparent)]
    Local(#[from] LocalCacheError),
    /// The gateway can't be asked.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// There is no password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The answer can't be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// The answer can't be written as JSON.
    #[error("cannot write: {0}")]
    Json(#[from] serde_json::Error),
}

impl CacheError {
    /// Returns 2 for a mistake in what was written, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::None | Self::NoFleet | Self::NoStore | Self::Platform(_) => 2,
            Self::Local(_) | Self::Remote(_) | Self::Password(_) | Self::Output(_) | Self::Json(_) => 1,
        }
    }
}
