//! Replicas that die, stop, or are none.

use std::net::SocketAddr;
use std::time::Duration;

use dockgate::internals::clock;

use super::{Fleet, SECRET, digest, free_addresses, members_of, order, replica, until_kept, word};
use crate::harness::{BodyEnd, Builder, Gate, Gateway, Origin, Process, Request, noise, soon};

const MIB: usize = 1024 * 1024;

/// Begins to ask a replica, and reads the first bytes.
async fn begun(
    gateway: &Gateway,
    target: &str,
    bytes: &[u8],
) -> (crate::harness::Client, crate::harness::Answer) {
    let mut client = gateway.connect().await;
    client.send(Request::get(target).bytes("localhost")).await;
    let head = client.head().await.is(200);
    assert!(client.read_exactly(1000).await == bytes[..1000]);
    (client, head)
}

/// Returns the configuration of a replica that gives up another soon, and tries it again soon.
fn hasty(origin: &Origin, members: &[SocketAddr], number: usize) -> Builder {
    let names: Vec<_> = members.iter().map(ToString::to_string).collect();
    let lines = format!(
        "address = \"{}\"\nmembers = {names:?}\nconnect_timeout = \"1s\"\nresting = \"100ms\"",
        members[number]
    );
    replica(origin, "", members, number).peers(&lines)
}

#[tokio::test]
async fn the_others_finish_when_the_owner_dies() {
    let mut fleet = Fleet::start(3, "").await;
    let (bytes, gate) = (noise(4 * MIB), Gate::shut());
    let target = fleet.origin.blob("a", &bytes);
    fleet.origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(2 * MIB, &gate));
    let owner = fleet.order(digest(&target))[0];
    let mut clients = Vec::new();
    for (number, gateway) in fleet.gateways.iter().enumerate() {
        if number != owner {
            clients.push(begun(gateway, &target, &bytes).await);
        }
    }
    for (client, _) in &mut clients {
        client.read_exactly(MIB).await;
    }
    drop(fleet.gateways.remove(owner));
    for (client, _) in &mut clients {
        let rest = client.read_exactly(bytes.len() - MIB - 1000).await;
        assert!(rest == bytes[MIB + 1000..]);
    }
    gate.open();
    let heard = fleet.origin.upstream.heard();
    assert_eq!(heard.len(), 2, "{heard:#?}");
    let range = heard[1].headers.get("range").expect("only the rest is asked for").to_owned();
    let first: usize = range.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap();
    assert!(first > MIB, "{range}");
}

#[tokio::test]
async fn a_stopped_owner_is_gone_on_without() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let (bytes, gate) = (noise(4 * MIB), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(2 * MIB, &gate));
    let owner = order(&members, digest(&target))[0];
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(replica(&origin, "", &members, owner), dir.path()).await;
    let gateway = hasty(&origin, &members, 1 - owner).start().await;
    let (mut client, head) = begun(&gateway, &target, &bytes).await;
    assert_eq!(word(&head), "PEER", "{}", process.log());
    client.read_exactly(MIB).await;
    process.stop();
    let began = clock::now();
    let rest = client.read_exactly(bytes.len() - MIB - 1000).await;
    assert!(rest == bytes[MIB + 1000..]);
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    // What comes next does not wait for it at all.
    let other = noise(MIB + 1);
    let target = origin.blob("a", &other);
    assert!(gateway.get(&target).await.is(200).body == other);
}

