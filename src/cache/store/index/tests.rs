//! The index by itself: its sums, its order, and what it costs.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use crate::cache::store::index::*;
use crate::clock;

const LIMIT: u64 = 1 << 40;

/// Returns some digest for a number.
fn digest(number: u64) -> Digest {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    Digest::sha256(&hash)
}

/// Returns a counted index with blobs of `bytes` each, of which the first was used longest ago.
fn index_of(blobs: u64, bytes: u64) -> Index {
    let index = Index::default();
    index.limit_kept(LIMIT, LIMIT);
    (0..blobs).for_each(|number| index.found(Kind::Blob, &digest(number), bytes, 1000 + number));
    index.note_counted();
    index
}

fn digests(victims: &[Victim]) -> Vec<Digest> {
    let digest = |victim: &Victim| match victim {
        Victim::Content(_, digest, _) => digest.clone(),
        Victim::Partial(name, _) => panic!("{name}"),
    };
    victims.iter().map(digest).collect()
}

#[test]
fn the_order_of_eviction_is_that_of_all_shards() {
    let index = index_of(2000, 10);
    // Blob 3 is being read, and blob 5 was used since.
    index.pin(Kind::Blob, &digest(3), 10, 1003, 1003);
    let (pin, _) = index.pin(Kind::Blob, &digest(5), 10, 9999, 9999);
    index.unpin(Kind::Blob, &digest(5), pin);
    let victims = index.evict_some(100, LIMIT, 0, usize::MAX);
    assert_eq!(digests(&victims), [0, 1, 2, 4, 6, 7, 8, 9, 10, 11].map(digest));
    let victims = index.evict_some(20, LIMIT, 0, 1);
    assert_eq!(digests(&victims), [digest(12)], "as many as are asked for");
    assert_eq!(index.totals().blobs, Amount { count: 1989, bytes: 19_890 });
}

#[test]
fn a_blob_that_cannot_fit_evicts_nothing() {
    let index = index_of(10, 100);
    for number in 0..6 {
        index.pin(Kind::Blob, &digest(number), 100, 0, 0);
    }
    index.keep(&digest(6));
    index.keep(&digest(0));
    assert!(!index.reserve(301, 1000, 0, true));
    let totals = *index.totals();
    assert_eq!((totals.owed, totals.reserved), (0, 0));
    assert!(index.reserve(300, 1000, 0, true));
    assert_eq!(index.totals().owed, 300);
    assert!(!index.reserve(1, 1000, 0, true), "all the rest is promised");
    assert_eq!(index.pay(1000, 0, usize::MAX).len(), 3);
    let totals = *index.totals();
    assert_eq!((totals.owed, totals.used()), (0, 1000));
}

#[test]
fn a_large_blob_evicts_small_ones_by_and_by() {
    let index = index_of(1000, 10);
    assert!(index.reserve(9000, 10_000, 0, true));
    let first = index.pay(10_000, 0, 100);
    let totals = *index.totals();
    assert_eq!((first.len(), totals.owed, totals.used_then()), (100, 8000, 10_000));
    assert!(!index.totals().has_room_for(9000, 10_000));
    assert!(!index.reserve(1, 10_000, 0, false), "there is no room that is not promised");
    let rest = index.pay(10_000, 0, usize::MAX);
    assert_eq!((rest.len(), index.totals().owed), (800, 0));
    first.iter().chain(&rest).for_each(|victim| index.left(victim));
    assert!(index.totals().has_room_for(9000, 10_000));
}

#[test]
fn a_debt_that_readers_prevent_is_forgiven() {
    let index = index_of(10, 100);
    assert!(index.reserve(500, 1000, 0, true));
    for number in 0..9 {
        index.pin(Kind::Blob, &digest(number), 100, 0, 0);
    }
    assert_eq!(index.pay(1000, 0, usize::MAX).len(), 1);
    let totals = *index.totals();
    assert_eq!((totals.owed, totals.used()), (0, 1400));
    assert!(!index.reserve(1, 1000, 0, true), "the limit is exceeded");
}

#[test]
fn entries_that_come_and_go_leave_nothing() {
    let index = index_of(0, 0);
    for round in 0..10_000 {
        index.found(Kind::Blob, &digest(round % 3), 10, round);
        index.keep(&digest(2));
        assert!(index.remove(Kind::Blob, &digest(round % 3)));
    }
    assert_eq!(index.totals().blobs, Amount::default());
    assert_eq!((index.blobs.fixed(), index.keeps_too_much()), (0, false));
    let queued = |shard: &Mutex<Shard>| shard.lock().partition(Kind::Blob).queued();
    assert!(index.shards.iter().map(queued).max() < Some(200));
}

