//! The answers to pulls of manifests, and the requests to the upstream that they cause.

use std::time::Duration;

use tokio::sync::Semaphore;

use crate::budget::Client;
use crate::cache::manifests::pull::*;
use crate::cache::scripted_origin::{HOUR, Place, SECOND, image, name};
use crate::clock;
use crate::config::PullAuthorization;
use crate::meaning::{Meaning, UNAVAILABLE};
use crate::proto::{Accept, MediaType, media_type};

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

async fn get(place: &Place, text: &str) -> Result<Manifest, CacheError> {
    place.repository().manifest(&reference(text), &Accept::default(), false).await
}

async fn head(place: &Place, text: &str) -> Result<Manifest, CacheError> {
    place.repository().manifest(&reference(text), &Accept::default(), true).await
}

/// Returns the answer to a GET, and the requests to the upstream that it caused.
async fn got(place: &Place, text: &str) -> (CacheStatus, String, Vec<String>) {
    let manifest = get(place, text).await.unwrap();
    let bytes = String::from_utf8(manifest.bytes.unwrap().to_vec()).unwrap();
    (manifest.outcome, bytes, place.registry.asked())
}

async fn kind(place: &Place, text: &str) -> Option<Meaning> {
    get(place, text).await.unwrap_err().meaning()
}

fn asked(what: &[&str], digest: &Digest) -> Vec<String> {
    what.iter().map(|what| what.replace("DIGEST", digest.as_str())).collect()
}

#[tokio::test]
async fn a_tag_is_asked_for_by_head_and_its_manifest_by_digest() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    let expected = asked(&["HEAD v1", "GET DIGEST"], &digest);
    assert_eq!(got(&place, "v1").await, (CacheStatus::Miss, image("a"), expected));
    assert_eq!(got(&place, "v1").await, (CacheStatus::Hit, image("a"), vec![]));
    assert_eq!(got(&place, digest.as_str()).await, (CacheStatus::Hit, image("a"), vec![]));
}

#[tokio::test]
async fn a_warm_cache_costs_the_upstream_no_get() {
    let place = Place::with(|settings| settings.tag_ttl = Duration::ZERO);
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    for _ in 0..5 {
        assert_eq!(
            got(&place, "v1").await,
            (CacheStatus::Revalidated, image("a"), vec!["HEAD v1".to_owned()])
        );
        assert_eq!(got(&place, digest.as_str()).await, (CacheStatus::Hit, image("a"), vec![]));
    }
}

#[tokio::test]
async fn a_tag_that_has_moved_is_followed() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let moved = place.registry.push("v1", &image("b"));
    assert_eq!(got(&place, "v1").await.1, image("a"));
    place.age_tag("v1", HOUR + SECOND);
    let expected = asked(&["HEAD v1", "GET DIGEST"], &moved);
    assert_eq!(got(&place, "v1").await, (CacheStatus::Miss, image("b"), expected));
}

#[tokio::test]
async fn concurrent_pulls_ask_the_upstream_once() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    let gate = Arc::new(Semaphore::new(0));
    place.registry.with().gate = Some(gate.clone());
    let asking: Vec<_> = (0..50)
        .map(|number| {
            let repository = place.repository();
            let head = number % 2 == 0;
            tokio::spawn(async move { repository.manifest(&reference("v1"), &Accept::default(), head).await })
        })
        .collect();
    tokio::task::yield_now().await;
    gate.add_permits(1000);
    for (number, asking) in asking.into_iter().enumerate() {
        let manifest = asking.await.unwrap().unwrap();
        assert_eq!((manifest.digest, manifest.bytes.is_some()), (digest.clone(), number % 2 == 1));
    }
    assert_eq!(place.registry.asked(), asked(&["HEAD v1", "GET DIGEST"], &digest));
}

