//! Every access to a file below the cache's directory.
//!
//! The workers' threads never wait for a disk: a debug build asserts at each access that it comes from another thread. What
//! the system has in memory already is no access in this sense, see [`open_cached`] and [`read_cached`].

use std::fs::{self, DirBuilder, DirEntry, File, Metadata, OpenOptions};
use std::io;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, ResolveFlags, StatVfs, Timestamps};
use rustix::io::{Errno, ReadWriteFlags};

use crate::cache::store::faults;
pub(crate) use crate::cache::store::faults::Access;
use crate::clock;
use crate::worker_id;

/// Begins an access to `path`.
fn touch(path: &Path, access: Access) -> io::Result<()> {
    debug_assert!(!worker_id::is_worker(), "a worker waits for the disk: {access:?} {}", path.display());
    faults::meet(path, access)
}

fn touch_open(file: &File, access: Access) -> io::Result<()> {
    debug_assert!(!worker_id::is_worker(), "a worker waits for the disk: {access:?} {file:?}");
    faults::meet_open(file, access)
}

/// Opens a file that must not exist yet, for reading and writing.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    touch(path, Access::Open)?;
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(NO_LINK).open(path)
}

/// Opens a file for writing, new or emptied, that other users cannot read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    touch(path, Access::Open)?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(NO_LINK).open(path)
}

/// Opens a file for writing, which is made if it is missing, and that other users cannot read.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    touch(path, Access::Open)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_LINK).open(path)
}

/// Opens a file for reading. A link is an error: only files are kept.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    touch(path, Access::Open)?;
    OpenOptions::new().read(true).custom_flags(NO_LINK).open(path)
}

/// Opens a file for reading if that takes no look at the disk: the system has all of the path in memory.
///
/// # Errors
/// `EAGAIN` if it has not, or knows no such thing (Linux before 5.12, sandboxes).
pub(crate) fn open_cached(path: &Path) -> io::Result<File> {
    if faults::is_met(path, Access::Open) {
        return Err(Errno::AGAIN.into());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Ok(file) => Ok(file.into()),
        Err(Errno::NOENT) => Err(Errno::NOENT.into()),
        Err(_) => Err(Errno::AGAIN.into()),
    }
}

/// Opens a file for reading and writing, with the error `LOOP` for a link.
pub(crate) fn open_writable(path: &Path) -> io::Result<File> {
    touch(path, Access::Open)?;
    OpenOptions::new().read(true).write(true).custom_flags(NO_LINK).open(path)
}

/// Opens a file so that reading it does not count as a use, where the system allows that.
pub(crate) fn open_without_atime(path: &Path) -> io::Result<File> {
    touch(path, Access::Open)?;
    let flags = NO_LINK | OFlags::NOATIME.bits() as i32;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open(path),
        opened => opened,
    }
}

/// Returns the bytes of a small file; of a larger one the first.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_first(&open(path)?, SMALL)
}

/// Returns the first bytes of a file, `most` at most.
pub(crate) fn read_first(file: &File, most: u64) -> io::Result<Vec<u8>> {
    touch_open(file, Access::Read)?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads from where the file was read last.
pub(crate) fn read(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    touch_open(file, Access::Read)?;
    file.read(buffer)
}

/// Reads at an offset.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    touch_open(file, Access::Read)?;
    file.read_at(buffer, at)
}

/// Fills all of `buffer` from an offset on.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    touch_open(file, Access::Read)?;
    file.read_exact_at(buffer, at)
}

/// Reads what the system has in memory of a file.
///
/// # Errors
/// `EAGAIN` if it has nothing of it, `EOPNOTSUPP` where the file system does not tell.
pub(crate) fn read_cached(file: &File, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    if faults::is_met_open(file, Access::Read) {
        return Err(Errno::AGAIN);
    }
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT) {
        // A file system in memory does not wait.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) if is_in_memory(file) => {
            rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::empty())
        }
        read => read,
    }
}

/// Returns true for a file in memory.
pub(crate) fn is_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == TMPFS_MAGIC)
}

/// Writes all at the file's place.
pub(crate) fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    touch_open(file, Access::Write)?;
    file.write_all(bytes)
}

