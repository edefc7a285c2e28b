//! Disks that are full or do not work, and what makes room.

use std::path::Path;
use std::time::Duration;

use super::{asking, before, cached, files_in, gives, until, until_kept, word};
use crate::harness::{
    BodyEnd, Builder, Gate, Gateway, Guarded, Image, OCI_IMAGE, Origin, Reply, Request, Upstream, account,
    blob_at, is_told, manifest_at, noise, soon, token,
};

const MIB: usize = 1024 * 1024;

fn with(origin: &Origin, lines: &str) -> Builder {
    before(origin, "[upstream.cache]").cache(&format!("prefetch = false\n{lines}")).admin_listener()
}

/// Bytes that the files below a directory take, of blobs and prefixes.
fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let all = files_in(&path.join("blobs")).into_iter().chain(files_in(&path.join("partial")));
    // What is removed while this looks takes nothing.
    all.filter_map(|path| path.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

async fn problems(gateway: &Gateway) -> String {
    gateway.admin("/readyz").await.is(200).json()["problems"].to_string()
}

#[tokio::test]
async fn oversized_content_is_shared_and_not_kept() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"1MiB\"").start().await;
    // No more than the memory of a download holds: no reader is left behind.
    let (bytes, gate) = (noise(2 * MIB), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(MIB, &gate));
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = asking(&gateway, Request::get(&target)).await;
        let head = client.head().await.is(200);
        clients.push((client, head));
    }
    gate.open();
    let mut readers = tokio::task::JoinSet::new();
    for (mut client, head) in clients {
        readers.spawn(async move { client.rest(head).await });
    }
    for (answer, end) in readers.join_all().await {
        assert!(end == BodyEnd::Complete && answer.body == bytes);
    }
    assert_eq!(origin.requests(), [format!("GET {target}")]);
    assert!(taken(&gateway.path("cache")) < MIB as u64);
    gives(gateway.get(&target).await, &bytes, "BYPASS (too_large)");
    // What does fit is kept.
    let small = noise(100_000);
    let target = origin.blob("a", &small);
    gives(gateway.get(&target).await, &small, "MISS");
    until_kept(&gateway, &target).await;
}

#[tokio::test]
async fn a_length_that_is_only_said_evicts_nothing() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"64MiB\"\nmax_object = \"60MiB\"").start().await;
    let kept: Vec<_> = (0..12).map(|_| noise(4 * MIB)).collect();
    let targets: Vec<_> = kept.iter().map(|bytes| origin.blob("a", bytes)).collect();
    for target in &targets {
        gateway.get(target).await.is(200);
        until_kept(&gateway, target).await;
    }
    // Each says that it has nearly all that there is room for, and sends next to nothing of it.
    let gate = Gate::shut();
    let mut waiting = Vec::new();
    for number in 0..8 {
        let target = blob_at("a", format!("liar {number}").as_bytes());
        let reply = Reply::ok(noise(300_000)).claim(58 * MIB).pause_after(300_000, &gate);
        origin.upstream.expect("GET", &*target, reply);
        let mut client = asking(&gateway, Request::get(&target)).await;
        client.head().await.is(200);
        waiting.push(client);
    }
    let mut hits = 0;
    for (target, bytes) in targets.iter().zip(&kept) {
        let answer = gateway.get(target).await.is(200);
        assert!(answer.body == *bytes);
        hits += usize::from(word(&answer) == "HIT");
    }
    // What has come of the eight, and as much ahead of it.
    assert!(hits >= 11, "{hits} of {} are left", kept.len());
    drop(waiting);
    gate.open();
}

