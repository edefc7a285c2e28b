//! Content that cannot be read: it is moved aside, where its bad sectors are not used again and an operator can look at it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::cache::store::files;
use crate::cache::store::index::Amount;
use crate::cache::store::layout::Kind;
use crate::config::limits;
use crate::proto::Digest;

/// The directory of quarantined content, and the content that could not be moved there.
pub(crate) struct Quarantine {
    directory: PathBuf,
    most_bytes: u64,
    /// Content that counts as missing though it is in its place: it waits to be hashed again, or cannot be moved.
    refused: Mutex<HashSet<(Kind, Digest)>>,
    refuses_some: AtomicBool,
}

impl Quarantine {
    /// Returns the quarantine in `directory`, which is made when it is needed.
    pub(crate) fn new(directory: PathBuf, most_bytes: u64) -> Self {
        Self { directory, most_bytes, refused: Mutex::default(), refuses_some: AtomicBool::new(false) }
    }

    /// Moves the file `from` there. Returns where it is now. The oldest files go if there are too many.
    pub(crate) fn take(&self, kind: Kind, digest: &Digest, from: &Path) -> io::Result<PathBuf> {
        files::make_dir(&self.directory)?;
        let kind = kind.directory();
        let to = self.directory.join(format!("{kind}-{}", digest.as_str().replace(':', "-")));
        files::rename(from, &to)?;
        self.prune()?;
        Ok(to)
    }

    /// Lets content count as missing from now on, whatever is in its place. Returns false if that was so.
    pub(crate) fn refuse(&self, kind: Kind, digest: &Digest) -> bool {
        let new = self.refused.lock().insert((kind, digest.clone()));
        self.refuses_some.store(true, Ordering::Release);
        new
    }

    /// Returns true if content counts as missing.
    pub(crate) fn refuses(&self, kind: Kind, digest: &Digest) -> bool {
        self.refuses_some.load(Ordering::Acquire) && self.refused.lock().contains(&(kind, digest.clone()))
    }

    /// Ends that: what is in its place can be read, or is gone.
    pub(crate) fn admit(&self, kind: Kind, digest: &Digest) {
        if self.refuses_some.load(Ordering::Acquire) {
            self.refused.lock().remove(&(kind, digest.clone()));
        }
    }

    /// Returns the files there.
    pub(crate) fn amount(&self) -> Amount {
        let files = self.files().unwrap_or_default();
        Amount { count: files.len() as u64, bytes: files.iter().map(|(_, bytes, _)| bytes).sum() }
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = self.files()?;
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        let mut count = files.len();
        for (_, length, path) in files {
            if bytes <= self.most_bytes && count <= limits::QUARANTINED {
                break;
            }
            files::remove(&path)?;
            bytes -= length;
            count -= 1;
        }
        Ok(())
    }

    /// Returns when each file there was changed last, its bytes and its path.
    fn files(&self) -> io::Result<Vec<(u64, u64, PathBuf)>> {
        let file = |entry: fs::DirEntry| {
            let metadata = entry.metadata().ok()?;
            Some((files::seconds(metadata.modified().ok()?), metadata.len(), entry.path()))
        };
        Ok(files::entries(&self.directory)?.into_iter().filter_map(file).collect())
    }
}
