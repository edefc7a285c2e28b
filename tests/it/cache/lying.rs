//! Upstreams that send something else than what was asked for.

use super::{asking, files_in, gives, started, until_kept};
use crate::harness::{
    Ending, Gateway, Http2, Image, OCI_IMAGE, Origin, Process, Reply, Request, manifest_at, noise, sha256,
};

const SIZE: usize = 300_000;

/// Returns the parts that three readers get, none of them a whole answer.
async fn none_is_served(gateway: &Gateway, target: &str, of: &str) {
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(asking(gateway, Request::get(target)).await);
    }
    for client in &mut clients {
        client.is_torn(of).await;
    }
}

fn is_empty(gateway: &Gateway) {
    let kept = files_in(&gateway.path("cache/blobs"));
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test]
async fn wrong_content_is_neither_served_nor_kept() {
    let bytes = noise(SIZE);
    let mut flipped = bytes.clone();
    flipped[SIZE / 3] ^= 1;
    let mut ending = bytes.clone();
    ending[SIZE - 1] ^= 1;
    let longer = noise(SIZE + 8);
    let cases = [
        ("another byte in the middle", Origin::whole(&flipped)),
        ("another last byte", Origin::whole(&ending)),
        ("another byte, of unknown length", Reply::ok(&flipped).chunked(9000)),
        ("a shorter blob", Reply::ok(&bytes[..SIZE - 8])),
        ("a shorter blob of unknown length", Reply::ok(&bytes[..SIZE - 8]).chunked(9000)),
        ("a longer blob", Reply::ok(&longer)),
        ("a longer blob of unknown length", Reply::ok(&longer).chunked(9000)),
        ("nothing", Reply::ok("")),
        ("gzip", Origin::whole(&flipped).header("Content-Encoding", "gzip")),
        ("no content", Reply::status(204)),
        ("an unrequested part", Origin::part(&bytes, 0, SIZE / 2)),
    ];
    for (of, reply) in cases {
        let (origin, gateway) = started("").await;
        let target = origin.blob("a", &bytes);
        origin.upstream.always("GET", &*target, move |_| reply.clone());
        none_is_served(&gateway, &target, of).await;
        is_empty(&gateway);
        origin.upstream.forget("GET", &target);
        // The registry is honest again.
        let answer = gateway.get(&target).await.is(200);
        assert!(answer.body == bytes, "{of}");
        gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    }
}

#[tokio::test]
async fn http_1_0_sees_that_a_blob_is_wrong() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let mut flipped = bytes.clone();
    flipped[SIZE / 3] ^= 1;
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Reply::ok(&flipped).chunked(9000));
    let mut client = gateway.connect().await;
    client.send(format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n")).await;
    let head = client.head().await.is(200);
    assert_eq!(head.header("content-length"), None);
    assert_eq!(client.discard().await, Ending::Torn, "a FIN would be a good end");
}

#[tokio::test]
async fn a_small_blob_is_proved_too() {
    let (origin, gateway) = started("").await;
    let bytes = noise(500);
    let target = origin.blob("a", &bytes);
    for reply in [Reply::ok(noise(501)), Reply::ok(&bytes[..499]), Reply::ok("0".repeat(500))] {
        origin.upstream.always("GET", &*target, move |_| reply.clone());
        none_is_served(&gateway, &target, "small").await;
        is_empty(&gateway);
        origin.upstream.forget("GET", &target);
    }
    gives(gateway.get(&target).await, &bytes, "MISS");
}

#[tokio::test]
async fn a_body_that_ends_early_is_cut() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let target = origin.blob("a", &bytes);
    let short = || Reply::ok(&bytes[..SIZE / 2]).claim(SIZE).then_close();
    origin.upstream.expect("GET", &*target, short());
    origin.upstream.expect("GET", &*target, Reply::status(404));
    asking(&gateway, Request::get(&target)).await.is_torn("").await;
    is_empty(&gateway);
}

