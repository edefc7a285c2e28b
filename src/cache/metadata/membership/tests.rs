use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};

use crate::cache::UpstreamCache;
use crate::cache::metadata::membership::*;
use crate::cache::origin::tests::{Reply, Script, digest, repository, upstream_cache, view, view_of_held};
use crate::config::PullAuthorization;
use crate::meaning::{Meaning, UNAVAILABLE};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn no(kind: Meaning) -> Reply {
    Reply::No(kind)
}

fn yes() -> Reply {
    Reply::Yes(vec![(CONTENT_TYPE, "application/octet-stream"), (CONTENT_LENGTH, "12")])
}

fn kind(result: Result<Membership, CacheError>) -> Meaning {
    match result {
        Err(CacheError::Origin(failure)) => failure.meaning,
        other => panic!("{other:?}"),
    }
}

/// The upstream said so of blob 1 this long ago.
fn record(upstream_cache: &UpstreamCache, age: Duration) -> Membership {
    record_at(upstream_cache, clock::wall() - age)
}

fn record_at(upstream_cache: &UpstreamCache, confirmed: SystemTime) -> Membership {
    let held = Membership { media_type: None, size: Some(7), confirmed };
    upstream_cache.ledger.hold(&repository(), Kind::Blob, &digest(1), &held);
    held
}

fn recorded(upstream_cache: &UpstreamCache) -> Option<Membership> {
    upstream_cache.ledger.held(&repository(), Kind::Blob, &digest(1))
}

#[tokio::test]
async fn a_confirmed_blob_is_asked_about_once() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    script.on("held 01", yes());
    let alpine = view(&upstream_cache, "alice", &script);
    assert_eq!(alpine.known(&digest(1)), None);
    let held = alpine.holds(&digest(1)).await.unwrap();
    assert_eq!((held.media_type.unwrap().as_str(), held.size), ("application/octet-stream", Some(12)));
    assert!(alpine.known(&digest(1)).is_some());
    assert!(view(&upstream_cache, "bob", &script).holds(&digest(1)).await.is_ok());
    assert_eq!(script.asked(), ["held 01"]);
    assert_eq!(kind(alpine.holds(&digest(2)).await), Meaning::NotFound);
    assert_eq!(kind(alpine.holds(&digest(2)).await), Meaning::NotFound);
    assert_eq!(script.asked(), ["held 02", "held 02"], "a 404 is not believed");
}

#[tokio::test]
async fn a_manifest_is_no_blob() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let held = Membership { media_type: None, size: None, confirmed: clock::wall() };
    upstream_cache.ledger.hold(&repository(), Kind::Manifest, &digest(1), &held);
    assert_eq!(view(&upstream_cache, "alice", &Script::new("")).known(&digest(1)), None);
}

#[tokio::test]
async fn concurrent_lookups_ask_once() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    script.on("held 01", yes());
    let views = ["alice", "bob", "carol"].map(|user| view(&upstream_cache, user, &script));
    let wanted = digest(1);
    let held = join_all(views.iter().map(|view| view.holds(&wanted))).await;
    assert!(held.iter().all(Result::is_ok));
    assert_eq!(script.asked(), ["held 01"]);
}

#[tokio::test]
async fn one_accounts_no_is_no_answer_to_another() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let (alice, bob) = (Script::new("alice"), Script::new("bob"));
    alice.on("held 01", no(Meaning::Denied));
    bob.on("held 01", yes());
    let (of_alice, of_bob) = (view(&upstream_cache, "alice", &alice), view(&upstream_cache, "bob", &bob));
    let wanted = digest(1);
    let (first, second) = tokio::join!(of_alice.holds(&wanted), of_bob.holds(&wanted));
    assert_eq!(kind(first), Meaning::Denied);
    assert!(second.is_ok());
    assert_eq!((alice.asked().len(), bob.asked().len()), (1, 1));
}

#[tokio::test]
async fn in_each_every_account_asks_for_itself() {
    let (_directory, upstream_cache) =
        upstream_cache(|settings| settings.pull_authorization = PullAuthorization::Each);
    let (alice, bob) = (Script::new("alice"), Script::new("bob"));
    alice.on("held 01", yes());
    bob.on("held 01", yes());
    let (of_alice, of_bob) = (view(&upstream_cache, "alice", &alice), view(&upstream_cache, "bob", &bob));
    let wanted = digest(1);
    let (first, second) = tokio::join!(of_alice.holds(&wanted), of_bob.holds(&wanted));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!((alice.asked().len(), bob.asked().len()), (1, 1));
}

#[tokio::test]
async fn after_a_day_the_upstream_is_asked_again() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    script.on("held 01", Reply::Yes(vec![]));
    let alpine = view(&upstream_cache, "alice", &script);
    let young = record(&upstream_cache, 23 * HOUR);
    assert_eq!(alpine.known(&digest(1)), Some(young.clone()));
    assert_eq!(alpine.holds(&digest(1)).await.unwrap(), young);
    assert!(script.asked().is_empty());
    record(&upstream_cache, 25 * HOUR);
    assert_eq!(alpine.known(&digest(1)), None);
    let held = alpine.holds(&digest(1)).await.unwrap();
    assert_eq!(held.size, Some(7), "what it did not say now, it said before");
    assert!(held.age() < HOUR && alpine.known(&digest(1)).is_some());
    assert_eq!(script.asked(), ["held 01"]);
}

