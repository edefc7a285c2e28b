//! The admin listener.

use std::time::Duration;

use crate::harness::{Client, EMPTY_INDEX, Gateway, Origin, Reply, Request, Upstream, soon};

async fn both(lines: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener();
    let gateway = builder.upstream_with("up", "", upstream.address, lines).start().await;
    (upstream, gateway)
}

#[tokio::test]
async fn health_is_served_on_the_admin_port_alone() {
    let (_upstream, gateway) = both("").await;
    assert_eq!(gateway.admin("/healthz").await.is(200).text(), "ok\n");
    let ready = gateway.admin("/readyz").await.is(200);
    assert_eq!(ready.header("content-type"), Some("application/json"));
    assert_eq!(ready.json()["status"], "ready");
    gateway.admin("/elsewhere").await.is(404);
    for target in ["/healthz", "/readyz", "/metrics"] {
        gateway.get(target).await.refuses(404, "NAME_UNKNOWN");
    }
    gateway.admin("/v2/").await.is(404);
}

#[tokio::test]
async fn a_dead_upstream_leaves_the_gateway_ready() {
    let (upstream, gateway) = both("retries = 0").await;
    let state = async || gateway.admin("/readyz").await.is(200).json()["upstreams"]["up"]["state"].clone();
    let before = state().await;
    // One connection is served by one worker, which has upstream connections of its own.
    let mut client = gateway.connect().await;
    let get = Request::get("/v2/a/manifests/x");
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    client.ask(&get).await.is(200);
    let well = state().await;
    // The kept connection might merely have been dead; the new one is not.
    for _ in 0..2 {
        upstream.expect("GET", "/v2/a/manifests/x", Reply::close());
    }
    client.ask(&get).await.is(502);
    let ill = state().await;
    assert!(well != ill && before != ill, "{before} {well} {ill}");
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    client.ask(&get).await.is(200);
    assert_eq!(state().await, well);
}

#[tokio::test]
async fn only_reading_by_this_machine_is_answered() {
    let (_upstream, gateway) = both("").await;
    let address = gateway.app.admin_address().unwrap();
    let ask = async |request: Request| Client::tcp(address).await.ask(&request).await;
    for target in ["/metrics", "/api/cache", "/elsewhere"] {
        ask(Request::get(target).header("Host", "evil.example")).await.is(403);
        ask(Request::get(target).header("Origin", "http://evil.example")).await.is(403);
    }
    ask(Request::post("/healthz").body("")).await.is(405);
    ask(Request::head("/healthz")).await.is(200);
}

#[tokio::test]
async fn probes_are_answered_by_whatever_name() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret").admin_at(":0");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let port = gateway.app.admin_address().unwrap().port();
    for address in ["127.0.0.1", "127.0.0.2"] {
        for host in ["10.244.0.7:5001", "dockgate.default.svc", "localhost"] {
            let mut client = Client::tcp((address.parse::<std::net::IpAddr>().unwrap(), port).into()).await;
            let ask = |target: &str| Request::get(target).header("Host", host);
            assert_eq!(client.ask(&ask("/healthz")).await.is(200).text(), "ok\n");
            let ready = client.ask(&ask("/readyz")).await.is(200).json();
            assert_eq!(ready["status"], "ready");
            assert_eq!(ready.get("upstreams").is_some(), host == "localhost", "{ready}");
        }
    }
    let mut old = Client::tcp(([127, 0, 0, 1], port).into()).await;
    old.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    old.answer().await.is(200);
}

/// Returns a gateway with a cache, in front of a registry that takes all names.
async fn with_a_cache() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let builder = Gateway::builder().admin_listener().cache("prefetch = false");
    let lines = "retries = 0\n[upstream.cache]\n";
    let gateway = builder.upstream_with("up", "", origin.address(), lines).start().await;
    (origin, gateway)
}