#[tokio::test]
async fn a_pull_that_looked_before_a_flight_ended_asks_nothing() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    let (requester, tag, accept) =
        (place.repository().requester, Tag::parse("v1").unwrap(), Accept::default());
    let (pulls, priority) = (&place.upstream_cache.manifests, Priority::Required);
    let late = Pull { pulls, requester: &requester, accept: &accept, head: false, priority };
    head(&place, "v1").await.unwrap();
    place.registry.asked();
    let noted = late.resolve(&tag, Form::Head, true).await.unwrap().manifest;
    assert_eq!((noted.digest, noted.bytes, place.registry.asked()), (digest.clone(), None, vec![]));
    get(&place, "v1").await.unwrap();
    place.registry.asked();
    let recorded = late.resolve(&tag, Form::Head, true).await.unwrap().manifest;
    assert_eq!((recorded.digest, place.registry.asked()), (digest, vec![]));
    assert_eq!(recorded.bytes.unwrap(), image("a"));
    late.resolve(&tag, Form::Head, false).await.unwrap();
    assert_eq!(place.registry.asked(), ["HEAD v1"]);
}

#[tokio::test]
async fn a_head_without_digest_is_followed_by_get() {
    let place = Place::with(|settings| settings.tag_ttl = Duration::ZERO);
    place.registry.push("v1", &image("a"));
    place.registry.with().says_no_digest = true;
    let expected = vec!["HEAD v1".to_owned(), "GET v1".to_owned()];
    assert_eq!(got(&place, "v1").await, (CacheStatus::Miss, image("a"), expected));
    assert!(head(&place, "v1").await.unwrap().bytes.is_some());
}

#[tokio::test]
async fn where_head_is_not_served_get_is_asked() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    place.registry.with().head_fails = Some(Meaning::Rejected { status: 400 });
    let expected = vec!["HEAD v1".to_owned(), "GET v1".to_owned()];
    assert_eq!(got(&place, "v1").await, (CacheStatus::Miss, image("a"), expected));
}

#[tokio::test]
async fn a_head_fetches_no_body() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    for text in ["v1", digest.as_str()] {
        let first = head(&place, text).await.unwrap();
        let length = image("a").len() as u64;
        assert_eq!((first.digest, first.length, first.bytes), (digest.clone(), length, None));
        assert_eq!(head(&place, text).await.unwrap().outcome, CacheStatus::Hit);
    }
    // The HEAD of the tag answers the HEAD of the digest as well.
    assert_eq!(place.registry.asked(), ["HEAD v1"]);
    assert_eq!(got(&place, "v1").await.2, asked(&["GET DIGEST"], &digest));
}

#[tokio::test]
async fn a_manifest_of_another_repository_is_only_confirmed() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let other = place.repository().in_repository("c");
    let manifest = other.manifest(&reference(digest.as_str()), &Accept::default(), false).await.unwrap();
    assert_eq!(manifest.outcome, CacheStatus::Revalidated);
    assert_eq!(place.registry.asked(), asked(&["HEAD DIGEST"], &digest));
}

#[tokio::test]
async fn a_manifest_of_another_repository_needs_confirmation() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    place.registry.delete(&digest);
    let other = place.repository().in_repository("c");
    let refusal = other.manifest(&reference(digest.as_str()), &Accept::default(), false).await.unwrap_err();
    assert_eq!(refusal.meaning(), Some(Meaning::NotFound));
}

