//! The state of the disk: whether anything can be kept on it now.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

/// The state of storage, with the reason if it does not work.
#[derive(Default)]
pub(crate) struct Health {
    degraded: AtomicBool,
    hung: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Health {
    /// Returns true if nothing can be kept now.
    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Acquire)
    }

    /// Returns true if not even what is kept can be read now: requests pass it by.
    pub(crate) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Acquire)
    }

    /// Stops all keeping and reading until [`recover`](Self::recover).
    pub(crate) fn hang(&self, reason: String) {
        self.hung.store(true, Ordering::Release);
        self.degrade(reason);
    }

    /// Returns the reason why nothing can be kept now, if that is so.
    pub(crate) fn reason(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Takes note of an error that came up while something was to be kept. Not every error means that the next attempt will
    /// fail too.
    pub(crate) fn report(&self, error: &io::Error) {
        if let Some(what) = meaning(error) {
            self.degrade(format!("{what}: {error}"));
        }
    }

    /// Takes note likewise of an error at `path`.
    pub(crate) fn report_at(&self, path: &Path, error: &io::Error) {
        if let Some(what) = meaning(error) {
            self.degrade(format!("{what}: {}: {error}", path.display()));
        }
    }

    /// Stops all keeping until [`recover`](Self::recover).
    pub(crate) fn degrade(&self, reason: String) {
        let mut current = self.lock();
        if current.is_none() {
            tracing::warn!(reason, "cache storage degraded; nothing is cached until it recovers");
        }
        *current = Some(reason);
        self.degraded.store(true, Ordering::Release);
    }

    /// Ends that: something could be kept again.
    pub(crate) fn recover(&self) {
        if self.lock().take().is_some() {
            tracing::info!("cache storage recovered; caching resumed");
        }
        self.degraded.store(false, Ordering::Release);
        self.hung.store(false, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.reason.lock()
    }
}

/// Returns true if an error may be of one directory alone, so that the disk has to be probed to know more.
pub(crate) fn is_of_a_place(error: &io::Error) -> bool {
    let of_a_place = [Errno::ACCESS, Errno::PERM, Errno::NOTDIR, Errno::LOOP, Errno::IO];
    Errno::from_io_error(error).is_some_and(|errno| of_a_place.contains(&errno))
}

/// Returns what an error says about the disk; none if it says nothing.
fn meaning(error: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::NOSPC => "the cache's disk is full",
        Errno::DQUOT => "the cache's quota is used up",
        Errno::ROFS => "the cache's disk is read-only",
        Errno::IO => "the cache's disk fails",
        Errno::NOTDIR | Errno::LOOP => "something else is in the place of the cache's directory",
        Errno::STALE | Errno::NXIO => "the cache's disk is gone",
        Errno::NOLCK => "the cache's file system has no file locks (flock), as on NFS without lockd",
        Errno::ACCESS | Errno::PERM => "the cache's directory may not be written",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_disk_degrade_it() {
        let health = Health::default();
        for errno in [Errno::NOENT, Errno::MFILE, Errno::INTR] {
            health.report(&errno.into());
            assert!(!health.is_degraded(), "{errno}");
        }
        for errno in
            [Errno::NOTDIR, Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO, Errno::ACCESS, Errno::NOLCK]
        {
            health.report(&errno.into());
            assert!(health.is_degraded(), "{errno}");
            health.recover();
        }
    }

    #[test]
    fn the_reason_is_kept_until_it_recovers() {
        let health = Health::default();
        health.report(&Errno::NOSPC.into());
        assert!(health.reason().unwrap().starts_with("the cache's disk is full: "));
        health.recover();
        assert_eq!((health.reason(), health.is_degraded()), (None, false));
    }
}
