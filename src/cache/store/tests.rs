use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use tempfile::TempDir;

use crate::cache::Counters;
use crate::cache::store::files::now;
use crate::cache::store::head::Head;
use crate::cache::store::store::Usage;
use crate::cache::store::*;
use crate::clock;
use crate::config;
use crate::config::MinFree;
use crate::proto::Digest;

struct Place {
    dir: TempDir,
    max_size: u64,
    free: Arc<AtomicU64>,
    counters: Arc<Counters>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, max_size: 1 << 30, free: Arc::new(AtomicU64::new(u64::MAX)), counters: Arc::default() }
    }

    /// A place for `bytes` of blobs.
    fn of(bytes: u64) -> Self {
        Self { max_size: bytes * 20 / 19, ..Self::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Opens the store, and waits until the disk is scanned.
    fn open(&self) -> Arc<Store> {
        let store = self.open_at(self.path());
        store.flush();
        store
    }

    fn open_at(&self, path: PathBuf) -> Arc<Store> {
        let settings = config::Cache {
            path,
            max_size: self.max_size,
            min_free: MinFree::Bytes(1000),
            max_object: u64::MAX,
            verify_after: config::limits::VERIFY_AFTER,
            prefetch: false,
            keep: Vec::new(),
        };
        let free = self.free.clone();
        let space = move |_: &Path| Ok((free.load(Ordering::Relaxed), u64::MAX));
        Store::open_on(&settings, self.counters.clone(), Box::new(space))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(&digest.encoded()[..2]).join(digest.encoded())
    }

    fn partials(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().join("partial")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Returns the bytes that all files take on the disk.
    fn taken(&self) -> u64 {
        fn walk(path: &Path) -> u64 {
            let known = fs::symlink_metadata(path).unwrap();
            let own = known.blocks() * 512;
            if !known.is_dir() {
                return own;
            }
            fs::read_dir(path).unwrap().map(|entry| walk(&entry.unwrap().path())).sum()
        }
        walk(&self.path())
    }
}

/// Returns content of `length` bytes that differs by `seed`, and its digest.
fn content(seed: u64, length: usize) -> (Digest, Vec<u8>) {
    let mut bytes = vec![seed as u8; length];
    let seed = seed.to_le_bytes();
    let head = length.min(8);
    bytes[..head].copy_from_slice(&seed[..head]);
    (name(&bytes), bytes)
}

fn name(bytes: &[u8]) -> Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    Digest::sha256(hash.as_ref().try_into().unwrap())
}

fn begin(store: &Store, digest: &Digest, length: u64) -> Option<Partial> {
    store.begin("hub", digest, Some(length), None)
}

fn put(store: &Store, seed: u64, length: usize) -> Digest {
    let (digest, bytes) = content(seed, length);
    let partial = begin(store, &digest, length as u64).expect("it should be kept");
    partial.write(0, &bytes).unwrap();
    partial.commit(&digest, length as u64).unwrap();
    digest
}

fn leave(store: &Store, digest: &Digest, total: u64, bytes: &[u8]) {
    let partial = begin(store, digest, total).unwrap();
    partial.write(0, bytes).unwrap();
    partial.leave(bytes.len() as u64);
}

fn read(content: &Content) -> Vec<u8> {
    let mut bytes = vec![0; content.length as usize];
    content.file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn has_blob(store: &Store, digest: &Digest) -> bool {
    store.content(Kind::Blob, digest).is_some()
}

fn set_times(path: &Path, used: u64, modified: u64) {
    let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let times = fs::FileTimes::new().set_accessed(time(used)).set_modified(time(modified));
    fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

mod broken_places;
mod damaged;
mod leaving;
mod unsynced;
mod waiting;
mod keeping {
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
                partial.discard()
            } else {
                drop(partial)
            }
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
}

mod resuming {
    use super::*;

    #[test]
    fn a_partial_is_resumed_even_after_a_restart() {
        let place = Place::new();
        let mut store = place.open();
        let (digest, bytes) = content(1, 1000);
        let etag = HeaderValue::from_static("\"x\"");
        let partial = store.begin("hub", &digest, Some(1000), Some(&etag)).unwrap();
        partial.write(0, &bytes[..400]).unwrap();
        let reader = partial.file().clone();
        partial.leave(400);
        for (restart, at) in [(false, 400), (true, 500), (false, 600)] {
            if restart {
                drop(store);
                store = place.open_at(place.path());
            }
            let partial = store.resume("hub", &digest).expect("it was left");
            assert_eq!(partial.resumed_at(), at);
            assert_eq!(partial.head(), (Some(1000), Some(HeaderValue::from_static("\"x\""))));
            assert_eq!(store.usage().partials.count, 0);
            partial.write(at, &bytes[at as usize..][..100]).unwrap();
            partial.leave(at + 100);
        }
        store.flush();
        let partial = store.resume("hub", &digest).unwrap();
        assert!(store.resume("hub", &digest).is_none(), "it is taken");
        partial.write(700, &bytes[700..]).unwrap();
        assert_eq!(read(&partial.commit(&digest, 1000).unwrap()), bytes);
        assert!(place.partials().is_empty());
        let mut start = [0; 400];
        reader.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(start, bytes[..400]);
    }

    #[test]
    fn a_partial_belongs_to_its_upstream() {
        let place = Place::new();
        let store = place.open();
        let (digest, bytes) = content(1, 10);
        leave(&store, &digest, 100, &bytes);
        for _ in 0..2 {
            assert!(store.resume("other", &digest).is_none());
            store.flush();
        }
        assert!(store.resume("hub", &digest).is_some());
    }

    #[test]
    fn unsynced_bytes_are_cut_off_after_a_crash() {
        let place = Place::new();
        let store = place.open();
        let (digest, bytes) = content(1, 1000);
        leave(&store, &digest, 2000, &bytes);
        drop(store);
        let part = place
            .path()
            .join("partial")
            .join(place.partials().iter().find(|name| name.ends_with(".part")).unwrap());
        fs::write(&part, [&bytes[..], &[0; 500]].concat()).unwrap();
        let store = place.open_at(place.path());
        assert_eq!(store.resume("hub", &digest).unwrap().resumed_at(), 1000);
    }

    #[test]
    fn the_head_is_updated_every_64_mib() {
        let place = Place::new();
        let store = place.open();
        let (digest, _) = content(1, 10);
        let mut partial = begin(&store, &digest, 1 << 29).unwrap();
        let noted = |place: &Place| {
            store.flush();
            let name = place.partials().into_iter().find(|name| name.ends_with(".head")).unwrap();
            let head = fs::read_to_string(place.path().join("partial").join(name)).unwrap();
            head.lines().find_map(|line| line.strip_prefix("dockgate-reached: ")).unwrap().to_owned()
        };
        assert_eq!(noted(&place), "0");
        for (at, expected) in
            [(1 << 20, 0), (64 << 20, 64 << 20), (100 << 20, 64 << 20), (130 << 20, 130 << 20)]
        {
            partial.reached(at);
            assert_eq!(noted(&place), expected.to_string());
        }
    }

    #[test]
    fn the_room_for_the_rest_is_given_back() {
        let place = Place::new();
        let store = place.open();
        let (digest, bytes) = content(1, 10_000);
        let partial = begin(&store, &digest, 64 << 20).unwrap();
        partial.write(0, &bytes).unwrap();
        partial.leave(10_000);
        assert_eq!(store.usage().reserved, 0);
        store.flush();
        assert!(place.taken() < 1 << 20, "{}", place.taken());
    }

    #[test]
    fn the_last_byte_is_always_asked_for() {
        let place = Place::new();
        let (digest, bytes) = content(1, 100);
        let store = place.open();
        leave(&store, &digest, 100, &bytes);
        let resumed = store.resume("hub", &digest).unwrap();
        assert_eq!(resumed.resumed_at(), 99);
        resumed.leave(100);
        drop(store);
        let store = place.open();
        let resumed = store.resume("hub", &digest).unwrap();
        assert_eq!(resumed.resumed_at(), 99);
        resumed.write(99, &bytes[99..]).unwrap();
        assert_eq!(read(&resumed.commit(&digest, 100).unwrap()), bytes);
    }

    #[test]
    fn the_number_of_partials_is_limited() {
        let place = Place::new();
        let store = place.open();
        let blobs = [1, 2, 3].map(|seed| content(seed, 100));
        for (age, (digest, bytes)) in blobs.iter().enumerate() {
            leave(&store, digest, 200, bytes);
            store.flush();
            let name = store.index.partials_of(&stem(digest)).unwrap().remove(0);
            store.index.found_partial(&name, 100, age as u64);
        }
        let victims = store.index.evict_partials(2);
        assert_eq!(victims.len(), 1);
        store.space.remove_victims(victims);
        let there = blobs.map(|(digest, _)| store.resume("hub", &digest).is_some());
        assert_eq!(there, [false, true, true], "the oldest went");
    }

    fn stem(digest: &Digest) -> String {
        Head::new("hub", digest, None, None).stem()
    }

    #[test]
    fn leaving_nothing_is_discarding() {
        let place = Place::new();
        let store = place.open();
        let (digest, _) = content(1, 10);
        begin(&store, &digest, 10).unwrap().leave(0);
        assert!(place.partials().is_empty());
    }
}

mod evicting {
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
}

mod two_processes {
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
        assert!(
            reason.contains(&format!("another process (PID {}) uses it", std::process::id())),
            "{reason}"
        );
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
        assert_eq!(taken.resumed_at(), 1000);
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
}

mod others {
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
        let name =
            place.partials().into_iter().find_map(|name| name.strip_suffix(".part").map(str::to_owned));
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
}

mod after_a_crash {
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
}

mod degraded {
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
}
