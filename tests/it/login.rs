//! Logging in and being allowed: the bytes of every refusal.

use crate::harness::{EMPTY_INDEX, Gateway, OCI_IMAGE, Reply, Request, Upstream, sha256};

const REALM: &str = "Basic realm=\"dockgate\"";
const PLAIN_401: &str =
    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;

/// alice may do everything.
async fn closed() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    (upstream, gateway)
}

/// Rules: alice reads and writes in team, bob only writes there, and an anonymous client reads public.
async fn ruled() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .user("bob", "hunter2")
        .rule(&["alice"], &["team/**"], &["pull", "push"])
        .rule(&["bob"], &["team/**"], &["push"])
        .rule(&["anonymous"], &["public/*"], &["pull"])
        .upstream("up", "", upstream.address)
        .start()
        .await;
    (upstream, gateway)
}

#[tokio::test]
async fn v2_without_credentials_is_401_with_one_challenge() {
    let (_upstream, gateway) = closed().await;
    let answer = gateway.get("/v2/").await.is(401);
    assert_eq!(answer.text(), PLAIN_401);
    assert_eq!(answer.headers.all("www-authenticate"), [REALM]);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    assert_eq!(answer.header("content-length"), Some(PLAIN_401.len().to_string().as_str()));
}

#[tokio::test]
async fn a_401_to_head_has_no_body() {
    let (_upstream, gateway) = closed().await;
    let mut client = gateway.connect().await;
    for target in ["/v2/", "/v2/a/manifests/x"] {
        let answer = client.ask(&Request::head(target)).await.is(401);
        assert_eq!(answer.header("www-authenticate"), Some(REALM));
    }
    client.ask(&Request::get("/v2/").login("alice", "secret")).await.is(200);
}

