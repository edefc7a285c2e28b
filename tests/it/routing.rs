//! From a request's target to the upstream's: names, prefixes, `ns` and hosts.

use crate::harness::{EMPTY_INDEX, Gateway, Reply, Request, Upstream, index_of, sha256};

/// Two upstreams under prefixes, one of them below the other's, and one for all other names.
async fn three() -> (Gateway, Upstream, Upstream, Upstream) {
    let (hub, team, rest) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .upstream("docker.io", "docker.io", hub.address)
        .upstream("team.example", "docker.io/team", team.address)
        .upstream("rest", "", rest.address)
        .start()
        .await;
    (gateway, hub, team, rest)
}

#[tokio::test]
async fn requests_outside_the_grammar_are_never_forwarded() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let digest = sha256(b"");
    let cases = [
        ("/v2/a/%2e%2e/manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2/a/../manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2/./a/manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2/a%2Fb/manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2/a%00/manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2/a;b/manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2/a//b/manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2//manifests/x", 404, "NAME_UNKNOWN"),
        ("//v2/a/manifests/x", 404, "NAME_UNKNOWN"),
        ("/v2/a/manifests/", 404, "NAME_UNKNOWN"),
        ("/v2/a/manifests", 404, "NAME_UNKNOWN"),
        ("/v2/_oci/ext/discover", 404, "NAME_UNKNOWN"),
        ("/v1/a/manifests/x", 404, "NAME_UNKNOWN"),
        ("/", 404, "NAME_UNKNOWN"),
        ("/v2/A/manifests/x", 400, "NAME_INVALID"),
        ("/v2/Team/app/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a___b/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a_-b/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a..b/manifests/x", 400, "NAME_INVALID"),
        ("/v2/-a/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a-/manifests/x", 400, "NAME_INVALID"),
        ("/v2/_oci/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/manifests/.x", 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/-x", 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/sha256:abc", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/x", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:ABCDEF", 400, "DIGEST_INVALID"),
        ("/v2/a/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/tags/list?n=1&n=2", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/referrers/x", 400, "DIGEST_INVALID"),
    ];
    for (target, status, code) in cases {
        let answer = gateway.get(target).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{target}");
    }
    let long = format!("/v2/a/manifests/{}", "t".repeat(129));
    gateway.get(&long).await.refuses(404, "MANIFEST_UNKNOWN");
    let long = format!("/v2/{}/manifests/x", "n".repeat(256));
    gateway.get(&long).await.refuses(400, "NAME_INVALID");
    let upper = format!("/v2/a/blobs/{}", digest.to_uppercase());
    gateway.get(&upper).await.refuses(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn a_repository_name_may_contain_api_words() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let digest = sha256(b"x");
    let targets = [
        "/v2/foo/manifests/bar/manifests/latest".to_owned(),
        "/v2/blobs/manifests/x".to_owned(),
        format!("/v2/a/blobs/uploads/blobs/{digest}"),
        "/v2/tags/list/tags/list".to_owned(),
        format!("/v2/referrers/referrers/{digest}"),
        "/v2/a__b/c--d/e.f/manifests/v1.0_x-y".to_owned(),
    ];
    for target in targets {
        upstream.expect("GET", target.as_str(), Reply::ok(r#"{"tags":[],"manifests":[]}"#));
        gateway.get(&target).await.is(200);
    }
}

#[tokio::test]
async fn an_encoded_digest_colon_is_sent_on_plain() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let digest = sha256(b"x");
    upstream.expect("GET", format!("/v2/a/blobs/{digest}"), Reply::ok("x"));
    gateway.get(&format!("/v2/a/blobs/{}", digest.replace(':', "%3A"))).await.is(200);
}

#[tokio::test]
async fn a_405_lists_the_allowed_methods() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let cases = [
        ("POST", "/v2/", "GET, HEAD"),
        ("PUT", "/v2/a/tags/list", "GET"),
        ("PATCH", "/v2/a/manifests/x", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/v2/a/manifests/x", "GET, HEAD, PUT, DELETE"),
        ("TRACE", "/v2/a/blobs/uploads/", "POST"),
    ];
    for (method, target, allow) in cases {
        let answer = gateway.ask(Request::new(method, target)).await.refuses(405, "UNSUPPORTED");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
    }
}

#[tokio::test]
async fn the_longest_prefix_wins() {
    let (gateway, hub, team, rest) = three().await;
    hub.expect("GET", "/v2/other/app/manifests/1", Reply::ok(index_of("hub")));
    assert_eq!(gateway.get("/v2/docker.io/other/app/manifests/1").await.text(), index_of("hub"));
    team.expect("GET", "/v2/app/manifests/1", Reply::ok(index_of("team")));
    assert_eq!(gateway.get("/v2/docker.io/team/app/manifests/1").await.text(), index_of("team"));
    rest.expect("GET", "/v2/docker.iox/app/manifests/1", Reply::ok(index_of("rest")));
    assert_eq!(gateway.get("/v2/docker.iox/app/manifests/1").await.text(), index_of("rest"));
}

#[tokio::test]
async fn without_a_catch_all_unprefixed_names_are_unknown() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up", "up", upstream.address).start().await;
    gateway.get("/v2/else/app/manifests/1").await.refuses(404, "NAME_UNKNOWN");
    gateway.get("/v2/up/manifests/1").await.refuses(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn single_component_names_are_in_library() {
    let (gateway, hub, ..) = three().await;
    let ways = [
        "/v2/docker.io/nginx/manifests/1",
        "/v2/docker.io/library/nginx/manifests/1",
        "/v2/library/nginx/manifests/1?ns=docker.io",
        "/v2/nginx/manifests/1?ns=docker.io",
        "/docker.io/v2/nginx/manifests/1",
        "/docker.io/v2/library/nginx/manifests/1?ns=docker.io",
    ];
    for way in ways {
        hub.expect("GET", "/v2/library/nginx/manifests/1", Reply::ok(EMPTY_INDEX));
        gateway.get(way).await.is(200);
    }
}

#[tokio::test]
async fn a_used_ns_is_echoed_and_never_travels_on() {
    let (gateway, hub, ..) = three().await;
    hub.expect("GET", "/v2/some/app/manifests/1", Reply::ok(EMPTY_INDEX));
    let answer = gateway.get("/v2/some/app/manifests/1?ns=docker.io").await.is(200);
    assert_eq!(answer.header("oci-namespace"), Some("docker.io"));
    hub.expect("GET", "/v2/some/app/tags/list?n=2", Reply::ok(r#"{"name":"some/app","tags":[]}"#));
    gateway.get("/v2/some/app/tags/list?ns=docker.io&n=2").await.is(200);
    hub.expect("GET", "/v2/some/app/manifests/1", Reply::ok(EMPTY_INDEX));
    let plain = gateway.get("/v2/docker.io/some/app/manifests/1").await.is(200);
    assert_eq!(plain.header("oci-namespace"), None);
}

#[tokio::test]
async fn an_unknown_ns_is_never_dialled() {
    let upstream = Upstream::start().await;
    let stranger = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    for ns in ["quay.io".to_owned(), stranger.address.to_string(), "169.254.169.254".to_owned()] {
        let answer = gateway.get(&format!("/v2/a/manifests/x?ns={ns}")).await.refuses(404, "NAME_UNKNOWN");
        assert_eq!(answer.header("oci-namespace"), None);
    }
    assert_eq!(stranger.connections(), 0);
}

#[tokio::test]
async fn a_doubled_or_malformed_ns_is_refused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    for query in ["ns=up&ns=up", "ns=", "ns=http://up/", "ns=up%2Fx", "ns=%zz"] {
        let answer = gateway.get(&format!("/v2/a/manifests/x?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        answer.code();
    }
}

#[tokio::test]
async fn ns_and_prefix_that_disagree_are_refused() {
    let (gateway, ..) = three().await;
    let targets =
        ["/v2/docker.io/some/app/manifests/1?ns=team.example", "/docker.io/v2/some/app/manifests/1?ns=rest"];
    for target in targets {
        gateway.get(target).await.refuses(400, "NAME_INVALID");
    }
}

#[tokio::test]
async fn ns_and_prefix_that_agree_are_one_way() {
    let (gateway, _hub, team, _) = three().await;
    team.expect("GET", "/v2/app/manifests/1", Reply::ok(EMPTY_INDEX));
    gateway.get("/v2/docker.io/team/app/manifests/1?ns=team.example").await.is(200);
}

#[tokio::test]
async fn a_prefix_may_stand_before_or_behind_v2() {
    let (gateway, hub, team, _) = three().await;
    hub.expect("GET", "/v2/some/app/manifests/1", Reply::ok(index_of("hub")));
    assert_eq!(gateway.get("/docker.io/v2/some/app/manifests/1").await.text(), index_of("hub"));
    team.expect("GET", "/v2/app/manifests/1", Reply::ok(index_of("team")));
    assert_eq!(gateway.get("/docker.io/v2/team/app/manifests/1").await.text(), index_of("team"));
    gateway.get("/docker.io/v2/").await.is(200);
}

#[tokio::test]
async fn a_virtual_host_goes_to_its_upstream_whole() {
    let (own, rest) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .upstream_with("own", "own", own.address, "hosts = [\"own.example\"]")
        .upstream("rest", "", rest.address)
        .start()
        .await;
    own.expect("GET", "/v2/app/manifests/1", Reply::ok(index_of("own")));
    let at = |host: &str, target: &str| Request::get(target).header("Host", host);
    let answer = gateway.ask(at("OWN.example:5000", "/v2/app/manifests/1")).await.is(200);
    assert_eq!(answer.text(), index_of("own"));
    rest.expect("GET", "/v2/app/manifests/1", Reply::ok(index_of("rest")));
    assert_eq!(gateway.ask(at("localhost", "/v2/app/manifests/1")).await.is(200).text(), index_of("rest"));
    gateway.ask(at("own.example", "/v2/app/manifests/1?ns=rest")).await.refuses(400, "NAME_INVALID");
    gateway.ask(at("other.example", "/v2/app/manifests/1")).await.refuses(421, "NAME_UNKNOWN");
}

#[tokio::test]
async fn locations_speak_the_clients_own_names() {
    let (gateway, hub, ..) = three().await;
    let ways = [
        ("/v2/docker.io/some/app", "", "/v2/docker.io/some/app"),
        ("/docker.io/v2/some/app", "", "/docker.io/v2/some/app"),
        ("/v2/some/app", "?ns=docker.io", "/v2/docker.io/some/app"),
    ];
    for (base, query, expected) in ways {
        let reply = Reply::status(202).header("Location", "/v2/some/app/blobs/uploads/1?_state=x");
        hub.expect("POST", "/v2/some/app/blobs/uploads/", reply);
        let answer = gateway.ask(Request::post(format!("{base}/blobs/uploads/{query}"))).await.is(202);
        let location = answer.header("location").unwrap();
        assert!(location.starts_with(&format!("{expected}/blobs/uploads/")), "{location}");
        hub.expect("PATCH", "/v2/some/app/blobs/uploads/1?_state=x", Reply::status(202));
        gateway.ask(Request::patch(location).body("x")).await.is(202);
    }
}

#[tokio::test]
async fn an_upstream_below_a_path_is_asked_there() {
    let upstream = Upstream::start().await;
    let url = format!("url = \"http://{}/sub/path\"", upstream.address);
    let gateway = Gateway::builder().upstream_with("up", "", upstream.address, &url).start().await;
    upstream.expect("GET", "/sub/path/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.get("/v2/a/manifests/x").await.is(200);
}

#[tokio::test]
async fn v2_is_answered_without_an_upstream_request() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    for target in ["/v2/", "/v2"] {
        let answer = gateway.get(target).await.is(200);
        assert_eq!(answer.text(), "{}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let head = gateway.ask(Request::head(target)).await.is(200);
        assert_eq!(head.header("content-length"), Some("2"));
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn every_answer_names_the_api_and_itself() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX).header("X-Request-Id", "theirs"));
    upstream.expect("GET", "/v2/a/manifests/y", Reply::status(404));
    let mut ids = Vec::new();
    for target in ["/v2/", "/v2/a/manifests/x", "/v2/a/manifests/y", "/nowhere"] {
        let answer = gateway.get(target).await;
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"), "{target}");
        ids.push(answer.header("x-request-id").expect("an id").to_owned());
    }
    assert!(ids.iter().all(|id| id != "theirs"), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn a_login_learns_of_no_prefix_that_is_not_its_own() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .rule(&["alice"], &["open/**", "nowhere/**"], &["pull"])
        .upstream("open", "open", upstream.address)
        .upstream("hidden.example", "hidden", upstream.address)
        .upstream_with("docker.io", "hub", upstream.address, "")
        .start()
        .await;
    let ask = |target: String| gateway.ask(Request::get(target).login("alice", "secret"));
    // A configured prefix and an unknown one: one status, one code, one message.
    let pairs = [
        ("/v2/hidden/app", "/v2/absent/app"),
        ("/v2/hub/app", "/v2/bub/app"),
        ("/hidden/v2/app", "/absent/v2/app"),
        ("/v2/hidden", "/v2/absent"),
        ("/v2/hidden/app/sub", "/v2/app"),
    ];
    let answer = async |path: &str, query: &str| {
        let answer = ask(format!("{path}/manifests/x{query}")).await.refuses(403, "DENIED");
        let (_, missing) = answer
            .text()
            .split_once("alice may not pull ")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        missing.split('"').next().unwrap().to_owned()
    };
    for (configured, absent) in pairs {
        for path in [configured, absent] {
            assert_eq!(answer(path, "").await, path[1..].replacen("v2/", "", 1));
        }
    }
    for ns in ["hidden.example", "absent.example", "docker.io"] {
        let query = format!("?ns={ns}");
        assert_eq!(answer("/v2/app", &query).await, format!("{ns}/app"));
        assert_eq!(answer("/v2/hidden/app", &query).await, format!("{ns}/hidden/app"));
        assert_eq!(answer("/hidden/v2/app", &query).await, format!("{ns}/hidden/app"));
        // So long that the canonical name would not be one.
        let long = "n".repeat(249);
        assert_eq!(answer(&format!("/v2/{long}"), &query).await, long);
        assert_eq!(answer(&format!("/hub/v2/{long}"), &query).await, format!("hub/{long}"));
    }
    // The path and ns disagree where the client sees both; a prefix that it does not see is a part of the name.
    for path in ["/v2/hidden/app", "/hidden/v2/app", "/v2/absent/app", "/absent/v2/app"] {
        let name = path.replace("v2/", "");
        upstream.expect("GET", format!("/v2{name}/manifests/x"), Reply::status(404));
        ask(format!("{path}/manifests/x?ns=open")).await.refuses(404, "MANIFEST_UNKNOWN");
    }
    ask("/v2/open/app/manifests/x?ns=hidden.example".to_owned()).await.refuses(403, "DENIED");
    ask("/v2/nowhere/app/manifests/x".to_owned()).await.refuses(404, "NAME_UNKNOWN");
    ask("/v2/open/manifests/x".to_owned()).await.is(403);
}