#[tokio::test]
async fn metrics_of_the_cache_have_the_documented_names() {
    let (_origin, gateway) = with_a_cache().await;
    let metrics = gateway.admin("/metrics").await.is(200).text();
    for line in [
        "dockgate_cache_degraded 0",
        "dockgate_cache_objects{kind=\"blob\"} 0",
        "dockgate_cache_requests_total{outcome=\"hit\"} 0",
        "dockgate_cache_bypasses_total{reason=\"may_push\"} 0",
        "dockgate_upstream_breaker_open{upstream=\"up\"} 0",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn an_open_circuit_is_named_by_readyz_and_metrics() {
    let (mut origin, gateway) = with_a_cache().await;
    origin.upstream.dies().await;
    soon("the circuit to open", async {
        for number in 0.. {
            gateway.get(&format!("/v2/a/manifests/{number}")).await.is(502);
            let ready = gateway.admin("/readyz").await.is(200).json();
            if ready["upstreams"]["up"]["state"] == "failing, circuit open" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let metrics = gateway.admin("/metrics").await.is(200).text();
    assert!(metrics.contains("dockgate_upstream_breaker_open{upstream=\"up\"} 1"), "{metrics}");
}

/// Everything but health, each as a request that would be answered.
fn guarded() -> [Request; 7] {
    let json = |target: &str| Request::post(target).header("Content-Type", "application/json").body("");
    [
        Request::get("/metrics"),
        Request::get("/api/cache"),
        Request::get("/api/cache/list"),
        json("/api/cache/verify"),
        json("/api/cache/remove?pattern=**"),
        json("/api/cache/warm").body("{\"images\":[]}"),
        Request::get("/"),
    ]
}

#[tokio::test]
async fn the_admin_login_is_asked_for_everywhere() {
    let origin = Origin::start().await;
    let gateway = Gateway::builder()
        .user("bob", "hunter2")
        .operator("alice", "secret")
        .admin_at(":0")
        .cache("prefetch = false")
        .upstream_with("up", "", origin.address(), "retries = 0\n[upstream.cache]\n")
        .start()
        .await;
    let port = gateway.app.admin_address().unwrap().port();
    let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
    let ask = async |request: Request| Client::tcp(address).await.ask(&request).await;
    for request in guarded() {
        let answer = ask(request.clone()).await.is(401);
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"dockgate admin\""));
        // A user of the registry is no operator.
        ask(request.clone().login("bob", "hunter2")).await.is(401);
        let refused = ask(request.clone().login("alice", "secret").header("Origin", "http://evil.example"));
        refused.await.is(403);
        let answer = ask(request.login("alice", "secret").header("Host", "gateway.example")).await;
        assert!(![401, 403, 429].contains(&answer.status), "{answer:?}");
    }
    let form = Request::post("/api/cache/remove?pattern=**").login("alice", "secret").body("");
    ask(form.header("Content-Type", "text/plain")).await.is(415);
    ask(Request::get("/healthz")).await.is(200);
    let ready = async |request: Request| ask(request).await.is(200).json().get("upstreams").is_some();
    assert!(
        !ready(Request::get("/readyz")).await
            && ready(Request::get("/readyz").login("alice", "secret")).await
    );
}

#[tokio::test]
async fn guessing_at_the_admin_login_is_slowed_down() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().operator("alice", "secret").admin_listener();
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let mut client = Client::tcp(gateway.app.admin_address().unwrap()).await;
    for number in 0..50 {
        let guess = Request::get("/metrics").login("alice", &format!("guess {number}"));
        let answer = client.ask(&guess).await;
        if answer.status == 429 {
            assert!(answer.header("retry-after").is_some());
            return;
        }
        answer.is(401);
    }
    panic!("nothing slows guessing down");
}

#[tokio::test]
async fn the_admin_socket_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    for (options, mode) in [("", 0o600), ("?mode=0660", 0o660)] {
        let upstream = Upstream::start().await;
        let builder = Gateway::builder().admin_at(&format!("unix:admin.sock{options}"));
        let gateway = builder.upstream("up", "", upstream.address).start().await;
        let path = gateway.path("admin.sock");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        let mut client = Client::unix(&path).await;
        client.ask(&Request::get("/metrics")).await.is(200);
        client.ask(&Request::get("/metrics").header("Host", "evil.example")).await.is(403);
        client.ask(&Request::get("/metrics").header("Origin", "http://evil.example")).await.is(403);
        assert_eq!(gateway.app.admin_address(), None);
    }
}

/// Waits until the metrics have all of `lines`: a request is counted when its response has been sent.
async fn counted(gateway: &Gateway, lines: &[&str]) {
    let mut metrics = String::new();
    let has = |metrics: &str, line: &str| metrics.lines().any(|known| known == line);
    soon("the metrics to have all lines", async {
        while !lines.iter().all(|line| has(&metrics, line)) {
            metrics = gateway.admin("/metrics").await.is(200).text();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_and_answers_are_counted() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener().user("alice", "secret");
    let gateway = builder.upstream_with("up", "", upstream.address, "retries = 1").start().await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    let get = Request::get("/v2/a/manifests/x").login("alice", "secret");
    gateway.ask(get.clone()).await.is(200);
    gateway.ask(Request::get("/v2/").login("alice", "wrong")).await.is(401);
    counted(
        &gateway,
        &[
            "dockgate_requests_total{operation=\"get_manifest\",status=\"2xx\",cache=\"none\"} 1",
            "dockgate_requests_total{operation=\"version\",status=\"4xx\",cache=\"none\"} 1",
            "dockgate_request_duration_seconds_count{operation=\"get_manifest\"} 1",
            "dockgate_request_first_byte_seconds_count{operation=\"get_manifest\"} 1",
            "dockgate_requests_under_way 0",
            "dockgate_logins_total{method=\"password\",result=\"accepted\"} 1",
            "dockgate_logins_total{method=\"password\",result=\"rejected\"} 1",
            "dockgate_password_checks_total{result=\"checked\"} 2",
            "dockgate_upstream_requests_total{upstream=\"up\",status=\"2xx\"} 1",
            "dockgate_upstream_up{upstream=\"up\"} 1",
        ],
    )
    .await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::close());
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(get).await.is(200);
    counted(&gateway, &["dockgate_password_checks_total{result=\"remembered\"} 1"]).await;
}

#[tokio::test]
async fn prometheus_is_told_the_whole_names_of_counters() {
    let (_origin, gateway) = with_a_cache().await;
    let metrics = gateway.admin("/metrics").await.is(200);
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    assert!(
        text.contains("# TYPE dockgate_cache_requests_total counter\n") && !text.contains("# EOF"),
        "{text}"
    );
    let mut client = Client::tcp(gateway.app.admin_address().unwrap()).await;
    let open = Request::get("/metrics").header("Accept", "application/openmetrics-text;version=1.0.0");
    let text = client.ask(&open).await.is(200).text();
    assert!(text.contains("# TYPE dockgate_cache_requests counter\n") && text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn readyz_tells_since_when_and_the_last_reload() {
    let (_origin, gateway) = with_a_cache().await;
    gateway.reconfigure("[upstream.cache]", "[upstream.cache]\nunknown = 1");
    let ready = gateway.admin("/readyz").await.is(200).json();
    assert_eq!(ready["reloads"]["configuration"]["state"], "failed", "{ready}");
    assert!(ready["problems"][0].as_str().unwrap().contains("unknown"), "{ready}");
    gateway.reconfigure("unknown = 1", "");
    let ready = gateway.admin("/readyz").await.is(200).json();
    assert_eq!(ready["reloads"]["configuration"]["state"], "ok", "{ready}");
    assert!(ready["reloads"]["configuration"]["since"].as_str().unwrap().ends_with('Z'), "{ready}");
    assert_eq!((&ready["cache"]["state"], &ready["problems"]), (&"ok".into(), &serde_json::json!([])));
    assert_eq!(ready["upstreams"]["up"]["circuit"]["state"], "closed", "{ready}");
    assert_eq!(ready["upstreams"]["up"]["state"], "unknown", "{ready}");
}
