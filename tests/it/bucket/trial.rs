//! The trial of a store, as `dockgate check` makes it.

use dockgate::internals::try_store;

use super::*;

#[tokio::test]
async fn a_good_store_is_left_as_it_was() {
    let site = Site::start().await;
    assert_eq!(try_store(&site.config("")).await, Ok(false));
    assert_eq!(site.bucket.names(), [""; 0]);
    let asked: Vec<_> = site.bucket.requests().iter().map(|line| line[..3].to_owned()).collect();
    assert_eq!(asked, ["PUT", "GET", "GET", "DEL"], "written, a part of it read, listed, deleted");
}

#[tokio::test]
async fn a_store_that_cannot_be_used_says_why() {
    let site = Site::start().await;
    for (mood, why) in [(Mood::Ill(403), "403"), (Mood::Ill(503), "503"), (Mood::Hangs, "answer")] {
        site.bucket.is(mood);
        let told = try_store(&site.config("")).await.expect_err("no store");
        assert!(told.contains(why), "{mood:?}: {told}");
    }
}
