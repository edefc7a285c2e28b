//! The records of one upstream as files.
//!
//! ```text
//! NAME/_upstream                             the URL: at another one it is another registry
//! NAME/_tmp/...                              records that are being written
//! NAME/_served/sha256/+ab/abcd...            what the upstream itself has served, and was proved, whatever repository
//! NAME/library/alpine/_blobs/sha256/+ab/abcd...
//! NAME/library/alpine/_manifests/sha256/+ab/abcd...
//! NAME/library/alpine/_tags/+1b/latest
//! NAME/library/alpine/_lists/abcd...         tags and referrers, as the upstream listed them
//! ~gone-.../                                 what is about to be removed
//! ```
//!
//! No component of a repository's name begins with `_`, and no upstream's name with `~`. Nothing is synced: a record
//! that a power failure cut short is none, and is asked for again.
//!
//! Earlier versions had no shards (`+ab`). Such records are read where they are; a later write, or the next count, moves them.

use std::fs::DirEntry;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::cache::metadata::records::place::{Name, Place, SHARD};
use crate::cache::metadata::records::room::{RecordRoom, amount_of, rounded};
use crate::cache::store::{Access, Amount, files};
use crate::clock;
use crate::config::limits;
use crate::proto::{Digest, RepositoryName, Tag};

/// The files of one upstream's records.
pub(crate) struct Directory {
    path: PathBuf,
    url: String,
    owner: Mutex<Owner>,
    access: Access,
    room: Arc<RecordRoom>,
}

/// The owner of the records in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The directory has not been checked yet.
    Unknown,
    /// The records are this registry's.
    Us,
    /// The records are another registry's, from before this process. The first write puts them aside; a process that only
    /// reads touches nothing.
    Before,
    /// The records are another registry's, which another process has begun since. They are not touched.
    After,
}

impl Directory {
    /// Opens the directory of the upstream `name`, which is at `url`. Records of a registry at another URL are not read, and
    /// the first write puts them aside. Reads and writes only as `access` allows.
    /// They share `room` with those of other upstreams.
    pub(crate) fn open(root: &Path, name: &str, url: &str, access: Access, room: Arc<RecordRoom>) -> Self {
        let (path, url) = (root.join(name), format!("{url}\n"));
        Self { path, url, owner: Mutex::new(Owner::Unknown), access, room }
    }

    /// Returns the owner of the records, after reading it from the directory if it is unknown.
    fn look(&self) -> Owner {
        let owner = self.owner();
        if owner != Owner::Unknown || !self.access.is_readable() {
            return owner;
        }
        let is_ours = match self.written_url() {
            Ok(written) => written.is_none_or(|written| written == self.url),
            Err(_) => false,
        };
        self.own(if is_ours { Owner::Us } else { Owner::Before });
        self.owner()
    }

    fn may_read(&self) -> bool {
        self.access.is_readable() && self.look() == Owner::Us
    }

    fn may_write(&self) -> bool {
        self.access.is_writable() && self.look() == Owner::Us
    }

    /// Returns a record's bytes, if it exists.
    ///
    /// # Errors
    /// The system's, if it is unknown whether the record exists.
    pub(crate) fn read(
        &self,
        repository: Option<&RepositoryName>,
        place: Place,
        name: &impl Name,
    ) -> io::Result<Option<Vec<u8>>> {
        if !self.may_read() {
            return Ok(None);
        }
        let most = if place == Place::Lists { LIST_BYTES } else { RECORD_BYTES };
        let below = self.place(repository, place);
        match read(&below.join(name.path()), most)? {
            Some(bytes) => Ok(Some(bytes)),
            None => name.flat_path().map_or(Ok(None), |flat| read(&below.join(flat), most)),
        }
    }

    /// Removes the lists of a repository.
    pub(crate) fn remove_lists(&self, repository: &RepositoryName) {
        self.remove_old_lists(repository, 0);
    }

    /// Removes the oldest lists of a repository, but for `most` of them.
    pub(crate) fn remove_old_lists(&self, repository: &RepositoryName, most: usize) {
        if !self.may_write() {
            return;
        }
        let written = |path: &Path| files::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let lists = self.children(&self.place(Some(repository), Place::Lists));
        let mut lists: Vec<_> = lists.into_iter().map(|(_, path)| (written(&path), path)).collect();
        lists.sort_unstable();
        let surplus = lists.len().saturating_sub(most);
        for (_, path) in lists.into_iter().take(surplus) {
            // A list that could not be removed serves at most until `stale_if_error` has passed.
            let _ = self.unlink(&path);
        }
    }