#[tokio::test]
async fn the_rest_of_another_blob_is_not_the_rest() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let mut other = bytes.clone();
    other[SIZE - 10] ^= 1;
    let target = origin.blob("a", &bytes);
    let gate = crate::harness::Gate::shut();
    gate.open();
    origin.upstream.expect("GET", &*target, Reply::ok(&bytes).cut_after(100_000, &gate));
    let rest = Reply::status(206).body(&other[100_000..]);
    let rest = rest.header("Content-Range", &format!("bytes 100000-{}/{SIZE}", SIZE - 1));
    origin.upstream.expect("GET", &*target, rest);
    asking(&gateway, Request::get(&target)).await.is_torn("").await;
    is_empty(&gateway);
    assert!(gateway.get(&target).await.is(200).body == bytes);
}

#[tokio::test]
async fn sha512_is_proved_as_well() {
    let (origin, gateway) = started("").await;
    let bytes = noise(SIZE);
    let digest = super::sha512(&bytes);
    let target = format!("/v2/a/blobs/{digest}");
    origin.upstream.expect("GET", &*target, Reply::ok(noise(SIZE - 1)));
    asking(&gateway, Request::get(&target)).await.is_torn("").await;
    origin.upstream.expect("GET", &*target, Reply::ok(&bytes));
    gives(gateway.get(&target).await, &bytes, "MISS");
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn a_manifest_with_a_wrong_digest_is_never_served() {
    let (origin, gateway) = started("").await;
    let image = Image::empty("x");
    let other = Image::empty("other");
    let target = manifest_at("a", &image.digest);
    let wrong = Reply::ok(&other.manifest).header("Content-Type", OCI_IMAGE);
    for _ in 0..2 {
        origin.upstream.expect("GET", &*target, wrong.clone());
    }
    gateway.get(&target).await.refuses(502, "UNAVAILABLE");
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    gives(gateway.get(&target).await, &image.manifest, "MISS");
    gives(gateway.get(&target).await, &image.manifest, "HIT");
    assert_eq!(sha256(&image.manifest), image.digest);
}

#[tokio::test]
async fn unsynced_content_is_verified_after_a_power_loss() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(SIZE);
    let target = origin.blob("a", &bytes);
    let store = dir.path().join("store");
    let builder = || super::cached_at(&origin, &store, "");
    let mut process = Process::start(builder(), dir.path()).await;
    assert!(process.get(&target).await.is(200).body == bytes);
    process.terminate().await;
    let kept = files_in(&store.join("blobs"));
    assert_eq!(kept.len(), 1);
    // What had reached the disk: the name, and some of the bytes; and that it is not known to be all.
    let file = std::fs::File::options().write(true).open(&kept[0]).unwrap();
    file.set_len(SIZE as u64 / 2).unwrap();
    file.set_len(SIZE as u64).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let process = Process::start(builder(), dir.path()).await;
    assert!(process.get(&target).await.is(200).body == bytes);
    assert_eq!(origin.count("GET", &target), 2);
}

#[tokio::test]
async fn over_http2_wrong_content_resets_only_its_stream() {
    let origin = Origin::start().await;
    let gateway = super::cached(&origin, "").tls(&["localhost"]).start().await;
    let (bytes, other) = (noise(SIZE), noise(SIZE + 1));
    let (target, honest) = (origin.blob("a", &bytes), origin.blob("a", &other));
    let mut wrong = bytes.clone();
    wrong[SIZE / 2] ^= 1;
    origin.upstream.expect("GET", &*target, Reply::ok(&wrong));
    let mut client = gateway.http2().await;
    let lied = client.begin(&Request::get(&target)).await.unwrap();
    let told = client.begin(&Request::get(&honest)).await.unwrap();
    let (_, end) = Http2::finish(lied).await;
    assert!(end.is_err(), "never a clean end");
    let (answer, end) = Http2::finish(told).await;
    end.expect("a clean end");
    assert!(answer.status == 200 && answer.body == other);
    let (answer, end) = Http2::finish(client.begin(&Request::get(&target)).await.unwrap()).await;
    end.expect("a clean end");
    assert!(answer.status == 200 && answer.body == bytes);
}
