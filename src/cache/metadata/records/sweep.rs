//! The sweep over all records: counts them, and removes those that are too old or too many.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cache::metadata::records::directory::{GONE, TEMPORARY, UPSTREAM, children, in_directory};
use crate::cache::metadata::records::place::{Name, Place, SHARD};
use crate::cache::metadata::records::room::amount;
use crate::cache::store::{Amount, files, pace};
use crate::clock;
use crate::proto::{Digest, Tag};

/// A sweep over the records of all upstreams below a directory.
pub(super) struct Sweep<'a> {
    pub(super) root: &'a Path,
    /// Records that were not confirmed for so long are removed: each confirmation writes a file anew.
    pub(super) life: Option<Duration>,
    /// Ends the sweep early.
    pub(super) stop: &'a dyn Fn() -> bool,
}

impl Sweep<'_> {
    /// Counts all records and directories. Removes what is left of removals and of writes that never ended, records that are
    /// too old, and directories that are empty. Moves records that are in no shard into theirs; then the sum is not exact. None
    /// if it was stopped.
    pub(super) fn count(&self) -> Option<Sum> {
        for (name, path) in children(self.root) {
            if name.starts_with(GONE) {
                let _ = files::remove_all(&path);
            } else {
                tidy(&path.join(TEMPORARY));
            }
        }
        let oldest = self.life.and_then(|life| clock::wall().checked_sub(life));
        let (mut all, mut is_exact) = (Amount::default(), true);
        self.each(|path, metadata| {
            let is_old = oldest.is_some_and(|oldest| written(metadata).is_some_and(|time| time < oldest));
            if is_old && files::remove_there(path).is_ok() {
                return;
            }
            is_exact &= !into_shard(path);
            let Amount { count, bytes } = amount(metadata);
            all.count += count;
            all.bytes += bytes;
        })
        .map(|overhead| Sum { all: Amount { bytes: all.bytes + overhead, ..all }, is_exact })
    }

    /// Removes the oldest of the records, which take `all` with their directories, so that about `bytes` are freed.
    pub(super) fn remove_oldest(&self, all: u64, bytes: u64) -> Option<()> {
        let mut files = Vec::new();
        self.each(|_, metadata| files.extend(written(metadata).map(|time| (time, amount(metadata).bytes))))?;
        files.sort_unstable();
        // Directories go with their last records.
        let in_files: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        let part = |of: u64| u128::from(of) * u128::from(bytes) / u128::from(all.max(1));
        let mut excess = u64::try_from(part(in_files)).unwrap_or(u64::MAX);
        let mut sum = 0;
        let reached = files.into_iter().find(|(_, bytes)| {
            sum += bytes;
            sum >= excess
        });
        let (last, _) = reached?;
        self.each(|path, metadata| {
            let goes = excess > 0 && written(metadata).is_some_and(|time| time <= last);
            if goes && files::remove_there(path).is_ok() {
                excess = excess.saturating_sub(amount(metadata).bytes);
            }
        })
        .map(drop)
    }

    /// Calls `found` with each record, and removes the directories that are empty then. Returns the bytes of all that is there
    /// besides; none if it was stopped.
    fn each(&self, mut found: impl FnMut(&Path, &Metadata)) -> Option<u64> {
        let mut overhead = 0;
        let mut waiting = vec![Step::Enter(self.root.to_owned())];
        while let Some(step) = waiting.pop() {
            if (self.stop)() {
                return None;
            }
            let path = match step {
                // A record may be put there at this moment: then it is not empty, or is made again.
                Step::Leave(path) if files::remove_dir(&path).is_ok() => continue,
                Step::Leave(path) => {
                    overhead += files::metadata(&path).map_or(0, |metadata| amount(&metadata).bytes);
                    continue;
                }
                Step::Enter(path) => path,
            };
            waiting.push(Step::Leave(path.clone()));
            for (name, path) in children(&path) {
                pace::rest();
                match files::metadata(&path) {
                    Ok(metadata) if name == TEMPORARY || name == UPSTREAM => {
                        overhead += amount(&metadata).bytes
                    }
                    Ok(metadata) if metadata.is_dir() => waiting.push(Step::Enter(path)),
                    Ok(metadata) if metadata.is_file() => found(&path, &metadata),
                    _ => {}
                }
            }
        }
        Some(overhead)
    }
}

/// The result of a count.
pub(super) struct Sum {
    /// The records, and the bytes that they and their directories take.
    pub(super) all: Amount,
    /// Nothing was moved meanwhile.
    pub(super) is_exact: bool,
}

enum Step {
    Enter(PathBuf),
    Leave(PathBuf),
}

/// Moves a record into its shard that an earlier version left outside. Returns true if there is one less outside.
fn into_shard(path: &Path) -> bool {
    match sharded(path) {
        // Where that fails, it is read where it is.
        Some(to) if !files::exists(&to) => in_directory(&to, || files::rename(path, &to)).is_ok(),
        // The record has been written to its shard since.
        Some(_) => files::remove_there(path).is_ok(),
        None => false,
    }
}

/// Returns where a record belongs that is in no shard.
fn sharded(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let (name, directory) = (path.file_name()?.to_str()?, parent.file_name()?.to_str()?);
    if directory.starts_with(SHARD) {
        return None;
    }
    if directory == Place::Tags.as_str() {
        return Some(parent.join(Tag::parse(name).ok()?.path()));
    }
    let place = parent.parent()?;
    let of_digests = [Place::Blobs, Place::Manifests, Place::Served].map(Place::as_str);
    let digest = Digest::parse(&format!("{directory}:{name}")).ok()?;
    of_digests.contains(&place.file_name()?.to_str()?).then(|| place.join(digest.path()))
}

/// Removes temporary files that are no longer being written.
fn tidy(temporary: &Path) {
    for (_, path) in children(temporary) {
        let written = files::metadata(&path).ok().and_then(|metadata| written(&metadata));
        let age = written.and_then(|written| clock::wall().duration_since(written).ok());
        if age.is_some_and(|age| age > WRITING_MOST) {
            let _ = files::remove_there(&path);
        }
    }
}

fn written(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

/// A temporary file this old is no longer being written.
const WRITING_MOST: Duration = Duration::from_secs(60 * 60);
