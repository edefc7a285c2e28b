//! Changes that workers have made, and that the disk does not have yet.

use std::thread;

use super::*;
use crate::worker_id;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` on a thread that answers requests.
fn on_worker<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let worker = || {
        worker_id::answer();
        work()
    };
    thread::scope(|scope| scope.spawn(worker).join().unwrap())
}

/// Lets all changes of files wait until the result is dropped. Reads do not.
fn frozen(directory: &TempDir) -> faults::Ordered {
    faults::order(directory.path(), &[files::Access::Write, files::Access::Change], Fault::Hang)
}

#[test]
fn changes_count_before_the_disk_has_them() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine, latest) = (open(&directory), repository("alpine"), tag("latest"));
    ledger.point(&alpine, &latest, &pointer(1));
    ledger.hold(&alpine, Kind::Blob, &digest(1), &held(1));
    let fault = frozen(&directory);
    on_worker(|| {
        ledger.point(&alpine, &latest, &pointer(2));
        ledger.hold(&alpine, Kind::Blob, &digest(2), &held(2));
        ledger.release(&alpine, Kind::Blob, &digest(1));
        ledger.note_served(&digest(2));
        ledger.hold(&repository("new"), Kind::Manifest, &digest(3), &held(3));
    });
    let look = || {
        assert_eq!(ledger.tag(&alpine, &latest), Some(pointer(2)));
        assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(1)), None);
        assert_eq!(ledger.held(&alpine, Kind::Blob, &digest(2)), Some(held(2)));
        assert!(ledger.served(&digest(2)));
    };
    on_worker(look);
    look();
    assert_eq!(ledger.blobs(&alpine), [digest(2)]);
    assert_eq!(names(&ledger), ["alpine", "new"]);
    assert_eq!(open(&directory).tag(&alpine, &latest), Some(pointer(1)), "the disk has none of it");
    drop(fault);
    assert!(ledger.shared.disk.flush(PATIENCE));
    look();
    assert!(ledger.shared.tags.changes(ledger.number, &alpine, Place::Tags).is_empty(), "nothing waits");
    let next = open(&directory);
    assert_eq!((next.tag(&alpine, &latest), next.blobs(&alpine)), (Some(pointer(2)), vec![digest(2)]));
}

#[test]
fn records_are_read_while_others_wait_for_the_disk() {
    let directory = TempDir::new().unwrap();
    let (writer, alpine) = (open(&directory), repository("alpine"));
    // So many that each lock has some.
    for number in 0..=u8::MAX {
        writer.hold(&alpine, Kind::Blob, &digest(number), &held(1));
    }
    let reader = open(&directory);
    let fault = frozen(&directory);
    on_worker(|| reader.hold(&repository("other"), Kind::Blob, &digest(1), &held(2)));
    while fault.met() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let begun = clock::now();
    for number in 0..=u8::MAX {
        assert_eq!(reader.held(&alpine, Kind::Blob, &digest(number)), Some(held(1)), "{number}");
    }
    assert!(clock::now() - begun < PATIENCE);
    drop(fault);
    assert!(reader.shared.disk.flush(PATIENCE));
}

#[test]
fn the_newest_of_many_changes_is_what_stays() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    // Each thread has tags of its own, so that it knows what it must read. Others read them as well.
    let play = |number: u8| {
        if number < 3 {
            worker_id::answer();
        }
        for round in 0..200_u8 {
            let tag = tag(&format!("t{number}-{}", round % 3));
            let expected = (round % 5 != 4).then(|| pointer(round));
            match &expected {
                Some(pointer) => ledger.point(&alpine, &tag, pointer),
                None => ledger.forget_tag(&alpine, &tag),
            }
            assert_eq!(ledger.tag(&alpine, &tag), expected, "{number} {round}");
            for other in 0..5 {
                let _ = ledger.tag(&alpine, &Tag::parse(&format!("t{other}-{}", round % 3)).unwrap());
            }
        }
    };
    thread::scope(|scope| (0..5).for_each(|number| drop(scope.spawn(move || play(number)))));
    assert!(ledger.shared.disk.flush(PATIENCE));
    let next = open(&directory);
    for number in 0..5 {
        // The last rounds are 197, 198 and 199, which removes.
        for (name, round) in [(2, Some(197)), (0, Some(198)), (1, None)] {
            let tag = tag(&format!("t{number}-{name}"));
            let expected = round.map(pointer);
            assert_eq!((ledger.tag(&alpine, &tag), next.tag(&alpine, &tag)), (expected.clone(), expected));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_written_is_looked_up_again() {
    let directory = TempDir::new().unwrap();
    let (ours, theirs, alpine) = (open(&directory), open(&directory), repository("alpine"));
    on_worker(|| ours.hold(&alpine, Kind::Blob, &digest(1), &held(1)));
    assert!(ours.shared.disk.flush(PATIENCE));
    theirs.release(&alpine, Kind::Blob, &digest(1));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(ours.held(&alpine, Kind::Blob, &digest(1)), None, "another process has removed it");
}

#[test]
fn what_is_removed_by_hand_is_not_written_after() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    let fault = faults::order(directory.path(), &[files::Access::Write], Fault::Slow(PATIENCE / 100));
    on_worker(|| {
        for number in 0..20 {
            ledger.hold(&alpine, Kind::Blob, &digest(number), &held(1));
        }
    });
    ledger.remove(&alpine).unwrap();
    drop(fault);
    assert!(ledger.shared.disk.flush(PATIENCE));
    assert_eq!((ledger.blobs(&alpine), open(&directory).blobs(&alpine)), (vec![], vec![]));
}

#[test]
fn lists_are_forgotten_before_the_disk_has_removed_them() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine, name) = (open(&directory), repository("alpine"), ListName::of("/tags"));
    ledger.keep_list(&alpine, &name, b"old");
    let fault = frozen(&directory);
    on_worker(|| ledger.forget_lists(&alpine));
    assert_eq!(ledger.list(&alpine, &name), None);
    drop(fault);
    assert!(ledger.shared.disk.flush(PATIENCE));
    ledger.keep_list(&alpine, &name, b"new");
    assert_eq!(ledger.list(&alpine, &name).as_deref(), Some(&b"new"[..]));
}

#[test]
fn where_too_much_waits_changes_count_in_memory() {
    let directory = TempDir::new().unwrap();
    let (ledger, alpine) = (open(&directory), repository("alpine"));
    let fault = frozen(&directory);
    let hash = |number: usize| {
        let number = u64::try_from(number).unwrap().to_be_bytes();
        Digest::sha256(&[number; 4].concat().try_into().unwrap())
    };
    let many = limits::DISK_LATER + 100;
    on_worker(|| (0..many).for_each(|number| ledger.hold(&alpine, Kind::Blob, &hash(number), &held(1))));
    assert!(ledger.shared.held.changes(ledger.number, &alpine, Place::Blobs).len() <= limits::DISK_LATER + 1);
    on_worker(|| {
        for number in [0, many / 2, many - 1] {
            assert_eq!(ledger.held(&alpine, Kind::Blob, &hash(number)), Some(held(1)), "{number}");
        }
    });
    drop(fault);
    assert!(ledger.shared.disk.flush(PATIENCE));
}
