//! An htpasswd file that is watched: read again when it changes, the old table kept when the new is broken.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use crate::authn::htpasswd::table::{Htpasswd, LoadError};
use crate::file_stamp::Stamp;

/// A path and what was last read from it.
pub struct HtpasswdFile {
    path: PathBuf,
    table: ArcSwap<Htpasswd>,
    seen: Mutex<Stamp>,
}

impl HtpasswdFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// [`LoadError`]: a gateway must not start with a file without users.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let path = path.into();
        let (table, stamp) = Htpasswd::read_with_stamp(&path)?;
        Ok(Self { path, table: ArcSwap::from_pointee(table), seen: Mutex::new(stamp) })
    }

    /// Returns where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the table in force.
    pub fn table(&self) -> Guard<Arc<Htpasswd>> {
        self.table.load()
    }

    /// Reads the file again if its inode, modification time or size changed since it was last looked at. Reads
    /// from disk, up to 16 MiB: call it where that may block.
    pub fn reload_if_changed(&self) -> Reload {
        let now = Stamp::of(&self.path);
        if now == *self.seen() { Reload::Unchanged } else { self.reload() }
    }

    /// Reads the file again, whether or not it looks changed.
    pub fn reload(&self) -> Reload {
        match Htpasswd::read_with_stamp(&self.path) {
            Ok((table, stamp)) => self.swap(table, stamp),
            Err(error) => self.keep(error),
        }
    }

    fn swap(&self, table: Htpasswd, stamp: Stamp) -> Reload {
        *self.seen() = stamp;
        let table = Arc::new(table);
        self.table.store(Arc::clone(&table));
        Reload::Swapped(table)
    }

    /// Keeps the old table, and remembers the broken file by its stamp, so that it is reported once and not every two
    /// seconds.
    fn keep(&self, error: LoadError) -> Reload {
        *self.seen() = Stamp::of(&self.path);
        Reload::Kept(error)
    }

    fn seen(&self) -> parking_lot::MutexGuard<'_, Stamp> {
        self.seen.lock()
    }
}

/// The result of looking at the file.
#[derive(Debug)]
pub enum Reload {
    /// The file is the one last looked at.
    Unchanged,
    /// The new table is in force; its warnings want to be logged.
    Swapped(Arc<Htpasswd>),
    /// The new file is broken or gone; the old table stays in force.
    Kept(LoadError),
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::authn::htpasswd::table::LARGEST_FILE;

    const ALICE: &str = "alice:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n";

    fn written(content: &str) -> (tempfile::TempDir, HtpasswdFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, content).unwrap();
        let file = HtpasswdFile::open(path).unwrap();
        (dir, file)
    }

    #[test]
    fn a_changed_file_is_swapped_in() {
        let (_dir, file) = written(ALICE);
        assert!(matches!(file.reload_if_changed(), Reload::Unchanged));
        std::fs::write(file.path(), ALICE.replace("alice", "robert")).unwrap();
        assert!(matches!(file.reload_if_changed(), Reload::Swapped(_)));
        assert!(file.table().line("robert").is_some() && file.table().line("alice").is_none());
    }

    #[test]
    fn a_file_replaced_by_one_of_the_same_size_is_seen() {
        let (dir, file) = written(ALICE);
        let other = dir.path().join("new");
        std::fs::write(&other, ALICE.replace("alice", "clara")).unwrap();
        std::fs::rename(&other, file.path()).unwrap();
        assert!(matches!(file.reload_if_changed(), Reload::Swapped(_)));
    }

    #[test]
    fn a_broken_file_leaves_the_old_in_force_and_is_named_once() {
        let (_dir, file) = written(ALICE);
        std::fs::write(file.path(), "nonsense\n").unwrap();
        assert!(matches!(file.reload_if_changed(), Reload::Kept(LoadError::Empty(1))));
        assert!(matches!(file.reload_if_changed(), Reload::Unchanged));
        assert!(file.table().line("alice").is_some());
    }

    #[test]
    fn a_file_that_is_gone_leaves_the_old_in_force_until_it_is_back() {
        let (_dir, file) = written(ALICE);
        std::fs::remove_file(file.path()).unwrap();
        assert!(matches!(file.reload_if_changed(), Reload::Kept(LoadError::Read(_))));
        assert!(matches!(file.reload_if_changed(), Reload::Unchanged));
        assert!(file.table().line("alice").is_some());
        std::fs::write(file.path(), ALICE).unwrap();
        assert!(matches!(file.reload_if_changed(), Reload::Swapped(_)));
    }

    #[test]
    fn a_file_of_more_than_16_mib_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        File::create(&path).unwrap().set_len(LARGEST_FILE + 1).unwrap();
        assert!(matches!(HtpasswdFile::open(path), Err(LoadError::TooLarge)));
    }

    #[test]
    fn a_missing_file_is_an_error_at_start() {
        assert!(matches!(HtpasswdFile::open("/nonexistent/htpasswd"), Err(LoadError::Read(_))));
    }
}