#[tokio::test]
async fn failures_serve_the_last_digest_for_a_while() {
    for kind in [UNAVAILABLE, Meaning::CredentialsRefused, Meaning::RateLimited { retry_after: None }] {
        let place = Place::new();
        place.registry.push("v1", &image("a"));
        got(&place, "v1").await;
        place.registry.with().fails = Some(kind);
        place.age_tag("v1", HOUR + HOUR - SECOND);
        assert_eq!(got(&place, "v1").await.0, CacheStatus::Stale, "{kind:?}");
        place.age_tag("v1", HOUR + HOUR + SECOND);
        assert!(get(&place, "v1").await.is_err(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_refusal_ends_what_would_serve_stale() {
    for refusal in [Meaning::NotFound, Meaning::Denied] {
        let place = Place::with(|settings| settings.not_found_ttl = Duration::ZERO);
        let digest = place.registry.push("v1", &image("a"));
        got(&place, "v1").await;
        place.registry.with().fails = Some(refusal);
        place.age_tag("v1", HOUR + SECOND);
        assert_eq!(kind(&place, "v1").await, Some(refusal));
        place.registry.with().fails = Some(UNAVAILABLE);
        assert_eq!(kind(&place, "v1").await, Some(UNAVAILABLE), "{refusal:?}");
        assert_eq!(got(&place, digest.as_str()).await.0, CacheStatus::Hit);
    }
}

#[tokio::test]
async fn a_tag_moved_to_an_unavailable_manifest_serves_stale() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let moved = place.registry.push("v1", &image("b"));
    place.registry.with().get_fails = Some(Meaning::RateLimited { retry_after: Some(SECOND) });
    place.age_tag("v1", HOUR + SECOND);
    let expected = asked(&["HEAD v1", "GET DIGEST"], &moved);
    assert_eq!(got(&place, "v1").await, (CacheStatus::Stale, image("a"), expected));
    assert_eq!(got(&place, "v1").await, (CacheStatus::Stale, image("a"), vec![]));
}

#[tokio::test]
async fn a_limited_account_asks_only_what_is_required() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    let other = place.registry.push("v2", &image("b"));
    got(&place, "v1").await;
    place.age_tag("v1", HOUR + SECOND);
    place.registry.with().fails = Some(Meaning::RateLimited { retry_after: Some(HOUR) });
    got(&place, "v1").await;
    place.registry.with().fails = None;
    assert_eq!(got(&place, "v1").await, (CacheStatus::Stale, image("a"), vec![]));
    assert_eq!(got(&place, "v2").await.2, asked(&["HEAD v2", "GET DIGEST"], &other));
}

#[tokio::test]
async fn a_404_is_remembered_until_a_write() {
    let place = Place::new();
    assert_eq!(kind(&place, "v1").await, Some(Meaning::NotFound));
    assert!(matches!(get(&place, "v1").await, Err(CacheError::NotFound(_))));
    assert_eq!(place.registry.asked(), ["HEAD v1", "GET v1"]);
    place.registry.push("v1", &image("a"));
    place.upstream_cache.written(&name());
    assert_eq!(got(&place, "v1").await.0, CacheStatus::Miss);
}

#[tokio::test]
async fn a_missing_signature_is_asked_for_each_time() {
    let place = Place::new();
    let tag = format!("sha256-{}.sig", "a".repeat(64));
    for _ in 0..2 {
        assert_eq!(kind(&place, &tag).await, Some(Meaning::NotFound));
    }
    assert_eq!(place.registry.asked().len(), 4);
}

#[tokio::test]
async fn an_answer_overtaken_by_a_write_is_asked_again() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    let gate = Arc::new(Semaphore::new(0));
    place.registry.with().gate = Some(gate.clone());
    let repository = place.repository();
    let asking =
        tokio::spawn(async move { repository.manifest(&reference("v1"), &Accept::default(), false).await });
    gate.add_permits(1);
    while place.registry.with().asked.is_empty() {
        tokio::task::yield_now().await;
    }
    let moved = place.registry.push("v1", &image("b"));
    place.upstream_cache.written(&name());
    gate.add_permits(1000);
    let manifest = asking.await.unwrap().unwrap();
    assert_eq!(manifest.digest, moved);
    assert_eq!(place.upstream_cache.ledger.tag(&name(), &Tag::parse("v1").unwrap()).unwrap().digest, moved);
}

#[tokio::test]
async fn bytes_without_the_digest_are_not_served() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    place.registry.with().forged.insert(digest.clone(), image("forged").into());
    for text in [digest.as_str(), "v1"] {
        assert_eq!(kind(&place, text).await, Some(Meaning::Unusable), "{text}");
    }
    place.registry.with().forged.clear();
    assert_eq!(got(&place, "v1").await.1, image("a"));
}

#[tokio::test]
async fn a_document_not_understood_is_kept() {
    let place = Place::new();
    let both = r#"{"layers":[],"manifests":[]}"#;
    let strange = place.registry.push_as("both", media_type::OCI_INDEX, both);
    for text in ["both", strange.as_str()] {
        assert!(get(&place, text).await.is_ok(), "{text}");
        assert_eq!(got(&place, text).await.0, CacheStatus::Hit, "{text}");
    }
    assert!(matches!(get(&place, "blake3:abc").await, Err(CacheError::Bypass(_))));
}

