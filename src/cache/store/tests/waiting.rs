//! Manifests that workers have kept, and that the disk does not have yet.

use super::*;
use crate::cache::store::faults::{self, Fault};
use crate::config::limits;
use crate::worker_id;

fn on_worker<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let worker = || {
        worker_id::answer();
        work()
    };
    std::thread::scope(|scope| scope.spawn(worker).join().unwrap())
}

#[test]
fn a_manifest_is_kept_before_the_disk_has_it() {
    let place = Place::new();
    let store = place.open();
    let (digest, bytes) = content(1, 1000);
    let fault = faults::order(&place.path(), &[files::Access::Write], Fault::Hang);
    on_worker(|| {
        store.keep_manifest(&digest, &bytes.clone().into());
        assert!(store.has(Kind::Manifest, &digest));
    });
    assert_eq!(store.waiting(&digest).as_deref(), Some(&bytes[..]));
    assert_eq!(store.peek(Kind::Manifest, &digest).as_ref(), Some(&bytes));
    assert_eq!(store.length(Kind::Manifest, &digest), Some(1000));
    assert!(store.content(Kind::Manifest, &digest).is_none(), "the disk has nothing of it");
    drop(fault);
    assert!(store.disk().flush(Duration::from_secs(20)));
    assert_eq!(store.waiting(&digest), None);
    assert_eq!(read(&store.content(Kind::Manifest, &digest).unwrap()), bytes);
}

#[test]
fn a_manifest_removed_before_it_is_written_stays_away() {
    let place = Place::new();
    let store = place.open();
    let (first, bytes) = content(1, 1000);
    let (second, more) = content(2, 1000);
    let fault = faults::order(&place.path(), &[files::Access::Write], Fault::Hang);
    on_worker(|| {
        store.keep_manifest(&first, &bytes.into());
        store.keep_manifest(&second, &more.into());
    });
    store.remove(Kind::Manifest, &second);
    drop(fault);
    assert!(store.disk().flush(Duration::from_secs(20)));
    assert!(store.has(Kind::Manifest, &first) && !store.has(Kind::Manifest, &second));
}

#[test]
fn manifests_that_wait_take_bounded_memory() {
    let place = Place::new();
    let store = place.open();
    let fault = faults::order(&place.path(), &[files::Access::Write], Fault::Hang);
    let length = 1 << 20;
    let count = limits::DISK_LATER_BYTES / length + 8;
    let kept = on_worker(|| {
        (0..count)
            .filter(|seed| {
                let (digest, bytes) = content(*seed as u64, length);
                store.keep_manifest(&digest, &bytes.into());
                store.waiting(&digest).is_some()
            })
            .count()
    });
    assert!(kept * length <= limits::DISK_LATER_BYTES + length, "{kept}");
    assert!(store.degraded_reason().unwrap().contains("has not answered"), "{:?}", store.degraded_reason());
    drop(fault);
}
