//! Where everything is below the cache's directory, and that the directory is of this layout.

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use crate::cache::store::Kind;
use crate::proto::{Algorithm, Digest};

/// The names below one directory.
pub(crate) struct Layout {
    root: PathBuf,
    access: Access,
}

/// What may be done below the directory. Whoever keeps something else there asks this first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// The directory has been seen to be of this layout.
    readable: Arc<AtomicBool>,
    /// Nothing is written, made or removed, be it that it is another user's.
    only_looks: bool,
}

impl Access {
    /// Whether what is there may be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable.load(Ordering::Acquire)
    }

    /// Whether something may be changed there.
    pub(crate) fn is_writable(&self) -> bool {
        !self.only_looks && self.is_readable()
    }

    /// To all, for tests of what is below a directory.
    #[cfg(test)]
    pub(crate) fn full() -> Self {
        Self { readable: Arc::new(AtomicBool::new(true)), only_looks: false }
    }
}

/// Why a directory can't be used.
#[derive(Debug, Error)]
pub(crate) enum LayoutError {
    #[error("its layout has the version {0:?}, and this program knows {VERSION:?} alone")]
    Version(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Layout {
    /// That below `root`, which need not exist yet. `only_looks`: nothing is ever changed there.
    pub(crate) fn new(root: PathBuf, only_looks: bool) -> Self {
        Self { root, access: Access { only_looks, ..Access::default() } }
    }

    /// What may be done there.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes what is missing, if anything may be made there. A directory of another version is left as it is.
    pub(crate) fn prepare(&self) -> Result<(), LayoutError> {
        let version = self.claim();
        self.access.readable.store(version.is_ok(), Ordering::Release);
        version?;
        if self.access.only_looks {
            return Ok(());
        }
        make_dir(&self.partials())?;
        for kind in Kind::ALL {
            make_dir(&self.root.join(directory(kind)))?;
        }
        Ok(())
    }

    /// Whether what is there may be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.access.is_readable()
    }

    /// Where content is, if it is of an algorithm that can be checked here.
    pub(crate) fn content(&self, kind: Kind, digest: &Digest) -> Option<PathBuf> {
        let algorithm = algorithm(digest)?;
        let encoded = digest.encoded();
        let shard = encoded.get(..2)?;
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + encoded.len() + 32);
        path.push(&self.root);
        path.push(directory(kind));
        path.push(algorithm);
        path.push(shard);
        path.push(encoded);
        Some(path)
    }

