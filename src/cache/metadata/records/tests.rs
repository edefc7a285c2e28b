use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::cache::metadata::records::*;
use crate::cache::store::faults::{self, Fault};
use crate::cache::store::files;
use crate::clock;
use crate::proto::MediaType;

const GIB: u64 = 1 << 30;
/// The error of a full disk.
const ENOSPC: i32 = 28;
const HUB: &str = "https://registry-1.docker.io";

fn repository(name: &str) -> RepositoryName {
    RepositoryName::parse(name).unwrap()
}

fn tag(name: &str) -> Tag {
    Tag::parse(name).unwrap()
}

fn digest(number: u8) -> Digest {
    Digest::sha256(&[number; 32])
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn held(seconds: u64) -> Membership {
    Membership {
        media_type: Some(MediaType::parse("application/json").unwrap()),
        size: Some(1),
        confirmed: at(seconds),
    }
}

fn pointer(number: u8) -> TagRecord {
    TagRecord { digest: digest(number), confirmed: at(1) }
}

/// Opens the records of `docker.io` in a directory, as one process does.
fn open(directory: &TempDir) -> Ledger {
    Records::new(directory.path().join("records"), Access::full(), GIB).ledger("docker.io", HUB)
}

fn fill(ledger: &Ledger, names: &[&str]) {
    for name in names {
        ledger.hold(&repository(name), Kind::Blob, &digest(1), &held(1));
    }
}

fn names(ledger: &Ledger) -> Vec<String> {
    ledger.repositories().iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_held_and_pointed_to_is_known_to_the_next_process() {
    let directory = TempDir::new().unwrap();
    let (first, alpine) = (open(&directory), repository("library/alpine"));
    first.hold(&alpine, Kind::Blob, &digest(1), &held(7));
    first.point(&alpine, &tag("latest"), &pointer(2));
    for ledger in [first, open(&directory)] {
        assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(1)), Some(held(7)));
        assert_eq!(ledger.held(&alpine, Kind::Manifest, &digest(1)), None, "a blob is no manifest");
        assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(2)), None);
        assert_eq!(ledger.held(&repository("library"), Kind::Blob, &digest(1)), None);
        assert_eq!(ledger.tag(&alpine, &tag("latest")), Some(pointer(2)));
        assert_eq!(ledger.tag(&alpine, &tag("Latest")), None);
    }
}

#[test]
fn what_an_upstream_has_served_is_known_to_the_next_process_and_of_no_repository() {
    let directory = TempDir::new().unwrap();
    let (first, alpine) = (open(&directory), repository("library/alpine"));
    assert!(!first.served(&digest(1)));
    first.note_served(&digest(1));
    first.hold(&alpine, Kind::Blob, &digest(2), &held(7));
    first.remove(&alpine).unwrap();
    for ledger in [first, open(&directory)] {
        assert!(ledger.served(&digest(1)) && !ledger.served(&digest(2)));
        assert!(ledger.repositories().is_empty());
    }
    let other = Records::new(directory.path().join("records"), Access::full(), GIB);
    assert!(!other.ledger("ghcr.io", "https://ghcr.io").served(&digest(1)), "another upstream's word");
}

