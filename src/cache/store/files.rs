//! Small files, and the times of files, below the cache's directory.

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::clock;

/// Opens a file that must not exist yet, for reading and writing.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(NO_LINK).open(path)
}

/// Opens a file for writing, new or emptied, that other users cannot read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(NO_LINK).open(path)
}

/// Opens a file for writing, which is made if it is missing, and that other users cannot read.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_LINK).open(path)
}

/// Opens a file for reading. A link is an error: only files are kept.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(NO_LINK).open(path)
}

/// Opens a file for reading and writing, with the error `LOOP` for a link.
pub(crate) fn open_writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(NO_LINK).open(path)
}

/// Opens a file so that reading it does not count as a use, where the system allows that.
pub(crate) fn open_without_atime(path: &Path) -> io::Result<File> {
    let flags = NO_LINK | OFlags::NOATIME.bits() as i32;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open(path),
        opened => opened,
    }
}

/// Returns the bytes of a small file; of a larger one the first.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(open(path)?, SMALL), &mut bytes)?;
    Ok(bytes)
}

/// Writes all, and waits until it is on the disk.
pub(crate) fn write_and_sync(file: &File, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut &*file, bytes)?;
    file.sync_data()
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Leaves the first `length` bytes of a file, and gives back what was allocated behind them. Some file systems do that only
/// when the file gets shorter, so it is made longer first.
pub(crate) fn truncate(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length.saturating_add(1))?;
    file.set_len(length)
}

/// Locks a file: false if another has the lock, or if the file was removed while it was being opened.
///
/// # Errors
/// `ENOLCK` where the file system has no locks, whatever it says itself.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Err(Errno::NOLCK.into()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a directory with those above it, which other users cannot read.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Returns what is in a directory; nothing where there is none.
pub(crate) fn entries(path: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(path) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Returns a name for a new file that begins with `stem`.
pub(crate) fn random_name(stem: &str) -> String {
    let mut random = [0; 8];
    // Without randomness the name may be taken, and then creating the file fails.
    let _ = aws_lc_rs::rand::fill(&mut random);
    format!("{stem}-{:016x}", u64::from_be_bytes(random))
}

/// Returns the wall clock in seconds: it is compared with files' times.
pub(crate) fn now() -> u64 {
    seconds(clock::wall())
}

/// Returns a file's time in seconds.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// The owner of the directory must not be able to have another file written, be it by root: a link in the last place of a
/// path is not followed. The standard library sets `O_CLOEXEC` itself.
const NO_LINK: i32 = OFlags::NOFOLLOW.bits() as i32;

/// More than any small file that is written here.
const SMALL: u64 = 64 * 1024;
