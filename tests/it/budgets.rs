//! Budgets: what clients could take without end is shared, waited for, and refused in the end.

use std::time::Duration;

use crate::harness::{
    Client, Frames, Gate, Gateway, Origin, Reply, Request, Upstream, blob_at, frame, index_of, manifest_at,
    noise, soon,
};

/// Clients that are not 127.0.0.1.
const OTHER: [u8; 4] = [127, 0, 0, 2];
const THIRD: [u8; 4] = [127, 0, 0, 3];

/// Longer than an answer takes that does not wait.
const SHORT: Duration = Duration::from_millis(100);

const TAG: &str = "/v2/a/manifests/x";

/// A gateway whose upstream may be asked `most` things at a time, with further lines.
async fn gateway(upstream: &Upstream, most: usize, lines: &str) -> Gateway {
    let lines = format!("retries = 0\nmax_connections = {most}\n{lines}");
    let builder = Gateway::builder().admin_listener();
    builder.upstream_with("up", "", upstream.address, &lines).start().await
}

/// Begins to download a blob that stands still behind its first byte, and returns when it does.
async fn stalled(gateway: &Gateway, upstream: &Upstream, from: [u8; 4], number: u8) -> Client {
    // Longer than what the cache withholds until it is verified.
    let blob = noise(40_000 + usize::from(number));
    let target = blob_at("a", &blob);
    let mut asked = upstream.expect("GET", &*target, Reply::ok(&blob).stall_after(1));
    let mut client = asking_from(gateway, from, &target).await;
    asked.arrived().await;
    client.head().await.is(200);
    client
}

async fn asking_from(gateway: &Gateway, from: [u8; 4], target: &str) -> Client {
    let mut client = gateway.connect_from(from).await;
    client.send(Request::get(target).bytes("localhost")).await;
    client
}

/// The value of a metric, by its line's beginning.
async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let text = gateway.admin("/metrics").await.is(200).text().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().expect("a number")
}

async fn until_metric(gateway: &Gateway, name: &str, value: u64) {
    soon("a metric", async {
        while metric(gateway, name).await != value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

const IN_USE: &str = r#"dockgate_budget_in_use{budget="upstream_connections",upstream="up"}"#;
const WAITING: &str = r#"dockgate_budget_waiting{budget="upstream_connections",upstream="up"}"#;
const REFUSED: &str = r#"dockgate_budget_refused_total{budget="upstream_connections",upstream="up"}"#;
const LIMIT: &str = r#"dockgate_budget_limit{budget="upstream_connections",upstream="up"}"#;

// Upstreams.

#[tokio::test]
async fn a_client_with_its_share_keeps_no_other_waiting() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, 4, "").await;
    let (_first, _second) =
        (stalled(&gateway, &upstream, OTHER, 1).await, stalled(&gateway, &upstream, OTHER, 2).await);
    let mut third = asking_from(&gateway, OTHER, TAG).await;
    until_metric(&gateway, WAITING, 1).await;
    upstream.expect("GET", TAG, Reply::ok(index_of("one")));
    // The third waits for its client's share alone: other clients do not wait behind it.
    let mut other = asking_from(&gateway, THIRD, TAG).await;
    assert_eq!(other.answer().await.is(200).text(), index_of("one"));
    assert_eq!((metric(&gateway, IN_USE).await, metric(&gateway, LIMIT).await), (2, 4));
    upstream.expect("GET", TAG, Reply::ok(index_of("two")));
    drop(_first);
    assert_eq!(third.answer().await.is(200).text(), index_of("two"));
}

#[tokio::test]
async fn clients_take_turns_at_an_upstream() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, 1, "").await;
    let held = stalled(&gateway, &upstream, THIRD, 1).await;
    let target = |number: usize| format!("/v2/a/manifests/v{number}");
    let mut clients = Vec::new();
    for (number, from) in [OTHER, OTHER, OTHER, [127, 0, 0, 4]].into_iter().enumerate() {
        upstream.expect("GET", target(number), Reply::ok(index_of("x")));
        clients.push(asking_from(&gateway, from, &target(number)).await);
        until_metric(&gateway, WAITING, number as u64 + 1).await;
    }
    drop(held);
    for client in &mut clients {
        client.answer().await.is(200);
    }
    let heard: Vec<_> = upstream.heard().into_iter().skip(1).map(|heard| heard.target).collect();
    assert_eq!(heard, [target(0), target(3), target(1), target(2)]);
}

