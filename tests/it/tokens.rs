//! Upstreams that want credentials: their challenges are answered here, and no client hears of it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use dockgate::internals::limits;

use crate::harness::{
    Answer, Client, EMPTY_INDEX, Gate, Gateway, Guarded, KEY, MARK, OCI_INDEX, PASSWORD, ROBOT, Reply,
    Request, Upstream, account, asking, basic, gift, is_told, noise, refusal, sha256, soon, token,
};

const MANIFEST: &str = "/v2/a/manifests/x";
const PULL: &[&str] = &["repository:a:pull"];
const PUSH: &[&str] = &["repository:a:pull,push"];
const UPLOADS: &str = "/v2/a/blobs/uploads/";
const SESSION: &str = "/v2/a/blobs/uploads/5e55?_state=t0psecret%2Bstate";

fn bearer(name: &str) -> Option<String> {
    Some(format!("Bearer {}", token(name)))
}

fn robot() -> Option<String> {
    Some(basic(ROBOT, PASSWORD))
}

fn location(answer: &Answer) -> String {
    answer.header("location").expect("a location").to_owned()
}

/// The first pull: the registry challenges, the endpoint gives this token, the registry takes it.
async fn warm(guarded: &Guarded, gateway: &Gateway, name: &str) {
    guarded.registry.expect("GET", MANIFEST, guarded.refusal(",scope=\"repository:a:pull\""));
    guarded.gives(PULL, &token(name));
    guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
}

#[tokio::test]
async fn a_cold_pull_costs_one_401_and_one_token() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    warm(&guarded, &gateway, "one").await;
    let reply = Reply::ok(EMPTY_INDEX).header("Content-Type", OCI_INDEX);
    guarded.registry.expect("HEAD", MANIFEST, reply);
    gateway.ask(Request::head(MANIFEST)).await.is(200);
    assert_eq!(guarded.shown(), [None, bearer("one"), bearer("one")]);
    assert_eq!(guarded.tokens.heard_of("authorization"), [robot()]);
}

#[tokio::test]
async fn upstreams_never_see_client_passwords_or_cookies() {
    let guarded = Guarded::start().await;
    let builder = Gateway::builder().user("alice", "t0psecret-alice").tls(&["localhost"]);
    let gateway = guarded.before(builder, "").start().await;
    guarded.gives(PULL, &token("one"));
    guarded.guards("GET", MANIFEST, &[token("one")], Reply::ok(EMPTY_INDEX));
    let request = Request::get(format!("{MANIFEST}?ns=up")).login("alice", "t0psecret-alice");
    let request = request.header("Cookie", "session=t0psecret");
    gateway.ask(request.clone()).await.is(200);
    gateway.http2().await.ask(&request).await.is(200);
    for heard in guarded.registry.heard().into_iter().chain(guarded.tokens.heard()) {
        let others = heard.headers.0.iter().filter(|(name, _)| name != "authorization");
        assert!(!is_told(&format!("{:?} {}", others.collect::<Vec<_>>(), heard.target)), "{heard:?}");
    }
    assert_eq!(guarded.shown(), [None, bearer("one"), bearer("one")]);
    guarded.assert_asked_by_robot();
}

#[tokio::test]
async fn a_hundred_clients_at_once_cost_one_token() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let gate = Gate::shut();
    guarded.answers(PULL, gift(&token("one"), 300).held(&gate));
    guarded.guards("GET", MANIFEST, &[token("one")], Reply::ok(EMPTY_INDEX));
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = gateway.connect().await;
        client.send(Request::get(MANIFEST).bytes("localhost")).await;
        clients.push(client);
    }
    gate.open();
    for client in &mut clients {
        client.answer().await.is(200);
    }
    assert_eq!(guarded.tokens.heard_of("authorization"), [robot()]);
}