#[tokio::test]
async fn a_tag_never_points_to_what_is_no_manifest() {
    let place = Place::new();
    for (tag, bytes) in [("page", "<html>"), ("empty", "{}"), ("half", r#"{"manifests":["#)] {
        let digest = place.registry.push(tag, bytes);
        assert_eq!(kind(&place, tag).await, Some(Meaning::Unusable), "{tag}");
        assert!(place.upstream_cache.ledger.tag(&name(), &Tag::parse(tag).unwrap()).is_none(), "{tag}");
        // What has the digest that was asked for is right.
        assert!(get(&place, digest.as_str()).await.is_ok(), "{tag}");
        assert!(place.upstream_cache.ledger.tag(&name(), &Tag::parse(tag).unwrap()).is_none(), "{tag}");
    }
}

#[tokio::test]
async fn a_type_not_accepted_is_asked_for_once() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    let docker = Accept::from_lines([media_type::DOCKER_MANIFEST.as_bytes()]);
    for (outcome, asked) in [(CacheStatus::Miss, 3), (CacheStatus::Hit, 0)] {
        let manifest = place.repository().manifest(&reference("v1"), &docker, false).await.unwrap();
        assert_eq!((manifest.outcome, place.registry.asked().len()), (outcome, asked));
    }
    let other = Accept::from_lines([media_type::OCI_INDEX.as_bytes()]);
    let place = place.again(|settings| settings.offline = true);
    let manifest = place.repository().manifest(&reference("v1"), &other, false).await.unwrap();
    assert_eq!(manifest.outcome, CacheStatus::Hit);
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_waited_for_once() {
    let place = Place::with(|settings| settings.stale_after = 5 * SECOND);
    for tag in ["v1", "v2"] {
        place.registry.push(tag, &image(tag));
        got(&place, tag).await;
        place.age_tag(tag, HOUR + SECOND);
    }
    place.registry.with().gate = Some(Arc::new(Semaphore::new(0)));
    for (tag, seconds) in [("v1", 5), ("v1", 0), ("v2", 0)] {
        let began = clock::now();
        assert_eq!(get(&place, tag).await.unwrap().outcome, CacheStatus::Stale, "{tag}");
        assert_eq!((clock::now() - began).as_secs(), seconds, "{tag}");
    }
    // It was asked for the second tag too, and is believed again as soon as it answers.
    tokio::time::sleep(SECOND).await;
    assert_eq!(place.registry.with().begun, 2 * 2 + 2);
    place.registry.with().gate.take().unwrap().add_permits(1000);
    tokio::time::sleep(SECOND).await;
    assert_eq!(get(&place, "v1").await.unwrap().outcome, CacheStatus::Hit);
}

#[tokio::test]
async fn offline_serves_any_age_and_asks_nothing() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    place.age_tag("v1", 10_000 * HOUR);
    let place = place.again(|settings| settings.offline = true);
    for text in ["v1", digest.as_str()] {
        assert_eq!(got(&place, text).await, (CacheStatus::Hit, image("a"), vec![]), "{text}");
        assert!(head(&place, text).await.is_ok());
    }
    assert!(matches!(get(&place, "v2").await, Err(CacheError::Offline)));
    assert!(matches!(get(&place, "blake3:abc").await, Err(CacheError::Offline)));
    assert!(place.registry.asked().is_empty());
}

#[tokio::test]
async fn one_clients_refusal_is_no_answer_to_another() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    let gate = Arc::new(Semaphore::new(0));
    place.registry.with().gate = Some(gate.clone());
    place.registry.with().refused = Some("bad");
    let ask = |account| {
        let repository = place.repository_as(account);
        tokio::spawn(async move { repository.manifest(&reference("v1"), &Accept::default(), false).await })
    };
    let (bad, good) = (ask("bad"), ask("good"));
    tokio::task::yield_now().await;
    gate.add_permits(1000);
    assert_eq!(bad.await.unwrap().unwrap_err().meaning(), Some(Meaning::Denied));
    assert_eq!(good.await.unwrap().unwrap().digest, digest);
}