#[test]
fn records_are_files_for_the_owner_alone() {
    let directory = TempDir::new().unwrap();
    let ledger = open(&directory);
    ledger.hold(&repository("a/b"), Kind::Manifest, &digest(1), &held(784_111_777));
    ledger.point(&repository("a/b"), &tag("_upstream"), &pointer(1));
    let mode = |path: &str| {
        let metadata = fs::metadata(directory.path().join("records").join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    let file = format!("docker.io/a/b/_manifests/sha256/+01/{}", "01".repeat(32));
    let tag_file = format!("docker.io/a/b/_tags/{}", tag("_upstream").path());
    for path in ["", "docker.io", "docker.io/_tmp", "docker.io/a/b/_manifests/sha256/+01"] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    for path in ["docker.io/_upstream", &file, &tag_file] {
        assert_eq!(mode(path), 0o600, "{path}");
    }
    let text = fs::read_to_string(directory.path().join("records").join(file)).unwrap();
    assert_eq!(
        text,
        "Content-Type: application/json\nContent-Length: 1\nLast-Confirmed: Sun, 06 Nov 1994 08:49:37 GMT\n\n"
    );
    assert_eq!(fs::read_dir(directory.path().join("records/docker.io/_tmp")).unwrap().count(), 0);
}

#[test]
fn what_is_released_is_gone_for_all() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    ledger.hold(&alpine, Kind::Blob, &digest(1), &held(7));
    ledger.point(&alpine, &tag("latest"), &pointer(2));
    ledger.release(&alpine, Kind::Blob, &digest(1));
    ledger.release(&alpine, Kind::Blob, &digest(9));
    ledger.forget_tag(&alpine, &tag("latest"));
    for ledger in [ledger, open(&directory)] {
        assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(1)), None);
        assert_eq!(ledger.tag(&alpine, &tag("latest")), None);
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_another_process_are_seen_within_a_minute() {
    let directory = TempDir::new().unwrap();
    let (ours, theirs, alpine) = (open(&directory), open(&directory), repository("alpine"));
    ours.hold(&alpine, Kind::Blob, &digest(1), &held(7));
    ours.point(&alpine, &tag("latest"), &pointer(1));
    theirs.release(&alpine, Kind::Blob, &digest(1));
    theirs.point(&alpine, &tag("latest"), &pointer(2));
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(ours.held(&alpine, Kind::Blob, &digest(1)).is_some(), "not looked up each time");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ours.held(&alpine, Kind::Blob, &digest(1)), None);
    assert_eq!(ours.tag(&alpine, &tag("latest")), Some(pointer(2)));
}

#[test]
fn what_others_write_is_seen_at_once_where_there_was_nothing() {
    let directory = TempDir::new().unwrap();
    let (ours, theirs, alpine) = (open(&directory), open(&directory), repository("alpine"));
    assert_eq!(ours.held(&alpine, Kind::Blob, &digest(1)), None);
    theirs.hold(&alpine, Kind::Blob, &digest(1), &held(7));
    assert_eq!(ours.held(&alpine, Kind::Blob, &digest(1)), Some(held(7)));
}

#[test]
fn another_registry_under_the_same_name_has_nothing_of_the_first() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let (records, alpine) = (Records::new(root.clone(), Access::full(), GIB), repository("alpine"));
    let before = records.ledger("docker.io", HUB);
    before.hold(&alpine, Kind::Blob, &digest(1), &held(7));
    let after = records.ledger("docker.io", "https://mirror.example.com");
    assert_eq!(after.held(&alpine, Kind::Blob, &digest(1)), None);
    assert_eq!(after.blobs(&alpine), []);
    assert_eq!(records.upstreams(), [("docker.io".to_owned(), HUB.to_owned())], "to look changes nothing");
    after.hold(&alpine, Kind::Blob, &digest(2), &held(8));
    assert_eq!(records.upstreams(), [("docker.io".to_owned(), "https://mirror.example.com".to_owned())]);
    before.hold(&alpine, Kind::Blob, &digest(3), &held(9));
    assert_eq!(before.held(&alpine, Kind::Blob, &digest(3)), Some(held(9)), "in memory alone");
    assert_eq!(after.blobs(&alpine), [digest(2)], "who comes later has the directory");
    let again = records.ledger("docker.io", HUB);
    assert_eq!(again.held(&alpine, Kind::Blob, &digest(1)), None, "gone is gone");
    assert_eq!(again.blobs(&alpine), []);
    let is_clean = |_| {
        records.count(&|| false);
        fs::read_dir(&root).unwrap().all(|entry| entry.unwrap().file_name() == "docker.io")
    };
    assert!((0..1000).any(is_clean), "they are being removed in the background as well");
}