#[tokio::test]
async fn a_wait_in_vain_is_503_and_says_when_to_return() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, 1, "response_timeout = \"300ms\"").await;
    let held = stalled(&gateway, &upstream, OTHER, 1).await;
    for target in [TAG.to_owned(), blob_at("a", b"x"), "/v2/a/tags/list".to_owned()] {
        let answer = gateway.get(&target).await.is(503);
        assert_eq!(answer.header("retry-after"), Some("5"), "{target}");
        assert!(answer.text().contains(r#""code":"UNAVAILABLE""#), "{}", answer.text());
    }
    assert_eq!((metric(&gateway, REFUSED).await, metric(&gateway, WAITING).await), (3, 0));
    // A spent budget says nothing of the upstream.
    assert!(!gateway.admin("/readyz").await.text().contains("failing"));
    drop(held);
    upstream.expect("GET", TAG, Reply::ok(index_of("x")));
    gateway.get(TAG).await.is(200);
}

#[tokio::test]
async fn idle_connections_make_room_for_new_ones() {
    let (registry, cdn) = (Upstream::start().await, Upstream::start().await);
    let lines = format!("redirect_hosts = [\"{}\"]", cdn.address);
    let gateway = gateway(&registry, 1, &lines).await;
    let blob = noise(1000);
    let to = Reply::status(307).header("Location", &cdn.url("/x")).then_hang();
    let mut asked = registry.expect("GET", blob_at("a", &blob), to);
    cdn.expect("GET", "/x", Reply::ok(&blob));
    assert!(gateway.get(&blob_at("a", &blob)).await.is(200).body == blob);
    asked.abandoned().await;
    // The other way round.
    registry.expect("GET", TAG, Reply::ok(index_of("x")));
    gateway.get(TAG).await.is(200);
    assert_eq!((registry.connections(), cdn.connections()), (2, 1));
}

#[tokio::test]
async fn stale_content_serves_while_the_budget_is_spent() {
    let origin = Origin::start().await;
    let lines =
        "retries = 0\nmax_connections = 1\nresponse_timeout = \"300ms\"\n[upstream.cache]\ntag_ttl = \"1ms\"";
    let builder = Gateway::builder().admin_listener().cache("prefetch = false");
    let gateway = builder.upstream_with("up", "", origin.address(), lines).start().await;
    let bytes = index_of("x");
    origin.manifest("a", "x", crate::harness::OCI_INDEX, bytes.as_bytes());
    gateway.get(TAG).await.is(200);
    let _held = stalled(&gateway, &origin.upstream, OTHER, 1).await;
    let answer = gateway.get(TAG).await.is(200);
    assert_eq!((answer.text(), answer.header("x-cache")), (bytes, Some("STALE")));
}

#[tokio::test]
async fn what_another_client_has_spent_refuses_no_joined_request() {
    for target in [TAG.to_owned(), blob_at("a", &noise(5000))] {
        let origin = Origin::start().await;
        let lines = "retries = 0\nmax_connections = 2\nresponse_timeout = \"500ms\"\n[upstream.cache]";
        let builder = Gateway::builder().admin_listener().cache("prefetch = false");
        let gateway = builder.upstream_with("up", "", origin.address(), lines).start().await;
        origin.manifest("a", "x", crate::harness::OCI_INDEX, index_of("x").as_bytes());
        origin.blob("a", &noise(5000));
        let _held = stalled(&gateway, &origin.upstream, OTHER, 1).await;
        let mut greedy = asking_from(&gateway, OTHER, &target).await;
        until_metric(&gateway, WAITING, 1).await;
        let mut other = asking_from(&gateway, THIRD, &target).await;
        greedy.answer().await.is(503);
        other.answer().await.is(200);
    }
}

// Work that all its clients have left.

#[tokio::test]
async fn abandoned_requests_leave_no_upstream_connection() {
    for cache in [false, true] {
        let upstream = Upstream::start().await;
        let mut builder = Gateway::builder().admin_listener().tls(&["localhost"]);
        let mut lines = "retries = 0\n".to_owned();
        if cache {
            builder = builder.cache("prefetch = false");
            lines += "[upstream.cache]";
        }
        let gateway = builder.upstream_with("up", "", upstream.address, &lines).start().await;
        let targets: Vec<_> = (0..5)
            .flat_map(|number: usize| {
                [manifest_at("a", &format!("v{number}")), blob_at("a", &noise(number + 1))]
            })
            .collect();
        let mut frames = Frames::over(gateway.http2_bytes().await).await;
        let mut asked = Vec::new();
        for (number, target) in targets.iter().enumerate() {
            // Before a manifest is fetched into the cache, its HEAD is asked for.
            let method = if cache && target.contains("manifests") { "HEAD" } else { "GET" };
            let mut exchange = upstream.expect(method, target.as_str(), Reply::never());
            let stream = u32::try_from(2 * number + 1).unwrap();
            frames.request(stream, frame::END_STREAM, &Request::get(target)).await;
            exchange.arrived().await;
            asked.push((stream, exchange));
        }
        assert_eq!(metric(&gateway, IN_USE).await, 10);
        for (stream, exchange) in &mut asked {
            frames.send(frame::RST_STREAM, 0, *stream, &8u32.to_be_bytes()).await;
            exchange.abandoned().await;
        }
        until_metric(&gateway, IN_USE, 0).await;
    }
}

#[tokio::test]
async fn an_abandoned_download_without_a_byte_ends() {
    let upstream = Upstream::start().await;
    let lines = "retries = 0\n[upstream.cache]";
    let builder = Gateway::builder().cache("prefetch = false");
    let gateway = builder.upstream_with("up", "", upstream.address, lines).start().await;
    let blob = noise(5000);
    let target = blob_at("a", &blob);
    let mut asked = upstream.expect("GET", &*target, Reply::ok(&blob).stall_after(0));
    let client = asking_from(&gateway, OTHER, &target).await;
    asked.arrived().await;
    drop(client);
    asked.abandoned().await;
}

#[tokio::test]
async fn a_client_that_stays_keeps_what_another_began() {
    let upstream = Upstream::start().await;
    let lines = "retries = 0\n[upstream.cache]";
    let builder = Gateway::builder().admin_listener().cache("prefetch = false");
    let gateway = builder.upstream_with("up", "", upstream.address, lines).start().await;
    let (blob, gate) = (noise(5000), Gate::shut());
    let target = blob_at("a", &blob);
    let mut asked = upstream.expect("GET", &*target, Reply::ok(&blob).held(&gate));
    let first = asking_from(&gateway, OTHER, &target).await;
    asked.arrived().await;
    let mut second = asking_from(&gateway, THIRD, &target).await;
    tokio::time::sleep(SHORT).await;
    drop(first);
    tokio::time::sleep(SHORT).await;
    gate.open();
    assert!(second.answer().await.is(200).body == blob);
}

#[tokio::test]
async fn a_waiting_request_that_is_abandoned_leaves_the_queue() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream, 1, "").await;
    let held = stalled(&gateway, &upstream, OTHER, 1).await;
    let waiting = asking_from(&gateway, THIRD, TAG).await;
    until_metric(&gateway, WAITING, 1).await;
    drop(waiting);
    until_metric(&gateway, WAITING, 0).await;
    drop(held);
    until_metric(&gateway, IN_USE, 0).await;
}

