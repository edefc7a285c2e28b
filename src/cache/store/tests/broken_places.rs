//! Disks of which a part does not work.

use std::cell::Cell;
use std::fs::File;
use std::io;

use rustix::io::Errno;

use super::*;
use crate::cache::store::files;
use crate::cache::store::health::Health;
use crate::cache::store::layout::{Layout, LayoutError};

#[test]
fn an_unreadable_shard_degrades_until_it_is_counted() {
    let place = Place::new();
    let store = place.open();
    let blobs: Vec<_> = (0..20).map(|seed| put(&store, seed, 1000)).collect();
    drop(store);
    // A link to itself cannot be read, by root either.
    let shard = place.path().join("blobs/sha256/0loop");
    std::os::unix::fs::symlink(&shard, &shard).unwrap();
    let store = place.open();
    let reason = store.degraded_reason().expect("there may be more than is known");
    let expected = format!("the cache's content can't be counted: {}: ", shard.display());
    assert!(reason.starts_with(&expected), "{reason}");
    assert_eq!(store.usage().blobs, Amount { count: 20, bytes: 20_000 }, "the rest is counted");
    assert!(begin(&store, &content(50, 1).0, 10).is_none() && has_blob(&store, &blobs[0]));
    store.queue.wake();
    store.flush();
    assert!(store.degraded_reason().is_some(), "that the disk can be written to does not suffice");
    fs::remove_file(&shard).unwrap();
    store.maintenance.count();
    assert_eq!((store.degraded_reason(), store.usage().counted), (None, true));
    assert!(begin(&store, &content(50, 1).0, 10).is_some());
}

#[test]
fn a_shard_that_takes_nothing_stops_nothing_else() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 1000);
    let shard = place.blob(&digest).parent().unwrap().to_owned();
    fs::create_dir_all(shard.parent().unwrap()).unwrap();
    fs::write(&shard, "in the way").unwrap();
    let partial = begin(&store, &digest, 1000).unwrap();
    partial.write(0, &bytes).unwrap();
    assert!(partial.commit(&digest, 1000).is_err());
    let manifest_shard = place.path().join("manifests/sha256").join(&digest.encoded()[..2]);
    fs::create_dir_all(manifest_shard.parent().unwrap()).unwrap();
    fs::write(&manifest_shard, "in the way").unwrap();
    store.keep_manifest(&digest, &bytes.clone().into());
    store.flush();
    assert_eq!(store.degraded_reason(), None);
    assert!(place.partials().is_empty());
    let other =
        (2..).map(|seed| content(seed, 8).0).find(|other| other.encoded()[..2] != digest.encoded()[..2]);
    assert!(begin(&store, &other.unwrap(), 10).is_some());
}

#[test]
fn a_disk_without_locks_is_reported_and_left_clean() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("cache"), false).locking_by(|_| Err(Errno::NOLCK.into()));
    assert!(matches!(layout.prepare(), Err(LayoutError::Io(_))));
    for stem in ["a", "b"] {
        let error = layout.create_partial(stem).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOLCK));
    }
    assert_eq!(layout.partial_names().unwrap(), [""; 0]);
    let health = Health::default();
    health.report_at(dir.path(), &Errno::NOLCK.into());
    let reason = health.reason().unwrap();
    assert!(reason.contains("no file locks") && reason.contains(dir.path().to_str().unwrap()), "{reason}");
}

#[test]
fn a_partial_that_is_tidied_away_before_its_lock_is_created_again() {
    thread_local! {
        static TIDIED: Cell<usize> = const { Cell::new(0) };
    }
    /// The first two are removed before they are locked.
    fn lock(file: &File) -> io::Result<bool> {
        TIDIED.set(TIDIED.get() + 1);
        Ok(TIDIED.get() > 2 && files::lock(file)?)
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("cache"), false);
    layout.prepare().unwrap();
    let layout = layout.locking_by(lock);
    let (name, file) = layout.create_partial("a").unwrap();
    assert!(name.starts_with("a-") && layout.partial(&name, "part").exists());
    assert!(!files::lock(&File::open(layout.partial(&name, "part")).unwrap()).unwrap(), "it is locked");
    drop(file);
    TIDIED.set(0);
    let name = layout.create_partial_for("b", |file, _| files::write_all(file, b"bytes")).unwrap();
    assert_eq!(fs::read(layout.partial(&name, "part")).unwrap(), b"bytes");
}

#[test]
fn keep_never_takes_the_whole_cache() {
    let place = Place::of(100_000);
    let store = place.open();
    let kept: Vec<_> = (0..9)
        .map(|seed| {
            store.keep(&content(seed, 10_000).0);
            put(&store, seed, 10_000)
        })
        .collect();
    store.flush();
    for seed in 20..30 {
        put(&store, seed, 20_000);
        store.flush();
    }
    let there = kept.iter().filter(|digest| has_blob(&store, digest)).count();
    assert_eq!(there, 7, "three quarters");
    assert!(store.index.keeps_too_much());
    assert!(has_blob(&store, &content(29, 20_000).0));
}

/// Runs as a user who is not root, whom permissions stop.
fn as_other_user(work: impl FnOnce() + Send) {
    let as_user = || {
        if rustix::process::geteuid().is_root() {
            let nobody = 65_534;
            rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(nobody)).unwrap();
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(nobody)).unwrap();
        }
        work();
    };
    std::thread::scope(|scope| scope.spawn(as_user).join().unwrap());
}

#[test]
fn files_of_unknown_size_degrade_until_they_are_counted() {
    as_other_user(|| {
        let place = Place::new();
        let store = place.open();
        let blob = put(&store, 1, 1000);
        drop(store);
        // Its names can be read, but not what they stand for.
        let shard = place.blob(&blob).parent().unwrap().to_owned();
        fs::set_permissions(&shard, fs::Permissions::from_mode(0o600)).unwrap();
        let store = place.open();
        let reason = store.degraded_reason().expect("it is not counted");
        assert!(reason.contains("can't be counted") && reason.contains(shard.to_str().unwrap()), "{reason}");
        assert_eq!(store.usage().blobs.count, 0);
        fs::set_permissions(&shard, fs::Permissions::from_mode(0o700)).unwrap();
        store.maintenance.count();
        assert_eq!(store.degraded_reason(), None);
        assert_eq!(store.usage().blobs, Amount { count: 1, bytes: 1000 });
    });
}

#[test]
fn partials_that_cannot_be_tidied_count() {
    as_other_user(|| {
        let place = Place::new();
        let store = place.open();
        let (digest, bytes) = content(1, 1000);
        leave(&store, &digest, 2000, &bytes);
        drop(store);
        let part = place.partials().into_iter().find(|name| name.ends_with(".part")).unwrap();
        let part = place.path().join("partial").join(part);
        fs::set_permissions(&part, fs::Permissions::from_mode(0o000)).unwrap();
        let store = place.open();
        assert_eq!(store.usage().partials, Amount { count: 1, bytes: 1000 });
        assert_eq!(store.degraded_reason(), None);
        let partial = place.path().join("partial");
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o300)).unwrap();
        store.maintenance.count();
        assert!(store.degraded_reason().is_some_and(|reason| reason.contains("can't be counted")));
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o700)).unwrap();
        store.maintenance.count();
        assert_eq!(store.degraded_reason(), None);
    });
}
