//! Tests which content is evicted.

use super::*;

#[test]
fn eviction_frees_the_disk() {
    let place = Place::of(10 << 20);
    let store = place.open();
    let blobs: Vec<_> = (0..9).map(|seed| put(&store, seed, 1 << 20)).collect();
    store.flush();
    assert!(place.taken() > 9 << 20);
    let big = put(&store, 100, 8 << 20);
    store.flush();
    let left = blobs.iter().filter(|digest| has_blob(&store, digest)).count();
    assert!(has_blob(&store, &big));
    assert!((1..=2).contains(&left), "{left}");
    assert!(place.taken() < (10 << 20) + 100_000, "{}", place.taken());
    assert_eq!(place.counters.evictions(), (9 - left as u64, (9 - left as u64) << 20));
}

#[test]
fn used_blobs_stay() {
    let place = Place::of(100_000);
    let store = place.open();
    let blobs: Vec<_> = (0..9).map(|seed| put(&store, seed, 10_000)).collect();
    for _ in 0..3 {
        assert!(has_blob(&store, &blobs[0]));
    }
    let scan: Vec<_> = (100..120).map(|seed| put(&store, seed, 10_000)).collect();
    store.flush();
    assert!(has_blob(&store, &blobs[0]));
    assert!(!has_blob(&store, &blobs[1]));
    assert!(has_blob(&store, &scan[19]));
}

#[test]
fn read_or_kept_blobs_are_not_evicted() {
    let place = Place::of(100_000);
    let store = place.open();
    let (read, kept) = (put(&store, 1, 30_000), put(&store, 2, 30_000));
    store.keep(&kept);
    let reader = store.content(Kind::Blob, &read).unwrap();
    let (digest, _) = content(3, 10);
    assert!(begin(&store, &digest, 50_000).is_none());
    assert!(begin(&store, &digest, 40_000).is_some());
    store.flush();
    assert!(place.blob(&read).exists() && place.blob(&kept).exists());
    drop(reader);
    assert!(begin(&store, &digest, 50_000).is_some());
    store.flush();
    assert!(!place.blob(&read).exists() && place.blob(&kept).exists());
}

#[test]
fn a_blob_that_cannot_fit_evicts_nothing() {
    let place = Place::of(100_000);
    let store = place.open();
    let blob = put(&store, 1, 30_000);
    let (digest, _) = content(3, 10);
    assert!(begin(&store, &digest, 100_001).is_none());
    assert!(begin(&store, &digest, u64::MAX).is_none());
    let _under_way = begin(&store, &digest, 60_000).unwrap();
    assert!(begin(&store, &digest, 60_000).is_none());
    assert!(has_blob(&store, &blob));
}

#[test]
fn old_or_too_many_partials_go_first() {
    let place = Place::of(100_000);
    let store = place.open();
    let blob = put(&store, 1, 10_000);
    for seed in [2, 3] {
        let (digest, bytes) = content(seed, 10_000);
        leave(&store, &digest, 10_001, &bytes);
    }
    store.flush();
    let (old, young) = (content(2, 10_000).0, content(3, 10_000).0);
    for name in place.partials().iter().filter(|name| name.contains(old.encoded())) {
        set_times(&place.path().join("partial").join(name), now() - 90_000, now() - 90_000);
    }
    drop(store);
    let store = place.open();
    let (digest, bytes) = content(4, 75_000);
    drop(begin(&store, &digest, 75_000).unwrap());
    store.flush();
    assert!(has_blob(&store, &blob));
    assert!(store.resume("hub", &old).is_none());
    store.resume("hub", &young).expect("it is young").leave(10_000);
    store.flush();
    leave(&store, &digest, 80_000, &bytes);
    store.flush();
    drop(begin(&store, &content(5, 1).0, 80_000).unwrap());
    store.flush();
    assert!(store.resume("hub", &digest).is_none());
    assert!(has_blob(&store, &blob));
}

