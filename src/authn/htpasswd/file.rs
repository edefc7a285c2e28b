//! An htpasswd file that is watched: read again when it changes, the old table kept when the new is broken.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use crate::config::limits::HTPASSWD_BYTES;
use crate::file_stamp::Stamp;
use crate::proto::Htpasswd;
use crate::proto::htpasswd::Warning;

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
        let (table, stamp) = read_with_stamp(&path)?;
        if table.users() == 0 {
            return Err(LoadError::Empty(table.warnings().first().cloned()));
        }
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

    /// Reads the file again, whether or not it looks changed. A file without users is an empty table: the last user was
    /// removed, and must be out at once.
    pub fn reload(&self) -> Reload {
        match read_with_stamp(&self.path) {
            Ok((table, _)) if table.is_another_file() => {
                self.keep(LoadError::Empty(table.warnings().first().cloned()))
            }
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

/// The reason why a file gives no table.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The file is longer than an htpasswd file can be.
    #[error("is larger than {} MiB", HTPASSWD_BYTES >> 20)]
    TooLarge,
    /// No user could log in. Holds the defect of the first line that cannot be used.
    #[error("has no usable line{}: add a user with `dockgate user add FILE NAME`", because(.0.as_ref()))]
    Empty(Option<Warning>),
}

fn because(warning: Option<&Warning>) -> String {
    warning.map_or_else(String::new, |warning| format!(" ({warning})"))
}

/// Reads and parses a file.
///
/// # Errors
/// [`LoadError`] when it cannot be read, or is larger than 16 MiB.
pub(crate) fn read(path: &Path) -> Result<Htpasswd, LoadError> {
    read_with_stamp(path).map(|(table, _)| table)
}

/// Reads and parses a file, and returns the stamp it had before the first byte was read: a change during reading is then
/// seen at the next look.
fn read_with_stamp(path: &Path) -> Result<(Htpasswd, Stamp), LoadError> {
    let file = File::open(path)?;
    let stamp = Stamp::of_open(&file)?;
    let mut bytes = Vec::new();
    file.take(HTPASSWD_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > HTPASSWD_BYTES {
        return Err(LoadError::TooLarge);
    }
    Ok((Htpasswd::parse(&bytes), stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(matches!(file.reload_if_changed(), Reload::Kept(LoadError::Empty(Some(_)))));
        assert!(matches!(file.reload_if_changed(), Reload::Unchanged));
        assert!(file.table().line("alice").is_some());
    }

    #[test]
    fn a_user_is_out_when_no_usable_line_is_left() {
        let unusable = ALICE.replace("$2y$", "$apr1$");
        for left in ["", "# people\n", unusable.as_str(), &format!("{ALICE}{unusable}"), "bob:plain\n"] {
            let (_dir, file) = written(ALICE);
            std::fs::write(file.path(), left).unwrap();
            assert!(matches!(file.reload(), Reload::Swapped(_)), "{left}");
            assert_eq!(file.table().users(), 0, "{left}");
        }
    }

    #[test]
    fn a_file_without_users_is_an_error_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        for (content, text) in
            [("", "has no usable line:"), ("# none\nbob:x\n", "(line 2: not a bcrypt hash")]
        {
            std::fs::write(&path, content).unwrap();
            let error = HtpasswdFile::open(&path).map(drop).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
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
        File::create(&path).unwrap().set_len(HTPASSWD_BYTES + 1).unwrap();
        assert!(matches!(HtpasswdFile::open(path), Err(LoadError::TooLarge)));
    }

    #[test]
    fn a_missing_file_is_an_error_at_start() {
        assert!(matches!(HtpasswdFile::open("/nonexistent/htpasswd"), Err(LoadError::Read(_))));
    }
}