#[tokio::test]
async fn a_record_older_than_a_day_is_confirmed_again() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let age = |age: Duration| {
        let held = place.upstream_cache.ledger.held(&name(), Kind::Manifest, &digest).unwrap();
        let held = Membership { confirmed: clock::wall() - age, ..held };
        place.upstream_cache.ledger.hold(&name(), Kind::Manifest, &digest, &held);
    };
    age(limits::RECORD_BELIEVED + SECOND);
    let expected = asked(&["HEAD DIGEST"], &digest);
    assert_eq!(got(&place, digest.as_str()).await, (CacheStatus::Revalidated, image("a"), expected));
    assert_eq!(got(&place, digest.as_str()).await.0, CacheStatus::Hit);
    age(limits::RECORD_BELIEVED + SECOND);
    place.registry.with().fails = Some(UNAVAILABLE);
    assert_eq!(got(&place, digest.as_str()).await.0, CacheStatus::Stale);
    place.registry.with().fails = Some(Meaning::NotFound);
    assert_eq!(kind(&place, digest.as_str()).await, Some(Meaning::NotFound));
    assert!(place.upstream_cache.ledger.held(&name(), Kind::Manifest, &digest).is_none());
}

#[tokio::test]
async fn a_clock_set_back_makes_nothing_new() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    assert!(age(clock::wall() + HOUR) > HOUR - SECOND);
    assert!(age(clock::wall() - HOUR) >= HOUR);
}

#[tokio::test]
async fn manifests_survive_a_restart() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let place = place.restarted();
    for text in ["v1", digest.as_str()] {
        assert_eq!(got(&place, text).await, (CacheStatus::Hit, image("a"), vec![]), "{text}");
    }
}

#[tokio::test]
async fn a_manifest_spoilt_on_disk_is_fetched_again() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let place = place.restarted();
    let file = place.directory.path().join("manifests/sha256");
    let file = file.join(&digest.encoded()[..2]).join(digest.encoded());
    std::fs::write(file, image("b")).unwrap();
    let expected = asked(&["GET DIGEST"], &digest);
    assert_eq!(got(&place, digest.as_str()).await, (CacheStatus::Miss, image("a"), expected));
    let place = place.restarted();
    assert_eq!(got(&place, "v1").await, (CacheStatus::Hit, image("a"), vec![]));
}

#[tokio::test]
async fn large_manifests_are_read_one_at_a_time_for_a_client() {
    let place = Place::new();
    let fetcher = place.upstream_cache.manifests.fetcher();
    let of = |last| place.repository_from("", Client::of([192, 0, 2, last].into())).requester;
    let large = Some(limits::LARGE_MANIFEST_BYTES + 1);
    let (one, other) = (of(1), of(2));
    let first = fetcher.turn(&one, large).await.unwrap();
    assert!(first.is_some());
    let second = tokio::time::timeout(Duration::from_millis(50), fetcher.turn(&one, large));
    assert!(second.await.is_err(), "it waits");
    assert!(fetcher.turn(&one, Some(limits::LARGE_MANIFEST_BYTES)).await.unwrap().is_none());
    assert!(fetcher.turn(&other, large).await.unwrap().is_some(), "another client");
    drop(first);
    assert!(fetcher.turn(&one, large).await.unwrap().is_some());
}

#[tokio::test]
async fn evicted_content_is_fetched_again() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    place.upstream_cache.cache.store.remove(Kind::Manifest, &digest);
    let place = place.restarted();
    assert_eq!(head(&place, "v1").await.unwrap().outcome, CacheStatus::Hit);
    let expected = asked(&["HEAD v1", "GET DIGEST"], &digest);
    assert_eq!(got(&place, "v1").await, (CacheStatus::Miss, image("a"), expected));
}

#[tokio::test]
async fn in_each_a_denial_ends_one_grant() {
    let place = Place::with(|settings| settings.pull_authorization = PullAuthorization::Each);
    place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    place.age_tag("v1", HOUR + SECOND);
    place.registry.with().fails = Some(Meaning::Denied);
    assert_eq!(kind(&place, "v1").await, Some(Meaning::Denied));
    assert!(place.upstream_cache.ledger.tag(&name(), &Tag::parse("v1").unwrap()).is_some());
    place.registry.with().fails = Some(UNAVAILABLE);
    assert_eq!(kind(&place, "v1").await, Some(UNAVAILABLE), "his grant has ended");
}