#[tokio::test]
async fn the_scope_is_the_least_that_the_request_needs() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    warm(&guarded, &gateway, "pull").await;
    let digest = sha256(b"{}");
    let deleted = format!("/v2/a/manifests/{digest}");
    for (request, scopes, reply) in [
        (Request::put(MANIFEST).body("{}"), PUSH, Reply::status(201)),
        (Request::delete(deleted), &["repository:a:delete"], Reply::status(202)),
        (
            Request::get("/v2/b/c/tags/list"),
            &["repository:b/c:pull"],
            Reply::ok(r#"{"name":"b/c","tags":[]}"#),
        ),
        (Request::get("/v2/_catalog"), &["registry:catalog:*"], Reply::ok(r#"{"repositories":[]}"#)),
    ] {
        let name = request.method.clone();
        guarded.gives(scopes, &token(&name));
        let target = if request.target == "/v2/_catalog" { "/v2/_catalog?n=100" } else { &request.target };
        let mut asked = guarded.registry.expect(&request.method, target, reply.clone());
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status, reply.code(), "{:?}", guarded.registry.heard().last());
        assert_eq!(asked.done().await.headers.get("authorization"), bearer(&name).as_deref());
    }
    guarded.assert_asked_by_robot();
}

#[tokio::test]
async fn a_mount_asks_for_one_token() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let digest = sha256(b"layer");
    let mount = format!("{UPLOADS}?mount={}&from=base", digest.replace(':', "%3A"));
    guarded.gives(&["repository:a:pull,push", "repository:base:pull"], &token("mount"));
    guarded.guards("POST", &mount, &[token("mount")], Reply::status(201));
    gateway.ask(Request::post(mount)).await.is(201);
    assert_eq!(guarded.shown(), [None, bearer("mount")]);
}

#[tokio::test]
async fn a_mount_without_a_token_becomes_an_upload() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let mount = format!("{UPLOADS}?mount={}&from=base", sha256(b"layer").replace(':', "%3A"));
    guarded.registry.expect("POST", mount.as_str(), guarded.refusal(""));
    guarded.answers(&["repository:a:pull,push", "repository:base:pull"], Reply::status(403));
    guarded.gives(&[], &token("login"));
    guarded.gives(PUSH, &token("push"));
    guarded.guards("POST", UPLOADS, &[token("push")], Reply::status(202).header("Location", SESSION));
    gateway.ask(Request::post(mount)).await.is(202);
}

#[tokio::test]
async fn an_upload_has_its_token_before_its_body_flows() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.gives(PUSH, &token("push"));
    guarded.guards("POST", UPLOADS, &[token("push")], Reply::status(202).header("Location", SESSION));
    let at = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
    flow(&guarded, &gateway, &at, "push").await;
    assert_eq!(guarded.tokens.heard().len(), 1);
}

/// Sends a PATCH with a body that is not there yet, and looks at what it shows the registry.
async fn flow(guarded: &Guarded, gateway: &Gateway, at: &str, name: &str) {
    let mut patch = guarded.registry.expect("PATCH", SESSION, Reply::status(202).header("Location", SESSION));
    let mut client = gateway.connect().await;
    client.send(Request::patch(at).header("Transfer-Encoding", "chunked").bytes("localhost")).await;
    client.send_chunk(b"some bytes").await;
    let seen = patch.until(|seen| seen.received == 10).await;
    assert_eq!(seen.headers.get("authorization"), bearer(name).as_deref());
    client.send(b"0\r\n\r\n").await;
    client.answer().await.is(202);
}

#[tokio::test]
async fn an_upload_gets_its_token_before_the_body() {
    let guarded = Guarded::start().await;
    let builder = || Gateway::builder().server("secret = \"0123456789abcdef0123456789abcdef\"");
    let first = guarded.before(builder(), "").start().await;
    guarded.gives(PUSH, &token("first"));
    let good = [token("first"), token("second")];
    guarded.guards("POST", UPLOADS, &good, Reply::status(202).header("Location", SESSION));
    let at = location(&first.ask(Request::post(UPLOADS)).await.is(202));
    drop(first);

    let second = guarded.before(builder(), "").start().await;
    let mut ping = guarded.registry.expect("GET", "/v2/", guarded.refusal(""));
    guarded.gives(PUSH, &token("second"));
    flow(&guarded, &second, &at, "second").await;
    assert_eq!(ping.done().await.headers.get("authorization"), None);
}

#[tokio::test]
async fn a_token_is_renewed_during_an_upload() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    // The gateway looks once a second.
    guarded.answers(PUSH, gift(&token("short"), 6));
    guarded.guards("POST", UPLOADS, &[token("short")], Reply::status(202).header("Location", SESSION));
    let mut renewal = guarded.answers(PUSH, gift(&token("long"), 300));
    let at = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
    renewal.done().await;
    soon("the new token", async {
        // The gateway may need a moment to read it.
        loop {
            let patched = guarded.registry.expect("PATCH", SESSION, Reply::status(202));
            gateway.ask(Request::patch(&at).body("x")).await.is(202);
            if { patched }.done().await.headers.get("authorization") == bearer("long").as_deref() {
                return;
            }
        }
    })
    .await;
    assert_eq!(guarded.tokens.heard().len(), 2);
}