#[test]
fn nothing_is_touched_where_nothing_may_be() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let alpine = repository("alpine");
    fill(&open(&directory), &["alpine"]);
    let file = root.join("docker.io/alpine/_blobs").join(digest(1).path());
    let records = Records::new(root, Access::default(), GIB);
    let ledger = records.ledger("docker.io", HUB);
    assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(1)), None);
    ledger.release(&alpine, Kind::Blob, &digest(1));
    ledger.hold(&alpine, Kind::Blob, &digest(2), &held(1));
    assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(2)), Some(held(1)), "in memory");
    ledger.remove(&alpine).unwrap();
    records.count(&|| false);
    assert!(records.upstreams().is_empty() && ledger.repositories().is_empty());
    assert!(file.exists());
    assert_eq!(open(&directory).blobs(&alpine), [digest(1)]);
}

#[test]
fn the_same_upstream_is_one_ledger() {
    let directory = TempDir::new().unwrap();
    let records = Records::new(directory.path().to_owned(), Access::full(), GIB);
    let (one, other) = (records.ledger("docker.io", HUB), records.ledger("docker.io", HUB));
    fill(&one, &["alpine"]);
    fs::remove_dir_all(directory.path().join("docker.io")).unwrap();
    assert!(other.held(&repository("alpine"), Kind::Blob, &digest(1)).is_some(), "one memory");
    let elsewhere = records.ledger("quay.io", HUB);
    assert_eq!(elsewhere.held(&repository("alpine"), Kind::Blob, &digest(1)), None);
}

#[test]
fn where_nothing_can_be_written_records_live_in_memory() {
    let directory = TempDir::new().unwrap();
    let alpine = repository("alpine");
    fs::write(directory.path().join("records"), "in the way").unwrap();
    let ledger = open(&directory);
    ledger.hold(&alpine, Kind::Blob, &digest(1), &held(7));
    ledger.hold(&alpine, Kind::Blob, &digest(2), &held(7));
    ledger.release(&alpine, Kind::Blob, &digest(2));
    assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(1)), Some(held(7)));
    assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(2)), None);
    fs::remove_file(directory.path().join("records")).unwrap();
    ledger.hold(&alpine, Kind::Blob, &digest(1), &held(8));
    assert_eq!(open(&directory).held(&alpine, Kind::Blob, &digest(1)), Some(held(8)), "and recovers");
}

#[test]
fn changes_that_the_disk_refused_are_written_later() {
    let directory = TempDir::new().unwrap();
    let records = Records::new(directory.path().join("records"), Access::full(), GIB);
    let (ledger, alpine, latest) = (records.ledger("docker.io", HUB), repository("alpine"), tag("latest"));
    ledger.hold(&alpine, Kind::Blob, &digest(1), &held(1));
    assert!(!records.must_be_written());
    let full =
        faults::order(directory.path(), &[files::Access::Write, files::Access::Change], Fault::Fail(ENOSPC));
    ledger.hold(&alpine, Kind::Blob, &digest(2), &held(2));
    ledger.hold(&alpine, Kind::Blob, &digest(3), &held(3));
    ledger.release(&alpine, Kind::Blob, &digest(1));
    ledger.note_served(&digest(2));
    ledger.point(&alpine, &latest, &pointer(2));
    records.write_unwritten(&|| false);
    assert!(records.shared.has_unwritten.load(Ordering::Relaxed), "the disk is full still");
    assert_eq!(open(&directory).blobs(&alpine), [digest(1)]);
    drop(full);
    ledger.hold(&alpine, Kind::Blob, &digest(3), &held(4));
    records.write_unwritten(&|| false);
    assert!(!records.shared.has_unwritten.load(Ordering::Relaxed));
    let next = open(&directory);
    assert_eq!(next.held(&alpine, Kind::Blob, &digest(1)), None);
    assert_eq!(next.held(&alpine, Kind::Blob, &digest(2)), Some(held(2)));
    assert_eq!(next.held(&alpine, Kind::Blob, &digest(3)), Some(held(4)), "the newest");
    assert_eq!((next.served(&digest(2)), next.tag(&alpine, &latest)), (true, Some(pointer(2))));
}

