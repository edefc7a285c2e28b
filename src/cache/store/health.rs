//! Whether the disk works.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// Why nothing can be kept now, if that is so.
#[derive(Default)]
pub(crate) struct Trouble {
    is: AtomicBool,
    text: Mutex<Option<String>>,
}

impl Trouble {
    /// Whether there is any.
    pub(crate) fn is(&self) -> bool {
        self.is.load(Ordering::Acquire)
    }

    /// Which.
    pub(crate) fn text(&self) -> Option<String> {
        self.lock().clone()
    }

    /// An error came up while something was to be kept. Not each means that the next will fail too.
    pub(crate) fn met(&self, error: &io::Error) {
        if let Some(what) = meaning(error) {
            self.enter(format!("{what}: {error}"));
        }
    }

    /// Nothing can be kept.
    pub(crate) fn enter(&self, text: String) {
        let mut current = self.lock();
        if current.is_none() {
            tracing::warn!(trouble = text, "nothing can be kept in the cache for now");
        }
        *current = Some(text);
        self.is.store(true, Ordering::Release);
    }

    /// Something could be kept again.
    pub(crate) fn end(&self) {
        if self.lock().take().is_some() {
            tracing::info!("the cache keeps again what passes");
        }
        self.is.store(false, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an error says about the disk; `None` if it says nothing.
fn meaning(error: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::NOSPC => "the cache's disk is full",
        Errno::DQUOT => "the cache's quota is used up",
        Errno::ROFS => "the cache's disk is read-only",
        Errno::IO => "the cache's disk fails",
        Errno::NOTDIR | Errno::LOOP => "something else is in the place of the cache's directory",
        Errno::STALE | Errno::NXIO => "the cache's disk is gone",
        Errno::ACCESS | Errno::PERM => "the cache's directory may not be written",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_s_errors_are_trouble_and_others_are_not() {
        let trouble = Trouble::default();
        for errno in [Errno::NOENT, Errno::MFILE, Errno::INTR] {
            trouble.met(&errno.into());
            assert!(!trouble.is(), "{errno}");
        }
        for errno in [Errno::NOTDIR, Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO, Errno::ACCESS] {
            trouble.met(&errno.into());
            assert!(trouble.is(), "{errno}");
            trouble.end();
        }
    }

    #[test]
    fn it_says_what_it_is_and_ends() {
        let trouble = Trouble::default();
        trouble.met(&Errno::NOSPC.into());
        assert!(trouble.text().unwrap().starts_with("the cache's disk is full: "));
        trouble.end();
        assert_eq!((trouble.text(), trouble.is()), (None, false));
    }
}
