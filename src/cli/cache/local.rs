//! A cache's directory that no gateway is known to use.
//!
//! A gateway without an admin listener may use it all the same: no command here harms that gateway.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinError;

use crate::bucket::BucketStore;
use crate::cache::maintenance;
use crate::cache::maintenance::{Elsewhere, Event, Listing, Platforms, Removed, Selection, Stats, Verified};
use crate::cache::{Cache, RemoteStore, UpstreamCache};
use crate::config;
use crate::config::Config;
use crate::gateway::ImageResolver;
use crate::origin::attach;
use crate::upstream::{TlsSettingsError, Upstream};

/// A cache directory that has not been opened.
pub(super) struct LocalCache(Config);

/// An opened cache directory.
pub(super) struct Opened<'a> {
    config: &'a Config,
    cache: Arc<Cache>,
    caches: Vec<Arc<UpstreamCache>>,
    bucket: Option<Arc<BucketStore>>,
}

/// The use of a cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Looking, which touches nothing.
    Read,
    /// Hashing all again. What is wrong is taken away, where that is this user's.
    Verify,
    Remove,
    /// New files, which may be the first.
    Write,
}

/// The reason why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalCacheError {
    /// The directory is missing or not readable.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The directory belongs to another user, so the gateway could not read what this process writes there.
    #[error(
        "{} belongs to another user ({owner}), which runs the gateway: it could not read what this user ({user}) \
         writes there; run this as that user, for example with sudo -u '#{owner}'", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// Nothing can be kept there.
    #[error("{}: {why}", path.display())]
    Degraded {
        /// The directory.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// An upstream's TLS settings can't be used.
    #[error("upstream \"{name}\": {error}")]
    Upstream {
        /// The upstream's name.
        name: String,
        /// The defect.
        #[source]
        error: TlsSettingsError,
    },
    /// The object store's settings can't be used.
    #[error("cache.store: {0}")]
    Store(String),
    /// The machine gives no runtime.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// The work at the directory has panicked.
    #[error("it failed; this is a defect of dockgate: {0}")]
    Panicked(#[source] JoinError),
}

impl LocalCache {
    pub(super) fn new(config: Config) -> Self {
        Self(config)
    }

    /// Opens it, with the object store if `uses_store`, and waits until what is there has been counted.
    pub(super) fn open(&self, intent: Intent, uses_store: bool) -> Result<Opened<'_>, LocalCacheError> {
        let config = &self.0;
        let Some(settings) = &config.cache else {
            return Err(failed(Path::new(""))(io::ErrorKind::NotFound.into()));
        };
        let path = settings.path.as_path();
        let user = rustix::process::geteuid().as_raw();
        is_ours(path, intent, user)?;
        let store = config.store.as_ref().filter(|_| uses_store);
        let bucket = store.map(|store| BucketStore::new(store, 0)).transpose();
        let bucket = bucket.map_err(|error| LocalCacheError::Store(error.to_string()))?;
        let remote = bucket.clone().map(|bucket| bucket as Arc<dyn RemoteStore>);
        let cache = if intent == Intent::Read || !owns(path, user) && intent == Intent::Verify {
            Cache::open_read_only(settings, remote)
        } else {
            Cache::open(settings, None, remote)
        };
        cache.store().flush();
        match cache.store().degraded_reason() {
            Some(why) if intent == Intent::Write => {
                return Err(LocalCacheError::Degraded { path: path.to_owned(), why });
            }
            _ => {}
        }
        let caches = config.upstreams.iter().filter_map(|upstream| {
            upstream.cache.as_ref().map(|settings| UpstreamCache::new(cache.clone(), upstream, settings))
        });
        let caches = caches.collect();
        Ok(Opened { config, cache, caches, bucket })
    }
}

