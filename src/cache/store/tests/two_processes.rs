//! Two processes with one directory.

use super::*;

#[test]
fn each_sees_the_content_of_the_other() {
    let place = Place::new();
    let (first, second) = (place.open(), place.open());
    let digest = put(&first, 1, 100);
    first.flush();
    assert!(has_blob(&second, &digest));
    assert_eq!(second.usage().blobs.count, 1);
    assert!(second.remove(Kind::Blob, &digest));
    assert!(!has_blob(&first, &digest));
    assert_eq!(first.usage().blobs, Amount::default());
}

#[test]
fn a_partial_being_written_is_not_touched() {
    let place = Place::new();
    let first = place.open();
    let (digest, bytes) = content(1, 1000);
    let partial = begin(&first, &digest, 1000).unwrap();
    partial.write(0, &bytes).unwrap();
    let second = place.open();
    assert!(second.resume("hub", &digest).is_none());
    assert_eq!(second.usage().partials.count, 0);
    assert_eq!(read(&partial.commit(&digest, 1000).unwrap()), bytes);
    first.flush();
    assert!(has_blob(&first, &digest) && has_blob(&second, &digest));
}

#[test]
fn only_the_owner_of_a_directory_stores() {
    let place = Place::of(100_000);
    let (first, second) = (place.open(), place.open());
    let reason = second.degraded_reason().expect("the first owns it");
    assert!(reason.contains(&format!("another process (PID {}) uses it", std::process::id())), "{reason}");
    let blobs: Vec<_> = (0..9).map(|seed| put(&first, seed, 10_000)).collect();
    first.flush();
    let (digest, bytes) = content(20, 1000);
    assert!(begin(&second, &digest, 1000).is_none());
    second.keep_manifest(&digest, &bytes.clone().into());
    assert!(!second.has(Kind::Manifest, &digest));
    assert!(has_blob(&second, &blobs[0]), "it serves what is there");
    drop(first);
    second.queue.wake();
    second.flush();
    assert_eq!(second.degraded_reason(), None, "it takes over");
    assert_eq!(second.usage().blobs.bytes, 90_000);
    put(&second, 20, 20_000);
    second.flush();
    assert!(second.usage().blobs.bytes <= 100_000);
}

#[test]
fn a_partial_left_by_one_is_resumed_by_the_other() {
    let place = Place::new();
    let (first, second) = (place.open(), place.open());
    let (digest, bytes) = content(1, 1000);
    let partial = begin(&first, &digest, 2000).unwrap();
    partial.write(0, &bytes).unwrap();
    let _reader = partial.file().clone();
    partial.leave(1000);
    drop(first);
    second.queue.wake();
    second.flush();
    let taken = second.resume("hub", &digest).expect("it was left");
    assert_eq!(taken.end_at(0), Some(1000));
}

#[test]
fn unsynced_content_is_hashed_by_the_other() {
    let place = Place::new();
    let first = place.open();
    let digest = put(&first, 1, 100);
    first.flush();
    set_times(&place.blob(&digest), now(), 0);
    assert!(!has_blob(&first, &digest));
    let second = place.open();
    assert!(has_blob(&second, &digest) && has_blob(&first, &digest));
}

#[test]
fn files_may_vanish() {
    let place = Place::of(100_000);
    let store = place.open();
    let blobs: Vec<_> = (0..9).map(|seed| put(&store, seed, 10_000)).collect();
    store.flush();
    let reader = store.content(Kind::Blob, &blobs[0]).unwrap();
    fs::remove_dir_all(place.path().join("blobs")).unwrap();
    fs::remove_dir_all(place.path().join("partial")).unwrap();
    assert_eq!(read(&reader), content(0, 10_000).1);
    assert!(!has_blob(&store, &blobs[0]) && !store.remove(Kind::Blob, &blobs[1]));
    let mut verdicts = 0;
    store
        .verify(|_, _, _| {
            verdicts += 1;
            true
        })
        .unwrap();
    assert_eq!(verdicts, 0);
    let (digest, _) = content(20, 10);
    let _ = begin(&store, &digest, 10);
    store.flush();
    let again = put(&store, 20, 10_000);
    assert!(has_blob(&store, &again) && store.degraded_reason().is_none());
}
