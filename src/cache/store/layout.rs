//! Where everything is below the cache's directory, and that the directory has this layout.

use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use thiserror::Error;

use crate::cache::store::files;
use crate::cache::store::files::{entries, make_dir, read_small, remove};
use crate::config::private_folder;
use crate::config::private_folder::FolderError;
use crate::proto::{Algorithm, Digest};

/// The kind of content, which decides how it is kept: blobs go first when room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A layer or a configuration.
    Blob,
    /// A manifest or an index.
    Manifest,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 2] = [Self::Blob, Self::Manifest];

    /// Returns the name of its directory.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Blob => "blobs",
            Self::Manifest => "manifests",
        }
    }
}

/// The paths below the cache's directory.
pub(crate) struct Layout {
    root: PathBuf,
    access: Access,
    /// The user whose files are trusted; none where any may be read.
    user: Option<u32>,
    /// Locks a file, see [`files::lock`].
    lock: fn(&File) -> io::Result<bool>,
    /// The locked file that makes this process the directory's owner.
    owner: Mutex<Option<File>>,
}

/// A directory of content: one of 256 of an algorithm.
pub(crate) struct Shard {
    algorithm: &'static str,
    path: PathBuf,
}

/// A directory or a file that cannot be read.
#[derive(Debug, Error)]
#[error("{}: {error}", path.display())]
pub(crate) struct UnreadablePath {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) error: io::Error,
}

impl From<UnreadablePath> for io::Error {
    fn from(error: UnreadablePath) -> Self {
        Self::new(error.error.kind(), error)
    }
}

/// The rights below the directory. Everything that keeps files there asks this first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// The directory has been seen to have this layout.
    readable: Arc<AtomicBool>,
    /// Nothing is written, made or removed: the directory may be another user's.
    read_only: bool,
}

impl Access {
    /// Returns true if what is there may be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable.load(Ordering::Acquire)
    }

    /// Returns true if something may be changed there.
    pub(crate) fn is_writable(&self) -> bool {
        !self.read_only && self.is_readable()
    }

    /// Access to everything, for tests of what is below a directory.
    #[cfg(test)]
    pub(crate) fn full() -> Self {
        Self { readable: Arc::new(AtomicBool::new(true)), read_only: false }
    }
}

