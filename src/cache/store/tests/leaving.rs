//! Evictions that take long, and what goes on meanwhile.

use super::*;
use crate::cache::store::index::Victim;

/// Returns the time that a fill of 10,000 bytes takes.
fn fill_takes(store: &Store, seed: u64) -> Duration {
    let start = clock::now();
    put(store, seed, 10_000);
    clock::now() - start
}

#[test]
fn an_eviction_does_not_slow_a_fill_with_room() {
    let place = Place::of(100_000);
    let store = place.open();
    // As if another thread were removing a file, and the disk took long.
    store.index.totals().leaving = 30_000;
    let took = (1..=5).map(|seed| fill_takes(&store, seed)).max().unwrap();
    assert!(took < Duration::from_millis(500), "{took:?}");
    // This is more than there is on the disk, until that has left.
    let (digest, bytes) = content(9, 30_000);
    let partial = begin(&store, &digest, 30_000).unwrap();
    let start = clock::now();
    partial.write(0, &bytes).unwrap();
    let waited = clock::now() - start;
    assert!(waited > Duration::from_millis(500), "{waited:?}");
    store.index.totals().leaving = 0;
}

#[test]
fn a_blob_passes_by_while_too_much_is_leaving() {
    let place = Place::of(100_000);
    let store = place.open();
    let blobs: Vec<_> = (0..9).map(|seed| put(&store, seed, 10_000)).collect();
    store.flush();
    let (digest, _) = content(20, 10);
    store.index.totals().leaving = 30_000;
    assert!(begin(&store, &digest, 20_000).is_none());
    assert!(blobs.iter().all(|blob| has_blob(&store, blob)), "nothing more was chosen");
    store.index.totals().leaving = 0;
    assert!(begin(&store, &digest, 20_000).is_some());
    assert_eq!(store.degraded_reason(), None);
}

#[test]
fn all_that_exceeds_a_smaller_limit_is_evicted() {
    let place = Place::of(1_000_000);
    let store = place.open();
    for seed in 0..300 {
        put(&store, seed, 1000);
    }
    drop(store);
    let place = Place { max_size: 20 * 1000, ..place };
    let store = place.open();
    assert_eq!(store.usage().blobs.count, 18, "97 % of what blobs may take");
    assert_eq!(place.counters.evictions(), (282, 282_000));
    assert_eq!(store.index.totals().leaving, 0);
}

#[test]
fn few_files_are_chosen_at_a_time() {
    let place = Place::of(1_000_000);
    let store = place.open();
    for seed in 0..30 {
        put(&store, seed, 1000);
    }
    store.flush();
    let index = &store.index;
    let victims = index.evict_some(20_000, 1 << 20, now(), 8);
    assert_eq!((victims.len(), index.totals().leaving), (8, 8000));
    victims.iter().for_each(|victim| index.left(victim));
    let totals = *index.totals();
    assert_eq!((totals.leaving, totals.blobs.count), (0, 22));
}

#[test]
fn a_stop_does_not_wait_for_an_eviction() {
    let place = Place::of(1_000_000);
    let store = place.open();
    let blobs: Vec<_> = (0..30).map(|seed| put(&store, seed, 1000)).collect();
    store.flush();
    let victims = store.index.evict_some(30_000, 1 << 20, now(), usize::MAX);
    assert!(matches!(victims[..], [Victim::Content(..), ..]) && victims.len() == 30);
    store.close();
    store.space.remove_victims(victims);
    assert!(blobs.iter().all(|blob| place.blob(blob).exists()), "the next process evicts them");
    assert_eq!(store.index.totals().leaving, 0);
}