/// Writes all at an offset.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    touch_open(file, Access::Write)?;
    file.write_all_at(bytes, at)
}

/// Writes all, and waits until it is on the disk.
pub(crate) fn write_and_sync(file: &File, bytes: &[u8]) -> io::Result<()> {
    write_all(file, bytes)?;
    sync_data(file)
}

/// Waits until a file's bytes are on the disk.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    touch_open(file, Access::Sync)?;
    file.sync_data()
}

/// Waits until the names in a directory are on the disk.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    touch(path, Access::Sync)?;
    File::open(path)?.sync_all()
}

/// Returns what is at a path, which may be a link.
pub(crate) fn metadata(path: &Path) -> io::Result<Metadata> {
    touch(path, Access::Read)?;
    fs::symlink_metadata(path)
}

/// Returns true if something is at a path.
pub(crate) fn exists(path: &Path) -> bool {
    metadata(path).is_ok()
}

/// Renames a file.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    touch(to, Access::Change)?;
    fs::rename(from, to)
}

/// Removes a file that must be there.
pub(crate) fn remove_there(path: &Path) -> io::Result<()> {
    touch(path, Access::Change)?;
    fs::remove_file(path)
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match remove_there(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes an empty directory.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    touch(path, Access::Change)?;
    fs::remove_dir(path)
}

/// Removes a directory with all that is in it.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    touch(path, Access::Change)?;
    fs::remove_dir_all(path)
}

/// Makes a file this long.
pub(crate) fn set_length(file: &File, length: u64) -> io::Result<()> {
    touch_open(file, Access::Write)?;
    file.set_len(length)
}

/// Leaves the first `length` bytes of a file, and gives back what was allocated behind them. Some file systems do that only
/// when the file gets shorter, so it is made longer first.
pub(crate) fn truncate(file: &File, length: u64) -> io::Result<()> {
    set_length(file, length.saturating_add(1))?;
    file.set_len(length)
}

/// Allocates bytes behind the end of a file, whose length stays.
pub(crate) fn allocate(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    touch_open(file, Access::Write)?;
    Ok(rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, at, bytes)?)
}

/// Gives back what the file system has allocated for the bytes from `first` up to `end`, which are not needed. Where it cannot,
/// they stay allocated until the file goes.
pub(crate) fn free(file: &File, first: u64, end: u64) -> io::Result<()> {
    touch_open(file, Access::Write)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, first, end - first) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        done => Ok(done?),
    }
}

/// Sets the times of an open file.
pub(crate) fn set_times(file: &File, times: &Timestamps) -> io::Result<()> {
    touch_open(file, Access::Write)?;
    Ok(rustix::fs::futimens(file, times)?)
}

/// Sets the times of the file at a path.
pub(crate) fn set_times_at(path: &Path, times: &Timestamps) -> io::Result<()> {
    touch(path, Access::Write)?;
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Locks a file: false if another has the lock, or if the file was removed while it was being opened.
///
/// # Errors
/// `ENOLCK` where the file system has no locks, whatever it says itself.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    touch_open(file, Access::Open)?;
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Err(Errno::NOLCK.into()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a directory with those above it, which other users cannot read.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    touch(path, Access::Change)?;
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Returns what is in a directory; nothing where there is none.
pub(crate) fn entries(path: &Path) -> io::Result<Vec<DirEntry>> {
    each_entry(path)?.collect()
}

/// Returns what is in a directory, read as it is asked for; nothing where there is none.
pub(crate) fn each_entry(path: &Path) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    touch(path, Access::Read)?;
    match fs::read_dir(path) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None.into_iter().flatten())
        }
        Err(error) => Err(error),
    }
}

/// Returns what is in a directory, which must be there.
pub(crate) fn entries_there(path: &Path) -> io::Result<Vec<DirEntry>> {
    touch(path, Access::Read)?;
    fs::read_dir(path)?.collect()
}

/// Returns what the file system at a path has room for.
pub(crate) fn file_system(path: &Path) -> io::Result<StatVfs> {
    touch(path, Access::Read)?;
    Ok(rustix::fs::statvfs(path)?)
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

/// statfs(2).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// More than any small file that is written here.
const SMALL: u64 = 64 * 1024;
