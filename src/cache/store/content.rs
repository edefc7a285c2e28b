//! Content that is being read.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use crate::cache::manifests::memory::is_of;
use crate::cache::store::index::Index;
use crate::cache::store::layout::create_new_for;
use crate::cache::store::sync::Job;
use crate::cache::store::{Inner, Kind, integrity};
use crate::proto::Digest;

/// Content that is being read. It is not evicted as long as this lives.
pub(crate) struct Content {
    /// Open for reading.
    pub(crate) file: Arc<File>,
    /// Bytes.
    pub(crate) length: u64,
    pin: Pin,
}

impl Content {
    /// All of it, where it is small: it stays in memory for long, so it is hashed first. `None` where it can't be read, or is
    /// not what its name says: then it is removed.
    pub(crate) fn bytes(&self) -> Option<bytes::Bytes> {
        let mut bytes = vec![0; usize::try_from(self.length).ok()?];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        if !is_of(&self.pin.digest, &bytes) {
            self.pin.store.discard(self.pin.kind, &self.pin.digest, &self.file);
            return None;
        }
        Some(bytes.into())
    }

    /// Content that is in its place, open as `file`, and has been pinned in the index, which called that pin `number`.
    pub(crate) fn pinned(
        store: &Arc<Inner>,
        kind: Kind,
        digest: &Digest,
        number: u64,
        file: Arc<File>,
        length: u64,
    ) -> Self {
        Self { file, length, pin: Pin { store: store.clone(), kind, digest: digest.clone(), number } }
    }
}

struct Pin {
    store: Arc<Inner>,
    kind: Kind,
    digest: Digest,
    number: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.index().unpin(self.kind, &self.digest, self.number);
    }
}

impl Inner {
    /// Opens content, if it is there and can be trusted.
    pub(crate) fn content(self: &Arc<Self>, kind: Kind, digest: &Digest) -> Option<Content> {
        if !self.layout.is_readable() {
            return None;
        }
        let path = self.layout.content(kind, digest)?;
        let file = match crate::cache::store::layout::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.index().gone(kind, digest);
                }
                return None;
            }
        };
        let known = file.metadata().ok()?;
        if !known.is_file() || !self.trusts(kind, digest, &file, &known) {
            return None;
        }
        let file = Arc::new(file);
        let noted = u64::try_from(known.atime()).unwrap_or_default();
        let (pin, due) = self.index().pin(kind, digest, known.len(), crate::cache::store::now(), noted);
        if due && self.layout.access().is_writable() {
            self.sync.push(Job::Used { kind, digest: digest.clone() });
        }
        Some(Content::pinned(self, kind, digest, pin, file, known.len()))
    }

    /// Whether content is there and can be trusted.
    pub(crate) fn has(&self, kind: Kind, digest: &Digest) -> bool {
        let Some(path) = self.layout.content(kind, digest).filter(|_| self.layout.is_readable()) else {
            return false;
        };
        let trusted = |known: &std::fs::Metadata| {
            known.is_file() && (!integrity::is_doubtful(known) || self.index().is_pending(kind, digest))
        };
        let look = || std::fs::symlink_metadata(&path).is_ok_and(|known| trusted(&known));
        // It may have been synced between the two looks of the first.
        look() || look()
    }

    /// Keeps a manifest; see [`Store::keep_manifest`](crate::cache::store::Store::keep_manifest).
    pub(crate) fn keep_manifest(&self, digest: &Digest, bytes: &[u8]) {
        let Some(path) = self.layout.content(Kind::Manifest, digest) else { return };
        let length = bytes.len() as u64;
        if !self.keeps() || length > self.space.manifests() || self.has(Kind::Manifest, digest) {
            return;
        }
        let written =
            create_new_for(&self.layout, &crate::cache::store::random_name("manifest"), |file, part| {
                io::Write::write_all(&mut &*file, bytes)?;
                integrity::mark(file)?;
                self.place(Kind::Manifest, digest, part, &path, |index| {
                    index.found(Kind::Manifest, digest, length, crate::cache::store::now());
                })
            });
        if let Err(error) = written {
            self.trouble.met(&error);
        }
    }

    /// Whether anything new is kept now.
    pub(crate) fn keeps(&self) -> bool {
        !self.trouble.is() && self.layout.access().is_writable()
    }

    /// Removes content that is not what its name says, unless another file is in its place by now.
    fn discard(&self, kind: Kind, digest: &Digest, file: &File) {
        let Some(path) = self.layout.content(kind, digest).filter(|_| self.layout.access().is_writable())
        else {
            return;
        };
        match integrity::remove_same(&path, file) {
            Ok(true) => {
                self.index().gone(kind, digest);
                tracing::warn!(%digest, "content that was spoilt on the disk was removed from the cache");
            }
            Ok(false) => {}
            Err(error) => self.trouble.met(&error),
        }
    }

    /// Puts a file that has been marked into its place, where `count` counts it, and has it synced.
    pub(crate) fn place(
        &self,
        kind: Kind,
        digest: &Digest,
        from: &std::path::Path,
        to: &std::path::Path,
        count: impl FnOnce(&mut Index),
    ) -> io::Result<()> {
        self.index().expect_sync(kind, digest);
        match self.layout.place(from, to) {
            Ok(directories) => {
                count(&mut self.index());
                self.sync.push(Job::Placed { kind, digest: digest.clone(), directories });
                self.keeper.ring();
                Ok(())
            }
            Err(error) => {
                self.index().synced(kind, digest);
                Err(error)
            }
        }
    }

    /// A marked file may not be on the disk. This process knows of those it put there itself.
    fn trusts(&self, kind: Kind, digest: &Digest, file: &File, known: &std::fs::Metadata) -> bool {
        // It may have been synced since it was looked at: then it is not pending, and not marked either.
        !integrity::is_doubtful(known)
            || self.index().is_pending(kind, digest)
            || file.metadata().is_ok_and(|known| !integrity::is_doubtful(&known))
    }
}
