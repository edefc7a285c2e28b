//! Pushes and deletions through one replica, seen through another.

use std::time::Duration;

use dockgate::internals::clock;

use super::{Fleet, free_addresses, order, replica};
use crate::harness::{Gateway, OCI_INDEX, Origin, Process, Reply, Request, index_of, manifest_at, soon};

/// Pushes a manifest through a replica; the registry takes it.
async fn push(origin: &Origin, gateway: &Gateway, tag: &str, manifest: &str) {
    let target = manifest_at("a", tag);
    origin.upstream.expect("PUT", &*target, Reply::status(201));
    origin.manifest("a", tag, OCI_INDEX, manifest.as_bytes());
    let request = Request::put(&target).header("Content-Type", OCI_INDEX).body(manifest.as_bytes());
    gateway.ask(request).await.is(201);
}

/// Returns a fleet through which clients may push, and where a tag is believed for long.
async fn writable() -> Fleet {
    let lines = "tag_ttl = \"1h\"\nnot_found_ttl = \"1h\"";
    Fleet::with(3, lines, |_, builder| builder.read_only("up", false)).await
}

#[tokio::test]
async fn a_push_is_seen_through_all_replicas_at_once() {
    let fleet = writable().await;
    fleet.origin.manifest("a", "1", OCI_INDEX, index_of("old").as_bytes());
    let target = manifest_at("a", "1");
    for (number, gateway) in fleet.gateways.iter().enumerate() {
        for gateway in &fleet.gateways {
            gateway.get(&target).await.is(200);
        }
        let manifest = index_of(&format!("pushed {number}"));
        push(&fleet.origin, gateway, "1", &manifest).await;
        for gateway in &fleet.gateways {
            assert_eq!(gateway.get(&target).await.is(200).text(), manifest);
        }
    }
}

#[tokio::test]
async fn what_was_not_there_is_seen_once_it_is_pushed() {
    let fleet = writable().await;
    let target = manifest_at("a", "1");
    for gateway in &fleet.gateways {
        gateway.get(&target).await.refuses(404, "MANIFEST_UNKNOWN");
    }
    push(&fleet.origin, &fleet.gateways[1], "1", &index_of("new")).await;
    for gateway in &fleet.gateways {
        assert_eq!(gateway.get(&target).await.is(200).text(), index_of("new"));
    }
}

