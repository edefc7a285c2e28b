//! Content that is kept, found and counted.

use super::*;

#[test]
fn scheduled_verification_removes_only_damaged_content() {
    let place = Place::new();
    let store = place.open();
    let (good, bad) = (put(&store, 1, 5000), put(&store, 2, 5000));
    store.flush();
    let file = fs::OpenOptions::new().write(true).open(place.blob(&bad)).unwrap();
    file.write_all_at(b"x", 4000).unwrap();
    for digest in [&good, &bad] {
        store.schedule_verify(Kind::Blob, digest);
    }
    store.flush();
    assert!(has_blob(&store, &good) && !has_blob(&store, &bad));
    assert_eq!(store.usage().blobs.count, 1);
    let file = fs::OpenOptions::new().write(true).open(place.blob(&good)).unwrap();
    file.write_all_at(b"x", 4000).unwrap();
    store.schedule_verify(Kind::Blob, &good);
    store.flush();
    assert!(has_blob(&store, &good), "it was looked at a moment ago");
}

#[test]
fn a_blob_is_there_after_a_restart() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 3000);
    let partial = begin(&store, &digest, 3000).unwrap();
    assert!(!has_blob(&store, &digest));
    partial.write(0, &bytes).unwrap();
    assert_eq!(read(&partial.commit(&digest, 3000).unwrap()), bytes);
    assert_eq!(read(&store.content(Kind::Blob, &digest).unwrap()), bytes);
    drop(store);
    let store = place.open_at(place.path());
    assert_eq!(read(&store.content(Kind::Blob, &digest).unwrap()), bytes);
}

#[test]
fn unknown_algorithms_are_not_kept() {
    let place = Place::new();
    let store = place.open();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, b"abc");
    let digest = Digest::sha512(hash.as_ref().try_into().unwrap());
    let partial = begin(&store, &digest, 3).unwrap();
    partial.write(0, b"abc").unwrap();
    partial.commit(&digest, 3).unwrap();
    assert!(has_blob(&store, &digest));
    let other = Digest::parse("blake3:abc").unwrap();
    assert!(begin(&store, &other, 3).is_none());
    assert!(store.content(Kind::Blob, &other).is_none() && !store.has(Kind::Blob, &other));
    let mut verdicts = Vec::new();
    store
        .verify(|_, digest, verdict| {
            verdicts.push((digest.clone(), format!("{verdict:?}")));
            true
        })
        .unwrap();
    assert_eq!(verdicts, [(digest, "Good".to_owned())]);
}

#[test]
fn an_empty_blob_is_kept() {
    let place = Place::new();
    let store = place.open();
    let digest = put(&store, 0, 0);
    assert_eq!(store.content(Kind::Blob, &digest).unwrap().length, 0);
}

#[test]
fn manifests_and_blobs_are_apart() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 100);
    store.keep_manifest(&digest, &bytes.clone().into());
    assert_eq!(read(&store.content(Kind::Manifest, &digest).unwrap()), bytes);
    assert!(!store.has(Kind::Blob, &digest) && store.has(Kind::Manifest, &digest));
    assert!(place.partials().is_empty());
    assert!(store.remove(Kind::Manifest, &digest) && !store.remove(Kind::Manifest, &digest));
    assert!(!store.has(Kind::Manifest, &digest));
}

#[test]
fn other_users_cannot_read_it() {
    let place = Place::new();
    let store = place.open();
    let digest = put(&store, 1, 10);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for dir in ["", "blobs", "blobs/sha256", "manifests", "partial"] {
        assert_eq!(mode(&place.path().join(dir)), 0o700, "{dir}");
    }
    for file in [place.path().join("version"), place.blob(&digest)] {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[test]
fn a_blob_of_another_length_is_not_kept() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 100);
    for (written, length) in [(99, 100), (100, 99)] {
        let partial = begin(&store, &digest, 100).unwrap();
        partial.write(0, &bytes[..written]).unwrap();
        assert!(partial.commit(&digest, length).is_err());
        assert!(!has_blob(&store, &digest));
    }
    assert!(place.partials().is_empty());
    assert_eq!(store.usage().reserved, 0);
}