/// A question has been asked, and is not answered before permits come.
async fn held_up<T: Send + 'static>(
    place: &Place,
    question: impl Future<Output = T> + Send + 'static,
) -> (tokio::task::JoinHandle<T>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    place.registry.with().gate = Some(gate.clone());
    let begun = place.registry.with().begun;
    let asking = tokio::spawn(question);
    while place.registry.with().begun == begun {
        tokio::task::yield_now().await;
    }
    (asking, gate)
}

async fn asking(
    place: &Place,
    text: &str,
) -> (tokio::task::JoinHandle<Result<Manifest, CacheError>>, Arc<Semaphore>) {
    let (repository, reference) = (place.repository(), reference(text));
    held_up(place, async move { repository.manifest(&reference, &Accept::default(), false).await }).await
}

#[tokio::test]
async fn a_delete_during_a_fetch_is_not_undone() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    let (asking, gate) = asking(&place, digest.as_str()).await;
    place.upstream_cache.deleted(&name(), &reference(digest.as_str()));
    gate.add_permits(1000);
    assert!(asking.await.unwrap().is_ok());
    assert!(place.upstream_cache.ledger.held(&name(), Kind::Manifest, &digest).is_none());
}

#[tokio::test]
async fn a_404_overtaken_by_a_push_is_forgotten() {
    let place = Place::new();
    let (asking, gate) = asking(&place, "v1").await;
    let tag = Tag::parse("v1").unwrap();
    let digest = Digest::sha256_of(image("a").as_bytes());
    let writing = place.upstream_cache.begin_write(&name());
    place.upstream_cache.pushed_manifest(&writing, &reference("v1"), &[], &digest, None, &image("a").into());
    gate.add_permits(1000);
    assert!(asking.await.unwrap().is_err());
    assert_eq!(place.upstream_cache.ledger.tag(&name(), &tag).unwrap().digest, digest);
    let expected = vec!["HEAD v1".to_owned(), "GET v1".to_owned()];
    assert_eq!(got(&place, "v1").await, (CacheStatus::Hit, image("a"), expected));
}

#[tokio::test]
async fn concurrent_pushes_leave_the_tag_unknown() {
    let place = Place::new();
    let writings = [place.upstream_cache.begin_write(&name()), place.upstream_cache.begin_write(&name())];
    for (writing, mark) in writings.iter().zip(["a", "b"]) {
        let digest = Digest::sha256_of(image(mark).as_bytes());
        place.upstream_cache.pushed_manifest(
            writing,
            &reference("v1"),
            &[],
            &digest,
            None,
            &image(mark).into(),
        );
        assert!(place.upstream_cache.ledger.held(&name(), Kind::Manifest, &digest).is_some());
    }
    let tag = Tag::parse("v1").unwrap();
    assert_eq!(place.upstream_cache.ledger.tag(&name(), &tag), None);
    let digest = Digest::sha256_of(image("c").as_bytes());
    let writing = place.upstream_cache.begin_write(&name());
    place.upstream_cache.pushed_manifest(&writing, &reference("v1"), &[], &digest, None, &image("c").into());
    assert_eq!(place.upstream_cache.ledger.tag(&name(), &tag).unwrap().digest, digest);
}

#[tokio::test]
async fn a_push_without_its_digest_is_not_kept() {
    let place = Place::new();
    let digest = Digest::sha256_of(image("a").as_bytes());
    let writing = place.upstream_cache.begin_write(&name());
    place.upstream_cache.pushed_manifest(
        &writing,
        &reference(digest.as_str()),
        &[],
        &digest,
        None,
        &image("b").into(),
    );
    assert!(place.upstream_cache.ledger.held(&name(), Kind::Manifest, &digest).is_none());
    assert!(!place.upstream_cache.cache.manifests.has(&digest));
}

