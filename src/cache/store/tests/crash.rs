//! Tests the files that a crash leaves, and how the next start reads them.

use super::*;

/// A blob as a power loss leaves it that came before it was synced.
fn unsynced(place: &Place, digest: &Digest, bytes: &[u8]) {
    let path = place.blob(digest);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    set_times(&path, now(), 0);
}

#[test]
fn unsynced_content_is_hashed_first() {
    let place = Place::new();
    drop(place.open());
    let (good, bytes) = content(1, 1000);
    let (bad, _) = content(2, 1000);
    unsynced(&place, &good, &bytes);
    unsynced(&place, &bad, &[0; 1000]);
    let store = place.open();
    assert!(has_blob(&store, &good));
    assert!(!store.has(Kind::Blob, &bad) && !place.blob(&bad).exists());
    assert_ne!(fs::metadata(place.blob(&good)).unwrap().mtime(), 0);
    assert_eq!(store.usage().blobs, Amount { count: 1, bytes: 1000 });
}

#[test]
fn a_process_trusts_its_own_unsynced_blobs() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 1000);
    unsynced(&place, &digest, &bytes);
    assert!(!has_blob(&store, &digest) && !store.has(Kind::Blob, &digest));
    store.index.expect_sync(Kind::Blob, &digest);
    assert!(has_blob(&store, &digest) && store.has(Kind::Blob, &digest));
}

#[test]
fn leftover_files_are_tidied_up() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 1000);
    leave(&store, &digest, 2000, &bytes);
    drop(store);
    let good = place.partials();
    let dir = place.path().join("partial");
    let stem = good[0].strip_suffix(".head").unwrap();
    let other = stem.replace("hub", "x").replace(&stem[stem.len() - 4..], "0000");
    fs::write(dir.join(format!("{other}.part")), &bytes).unwrap();
    fs::write(dir.join("lonely.head"), "x").unwrap();
    fs::write(dir.join("lonelier.new"), "x").unwrap();
    fs::write(dir.join(format!("{stem}x.part")), &bytes).unwrap();
    fs::write(dir.join(format!("{stem}x.head")), "dockgate-reached: 10\r\n\r\n").unwrap();
    fs::write(dir.join("stranger"), "x").unwrap();
    let store = place.open();
    let mut expected = good;
    expected.push("stranger".to_owned());
    assert_eq!(place.partials(), expected);
    assert_eq!(store.usage().partials, Amount { count: 1, bytes: 1000 });
}

#[test]
fn verify_finds_and_removes_damage() {
    let place = Place::new();
    let store = place.open();
    let [good, bad] = [put(&store, 1, 2_500_000), put(&store, 2, 1000)];
    store.flush();
    fs::write(place.blob(&bad), [0; 1000]).unwrap();
    let mut verdicts = Vec::new();
    store
        .verify(|kind, digest, verdict| {
            verdicts.push((kind, digest.clone(), format!("{verdict:?}")));
            true
        })
        .unwrap();
    verdicts.sort_by_key(|verdict| verdict.2.clone());
    assert_eq!(
        verdicts,
        [(Kind::Blob, good.clone(), "Good".into()), (Kind::Blob, bad.clone(), "Wrong".into())]
    );
    assert!(has_blob(&store, &good) && !has_blob(&store, &bad));
    assert_eq!(store.usage().blobs.count, 1);
}

#[test]
fn serving_does_not_wait_for_the_scan() {
    let place = Place::new();
    drop(place.open());
    let mut last = None;
    for seed in 0..5_000 {
        let (digest, bytes) = content(seed, 8);
        let path = place.blob(&digest);
        let _ = fs::create_dir_all(path.parent().unwrap());
        fs::write(path, bytes).unwrap();
        last = Some(digest);
    }
    let start = clock::now();
    let store = place.open_at(place.path());
    assert!(has_blob(&store, &last.unwrap()));
    let served = clock::now() - start;
    assert!(served < Duration::from_millis(200), "{served:?}");
    store.flush();
    println!("served after {served:?}, counted after {:?}", clock::now() - start);
    assert_eq!(store.usage().blobs, Amount { count: 5_000, bytes: 40_000 });
}
