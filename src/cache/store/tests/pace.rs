//! Work that no request waits for, which lets other threads run between two files.

use std::thread;

use super::*;
use crate::cache::store::pace::calls;

#[test]
fn counting_may_rest_after_each_file() {
    let place = Place::new();
    let store = place.open();
    (0..30).for_each(|seed| drop(put(&store, seed, 1000)));
    store.flush();
    let rests = || {
        let before = calls();
        store.maintenance.count();
        calls().gentle - before.gentle
    };
    let full = rests();
    assert!((0..30).all(|seed| store.remove(Kind::Blob, &content(seed, 1000).0)));
    assert_eq!(full - rests(), 30);
}

#[test]
fn evictions_rest_unless_a_fill_waits() {
    let place = Place::of(100_000);
    let store = place.open();
    (0..9).for_each(|seed| drop(put(&store, seed, 10_000)));
    store.flush();
    let victims = store.index.evict_some(20_000, 1 << 20, now(), 2);
    let more = store.index.evict_some(40_000, 1 << 20, now(), 4);
    assert_eq!((victims.len(), more.len()), (2, 4));
    let before = calls();
    store.space.remove_victims(victims);
    assert_eq!((calls().gentle - before.gentle, calls().brief - before.brief), (2, 0));
    // The room is promised, and comes when the files have left the disk.
    let (digest, bytes) = content(20, 60_000);
    let partial = begin(&store, &digest, 60_000).unwrap();
    thread::scope(|scope| {
        let fill = scope.spawn(|| partial.write(0, &bytes));
        while !store.space.is_awaited() {
            thread::yield_now();
        }
        store.space.remove_victims(more);
        fill.join().unwrap().unwrap();
    });
    assert!(calls().brief > before.brief);
    assert!(!store.space.is_awaited());
}
