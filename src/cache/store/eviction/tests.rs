use std::collections::{BTreeMap, HashMap};

use crate::cache::store::eviction::*;
use crate::proto::Digest;

/// Marsaglia's xorshift64: the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Returns what is read, in order: 3000 things by Zipf's law, and every 10,000 reads a scan of 4000 that are read once. With
/// `drift`, what is popular moves on by 50 things each so many reads.
fn trace(alpha: f64, drift: Option<usize>) -> Vec<(Digest, u64)> {
    let mut numbers = Numbers(88_172_645_463_325_252);
    let mut sum = 0.0;
    let weights: Vec<f64> = (1..=3000)
        .map(|rank| {
            sum += 1.0 / f64::from(rank).powf(alpha);
            sum
        })
        .collect();
    let mut reads = Vec::new();
    for turn in 0..60_000 {
        let at = numbers.fraction() * sum;
        let moved = drift.map_or(0, |reads| turn / reads * 50);
        reads.push((weights.partition_point(|weight| *weight < at) + moved) as u64);
        if turn % 10_000 == 9_999 {
            reads.extend((0..4000).map(|one| 10_000_000 + turn as u64 * 4000 + one));
        }
    }
    reads.into_iter().map(|thing| (digest(thing), size(thing))).collect()
}

/// Returns a size from 1 KiB to 64 MiB, each doubling as likely as the next.
fn size(thing: u64) -> u64 {
    let mut numbers = Numbers((thing + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    numbers.next();
    (1024.0 * (numbers.fraction() * 16.0).exp2()) as u64
}

fn digest(thing: u64) -> Digest {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&thing.to_be_bytes());
    Digest::sha256(&hash)
}

/// Returns the share of the bytes read that were there.
fn ours(reads: &[(Digest, u64)], room: u64) -> f64 {
    let mut queue = EvictionQueue::new(Aging::default());
    let mut there: HashMap<&Digest, (QueueEntry, u64)> = HashMap::new();
    let (mut taken, mut hit, mut all) = (0, 0, 0);
    for (now, (digest, size)) in reads.iter().enumerate() {
        all += size;
        if let Some((entry, _)) = there.get_mut(digest) {
            hit += size;
            queue.used(entry, now as u32);
            continue;
        }
        taken += size;
        while taken > room {
            let next =
                queue.next(|digest| there.get(digest).map_or(Candidate::Out, |it| Candidate::Free(it.0)));
            let (rank, digest) = next.unwrap();
            taken -= there.remove(&digest).unwrap().1;
            queue.evicted(rank);
        }
        there.insert(digest, (queue.enter(digest.clone(), now as u32), *size));
    }
    hit as f64 / all as f64
}

fn least_recently_used(reads: &[(Digest, u64)], room: u64) -> f64 {
    let mut by_use: BTreeMap<usize, (&Digest, u64)> = BTreeMap::new();
    let mut there: HashMap<&Digest, usize> = HashMap::new();
    let (mut taken, mut hit, mut all) = (0, 0, 0);
    for (now, (digest, size)) in reads.iter().enumerate() {
        all += size;
        match there.insert(digest, now) {
            Some(last) => {
                hit += size;
                by_use.remove(&last);
            }
            None => taken += size,
        }
        by_use.insert(now, (digest, *size));
        while taken > room {
            let (_, (oldest, size)) = by_use.pop_first().unwrap();
            there.remove(oldest);
            taken -= size;
        }
    }
    hit as f64 / all as f64
}

#[test]
fn it_finds_more_bytes_than_lru() {
    for (name, alpha, drift) in [
        ("Zipf 0.9 with scans", 0.9, None),
        ("Zipf 0.7 with scans", 0.7, None),
        ("Zipf 0.9 with scans, what is popular changes", 0.9, Some(5000)),
    ] {
        let reads = trace(alpha, drift);
        let things: HashMap<_, _> = reads.iter().cloned().collect();
        let whole: u64 = things.into_values().sum();
        for percent in [2, 10] {
            let room = whole / 100 * percent;
            let (ours, theirs) = (ours(&reads, room), least_recently_used(&reads, room));
            println!("{name}, room for {percent} %: ours {ours:.4}, least recently used {theirs:.4}");
            assert!(ours >= theirs, "{name}, room for {percent} %: {ours} < {theirs}");
        }
    }
}

#[test]
fn among_equals_the_least_recently_used_goes() {
    let mut queue = EvictionQueue::new(Aging::default());
    let mut there: HashMap<u64, QueueEntry> =
        [(1, 30), (2, 10), (3, 20)].map(|(thing, last)| (thing, queue.enter(thing, last))).into();
    queue.used(there.get_mut(&2).unwrap(), 11);
    let mut out = Vec::new();
    while let Some((_, next)) =
        queue.next(|thing| there.get(thing).map_or(Candidate::Out, |entry| Candidate::Free(*entry)))
    {
        there.remove(&next);
        out.push(next);
    }
    assert_eq!(out, [3, 1, 2]);
}

#[test]
fn pinned_entries_stay_in_the_queue() {
    let mut queue = EvictionQueue::new(Aging::default());
    let entries = [1, 2, 3].map(|thing| queue.enter(thing, thing));
    let entry = |thing: &u32| entries[*thing as usize - 1];
    let mut next_while_read = |read: &[u32]| {
        let next = queue.next(|thing| {
            let entry = entry(thing);
            if read.contains(thing) { Candidate::Pinned(entry) } else { Candidate::Free(entry) }
        });
        next.map(|(_, thing)| thing)
    };
    assert_eq!(next_while_read(&[1]), Some(2));
    assert_eq!(next_while_read(&[]), Some(1));
    assert_eq!(next_while_read(&[1, 2]), Some(3));
    assert_eq!(next_while_read(&[1, 2, 3]), None);
    assert_eq!(next_while_read(&[]), Some(1));
}

#[test]
fn an_entry_that_came_back_is_another() {
    let mut queue = EvictionQueue::new(Aging::default());
    let old = queue.enter(1, 1);
    let new = queue.enter(1, 2);
    assert_ne!(old, new);
    let (rank, _) = queue.next(|_| Candidate::Free(new)).unwrap();
    assert!(rank == new.rank && queue.len() == 1, "the old one is dropped");
}

#[test]
fn queues_that_age_together_rank_alike() {
    let aging = Aging::default();
    let (mut old, mut new) = (EvictionQueue::new(aging.clone()), EvictionQueue::new(aging));
    let mut entry = old.enter(1, 1);
    for _ in 0..3 {
        old.used(&mut entry, 2);
    }
    old.evicted(entry.rank);
    assert!(new.enter(2, 3).rank > entry.rank);
}