    /// Writes a record, if there is room for it. Readers see the old record or the new one, never a part.
    ///
    /// # Errors
    /// The system's, and `StorageFull` where records take all that they may; then the old record is unchanged.
    pub(crate) fn write(
        &self,
        repository: Option<&RepositoryName>,
        place: Place,
        name: &impl Name,
        bytes: &[u8],
    ) -> io::Result<()> {
        if !self.access.is_writable() {
            return Err(ErrorKind::PermissionDenied.into());
        }
        if self.look() == Owner::Before {
            self.take_over()?;
        }
        let below = self.place(repository, place);
        let path = below.join(name.path());
        let before = amount_of(&path);
        let missing = path.ancestors().skip(1).take_while(|path| !files::exists(path)).count() as u64;
        let room = rounded(bytes.len() as u64) + missing * rounded(1);
        if !self.room.admits(room.saturating_sub(before.bytes)) {
            return Err(ErrorKind::StorageFull.into());
        }
        let temporary = self.temporary(bytes)?;
        // Claimed after the temporary file exists: if another process takes the directory over now, the file goes with it.
        let done = self.claim().and_then(|()| put(&temporary, &path));
        match done {
            Ok(()) => {
                self.room.replace(before, Amount { count: 1, bytes: room });
                // There it would be read once this one is removed; but it is removed first then.
                name.flat_path().inspect(|flat| drop(self.unlink(&below.join(flat))));
                Ok(())
            }
            Err(error) => {
                let _ = files::remove_there(&temporary);
                Err(error)
            }
        }
    }

    /// Removes a record. Returns true if there was one.
    ///
    /// # Errors
    /// The system's; then the record still exists.
    pub(crate) fn remove(
        &self,
        repository: Option<&RepositoryName>,
        place: Place,
        name: &impl Name,
    ) -> io::Result<bool> {
        if !self.may_write() {
            return Ok(false);
        }
        let below = self.place(repository, place);
        let flat = name.flat_path().map_or(Ok(false), |flat| self.unlink(&below.join(flat)))?;
        Ok(self.unlink(&below.join(name.path()))? || flat)
    }

