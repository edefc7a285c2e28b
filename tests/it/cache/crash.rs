//! `kill -9` in the middle of pulls.

use std::time::Duration;

use super::{cached_at, files_in};
use crate::harness::{BodyEnd, Image, Origin, Process, Request, blob_at, sha256};

const LAYERS: [usize; 6] = [3_000_000, 10, 500_000, 70_000, 6_000_000, 1_000_000];

/// A pull of all layers, one after the other, until the connection breaks. The answer is how many have come whole.
async fn pull(process: &Process, layers: &[Vec<u8>]) -> usize {
    let mut client = process.connect().await;
    for (number, layer) in layers.iter().enumerate() {
        let request = Request::get(blob_at("a", layer)).bytes("localhost");
        if client.try_send(request).await.is_err() {
            return number;
        }
        let Some(head) = client.try_head_or_none().await else { return number };
        let (answer, end) = client.rest(head).await;
        assert!(layer.starts_with(&answer.body), "whatever comes is right");
        if end == BodyEnd::Cut {
            return number;
        }
    }
    layers.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_lose_nothing_and_serve_nothing_wrong() {
    let origin = Origin::start().await;
    let layers = Image::layers(&LAYERS);
    for layer in &layers {
        let target = origin.blob("a", layer);
        let bytes = layer.clone();
        origin.upstream.always("GET", target, move |headers| {
            Origin::serve(&bytes, headers).paced(64 * 1024, Duration::from_millis(1))
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut state = 0x9e37_79b9_u32 ^ std::process::id();
    let mut finished = 0;
    for round in 0..10 {
        let mut process = Process::start(cached_at(&origin, &store, ""), dir.path()).await;
        origin.forgets_requests();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let moment = Duration::from_millis(u64::from(state >> 16) % 300);
        let killing = async {
            tokio::time::sleep(moment).await;
            process.kill_now();
        };
        let (came, ()) = tokio::join!(pull(&process, &layers), killing);
        process.reap();
        // The proof of the last one that came may still have been on its way into its place.
        for layer in layers.iter().take(finished) {
            let asked = origin.count("GET", &blob_at("a", layer));
            assert_eq!(asked, 0, "round {round}: {} bytes were here already", layer.len());
        }
        finished = finished.max(came.saturating_sub(1));
    }
    let process = Process::start(cached_at(&origin, &store, ""), dir.path()).await;
    assert_eq!(pull(&process, &layers).await, layers.len());
    origin.forgets_requests();
    assert_eq!(pull(&process, &layers).await, layers.len());
    assert_eq!(origin.requests(), [""; 0]);
    // Nothing but these is in its place, and all of it is what its name says.
    let mut kept = files_in(&store.join("blobs"));
    kept.sort();
    assert_eq!(kept.len(), layers.len(), "{kept:?}");
    for path in kept {
        let digest = sha256(&std::fs::read(&path).unwrap());
        assert!(digest.ends_with(path.file_name().unwrap().to_str().unwrap()), "{path:?}");
    }
}

#[tokio::test]
async fn unknown_files_are_not_trusted() {
    let origin = Origin::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let layers = Image::layers(&[200_000, 300_000]);
    let targets: Vec<_> = layers.iter().map(|layer| origin.blob("a", layer)).collect();
    let mut process = Process::start(cached_at(&origin, &store, ""), dir.path()).await;
    process.get(&targets[0]).await.is(200);
    process.terminate().await;
    // What is no prefix, no head, no content.
    for (name, bytes) in [
        ("partial/nonsense.part", &b"x"[..]),
        ("partial/nonsense.head", b"\r\n\r\n"),
        ("partial/other.tmp", b""),
        ("blobs/sha256/nonsense", b"x"),
        ("blobs/sha256/ab/abc", b"x"),
        ("nonsense", b"x"),
    ] {
        let path = store.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let process = Process::start(cached_at(&origin, &store, ""), dir.path()).await;
    for (target, layer) in targets.iter().zip(&layers) {
        assert!(process.get(target).await.is(200).body == *layer);
    }
    assert_eq!(origin.requests(), targets.iter().map(|target| format!("GET {target}")).collect::<Vec<_>>());
}