impl Opened<'_> {
    pub(super) fn stats(&self) -> Stats {
        maintenance::stats(&self.cache, &self.caches, false)
    }

    /// Lists what `selection` means, also what is in the object store.
    pub(super) fn list(
        &self,
        selection: &Selection,
        elsewhere: Elsewhere,
    ) -> Result<Listing, LocalCacheError> {
        let (caches, selection) = (self.caches.clone(), selection.clone());
        let listing = maintenance::list_everywhere(&self.cache, caches, selection, elsewhere);
        let mut listing = runtime()?.block_on(listing).map_err(LocalCacheError::Panicked)?;
        if elsewhere.fleet {
            listing.missing.push(UNTOLD.to_owned());
        }
        Ok(listing)
    }

    /// Removes what `selection` means, from the object store too.
    pub(super) fn remove(&self, selection: &Selection) -> Result<Removed, LocalCacheError> {
        let runtime = runtime()?;
        let (cache, caches) = (self.cache.clone(), self.caches.clone());
        let removal = maintenance::remove_everywhere(cache, caches, selection.clone());
        let mut removed = runtime.block_on(removal).map_err(LocalCacheError::Panicked)?;
        match &self.bucket {
            Some(bucket) => removed.left |= !runtime.block_on(bucket.finish(&self.cache.store)),
            None if self.config.peers.is_some() => removed.untold.push(UNTOLD.to_owned()),
            None => {}
        }
        Ok(removed)
    }

    /// Verifies what is here, and what is in the object store.
    pub(super) fn verify(
        &self,
        elsewhere: Elsewhere,
        tell: &mut dyn FnMut(Verified) -> bool,
    ) -> Result<(), LocalCacheError> {
        let runtime = runtime()?;
        let mut tell = |event| {
            if let Verified::Done { contents, wrong } = event
                && elsewhere.fleet
            {
                return tell(Verified::Unfinished { why: UNTOLD.to_owned() })
                    && tell(Verified::Done { contents, wrong: wrong + 1 });
            }
            tell(event)
        };
        runtime.block_on(maintenance::verify_everywhere(&self.cache, elsewhere, &mut tell));
        if let Some(bucket) = &self.bucket {
            runtime.block_on(bucket.finish(&self.cache.store));
        }
        Ok(())
    }

    pub(super) fn warm(
        &self,
        images: &[String],
        platforms: &Platforms,
        tell: &mut dyn FnMut(Event) -> bool,
    ) -> Result<(), LocalCacheError> {
        let runtime = runtime()?;
        let upstreams = self.upstreams()?;
        let caches = attach(self.caches.iter().cloned(), &upstreams);
        let resolver = ImageResolver::new(&upstreams, &caches);
        runtime.block_on(async {
            let (sender, mut events) = mpsc::unbounded_channel();
            let resolve = |image: &str| resolver.warm_target(image);
            let pass_on = |event| {
                // The receiver lives in this function, so sending cannot fail.
                let _ = sender.send(event);
            };
            let warming = maintenance::warm(images, platforms, &resolve, &pass_on);
            let mut warming = std::pin::pin!(warming);
            loop {
                let (event, last) = tokio::select! {
                    biased;
                    Some(event) = events.recv() => (event, false),
                    done = &mut warming => (done, true),
                };
                if last {
                    while let Ok(event) = events.try_recv() {
                        tell(event);
                    }
                }
                if !tell(event) || last {
                    return;
                }
            }
        });
        Ok(())
    }

    fn upstreams(&self) -> Result<Vec<Arc<Upstream>>, LocalCacheError> {
        let stall = self.config.server.stall_timeout;
        let make = |settings: &config::Upstream| {
            let failed = |error| LocalCacheError::Upstream { name: settings.name.clone(), error };
            Upstream::new(settings.clone(), stall, 1).map_err(failed)
        };
        self.config.upstreams.iter().map(make).collect()
    }
}

/// The other replicas, where only the gateway could ask them.
const UNTOLD: &str = "the other replicas: no gateway runs here that could ask them";

fn runtime() -> Result<Runtime, LocalCacheError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LocalCacheError::Start)
}

/// Returns true if `user` may do that there. A directory that is to be written to need not be there yet.
fn is_ours(path: &Path, intent: Intent, user: u32) -> Result<(), LocalCacheError> {
    match fs::metadata(path) {
        Ok(known) if known.uid() == user => Ok(()),
        // Reading changes nothing, so any user with the permission may.
        Ok(_) if matches!(intent, Intent::Read | Intent::Verify) => Ok(()),
        Ok(known) => Err(LocalCacheError::Foreign { path: path.to_owned(), owner: known.uid(), user }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && intent == Intent::Write => Ok(()),
        Err(error) => Err(failed(path)(error)),
    }
}

fn owns(path: &Path, user: u32) -> bool {
    fs::metadata(path).is_ok_and(|known| known.uid() == user) || !path.exists()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> LocalCacheError {
    let path = path.to_owned();
    |error| LocalCacheError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_writes_into_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let owner = fs::metadata(dir.path()).unwrap().uid();
        assert!(is_ours(dir.path(), Intent::Write, owner).is_ok());
        for intent in [Intent::Read, Intent::Verify] {
            assert!(is_ours(dir.path(), intent, owner + 1).is_ok());
        }
        assert!(is_ours(dir.path(), Intent::Remove, owner + 1).is_err());
        let error = is_ours(dir.path(), Intent::Write, owner + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("belongs to another user ({owner})")), "{error}");
        assert!(error.contains(&format!("sudo -u '#{owner}'")), "{error}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_only_to_be_filled() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("cache");
        assert!(is_ours(&missing, Intent::Write, 0).is_ok());
        for intent in [Intent::Read, Intent::Remove] {
            assert!(matches!(is_ours(&missing, intent, 0), Err(LocalCacheError::Io { .. })));
        }
    }
}