#[tokio::test]
async fn only_objects_up_to_max_object_are_kept() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"64MiB\"\nmax_object = \"1MiB\"").start().await;
    let (fits, large) = (noise(MIB), noise(MIB + 1));
    let (fitting, too_large) = (origin.blob("a", &fits), origin.blob("a", &large));
    gives(gateway.get(&fitting).await, &fits, "MISS");
    until_kept(&gateway, &fitting).await;
    for _ in 0..2 {
        gives(gateway.get(&too_large).await, &large, "BYPASS (too_large)");
        let part = gateway.ask(Request::get(&too_large).header("Range", "bytes=9-19")).await.is(206);
        assert!(part.body == large[9..20] && word(&part) == "BYPASS (too_large)");
    }
    // One of which the upstream does not say the length.
    let unsaid = noise(3 * MIB);
    let target = blob_at("a", &unsaid);
    for _ in 0..2 {
        origin.upstream.expect("GET", &*target, Reply::ok(&unsaid).chunked(100_000));
        gives(gateway.get(&target).await, &unsaid, "MISS");
    }
    assert!(taken(&gateway.path("cache")) < 2 * MIB as u64);
    let metrics = gateway.admin("/metrics").await.is(200).text();
    assert!(metrics.contains("dockgate_cache_bypasses_total{reason=\"too_large\"} 4"), "{metrics}");
    assert!(!metrics.contains("cause=\"disk\"} 1") && !metrics.contains("cause=\"disk\"} 2"), "{metrics}");
}

#[tokio::test]
async fn oversized_content_is_verified_too() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"1MiB\"").start().await;
    let mut bytes = noise(3 * MIB);
    let target = origin.blob("a", &bytes);
    bytes[MIB] ^= 1;
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes));
    asking(&gateway, Request::get(&target)).await.is_torn("").await;
}

#[tokio::test]
async fn a_slow_reader_of_oversized_content_slows_no_other() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"1MiB\"").start().await;
    let bytes = noise(24 * MIB);
    let target = origin.blob("a", &bytes);
    let mut slow = asking(&gateway, Request::get(&target)).await;
    let head = slow.head().await.is(200);
    assert!(gateway.get(&target).await.is(200).body == bytes);
    let (answer, end) = slow.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
}

#[tokio::test]
async fn a_full_disk_is_bypassed_and_reported() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "min_free = \"99%\"").start().await;
    let image = origin.image("a", "x", &Image::layers(&[MIB]));
    gives(gateway.get("/v2/a/manifests/x").await, &image.manifest, "MISS");
    let target = origin.blob("a", &image.layers[0]);
    gives(gateway.get(&target).await, &image.layers[0], "MISS");
    gives(gateway.get(&target).await, &image.layers[0], "MISS");
    assert_eq!(origin.count("GET", &target), 2);
    assert!(problems(&gateway).await.contains("cache"), "{}", problems(&gateway).await);
}

#[tokio::test]
async fn an_unusable_directory_is_bypassed_until_it_recovers() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "").start().await;
    let first = noise(MIB + 1);
    let target = origin.blob("a", &first);
    gateway.get(&target).await.is(200);
    until_kept(&gateway, &target).await;
    // As if another file system were mounted there.
    let path = gateway.path("cache");
    std::fs::rename(&path, gateway.path("aside")).unwrap();
    std::fs::write(&path, "no directory").unwrap();
    let bytes = noise(MIB);
    let other = origin.blob("a", &bytes);
    for _ in 0..2 {
        gives(gateway.get(&other).await, &bytes, "MISS");
        assert!(gateway.get(&target).await.is(200).body == first);
    }
    let told = soon("/readyz to name the problem", async {
        while !problems(&gateway).await.contains("cache") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    told.await;
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(gateway.path("aside"), &path).unwrap();
    let kept =
        until("the cache to work again", &gateway, Request::get(&other), |answer| word(answer) == "HIT");
    gives(kept.await, &bytes, "HIT");
    gives(gateway.get(&target).await, &first, "HIT");
    assert!(!problems(&gateway).await.contains("cache"), "{}", problems(&gateway).await);
}

#[tokio::test]
async fn a_vanishing_directory_does_no_harm() {
    let origin = Origin::start().await;
    let gateway = cached(&origin, "").start().await;
    let bytes = noise(MIB);
    let target = origin.blob("a", &bytes);
    gives(gateway.get(&target).await, &bytes, "MISS");
    until_kept(&gateway, &target).await;
    std::fs::remove_dir_all(gateway.path("cache")).unwrap();
    let answer = gateway.get(&target).await.is(200);
    assert!(answer.body == bytes);
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn the_cache_never_exceeds_its_size() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"8MiB\"").start().await;
    let layers = Image::layers(&[MIB; 24]);
    for layer in &layers {
        let target = origin.blob("a", layer);
        assert!(gateway.get(&target).await.is(200).body == *layer);
        let taken = taken(&gateway.path("cache"));
        assert!(taken <= 8 * MIB as u64, "{taken}");
    }
    let last = origin.blob("a", layers.last().unwrap());
    until_kept(&gateway, &last).await;
}

