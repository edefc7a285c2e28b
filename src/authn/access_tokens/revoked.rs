//! The tokens that the operator has revoked.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::config::limits::REVOKED_BYTES;
use crate::file_stamp::Stamp;

/// A file of token ids, one a line, read again when it changes.
pub(super) struct RevokedFile {
    path: PathBuf,
    ids: ArcSwap<HashSet<Box<str>>>,
    seen: Mutex<Stamp>,
}

impl RevokedFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (ids, stamp) = read(path)?;
        Ok(Self { path: path.to_owned(), ids: ArcSwap::from_pointee(ids), seen: Mutex::new(stamp) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.load().contains(id)
    }

    /// Reads the file again, if it has changed or in any case. Returns how many ids it has, if it was read; revoked ids
    /// stay revoked if it can't be.
    pub(super) fn reload(&self, in_any_case: bool) -> Option<Result<usize, io::Error>> {
        let now = Stamp::of(&self.path);
        let mut seen = self.seen.lock();
        if !in_any_case && *seen == now {
            return None;
        }
        *seen = now;
        Some(read(&self.path).map(|(ids, stamp)| {
            *seen = stamp;
            let count = ids.len();
            self.ids.store(ids.into());
            count
        }))
    }
}

fn read(path: &Path) -> io::Result<(HashSet<Box<str>>, Stamp)> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let file = File::open(path)?;
    let stamp = Stamp::of_open(&file)?;
    let mut text = String::new();
    if file.take(REVOKED_BYTES + 1).read_to_string(&mut text)? as u64 > REVOKED_BYTES {
        return Err(io::Error::other(format!("it is longer than {REVOKED_BYTES} bytes")));
    }
    Ok((ids(&text), stamp))
}

/// Returns the ids of a file. Blank lines and what follows a `#` are skipped.
fn ids(text: &str) -> HashSet<Box<str>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_and_a_broken_one_revokes_what_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked");
        std::fs::write(&path, "# lost laptop\n  one \n\ntwo # of bob\n").unwrap();
        let file = RevokedFile::open(&path).unwrap();
        assert!(file.contains("one") && file.contains("two") && !file.contains("") && !file.contains("of"));
        assert!(file.reload(false).is_none());
        std::fs::write(&path, "three\n").unwrap();
        assert_eq!(file.reload(false).unwrap().unwrap(), 1);
        assert!(file.contains("three") && !file.contains("one"));
        std::fs::remove_file(&path).unwrap();
        assert!(file.reload(false).unwrap().is_err() && file.contains("three"));
        assert!(file.reload(false).is_none(), "reported once");
        assert!(file.reload(true).unwrap().is_err());
    }
}