// Connections of clients.

const CONNECTIONS: &str = r#"dockgate_budget_in_use{budget="connections"}"#;
const REFUSED_CONNECTIONS: &str = r#"dockgate_budget_refused_total{budget="connections"}"#;

async fn with_connections(all: usize, per_client: usize, lines: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let limits = format!("max_connections = {all}\nmax_connections_per_client = {per_client}\n{lines}");
    let builder = Gateway::builder().admin_listener().server(&limits);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    (upstream, gateway)
}

/// A connection on which something was asked.
async fn in_use(gateway: &Gateway, from: [u8; 4]) -> Client {
    let mut client = gateway.connect_from(from).await;
    client.ask(&Request::get("/v2/")).await.is(200);
    client
}

#[tokio::test]
async fn one_host_does_not_take_all_connections() {
    let (_upstream, gateway) = with_connections(6, 2, "").await;
    let held = [in_use(&gateway, OTHER).await, in_use(&gateway, OTHER).await];
    for _ in 0..20 {
        let mut refused = gateway.connect_from(OTHER).await;
        refused.ends().await;
    }
    let _third = in_use(&gateway, THIRD).await;
    assert_eq!((metric(&gateway, CONNECTIONS).await, metric(&gateway, REFUSED_CONNECTIONS).await), (3, 20));
    drop(held);
    until_metric(&gateway, CONNECTIONS, 1).await;
    in_use(&gateway, OTHER).await;
}