#[tokio::test]
async fn an_invalid_token_is_replaced_unseen() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    warm(&guarded, &gateway, "old").await;
    guarded.registry.expect("GET", MANIFEST, guarded.refusal(",error=\"invalid_token\""));
    guarded.gives(PULL, &token("new"));
    for _ in 0..2 {
        guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
        gateway.get(MANIFEST).await.is(200);
    }
    assert_eq!(guarded.shown()[2..], [bearer("old"), bearer("new"), bearer("new")]);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_once_for_all() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    warm(&guarded, &gateway, "old").await;
    let (new, refusal) = (bearer("new"), guarded.refusal(",error=\"invalid_token\""));
    guarded.registry.always("GET", MANIFEST, move |headers| {
        let good = headers.get("authorization") == new.as_deref();
        if good { Reply::ok(EMPTY_INDEX) } else { refusal.clone() }
    });
    let gate = Gate::shut();
    guarded.answers(PULL, gift(&token("new"), 300).held(&gate));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        client.send(Request::get(MANIFEST).bytes("localhost")).await;
        clients.push(client);
    }
    gate.open();
    for client in &mut clients {
        client.answer().await.is(200);
    }
    assert_eq!(guarded.tokens.heard().len(), 2);
}

#[tokio::test]
async fn a_manifest_is_pushed_again_with_a_new_token() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.registry.expect("PUT", MANIFEST, guarded.refusal(""));
    guarded.gives(PUSH, &token("one"));
    let mut put = guarded.registry.expect("PUT", MANIFEST, Reply::status(201));
    gateway.ask(Request::put(MANIFEST).body("{\"a\":1}")).await.is(201);
    assert_eq!(put.done().await.body, b"{\"a\":1}");
}

#[tokio::test]
async fn a_flowing_body_is_never_sent_twice() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.gives(PUSH, &token("old"));
    guarded.guards("POST", UPLOADS, &[token("old")], Reply::status(202).header("Location", SESSION));
    let at = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
    let refusal = guarded.refusal(",error=\"invalid_token\"");
    guarded.registry.expect("PATCH", SESSION, refusal);
    gateway.ask(Request::patch(&at).body(noise(300_000))).await.refuses(502, "UNAVAILABLE");
    // The client's own next attempt has a token that is good.
    guarded.gives(PUSH, &token("new"));
    flow(&guarded, &gateway, &at, "new").await;
}

#[tokio::test]
async fn a_registry_that_refuses_every_token_is_502() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    warm(&guarded, &gateway, "old").await;
    let refusal = guarded.refusal(",scope=\"repository:a:pull\",error=\"invalid_token\"");
    guarded.registry.expect("GET", MANIFEST, refusal.clone());
    guarded.gives(PULL, &token("new"));
    guarded.registry.expect("GET", MANIFEST, refusal);
    gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
    assert_eq!(guarded.tokens.heard().len(), 2);
}

#[tokio::test]
async fn a_401_to_a_fresh_token_is_404() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    warm(&guarded, &gateway, "one").await;
    let blob = format!("/v2/a/blobs/{}", sha256(b""));
    let narrow = ",scope=\"repository:a:pull\",error=\"insufficient_scope\"";
    for (target, code) in
        [(MANIFEST, "MANIFEST_UNKNOWN"), (blob.as_str(), "BLOB_UNKNOWN"), ("/v2/a/tags/list", "NAME_UNKNOWN")]
    {
        for reply in [guarded.refusal(narrow), guarded.refusal(""), Reply::status(401)] {
            guarded.registry.expect("GET", target, reply);
            gateway.get(target).await.refuses(404, code);
        }
    }
    assert_eq!(guarded.tokens.heard().len(), 1);
}

#[tokio::test]
async fn a_missing_repository_on_docker_hub_is_404() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.gives(PULL, &token("empty"));
    guarded.guards("GET", MANIFEST, &[], Reply::ok(""));
    gateway.get(MANIFEST).await.refuses(404, "MANIFEST_UNKNOWN");
    assert_eq!(guarded.shown(), [None, bearer("empty")]);
}

