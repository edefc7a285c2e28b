//! Disks and directories in which nothing can be kept.

use super::*;

#[test]
fn a_missing_parent_degrades_until_it_is_there() {
    let place = Place::new();
    let file = place.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let store = place.open_at(file.join("cache"));
    let reason = store.degraded_reason().expect("it is below a file");
    assert!(reason.starts_with("something else is in the place of the cache's directory"), "{reason}");
    let (digest, bytes) = content(1, 10);
    assert!(begin(&store, &digest, 10).is_none() && store.resume("hub", &digest).is_none());
    store.keep_manifest(&digest, &bytes.clone().into());
    assert!(store.content(Kind::Manifest, &digest).is_none() && !store.has(Kind::Blob, &digest));
    store.for_each(Kind::Blob, |_| panic!("there is nothing")).unwrap();
    fs::remove_file(&file).unwrap();
    store.queue.wake();
    store.flush();
    assert_eq!(store.degraded_reason(), None);
    assert!(begin(&store, &digest, 10).is_some());
}

#[test]
fn a_directory_of_another_version_is_not_touched() {
    let place = Place::new();
    drop(place.open());
    fs::write(place.path().join("version"), "2\n").unwrap();
    fs::write(place.path().join("partial/old.head"), "x").unwrap();
    let (digest, bytes) = content(1, 10);
    let path = place.blob(&digest);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    let store = place.open();
    assert!(store.degraded_reason().unwrap().contains("version \"2\""));
    assert!(begin(&store, &digest, 10).is_none() && !has_blob(&store, &digest));
    assert!(!store.remove(Kind::Blob, &digest) && path.exists());
    assert_eq!(place.partials(), ["old.head"]);
    assert_eq!(fs::read_to_string(place.path().join("version")).unwrap(), "2\n");
}

#[test]
fn a_full_disk_can_still_be_read() {
    let place = Place::new();
    let store = place.open();
    let blob = put(&store, 1, 10);
    store.keep(&blob);
    place.free.store(999, Ordering::Relaxed);
    let (digest, _) = content(2, 10);
    assert!(begin(&store, &digest, 10).is_none());
    assert!(store.degraded_reason().unwrap().starts_with("the cache's disk is full"));
    assert!(has_blob(&store, &blob));
    store.queue.wake();
    store.flush();
    assert!(store.degraded_reason().is_some());
    place.free.store(5000, Ordering::Relaxed);
    store.queue.wake();
    store.flush();
    assert_eq!(store.degraded_reason(), None);
    assert!(begin(&store, &digest, 10).is_some());
}

#[test]
fn a_blob_too_large_does_not_degrade() {
    let place = Place::new();
    let store = place.open();
    place.free.store(100_000, Ordering::Relaxed);
    let (digest, _) = content(2, 10);
    assert!(begin(&store, &digest, 99_001).is_none());
    let first = store.begin("hub", &digest, None, None).unwrap();
    first.write(0, &[0; 60_000]).unwrap();
    assert!(begin(&store, &digest, 40_000).is_none(), "the other may write as much yet");
    drop(first);
    assert!(begin(&store, &digest, 99_000).is_some());
    assert_eq!(store.degraded_reason(), None);
}

#[test]
fn space_that_others_took_is_evicted() {
    let place = Place::new();
    let store = place.open();
    let blobs = [1, 2, 3].map(|seed| put(&store, seed, 1000));
    store.flush();
    place.free.store(500, Ordering::Relaxed);
    store.queue.wake();
    store.flush();
    assert_eq!(blobs.iter().filter(|blob| has_blob(&store, blob)).count(), 2);
}