#[tokio::test]
async fn without_fetch_held_manifests_serve_while_confirmed() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    let get = async |text: &str| {
        place.repository_of_held().manifest(&reference(text), &Accept::default(), false).await
    };
    assert!(matches!(get("v1").await, Err(CacheError::FetchForbidden)));
    assert!(place.registry.asked().is_empty(), "of what is not here nothing is asked");
    got(&place, "v1").await;
    place.age_tag("v1", HOUR + SECOND);
    assert_eq!(get("v1").await.unwrap().outcome, CacheStatus::Revalidated);
    assert_eq!(get("v1").await.unwrap().outcome, CacheStatus::Hit);
    assert_eq!(place.registry.asked(), ["HEAD v1"]);
    place.registry.push("v1", &image("b"));
    place.age_tag("v1", HOUR + SECOND);
    assert!(matches!(get("v1").await, Err(CacheError::FetchForbidden)), "it has moved to what is not here");
    assert_eq!(place.registry.asked(), ["HEAD v1"]);
    place.registry.delete(&digest);
    place.age_manifest(&digest, limits::RECORD_BELIEVED + SECOND);
    let refusal = get(digest.as_str()).await.unwrap_err();
    assert_eq!(refusal.meaning(), Some(Meaning::NotFound));
    assert_eq!(place.registry.asked(), asked(&["HEAD DIGEST"], &digest));
}

#[tokio::test]
async fn without_fetch_held_manifests_serve_stale_for_a_while() {
    let place = Place::new();
    place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    place.registry.with().fails = Some(UNAVAILABLE);
    let repository = place.repository_of_held();
    for (age, serves) in [(HOUR + SECOND, true), (HOUR + HOUR + SECOND, false)] {
        place.age_tag("v1", age);
        let result = repository.manifest(&reference("v1"), &Accept::default(), false).await;
        assert_eq!(result.is_ok(), serves, "{age:?}");
    }
}

#[tokio::test]
async fn a_refusal_to_an_own_account_ends_nothing() {
    for refusal in [Meaning::NotFound, Meaning::Denied] {
        let place = Place::new();
        place.registry.push("v1", &image("a"));
        got(&place, "v1").await;
        place.age_tag("v1", HOUR + SECOND);
        place.registry.with().fails = Some(refusal);
        let result = place.repository_as("own").manifest(&reference("v1"), &Accept::default(), false).await;
        assert_eq!(result.unwrap_err().meaning(), Some(refusal));
        place.registry.with().fails = Some(UNAVAILABLE);
        assert_eq!(got(&place, "v1").await.0, CacheStatus::Stale, "{refusal:?}");
    }
}

#[tokio::test]
async fn content_of_another_upstream_must_be_served_here_first() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let place = place.elsewhere();
    let expected = asked(&["GET DIGEST"], &digest);
    assert_eq!(got(&place, digest.as_str()).await, (CacheStatus::Miss, image("a"), expected));
    assert_eq!(got(&place, digest.as_str()).await.0, CacheStatus::Hit);
    let place = place.elsewhere();
    assert_eq!(head(&place, digest.as_str()).await.unwrap().bytes, None, "by its word alone");
    place.registry.delete(&digest);
    assert!(get(&place, digest.as_str()).await.is_err());
}

#[tokio::test]
async fn a_manifests_own_type_wins() {
    let place = Place::new();
    let own = format!(r#"{{"mediaType":"{}",{}"#, media_type::OCI_MANIFEST, &image("a")[1..]);
    let digest = place.registry.push_as("v1", media_type::DOCKER_MANIFEST, &own);
    assert_eq!(get(&place, "v1").await.unwrap().media_type.as_str(), media_type::OCI_MANIFEST);
    let called = |kind: &str| Membership {
        media_type: MediaType::parse(kind).ok(),
        size: Some(own.len() as u64),
        confirmed: clock::wall(),
    };
    place.upstream_cache.ledger.hold(&name(), Kind::Manifest, &digest, &called(media_type::OCI_INDEX));
    for head in [false, true] {
        let found = place.repository().manifest(&reference(digest.as_str()), &Accept::default(), head).await;
        assert_eq!(found.unwrap().media_type.as_str(), media_type::OCI_MANIFEST);
    }
}

#[tokio::test]
async fn an_image_is_never_served_as_an_index() {
    let place = Place::new();
    let digest = place.registry.push("v1", &image("a"));
    got(&place, "v1").await;
    let held = place.upstream_cache.ledger.held(&name(), Kind::Manifest, &digest).unwrap();
    let held = Membership { media_type: MediaType::parse(media_type::OCI_INDEX).ok(), ..held };
    place.upstream_cache.ledger.hold(&name(), Kind::Manifest, &digest, &held);
    assert_eq!(get(&place, digest.as_str()).await.unwrap().media_type.as_str(), media_type::OCI_MANIFEST);
}
