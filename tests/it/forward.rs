//! Clients whose names and passwords the upstream judges.

use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::harness::{Answer, Builder, EMPTY_INDEX, Gate, Gateway, Headers, Reply, Request, Upstream};

const PLAIN_401: &str =
    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;
const FORWARD: &str = "credentials.forward = true\nretries = 0";
const MANIFEST: &str = "/v2/a/manifests/x";

/// Starts a gateway in front of one upstream, whose users may do everything.
fn in_front_of(upstream: &Upstream) -> Builder {
    knows_no_stranger(upstream);
    let builder = Gateway::builder().upstream_with("up", "", upstream.address, FORWARD);
    builder.rule(&["forward/up:*"], &["**"], &["*"])
}

async fn started() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream).start().await;
    (upstream, gateway)
}

fn wants_token(upstream: &Upstream) -> Reply {
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"reg\"", upstream.address);
    Reply::status(401).header("WWW-Authenticate", &challenge)
}

fn wants_password() -> Reply {
    Reply::status(401).header("WWW-Authenticate", "Basic realm=\"reg\"")
}

fn token(token: &str) -> Reply {
    Reply::ok(format!("{{\"token\":\"{token}\",\"expires_in\":300}}"))
}

fn for_pulling(user: &str) -> String {
    format!("/token?account={user}&service=reg&scope=repository%3Aa%3Apull")
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn alice(request: Request) -> Request {
    request.login("alice", "secret")
}

/// The upstream knows this client by its token endpoint's word.
fn knows(upstream: &Upstream, user: &str) {
    upstream.expect("GET", "/v2/", wants_token(upstream));
    upstream.expect("GET", format!("/token?account={user}&service=reg"), token(&format!("login-{user}")));
    upstream.expect("GET", "/v2/", Reply::ok("{}"));
}

/// Lets the token endpoint refuse the gateway's invented user.
fn knows_no_stranger(upstream: &Upstream) {
    upstream.always("GET", "/token?account=dockgate*", |_| Reply::status(401));
}

/// Lets it refuse.
fn refuses(upstream: &Upstream, user: &str) {
    upstream.expect("GET", "/v2/", wants_token(upstream));
    upstream.expect("GET", format!("/token?account={user}&service=reg"), Reply::status(401));
}

/// A client's 401, to the byte.
#[track_caller]
fn is_refused(answer: Answer) {
    let answer = answer.is(401);
    assert_eq!(answer.text(), PLAIN_401);
    assert_eq!(answer.headers.all("www-authenticate"), ["Basic realm=\"dockgate\""]);
}

#[tokio::test]
async fn a_forwarded_client_acts_as_itself() {
    let (upstream, gateway) = started().await;
    is_refused(gateway.get("/v2/").await);
    assert_eq!(upstream.connections(), 0, "no password was sent");

    let mut first = upstream.expect("GET", "/v2/", wants_token(&upstream));
    let mut asked = upstream.expect("GET", "/token?account=alice&service=reg", token("login"));
    let mut second = upstream.expect("GET", "/v2/", Reply::ok("{}"));
    gateway.ask(alice(Request::get("/v2/"))).await.is(200);
    assert_eq!(first.done().await.headers.get("authorization"), None);
    let shown = asked.done().await.headers;
    assert_eq!(shown.get("authorization"), Some(basic("alice", "secret").as_str()));
    assert_eq!(second.done().await.headers.get("authorization"), Some("Bearer login"));

    upstream.expect("GET", for_pulling("alice"), token("pull"));
    let mut pulled = upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.ask(alice(Request::get(MANIFEST))).await.is(200);
    assert_eq!(pulled.done().await.headers.get("authorization"), Some("Bearer pull"));
}

#[tokio::test]
async fn a_client_logs_in_by_basic() {
    let (upstream, gateway) = started().await;
    upstream.expect("GET", "/v2/", wants_password());
    let mut judged = upstream.expect("GET", "/v2/", Reply::ok("{}"));
    upstream.expect("GET", "/v2/", wants_password());
    let mut pulled = upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.ask(alice(Request::get(MANIFEST))).await.is(200);
    for exchange in [&mut judged, &mut pulled] {
        let shown = exchange.done().await.headers;
        assert_eq!(shown.get("authorization"), Some(basic("alice", "secret").as_str()));
    }
}

#[tokio::test]
async fn a_forwarded_password_may_have_several_lines() {
    let (upstream, gateway) = started().await;
    let key = "{\n  \"type\": \"service_account\",\r\n\t\"private_key\": \"secret\"\n}\n";
    upstream.expect("GET", "/v2/", wants_password());
    let mut judged = upstream.expect("GET", "/v2/", Reply::ok("{}"));
    upstream.expect("GET", "/v2/", wants_password());
    upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.ask(Request::get(MANIFEST).login("_json_key", key)).await.is(200);
    assert_eq!(judged.done().await.headers.get("authorization"), Some(basic("_json_key", key).as_str()));
}

#[tokio::test]
async fn a_wrong_forwarded_password_is_401_and_asked_once() {
    let (upstream, gateway) = started().await;
    refuses(&upstream, "alice");
    for _ in 0..3 {
        is_refused(gateway.ask(Request::get("/v2/").login("alice", "wrong")).await);
    }
    upstream.expect("GET", "/v2/", wants_password());
    upstream.expect("GET", "/v2/", wants_password());
    for _ in 0..3 {
        is_refused(gateway.ask(Request::get("/v2/").login("alice", "worse")).await);
    }
}

#[tokio::test]
async fn names_in_htpasswd_are_never_forwarded() {
    let upstream = Upstream::start().await;
    let builder = in_front_of(&upstream).user("bob", "hunter2").rule(&["bob"], &["a"], &["pull"]);
    let gateway = builder.start().await;
    let bob = |request: Request, password: &str| request.login("bob", password);
    gateway.ask(bob(Request::get("/v2/"), "hunter2")).await.is(200);
    is_refused(gateway.ask(bob(Request::get("/v2/"), "wrong")).await);
    assert_eq!(upstream.connections(), 0);
    let mut pulled = upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.ask(bob(Request::get(MANIFEST), "hunter2")).await.is(200);
    assert_eq!(pulled.done().await.headers.get("authorization"), None, "nor is a login sent");
    knows(&upstream, "alice");
    gateway.ask(alice(Request::get("/v2/"))).await.is(200);
}

#[tokio::test]
async fn an_open_upstream_accepts_no_forwarded_login() {
    let (upstream, gateway) = started().await;
    for _ in 0..2 {
        upstream.expect("GET", "/v2/", Reply::ok("{}"));
        gateway.ask(alice(Request::get("/v2/"))).await.refuses(502, "UNAVAILABLE");
    }
    // One that asks for credentials elsewhere alone does not look at them there.
    let upstream = Upstream::start().await;
    let builder = in_front_of(&upstream).rule(&["anonymous"], &["a"], &["pull"]);
    let gateway = builder.start().await;
    upstream.expect("GET", MANIFEST, wants_password());
    gateway.get(MANIFEST).await.refuses(401, "UNAUTHORIZED");
    upstream.expect("GET", "/v2/", Reply::ok("{}"));
    gateway.ask(alice(Request::get("/v2/"))).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn an_unreachable_upstream_is_no_wrong_password() {
    let (upstream, gateway) = started().await;
    let ask = || gateway.ask(alice(Request::get("/v2/")));
    upstream.expect("GET", "/v2/", Reply::close());
    ask().await.refuses(502, "UNAVAILABLE");
    upstream.expect("GET", "/v2/", Reply::status(401));
    ask().await.refuses(502, "UNAVAILABLE");
    upstream.expect("GET", "/v2/", Reply::status(503));
    ask().await.refuses(502, "UNAVAILABLE");
    for (asked, told) in [("9", "9"), ("86400", "60")] {
        upstream.expect("GET", "/v2/", Reply::status(429).header("Retry-After", asked));
        let answer = ask().await.refuses(429, "TOOMANYREQUESTS");
        assert_eq!(answer.header("retry-after"), Some(told));
    }
    upstream.expect("GET", "/v2/", wants_token(&upstream));
    let limited = Reply::status(429).header("Retry-After", "7");
    upstream.expect("GET", "/token?account=alice&service=reg", limited);
    let answer = ask().await.refuses(429, "TOOMANYREQUESTS");
    assert_eq!(answer.header("retry-after"), Some("7"));
    knows(&upstream, "bob");
    gateway.ask(Request::get("/v2/").login("bob", "secret")).await.is(200);
}

#[tokio::test]
async fn a_rejected_token_is_no_wrong_password() {
    let (upstream, gateway) = started().await;
    let rejects = format!("Bearer realm=\"http://{}/token\",service=\"reg\"", upstream.address);
    let rejects = rejects + ",error=\"invalid_token\"";
    upstream.expect("GET", "/token?account=alice&service=reg", token("login"));
    upstream.expect("GET", "/v2/", wants_token(&upstream));
    upstream.expect("GET", "/v2/", Reply::status(401).header("WWW-Authenticate", &rejects));
    gateway.ask(alice(Request::get("/v2/"))).await.refuses(502, "UNAVAILABLE");
    for _ in 0..12 {
        // Neither remembered as wrong nor counted, though the token endpoint is left alone for a while.
        upstream.expect("GET", "/v2/", wants_token(&upstream));
        gateway.ask(alice(Request::get("/v2/"))).await.refuses(502, "UNAVAILABLE");
    }
    knows(&upstream, "bob");
    gateway.ask(Request::get("/v2/").login("bob", "secret")).await.is(200);
}

/// The basic logins so far that the upstream was asked about, in their order.
fn logins(upstream: &Upstream) -> Vec<(String, String)> {
    let shown = upstream.heard_of("authorization").into_iter().flatten();
    let pair = |line: String| {
        let bytes = BASE64_STANDARD.decode(line.strip_prefix("Basic ").unwrap()).unwrap();
        let (name, password) = std::str::from_utf8(&bytes).unwrap().split_once(':').unwrap();
        (name.to_owned(), password.to_owned())
    };
    shown.map(pair).collect()
}

#[tokio::test]
async fn an_upstream_that_takes_any_password_is_no_judge() {
    let (upstream, gateway) = started().await;
    upstream.expect("GET", "/v2/", wants_password());
    for _ in 0..3 {
        upstream.expect("GET", "/v2/", Reply::ok("{}"));
    }
    for _ in 0..2 {
        // The second time it is known.
        gateway.ask(alice(Request::get("/v2/"))).await.refuses(502, "UNAVAILABLE");
    }
    let logins = logins(&upstream);
    assert_eq!(logins[0], ("alice".to_owned(), "secret".to_owned()));
    assert!(logins[1].0 != "alice" && logins[1].1 == "secret", "{logins:?}");
    assert!(logins[2].0 != "alice" && logins[2].0 != logins[1].0 && logins[2].1 != "secret", "{logins:?}");
}

/// Lets the upstream check the name beside a password, as Gitea and GitLab do, and ignore it beside an access token.
fn checks_names_beside_passwords_alone(upstream: &Upstream) {
    let knows = |headers: &Headers| {
        let shown = headers.get("authorization").unwrap_or_default();
        let pair = BASE64_STANDARD.decode(shown.strip_prefix("Basic ").unwrap_or_default()).unwrap();
        let pair = String::from_utf8(pair).unwrap();
        ["alice:secret", "mallory:secret2"].contains(&&*pair) || pair.ends_with(":mallorys-token")
    };
    for method in ["GET", "HEAD"] {
        upstream.always(method, "/v2/*", move |headers| match knows(headers) {
            true => Reply::ok(EMPTY_INDEX).header("Content-Type", "application/vnd.oci.image.index.v1+json"),
            false => wants_password(),
        });
    }
}

#[tokio::test]
async fn a_token_logs_in_under_no_other_name() {
    for cache in [false, true] {
        let upstream = Upstream::start().await;
        checks_names_beside_passwords_alone(&upstream);
        let lines = [FORWARD, if cache { "\n[upstream.cache]" } else { "" }].concat();
        let builder = Gateway::builder().upstream_with("up", "", upstream.address, &lines);
        let builder = builder.rule(&["forward/up:alice"], &["**"], &["*"]);
        let gateway = if cache { builder.cache("") } else { builder }.start().await;
        gateway.ask(alice(Request::get(MANIFEST))).await.is(200);
        for target in [MANIFEST, "/v2/"] {
            let answer = gateway.ask(Request::get(target).login("alice", "mallorys-token")).await;
            let answer = answer.refuses(502, "UNAVAILABLE");
            assert_eq!(answer.header("x-cache"), None);
            assert!(answer.text().contains("under any name"), "{}", answer.text());
        }
        gateway.ask(alice(Request::get(MANIFEST))).await.is(200);
    }
}

#[tokio::test]
async fn an_unproved_login_shuts_no_other_client_out() {
    let (upstream, gateway) = started().await;
    checks_names_beside_passwords_alone(&upstream);
    let ask = |user: &str, password: &str| gateway.ask(Request::get(MANIFEST).login(user, password));
    for name in ["alice", "mallory"] {
        ask(name, "mallorys-token").await.refuses(502, "UNAVAILABLE");
    }
    ask("alice", "secret").await.is(200);
    ask("mallory", "secret2").await.is(200);
    upstream.forget_heard();
    ask("mallory", "mallorys-token").await.refuses(502, "UNAVAILABLE");
    assert_eq!(upstream.heard().len(), 0, "the pair is known");
}

#[tokio::test]
async fn an_upstream_that_ignores_names_is_no_judge() {
    let (upstream, gateway) = started().await;
    for user in ["alice", "bob"] {
        upstream.expect("GET", "/v2/", wants_password());
        upstream.expect("GET", "/v2/", Reply::ok("{}"));
        upstream.expect("GET", "/v2/", Reply::ok("{}"));
        upstream.expect("GET", "/v2/", wants_password());
        gateway.ask(Request::get("/v2/").login(user, "secret")).await.refuses(502, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn each_new_login_is_tested_with_its_own_password() {
    let (upstream, gateway) = started().await;
    upstream.expect("GET", "/v2/", wants_password());
    upstream.expect("GET", "/v2/", wants_password());
    is_refused(gateway.ask(alice(Request::get("/v2/"))).await);
    for user in ["bob", "carol"] {
        let password = format!("secret of {user}");
        upstream.expect("GET", "/v2/", wants_password());
        upstream.expect("GET", "/v2/", Reply::ok("{}"));
        upstream.expect("GET", "/v2/", wants_password());
        for _ in 0..2 {
            gateway.ask(Request::get("/v2/").login(user, &password)).await.is(200);
        }
        let logins = logins(&upstream);
        let tested = logins.last().unwrap();
        assert!(tested.0.starts_with("dockgate") && tested.1 == password, "{logins:?}");
    }
}

#[tokio::test]
async fn a_running_login_does_not_outlive_its_upstream() {
    let (upstream, gateway) = started().await;
    let gate = Gate::shut();
    upstream.expect("GET", "/v2/", wants_token(&upstream));
    let mut asked = upstream.expect("GET", "/token?account=alice&service=reg", token("login").held(&gate));
    let mut client = gateway.connect().await;
    client.send(alice(Request::get("/v2/")).bytes("localhost")).await;
    asked.arrived().await;
    gateway.reconfigure("retries = 0", "retries = 1");
    refuses(&upstream, "alice");
    is_refused(gateway.ask(alice(Request::get("/v2/"))).await);
    upstream.expect("GET", "/v2/", Reply::ok("{}"));
    gate.open();
    client.answer().await.is(200);
    is_refused(gateway.ask(alice(Request::get("/v2/"))).await);
}

#[tokio::test]
async fn a_gateway_that_forwards_to_itself_says_so() {
    let (upstream, gateway) = started().await;
    gateway.reconfigure(&upstream.address.to_string(), &gateway.address.to_string());
    gateway.ask(alice(Request::get("/v2/"))).await.refuses(508, "UNAVAILABLE");
}

#[tokio::test]
async fn a_silent_upstream_makes_a_login_504() {
    let upstream = Upstream::start().await;
    let lines = format!("{FORWARD}\nresponse_timeout = \"200ms\"");
    knows_no_stranger(&upstream);
    let builder = Gateway::builder().upstream_with("up", "", upstream.address, &lines);
    let gateway = builder.rule(&["forward/up:*"], &["**"], &["*"]).start().await;
    upstream.expect("GET", "/v2/", Reply::never());
    gateway.ask(alice(Request::get("/v2/"))).await.refuses(504, "UNAVAILABLE");
}

#[tokio::test]
async fn a_forwarded_client_counts_at_its_upstream_alone() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    knows_no_stranger(&one);
    let gateway = Gateway::builder()
        .upstream_with("one", "one", one.address, &format!("{FORWARD}\nhosts = [\"one.example\"]"))
        .upstream("two", "two", two.address)
        .rule(&["forward/one:*"], &["**"], &["*"])
        .start()
        .await;
    let at_one = |target: &str| alice(Request::get(target)).header("Host", "one.example");
    is_refused(gateway.ask(alice(Request::get("/v2/"))).await);
    assert_eq!(one.connections() + two.connections(), 0, "no upstream judges at that host");

    knows(&one, "alice");
    gateway.ask(at_one("/v2/")).await.is(200);
    one.expect("GET", for_pulling("alice"), token("pull"));
    one.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.ask(at_one(MANIFEST)).await.is(200);
    is_refused(gateway.ask(alice(Request::get("/v2/"))).await);

    // The other upstream is nothing to a stranger there.
    for ns in ["two", "absent"] {
        gateway.ask(at_one(&format!("/v2/a/manifests/x?ns={ns}"))).await.refuses(403, "DENIED");
        gateway.ask(at_one(&format!("/v2/_catalog?ns={ns}"))).await.refuses(404, "NAME_UNKNOWN");
    }
    let catalog = "/token?account=alice&service=reg&scope=registry%3Acatalog%3A%2A";
    one.expect("GET", catalog, token("catalog"));
    one.expect("GET", "/v2/_catalog?n=100", Reply::ok(r#"{"repositories":["a"]}"#));
    assert_eq!(gateway.ask(at_one("/v2/_catalog")).await.is(200).text(), r#"{"repositories":["a"]}"#);
    assert_eq!(two.connections(), 0);
}

#[tokio::test]
async fn a_star_in_a_rule_matches_no_forwarded_user() {
    let upstream = Upstream::start().await;
    knows_no_stranger(&upstream);
    let builder = Gateway::builder().upstream_with("up", "", upstream.address, FORWARD);
    let builder = builder.rule(&["*-admin", "f*", "?orward/up?evil-admin"], &["**"], &["*"]);
    let gateway = builder.rule(&["forward/up:good-*"], &["a"], &["pull"]).start().await;
    for name in ["evil-admin", "good-admin"] {
        knows(&upstream, name);
    }
    let ask = |name: &str| gateway.ask(Request::get(MANIFEST).login(name, "secret"));
    ask("evil-admin").await.refuses(403, "DENIED");
    upstream.expect("GET", for_pulling("good-admin"), token("pull"));
    upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    ask("good-admin").await.is(200);
}

#[tokio::test]
async fn a_hundred_at_once_are_one_login() {
    let (upstream, gateway) = started().await;
    let gate = Gate::shut();
    upstream.expect("GET", "/v2/", wants_token(&upstream));
    let mut asked = upstream.expect("GET", "/token?account=alice&service=reg", token("login").held(&gate));
    upstream.expect("GET", "/v2/", Reply::ok("{}"));
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = gateway.connect().await;
        client.send(alice(Request::get("/v2/")).bytes("localhost")).await;
        clients.push(client);
    }
    asked.arrived().await;
    gate.open();
    for mut client in clients {
        client.answer().await.is(200);
    }
}

#[tokio::test]
async fn guessing_is_throttled_before_the_upstream() {
    let (upstream, gateway) = started().await;
    for guess in 0..10 {
        refuses(&upstream, "alice");
        is_refused(gateway.ask(Request::get("/v2/").login("alice", &format!("guess{guess}"))).await);
    }
    let answer = gateway.ask(Request::get("/v2/").login("alice", "guess")).await;
    let answer = answer.refuses(429, "TOOMANYREQUESTS");
    assert!(answer.header("retry-after").is_some());
    for name in ["anonymous", "a*", ""] {
        is_refused(gateway.ask(Request::get("/v2/").login(name, "x")).await);
    }
    is_refused(gateway.ask(Request::get("/v2/").login("bob", "")).await);
}

#[tokio::test]
async fn two_clients_never_share_a_token_nor_an_upload() {
    let (upstream, gateway) = started().await;
    for user in ["alice", "bob"] {
        knows(&upstream, user);
        upstream.expect("GET", for_pulling(user), token(&format!("pull-{user}")));
        let mut pulled = upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
        gateway.ask(Request::get(MANIFEST).login(user, "secret")).await.is(200);
        let shown = pulled.done().await.headers;
        assert_eq!(shown.get("authorization"), Some(format!("Bearer pull-{user}").as_str()));
    }
    let push = "/token?account=alice&service=reg&scope=repository%3Aa%3Apull%2Cpush";
    upstream.expect("GET", push, token("push"));
    let begun = Reply::status(202).header("Location", "/v2/a/blobs/uploads/1");
    upstream.expect("POST", "/v2/a/blobs/uploads/", begun);
    let answer = gateway.ask(alice(Request::post("/v2/a/blobs/uploads/"))).await.is(202);
    let upload = answer.header("location").unwrap();
    gateway.ask(Request::patch(upload).login("bob", "secret").body("x")).await.is(404);
}

#[tokio::test]
async fn an_anonymous_client_sends_no_credentials_on() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream).rule(&["anonymous"], &["a"], &["pull"]).start().await;
    knows(&upstream, "alice");
    gateway.ask(alice(Request::get("/v2/"))).await.is(200);
    let target = "/token?service=reg&scope=repository%3Aa%3Apull";
    let mut asked = upstream.expect("GET", target, token("anyone"));
    let mut pulled = upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(asked.done().await.headers.get("authorization"), None);
    assert_eq!(pulled.done().await.headers.get("authorization"), Some("Bearer anyone"));
}

#[tokio::test]
async fn a_password_refused_midway_is_judged_again() {
    let (upstream, gateway) = started().await;
    let login = |judged: Reply| {
        upstream.expect("GET", "/v2/", wants_password());
        upstream.expect("GET", "/v2/", judged);
    };
    login(Reply::ok(EMPTY_INDEX));
    upstream.expect("GET", "/v2/", wants_password());
    upstream.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.ask(alice(Request::get(MANIFEST))).await.is(200);
    upstream.expect("GET", MANIFEST, wants_password());
    gateway.ask(alice(Request::get(MANIFEST))).await.refuses(401, "UNAUTHORIZED");
    login(wants_password());
    gateway.ask(alice(Request::get(MANIFEST))).await.refuses(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn an_earlier_token_proves_no_later_login() {
    let (upstream, gateway) = started().await;
    knows(&upstream, "alice");
    upstream.expect("GET", for_pulling("alice"), Reply::status(401));
    upstream.expect("GET", "/token?account=alice&service=reg", Reply::status(401));
    gateway.ask(alice(Request::get(MANIFEST))).await.refuses(401, "UNAUTHORIZED");
    // Asked without a password, and with one it was asked a moment ago.
    upstream.expect("GET", "/v2/", wants_token(&upstream));
    gateway.ask(alice(Request::get(MANIFEST))).await.refuses(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn another_upstream_of_the_same_name_is_asked_anew() {
    let (upstream, gateway) = started().await;
    knows(&upstream, "alice");
    gateway.ask(alice(Request::get("/v2/"))).await.is(200);
    gateway.reconfigure("retries = 0", "retries = 1");
    refuses(&upstream, "alice");
    is_refused(gateway.ask(alice(Request::get("/v2/"))).await);
    gateway.reconfigure(
        "[[upstream]]",
        "[[access]]\nusers = [\"anonymous\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n\n[[upstream]]",
    );
    gateway.reconfigure("credentials.forward = true", "");
    gateway.get("/v2/").await.is(200);
    is_refused(gateway.ask(alice(Request::get("/v2/"))).await);
}

const RIGHT: &str = "r1ght-f0rwarded";
const WRONG: &str = "wr0ng-f0rwarded";

#[test]
fn the_log_names_the_client_and_never_its_password() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "forward::what_is_logged", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}{}", String::from_utf8_lossy(&output.stdout));
    assert!(log.contains("forward/up:alice"), "{log}");
    assert!(log.contains(" 401 failed_login=alice client="), "{log}");
    assert!(log.contains("remove upstream.credentials.forward"), "{log}");
    for password in [RIGHT, WRONG] {
        let encoded = BASE64_STANDARD.encode(format!("alice:{password}"));
        for secret in [password, &encoded, "login-alice"] {
            assert_eq!(log.lines().find(|line| line.contains(secret)), None, "{secret} was logged");
        }
    }
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own whose log it reads"]
async fn what_is_logged() {
    let upstream = Upstream::start().await;
    let gateway = in_front_of(&upstream).logging("trace,h2=trace").start().await;
    let ask = |password: &str| gateway.ask(Request::get("/v2/").login("alice", password));
    upstream.expect("GET", "/v2/", Reply::ok("{}"));
    ask(RIGHT).await.is(502);
    knows(&upstream, "alice");
    ask(RIGHT).await.is(200);
    refuses(&upstream, "alice");
    ask(WRONG).await.is(401);
    upstream.expect("GET", for_pulling("alice"), Reply::status(401));
    upstream.expect("GET", "/token?account=alice&service=reg", Reply::status(401));
    gateway.ask(Request::get(MANIFEST).login("alice", RIGHT)).await.is(401);
    dockgate::internals::telemetry::flush();
}