#[tokio::test]
async fn half_open_connections_are_the_first_to_go() {
    let (_upstream, gateway) = with_connections(3, 3, "").await;
    let mut busy = in_use(&gateway, OTHER).await;
    let mut silent = [gateway.connect_from(OTHER).await, gateway.connect_from(OTHER).await];
    until_metric(&gateway, CONNECTIONS, 3).await;
    let _own = in_use(&gateway, OTHER).await;
    silent[0].ends().await;
    // The next half-open one makes room for another client, too.
    let _other = in_use(&gateway, THIRD).await;
    silent[1].ends().await;
    busy.ask(&Request::get("/v2/")).await.is(200);
}

#[tokio::test]
async fn connections_of_trusted_proxies_have_no_share() {
    let (_upstream, gateway) = with_connections(6, 1, "trusted_proxies = [\"127.0.0.2\"]").await;
    let (_first, _second) = (in_use(&gateway, OTHER).await, in_use(&gateway, OTHER).await);
    let _own = in_use(&gateway, THIRD).await;
    gateway.connect_from(THIRD).await.ends().await;
}

#[tokio::test]
async fn the_address_of_a_proxy_header_has_the_share() {
    let lines = "trusted_proxies = [\"127.0.0.2\"]\nproxy_protocol = true";
    let (_upstream, gateway) = with_connections(6, 1, lines).await;
    let header = |client: &str| format!("PROXY TCP4 {client} 192.0.2.9 1000 5000\r\n");
    let named = async |client: &str| {
        let mut connection = gateway.connect_from(OTHER).await;
        connection.send(header(client)).await;
        connection
    };
    let mut first = named("192.0.2.1").await;
    first.ask(&Request::get("/v2/")).await.is(200);
    named("192.0.2.1").await.ends().await;
    let mut other = named("192.0.2.2").await;
    other.ask(&Request::get("/v2/")).await.is(200);
}

// Bytes that are held whole.

const HELD: &str = r#"dockgate_budget_in_use{budget="held_bytes"}"#;
const WAITING_FOR_ROOM: &str = r#"dockgate_budget_waiting{budget="held_bytes"}"#;
const MIB: usize = 1 << 20;

/// Of these, a client has four at most.
const HELD_LIMIT: &str = "max_held_bytes = \"64MiB\"";

#[tokio::test]
async fn bodies_count_until_they_are_sent() {
    let origin = Origin::start().await;
    let builder = Gateway::builder().admin_listener().tls(&["localhost"]).server(HELD_LIMIT);
    let builder = builder.cache("prefetch = false");
    let gateway = builder.upstream_with("up", "", origin.address(), "[upstream.cache]").start().await;
    let manifest = index_of(&"x".repeat(4 * MIB - 200));
    for number in 0..5 {
        origin.manifest("a", &format!("v{number}"), crate::harness::OCI_INDEX, manifest.as_bytes());
    }
    let target = |number: usize| manifest_at("a", &format!("v{number}"));
    gateway.get(&target(4)).await.is(200);
    until_metric(&gateway, HELD, 0).await;
    let mut frames = Frames::over(gateway.http2_bytes().await).await;
    // SETTINGS_INITIAL_WINDOW_SIZE of 0 (RFC 9113 section 6.5.2): it takes no byte of any body.
    frames.send(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    for number in 0..4 {
        let stream = u32::try_from(2 * number + 1).unwrap();
        frames.request(stream, frame::END_STREAM, &Request::get(target(number))).await;
        frames.next_of(frame::HEADERS).await;
    }
    assert_eq!(metric(&gateway, HELD).await, 4 * manifest.len() as u64);
    let refused = gateway.get(&target(4)).await.is(503);
    assert_eq!(refused.header("retry-after"), Some("5"));
    // Another client has its own share.
    let other = Client::tls(gateway.tcp_from(OTHER).await, gateway.ca(), "localhost", "http/1.1").await;
    other.unwrap().ask(&Request::get(target(4))).await.is(200);
    drop(frames);
    until_metric(&gateway, HELD, 0).await;
    gateway.get(&target(4)).await.is(200);
}

#[tokio::test]
async fn announced_manifests_take_no_room() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener().server(HELD_LIMIT);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let mut announcing = Vec::new();
    for _ in 0..40 {
        let mut client = gateway.connect_from(OTHER).await;
        let head = Request::put(TAG).header("Content-Length", (4 * MIB).to_string());
        client.send(head.bytes("localhost")).await;
        announcing.push(client);
    }
    until_metric(&gateway, HELD, 40 * 4096).await;
    upstream.expect("PUT", TAG, Reply::status(201));
    gateway.ask(Request::put(TAG).body(index_of("x"))).await.is(201);
}

