//! Syncs that fail.

use super::*;
use crate::cache::counters::Damage;
use crate::cache::store::integrity::LostWrites;
use crate::cache::store::partial_file::PartialFile;
use crate::cache::store::segments::Segments;
use crate::cache::store::sync::SyncJob;

#[test]
fn a_failed_sync_is_remembered_until_the_commit() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 1000);
    for commits in [true, false] {
        let partial = begin(&store, &digest, 1000).unwrap();
        partial.write(0, &bytes).unwrap();
        partial.lost().note();
        if commits {
            assert!(partial.commit(&digest, 1000).is_err());
        } else {
            partial.leave(1000);
        }
        assert!(!has_blob(&store, &digest) && place.partials().is_empty());
        assert!(store.resume("hub", &digest).is_none());
    }
}

#[test]
fn a_sync_that_fails_after_the_commit_removes_the_blob() {
    let place = Place::new();
    let store = place.open();
    let lost = LostWrites::default();
    lost.note();
    let missing = vec![place.dir.path().join("missing")];
    for (count, (directories, lost)) in
        [(missing, LostWrites::default()), (Vec::new(), lost)].into_iter().enumerate()
    {
        let digest = put(&store, 1, 1000);
        store.flush();
        assert!(has_blob(&store, &digest));
        store.contents.sync.push(SyncJob::Placed {
            kind: Kind::Blob,
            digest: digest.clone(),
            directories,
            lost,
        });
        store.flush();
        assert!(!has_blob(&store, &digest) && !place.blob(&digest).exists());
        assert_eq!(place.counters.damages(Damage::Unsynced), count as u64 + 1);
        assert_eq!(store.usage().blobs.count, 0);
    }
}

#[test]
fn the_sync_thread_notes_its_failures() {
    let place = Place::new();
    let store = place.open();
    let (digest, _) = content(1, 1000);
    // A file that cannot be synced: EINVAL.
    let broken = fs::File::open("/proc/self/mem").unwrap();
    let file = PartialFile::new(
        "broken".to_owned(),
        broken,
        Head::new("hub", &digest, None, None),
        Segments::default(),
    );
    store.contents.sync.push(SyncJob::Reached(file.clone()));
    store.flush();
    assert!(file.lost.check().is_err());
}
