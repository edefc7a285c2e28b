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
    for (at, expected) in [(1 << 20, 0), (64 << 20, 64 << 20), (100 << 20, 64 << 20), (130 << 20, 130 << 20)]
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