#[test]
fn another_registrys_records_that_could_not_be_put_aside_are_not_read() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let alpine = repository("alpine");
    fill(&open(&directory), &["alpine"]);
    fs::remove_file(root.join("docker.io/_upstream")).unwrap();
    fs::create_dir(root.join("docker.io/_upstream")).unwrap();
    let ledger = Directory::open(&root, "docker.io", HUB, Access::full(), Arc::new(RecordRoom::new(GIB)));
    assert_eq!(ledger.read(Some(&alpine), Place::Blobs, &digest(1)).unwrap(), None);
    assert!(ledger.write(Some(&alpine), Place::Blobs, &digest(2), b"\n").is_ok(), "put aside in the end");
    assert_eq!(ledger.digests(&alpine, Place::Blobs), [digest(2)]);
}

#[test]
fn what_cannot_be_removed_counts_for_nothing_all_the_same() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    ledger.point(&alpine, &tag("latest"), &pointer(1));
    let file = directory.path().join("records/docker.io/alpine/_tags").join(tag("latest").path());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    ledger.forget_tag(&alpine, &tag("latest"));
    fs::remove_dir(&file).unwrap();
    fs::write(&file, pointer(1).render()).unwrap();
    assert_eq!(ledger.tag(&alpine, &tag("latest")), None);
    ledger.point(&alpine, &tag("latest"), &pointer(2));
    assert_eq!(ledger.tag(&alpine, &tag("latest")), Some(pointer(2)));
}

#[test]
fn a_broken_record_is_none_and_is_removed() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    ledger.point(&alpine, &tag("latest"), &pointer(1));
    let file = directory.path().join("records/docker.io/alpine/_tags").join(tag("latest").path());
    let whole = fs::read(&file).unwrap();
    for broken in [&whole[..whole.len() - 1], b"", &[0; 64], &[b'x'; 100_000]] {
        fs::write(&file, broken).unwrap();
        assert_eq!(open(&directory).tag(&alpine, &tag("latest")), None);
        assert!(!file.exists());
    }
}

#[test]
fn a_digest_too_long_for_a_file_name_lives_in_memory() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    let long = Digest::parse(&format!("other:{}", "a".repeat(400))).unwrap();
    assert_eq!(ledger.held(&alpine, Kind::Blob, &long), None);
    ledger.hold(&alpine, Kind::Blob, &long, &held(1));
    assert_eq!(ledger.held(&alpine, Kind::Blob, &long), Some(held(1)));
    ledger.release(&alpine, Kind::Blob, &long);
    assert_eq!(ledger.held(&alpine, Kind::Blob, &long), None);
}

#[test]
fn tags_manifests_and_blobs_are_listed_in_order() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    for name in ["b", "_tmp", "B", "1.10", "1.9", "a"] {
        ledger.point(&alpine, &tag(name), &pointer(1));
    }
    let sha512 = Digest::sha512(&[1; 64]);
    for digest in [digest(9), sha512.clone(), digest(3)] {
        ledger.hold(&alpine, Kind::Manifest, &digest, &held(1));
    }
    ledger.hold(&alpine, Kind::Blob, &digest(4), &held(1));
    fs::write(directory.path().join("records/docker.io/alpine/_tags/.swp"), "not ours").unwrap();
    fs::write(directory.path().join("records/docker.io/alpine/_manifests/file"), "not ours").unwrap();
    let tags = ledger.tags(&alpine).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(tags, ["1.10", "1.9", "B", "_tmp", "a", "b"]);
    assert_eq!(ledger.manifests(&alpine), [digest(3), digest(9), sha512]);
    assert_eq!(ledger.blobs(&alpine), [digest(4)]);
    assert_eq!(ledger.tags(&repository("other")), []);
}