#[tokio::test]
async fn a_401_names_the_accesses_needed() {
    let (upstream, gateway) = closed().await;
    let access =
        |action: &str| format!(r#"{{"Type":"repository","Class":"","Name":"a/b","Action":"{action}"}}"#);
    let digest = sha256(b"");
    let cases = [
        ("GET", "/v2/a/b/manifests/x".to_owned(), access("pull")),
        ("GET", "/v2/a/b/tags/list".to_owned(), access("pull")),
        ("POST", "/v2/a/b/blobs/uploads/".to_owned(), [access("pull"), access("push")].join(",")),
        ("DELETE", format!("/v2/a/b/blobs/{digest}"), access("delete")),
    ];
    for (method, target, detail) in cases {
        let answer = gateway.ask(Request::new(method, target)).await.is(401);
        assert_eq!(answer.text(), PLAIN_401.replace("null", &format!("[{detail}]")), "{method}");
        assert_eq!(answer.headers.all("www-authenticate"), [REALM]);
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn refusals_do_not_reveal_what_exists() {
    let (_upstream, gateway) = ruled().await;
    let there = gateway.get("/v2/team/app/manifests/x").await.is(401).text();
    let nowhere = gateway.get("/v2/none/app/manifests/x").await.is(401).text();
    assert_eq!(there.replace("team", "none"), nowhere);
}

#[tokio::test]
async fn wrong_names_and_passwords_get_the_same_401() {
    let (_upstream, gateway) = closed().await;
    for (user, password) in [("alice", "wrong"), ("nobody", "secret"), ("", ""), ("alice", "secret2")] {
        let answer = gateway.ask(Request::get("/v2/").login(user, password)).await.is(401);
        assert_eq!(answer.text(), PLAIN_401);
        assert_eq!(answer.headers.all("www-authenticate"), [REALM]);
    }
    let of = |user: &'static str, password: &'static str| {
        gateway.ask(Request::get("/v2/a/manifests/x").login(user, password))
    };
    assert_eq!(of("alice", "wrong").await.is(401).text(), of("ghost", "wrong").await.is(401).text());
}

#[tokio::test]
async fn malformed_credentials_are_wrong() {
    let (_upstream, gateway) = closed().await;
    let values =
        ["Basic", "Basic !!!", "Basic YWxpY2U=", "Bearer abc", "Negotiate x", "YWxpY2U6c2VjcmV0", ""];
    for value in values {
        let answer = gateway.ask(Request::get("/v2/").header("Authorization", value)).await;
        assert_eq!((answer.status, answer.text().as_str()), (401, PLAIN_401), "{value:?}");
    }
}

#[tokio::test]
async fn two_authorization_fields_are_refused() {
    let (_upstream, gateway) = closed().await;
    let right = Request::get("/v2/").login("alice", "secret");
    gateway.ask(right.clone().login("alice", "secret")).await.is(400);
    gateway.ask(right.login("alice", "wrong")).await.is(400);
}

#[tokio::test]
async fn a_wrong_password_does_not_block_the_right_one() {
    let (upstream, gateway) = closed().await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        client.ask(&Request::get("/v2/").login("alice", "wrong")).await.is(401);
        client.ask(&Request::get("/v2/").login("alice", "secret")).await.is(200);
    }
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    client.ask(&Request::get("/v2/a/manifests/x").login("alice", "secret")).await.is(200);
}

#[tokio::test]
async fn the_scheme_ignores_case_and_passwords_hold_colons() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("al", ":p:w");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    gateway.ask(Request::get("/v2/").login("al", ":p:w")).await.is(200);
    gateway.ask(Request::get("/v2/").header("authorization", "bAsIc YWw6OnA6dw==")).await.is(200);
}

#[tokio::test]
async fn guessing_is_slowed_down_with_429() {
    let (_upstream, gateway) = closed().await;
    let guess = |number: u32| Request::get("/v2/").login("alice", &format!("guess{number}"));
    let mut client = gateway.connect().await;
    let mut number = 0;
    let refused = loop {
        let answer = client.ask(&guess(number)).await;
        if answer.status == 429 {
            break answer;
        }
        answer.is(401);
        number += 1;
        assert!(number < 50, "nothing slows guessing down");
    };
    assert_eq!(refused.code(), "TOOMANYREQUESTS");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(refused.header("www-authenticate"), None);
    // Another name from there is not locked out.
    client.ask(&Request::get("/v2/").login("bob", "x")).await.is(401);
}

#[tokio::test]
async fn guessing_does_not_log_the_user_out() {
    let (_upstream, gateway) = closed().await;
    let right = Request::get("/v2/").login("alice", "secret");
    gateway.ask(right.clone()).await.is(200);
    for number in 0..12 {
        gateway.ask(Request::get("/v2/").login("alice", &format!("guess{number}"))).await;
    }
    gateway.ask(right).await.is(200);
}

#[tokio::test]
async fn denied_requests_never_reach_the_upstream() {
    let (upstream, gateway) = ruled().await;
    let cases = [
        ("GET", "/v2/other/app/manifests/x", "pull other/app"),
        ("DELETE", "/v2/team/app/manifests/x", "delete team/app"),
        ("POST", "/v2/public/app/blobs/uploads/", "push public/app"),
        ("GET", "/v2/teamx/app/manifests/x", "pull teamx/app"),
        ("GET", "/v2/_catalog", "catalog"),
    ];
    for (method, target, missing) in cases {
        let answer = gateway.ask(Request::new(method, target).login("alice", "secret")).await;
        let answer = answer.refuses(403, "DENIED");
        assert!(answer.text().contains(missing), "{method} {target}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate"), None);
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn public_repositories_need_no_login() {
    let (upstream, gateway) = ruled().await;
    let get = || Request::get("/v2/public/app/manifests/x");
    for request in [get(), get().login("bob", "hunter2")] {
        upstream.expect("GET", "/v2/public/app/manifests/x", Reply::ok(EMPTY_INDEX));
        gateway.ask(request).await.is(200);
    }
    gateway.ask(get().login("bob", "wrong")).await.is(401);
    gateway.get("/v2/").await.is(401);
    gateway.get("/v2/public/app/deeper/manifests/x").await.is(401);
    gateway.ask(Request::put("/v2/public/app/manifests/x").body("{}")).await.is(401);
}

#[tokio::test]
async fn push_without_pull_allows_head_only() {
    let (upstream, gateway) = ruled().await;
    let digest = sha256(b"x");
    let bob = |request: Request| request.login("bob", "hunter2");
    for target in [format!("/v2/team/app/blobs/{digest}"), "/v2/team/app/manifests/x".to_owned()] {
        let reply = Reply::ok("x").header("Content-Type", OCI_IMAGE);
        upstream.expect("HEAD", target.as_str(), reply);
        gateway.ask(bob(Request::head(&target))).await.is(200);
        gateway.ask(bob(Request::get(&target))).await.refuses(403, "DENIED");
    }
    gateway.ask(bob(Request::get("/v2/team/app/tags/list"))).await.refuses(403, "DENIED");
    upstream.expect("PUT", "/v2/team/app/manifests/x", Reply::status(201));
    gateway.ask(bob(Request::put("/v2/team/app/manifests/x").body("{}"))).await.is(201);
}

#[tokio::test]
async fn rules_match_the_canonical_name() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .rule(&["alice"], &["hub/library/**"], &["pull"])
        .upstream_with("docker.io", "hub", upstream.address, "hosts = [\"hub.example\"]")
        .start()
        .await;
    let get = |target: &str| Request::get(target).login("alice", "secret");
    let ways = [
        get("/v2/hub/nginx/manifests/1"),
        get("/v2/hub/library/nginx/manifests/1"),
        get("/v2/library/nginx/manifests/1?ns=docker.io"),
        get("/hub/v2/nginx/manifests/1"),
        get("/v2/nginx/manifests/1").header("Host", "hub.example"),
    ];
    for way in ways {
        upstream.expect("GET", "/v2/library/nginx/manifests/1", Reply::ok(EMPTY_INDEX));
        gateway.ask(way).await.is(200);
    }
    // The name is shown as the client wrote it: the prefix would tell of the upstream.
    let denied = [
        (get("/v2/hub/other/nginx/manifests/1"), "hub/other/nginx"),
        (get("/v2/other/nginx/manifests/1?ns=docker.io"), "docker.io/other/nginx"),
        (get("/hub/v2/other/nginx/manifests/1"), "hub/other/nginx"),
        (get("/v2/other/nginx/manifests/1").header("Host", "hub.example"), "other/nginx"),
    ];
    for (way, name) in denied {
        let answer = gateway.ask(way).await.refuses(403, "DENIED");
        assert!(answer.text().contains(&format!("pull {name}\"")), "{}", answer.text());
    }
}

#[tokio::test]
async fn credentials_go_no_further() {
    let (upstream, gateway) = closed().await;
    let mut asked = upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(Request::get("/v2/a/manifests/x").login("alice", "secret")).await.is(200);
    let seen = format!("{:?}", asked.done().await.headers);
    assert!(!seen.to_lowercase().contains("authorization") && !seen.contains("YWxpY2U"), "{seen}");
}

#[tokio::test]
async fn a_login_precedes_any_answer_about_the_path() {
    let (_upstream, gateway) = closed().await;
    let wrong = |target: &str| Request::get(target).login("alice", "wrong");
    for target in ["/nowhere", "/v2/A/manifests/x", "/v2/a/blobs/x"] {
        assert_eq!(gateway.ask(wrong(target)).await.is(401).text(), PLAIN_401, "{target}");
    }
}