    /// Renames `from` to where content belongs. Gives the directories that have to be synced for that to last.
    pub(crate) fn place(&self, from: &Path, to: &Path) -> io::Result<Vec<PathBuf>> {
        let shard = to.parent().unwrap_or(&self.root);
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(shard)?;
                fs::rename(from, to)?;
                Ok(shard.ancestors().take_while(|dir| *dir != self.root).map(Path::to_owned).collect())
            }
            done => done.map(|()| vec![shard.to_owned()]),
        }
    }

    /// Where prefixes are.
    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// The file beside the prefix called `name` that ends in `.suffix`; its bytes are in `part`.
    pub(crate) fn partial(&self, name: &str, suffix: &str) -> PathBuf {
        self.partials().join(format!("{name}.{suffix}"))
    }

    /// A new file for a prefix, locked for the caller.
    pub(crate) fn create_partial(&self, name: &str) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(NO_LINK)
            .open(self.partial(name, "part"))?;
        // Whoever cleans up may have been quicker: it was not locked for a moment.
        if lock(&file)? { Ok(file) } else { Err(io::ErrorKind::ResourceBusy.into()) }
    }

    /// The file of a prefix, locked for the caller; `None` while another has it, or if it is gone. A link is nobody's
    /// prefix, and goes.
    pub(crate) fn open_partial(&self, name: &str) -> io::Result<Option<File>> {
        let path = self.partial(name, "part");
        match OpenOptions::new().read(true).write(true).custom_flags(NO_LINK).open(&path) {
            Ok(file) => Ok(lock(&file)?.then_some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                remove(&path)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes all files of a prefix, which must be locked by the caller or belong to nobody.
    pub(crate) fn remove_partial(&self, name: &str) -> io::Result<()> {
        // The bytes go last: as long as they are there they show that the others belong to somebody.
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

    /// The names of all files of prefixes, without their suffixes; some come more than once.
    pub(crate) fn partial_names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.partials())? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if let Some((stem, "part" | "head" | "new")) = name.rsplit_once('.') {
                names.push(stem.to_owned());
            }
        }
        Ok(names)
    }

    /// Goes through all content of a kind as it is on disk. What vanishes meanwhile is left out; so is what is not named
    /// like content.
    pub(crate) fn each(&self, kind: Kind, mut found: impl FnMut(Digest, &Path) -> bool) -> io::Result<()> {
        for algorithm in ["sha256", "sha512"] {
            for shard in entries(&self.root.join(directory(kind)).join(algorithm))? {
                for file in entries(&shard.path())? {
                    let Some(digest) = named(algorithm, &shard, &file) else { continue };
                    if !found(digest, &file.path()) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes sure that the directory is of this version.
    fn claim(&self) -> Result<(), LayoutError> {
        if !self.access.only_looks {
            make_dir(&self.root)?;
        }
        let version = self.root.join("version");
        match read_small(&version) {
            Ok(text) if text.trim_ascii() == VERSION.as_bytes() => Ok(()),
            Ok(text) => {
                let text = String::from_utf8_lossy(text.trim_ascii()).chars().take(20).collect();
                Err(LayoutError::Version(text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.access.only_looks => {
                Ok(self.write_version(&version)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_version(&self, version: &Path) -> io::Result<()> {
        // Of its own name: another process may be starting on the directory too.
        let new = self.root.join(crate::cache::store::random_name("version"));
        create(&new)?.write_all_and_sync(format!("{VERSION}\n").as_bytes())?;
        fs::rename(new, version)
    }
}

/// Makes a file of its own for `fill` to write and to rename; it is removed if that fails.
pub(crate) fn create_new_for(
    layout: &Layout,
    name: &str,
    fill: impl FnOnce(&File, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let file = layout.create_partial(name)?;
    let done = fill(&file, &layout.partial(name, "part"));
    if done.is_err() {
        layout.remove_partial(name)?;
    }
    done
}

/// A file, new or emptied, that others can't read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(NO_LINK).open(path)
}

/// A file, for reading. A link is none: all that is kept is files.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(NO_LINK).open(path)
}

/// The bytes of a small file; of a larger one those that it begins with.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(open(path)?, SMALL), &mut bytes)?;
    Ok(bytes)
}

/// Removes a file; one that is gone already is as good.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Writing a small file whole.
pub(crate) trait WriteSmall {
    /// Writes all, and waits until it is on the disk.
    fn write_all_and_sync(&self, bytes: &[u8]) -> io::Result<()>;
}

impl WriteSmall for File {
    fn write_all_and_sync(&self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut &*self, bytes)?;
        self.sync_data()
    }
}

/// Locks a file that is still there.
fn lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        // One that was removed while it was being opened is nobody's prefix any more.
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn directory(kind: Kind) -> &'static str {
    match kind {
        Kind::Blob => "blobs",
        Kind::Manifest => "manifests",
    }
}

fn algorithm(digest: &Digest) -> Option<&'static str> {
    match digest.algorithm() {
        Algorithm::Sha256 => Some("sha256"),
        Algorithm::Sha512 => Some("sha512"),
        Algorithm::Other => None,
    }
}

/// What is in a directory, or nothing where there is none.
fn entries(path: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(path) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn named(algorithm: &str, shard: &DirEntry, file: &DirEntry) -> Option<Digest> {
    let name = file.file_name().into_string().ok()?;
    let in_place = name.get(..2)? == shard.file_name();
    let digest = Digest::parse(&format!("{algorithm}:{name}")).ok()?;
    in_place.then_some(digest)
}

/// Whoever owns the directory must not be able to have another file written, be it by root: no link is followed in the last
/// place of a path. That no program that is started gets the file is what the standard library sees to.
const NO_LINK: i32 = OFlags::NOFOLLOW.bits() as i32;

/// What the note of a prefix that was left ends in.
pub(crate) const NOTE: &str = "left";

/// More than any small file that is written here.
const SMALL: u64 = 64 * 1024;

/// Counts up when a program that knows only the number before could do harm.
const VERSION: &str = "1";
