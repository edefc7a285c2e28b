//! Content that the disk has spoilt.

use super::*;
use crate::cache::counters::Damage;
use crate::cache::store::verification::{Round, Verification};
use crate::config::limits;

const WEEK: u64 = 7 * 24 * 3600;

/// Changes a byte of a blob, and lets its file have been hashed last `age` seconds ago.
fn spoil(place: &Place, digest: &Digest, age: u64) {
    let file = fs::OpenOptions::new().write(true).open(place.blob(digest)).unwrap();
    file.write_all_at(b"x", 50).unwrap();
    set_times(&place.blob(digest), now(), now() - age);
}

#[test]
fn content_is_hashed_again_when_read_after_a_week() {
    let place = Place::new();
    let store = place.open();
    let [bad, good, recent] = [1, 2, 3].map(|seed| put(&store, seed, 5000));
    store.flush();
    spoil(&place, &bad, WEEK);
    set_times(&place.blob(&good), now(), now() - WEEK);
    spoil(&place, &recent, WEEK - 60);
    for digest in [&bad, &good, &recent] {
        assert!(has_blob(&store, digest));
    }
    store.flush();
    assert_eq!([&bad, &good, &recent].map(|digest| has_blob(&store, digest)), [false, true, true]);
    assert!(now() - fs::metadata(place.blob(&good)).unwrap().mtime() as u64 <= 5, "it is right now");
    assert_eq!(place.counters.damages(Damage::Digest), 1);
    assert_eq!(store.usage().blobs.count, 2);
}

#[test]
fn the_scrub_hashes_what_no_client_reads() {
    let place = Place::new();
    let store = place.open();
    let [bad, recent] = [1, 2].map(|seed| put(&store, seed, 5000));
    let (manifest, bytes) = content(3, 100);
    store.keep_manifest(&manifest, &bytes.clone().into());
    store.flush();
    spoil(&place, &bad, WEEK);
    spoil(&place, &recent, WEEK - 60);
    let path = place.path().join("manifests/sha256").join(&manifest.encoded()[..2]).join(manifest.encoded());
    set_times(&path, now(), now() - WEEK);
    let (scrub, mut round) = (Verification::new(store.contents.clone()), Round::default());
    while scrub.scrub(&mut round) != limits::SCRUB_PAUSE {}
    assert!(!place.blob(&bad).exists() && place.blob(&recent).exists());
    assert!(now() - fs::metadata(path).unwrap().mtime() as u64 <= 5, "the manifest is right now");
}

#[test]
fn an_unreadable_file_is_hashed_again_at_once() {
    let place = Place::new();
    let store = place.open();
    let [bad, good] = [1, 2].map(|seed| put(&store, seed, 5000));
    store.flush();
    spoil(&place, &bad, 0);
    for digest in [&bad, &good] {
        // A file that fails with EIO as a bad sector does, in place of the blob's.
        let broken = Arc::new(fs::File::open("/proc/self/mem").unwrap());
        let content = Content::pinned(&store.contents, Kind::Blob, digest, 0, broken, 5000);
        assert_eq!(content.bytes(), None);
    }
    store.flush();
    assert_eq!([&bad, &good].map(|digest| has_blob(&store, digest)), [false, true]);
    assert_eq!(place.counters.damages(Damage::Digest), 1);
    assert_eq!(store.degraded_reason(), None, "one file is not the disk");
}

#[test]
fn a_file_that_stays_unreadable_is_quarantined() {
    let place = Place { max_size: 1_000_000, ..Place::new() };
    let store = place.open();
    let blobs = [1, 2, 3].map(|seed| put(&store, seed, 5000));
    store.flush();
    let failure = || std::io::Error::from(rustix::io::Errno::IO);
    for (age, digest) in [3, 2, 1].into_iter().zip(&blobs) {
        set_times(&place.blob(digest), now(), now() - age);
        store.contents.set_aside(Kind::Blob, digest, &failure());
        assert!(!has_blob(&store, digest) && !place.blob(digest).exists());
    }
    // A hundredth of max_size is kept: the oldest went.
    let names = fs::read_dir(place.path().join("quarantine")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected: Vec<_> =
        blobs[1..].iter().map(|digest| format!("blobs-sha256-{}", digest.encoded())).collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(store.usage().quarantined, Amount { count: 2, bytes: 10_000 });
    assert_eq!(place.counters.damages(Damage::Unreadable), 3);
    assert_eq!(store.degraded_reason(), None);
    assert_eq!(put(&store, 1, 5000), blobs[0]);
    assert!(has_blob(&store, &blobs[0]), "it was fetched again");
    drop(store);
    assert_eq!(place.open().usage().quarantined.bytes, 10_000, "after a restart too");
}

#[test]
fn what_cannot_be_quarantined_counts_as_missing() {
    let place = Place::new();
    let store = place.open();
    let digest = put(&store, 1, 5000);
    store.flush();
    fs::write(place.path().join("quarantine"), "in the way").unwrap();
    store.contents.set_aside(Kind::Blob, &digest, &rustix::io::Errno::IO.into());
    assert!(place.blob(&digest).exists());
    assert!(!has_blob(&store, &digest) && !store.has(Kind::Blob, &digest));
    put(&store, 1, 5000);
    assert!(has_blob(&store, &digest), "other bytes are in its place");
}