#[test]
fn a_discarded_partial_leaves_nothing() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 100);
    for discard in [true, false] {
        let partial = begin(&store, &digest, 100).unwrap();
        partial.write(0, &bytes).unwrap();
        assert_eq!((place.partials().len(), store.usage().reserved), (2, 100));
        if discard {
            partial.keep();
            partial.discard();
        }
        drop(partial);
        assert_eq!((place.partials().len(), store.usage().reserved), (0, 0));
    }
    assert!(store.resume("hub", &digest).is_none());
}

#[test]
fn a_second_blob_replaces_the_first() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 100);
    let [first, second] = [(); 2].map(|()| begin(&store, &digest, 100).unwrap());
    for partial in [&first, &second] {
        partial.write(0, &bytes).unwrap();
    }
    let reader = first.commit(&digest, 100).unwrap();
    second.commit(&digest, 100).unwrap();
    assert_eq!(read(&reader), bytes);
    assert_eq!(store.usage().blobs, Amount { count: 1, bytes: 100 });
    store.flush();
    assert!(has_blob(&store, &digest));
}

#[test]
fn all_is_counted_and_listed() {
    let place = Place::new();
    let store = place.open();
    let digests = [put(&store, 1, 10), put(&store, 2, 20)];
    let (manifest, bytes) = content(3, 30);
    store.keep_manifest(&manifest, &bytes.clone().into());
    let (left, bytes) = content(4, 40);
    leave(&store, &left, 100, &bytes);
    let expected = Usage {
        blobs: Amount { count: 2, bytes: 30 },
        manifests: Amount { count: 1, bytes: 30 },
        partials: Amount { count: 1, bytes: 40 },
        quarantined: Amount::default(),
        reserved: 0,
        counted: true,
        max_size: 1 << 30,
    };
    assert_eq!(store.usage(), expected);
    drop(store);
    let store = place.open();
    assert_eq!(store.usage(), expected);
    let mut listed = Vec::new();
    store.for_each(Kind::Blob, |blob| listed.push((blob.digest, blob.bytes))).unwrap();
    listed.sort_by_key(|blob| blob.1);
    assert_eq!(listed, [(digests[0].clone(), 10), (digests[1].clone(), 20)]);
}

#[test]
fn vanished_content_leaves_the_index() {
    let place = Place::new();
    let store = place.open();
    let blobs = [1, 2].map(|seed| put(&store, seed, 1000));
    store.flush();
    fs::remove_file(place.blob(&blobs[0])).unwrap();
    assert_eq!(store.usage().blobs.count, 2);
    store.index.begin_scan();
    for kind in Kind::ALL {
        store.maintenance.forget_vanished(kind);
    }
    assert_eq!(store.usage().blobs, Amount { count: 1, bytes: 1000 });
}

#[test]
fn an_old_pin_does_not_unpin_new_content() {
    let place = Place::new();
    let store = place.open();
    let blob = put(&store, 1, 1000);
    let old = store.content(Kind::Blob, &blob).unwrap();
    assert!(store.remove(Kind::Blob, &blob));
    put(&store, 1, 1000);
    let _new = store.content(Kind::Blob, &blob).unwrap();
    drop(old);
    let evicted = store.index.evict_some(1000, 1 << 30, now(), usize::MAX);
    assert_eq!(evicted, [], "it is being read");
}

#[test]
fn damaged_small_content_is_removed() {
    let place = Place::new();
    let store = place.open();
    let blob = put(&store, 1, 1000);
    store.flush();
    assert_eq!(store.content(Kind::Blob, &blob).unwrap().bytes().unwrap(), content(1, 1000).1);
    fs::OpenOptions::new().write(true).open(place.blob(&blob)).unwrap().write_all_at(b"x", 500).unwrap();
    assert_eq!(store.content(Kind::Blob, &blob).unwrap().bytes(), None);
    assert!(!has_blob(&store, &blob) && store.usage().blobs.count == 0);
}