    /// Moves all records of a repository away, but none of repositories below its name. Returns the new directories.
    ///
    /// # Errors
    /// The system's; then some records may still be in place.
    pub(crate) fn put_aside(&self, repository: &RepositoryName) -> io::Result<Vec<PathBuf>> {
        let mut aside = Vec::new();
        if !self.may_write() {
            return Ok(aside);
        }
        let path = self.path.join(repository.as_str());
        for place in Place::OF_REPOSITORY {
            let gone = self.path.with_file_name(format!("{GONE}{}", unique()));
            match files::rename(&path.join(place.as_str()), &gone) {
                Ok(()) => aside.push(gone),
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.prune(&path);
        Ok(aside)
    }

    /// Returns the digests in a place.
    pub(crate) fn digests(&self, repository: &RepositoryName, place: Place) -> Vec<Digest> {
        let mut digests = Vec::new();
        for (algorithm, path) in self.children(&self.place(Some(repository), place)) {
            let encoded = self.in_shards(&path).into_iter();
            digests
                .extend(encoded.filter_map(|encoded| Digest::parse(&format!("{algorithm}:{encoded}")).ok()));
        }
        digests
    }

    /// Returns the tags of a repository.
    pub(crate) fn tags(&self, repository: &RepositoryName) -> Vec<Tag> {
        let names = self.in_shards(&self.place(Some(repository), Place::Tags)).into_iter();
        names.filter_map(|name| Tag::parse(&name).ok()).collect()
    }

    /// Returns the repositories that have a record, in no order.
    pub(crate) fn repositories(&self) -> Vec<RepositoryName> {
        let (mut found, mut waiting) = (Vec::new(), vec![(String::new(), self.path.clone())]);
        while let Some((name, path)) = waiting.pop() {
            let below = self.children(&path).into_iter().filter(|(component, _)| !component.starts_with('_'));
            waiting.extend(below.map(|(component, path)| (join(&name, &component), path)));
            let has_records = Place::OF_REPOSITORY.iter().any(|place| has_files(&path.join(place.as_str())));
            found.extend(RepositoryName::parse(&name).ok().filter(|_| has_records));
        }
        found
    }

    fn place(&self, repository: Option<&RepositoryName>, place: Place) -> PathBuf {
        let mut path = repository.map_or_else(|| self.path.clone(), |name| self.path.join(name.as_str()));
        path.push(place.as_str());
        path
    }

    /// Removes a file. Returns true if there was one.
    fn unlink(&self, path: &Path) -> io::Result<bool> {
        let before = amount_of(path);
        match files::remove_there(path) {
            Ok(()) => {
                self.room.replace(before, Amount::default());
                Ok(true)
            }
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn children(&self, path: &Path) -> Vec<(String, PathBuf)> {
        if self.may_read() { children(path) } else { Vec::new() }
    }

    /// Returns the names of the files in a directory and in its shards.
    fn in_shards(&self, path: &Path) -> Vec<String> {
        let (shards, flat): (Vec<_>, Vec<_>) =
            self.children(path).into_iter().partition(|(name, _)| name.starts_with(SHARD));
        let sharded = shards.into_iter().flat_map(|(_, shard)| self.children(&shard));
        sharded.chain(flat).map(|(name, _)| name).collect()
    }

    /// Removes the directory of a repository and those above it, as far as they are empty.
    fn prune(&self, path: &Path) {
        for path in path.ancestors().take_while(|path| *path != self.path) {
            if files::remove_dir(path).is_err() {
                return;
            }
        }
    }

    /// Marks the directory as this registry's, or checks that it is: no other registry may get these records.
    fn claim(&self) -> io::Result<()> {
        match self.written_url()? {
            None => put(&self.temporary(self.url.as_bytes())?, &self.path.join(UPSTREAM))?,
            Some(written) if written == self.url => {}
            Some(_) => {
                self.own(Owner::After);
                return Err(io::Error::other("another registry's records are there"));
            }
        }
        self.own(Owner::Us);
        Ok(())
    }

    /// Puts another registry's records aside.
    fn take_over(&self) -> io::Result<()> {
        let aside = self.path.with_file_name(format!("{GONE}{}", unique()));
        match files::rename(&self.path, &aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => self.own(Owner::Us),
        }
        // There may be many records, so a thread removes them. If it is interrupted, the next count removes the rest.
        let removal = std::thread::Builder::new().name("dropped-records".to_owned());
        let _ = removal.spawn(move || files::remove_all(&aside));
        Ok(())
    }

    fn written_url(&self) -> io::Result<Option<String>> {
        let bytes = read(&self.path.join(UPSTREAM), RECORD_BYTES)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Writes these bytes to a new temporary file, beside the records.
    fn temporary(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join(TEMPORARY).join(unique());
        let file = in_directory(&path, || files::create_new(&path))?;
        if let Err(error) = files::write_all(&file, bytes) {
            let _ = files::remove_there(&path);
            return Err(error);
        }
        Ok(path)
    }

    fn owner(&self) -> Owner {
        *self.owner.lock()
    }

    fn own(&self, owner: Owner) {
        *self.owner.lock() = owner;
    }
}

/// The upstreams that have records below `root`, and their URLs.
pub(crate) fn upstreams(root: &Path) -> Vec<(String, String)> {
    let url = |path: &Path| String::from_utf8(read(&path.join(UPSTREAM), RECORD_BYTES).ok()??).ok();
    let named = children(root).into_iter().filter(|(name, _)| !name.starts_with(GONE));
    named.filter_map(|(name, path)| Some((name, url(&path)?.trim_end().to_owned()))).collect()
}

/// Removes what was put aside. What is left, the next count removes.
pub(crate) fn remove_aside(aside: Vec<PathBuf>) -> io::Result<()> {
    for path in aside {
        match files::remove_all(&path) {
            Err(error) if !is_absence(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match files::open(path) {
        Ok(file) => file,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    files::read_first(&file, most).map(Some)
}

fn put(temporary: &Path, path: &Path) -> io::Result<()> {
    in_directory(path, || files::rename(temporary, path))
}

/// Does something with the file at `path`, for which its directory is made if need be. A count removes empty directories, so
/// that it may have to be made again.
pub(super) fn in_directory<T>(path: &Path, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let is_missing = |error: &io::Error| error.kind() == ErrorKind::NotFound;
    let mut done = act();
    for _ in 0..MAKE_TRIES {
        match (&done, path.parent()) {
            (Err(error), Some(parent)) if is_missing(error) => match files::make_dir(parent) {
                Err(error) if !is_missing(&error) => return Err(error),
                // A count may remove the parent before its child is made.
                Err(_) => {}
                Ok(()) => done = act(),
            },
            _ => break,
        }
    }
    done
}

/// How often the directory of a file is made: a count may remove each of those above it once. The file itself may be what is
/// missing.
const MAKE_TRIES: usize = 8;

/// Returns the names in a directory; none if it cannot be read.
pub(super) fn children(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = entries(path).into_iter();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

fn entries(path: &Path) -> Vec<DirEntry> {
    files::entries(path).unwrap_or_default()
}

fn has_files(path: &Path) -> bool {
    entries(path).into_iter().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_files(&entry.path()),
        kind => kind.is_ok(),
    })
}

/// Returns true if the error means that the file does not exist: a component of the path is missing or a file, or a name
/// is longer than the file system allows, so that nothing was ever written there.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

fn join(name: &str, component: &str) -> String {
    if name.is_empty() { component.to_owned() } else { format!("{name}/{component}") }
}

/// A name that no other process here uses: where each has a namespace of its own, all may have the same number.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{:x}-{number:x}", std::process::id(), since.as_nanos())
}

/// A file of the upstream's URL, beside its records.
pub(super) const UPSTREAM: &str = "_upstream";
/// The directory of records that are being written.
pub(super) const TEMPORARY: &str = "_tmp";
/// The beginning of the names of what is about to be removed.
pub(super) const GONE: &str = "~gone-";

/// More than any record: what is cut here is malformed.
const RECORD_BYTES: u64 = 16 * 1024;

/// More than any list that is kept, with what is noted of it.
const LIST_BYTES: u64 = limits::KEPT_LIST_BYTES as u64 + RECORD_BYTES;