#[tokio::test]
async fn token_endpoint_failures_are_502_or_429() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway_with("retries = 0").await;
    let page = "<html>t0psecret</html>";
    let long = format!("{{\"token\":\"{}\"}}", "t".repeat(65 * 1024));
    let replies = [
        (Reply::status(404), 502),
        (Reply::status(429).header("Retry-After", "17"), 429),
        (Reply::status(500), 502),
        (Reply::status(503), 502),
        (Reply::ok(page).header("Content-Type", "text/html"), 502),
        (Reply::ok(""), 502),
        (Reply::ok("{}"), 502),
        (Reply::ok(r#"{"token":""}"#), 502),
        (Reply::ok(r#"{"token":"t0psecret two"}"#), 502),
        (Reply::ok(r#"{"token":"t0psecret\r\nHost: evil.example"}"#), 502),
        (Reply::ok(&long), 502),
        (Reply::ok(&long).chunked(1000), 502),
        (Reply::ok(r#"{"token":"t0psecret"}"#).claim(500).then_close(), 502),
        (Reply::status(302), 502),
        (Reply::raw("t0psecret\r\n\r\n").then_close(), 502),
    ];
    guarded.guards("GET", "/v2/", &[], Reply::ok(""));
    for (number, (reply, status)) in replies.into_iter().enumerate() {
        let target = format!("/v2/r{number}/manifests/x");
        guarded.guards("GET", &target, &[], Reply::ok(""));
        guarded.answers(&[&format!("repository:r{number}:pull")], reply);
        let answer = gateway.get(&target).await;
        assert_eq!(answer.status, status, "{number}: {}", answer.text());
        assert_eq!(answer.header("retry-after"), (status == 429).then_some("17"));
        // It is not asked again at once, and what it said holds.
        gateway.get(&target).await.is(status);
    }
    guarded.assert_asked_by_robot();
}

/// Some refuse a token for what is not there. The credentials are good where they get one for nothing in particular.
#[tokio::test]
async fn a_scope_that_is_refused_is_not_there() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.gives(&[], &token("login"));
    for (number, status) in [401, 403].into_iter().enumerate() {
        let target = format!("/v2/r{number}/manifests/x");
        guarded.guards("GET", &target, &[], Reply::ok(""));
        guarded.answers(&[&format!("repository:r{number}:pull")], Reply::status(status));
        gateway.get(&target).await.refuses(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(guarded.tokens.heard().len(), 3, "the credentials are looked at once");
}

#[tokio::test]
async fn wrong_credentials_are_502_and_not_repeated() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    for number in 0..20 {
        guarded.guards("GET", &format!("/v2/r{number}/manifests/x"), &[], Reply::ok(""));
    }
    guarded.answers(&["repository:r0:pull"], Reply::status(401).body("t0psecret"));
    guarded.answers(&[], Reply::status(401));
    for number in 0..20 {
        gateway.get(&format!("/v2/r{number}/manifests/x")).await.refuses(502, "UNAVAILABLE");
    }
    assert_eq!(guarded.tokens.heard().len(), 2);
}

#[tokio::test]
async fn a_wrong_password_is_not_repeated() {
    let registry = Upstream::start().await;
    let gateway = Gateway::builder().upstream_with("up", "", registry.address, &account()).start().await;
    for number in 0..20 {
        let target = format!("/v2/r{number}/manifests/x");
        registry.always("GET", &target, |_: &_| refusal("Basic realm=\"registry\""));
        gateway.get(&target).await.refuses(502, "UNAVAILABLE");
    }
    let shown: Vec<_> = registry.heard_of("authorization").into_iter().flatten().collect();
    assert_eq!(shown, [robot().unwrap()]);
}

#[tokio::test]
async fn refused_tokens_are_not_requested_again_at_once() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let refusal = guarded.refusal(",error=\"invalid_token\"");
    guarded.registry.always("GET", MANIFEST, move |_: &_| refusal.clone());
    guarded.gives(PULL, &token("one"));
    for _ in 0..20 {
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
    }
    assert_eq!(guarded.tokens.heard().len(), 1);
}

#[tokio::test]
async fn the_same_token_again_is_still_insufficient() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    warm(&guarded, &gateway, "one").await;
    guarded.registry.expect("GET", MANIFEST, guarded.refusal(",scope=\"repository:group/a:pull\""));
    guarded.gives(&["repository:a:pull", "repository:group/a:pull"], &token("one"));
    gateway.get(MANIFEST).await.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_momentary_token_failure_is_retried() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway_with("retries = 1").await;
    guarded.answers(PULL, Reply::status(503));
    guarded.gives(PULL, &token("one"));
    guarded.guards("GET", MANIFEST, &[token("one")], Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
}

#[tokio::test]
async fn a_token_endpoint_that_never_answers_is_504() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway_with("response_timeout = \"300ms\"").await;
    let mut asked = guarded.answers(PULL, Reply::never());
    guarded.guards("GET", MANIFEST, &[], Reply::ok(""));
    gateway.get(MANIFEST).await.refuses(504, "UNAVAILABLE");
    asked.abandoned().await;
}

#[tokio::test]
async fn a_token_comes_in_many_shapes() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let old = "\"issued_at\":\"2020-01-01T00:00:00Z\"";
    let date = "Wed, 01 Jan 2020 00:00:10 GMT";
    let good = token("good");
    let replies = [
        Reply::ok(format!("{{\"access_token\":\"{good}\"}}")),
        Reply::ok(format!("{{\"token\":\"{good}\",\"access_token\":\"other\",\"x\":[1]}}")),
        Reply::status(201).body(format!("{{\"token\":\"{good}\",\"expires_in\":0}}")),
        Reply::ok(format!("{{\"token\":\"{good}\",\"expires_in\":\"300\"}}")).chunked(7),
        Reply::ok(format!("{{\"token\":\"{good}\",\"expires_in\":300,{old}}}")).header("Date", date),
        Reply::ok(format!("{{\"token\":\"{good}\",\"expires_in\":300,{old}}}")),
        Reply::ok(format!("{{\"token\":\"{good}\",\"expires_in\":1e30,\"issued_at\":\"soon\"}}")),
        Reply::ok(format!("{{\"token\":\"{good}\"}}")).until_close(),
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let target = format!("/v2/r{number}/manifests/x");
        guarded.answers(&[&format!("repository:r{number}:pull")], reply);
        guarded.guards("GET", &target, std::slice::from_ref(&good), Reply::ok(EMPTY_INDEX));
        for _ in 0..2 {
            assert_eq!(gateway.get(&target).await.status, 200, "{number}");
        }
    }
}

#[tokio::test]
async fn token_redirects_carry_credentials_to_the_endpoint_only() {
    let (guarded, stranger) = (Guarded::start().await, Upstream::start().await);
    let gateway = guarded.gateway().await;
    guarded.guards("GET", MANIFEST, &[token("one")], Reply::ok(EMPTY_INDEX));
    guarded.answers(PULL, Reply::status(302).header("Location", "/elsewhere?x=%2f"));
    let mut there = guarded.tokens.expect("GET", "/elsewhere?x=%2f", gift(&token("one"), 300));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(there.done().await.headers.get("authorization"), robot().as_deref());

    guarded.guards("GET", "/v2/", &[], Reply::ok("{}"));
    guarded.guards("GET", "/v2/b/manifests/x", &[], Reply::ok(EMPTY_INDEX));
    let foreign = Reply::status(307).header("Location", &stranger.url("/token"));
    guarded.answers(&["repository:b:pull"], foreign);
    gateway.get("/v2/b/manifests/x").await.refuses(502, "UNAVAILABLE");
    assert_eq!(stranger.connections(), 0);
}

#[tokio::test]
async fn a_foreign_realm_is_502_and_never_contacted() {
    let (registry, stranger) = (Upstream::start().await, Upstream::start().await);
    let port = stranger.address.port();
    for realm in [
        stranger.url("/token"),
        format!("http://localhost:{port}/token"),
        format!("http://{}@127.0.0.1:{port}/token", registry.address),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "https://evil.example/token".to_owned(),
        "file:///etc/passwd".to_owned(),
        "/token".to_owned(),
    ] {
        let gateway = Gateway::builder().upstream_with("up", "", registry.address, &account()).start().await;
        let challenge = format!("Bearer realm=\"{realm}\"");
        registry.expect("GET", MANIFEST, refusal(&challenge));
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
    }
    assert_eq!(stranger.connections(), 0);
    assert!(registry.heard_of("authorization").iter().all(Option::is_none));
}

#[tokio::test]
async fn a_realm_elsewhere_is_not_for_ever() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.registry.expect("GET", MANIFEST, refusal("Bearer realm=\"https://evil.example/token\""));
    gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
    tokio::time::sleep(limits::TOKEN_FAILED_PAUSE).await;
    guarded.registry.expect("GET", "/v2/", guarded.refusal(""));
    guarded.gives(PULL, &token("one"));
    guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
}

#[tokio::test]
async fn a_token_endpoint_that_has_moved_is_found_again() {
    let guarded = Guarded::start().await;
    let elsewhere = Upstream::start().await;
    let hosts = format!("[\"{}\", \"{}\"]", guarded.tokens.address, elsewhere.address);
    let lines = format!("realm_hosts = {hosts}\nretries = 0\n{}", account());
    let gateway = Gateway::builder().upstream_with("up", "", guarded.registry.address, &lines).start().await;
    warm(&guarded, &gateway, "old").await;
    let target = "/v2/b/manifests/x";
    guarded.answers(&["repository:b:pull"], Reply::status(404));
    let moved = format!("Bearer realm=\"{}\",service=\"registry\"", elsewhere.url("/token"));
    guarded.registry.expect("GET", "/v2/", refusal(&moved));
    elsewhere.expect("GET", asking(Some(ROBOT), &["repository:b:pull"]), gift(&token("new"), 300));
    guarded.registry.expect("GET", target, Reply::ok(EMPTY_INDEX));
    gateway.get(target).await.is(200);
    assert_eq!(guarded.shown().last(), Some(&bearer("new")));
}

#[tokio::test]
async fn a_realm_on_the_registrys_host_is_allowed() {
    let registry = Upstream::start().await;
    let gateway = Gateway::builder().upstream_with("up", "", registry.address, &account()).start().await;
    let challenge = format!("Bearer realm=\"{}\",service=\"registry\"", registry.url("/token?own=1"));
    registry.expect("GET", MANIFEST, refusal(&challenge));
    let asked = asking(Some(ROBOT), PULL).replace("/token?", "/token?own=1&");
    registry.expect("GET", asked, gift(&token("one"), 300));
    registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(registry.heard_of("authorization"), [None, robot(), bearer("one")]);
}

#[tokio::test]
async fn without_credentials_the_token_is_anonymous() {
    let guarded = Guarded::start().await;
    let gateway = Gateway::builder();
    let gateway = gateway.upstream_with("up", "", guarded.registry.address, &guarded.realm_hosts());
    let gateway = gateway.start().await;
    guarded.tokens.expect("GET", asking(None, PULL), gift(&token("public"), 300));
    guarded.guards("GET", MANIFEST, &[token("public")], Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(guarded.tokens.heard_of("authorization"), [None]);
}

#[tokio::test]
async fn basic_is_sent_preemptively_after_the_first_challenge() {
    let registry = Upstream::start().await;
    let gateway = Gateway::builder().upstream_with("up", "", registry.address, &account()).start().await;
    let challenge = "Basic realm=\"https://registry.example/\",service=\"ecr\"";
    registry.expect("GET", MANIFEST, refusal(challenge));
    for _ in 0..2 {
        registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
        gateway.get(MANIFEST).await.is(200);
    }
    assert_eq!(registry.heard_of("authorization"), [None, robot(), robot()]);
    registry.always("GET", MANIFEST, move |_| refusal(challenge));
    gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_registry_without_its_password_is_502() {
    let registry = Upstream::start().await;
    let gateway = Gateway::open(&registry).await;
    registry.expect("GET", MANIFEST, refusal("Basic realm=\"x\""));
    gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn challenges_are_read_however_they_are_written() {
    for write in [
        |realm: &str| format!("Basic realm=\"x\", Bearer realm=\"{realm}\",service=\"registry\""),
        |realm: &str| format!("Bearer realm=\"{realm}\", service=\"registry\", Basic realm=\"x\""),
        |realm: &str| format!("Negotiate, Bearer realm=\"{realm}\",service=\"registry\""),
        |realm: &str| format!("Bearer realm={realm},service=registry"),
        |realm: &str| format!("bEARER REALM=\"{realm}\" , Service = \"reg\\istry\""),
        // As registries and proxies have written it, though they may not.
        |realm: &str| format!("Bearer realm=\"{realm}\" service=\"registry\""),
        |realm: &str| format!("Bearer realm=\"{realm}\";service=\"registry\""),
        |realm: &str| format!("Bearer realm={realm}; service=registry"),
        |realm: &str| format!("Bearer realm=\"{realm}\",service=\"registry\",service=\"other\""),
        |realm: &str| format!("Bearer realm=\"{realm}\",service=\"registry"),
        |realm: &str| format!("Bearer realm=\"{realm},service=\"registry\""),
        |realm: &str| format!("Bearer realm=\"{realm}\",service=\"registry\",error_description=\"n\u{f8}\""),
        |realm: &str| format!("Bearer realm=\"{realm}\",service=\"registry\",{{x}}"),
    ] {
        let guarded = Guarded::start().await;
        let gateway = guarded.gateway().await;
        let challenge = write(&guarded.tokens.url("/token"));
        guarded.registry.expect("GET", MANIFEST, refusal(&challenge));
        guarded.gives(PULL, &token("one"));
        guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
        assert_eq!(gateway.get(MANIFEST).await.status, 200, "{challenge}");
        assert_eq!(guarded.shown(), [None, bearer("one")], "{challenge}");
    }
}

#[tokio::test]
async fn a_realm_that_is_there_twice_is_the_first() {
    let (guarded, stranger) = (Guarded::start().await, Upstream::start().await);
    let lines =
        format!("realm_hosts = [\"{}\", \"{}\"]\n{}", guarded.tokens.address, stranger.address, account());
    let gateway = Gateway::builder().upstream_with("up", "", guarded.registry.address, &lines).start().await;
    let challenge = format!("{},realm=\"{}\"", guarded.challenge(""), stranger.url("/token"));
    guarded.registry.expect("GET", MANIFEST, refusal(&challenge));
    guarded.gives(PULL, &token("one"));
    guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(stranger.connections(), 0);
}

#[tokio::test]
async fn a_registry_that_challenges_at_v2_is_asked_there() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.registry.expect("GET", MANIFEST, Reply::status(401));
    guarded.registry.expect("GET", "/v2/", guarded.refusal(""));
    guarded.gives(PULL, &token("one"));
    guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(guarded.shown(), [None, None, bearer("one")]);
}

#[tokio::test]
async fn a_401_without_any_challenge_is_502() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.registry.expect("GET", "/v2/", Reply::ok("{}"));
    for _ in 0..2 {
        guarded.registry.expect("GET", MANIFEST, Reply::status(401));
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn the_challenged_scope_is_requested() {
    for (challenged, scopes) in [
        (",scope=\"aws\"", &["aws"] as &[&str]),
        ("", PULL),
        (",scope=\"\"", PULL),
        (",scope=\"repository:group/a:pull,push\"", &["repository:a:pull", "repository:group/a:pull"]),
        (",scope=\"repository:a:pull,push,delete\"", PULL),
        (",scope=\"registry:catalog:*\"", PULL),
    ] {
        let guarded = Guarded::start().await;
        let gateway = guarded.gateway().await;
        guarded.registry.expect("GET", MANIFEST, guarded.refusal(challenged));
        guarded.gives(scopes, &token("one"));
        guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
        assert_eq!(gateway.get(MANIFEST).await.status, 200, "{challenged}");
    }
}

/// A gateway whose credentials are what a docker `config.json` has for the registry.
async fn with_docker_config(guarded: &Guarded, entry: &str) -> Gateway {
    let config = format!("{{\"auths\":{{\"{}\":{{{entry}}}}}}}", guarded.registry.address);
    let lines =
        format!("{}\n[upstream.credentials]\ndocker_config = \"config.json\"\n", guarded.realm_hosts());
    let builder = Gateway::builder().file("config.json", &config);
    builder.upstream_with("up", "", guarded.registry.address, &lines).start().await
}

#[tokio::test]
async fn an_identity_token_of_docker_is_exchanged_by_post() {
    let guarded = Guarded::start().await;
    let gateway = with_docker_config(&guarded, "\"identitytoken\":\"t0psecret+refresh/1\"").await;
    let mut asked = guarded.tokens.expect("POST", "/token", gift(&token("one"), 300));
    guarded.guards("GET", MANIFEST, &[token("one")], Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    let seen = asked.done().await;
    let form = String::from_utf8(seen.body).unwrap();
    assert_eq!(
        form,
        "grant_type=refresh_token&service=registry&client_id=dockgate&scope=repository%3Aa%3Apull\
         &refresh_token=t0psecret%2Brefresh%2F1"
    );
    assert_eq!(seen.headers.get("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(seen.headers.get("authorization"), None);
}

#[tokio::test]
async fn a_registry_token_of_docker_config_is_sent_unchanged() {
    let guarded = Guarded::start().await;
    let gateway = with_docker_config(&guarded, &format!("\"registrytoken\":\"{}\"", token("own"))).await;
    guarded.guards("GET", MANIFEST, &[token("own")], Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(guarded.shown(), [None, bearer("own")]);
    assert_eq!(guarded.tokens.connections(), 0);
}

#[tokio::test]
async fn a_password_of_docker_config_works() {
    let guarded = Guarded::start().await;
    let pair = BASE64_STANDARD.encode(format!("{ROBOT}:{PASSWORD}"));
    let gateway = with_docker_config(&guarded, &format!("\"auth\":\"{pair}\"")).await;
    warm(&guarded, &gateway, "one").await;
    assert_eq!(guarded.tokens.heard_of("authorization"), [robot()]);
}

#[tokio::test]
async fn a_password_of_docker_config_may_have_several_lines() {
    let pair = BASE64_STANDARD.encode(format!("_json_key:{KEY}"));
    let plain = format!("\"username\":\"_json_key\",\"password\":{}", serde_json::json!(KEY));
    for entry in [format!("\"auth\":\"{pair}\""), plain] {
        let guarded = Guarded::start().await;
        let gateway = with_docker_config(&guarded, &entry).await;
        guarded.registry.expect("GET", MANIFEST, guarded.refusal(""));
        guarded.tokens.expect("GET", asking(Some("_json_key"), PULL), gift(&token("one"), 300));
        guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
        gateway.get(MANIFEST).await.is(200);
        assert_eq!(guarded.tokens.heard_of("authorization"), [Some(basic("_json_key", KEY))]);
    }
}

/// Tells the process that runs the test below where its helper is.
const HELPERS: &str = "DOCKGATE_IT_HELPERS";

#[test]
fn a_credential_helper_supplies_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("docker-credential-it");
    let answer = serde_json::json!({ "ServerURL": "", "Username": "_json_key", "Secret": KEY });
    std::fs::write(dir.path().join("answer"), answer.to_string()).unwrap();
    let script =
        format!("#!/bin/sh\n[ \"$1\" = get ] && cat > \"${HELPERS}/asked\" && cat \"${HELPERS}/answer\"\n");
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tokens::with_a_helper_on_the_path", "--ignored", "--nocapture"])
        .env("PATH", path)
        .env(HELPERS, dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
    assert!(asked.trim().starts_with("127.0.0.1:"), "{asked}");
}

#[tokio::test]
#[ignore = "run by the test above, in a process that finds its helper"]
async fn with_a_helper_on_the_path() {
    let guarded = Guarded::start().await;
    let lines = format!("{}\n[upstream.credentials]\nhelper = \"it\"\n", guarded.realm_hosts());
    let gateway = Gateway::builder().upstream_with("up", "", guarded.registry.address, &lines).start().await;
    guarded.registry.expect("GET", MANIFEST, guarded.refusal(""));
    guarded.tokens.expect("GET", asking(Some("_json_key"), PULL), gift(&token("one"), 300));
    guarded.registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(guarded.tokens.heard_of("authorization"), [Some(basic("_json_key", KEY))]);
}

#[tokio::test]
async fn two_identities_never_share_a_token() {
    let guarded = Guarded::start().await;
    let users = "[[upstream.credentials.users]]\nusers = [\"alice\"]\nusername = \"special\"\n\
                 password = \"t0psecret-special\"\n";
    let builder = Gateway::builder().user("alice", "a").user("bob", "b").user("carol", "c");
    let lines = format!("{}\n{}{users}", guarded.realm_hosts(), account());
    let gateway = builder.upstream_with("up", "", guarded.registry.address, &lines).start().await;
    guarded.gives(PULL, &token("robots"));
    let specials = asking(Some("special"), PULL);
    guarded.tokens.expect("GET", specials, gift(&token("specials"), 300));
    guarded.guards("GET", MANIFEST, &[token("robots"), token("specials")], Reply::ok(EMPTY_INDEX));
    for (user, password) in [("alice", "a"), ("bob", "b"), ("carol", "c"), ("alice", "a"), ("bob", "b")] {
        gateway.ask(Request::get(MANIFEST).login(user, password)).await.is(200);
    }
    let robots = bearer("robots");
    let specials = bearer("specials");
    let shown = [None, specials.clone(), robots.clone(), robots.clone(), specials, robots];
    assert_eq!(guarded.shown(), shown);
    let asked = guarded.tokens.heard_of("authorization");
    assert_eq!(asked, [Some(basic("special", "t0psecret-special")), robot()]);
}

#[tokio::test]
async fn a_rate_limit_stays_one() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let limits = |reply: Reply, left: &str| {
        let reply = reply.header("ratelimit-limit", "100;w=21600").header("ratelimit-remaining", left);
        reply.header("docker-ratelimit-source", "192.0.2.1")
    };
    guarded.gives(PULL, &token("one"));
    let refused = limits(Reply::status(429).header("Retry-After", "60"), "0;w=21600").body("Too Many");
    guarded.registry.expect("GET", MANIFEST, guarded.refusal(""));
    guarded.registry.expect("GET", MANIFEST, limits(Reply::ok(EMPTY_INDEX), "76;w=21600"));
    gateway.get(MANIFEST).await.is(200);
    guarded.registry.expect("GET", MANIFEST, refused);
    let answer = gateway.get(MANIFEST).await.refuses(429, "TOOMANYREQUESTS");
    assert_eq!(answer.header("retry-after"), Some("60"));
}

#[tokio::test]
async fn a_leaving_client_does_not_cancel_the_token() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let gate = Gate::shut();
    let mut asked = guarded.answers(PULL, gift(&token("one"), 300).held(&gate));
    guarded.guards("GET", MANIFEST, &[token("one")], Reply::ok(EMPTY_INDEX));
    let (mut leaves, mut stays): (Client, Client) = (gateway.connect().await, gateway.connect().await);
    leaves.send(Request::get(MANIFEST).bytes("localhost")).await;
    asked.arrived().await;
    stays.send(Request::get(MANIFEST).bytes("localhost")).await;
    // Until the second waits for the same token: that which no client waits for is not fetched.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    drop(leaves);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    gate.open();
    stays.answer().await.is(200);
    assert!(token("one").starts_with(MARK));
}