#[test]
fn sums_hold_whatever_happens_at_once() {
    let index = index_of(500, 10);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let index = &index;
            scope.spawn(move || {
                for round in 0..5000_u64 {
                    let digest = digest((round * 7 + thread) % 600);
                    match (round + thread) % 5 {
                        0 => index.found(Kind::Blob, &digest, 10, round),
                        1 => index.keep(&self::digest(round / 5 % 20)),
                        2 if index.reserve(30, 6000, 0, true) => {
                            let victims = index.pay(6000, 0, 8);
                            victims.iter().for_each(|victim| index.left(victim));
                            let held = Held { reserved: 30, ..Held::default() };
                            let (pin, _) = index.pin_placed(Kind::Blob, &digest, 10, 0, 0, held);
                            index.unpin(Kind::Blob, &digest, pin);
                        }
                        3 => drop(index.remove(Kind::Blob, &digest)),
                        _ => {
                            let (pin, _) = index.pin(Kind::Blob, &digest, 10, round, round);
                            index.unpin(Kind::Blob, &digest, pin);
                        }
                    }
                }
            });
        }
    });
    index.begin_scan();
    let there: Vec<_> = index.unseen(Kind::Blob).flatten().collect();
    let totals = index.totals();
    assert_eq!(totals.blobs, Amount { count: there.len() as u64, bytes: 10 * there.len() as u64 });
    assert_eq!((totals.reserved, totals.leaving), (0, 0));
    drop(totals);
    let kept = there.iter().filter(|there| (0..20).any(|number| digest(number) == **there)).count();
    assert_eq!(index.blobs.fixed(), 10 * kept as u64);
}

/// Returns the resident memory of this process, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Reads at random for as long as `work` runs in a thread of low priority. Returns how long a use took: the median, of a thousand
/// the longest but one, and the longest.
fn uses_during(index: &Index, blobs: u64, work: impl FnOnce() + Send) -> [Duration; 3] {
    let (done, now) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut took = Vec::with_capacity(1 << 24);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = rustix::process::nice(10);
            work();
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) && took.len() < 1 << 24 {
            let digest = digest(now.fetch_add(1, Ordering::Relaxed) * 7919 % blobs);
            let start = clock::now();
            let (pin, _) = index.pin(Kind::Blob, &digest, 1000, 1 << 30, 1 << 30);
            index.unpin(Kind::Blob, &digest, pin);
            took.push(clock::now() - start);
        }
    });
    took.sort_unstable();
    [took.len() / 2, took.len() * 999 / 1000, took.len() - 1].map(|at| took[at])
}

/// Prints the figures of an index with a million entries: `cargo test --release --lib a_million_blobs -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement of some seconds, for an optimised build"]
fn a_million_blobs_take_little_memory_and_time() {
    const BLOBS: u64 = 1_000_000;
    let before = resident();
    let index = index_of(0, 0);
    let counting = uses_during(&index, BLOBS, || {
        (0..BLOBS).for_each(|number| index.found(Kind::Blob, &digest(number), 1000, 1000 + number));
    });
    let each = (resident() - before) / BLOBS;
    // The times of the uses are memory too: some 200 MB at most, which count here.
    println!("counting {BLOBS}: a use takes {counting:?}; {each} bytes each, with the measurement's own");
    let evicting = uses_during(&index, BLOBS, || {
        let mut left = 50_000_usize;
        while left > 0 {
            let victims = index.evict_some(u64::MAX, LIMIT, 0, 128);
            victims.iter().for_each(|victim| index.left(victim));
            left = left.saturating_sub(victims.len().max(1));
        }
    });
    println!("evicting 50,000: {evicting:?}");
    let scanning = uses_during(&index, BLOBS, || {
        index.begin_scan();
        index.unseen(Kind::Blob).for_each(drop);
    });
    println!("looking for what has vanished: {scanning:?}");
    drop(index);
    let before = resident();
    let index = index_of(BLOBS, 1000);
    let each = (resident() - before) / BLOBS;
    println!("{each} bytes each");
    assert!(each < 250);
    for worst in [counting, evicting, scanning].map(|[_, worst, _]| worst) {
        assert!(worst < Duration::from_millis(5), "{worst:?}");
    }
    drop(index);
}
