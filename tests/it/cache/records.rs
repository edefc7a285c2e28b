//! The records of what repositories hold: their room on the disk, and what becomes of them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::{cached_at, files_in, gives, until_kept, word};
use crate::harness::{Gateway, Image, Origin, noise, soon};

const MIB: u64 = 1024 * 1024;

/// Returns what files and directories below a directory take of the disk.
fn taken(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    metadata.blocks() * 512 + below.map(|entry| taken(&entry.path())).sum::<u64>()
}

/// Returns the value of a line of `/metrics`.
async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let text = gateway.admin("/metrics").await.is(200).text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
    value.trim().parse().unwrap()
}

#[tokio::test]
async fn records_stay_within_their_share() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let lines = "prefetch = false\nmax_size = \"4MiB\"";
    let gateway = super::bare(&origin, "").cache_at(dir.path(), lines).admin_listener().start().await;
    let records = dir.path().join("records");
    let mut most = 0;
    for number in 0..150 {
        let (repository, tag) = (format!("team{}/app{number}", number % 9), format!("v{number}"));
        let image = origin.image(&repository, &tag, &[]);
        let target = format!("/v2/{repository}/manifests/{tag}");
        gives(gateway.get(&target).await, &image.manifest, "MISS");
        gateway.get(&format!("/v2/{repository}/tags/list")).await;
        most = most.max(taken(&records));
        assert!(most <= MIB, "{most} with {number}");
    }
    assert!(most > MIB / 2, "{most}");
    soon("old records to go", async {
        while metric(&gateway, "dockgate_cache_bytes{kind=\"record\"}").await > MIB / 10 * 9 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let count = metric(&gateway, "dockgate_cache_objects{kind=\"record\"}").await;
    let is_record = |path: &&std::path::PathBuf| !path.ends_with("_upstream");
    let files = files_in(&records).iter().filter(is_record).count() as u64;
    assert!(count.abs_diff(files) <= 3, "{count} {files}");
    // Images in use are hits all the same.
    let answer = gateway.get("/v2/team5/app149/manifests/v149").await.is(200);
    assert_eq!(word(&answer), "HIT");
}

#[tokio::test]
async fn no_directory_of_records_grows_large() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = cached_at(&origin, dir.path(), "").start().await;
    for number in 0..80 {
        let image = origin.image("a", &format!("v{number}"), &[]);
        gateway.get(&format!("/v2/a/manifests/v{number}")).await.is(200);
        gateway.get(&origin.blob("a", &image.config)).await.is(200);
    }
    let mut sizes = std::collections::HashMap::new();
    for file in files_in(&dir.path().join("records")) {
        *sizes.entry(file.parent().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert!(sizes.values().sum::<i32>() >= 240 && sizes.values().all(|files| *files < 10), "{sizes:?}");
}

/// Moves all records out of their shards, as earlier versions had them.
fn flatten(records: &Path) {
    for file in files_in(records) {
        let shard = file.parent().unwrap();
        if shard.file_name().unwrap().to_str().unwrap().starts_with('+') {
            let flat = shard.with_file_name(file.file_name().unwrap());
            std::fs::rename(&file, flat).unwrap();
            let _ = std::fs::remove_dir(shard);
        }
    }
}

#[tokio::test]
async fn records_of_an_earlier_version_serve_at_once() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let image = origin.image("library/a", "12", &[noise(100_000)]);
    let (manifest, layer) = ("/v2/library/a/manifests/12", origin.blob("library/a", &image.layers[0]));
    let gateway = cached_at(&origin, dir.path(), "").start().await;
    gives(gateway.get(manifest).await, &image.manifest, "MISS");
    gateway.get(&layer).await.is(200);
    until_kept(&gateway, &layer).await;
    drop(gateway);
    let records = dir.path().join("records");
    flatten(&records);
    assert!(records.join("up/library/a/_tags/12").is_file());
    let gateway = cached_at(&origin, dir.path(), "").start().await;
    origin.falls_ill(503);
    gives(gateway.get(manifest).await, &image.manifest, "HIT");
    gives(gateway.get(&layer).await, &image.layers[0], "HIT");
    soon("the records to be moved", async {
        while records.join("up/library/a/_tags/12").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    gives(gateway.get(&layer).await, &Image::of("12", &image.layers).layers[0], "HIT");
}
