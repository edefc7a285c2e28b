//! Whether a file holds what its name says, and whether that has been synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use aws_lc_rs::digest;
use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::proto::{Algorithm, Digest};

/// What a look at some content gave.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is what its name says.
    Good,
    /// It was not, and has been removed, where anything may be.
    Wrong,
    /// It can't be read.
    Unreadable(io::Error),
}

/// Reads all of a file and says whether it is what `digest` says. What has vanished is `None`.
///
/// `tidy`: one that is not what it should be is removed, and a good one that was not known to be on the disk is synced, and
/// said to be there.
pub(crate) fn prove(path: &Path, digest: &Digest, tidy: bool, stop: impl Fn() -> bool) -> Option<Verdict> {
    let file = match open_quietly(path) {
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
        let marked = file.metadata().is_ok_and(|known| is_marked(&known));
        let synced = if marked { sync(&file) } else { Ok(()) };
        return Some(synced.map_or_else(Verdict::Unreadable, |()| Verdict::Good));
    }
    match remove_same(path, &file) {
        Ok(true) => Some(Verdict::Wrong),
        Ok(false) => None,
        Err(error) => Some(Verdict::Unreadable(error)),
    }
}

/// Says that a file may not be on the disk yet: its modification time is of the last millennium, and which second of it says
/// since which start of the machine. After a power loss it is not trusted.
pub(crate) fn mark(file: &File) -> io::Result<()> {
    let boot = Timespec { tv_sec: boot(), tv_nsec: 0 };
    set_times(file, Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, boot)
}

/// Whether a file may not be on the disk yet.
pub(crate) fn is_marked(known: &std::fs::Metadata) -> bool {
    (0..MARKS).contains(&known.mtime()) && known.mtime_nsec() == 0
}

/// Whether a file may have lost bytes: it is marked, and the machine has been started since. Until then the system has what
/// was written, whatever became of the process.
pub(crate) fn is_doubtful(known: &std::fs::Metadata) -> bool {
    is_marked(known) && (known.mtime() == 0 || known.mtime() != boot())
}

/// A number for this start of the machine; 0 where that can't be known.
fn boot() -> i64 {
    static BOOT: OnceLock<i64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let hash = digest::digest(&digest::SHA256, &id);
        let number = hash.as_ref().iter().take(4).fold(0, |number, byte| number << 8 | i64::from(*byte));
        if id.is_empty() { 0 } else { 1 + number % (MARKS - 1) }
    })
}

/// Modification times below this, in seconds, are marks: files were not kept here in the year 2001.
const MARKS: i64 = 1_000_000_000;

/// Waits until a file is on the disk, and says so.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    file.sync_data()?;
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    set_times(file, keep, Timespec { tv_sec: 0, tv_nsec: UTIME_NOW })
}

/// Notes that a file was used now, for the order after a restart.
pub(crate) fn note_use(path: &Path) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_times(file: &File, last_access: Timespec, last_modification: Timespec) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &Timestamps { last_access, last_modification })?)
}

/// `None`: it was to stop.
fn hash(mut file: &File, algorithm: Algorithm, stop: impl Fn() -> bool) -> io::Result<Option<Digest>> {
    let mut context = digest::Context::new(match algorithm {
        Algorithm::Sha512 => &digest::SHA512,
        Algorithm::Sha256 | Algorithm::Other => &digest::SHA256,
    });
    let mut buffer = vec![0; BUFFER];
    loop {
        if stop() {
            return Ok(None);
        }
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => context.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let hash = context.finish();
    let bytes = hash.as_ref();
    Ok(bytes.try_into().map(Digest::sha256).or_else(|_| bytes.try_into().map(Digest::sha512)).ok())
}

/// Opens a file so that reading it is not a use, where that is allowed.
pub(crate) fn open_quietly(path: &Path) -> io::Result<File> {
    let quiet = (OFlags::NOATIME | OFlags::NOFOLLOW).bits() as i32;
    match OpenOptions::new().read(true).custom_flags(quiet).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            crate::cache::store::layout::open(path)
        }
        opened => opened,
    }
}

/// Removes the file at `path` if it is still `file`: another may have put a good one there.
pub(crate) fn remove_same(path: &Path, file: &File) -> io::Result<bool> {
    let same = match std::fs::symlink_metadata(path) {
        Ok(there) => there.ino() == file.metadata()?.ino(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if same {
        crate::cache::store::layout::remove(path)?;
    }
    Ok(same)
}

/// Large enough that the calls cost nothing beside the hashing.
const BUFFER: usize = 1 << 20;