#[test]
fn repositories_with_records_are_listed() {
    let directory = TempDir::new().unwrap();
    let ledger = open(&directory);
    assert_eq!(names(&ledger), [""; 0]);
    fill(&ledger, &["library/alpine", "library", "a/b/c", "blobs", "gone"]);
    ledger.release(&repository("gone"), Kind::Blob, &digest(1));
    assert_eq!(names(&ledger), ["a/b/c", "blobs", "library", "library/alpine"]);
}

#[test]
fn a_repository_is_removed_without_those_below_it() {
    let directory = TempDir::new().unwrap();
    let ledger = open(&directory);
    fill(&ledger, &["library", "library/alpine", "a/b/c"]);
    ledger.point(&repository("library"), &tag("latest"), &pointer(1));
    assert_eq!(ledger.remove(&repository("library")).unwrap(), 2);
    assert_eq!(ledger.remove(&repository("a/b/c")).unwrap(), 1);
    assert_eq!(ledger.remove(&repository("a/b/c")).unwrap(), 0);
    assert_eq!(names(&ledger), ["library/alpine"]);
    assert!(!directory.path().join("records/docker.io/a").exists());
    assert_eq!(ledger.held(&repository("library"), Kind::Blob, &digest(1)), None);
    assert_eq!(ledger.tag(&repository("library"), &tag("latest")), None);
    assert!(ledger.held(&repository("library/alpine"), Kind::Blob, &digest(1)).is_some());
}

#[test]
fn records_are_counted_and_leftovers_removed() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let records = Records::new(root.clone(), Access::full(), GIB);
    let counted = || {
        records.count(&|| false);
        records.amount()
    };
    assert_eq!(counted().count, 0);
    let ledger = records.ledger("docker.io", HUB);
    fill(&ledger, &["a", "b", "a"]);
    ledger.point(&repository("a"), &tag("x"), &pointer(1));
    assert_eq!(records.amount().count, 3);
    let (old, new) = (root.join("docker.io/_tmp/old"), root.join("docker.io/_tmp/new"));
    let file = fs::File::create(&old).unwrap();
    file.set_modified(clock::wall() - Duration::from_secs(7200)).unwrap();
    fs::write(&new, "").unwrap();
    fs::create_dir_all(root.join("~gone-1/a/_tags")).unwrap();
    fs::write(root.join("~gone-1/a/_tags/x"), "").unwrap();
    let (before, after) = (records.amount(), counted());
    assert_eq!(after.count, 3);
    assert_eq!(after.bytes, taken(&root));
    assert!(before.bytes.abs_diff(after.bytes) <= 4 * RECORD_BYTES, "{before:?} {after:?}");
    assert!(!old.exists() && new.exists() && !root.join("~gone-1").exists());
    ledger.forget_tag(&repository("a"), &tag("x"));
    ledger.forget_tag(&repository("a"), &tag("x"));
    assert_eq!(records.amount().count, 2);
    assert_eq!(counted().count, 2);
    assert!(!root.join("docker.io/a/_tags").exists(), "empty directories go");
}

#[test]
fn many_at_once_agree() {
    let directory = TempDir::new().unwrap();
    let (ours, theirs, alpine) = (open(&directory), open(&directory), repository("alpine"));
    std::thread::scope(|scope| {
        for (number, ledger) in [&ours, &theirs, &ours, &theirs].into_iter().enumerate() {
            let alpine = &alpine;
            scope.spawn(move || {
                for round in 0..200u8 {
                    ledger.point(alpine, &tag("latest"), &pointer(round));
                    assert!(ledger.tag(alpine, &tag("latest")).is_some(), "never half a record");
                    ledger.hold(alpine, Kind::Blob, &digest(round), &held(number as u64));
                    if round % 2 == 1 {
                        ledger.release(alpine, Kind::Blob, &digest(round));
                    }
                }
            });
        }
    });
    assert_eq!(ours.blobs(&alpine).len(), 100);
    assert_eq!(fs::read_dir(directory.path().join("records/docker.io/_tmp")).unwrap().count(), 0);
}

