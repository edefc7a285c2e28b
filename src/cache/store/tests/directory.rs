//! The cache's directory: links in it, files of other users, and one that may only be read.

use super::*;

#[test]
fn links_are_not_followed() {
    let place = Place::new();
    drop(place.open());
    let (victim, partial) = (place.dir.path().join("victim"), place.path().join("partial"));
    fs::write(&victim, "precious").unwrap();
    let (digest, bytes) = content(1, 100);
    let store = place.open();
    leave(&store, &digest, 200, &bytes);
    drop(store);
    let name = place.partials().into_iter().find_map(|name| name.strip_suffix(".part").map(str::to_owned));
    let name = name.unwrap();
    fs::remove_file(partial.join(format!("{name}.part"))).unwrap();
    std::os::unix::fs::symlink(&victim, partial.join(format!("{name}.part"))).unwrap();
    std::os::unix::fs::symlink(&victim, partial.join(format!("{name}.new"))).unwrap();
    let store = place.open();
    assert!(store.resume("hub", &digest).is_none());
    assert!(files::create(&partial.join("link.new")).is_ok());
    std::os::unix::fs::symlink(&victim, partial.join("other.new")).unwrap();
    assert!(files::create(&partial.join("other.new")).is_err());
    let (other, _) = content(2, 8);
    fs::create_dir_all(place.blob(&other).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&victim, place.blob(&other)).unwrap();
    assert!(!has_blob(&store, &other) && !store.has(Kind::Blob, &other));
    drop(store);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

/// Returns the names, lengths and times of all files below `path`.
fn everything(path: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let known = fs::symlink_metadata(path).unwrap();
    let mut all = vec![(path.to_owned(), known.len(), known.mtime(), known.atime())];
    if known.is_dir() {
        all[0].3 = 0;
        all.extend(fs::read_dir(path).unwrap().flat_map(|entry| everything(&entry.unwrap().path())));
    }
    all.sort();
    all
}

#[test]
fn read_only_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    let (blob, (partial, bytes)) = (put(&store, 1, 1000), content(2, 500));
    leave(&store, &partial, 1000, &bytes);
    drop(store);
    fs::write(place.path().join("partial/rubbish.head"), "x").unwrap();
    fs::write(place.blob(&blob), "spoilt").unwrap();
    set_times(&place.blob(&blob), 1_500_000_000, 1_500_000_000);
    let before = everything(&place.path());
    let settings = config::Cache {
        path: place.path(),
        max_size: place.max_size,
        min_free: MinFree::Bytes(0),
        max_object: u64::MAX,
        verify_after: config::limits::VERIFY_AFTER,
        prefetch: false,
        keep: Vec::new(),
    };
    let store = Store::open_read_only(&settings, Arc::default());
    let usage = store.usage();
    assert_eq!((usage.blobs.count, usage.partials.bytes, usage.counted), (1, 500, true));
    let mut wrong = 0;
    store
        .verify(|_, _, verdict| {
            wrong += u32::from(matches!(verdict, Verdict::Wrong));
            true
        })
        .unwrap();
    assert_eq!(wrong, 1);
    assert_eq!(store.peek(Kind::Blob, &blob).unwrap(), b"spoilt");
    assert!(!store.remove(Kind::Blob, &blob) && begin(&store, &blob, 10).is_none());
    assert!(store.resume("hub", &partial).is_none());
    drop(store);
    assert_eq!(everything(&place.path()), before);
    let missing = config::Cache { path: place.dir.path().join("missing"), ..settings };
    assert!(Store::open_read_only(&missing, Arc::default()).degraded_reason().is_some());
    assert!(!missing.path.exists());
}

#[test]
fn a_directory_open_to_others_is_not_used() {
    let place = Place::new();
    drop(place.open());
    let (planted, _) = content(1, 100);
    fs::create_dir_all(place.blob(&planted).parent().unwrap()).unwrap();
    fs::write(place.blob(&planted), "planted").unwrap();
    for (path, mode) in [(place.path(), 0o770), (place.dir.path().to_owned(), 0o777)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let store = place.open();
        let reason = store.degraded_reason().expect("others could plant content");
        let command = if mode == 0o770 { "chmod 0700" } else { "chmod +t" };
        assert!(reason.ends_with(&format!("run `{command} {}`", path.display())), "{reason}");
        assert!(!has_blob(&store, &planted) && !store.has(Kind::Blob, &planted));
        assert!(begin(&store, &planted, 100).is_none());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        store.queue.wake();
        store.flush();
        assert_eq!(store.degraded_reason(), None, "it recovers");
    }
}

#[test]
fn a_file_of_another_user_is_not_served() {
    let place = Place::new();
    let store = place.open();
    let digest = put(&store, 1, 1000);
    store.flush();
    // Only root can give a file away.
    if std::os::unix::fs::chown(place.blob(&digest), Some(65534), None).is_err() {
        return;
    }
    assert!(!has_blob(&store, &digest) && !store.has(Kind::Blob, &digest));
    put(&store, 1, 1000);
    assert!(has_blob(&store, &digest), "it is replaced");
}