#[tokio::test]
async fn manifests_that_arrive_leave_room_for_other_clients() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener().server(HELD_LIMIT);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let (mut arriving, most) = (Vec::new(), vec![b' '; 4 * MIB - 1]);
    for _ in 0..5 {
        let mut client = gateway.connect_from(OTHER).await;
        let head = Request::put(TAG).header("Content-Length", (4 * MIB).to_string());
        client.send(head.bytes("localhost")).await;
        // The gateway does not read on what it has no room for.
        let most = most.clone();
        arriving.push(tokio::spawn(async move {
            let _ = client.try_send(&most).await;
            client
        }));
    }
    soon("a manifest to wait for room", async {
        while metric(&gateway, WAITING_FOR_ROOM).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(metric(&gateway, HELD).await <= 16 * MIB as u64);
    upstream.expect("PUT", TAG, Reply::status(201));
    gateway.ask(Request::put(TAG).body(index_of("x"))).await.is(201);
    arriving.iter().for_each(tokio::task::JoinHandle::abort);
    drop(arriving);
    until_metric(&gateway, HELD, 0).await;
}

#[tokio::test]
async fn manifests_from_an_upstream_count_as_they_arrive() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener().server(HELD_LIMIT);
    let gateway = builder.upstream_with("up", "", upstream.address, "retries = 0").start().await;
    let manifest = index_of(&"x".repeat(4 * MIB - 200));
    let target = |number: usize| manifest_at("a", &format!("v{number}"));
    let mut arriving = Vec::new();
    for number in 0..5 {
        let reply = Reply::ok(&manifest).stall_after(manifest.len() - 1);
        let mut asked = upstream.expect("GET", target(number), reply);
        arriving.push(asking_from(&gateway, OTHER, &target(number)).await);
        asked.arrived().await;
    }
    soon("a manifest to wait for room", async {
        while metric(&gateway, WAITING_FOR_ROOM).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(metric(&gateway, HELD).await <= 16 * MIB as u64);
    upstream.expect("GET", target(9), Reply::ok(index_of("small")));
    gateway.get(&target(9)).await.is(200);
    drop(arriving);
    until_metric(&gateway, HELD, 0).await;
}

#[tokio::test]
async fn lists_that_are_held_whole_count_as_they_arrive() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener().server(HELD_LIMIT);
    let gateway = builder.upstream_with("up", "", upstream.address, "retries = 0").start().await;
    let list = index_of(&"x".repeat(2 * MIB));
    let target = format!("/v2/a/referrers/{}", crate::harness::sha256(b"x"));
    let gate = Gate::shut();
    let mut asked = upstream.expect("GET", &*target, Reply::ok(&list).pause_after(MIB, &gate));
    let mut client = asking_from(&gateway, OTHER, &target).await;
    asked.arrived().await;
    soon("the list to count", async {
        while metric(&gateway, HELD).await < MIB as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    gate.open();
    assert_eq!(client.answer().await.is(200).text(), list);
    until_metric(&gateway, HELD, 0).await;
}

#[tokio::test]
async fn every_budget_is_in_the_metrics() {
    let origin = Origin::start().await;
    let builder = Gateway::builder().admin_listener().user("alice", "secret").cache("");
    let gateway = builder.upstream_with("up", "", origin.address(), "[upstream.cache]").start().await;
    let text = gateway.admin("/metrics").await.is(200).text();
    let own = ["connections", "held_bytes", "password_checks", "forwarded_logins"];
    let of_cache = ["manifest_reads", "fill_bytes", "spools"];
    for budget in own.into_iter().chain(of_cache) {
        let line = format!("dockgate_budget_limit{{budget=\"{budget}\"}} ");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    for budget in ["upstream_connections", "token_requests"] {
        let line = format!("dockgate_budget_limit{{budget=\"{budget}\",upstream=\"up\"}} ");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}