/// Returns what the records below a directory take of the disk, with their directories.
fn taken(path: &std::path::Path) -> u64 {
    let metadata = path.symlink_metadata().unwrap();
    let below = fs::read_dir(path).into_iter().flatten().map(|entry| taken(&entry.unwrap().path()));
    room::amount(&metadata).bytes + below.sum::<u64>()
}

#[test]
fn records_never_take_more_than_their_share() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let mut records = Records::new(root.clone(), Access::full(), 4 << 20);
    let full = Arc::new(AtomicBool::new(false));
    let noted = full.clone();
    records.call_when_full(move || noted.store(true, Ordering::Relaxed));
    let ledger = records.ledger("docker.io", HUB);
    let mut most = 0;
    let hash = |number: u16| Digest::sha256(&[number.to_be_bytes(); 16].concat().try_into().unwrap());
    for number in 0..600_u16 {
        let name = repository(&format!("team/{}", number % 7));
        ledger.hold(&name, Kind::Blob, &hash(number), &held(1));
        ledger.point(&name, &tag(&format!("v{number}")), &pointer(1));
        ledger.note_served(&hash(number));
        assert_eq!(ledger.held(&name, Kind::Blob, &hash(number)), Some(held(1)), "in memory at least");
        if number % 50 == 49 {
            most = most.max(taken(&root));
        }
        if full.swap(false, Ordering::Relaxed) {
            records.count(&|| false);
        }
    }
    assert!((512 << 10..=1 << 20).contains(&most), "{most}");
    let last = repository(&format!("team/{}", 599 % 7));
    let fresh = Records::new(root.clone(), Access::full(), 4 << 20).ledger("docker.io", HUB);
    assert!(fresh.held(&last, Kind::Blob, &hash(599)).is_some(), "the youngest stay");
    assert!(fresh.held(&repository("team/0"), Kind::Blob, &hash(0)).is_none(), "the oldest go");
    assert!(fresh.tags(&last).contains(&tag("v599")) && !fresh.served(&hash(0)));
    // A process that never removes writes no more than that either.
    records = Records::new(root.clone(), Access::full(), 4 << 20);
    records.count(&|| false);
    let ledger = records.ledger("docker.io", HUB);
    (600..1200).for_each(|number| ledger.note_served(&hash(number)));
    assert!(taken(&root) <= 1 << 20, "{}", taken(&root));
}

#[test]
fn kept_lists_count_as_records() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let records = Records::new(root.clone(), Access::full(), 4 << 20);
    let (ledger, alpine) = (records.ledger("docker.io", HUB), repository("alpine"));
    let name = ListName::of("/v2/alpine/tags/list");
    ledger.keep_list(&alpine, &name, &[b' '; 2 << 20]);
    assert_eq!(ledger.list(&alpine, &name), None, "there is no room for it");
    for _ in 0..20 {
        ledger.keep_list(&alpine, &name, &[b' '; 100_000]);
    }
    assert!(ledger.list(&alpine, &name).is_some());
    let bytes = records.amount().bytes;
    assert!((100_000..150_000).contains(&bytes), "{bytes}");
    ledger.forget_lists(&alpine);
    assert!(records.amount().bytes < 50_000 && ledger.list(&alpine, &name).is_none());
}