#[tokio::test]
async fn a_blob_in_use_is_not_evicted() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"32MiB\"\nmax_object = \"30MiB\"").start().await;
    let bytes = noise(24 * MIB);
    let target = origin.blob("a", &bytes);
    gateway.get(&target).await.is(200);
    until_kept(&gateway, &target).await;
    let mut reader = asking(&gateway, Request::get(&target)).await;
    let head = reader.head().await.is(200);
    for layer in Image::layers(&[3 * MIB; 5]) {
        let target = origin.blob("b", &layer);
        assert!(gateway.get(&target).await.is(200).body == layer);
    }
    let (answer, end) = reader.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
}

#[tokio::test]
async fn content_matching_keep_is_not_evicted() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"8MiB\"\nkeep = [\"base/*\"]").start().await;
    let base = noise(2 * MIB);
    let kept = origin.blob("base/alpine", &base);
    gives(gateway.get(&kept).await, &base, "MISS");
    until_kept(&gateway, &kept).await;
    for layer in Image::layers(&[MIB; 12]).iter().map(|layer| [&layer[..], b"!"].concat()) {
        let target = origin.blob("a", &layer);
        for _ in 0..3 {
            gateway.get(&target).await.is(200);
        }
    }
    gives(gateway.get(&kept).await, &base, "HIT");
    assert_eq!(origin.count("GET", &kept), 1);
}

#[tokio::test]
async fn manifests_and_tags_outlive_blobs() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "max_size = \"4MiB\"").start().await;
    let image = origin.image("a", "x", &[]);
    gateway.get("/v2/a/manifests/x").await.is(200);
    for layer in Image::layers(&[MIB; 12]) {
        gateway.get(&origin.blob("b", &layer)).await.is(200);
    }
    gives(gateway.get("/v2/a/manifests/x").await, &image.manifest, "HIT");
}

