//! Partials: left, resumed and limited in number.

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
        assert_eq!(partial.end_at(0), Some(at));
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
    assert_eq!(store.resume("hub", &digest).unwrap().end_at(0), Some(1000));
}

#[test]
fn the_head_is_updated_every_64_mib() {
    let place = Place::new();
    let store = place.open();
    let (digest, _) = content(1, 10);
    let partial = begin(&store, &digest, 1 << 29).unwrap();
    let noted = |place: &Place| {
        store.flush();
        let name = place.partials().into_iter().find(|name| name.ends_with(".head")).unwrap();
        let head = fs::read_to_string(place.path().join("partial").join(name)).unwrap();
        head.lines().find_map(|line| line.strip_prefix("dockgate-reached: ")).unwrap().to_owned()
    };
    assert_eq!(noted(&place), "0");
    for (at, expected) in [(1 << 20, 0), (64 << 20, 64 << 20), (100 << 20, 64 << 20), (130 << 20, 130 << 20)]
    {
        partial.reached(0, at);
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
fn a_partial_that_is_whole_is_resumed_whole() {
    let place = Place::new();
    let (digest, bytes) = content(1, 100);
    let store = place.open();
    leave(&store, &digest, 100, &bytes);
    drop(store);
    let store = place.open();
    let resumed = store.resume("hub", &digest).unwrap();
    assert_eq!(resumed.end_at(0), Some(100));
    assert_eq!(read(&resumed.commit(&digest, 100).unwrap()), bytes);
}

/// Writes parts of a blob of which each has `bytes` bytes, and notes them.
fn scattered(store: &Store, digest: &Digest, bytes: &[u8], parts: &[(usize, usize)]) -> Partial {
    let partial = begin(store, digest, bytes.len() as u64).unwrap();
    partial.scatter().unwrap();
    for &(first, end) in parts {
        partial.write(first as u64, &bytes[first..end]).unwrap();
        partial.reached(first as u64, end as u64);
    }
    partial.keep();
    partial
}

const PARTS: [(usize, usize); 3] = [(4_000, 500_000), (1_000_000, 1_500_000), (3_999_999, 4_000_000)];

#[track_caller]
fn has_parts(partial: &Partial, bytes: &[u8]) {
    for (first, end) in PARTS {
        assert_eq!(partial.end_at(first as u64), Some(end as u64));
        let mut read = vec![0; end - first];
        partial.file().read_exact_at(&mut read, first as u64).unwrap();
        assert!(read == bytes[first..end], "{first}");
    }
    for hole in [0, 3_999, 500_000, 999_999, 3_999_998] {
        assert_eq!(partial.end_at(hole), None, "{hole}");
    }
}

#[test]
fn parts_are_resumed_even_after_a_restart() {
    let place = Place::new();
    let (digest, bytes) = content(1, 5_000_000);
    let mut store = place.open();
    drop(scattered(&store, &digest, &bytes, &PARTS));
    for restart in [false, true, true] {
        if restart {
            drop(store);
            store = place.open();
        }
        let usage = store.usage();
        assert_eq!((usage.partials.count, usage.partials.bytes, usage.reserved), (1, 996_001, 0));
        has_parts(&store.resume("hub", &digest).unwrap(), &bytes);
        store.flush();
    }
}

#[test]
fn holes_take_no_room() {
    let place = Place::new();
    let (digest, bytes) = content(1, 5_000_000);
    let store = place.open();
    let partial = scattered(&store, &digest, &bytes, &PARTS);
    assert!(store.usage().reserved < 2_500_000, "{}", store.usage().reserved);
    drop(partial);
    store.flush();
    assert!(place.taken() < 1_200_000, "{}", place.taken());
    let settings = config::Cache {
        path: place.path(),
        max_size: 1 << 30,
        min_free: MinFree::Bytes(0),
        max_object: u64::MAX,
        verify_after: config::limits::VERIFY_AFTER,
        prefetch: false,
        keep: Vec::new(),
    };
    let looked_at = Store::open_read_only(&settings, Arc::default());
    assert_eq!(looked_at.usage().partials, Amount { count: 1, bytes: 996_001 });
    assert!(looked_at.verify(|_, _, _| panic!("a partial is no content")).is_ok());
}

/// Leaves the files as a process does that is killed: nothing more is written to them.
fn killed(place: &Place, store: Arc<Store>, partial: Partial) -> Vec<(String, Vec<u8>)> {
    let dir = place.path().join("partial");
    let files: Vec<_> = place
        .partials()
        .into_iter()
        .filter(|name| !name.ends_with(".left"))
        .map(|name| (name.clone(), fs::read(dir.join(name)).unwrap()))
        .collect();
    drop(partial);
    drop(store);
    for name in place.partials() {
        fs::remove_file(dir.join(name)).unwrap();
    }
    for (name, bytes) in &files {
        fs::write(dir.join(name), bytes).unwrap();
    }
    files
}

#[test]
fn only_parts_that_were_noted_count_after_a_kill() {
    let place = Place::new();
    let (digest, bytes) = content(1, 5_000_000);
    let store = place.open();
    let partial = scattered(&store, &digest, &bytes, &PARTS);
    // Written, and then killed before it was noted.
    partial.write(2_000_000, &bytes[2_000_000..2_500_000]).unwrap();
    partial.write(4_500_000, &bytes[4_500_000..]).unwrap();
    killed(&place, store, partial);
    let store = place.open();
    assert_eq!(store.usage().partials, Amount { count: 1, bytes: 996_001 });
    let resumed = store.resume("hub", &digest).unwrap();
    has_parts(&resumed, &bytes);
    assert_eq!((resumed.end_at(2_000_000), resumed.end_at(4_500_000)), (None, None));
}

#[test]
fn a_kill_before_the_first_part_is_noted_shows_no_hole() {
    let place = Place::new();
    let (digest, bytes) = content(1, 5_000_000);
    let store = place.open();
    let partial = begin(&store, &digest, 5_000_000).unwrap();
    partial.write(0, &bytes[..100_000]).unwrap();
    partial.reached(0, 100_000);
    partial.scatter().unwrap();
    partial.write(4_000_000, &bytes[4_000_000..]).unwrap();
    killed(&place, store, partial);
    let resumed = place.open().resume("hub", &digest).unwrap();
    assert_eq!((resumed.end_at(0), resumed.next_after(0)), (Some(100_000), None));
}

#[test]
fn after_a_power_loss_only_synced_parts_count() {
    let place = Place::new();
    let (digest, bytes) = content(1, 5_000_000);
    let store = place.open();
    drop(scattered(&store, &digest, &bytes, &PARTS[..1]));
    store.flush();
    let partial = store.resume("hub", &digest).unwrap();
    partial.write(1_000_000, &bytes[1_000_000..1_500_000]).unwrap();
    partial.reached(1_000_000, 1_500_000);
    partial.keep();
    let files = killed(&place, store, partial);
    let (name, head) = files.iter().find(|(name, _)| name.ends_with(".head")).unwrap();
    let head = String::from_utf8(head.clone()).unwrap();
    assert!(head.contains("dockgate-written: 4000-500000,1000000-1500000\r\n"), "{head}");
    let (before, boot) = head.split_once("dockgate-written-boot: ").unwrap();
    let other = boot.trim().parse::<i64>().unwrap() + 1;
    let head = format!("{before}dockgate-written-boot: {other}\r\n\r\n");
    fs::write(place.path().join("partial").join(name), head).unwrap();
    let resumed = place.open().resume("hub", &digest).unwrap();
    assert_eq!((resumed.end_at(4_000), resumed.end_at(1_000_000)), (Some(500_000), None));
}

#[test]
fn a_partial_with_holes_is_evicted() {
    let place = Place::of(2_000_000);
    let (digest, bytes) = content(1, 1_990_000);
    let store = place.open();
    drop(scattered(&store, &digest, &bytes, &[(0, 10), (1_000_000, 1_900_000)]));
    store.flush();
    assert_eq!(store.usage().partials.bytes, 900_010);
    // Its holes are free, its parts are in the way.
    let blob = put(&store, 2, 1_000_000);
    assert!(store.index.partials_of(&stem(&digest)).is_some_and(|names| names.len() == 1));
    put(&store, 3, 900_000);
    store.flush();
    assert!(store.resume("hub", &digest).is_none());
    assert!(has_blob(&store, &blob));
}

#[test]
fn a_blob_of_parts_is_put_in_place_once_it_has_no_hole() {
    let place = Place::new();
    let (digest, bytes) = content(1, 5_000_000);
    let store = place.open();
    let holed = scattered(&store, &digest, &bytes, &[(0, 100), (4_000_000, 5_000_000)]);
    assert!(holed.commit(&digest, 5_000_000).is_err());
    drop(holed);
    assert!(place.partials().is_empty());
    let whole = scattered(&store, &digest, &bytes, &[(4_000_000, 5_000_000), (0, 100), (100, 4_000_000)]);
    assert_eq!(read(&whole.commit(&digest, 5_000_000).unwrap()), bytes);
    drop(whole);
    store.flush();
    assert!(place.partials().is_empty());
    assert_eq!((store.usage().reserved, store.usage().blobs.bytes), (0, 5_000_000));
}

#[test]
fn an_abandoned_partial_is_neither_placed_nor_left() {
    let place = Place::new();
    let (digest, bytes) = content(1, 1000);
    let store = place.open();
    let partial = scattered(&store, &digest, &bytes, &[(0, 1000)]);
    partial.abandon();
    assert!(partial.commit(&digest, 1000).is_err());
    drop(partial);
    assert!(!has_blob(&store, &digest) && place.partials().is_empty());
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