#[tokio::test]
async fn a_deletion_is_seen_through_all_replicas() {
    let fleet = writable().await;
    let digest = fleet.origin.manifest("a", "1", OCI_INDEX, index_of("old").as_bytes());
    let (tag, by_digest) = (manifest_at("a", "1"), manifest_at("a", &digest));
    for gateway in &fleet.gateways {
        gateway.get(&tag).await.is(200);
        gateway.get(&by_digest).await.is(200);
    }
    for target in [&tag, &by_digest] {
        fleet.origin.upstream.expect("DELETE", &**target, Reply::status(202));
        fleet.origin.removes(target);
        fleet.gateways[0].ask(Request::delete(&**target)).await.is(202);
        for gateway in &fleet.gateways {
            gateway.get(target).await.refuses(404, "MANIFEST_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn a_replica_that_is_gone_holds_up_no_push() {
    let mut fleet = writable().await;
    drop(fleet.gateways.pop());
    let began = clock::now();
    push(&fleet.origin, &fleet.gateways[0], "1", &index_of("new")).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    let answer = fleet.gateways[1].get(&manifest_at("a", "1")).await.is(200);
    assert_eq!(answer.text(), index_of("new"));
}

/// Replicas, one of which, the owner of the repository `a`, is a process that can be stopped.
struct Stoppable {
    origin: Origin,
    owner: Process,
    others: Vec<Gateway>,
    _dir: tempfile::TempDir,
}

impl Stoppable {
    async fn start() -> Self {
        let (origin, members) = (Origin::start().await, free_addresses(3));
        let owned = format!("up http://{} a", origin.address());
        let order = order(&members, &owned);
        let of = |number: usize| {
            let lines = "tag_ttl = \"1h\"\nnot_found_ttl = \"1h\"";
            replica(&origin, lines, &members, number).read_only("up", false)
        };
        let dir = tempfile::tempdir().expect("a folder");
        let owner = Process::start(of(order[0]), dir.path()).await;
        let others = vec![of(order[1]).start().await, of(order[2]).start().await];
        Self { origin, owner, others, _dir: dir }
    }

    /// Returns what all others have for the tag.
    async fn seen(&self, target: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for gateway in &self.others {
            seen.push(soon("an answer", gateway.get(target)).await.is(200).text());
        }
        seen
    }
}

#[tokio::test]
async fn a_push_is_seen_though_the_owner_has_not_heard_of_it() {
    let fleet = Stoppable::start().await;
    let target = manifest_at("a", "1");
    for round in 0..2 {
        let old = index_of(&format!("old {round}"));
        push(&fleet.origin, &fleet.others[0], "1", &old).await;
        assert_eq!(fleet.owner.get(&target).await.is(200).text(), old);
        fleet.owner.stop();
        let (began, new) = (clock::now(), index_of(&format!("new {round}")));
        push(&fleet.origin, &fleet.others[round], "1", &new).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(fleet.seen(&target).await, [new.clone(), new.clone()]);
        // It goes on, and believes what was before until it has heard.
        fleet.owner.go_on();
        assert_eq!(fleet.seen(&target).await, [new.clone(), new.clone()]);
        soon("the owner to hear of it", async {
            while fleet.owner.get(&target).await.is(200).text() != new {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_an_owner_believes_to_be_missing_is_seen_when_pushed() {
    let fleet = Stoppable::start().await;
    let target = manifest_at("a", "1");
    fleet.owner.get(&target).await.refuses(404, "MANIFEST_UNKNOWN");
    fleet.owner.stop();
    push(&fleet.origin, &fleet.others[0], "1", &index_of("new")).await;
    fleet.owner.go_on();
    for _ in 0..20 {
        assert_eq!(fleet.seen(&target).await, [index_of("new"), index_of("new")]);
    }
}

#[tokio::test]
async fn a_replica_that_hangs_costs_one_push_a_moment() {
    let fleet = Stoppable::start().await;
    push(&fleet.origin, &fleet.others[0], "1", &index_of("0")).await;
    fleet.owner.stop();
    let mut took = Vec::new();
    for number in 1..6 {
        let began = clock::now();
        push(&fleet.origin, &fleet.others[0], "1", &index_of(&number.to_string())).await;
        took.push(began.elapsed());
        // It is asked whether it lives, twice, before it counts as away.
        tokio::time::sleep(Duration::from_millis(1300)).await;
    }
    assert!(took[0] < Duration::from_secs(1), "{took:?}");
    assert!(took[4] < Duration::from_millis(350), "{took:?}");
}

#[tokio::test]
async fn many_tags_of_one_push_are_told_at_once() {
    let fleet = Stoppable::start().await;
    fleet.owner.stop();
    let manifest = index_of("tagged");
    let digest = fleet.origin.manifest("a", "0", OCI_INDEX, manifest.as_bytes());
    let tags: String =
        (0..8).map(|number| format!("{}tag=t{number}", if number > 0 { "&" } else { "?" })).collect();
    let target = format!("{}{tags}", manifest_at("a", &digest));
    // It may have been done all the same.
    fleet.origin.upstream.expect("PUT", &*target, Reply::status(500));
    let began = clock::now();
    let request = Request::put(&target).header("Content-Type", OCI_INDEX).body(manifest.as_bytes());
    let answer = fleet.others[0].ask(request).await;
    let took = began.elapsed();
    assert!(answer.status >= 500 && took < Duration::from_millis(1500), "{} {took:?}", answer.status);
}