#[tokio::test]
async fn two_gateways_on_one_directory_do_no_harm() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let builder = || super::cached_at(&origin, dir.path(), "");
    let (one, other) = (builder().start().await, builder().start().await);
    let layers = Image::layers(&[2 * MIB, 100_000, 10, 500_000]);
    for layer in &layers {
        let target = origin.blob("a", layer);
        let gate = Gate::shut();
        for _ in 0..2 {
            let reply = Origin::whole(layer).pause_after(layer.len() / 2, &gate);
            origin.upstream.expect("GET", &*target, reply);
        }
        let mut clients =
            [asking(&one, Request::get(&target)).await, asking(&other, Request::get(&target)).await];
        // Else what the one has finished serves the other.
        soon("both to ask", async {
            while origin.count("GET", &target) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        gate.open();
        gate.open();
        for client in &mut clients {
            assert!(client.answer().await.is(200).body == *layer);
        }
        for gateway in [&one, &other] {
            gives(until_kept(gateway, &target).await, layer, "HIT");
        }
    }
    // What one has, the other has, by the word of the directory they share.
    let more = noise(300_001);
    let target = origin.blob("a", &more);
    gives(one.get(&target).await, &more, "MISS");
    until_kept(&one, &target).await;
    assert!(other.get(&target).await.is(200).body == more);
    assert!(origin.count("GET", &target) <= 2);
    assert_eq!(files_in(&dir.path().join("partial")), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test]
async fn a_gateway_serves_what_another_evicts_or_asks_again() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let builder = || super::bare(&origin, "").cache_at(dir.path(), "prefetch = false\nmax_size = \"4MiB\"");
    let (one, other) = (builder().start().await, builder().start().await);
    let layers = Image::layers(&[MIB; 10]);
    for round in 0..2 {
        for layer in &layers {
            let target = origin.blob("a", layer);
            for gateway in [&one, &other] {
                assert!(gateway.get(&target).await.is(200).body == *layer, "round {round}");
            }
        }
    }
}

#[tokio::test]
async fn cache_files_are_private_and_hold_no_secret() {
    use std::os::unix::fs::PermissionsExt;
    let guarded = Guarded::start().await;
    let cdn = Upstream::start().await;
    let lines = format!("redirect_hosts = [\"{}\"]\n{}\n{}", cdn.address, guarded.realm_hosts(), account());
    let builder = Gateway::builder();
    let lines = format!("{lines}\n[upstream.cache]");
    let builder = builder.upstream_with("up", "", guarded.registry.address, &lines);
    let gateway = builder.cache("prefetch = false").start().await;
    guarded.gives(&["repository:a:pull"], &token("one"));
    let image = Image::empty("one");
    let bytes = noise(300_000);
    let target = blob_at("a", &bytes);
    let signed = "/x?sig=t0psecret";
    let redirect = Reply::status(307).header("Location", &cdn.url(signed));
    guarded.guards("GET", &target, &[token("one")], redirect.header("Set-Cookie", "session=t0psecret"));
    let part =
        Origin::whole(&bytes).header("Set-Cookie", "session=t0psecret").header("X-Amz-Id", "t0psecret");
    cdn.expect("GET", signed, part);
    let said = Reply::ok(&image.manifest).header("Content-Type", OCI_IMAGE);
    let said = said.header("Docker-Content-Digest", &image.digest).header("X-Trace", "t0psecret");
    for (method, target) in
        [("HEAD", "/v2/a/manifests/x".to_owned()), ("GET", manifest_at("a", &image.digest))]
    {
        guarded.guards(method, &target, &[token("one")], said.clone());
    }
    gives(gateway.get("/v2/a/manifests/x").await, &image.manifest, "MISS");
    gives(gateway.get(&target).await, &bytes, "MISS");
    until_kept(&gateway, &target).await;
    let files = files_in(&gateway.path("cache"));
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(!is_told(&text), "{path:?}: {text}");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600, "{path:?}");
        let directories = path.ancestors().skip(1).take_while(|path| path.starts_with(gateway.path("cache")));
        directories.for_each(|path| assert_eq!(mode(path), 0o700, "{path:?}"));
    }
}

/// The file of a blob in the cache.
fn file_of(gateway: &Gateway, target: &str) -> std::path::PathBuf {
    let digest = target.rsplit_once(':').expect("a digest").1;
    gateway.path("cache/blobs/sha256").join(&digest[..2]).join(digest)
}

