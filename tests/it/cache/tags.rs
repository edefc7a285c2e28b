//! Tags: hints with an age.

use std::time::Duration;

use dockgate::internals::clock;

use super::{asking, cached_at, gives, started, started_without_retries, until, word};
use crate::harness::{
    DOCKER_IMAGE, Gate, Image, OCI_IMAGE, OCI_INDEX, Origin, Process, Reply, Request, manifest_at, sha256,
};

const TAG: &str = "/v2/a/manifests/x";

fn image(origin: &Origin, name: &str) -> Image {
    let image = Image::empty(name);
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    image
}

#[tokio::test]
async fn a_tag_costs_a_head_and_a_get_by_digest() {
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let image = image(&origin, "one");
    let answer = gives(gateway.get(TAG).await, &image.manifest, "MISS");
    assert_eq!(answer.header("content-type"), Some(OCI_IMAGE));
    assert_eq!(answer.header("docker-content-digest"), Some(image.digest.as_str()));
    let by_digest = manifest_at("a", &image.digest);
    assert_eq!(origin.requests(), [format!("HEAD {TAG}"), format!("GET {by_digest}")]);
    for target in [TAG, &by_digest] {
        gives(gateway.get(target).await, &image.manifest, "HIT");
        let head = gateway.ask(Request::head(target)).await.is(200);
        assert_eq!(head.header("content-length"), Some(image.manifest.len().to_string().as_str()));
        assert_eq!((head.header("docker-content-digest"), word(&head)), (Some(image.digest.as_str()), "HIT"));
    }
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn a_docker_pull_costs_one_head_and_one_get() {
    let (origin, gateway) = started("").await;
    let image = image(&origin, "one");
    let by_digest = manifest_at("a", &image.digest);
    gateway.ask(Request::head(TAG)).await.is(200);
    gives(gateway.get(&by_digest).await, &image.manifest, "MISS");
    gives(gateway.get(TAG).await, &image.manifest, "HIT");
    assert_eq!(origin.requests(), [format!("HEAD {TAG}"), format!("GET {by_digest}")]);
}

#[tokio::test]
async fn an_old_tag_is_revalidated_once_for_all_waiters() {
    let (origin, gateway) = started("tag_ttl = \"1s\"").await;
    let image = image(&origin, "one");
    gateway.get(TAG).await.is(200);
    origin.forgets_requests();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let gate = Gate::shut();
    let reply = Reply::ok("").claim(image.manifest.len()).header("Docker-Content-Digest", &image.digest);
    let reply = reply.header("Content-Type", OCI_IMAGE).held(&gate);
    let mut asked = origin.upstream.expect("HEAD", TAG, reply);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let request = Request::get(TAG).header("Accept", OCI_IMAGE);
        clients.push(asking(&gateway, request).await);
    }
    let seen = asked.arrived().await;
    gate.open();
    for client in &mut clients {
        let answer = client.answer().await.is(200);
        assert!(answer.body == image.manifest);
        assert!(["REVALIDATED", "HIT"].contains(&word(&answer)), "{answer:?}");
    }
    assert_eq!(origin.requests(), [format!("HEAD {TAG}")]);
    let accept = seen.headers.all("accept").join(", ");
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    for kind in [OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, list] {
        assert!(accept.contains(kind), "{accept}");
    }
}

#[tokio::test]
async fn a_tag_that_has_not_moved_is_revalidated() {
    let (origin, gateway) = started("tag_ttl = \"0s\"").await;
    let image = image(&origin, "one");
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    for _ in 0..3 {
        gives(gateway.get(TAG).await, &image.manifest, "REVALIDATED");
    }
    assert_eq!(origin.count("GET", &manifest_at("a", &image.digest)), 1);
    assert_eq!(origin.count("GET", TAG), 0);
    assert_eq!(origin.count("HEAD", TAG), 4);
}

#[tokio::test]
async fn a_moved_tag_is_fetched_by_its_new_digest() {
    let (origin, gateway) = started("tag_ttl = \"0s\"").await;
    let old = image(&origin, "old");
    gateway.get(TAG).await.is(200);
    let new = image(&origin, "new");
    gives(gateway.get(TAG).await, &new.manifest, "MISS");
    assert_eq!(origin.count("GET", &manifest_at("a", &new.digest)), 1);
    assert_eq!(origin.count("GET", TAG), 0);
    gives(gateway.get(&manifest_at("a", &old.digest)).await, &old.manifest, "HIT");
}

#[tokio::test]
async fn two_tags_of_one_manifest_cost_one_get() {
    let (origin, gateway) = started("").await;
    let image = image(&origin, "one");
    origin.manifest("a", "y", OCI_IMAGE, &image.manifest);
    gateway.get(TAG).await.is(200);
    assert!(gateway.get(&manifest_at("a", "y")).await.is(200).body == image.manifest);
    assert_eq!(origin.count("GET", &manifest_at("a", &image.digest)), 1);
}