#[tokio::test]
async fn a_refusal_ends_the_record() {
    for refusal in [Meaning::NotFound, Meaning::Denied] {
        let (_directory, upstream_cache) = upstream_cache(|_| {});
        let script = Script::new("");
        script.on("held 01", no(refusal));
        record(&upstream_cache, 25 * HOUR);
        assert_eq!(kind(view(&upstream_cache, "alice", &script).holds(&digest(1)).await), refusal);
        assert_eq!(recorded(&upstream_cache), None, "{refusal:?}");
    }
}

#[tokio::test]
async fn an_old_record_serves_while_the_upstream_fails() {
    let limited = Meaning::RateLimited { retry_after: None };
    for failure in [UNAVAILABLE, limited, Meaning::CredentialsRefused] {
        let (_directory, upstream_cache) = upstream_cache(|settings| settings.stale_if_error = DAY);
        let script = Script::new("");
        script.on("held 01", no(failure));
        let alpine = view(&upstream_cache, "alice", &script);
        assert_eq!(kind(alpine.holds(&digest(1)).await), failure, "nothing was believed");
        let old = record(&upstream_cache, 2 * DAY - HOUR);
        assert_eq!(alpine.holds(&digest(1)).await.unwrap(), old, "{failure:?}");
        assert_eq!(alpine.known(&digest(1)), None, "it is asked again the next time");
        record(&upstream_cache, 2 * DAY + HOUR);
        assert_eq!(kind(alpine.holds(&digest(1)).await), failure, "not for ever");
        assert!(recorded(&upstream_cache).is_some(), "that was no no");
    }
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    script.on("held 01", no(Meaning::Rejected { status: 400 }));
    record(&upstream_cache, 2 * DAY);
    assert_eq!(
        kind(view(&upstream_cache, "alice", &script).holds(&digest(1)).await),
        Meaning::Rejected { status: 400 }
    );
}

#[tokio::test]
async fn a_record_from_the_future_is_good_for_no_longer() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let alpine = view(&upstream_cache, "alice", &Script::new(""));
    record_at(&upstream_cache, clock::wall() + HOUR);
    assert!(alpine.known(&digest(1)).is_some(), "clocks differ a little");
    record_at(&upstream_cache, clock::wall() + 25 * HOUR);
    assert_eq!(alpine.known(&digest(1)), None);
}

#[tokio::test]
async fn offline_and_without_fetch_unknown_blobs_are_refused() {
    let script = Script::new("");
    script.on("held 01", yes());
    let (_directory, offline) = upstream_cache(|settings| settings.offline = true);
    let (_other, online) = upstream_cache(|_| {});
    let views = [view(&offline, "alice", &script), view_of_held(&online, "alice", &script)];
    assert!(matches!(views[0].holds(&digest(1)).await, Err(CacheError::Offline)));
    assert!(matches!(views[1].holds(&digest(1)).await, Err(CacheError::FetchForbidden)));
    for alpine in &views {
        let old = record(&alpine.upstream_cache, 23 * HOUR);
        assert_eq!(alpine.holds(&digest(1)).await.unwrap(), old);
    }
    let old = record(&offline, 300 * DAY);
    assert_eq!(views[0].holds(&digest(1)).await.unwrap(), old);
    assert!(script.asked().is_empty());
}

#[tokio::test]
async fn without_fetch_old_records_are_confirmed_again() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    let alpine = view_of_held(&upstream_cache, "alice", &script);
    script.on("held 01", yes());
    record(&upstream_cache, 300 * DAY);
    assert!(alpine.holds(&digest(1)).await.unwrap().age() < HOUR);
    assert_eq!(script.asked(), ["held 01"]);
    script.on("held 01", no(Meaning::NotFound));
    record(&upstream_cache, 300 * DAY);
    assert_eq!(kind(alpine.holds(&digest(1)).await), Meaning::NotFound);
    assert_eq!(recorded(&upstream_cache), None);
}

#[tokio::test]
async fn a_refusal_overtaken_by_a_write_ends_nothing() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    script.on("held 01", no(Meaning::NotFound));
    let alpine = view(&upstream_cache, "alice", &script);
    let wanted = digest(1);
    let overtaking = async {
        while script.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        upstream_cache.pushed_blob(&repository(), &wanted);
    };
    let (held, ()) = tokio::join!(alpine.holds(&wanted), overtaking);
    assert_eq!(kind(held), Meaning::NotFound);
    assert!(recorded(&upstream_cache).is_some());
}

#[tokio::test]
async fn a_redirects_type_and_length_are_not_the_blobs() {
    let fields = vec![(CONTENT_TYPE, "text/html"), (CONTENT_LENGTH, "99")];
    let encoded = [fields.clone(), vec![(CONTENT_ENCODING, "gzip")]].concat();
    for reply in [Reply::Elsewhere(fields), Reply::Yes(encoded)] {
        let (_directory, upstream_cache) = upstream_cache(|_| {});
        let script = Script::new("");
        script.on("held 01", reply);
        let held = view(&upstream_cache, "alice", &script).holds(&digest(1)).await.unwrap();
        assert_eq!((held.media_type, held.size), (None, None));
    }
}

#[tokio::test]
async fn an_answer_overtaken_by_a_write_is_not_recorded() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    script.on("held 01", yes());
    let alpine = view(&upstream_cache, "alice", &script);
    let wanted = digest(1);
    let overtaking = async {
        // The question has been sent, and not been answered.
        while script.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        upstream_cache.written(&repository());
    };
    let (held, ()) = tokio::join!(alpine.holds(&wanted), overtaking);
    assert!(held.is_ok());
    assert_eq!(recorded(&upstream_cache), None);
}