/// Changes a byte of it, and lets it have been hashed `age` ago.
fn spoil(file: &Path, at: u64, age: Duration) {
    use std::os::unix::fs::FileExt;
    let open = std::fs::File::options().write(true).open(file).expect("a file");
    open.write_all_at(b"\0spoilt\0", at).expect("to be written");
    let now = open.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    open.set_modified(now - age).expect("to be changed");
}

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[tokio::test]
async fn spoilt_content_is_found_once_it_is_read() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "").start().await;
    let bytes = noise(MIB);
    let target = origin.blob("a", &bytes);
    gateway.get(&target).await.is(200);
    until_kept(&gateway, &target).await;
    super::until_synced(&gateway.path("cache")).await;
    spoil(&file_of(&gateway, &target), 500_000, WEEK);
    let again = until("it to be fetched", &gateway, Request::get(&target), |answer| word(answer) != "HIT");
    assert!(again.await.body == bytes);
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
    let metrics = String::from_utf8(gateway.admin("/metrics").await.is(200).body).unwrap();
    assert!(metrics.contains("dockgate_cache_damaged_total{cause=\"digest\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_spoilt_small_blob_is_never_served() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "").start().await;
    let bytes = noise(10_000);
    let target = origin.blob("a", &bytes);
    gives(gateway.get(&target).await, &bytes, "MISS");
    super::until_synced(&gateway.path("cache")).await;
    spoil(&file_of(&gateway, &target), 5000, Duration::ZERO);
    gives(gateway.get(&target).await, &bytes, "MISS");
}

#[tokio::test]
async fn what_the_disk_cannot_read_comes_from_upstream() {
    let origin = Origin::start().await;
    let gateway = with(&origin, "").start().await;
    let bytes = noise(32 * MIB);
    let target = origin.blob("a", &bytes);
    gateway.get(&target).await.is(200);
    until_kept(&gateway, &target).await;
    super::until_synced(&gateway.path("cache")).await;
    let mut reader = asking(&gateway, Request::get(&target)).await;
    let head = reader.head().await.is(200);
    assert_eq!(word(&head), "HIT");
    // The rest of the file is lost while a client reads it.
    let file = std::fs::File::options().write(true).open(file_of(&gateway, &target)).unwrap();
    file.set_len(MIB as u64).unwrap();
    let (answer, end) = reader.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
    assert!(gateway.get(&target).await.is(200).body == bytes);
    gives(until_kept(&gateway, &target).await, &bytes, "HIT");
}

#[tokio::test]
async fn gateways_on_one_directory_share_its_limit() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let builder = || {
        let lines = "prefetch = false\nmax_size = \"8MiB\"";
        super::bare(&origin, "").cache_at(dir.path(), lines).admin_listener()
    };
    let gateways = [builder().start().await, builder().start().await, builder().start().await];
    for (number, layer) in Image::layers(&[MIB; 30]).iter().enumerate() {
        let target = origin.blob("a", layer);
        assert!(gateways[number % 3].get(&target).await.is(200).body == *layer);
        let taken = taken(dir.path());
        assert!(taken <= 8 * MIB as u64, "{taken}");
    }
    let [first, others @ ..] = gateways;
    assert_eq!(problems(&first).await, "[]");
    for other in &others {
        assert!(problems(other).await.contains("another process"), "{}", problems(other).await);
    }
}

#[tokio::test]
async fn an_unreadable_folder_stops_keeping_until_it_is_counted() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let lines = "prefetch = false\nmax_size = \"8MiB\"";
    let builder = || super::bare(&origin, "").cache_at(dir.path(), lines).admin_listener();
    let gateway = builder().start().await;
    let layers = Image::layers(&[MIB; 5]);
    for layer in &layers {
        let target = origin.blob("a", layer);
        gateway.get(&target).await.is(200);
        until_kept(&gateway, &target).await;
    }
    drop(gateway);
    // A link to itself cannot be read, by root either.
    let sha256 = dir.path().join("blobs/sha256");
    let shards: Vec<_> = std::fs::read_dir(&sha256).unwrap().map(|entry| entry.unwrap().path()).collect();
    for shard in &shards {
        std::fs::rename(shard, dir.path().join(shard.file_name().unwrap())).unwrap();
        std::os::unix::fs::symlink(shard, shard).unwrap();
    }
    let gateway = builder().start().await;
    soon("/readyz to name the folder", async {
        while !problems(&gateway).await.contains("counted") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for layer in Image::layers(&[MIB; 8]) {
        let target = origin.blob("b", &layer);
        gives(gateway.get(&target).await, &layer, "MISS");
    }
    for shard in &shards {
        std::fs::remove_file(shard).unwrap();
        std::fs::rename(dir.path().join(shard.file_name().unwrap()), shard).unwrap();
    }
    assert_eq!(taken(dir.path()), 5 * MIB as u64, "nothing was kept");
    soon("all to be counted", async {
        while problems(&gateway).await.contains("cache") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for layer in Image::layers(&[MIB; 12]) {
        gateway.get(&origin.blob("c", &layer)).await.is(200);
        let taken = taken(dir.path());
        assert!(taken <= 8 * MIB as u64, "{taken}");
    }
}