/// The reason why a directory cannot be used.
#[derive(Debug, Error)]
pub(crate) enum LayoutError {
    #[error("its layout has the version {0:?}, and this program knows {VERSION:?} alone")]
    Version(String),
    #[error("{} {error}", path.display())]
    NotPrivate { path: PathBuf, error: FolderError },
    #[error(
        "another process{} uses it; this one serves what is there, and stores nothing until that one ends",
        pid.map_or(String::new(), |pid| format!(" (PID {pid})"))
    )]
    Owned { pid: Option<u32> },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Layout {
    /// Returns the layout below `root`, which need not exist yet. `read_only`: nothing is ever changed there.
    pub(crate) fn new(root: PathBuf, read_only: bool) -> Self {
        let user = (!read_only).then(|| rustix::process::geteuid().as_raw());
        Self {
            root,
            access: Access { read_only, ..Access::default() },
            user,
            lock: files::lock,
            owner: Mutex::default(),
        }
    }

    /// Returns true if this process owns the directory: only the owner stores and evicts. Several processes that count alone would
    /// exceed the limit.
    pub(crate) fn is_owner(&self) -> bool {
        self.owner.lock().is_some()
    }

    /// Lets another process own the directory.
    pub(crate) fn disown(&self) {
        self.owner.lock().take();
    }

    /// Makes this process the owner, unless another is.
    fn own(&self) -> Result<(), LayoutError> {
        let mut owner = self.owner.lock();
        let path = self.root.join("owner");
        if owner.is_some() && files::exists(&path) {
            return Ok(());
        }
        drop(files::open_or_create(&path)?);
        // A file that is open for writing would keep the disk from being remounted read-only.
        let mut file = files::open(&path)?;
        let mut locked = (self.lock)(&file);
        if locked.as_ref().is_err_and(|error| Errno::from_io_error(error) == Some(Errno::BADF)) {
            // NFS locks only a file that is open for writing (flock(2)).
            file = files::open_writable(&path)?;
            locked = (self.lock)(&file);
        }
        if !locked? {
            let pid = read_small(&path).ok().and_then(|pid| String::from_utf8(pid).ok()?.trim().parse().ok());
            return Err(LayoutError::Owned { pid });
        }
        files::write_all(&files::create(&path)?, format!("{}\n", std::process::id()).as_bytes())?;
        *owner = Some(file);
        Ok(())
    }

    /// Returns the layout on a file system with these locks.
    #[cfg(test)]
    pub(crate) fn locking_by(self, lock: fn(&File) -> io::Result<bool>) -> Self {
        Self { lock, ..self }
    }

    /// Returns true if a file was put there by this user, and not by another who could write to the directory once.
    pub(crate) fn is_ours(&self, metadata: &fs::Metadata) -> bool {
        self.user.is_none_or(|user| metadata.uid() == user)
    }

    /// Returns what may be done there.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Returns the directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes what is missing, if anything may be made there. A directory of another version is left as it is.
    pub(crate) fn prepare(&self) -> Result<(), LayoutError> {
        let version = self.claim();
        self.access.readable.store(version.is_ok(), Ordering::Release);
        version?;
        if self.access.read_only {
            return Ok(());
        }
        make_dir(&self.partial_directory())?;
        for kind in Kind::ALL {
            make_dir(&self.root.join(kind.directory()))?;
        }
        self.own()
    }

    /// Returns true if what is there may be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.access.is_readable()
    }

    /// Returns where content is; none for an algorithm that is not checked here.
    pub(crate) fn content(&self, kind: Kind, digest: &Digest) -> Option<PathBuf> {
        let algorithm = algorithm(digest)?;
        let encoded = digest.encoded();
        let shard = encoded.get(..2)?;
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + encoded.len() + 32);
        path.push(&self.root);
        path.push(kind.directory());
        path.push(algorithm);
        path.push(shard);
        path.push(encoded);
        Some(path)
    }

    /// Renames `from` to where content belongs. Returns the directories that have to be synced for that to last.
    pub(crate) fn place(&self, from: &Path, to: &Path) -> io::Result<Vec<PathBuf>> {
        let shard = to.parent().unwrap_or(&self.root);
        match files::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(shard)?;
                files::rename(from, to)?;
                Ok(shard.ancestors().take_while(|dir| *dir != self.root).map(Path::to_owned).collect())
            }
            done => done.map(|()| vec![shard.to_owned()]),
        }
    }

    /// Returns where partial files are.
    pub(crate) fn partial_directory(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// Returns the path of the file of the partial called `name` that ends in `.suffix`; its bytes are in `part`.
    pub(crate) fn partial(&self, name: &str, suffix: &str) -> PathBuf {
        self.partial_directory().join(format!("{name}.{suffix}"))
    }

    /// Creates a new partial file, locked for the caller, and returns it with its name, which begins with `stem`.
    pub(crate) fn create_partial(&self, stem: &str) -> io::Result<(String, File)> {
        for _ in 0..CREATE_TRIES {
            let name = files::random_name(stem);
            let path = self.partial(&name, "part");
            let file = files::create_new(&path)?;
            match (self.lock)(&file) {
                Ok(true) => return Ok((name, file)),
                // A scan, here or in another process, locked the file first: it removes files without bytes.
                Ok(false) => {}
                Err(error) => {
                    // No other process can have locked it either.
                    remove(&path)?;
                    return Err(error);
                }
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Creates a file for `fill` to write and to rename, and returns its name, which begins with `stem`; removes it if that fails.
    pub(crate) fn create_partial_for(
        &self,
        stem: &str,
        fill: impl FnOnce(&File, &Path) -> io::Result<()>,
    ) -> io::Result<String> {
        let (name, file) = self.create_partial(stem)?;
        match fill(&file, &self.partial(&name, "part")) {
            Ok(()) => Ok(name),
            Err(error) => {
                self.remove_partial(&name)?;
                Err(error)
            }
        }
    }

    /// Opens a partial file, locked for the caller; none while another has the lock, or if it is gone. A link is removed: it
    /// was not made here.
    pub(crate) fn open_partial(&self, name: &str) -> io::Result<Option<File>> {
        let path = self.partial(name, "part");
        match files::open_writable(&path) {
            Ok(file) => Ok((self.lock)(&file)?.then_some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                remove(&path)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes all files of a partial, which the caller must have locked, or which has no bytes.
    pub(crate) fn remove_partial(&self, name: &str) -> io::Result<()> {
        // The bytes go last: as long as they are there, the lock on them protects the other files.
        remove(&self.partial(name, "head"))?;
        remove(&self.partial(name, "new"))?;
        if let Some((stem, _)) = name.rsplit_once('-') {
            let note = self.partial(stem, NOTE);
            if read_small(&note).is_ok_and(|noted| noted == name.as_bytes()) {
                remove(&note)?;
            }
        }
        remove(&self.partial(name, "part"))
    }

    /// Returns the names of all partials, each once.
    pub(crate) fn partial_names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in files::entries_there(&self.partial_directory())? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if let Some((stem, "part" | "head" | "new")) = name.rsplit_once('.') {
                names.push(stem.to_owned());
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Calls `found` with all content of a kind that is on disk, until that returns false. Leaves out what vanishes meanwhile,
    /// and what is not named like content. A directory that cannot be read is an error, after the others have been read.
    pub(crate) fn each(
        &self,
        kind: Kind,
        mut found: impl FnMut(Digest, &Path) -> bool,
    ) -> Result<(), UnreadablePath> {
        let mut unreadable = None;
        for shard in self.shards(kind)? {
            match self.each_in_shard(&shard, &mut found) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    unreadable.get_or_insert(UnreadablePath { path: shard.path, error });
                }
            }
        }
        unreadable.map_or(Ok(()), Err)
    }

    /// Returns the directories that have content of a kind.
    pub(crate) fn shards(&self, kind: Kind) -> Result<Vec<Shard>, UnreadablePath> {
        let mut shards = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let path = self.root.join(kind.directory()).join(algorithm);
            match entries(&path) {
                Ok(entries) => {
                    shards.extend(entries.iter().map(|entry| Shard { algorithm, path: entry.path() }))
                }
                Err(error) => return Err(UnreadablePath { path, error }),
            }
        }
        Ok(shards)
    }

    /// Calls `found` with the content of a directory, until that returns false. Returns false then.
    pub(crate) fn each_in_shard(
        &self,
        shard: &Shard,
        mut found: impl FnMut(Digest, &Path) -> bool,
    ) -> io::Result<bool> {
        for file in files::each_entry(&shard.path)? {
            let file = file?;
            let Some(digest) = digest_of(shard, &file) else { continue };
            if !found(digest, &file.path()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns where content is that cannot be read.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Makes sure that the directory has this version.
    fn claim(&self) -> Result<(), LayoutError> {
        if !self.access.read_only {
            make_dir(&self.root)?;
            private_folder::check(&self.root, self.user)
                .map_err(|error| LayoutError::NotPrivate { path: self.root.clone(), error })?;
        }
        let version = self.root.join("version");
        match read_small(&version) {
            Ok(text) if text.trim_ascii() == VERSION.as_bytes() => Ok(()),
            Ok(text) => {
                let text = String::from_utf8_lossy(text.trim_ascii()).chars().take(20).collect();
                Err(LayoutError::Version(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.access.read_only => {
                Ok(self.write_version(&version)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_version(&self, version: &Path) -> io::Result<()> {
        // With a random name: another process may be starting on the directory too.
        let new = self.root.join(files::random_name("version"));
        files::write_and_sync(&files::create(&new)?, format!("{VERSION}\n").as_bytes())?;
        files::rename(&new, version)
    }
}

fn algorithm(digest: &Digest) -> Option<&'static str> {
    match digest.algorithm() {
        Algorithm::Sha256 => Some("sha256"),
        Algorithm::Sha512 => Some("sha512"),
        Algorithm::Other => None,
    }
}

fn digest_of(shard: &Shard, file: &DirEntry) -> Option<Digest> {
    let name = file.file_name().into_string().ok()?;
    let in_place = name.get(..2)? == shard.path.file_name()?;
    let digest = Digest::parse(&format!("{}:{name}", shard.algorithm)).ok()?;
    in_place.then_some(digest)
}

/// The suffix of the file that names the partial which was left last.
pub(crate) const NOTE: &str = "left";

/// The layout's version: it counts up when a program that knows only the number before could do harm.
const VERSION: &str = "1";

/// Bounds the attempts to create a partial: a scan goes through the names once, and does not meet all of them.
const CREATE_TRIES: usize = 8;
