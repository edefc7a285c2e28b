//! Removals that operators have made at other replicas: each has left a note in the store, which this one does on its own disk, also
//! where it was down meanwhile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::bucket::store::BucketStore;

/// Does what the notes in the store say and was not done yet, by `remove`, on a thread of its own. What has been done is noted in the
/// cache's directory `dir`. Where the store does not answer, the next call does it.
pub(crate) async fn follow_removals(
    bucket: &BucketStore,
    dir: &Path,
    remove: impl Fn(&str) + Send + 'static,
) {
    let file = dir.join(FILE);
    let done = read(&file);
    let notes = match bucket.notes(&done).await {
        Ok(notes) => notes,
        Err(error) => return tracing::debug!(%error, "the store has not sent the notes of removals"),
    };
    let follow = move || {
        for selection in notes.iter().filter_map(|(_, selection)| selection.as_deref()) {
            tracing::info!(
                selection,
                "another replica has removed this from the cache: it is removed here too"
            );
            remove(selection);
        }
        // Forgets the notes that are not in the store any more.
        let names: BTreeSet<String> = notes.into_iter().map(|(name, _)| name).collect();
        if names != done
            && let Err(error) = write(&file, &names)
        {
            tracing::info!(file = %file.display(), %error, "the removals that were done here are not noted, and are done again");
        }
    };
    let _ = tokio::task::spawn_blocking(follow).await;
}

/// Returns the names of the notes that were done; none of a file that cannot be read: what was done is done again.
fn read(file: &Path) -> BTreeSet<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn write(file: &Path, names: &BTreeSet<String>) -> io::Result<()> {
    let new = PathBuf::from(format!("{}.new", file.display()));
    fs::write(&new, names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    fs::rename(new, file)
}

const FILE: &str = "removals";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(read(&file), BTreeSet::new());
        let names = BTreeSet::from(["1-a".to_owned(), "2-b".to_owned()]);
        write(&file, &names).unwrap();
        assert_eq!(read(&file), names);
    }
}