#[tokio::test]
async fn a_slow_upstream_is_no_dead_owner() {
    let fleet = Fleet::start(2, "").await;
    let (bytes, gate) = (noise(MIB), Gate::shut());
    let target = fleet.origin.blob("a", &bytes);
    fleet.origin.upstream.expect("GET", &*target, Origin::whole(&bytes).held(&gate));
    let other = &fleet.gateways[fleet.order(digest(&target))[1]];
    let mut client = other.connect().await;
    client.send(Request::get(&target).bytes("localhost")).await;
    // Longer than it takes to find an owner dead.
    tokio::time::sleep(Duration::from_secs(4)).await;
    gate.open();
    let head = client.head().await.is(200);
    assert_eq!(word(&head), "PEER");
    let (answer, end) = client.rest(head).await;
    assert!(end == BodyEnd::Complete && answer.body == bytes);
    assert_eq!(fleet.origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn a_replica_with_another_secret_is_none() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let stranger = replica(&origin, "", &members, 1).secret(SECRET, "fedcba9876543210fedcba9876543210");
    let gateways = [replica(&origin, "", &members, 0).start().await, stranger.start().await];
    let bytes = noise(100_000);
    let target = origin.blob("a", &bytes);
    for gateway in &gateways {
        let answer = gateway.get(&target).await.is(200);
        assert_eq!(word(&answer), "MISS");
        assert!(answer.body == bytes);
    }
    assert_eq!(origin.count("GET", &target), 2, "each is alone");
}

#[tokio::test]
async fn replicas_that_are_cut_off_are_each_alone() {
    let fleet = Fleet::with(3, "", |number, builder| {
        // None can reach the others: they listen elsewhere than they say.
        let own = free_addresses(1)[0];
        let nowhere = free_addresses(2);
        let members = [own, nowhere[0], nowhere[1]].map(|address| address.to_string());
        let _ = number;
        builder.peers(&format!("address = \"{own}\"\nmembers = {members:?}"))
    })
    .await;
    let bytes = noise(300_000);
    let target = fleet.origin.blob("a", &bytes);
    for gateway in &fleet.gateways {
        assert!(gateway.get(&target).await.is(200).body == bytes);
        assert!(until_kept(gateway, &target).await.body == bytes);
    }
    assert_eq!(fleet.origin.count("GET", &target), 3, "one for each");
}

#[tokio::test]
async fn a_draining_owner_is_passed_over() {
    let mut fleet = Fleet::start(2, "").await;
    let bytes = noise(100_000);
    let target = fleet.origin.blob("a", &bytes);
    let owner = fleet.order(digest(&target))[0];
    let gateway = fleet.gateways.remove(owner);
    soon("the drain", gateway.app.drain()).await;
    let answer = fleet.gateways[0].get(&target).await.is(200);
    assert!(answer.body == bytes);
    assert_eq!(word(&answer), "MISS");
}

#[tokio::test]
async fn an_owner_that_comes_back_is_asked_again() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let target = origin.blob("a", &noise(1000));
    let owner = order(&members, digest(&target))[0];
    let other = hasty(&origin, &members, 1 - owner).start().await;
    assert_eq!(word(&other.get(&target).await.is(200)), "MISS");
    let _owner = hasty(&origin, &members, owner).start().await;
    soon("it to be asked", async {
        for length in 2000.. {
            let bytes = noise(length);
            let target = origin.blob("a", &bytes);
            let is_owner = order(&members, digest(&target))[0] == owner;
            if word(&other.get(&target).await.is(200)) == "PEER" {
                assert!(is_owner);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn replicas_that_do_not_know_themselves_do_not_wait_for_each_other() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let only = |own: usize, other: usize| {
        let lines = format!("address = \"{}\"\nmembers = \"{}\"", members[own], members[other]);
        replica(&origin, "", &members, own).peers(&lines)
    };
    let gateways = [only(0, 1).start().await, only(1, 0).start().await];
    let bytes = noise(MIB);
    let target = origin.blob("a", &bytes);
    let pull = async |gateway: &Gateway| gateway.get(&target).await.is(200).body;
    let (one, other) = tokio::join!(pull(&gateways[0]), pull(&gateways[1]));
    assert!(one == bytes && other == bytes);
}

#[tokio::test]
async fn a_replica_that_does_not_know_itself_and_one_that_does_finish() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let lines = format!("address = \"{}\"\nmembers = \"{}\"", members[1], members[0]);
    let knowing = replica(&origin, "", &members, 0).start().await;
    let unknowing = replica(&origin, "", &members, 1).peers(&lines).start().await;
    both_finish(&origin, &members, [&knowing, &unknowing]).await;
}

#[tokio::test]
async fn a_replica_with_two_names_does_not_wait_for_itself() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let port = members[0].port();
    let names = [members[0].to_string(), format!("127.0.0.2:{port}"), members[1].to_string()];
    let of = |own: String, number| {
        let lines = format!("address = \"{own}\"\nmembers = {names:?}\nconnect_timeout = \"10s\"");
        replica(&origin, "", &members, number).peers(&lines)
    };
    let twice = of(format!("0.0.0.0:{port}"), 0).start().await;
    let other = of(members[1].to_string(), 1).start().await;
    both_finish(&origin, &members, [&twice, &other]).await;
}

/// Pulls cold blobs through two replicas at once, as many as each owns some.
async fn both_finish(origin: &Origin, members: &[SocketAddr], gateways: [&Gateway; 2]) {
    let mut owned = [0; 2];
    while owned.iter().any(|count| *count < 3) {
        let bytes = noise(100_000 + owned[0] + 10 * owned[1]);
        let target = origin.blob("a", &bytes);
        owned[order(members, digest(&target))[0]] += 1;
        let pull = async |gateway: &Gateway| soon("its end", gateway.get(&target)).await.is(200).body;
        let (one, other) = tokio::join!(pull(gateways[0]), pull(gateways[1]));
        assert!(one == bytes && other == bytes);
        assert!(origin.count("GET", &target) <= 2);
    }
}

#[tokio::test]
async fn an_owner_that_waits_too_long_is_gone_on_without() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let (bytes, gate) = (noise(100_000), Gate::shut());
    let target = origin.blob("a", &bytes);
    origin.upstream.expect("GET", &*target, Origin::whole(&bytes).held(&gate));
    let owner = order(&members, digest(&target))[0];
    let _owner = replica(&origin, "", &members, owner).start().await;
    let patient = "retries = 0\nconnect_timeout = \"1s\"\nresponse_timeout = \"1s\"\n[upstream.cache]\n";
    let other = Gateway::builder()
        .server(&format!("secret = \"{SECRET}\""))
        .upstream_with("up", "", origin.address(), patient)
        .cache("prefetch = false")
        .peers(&members_of(&members, 1 - owner))
        .start()
        .await;
    let began = clock::now();
    let answer = other.get(&target).await.is(200);
    assert!(answer.body == bytes && word(&answer) == "MISS");
    assert!(began.elapsed() > Duration::from_secs(5), "it waits for longer than the upstream may take");
    gate.open();
}

#[tokio::test]
async fn a_draining_owner_finishes_what_it_sends() {
    let mut fleet = Fleet::start(2, "").await;
    let (bytes, gate) = (noise(4 * MIB), Gate::shut());
    let target = fleet.origin.blob("a", &bytes);
    fleet.origin.upstream.expect("GET", &*target, Origin::whole(&bytes).pause_after(2 * MIB, &gate));
    let owner = fleet.gateways.remove(fleet.order(digest(&target))[0]);
    let (mut client, head) = begun(&fleet.gateways[0], &target, &bytes).await;
    assert_eq!(word(&head), "PEER");
    let read = async {
        // The upstream is silent for longer than it takes to find an owner dead.
        tokio::time::sleep(Duration::from_secs(4)).await;
        gate.open();
        assert!(client.read_exactly(bytes.len() - 1000).await == bytes[1000..]);
    };
    tokio::join!(owner.app.drain(), read);
    assert_eq!(fleet.origin.requests(), [format!("GET {target}")]);
}

#[tokio::test]
async fn wrong_bytes_of_a_replica_are_not_asked_of_it_again() {
    let fleet = Fleet::start(2, "").await;
    let bytes = noise(300_000);
    let target = fleet.origin.blob("a", &bytes);
    let order = fleet.order(digest(&target));
    let (owner, other) = (&fleet.gateways[order[0]], &fleet.gateways[order[1]]);
    until_kept(owner, &target).await;
    spoil(owner.dir.path(), &bytes);
    let (answer, end) = {
        let mut client = other.connect().await;
        client.send(Request::get(&target).bytes("localhost")).await;
        let head = client.head().await.is(200);
        client.rest(head).await
    };
    assert!(end != BodyEnd::Complete || answer.body != bytes, "it is torn down");
    assert!(answer.body.len() < bytes.len(), "the last bytes are withheld");
    let answer = other.get(&target).await.is(200);
    assert!(answer.body == bytes && word(&answer) == "MISS", "{}", word(&answer));
    // The owner was told, and has hashed it again.
    soon("the owner to have it right", async {
        loop {
            let mut client = owner.connect().await;
            client.send(Request::get(&target).bytes("localhost")).await;
            let head = client.head().await.is(200);
            let (answer, end) = client.rest(head).await;
            if end == BodyEnd::Complete && answer.body == bytes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Changes a byte of the file in `dir` that has these bytes.
fn spoil(dir: &std::path::Path, bytes: &[u8]) {
    let mut spoiled = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else if let Ok(mut content) = std::fs::read(&entry)
                && let Some(at) = content.windows(64).position(|window| *window == bytes[..64])
            {
                content[at + 1000] ^= 1;
                std::fs::write(&entry, content).expect("a file that can be written");
                spoiled += 1;
            }
        }
    }
    assert_eq!(spoiled, 1);
}

#[tokio::test]
async fn another_account_than_the_gateways_is_not_lent() {
    let (origin, members) = (Origin::start().await, free_addresses(2));
    let bytes = noise(100_000);
    let target = origin.blob("a", &bytes);
    let owner = order(&members, digest(&target))[0];
    let users = "retries = 0\n[upstream.credentials]\nusername = \"a\"\npassword = \"b\"\n[[upstream.credentials.users]]\nusers = [\"anonymous\"]\nusername = \"private\"\npassword = \"p\"\n[upstream.cache]\n";
    let _owner = Gateway::builder()
        .server(&format!("secret = \"{SECRET}\""))
        .upstream_with("up", "", origin.address(), users)
        .cache("prefetch = false")
        .peers(&members_of(&members, owner))
        .start()
        .await;
    let other = replica(&origin, "", &members, 1 - owner).start().await;
    let answer = other.get(&target).await.is(200);
    assert!(answer.body == bytes && word(&answer) == "MISS");
    let heard = origin.upstream.heard();
    assert!(heard.iter().all(|heard| heard.headers.get("authorization").is_none()), "{heard:#?}");
}
