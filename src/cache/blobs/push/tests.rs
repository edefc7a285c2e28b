use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use crate::budget::Client;
use crate::cache::blobs::push::*;
use crate::cache::store::Kind;
use crate::cache::{Cache, UpstreamCache};
use crate::config;
use crate::config::{Environment, MinFree, PullAuthorization, UpstreamCacheOptions, limits};
use crate::proto::{Digest, RepositoryName};

fn upstream_cache() -> (TempDir, Arc<UpstreamCache>) {
    let dir = tempfile::tempdir().unwrap();
    config::private_folder::make_private(dir.path());
    let settings = config::Cache {
        path: dir.path().to_owned(),
        max_size: 1 << 30,
        min_free: MinFree::Bytes(0),
        max_object: u64::MAX,
        verify_after: limits::VERIFY_AFTER,
        prefetch: false,
        keep: Vec::new(),
    };
    let configured = config::Upstream::at("https://a.example", &Environment::default()).unwrap();
    let hour = Duration::from_secs(3600);
    let cache = UpstreamCacheOptions {
        tag_ttl: hour,
        stale_after: Duration::from_secs(3600),
        stale_if_error: hour,
        not_found_ttl: hour,
        offline: false,
        pull_authorization: PullAuthorization::Shared,
        grant_stale: hour,
    };
    (dir, UpstreamCache::new(Cache::open(&settings, None, None), &configured, &cache))
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256_of(bytes)
}

fn name() -> RepositoryName {
    RepositoryName::parse("a").unwrap()
}

fn send(push: &Push, bytes: &'static [u8]) {
    push.tap().unwrap().pass(&Bytes::from_static(bytes));
}

/// Waits until the blob is kept; false if that takes too long.
async fn is_kept(upstream: &Arc<UpstreamCache>, digest: &Digest) -> bool {
    for _ in 0..2000 {
        if upstream.cache().store().has(Kind::Blob, digest) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

#[tokio::test]
async fn an_upload_in_parts_is_kept() {
    let (_dir, upstream) = upstream_cache();
    let id = upstream.begin_push(Client::Trusted).unwrap();
    for (first, part) in [(Some(0), b"one "), (None, b"two "), (Some(8), b"last")] {
        let push = upstream.push(&id, first).unwrap();
        send(&push, part);
        push.keep();
    }
    let (whole, push) = (digest(b"one two last"), upstream.push(&id, None).unwrap());
    assert!(!upstream.cache().store().has(Kind::Blob, &whole));
    upstream.pushed(&name(), &whole, Some(push)).await;
    assert!(is_kept(&upstream, &whole).await);
    assert!(upstream.ledger.held(&name(), Kind::Blob, &whole).is_some());
    assert!(upstream.push(&id, None).is_none());
}

#[tokio::test]
async fn a_gap_ends_the_copy() {
    let (_dir, upstream) = upstream_cache();
    for wrong in [0, 2, 4, u64::MAX] {
        let id = upstream.begin_push(Client::Trusted).unwrap();
        let push = upstream.push(&id, Some(0)).unwrap();
        send(&push, b"one");
        push.keep();
        assert!(upstream.push(&id, Some(wrong)).is_none());
        assert!(upstream.push(&id, Some(3)).is_none());
    }
}

#[tokio::test]
async fn a_failed_request_ends_the_copy() {
    let (_dir, upstream) = upstream_cache();
    let id = upstream.begin_push(Client::Trusted).unwrap();
    drop(upstream.push(&id, None).unwrap());
    assert!(upstream.push(&id, None).is_none());
}

#[tokio::test]
async fn two_requests_at_once_end_the_copy() {
    let (_dir, upstream) = upstream_cache();
    let id = upstream.begin_push(Client::Trusted).unwrap();
    let first = upstream.push(&id, None).unwrap();
    assert!(upstream.push(&id, None).is_none());
    first.keep();
    assert!(upstream.push(&id, None).is_none());
}

#[tokio::test]
async fn a_wrong_digest_is_not_recorded() {
    let (_dir, upstream) = upstream_cache();
    let id = upstream.begin_push(Client::Trusted).unwrap();
    let push = upstream.push(&id, None).unwrap();
    send(&push, b"other");
    let claimed = digest(b"one");
    upstream.pushed(&name(), &claimed, Some(push)).await;
    for _ in 0..2000 {
        if upstream.ledger.held(&name(), Kind::Blob, &claimed).is_none() {
            assert!(!upstream.cache().store().has(Kind::Blob, &claimed));
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it is still believed");
}

#[tokio::test(start_paused = true)]
async fn an_idle_copy_ends_after_an_hour() {
    let (_dir, upstream) = upstream_cache();
    let (idle, busy) =
        (upstream.begin_push(Client::Trusted).unwrap(), upstream.begin_push(Client::Trusted).unwrap());
    let push = upstream.push(&busy, None).unwrap();
    tokio::time::sleep(limits::PUSH_IDLE - Duration::from_secs(60)).await;
    upstream.push(&idle, None).unwrap().keep();
    tokio::time::sleep(limits::PUSH_IDLE - Duration::from_secs(60)).await;
    upstream.push(&idle, None).unwrap().keep();
    tokio::time::sleep(limits::PUSH_IDLE + Duration::from_secs(120)).await;
    assert!(upstream.push(&idle, None).is_none());
    push.keep();
    assert!(upstream.push(&busy, None).is_some(), "a request may take as long as it likes");
}

#[tokio::test(start_paused = true)]
async fn too_many_copies_end_the_oldest_idle_one() {
    let (_dir, upstream) = upstream_cache();
    let begin = async || {
        tokio::time::sleep(Duration::from_millis(1)).await;
        upstream.begin_push(Client::Trusted).unwrap()
    };
    let mut ids = Vec::new();
    for _ in 0..limits::PUSHES {
        ids.push(begin().await);
    }
    let busy = upstream.push(&ids[0], None).unwrap();
    begin().await;
    busy.keep();
    let there = |id: &String| upstream.push(id, None).map(Push::keep).is_some();
    assert_eq!((there(&ids[0]), there(&ids[1]), there(&ids[2])), (true, false, true));
    let all: Vec<_> = ids[2..].iter().chain(&ids[..1]).filter_map(|id| upstream.push(id, None)).collect();
    let last = begin().await;
    let held = upstream.push(&last, None);
    assert!(all.len() as u64 == limits::PUSHES - 1 && held.is_some());
}

#[tokio::test]
async fn a_client_with_its_share_loses_its_own_copies() {
    let (_dir, upstream) = upstream_cache();
    let (greedy, other) = (Client::V4([192, 0, 2, 1]), Client::V4([192, 0, 2, 2]));
    let others = upstream.begin_push(other).unwrap();
    let share = limits::PUSHES as usize / 4;
    let ids: Vec<_> = (0..=share).map(|_| upstream.begin_push(greedy).unwrap()).collect();
    let there = |id: &String| upstream.push(id, None).map(Push::keep).is_some();
    assert!(there(&others));
    assert_eq!(ids.iter().filter(|id| there(id)).count(), share);
}