#[test]
fn manifests_have_room_of_their_own() {
    let place = Place { max_size: 200_000, ..Place::new() };
    let store = place.open();
    let manifests: Vec<_> = (0..9).map(|seed| content(seed, 1000)).collect();
    for (digest, bytes) in &manifests {
        store.keep_manifest(digest, &bytes.clone().into());
    }
    let blobs: Vec<_> = (100..140).map(|seed| put(&store, seed, 10_000)).collect();
    store.flush();
    assert!(!has_blob(&store, &blobs[0]));
    assert!(manifests.iter().all(|(digest, _)| store.has(Kind::Manifest, digest)));
    assert!(store.content(Kind::Manifest, &manifests[0].0).is_some());
    for seed in 10..15 {
        let (digest, bytes) = content(seed, 1000);
        store.keep_manifest(&digest, &bytes.clone().into());
    }
    store.flush();
    assert_eq!(store.usage().manifests.bytes, 10_000);
    assert!(store.has(Kind::Manifest, &manifests[0].0));
    assert!(!store.has(Kind::Manifest, &manifests[1].0));
}

#[test]
fn the_last_use_survives_a_restart() {
    let place = Place::of(100_000);
    let store = place.open();
    let blobs: Vec<_> = (0..3).map(|seed| put(&store, seed, 30_000)).collect();
    store.flush();
    for (blob, hours) in blobs.iter().zip([9, 3, 6]) {
        set_times(&place.blob(blob), now() - hours * 3600, now());
    }
    drop(store);
    let store = place.open();
    assert!(has_blob(&store, &blobs[0]));
    store.flush();
    let noted = fs::metadata(place.blob(&blobs[0])).unwrap();
    assert!(now() - noted.atime() as u64 <= 5);
    drop(store);
    let store = place.open();
    drop(begin(&store, &content(9, 1).0, 30_000).unwrap());
    store.flush();
    assert_eq!([0, 1, 2].map(|blob| store.has(Kind::Blob, &blobs[blob])), [true, true, false]);
}

#[test]
fn a_use_is_noted_once_an_hour() {
    let place = Place::new();
    let store = place.open();
    let digest = put(&store, 1, 10);
    store.flush();
    let old = now() - 4000;
    set_times(&place.blob(&digest), old, now());
    assert!(has_blob(&store, &digest));
    store.flush();
    assert_eq!(fs::metadata(place.blob(&digest)).unwrap().atime() as u64, old);
}

#[test]
fn blobs_of_unknown_length_are_kept() {
    let place = Place::of(100_000);
    let store = place.open();
    let blob = put(&store, 1, 60_000);
    let (digest, bytes) = content(2, 90_000);
    let partial = store.begin("hub", &digest, None, None).unwrap();
    partial.write(0, &bytes[..30_000]).unwrap();
    assert!(has_blob(&store, &blob));
    partial.write(30_000, &bytes[30_000..]).unwrap();
    store.flush();
    assert!(!has_blob(&store, &blob));
    let error = partial.write(90_000, &bytes[..20_000]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    assert!(store.degraded_reason().is_none());
    partial.commit(&digest, 90_000).unwrap();
    store.flush();
    assert_eq!((store.usage().blobs.bytes, store.usage().reserved), (90_000, 0));
}

#[test]
fn unfinished_uploads_evict_a_tenth_at_most() {
    let place = Place::of(1 << 30);
    let store = place.open();
    let blob = put(&store, 1, 1000);
    // The maintenance thread would evict some more behind this.
    store.flush();
    store.queue.close();
    for seed in 2..65 {
        store.index.found(Kind::Blob, &content(seed, 8).0, 16 << 20, 0);
    }
    store.index.found(Kind::Blob, &content(65, 8).0, (16 << 20) - 1000, 0);
    let spools: Vec<_> = (0..10).map(|_| store.begin_unknown_digest("hub").unwrap()).collect();
    let taken = spools.iter().filter(|spool| spool.write(0, &[0; 1000]).is_ok()).count();
    assert!(taken > 0 && store.usage().reserved <= place.max_size / 10, "{:?}", store.usage());
    assert!(has_blob(&store, &blob));
    drop(spools);
    assert_eq!(store.usage().reserved, 0);
    assert_eq!(store.index.totals().unknown_digest, 0);
}
