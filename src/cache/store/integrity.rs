//! Checks of files against their digests, and the mark of a file that has not been synced.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::cache::store::files;
use crate::proto::{Algorithm, Digest, Hasher};

/// The result of hashing content again.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The file has the digest of its name.
    Good,
    /// The file had another digest, and has been removed where anything may be removed.
    Wrong,
    /// The file cannot be read.
    Unreadable(io::Error),
}

/// Reads all of a file and compares it with `digest`. None if the file has vanished, or `stop` returned true.
///
/// `tidy`: a wrong file is removed, a good one that was marked is synced and unmarked, and it is noted that a good one is good.
pub(crate) fn verify(path: &Path, digest: &Digest, tidy: bool, stop: impl Fn() -> bool) -> Option<Verdict> {
    let file = match files::open_without_atime(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Verdict::Unreadable(error)),
    };
    let hashed = match hash(&file, digest.algorithm(), stop) {
        Ok(hashed) => hashed?,
        Err(error) => return Some(Verdict::Unreadable(error)),
    };
    if !tidy {
        return Some(if hashed == *digest { Verdict::Good } else { Verdict::Wrong });
    }
    if hashed == *digest {
        let marked = file.metadata().is_ok_and(|metadata| is_marked(&metadata));
        let noted = if marked { sync(&file) } else { note_good(&file) };
        return Some(noted.map_or_else(Verdict::Unreadable, |()| Verdict::Good));
    }
    match remove_same(path, &file) {
        Ok(true) => Some(Verdict::Wrong),
        Ok(false) => None,
        Err(error) => Some(Verdict::Unreadable(error)),
    }
}

/// Marks a file that may not be on the disk yet: its modification time lies before 2001, and its seconds tell one boot of the
/// machine from another. After a power loss the file is not trusted.
pub(crate) fn mark(file: &File) -> io::Result<()> {
    let boot = Timespec { tv_sec: boot(), tv_nsec: 0 };
    set_times(file, Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, boot)
}

/// Returns true if a file may not be on the disk yet.
pub(crate) fn is_marked(metadata: &std::fs::Metadata) -> bool {
    (0..MARKS).contains(&metadata.mtime()) && metadata.mtime_nsec() == 0
}

/// Returns true if a file may have lost bytes: it is marked, and the machine has booted since. Until then the system has what
/// was written, whatever became of the process.
///
/// The mark tells boots of the machine apart, not states of the volume: a snapshot that is restored under a running machine
/// counts as written. Nothing on the volume could tell, since it is as it was. Its content is hashed again after
/// `verify_after` like any other, and README says to run `dockgate cache verify` after restoring one.
pub(crate) fn is_doubtful(metadata: &std::fs::Metadata) -> bool {
    is_marked(metadata) && (metadata.mtime() == 0 || metadata.mtime() != boot())
}

/// Returns true if a file was last known to be right `after` or more seconds before `now`.
pub(crate) fn is_due(metadata: &std::fs::Metadata, now: u64, after: u64) -> bool {
    let known = u64::try_from(metadata.mtime()).unwrap_or_default();
    !is_marked(metadata) && now.saturating_sub(known) >= after
}

/// Returns true if an error says that this file cannot be read, rather than that the disk is away or the process lacks something.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    let of_the_file = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA, Errno::REMOTEIO];
    error.kind() == io::ErrorKind::UnexpectedEof
        || Errno::from_io_error(error).is_some_and(|errno| of_the_file.contains(&errno))
}

/// A note that bytes of a file did not reach the disk. The system reports that once, and later syncs succeed without them.
#[derive(Clone, Default)]
pub(crate) struct LostWrites(Arc<AtomicBool>);

impl LostWrites {
    /// Notes that a sync has failed.
    pub(crate) fn note(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Returns an error if a sync has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) { Err(io::Error::other("an earlier sync failed")) } else { Ok(()) }
    }
}

/// Takes away all trust in a file that may have lost bytes, also for later processes of this boot.
pub(crate) fn distrust(file: &File) -> io::Result<()> {
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    set_times(file, keep, Timespec { tv_sec: 0, tv_nsec: 0 })
}

/// Returns a number for this boot of the machine; 0 where that is unknown.
pub(crate) fn boot() -> i64 {
    static BOOT: OnceLock<i64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &id);
        let number = hash.as_ref().iter().take(4).fold(0, |number, byte| number << 8 | i64::from(*byte));
        if id.is_empty() { 0 } else { 1 + number % (MARKS - 1) }
    })
}

/// Modification times below this, in seconds, are marks: files were not kept here in the year 2001.
const MARKS: i64 = 1_000_000_000;

/// Waits until a file is on the disk, and takes its mark away.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    files::sync_data(file)?;
    note_good(file)
}

/// Notes that the bytes of a file are right now: its modification time says when it was last known.
fn note_good(file: &File) -> io::Result<()> {
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    set_times(file, keep, Timespec { tv_sec: 0, tv_nsec: UTIME_NOW })
}

/// Notes that a file was used now, for the order of eviction after a restart.
pub(crate) fn note_use(path: &Path) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    files::set_times_at(path, &times)
}

/// Removes the file at `path` if it is still `file`: another may have put a good one there.
pub(crate) fn remove_same(path: &Path, file: &File) -> io::Result<bool> {
    let same = is_same(path, file)?;
    if same {
        files::remove(path)?;
    }
    Ok(same)
}

/// Returns true if the file at `path` is still `file`.
pub(crate) fn is_same(path: &Path, file: &File) -> io::Result<bool> {
    match files::metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn set_times(file: &File, last_access: Timespec, last_modification: Timespec) -> io::Result<()> {
    files::set_times(file, &Timestamps { last_access, last_modification })
}

/// Hashes a file; none if `stop` returned true.
fn hash(file: &File, algorithm: Algorithm, stop: impl Fn() -> bool) -> io::Result<Option<Digest>> {
    let Some(mut hasher) = Hasher::new(algorithm) else { return Err(io::ErrorKind::Unsupported.into()) };
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        if stop() {
            return Ok(None);
        }
        match files::read(file, &mut buffer) {
            Ok(0) => return Ok(Some(hasher.finish())),
            Ok(length) => hasher.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The bytes that are read at once: enough that the calls cost nothing beside the hashing.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
