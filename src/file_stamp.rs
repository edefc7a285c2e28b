//! Seeing that a file has changed.
//!
//! By looking at it, every two seconds: file-change events miss network and bind mounts.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A fingerprint of a file's state: device, inode, modification time and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Option<(u64, u64, i64, i64, u64)>);

impl Stamp {
    /// Returns the state of the file at `path` now; a file that can't be looked at has a state of its own.
    pub(crate) fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().as_ref().map(look))
    }

    /// Returns the state of a file that is open. Taken before it is read, it shows a change during the reading.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn of_open(file: &fs::File) -> io::Result<Self> {
        Ok(Self(Some(look(&file.metadata()?))))
    }
}

fn look(file: &fs::Metadata) -> (u64, u64, i64, i64, u64) {
    (file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewritten_a_replaced_and_a_removed_file_have_all_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let first = Stamp::of(&path);
        assert_eq!(first, Stamp::of(&path));
        fs::write(&path, "longer").unwrap();
        let second = Stamp::of(&path);
        assert_ne!(first, second);
        fs::write(dir.path().join("new"), "longer").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_ne!(second, Stamp::of(&path));
        fs::remove_file(&path).unwrap();
        assert_ne!(second, Stamp::of(&path));
    }
}
