//! Access to the cache: through a running gateway, or in a directory that no gateway uses.

use crate::cache::maintenance::{Elsewhere, Event, Listing, Platforms, Removed, Selection, Stats, Verified};
use crate::cli::cache::error::CacheError;
use crate::cli::cache::local::{Intent, LocalCache};
use crate::cli::cache::remote::Remote;
use crate::config::{Config, Login};

/// The place of the cache.
pub(super) enum CacheAccess {
    Gateway(Box<Remote>),
    Local(Box<LocalCache>),
}

impl CacheAccess {
    /// Returns a gateway that answers at the configured address and has this directory; else the directory.
    pub(super) fn find(config: Config, login: Option<&Login>) -> Result<Self, CacheError> {
        let Some(cache) = &config.cache else { return Err(CacheError::None) };
        if let Some(admin) = &config.admin
            && let Some(remote) = Remote::with(admin.local_address(), &cache.path, login)?
        {
            return Ok(Self::Gateway(Box::new(remote)));
        }
        Ok(Self::Local(Box::new(LocalCache::new(config))))
    }

    pub(super) fn stats(&self) -> Result<Stats, CacheError> {
        match self {
            Self::Gateway(remote) => Ok(remote.stats()?),
            Self::Local(local) => Ok(local.open(Intent::Read, false)?.stats()),
        }
    }

    pub(super) fn list(&self, selection: &Selection, elsewhere: Elsewhere) -> Result<Listing, CacheError> {
        match self {
            Self::Gateway(remote) => Ok(remote.list(selection, elsewhere)?),
            Self::Local(local) => {
                Ok(local.open(Intent::Read, elsewhere.store)?.list(selection, elsewhere)?)
            }
        }
    }

    pub(super) fn remove(&self, selection: &Selection) -> Result<Removed, CacheError> {
        match self {
            Self::Gateway(remote) => Ok(remote.remove(selection)?),
            Self::Local(local) => Ok(local.open(Intent::Remove, true)?.remove(selection)?),
        }
    }

    /// Verifies the cache. `tell` returns false to stop.
    pub(super) fn verify(
        &self,
        elsewhere: Elsewhere,
        tell: &mut dyn FnMut(Verified) -> bool,
    ) -> Result<(), CacheError> {
        match self {
            Self::Gateway(remote) => Ok(remote.verify(elsewhere, tell)?),
            Self::Local(local) => Ok(local.open(Intent::Verify, elsewhere.store)?.verify(elsewhere, tell)?),
        }
    }

    /// Pulls images. `written` are the platforms as they were written. `tell` returns false to stop.
    pub(super) fn warm(
        &self,
        images: &[String],
        written: &[String],
        platforms: &Platforms,
        tell: &mut dyn FnMut(Event) -> bool,
    ) -> Result<(), CacheError> {
        match self {
            Self::Gateway(remote) => Ok(remote.warm(images, written, tell)?),
            // Images that are fetched ahead are stored by the gateway, once it serves them.
            Self::Local(local) => Ok(local.open(Intent::Write, false)?.warm(images, platforms, tell)?),
        }
    }
}