#[test]
fn records_of_earlier_versions_are_read_and_moved() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let (first, alpine) = (open(&directory), repository("library/alpine"));
    first.hold(&alpine, Kind::Blob, &digest(1), &held(7));
    first.hold(&alpine, Kind::Manifest, &digest(2), &held(7));
    first.note_served(&digest(1));
    // The name of the tag is that of a shard as well.
    let tags = ["3f", "latest", "gone"].map(tag);
    tags.iter().for_each(|tag| first.point(&alpine, tag, &pointer(2)));
    let below = root.join("docker.io/library/alpine");
    let flat = |place: &str, name: &dyn Name| {
        let directory = root.join("docker.io").join(place);
        fs::rename(directory.join(name.path()), directory.join(name.flat_path().unwrap())).unwrap();
    };
    flat("library/alpine/_blobs", &digest(1));
    flat("library/alpine/_manifests", &digest(2));
    flat("_served", &digest(1));
    tags.iter().for_each(|tag| flat("library/alpine/_tags", tag));
    let records = Records::new(root.clone(), Access::full(), GIB);
    let ledger = records.ledger("docker.io", HUB);
    ledger.forget_tag(&alpine, &tags[2]);
    ledger.point(&alpine, &tags[0], &pointer(3));
    for is_moved in [false, true] {
        assert_eq!(ledger.tags(&alpine), tags[..2]);
        assert_eq!((ledger.blobs(&alpine), ledger.manifests(&alpine)), (vec![digest(1)], vec![digest(2)]));
        let ledger = open(&directory);
        assert_eq!(ledger.tag(&alpine, &tags[0]), Some(pointer(3)));
        assert_eq!(ledger.tag(&alpine, &tags[1]), Some(pointer(2)));
        assert_eq!(ledger.tag(&alpine, &tags[2]), None);
        assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(1)), Some(held(7)));
        assert!(ledger.served(&digest(1)));
        assert_eq!(below.join("_tags/latest").exists(), !is_moved);
        records.count(&|| false);
    }
    assert_eq!(records.amount(), Amount { count: 5, bytes: taken(&root) });
    assert!(below.join("_tags").join(tags[1].path()).exists());
}

#[test]
fn the_word_of_what_was_served_is_renewed_by_use() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("records/docker.io/_served").join(digest(1).path());
    open(&directory).note_served(&digest(1));
    for (age, is_renewed) in [(limits::SERVED_RENEWED / 2, false), (limits::SERVED_RENEWED * 2, true)] {
        let confirmed = clock::wall() - age;
        let old = Membership { media_type: None, size: None, confirmed }.render();
        fs::write(&path, &old).unwrap();
        assert!(open(&directory).served(&digest(1)));
        assert_eq!(fs::read(&path).unwrap() != old, is_renewed);
    }
}

#[test]
fn records_unconfirmed_for_a_month_are_removed() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("records");
    let mut records = Records::new(root.clone(), Access::full(), GIB);
    let (ledger, repository) = (records.ledger("docker.io", HUB), repository("a/b"));
    ledger.hold(&repository, Kind::Blob, &digest(1), &held(1));
    ledger.hold(&repository, Kind::Blob, &digest(2), &held(1));
    ledger.note_served(&digest(1));
    let place = |below: &str, number| root.join("docker.io").join(below).join(digest(number).path());
    let (old, served) = (place("a/b/_blobs", 1), place("_served", 1));
    let month = limits::RECORD_LIFE + Duration::from_secs(60);
    for file in [&old, &served] {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(clock::wall() - month).unwrap();
    }
    let count = |records: &Records| records.count(&|| false);
    count(&records);
    assert!(old.exists(), "at the start it is not known what must stay");
    records.opened = clock::now().checked_sub(EXPIRY_AFTER).unwrap();
    records.never_expire();
    count(&records);
    assert!(old.exists(), "nothing goes where an upstream is never asked");
    records.lasting.store(false, Ordering::Relaxed);
    count(&records);
    assert!(!old.exists() && !served.exists());
    assert!(place("a/b/_blobs", 2).exists());
}

#[test]
fn blobs_that_no_disk_took_are_released_too() {
    let directory = TempDir::new().unwrap();
    let records = Records::new(directory.path().to_owned(), Access::full(), 1024);
    let ledger = records.ledger("docker.io", HUB);
    fill(&ledger, &["alpine", "other"]);
    assert!(ledger.held(&repository("alpine"), Kind::Blob, &digest(1)).is_some(), "memory has it");
    ledger.release_blobs(&repository("alpine"));
    assert_eq!(ledger.held(&repository("alpine"), Kind::Blob, &digest(1)), None);
    assert!(ledger.held(&repository("other"), Kind::Blob, &digest(1)).is_some());
}

mod waiting;
