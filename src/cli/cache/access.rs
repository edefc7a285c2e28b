//! Where the cache is: with a gateway that runs, or in a directory that nobody uses.

use crate::cache::maintenance::{Entry, Event, Platforms, Removed, Selection, Stats, Verified};
use crate::cli::cache::error::CacheError;
use crate::cli::cache::local::{Cold, Doing};
use crate::cli::cache::remote::Remote;
use crate::config::Config;

/// Where it is.
pub(super) enum Place {
    Running(Box<Remote>),
    Cold(Box<Cold>),
}

impl Place {
    /// A gateway that answers at the configured address and has this directory; else the directory.
    pub(super) fn find(config: Config) -> Result<Self, CacheError> {
        let Some(cache) = &config.cache else { return Err(CacheError::None) };
        if let Some(admin) = &config.admin
            && let Some(remote) = Remote::with(admin.address, &cache.path)
        {
            return Ok(Self::Running(Box::new(remote)));
        }
        Ok(Self::Cold(Box::new(Cold::new(config))))
    }

    pub(super) fn stats(&self) -> Result<Stats, CacheError> {
        match self {
            Self::Running(remote) => Ok(remote.stats()?),
            Self::Cold(cold) => Ok(cold.open(Doing::Reading)?.stats()),
        }
    }

    pub(super) fn list(&self, selection: &Selection) -> Result<Vec<Entry>, CacheError> {
        match self {
            Self::Running(remote) => Ok(remote.list(selection)?),
            Self::Cold(cold) => Ok(cold.open(Doing::Reading)?.list(selection)),
        }
    }

    pub(super) fn remove(&self, selection: &Selection) -> Result<Removed, CacheError> {
        match self {
            Self::Running(remote) => Ok(remote.remove(selection)?),
            Self::Cold(cold) => Ok(cold.open(Doing::Removing)?.remove(selection)),
        }
    }

    /// Whether to go on is the answer of `tell`.
    pub(super) fn verify(&self, tell: &mut dyn FnMut(Verified) -> bool) -> Result<(), CacheError> {
        match self {
            Self::Running(remote) => Ok(remote.verify(tell)?),
            Self::Cold(cold) => {
                cold.open(Doing::Verifying)?.verify(tell);
                Ok(())
            }
        }
    }

    /// `written` are the platforms as they were written. Whether to go on is the answer of `tell`.
    pub(super) fn warm(
        &self,
        images: &[String],
        written: &[String],
        platforms: &Platforms,
        tell: &mut dyn FnMut(Event) -> bool,
    ) -> Result<(), CacheError> {
        match self {
            Self::Running(remote) => Ok(remote.warm(images, written, tell)?),
            Self::Cold(cold) => Ok(cold.open(Doing::Writing)?.warm(images, platforms, tell)?),
        }
    }
}