#[tokio::test]
async fn a_head_without_a_digest_fetches_and_hashes() {
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let image = image(&origin, "one");
    origin.names_no_digest();
    for (did, of) in [("MISS", "first"), ("HIT", "then")] {
        let answer = gives(gateway.get(TAG).await, &image.manifest, did);
        assert_eq!(answer.header("docker-content-digest"), Some(image.digest.as_str()), "{of}");
    }
    assert_eq!(origin.requests(), [format!("HEAD {TAG}"), format!("GET {TAG}")]);
    let head = gateway.ask(Request::head(TAG)).await.is(200);
    assert_eq!(head.header("docker-content-digest"), Some(image.digest.as_str()));
}

#[tokio::test]
async fn where_head_is_not_served_the_manifest_is_fetched() {
    for status in [405, 400] {
        let (origin, gateway) = started_without_retries("tag_ttl = \"1h\"").await;
        let image = image(&origin, "one");
        origin.upstream.expect("HEAD", TAG, Reply::status(status));
        gives(gateway.get(TAG).await, &image.manifest, "MISS");
        gives(gateway.get(TAG).await, &image.manifest, "HIT");
    }
}

#[tokio::test]
async fn tag_records_survive_a_restart() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let image = image(&origin, "one");
    let builder = || cached_at(&origin, dir.path(), "tag_ttl = \"1h\"");
    let gateway = builder().start().await;
    gateway.get(TAG).await.is(200);
    super::until_synced(dir.path()).await;
    drop(gateway);
    origin.forgets_requests();
    let gateway = builder().start().await;
    gives(gateway.get(TAG).await, &image.manifest, "HIT");
    assert_eq!(origin.requests(), [""; 0]);
}

#[tokio::test]
async fn another_accepted_type_is_answered_by_the_upstream() {
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let image = image(&origin, "one");
    gateway.get(TAG).await.is(200);
    origin.forgets_requests();
    let converted = Image::empty("converted");
    let reply = Reply::ok(&converted.manifest).header("Content-Type", DOCKER_IMAGE);
    let mut asked = origin.upstream.expect("GET", TAG, reply);
    let answer = gateway.ask(Request::get(TAG).header("Accept", DOCKER_IMAGE)).await.is(200);
    assert!(answer.body == converted.manifest);
    assert_eq!(asked.done().await.headers.get("accept"), Some(DOCKER_IMAGE));
    for accept in [OCI_IMAGE, "*/*", "application/*", "application/json;q=0.1, */*;q=0.2"] {
        gives(gateway.ask(Request::get(TAG).header("Accept", accept)).await, &image.manifest, "HIT");
    }
}

#[tokio::test]
async fn tags_of_signatures_are_held_for_seconds_alone() {
    let (origin, gateway) = started("tag_ttl = \"1h\"\nnot_found_ttl = \"1h\"").await;
    let hash = sha256(b"signed").replace(':', "-");
    let held = [format!("{hash}.sig"), format!("{hash}.att"), format!("{hash}.sbom"), hash];
    let missing = held[0].replace("sha256-", "sha512-");
    let (old, new) = (image(&origin, "old"), Image::empty("new"));
    for tag in &held {
        origin.manifest("a", tag, OCI_IMAGE, &old.manifest);
        gateway.get(&manifest_at("a", tag)).await.is(200);
    }
    gateway.get(TAG).await.is(200);
    gateway.get(&manifest_at("a", &missing)).await.is(404);
    for tag in held.iter().chain([&missing]) {
        origin.manifest("a", tag, OCI_IMAGE, &new.manifest);
    }
    image(&origin, "new");
    let since = clock::now();
    for tag in held.iter().chain([&missing]) {
        let request = Request::get(manifest_at("a", tag));
        until("the new signature", &gateway, request, |answer| answer.body == new.manifest).await;
    }
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    gives(gateway.get(TAG).await, &old.manifest, "HIT");
}

#[tokio::test]
async fn a_missing_manifest_is_remembered_for_a_while() {
    let (origin, gateway) = started("not_found_ttl = \"1s\"").await;
    let missing = manifest_at("a", &sha256(b"missing"));
    for target in [TAG, &missing] {
        gateway.get(target).await.refuses(404, "MANIFEST_UNKNOWN");
    }
    let asked = origin.requests().len();
    for target in [TAG, &missing] {
        gateway.get(target).await.refuses(404, "MANIFEST_UNKNOWN");
        gateway.ask(Request::head(target)).await.is(404);
    }
    assert_eq!(origin.requests().len(), asked);
    let image = image(&origin, "one");
    let found = until("it to be asked again", &gateway, Request::get(TAG), |answer| answer.status == 200);
    assert!(found.await.body == image.manifest);
}

#[tokio::test]
async fn missing_blobs_are_never_remembered() {
    let (origin, gateway) = started("not_found_ttl = \"1h\"").await;
    let target = crate::harness::blob_at("a", b"later");
    for _ in 0..2 {
        gateway.get(&target).await.refuses(404, "BLOB_UNKNOWN");
        gateway.ask(Request::head(&target)).await.is(404);
    }
    origin.blob("a", b"later");
    gives(gateway.get(&target).await, b"later", "MISS");
}

