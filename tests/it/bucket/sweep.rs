//! What is deleted from the store, and what is marked as used.

use dockgate::internals::sweep_store;

use super::*;
use crate::harness::noise;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The name of the blob whose digest is this digit alone.
fn name(digit: char) -> String {
    let hex = digit.to_string().repeat(64);
    format!("blobs/sha256/{}/{hex}", &hex[..2])
}

/// Sweeps with these lines of the store; the answer is what was deleted, and what is left.
async fn swept(site: &Site, lines: &str) -> (u64, u64) {
    sweep_store(&site.config(lines)).await.expect("a sweep")
}

#[tokio::test]
async fn what_was_not_used_for_long_is_swept() {
    let site = Site::start().await;
    site.bucket.set_old_object(&name('a'), "old", 31 * DAY);
    site.bucket.set_old_object(&name('b'), "old and in use", 31 * DAY);
    site.bucket.set_old_object(&format!("used/{}", name('b')), "", 29 * DAY);
    site.bucket.set_old_object(&name('c'), "young", 29 * DAY);
    site.bucket.set_old_object(&format!("used/{}", name('d')), "", 31 * DAY);
    site.bucket.set_old_object(&format!("used/{}", name('0')), "", 31 * DAY);
    site.bucket.set_old_object("records/up-0/_served/sha256/aa/aa", "", 31 * DAY);
    assert_eq!(swept(&site, "").await, (1, 2));
    let marker = format!("used/{}", name('b'));
    assert_eq!(site.bucket.names(), [name('b'), name('c'), marker]);
}

#[tokio::test]
async fn the_least_used_is_swept_where_all_is_too_much() {
    let site = Site::start().await;
    for (digit, days) in [('a', 3), ('b', 2), ('c', 5)] {
        site.bucket.set_old_object(&name(digit), noise(1000), days * DAY);
    }
    assert_eq!(swept(&site, "max_size = \"2500\"\n").await, (1, 2));
    assert_eq!(site.bucket.names(), [name('a'), name('b')]);
}

#[tokio::test]
async fn uploads_of_yesterday_are_given_up() {
    let site = Site::start().await;
    site.bucket.set_upload("old", 25 * Duration::from_secs(3600));
    site.bucket.set_upload("young", 23 * Duration::from_secs(3600));
    swept(&site, "").await;
    assert_eq!(site.bucket.uploads(), ["young"]);
}

#[tokio::test]
async fn what_is_read_from_the_store_is_marked_as_used() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    assert_eq!(site.bucket.folder("used/"), [""; 0]);
    site.bucket.set_old_object(&object(&target), bytes.clone(), 8 * DAY);
    let answer = site.gateway().await.ask(Request::get(&target)).await.is(200);
    assert_eq!(word(&answer), "STORE");
    soon("its marker", async {
        while site.bucket.folder("used/") != [format!("used/{}", object(&target))] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_record_in_use_is_written_anew() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let target = site.origin.blob("a", &bytes);
    drop(site.with_stored(&target, &bytes).await);
    let names = site.bucket.folder("records/");
    let name = names.iter().find(|name| name.contains("/_blobs/")).expect("a record");
    let record = site.bucket.object(name).expect("a record");
    site.bucket.set_old_object(name, record.clone(), 8 * DAY);
    site.gateway().await.ask(Request::get(&target)).await.is(200);
    soon("it to be written", async {
        while site.bucket.age(name) > DAY {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(site.bucket.object(name), Some(record));
}