#[tokio::test]
async fn no_other_failure_is_believed() {
    for status in [401, 403, 500, 503, 504] {
        let (origin, gateway) = started_without_retries("not_found_ttl = \"1h\"").await;
        let image = image(&origin, "one");
        origin.falls_ill(status);
        let answer = gateway.get(TAG).await;
        assert!(answer.status >= 400, "{answer:?}");
        origin.recovers();
        gives(gateway.get(TAG).await, &image.manifest, "MISS");
    }
}

#[tokio::test]
async fn a_manifest_that_is_too_long_is_not_kept() {
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let mut image = Image::empty("one").manifest;
    image.resize(4 * 1048 * 1048 + 1, b' ');
    origin.manifest("a", "x", OCI_IMAGE, &image);
    assert_ne!(word(&gateway.get(TAG).await), "HIT");
    assert_eq!(super::files_in(&gateway.path("cache/manifests")), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test]
async fn a_manifests_bytes_are_never_changed() {
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let image = Image::empty("one");
    let text = String::from_utf8(image.manifest)
        .unwrap()
        .replace(':', " :\n\t")
        .replace("\" :\n\t\"sha256 :\n\t", "\":\"sha256:");
    let text = text.replace("sha256 :\n\t", "sha256:") + "\n\n";
    let digest = origin.manifest("a", "x", OCI_IMAGE, text.as_bytes());
    for did in ["MISS", "HIT"] {
        let answer = gives(gateway.get(TAG).await, text.as_bytes(), did);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    }
}

#[tokio::test]
async fn a_new_tag_ttl_keeps_the_cache() {
    let (origin, gateway) = started("tag_ttl = \"1h\"").await;
    let image = image(&origin, "one");
    gives(gateway.get(TAG).await, &image.manifest, "MISS");
    gives(gateway.get(TAG).await, &image.manifest, "HIT");
    gateway.reconfigure("tag_ttl = \"1h\"", "tag_ttl = \"0s\"");
    gives(gateway.get(TAG).await, &image.manifest, "REVALIDATED");
    assert_eq!(origin.count("GET", &manifest_at("a", &image.digest)), 1);
}

#[tokio::test]
async fn the_access_log_says_why_a_manifest_was_not_cached() {
    let origin = Origin::start().await;
    image(&origin, "one");
    let strange = manifest_at("a", "blake3:abc");
    origin.upstream.expect("GET", &*strange, Reply::ok(Image::empty("two").manifest));
    let dir = tempfile::tempdir().unwrap();
    let builder = cached_at(&origin, &dir.path().join("store"), "");
    let mut process = Process::start(builder, dir.path()).await;
    for target in [TAG, &strange] {
        process.get(target).await.is(200);
    }
    process.terminate().await;
    let log = process.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("access: get_manifest 200")).collect();
    let bypassed = lines.iter().map(|line| line.contains(" cache=miss bypass=unknown_digest_algorithm "));
    assert_eq!(bypassed.collect::<Vec<_>>(), [false, true], "{log}");
}

#[tokio::test]
async fn rate_limits_come_through_the_cache() {
    let (origin, gateway) = started("").await;
    let image = Image::empty("one");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    let (bytes, digest) = (image.manifest.clone(), image.digest.clone());
    let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(76));
    let counted = left.clone();
    origin.upstream.always("HEAD", TAG, move |_| {
        let left = counted.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        let reply =
            Reply::ok(&bytes).header("Content-Type", OCI_IMAGE).header("Docker-Content-Digest", &digest);
        let reply =
            reply.header("RateLimit-Limit", "100;w=21600").header("Docker-RateLimit-Source", "192.0.2.7");
        reply.header("RateLimit-Remaining", &format!("{left};w=21600"))
    });
    for did in ["MISS", "HIT"] {
        let answer = gateway.get(TAG).await.is(200);
        assert_eq!(word(&answer), did);
        assert_eq!(answer.header("ratelimit-limit"), Some("100;w=21600"));
        assert_eq!(answer.header("ratelimit-remaining"), Some("76;w=21600"));
        assert_eq!(answer.header("docker-ratelimit-source"), Some("192.0.2.7"));
    }
    let head = gateway.ask(Request::head(manifest_at("a", &image.digest))).await.is(200);
    assert_eq!(head.header("ratelimit-remaining"), Some("76;w=21600"));
}

#[tokio::test]
async fn a_manifest_that_drips_frees_its_tag() {
    let (origin, gateway) = started_without_retries("tag_ttl = \"1h\"").await;
    let image = image(&origin, "one");
    let by_digest = manifest_at("a", &image.digest);
    let gate = Gate::shut();
    let drips = Reply::ok(&image.manifest).header("Content-Type", OCI_IMAGE).pause_after(10, &gate);
    let _dripping = origin.upstream.expect("GET", by_digest.as_str(), drips);
    let mut clients = [asking(&gateway, Request::get(TAG)).await, asking(&gateway, Request::get(TAG)).await];
    // It is given up for its slowness, and asked for once more.
    for client in &mut clients {
        assert_eq!(client.answer().await.is(200).body, image.manifest);
    }
    gives(gateway.get(TAG).await, &image.manifest, "HIT");
}
