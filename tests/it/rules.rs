//! Access rules on the wire: each request is decided by the repository's one name, however it is asked for. The decisions
//! of the rules themselves are a table in `src/authz/tests/decisions.txt`.

use crate::harness::{EMPTY_INDEX, Gateway, OCI_INDEX, Reply, Request, Upstream};

/// A registry that has everything and takes everything.
async fn generous() -> Upstream {
    let upstream = Upstream::start().await;
    upstream.otherwise(|heard| {
        Some(match heard.method.as_str() {
            "POST" => Reply::status(202).header("Location", "/v2/any/blobs/uploads/1"),
            "DELETE" => Reply::status(202),
            _ => Reply::ok(EMPTY_INDEX).header("Content-Type", OCI_INDEX),
        })
    });
    upstream
}

/// Requests: user, method, target, status.
const REQUESTS: &[(&str, &str, &str, u16)] = &[
    // One repository has many names, and rules know one of them.
    ("alice", "GET", "/v2/docker.io/library/alpine/manifests/1", 200),
    ("alice", "GET", "/v2/docker.io/alpine/manifests/1", 200),
    ("alice", "GET", "/v2/library/alpine/manifests/1?ns=docker.io", 200),
    ("alice", "GET", "/v2/docker.io/library/alpine/manifests/1?ns=docker.io", 200),
    ("alice", "GET", "/docker.io/v2/library/alpine/manifests/1", 200),
    ("alice", "HEAD", "/docker.io/v2/library/alpine/manifests/1", 200),
    ("alice", "GET", "/v2/library/alpine/manifests/1", 403),
    ("alice", "GET", "/v2/alpine/manifests/1", 403),
    ("alice", "GET", "/v2/docker.io/library/alpine/x/manifests/1", 403),
    ("alice", "GET", "/v2/docker.io/grafana/grafana/manifests/1", 403),
    ("alice", "GET", "/v2/grafana/grafana/manifests/1?ns=docker.io", 403),
    ("alice", "GET", "/docker.io/v2/grafana/grafana/manifests/1", 403),
    ("alice", "HEAD", "/v2/docker.io/grafana/grafana/manifests/1", 403),
    ("alice", "POST", "/v2/docker.io/library/alpine/blobs/uploads/", 403),
    ("alice", "POST", "/docker.io/v2/library/alpine/blobs/uploads/", 403),
    // A denial holds for each of them.
    ("bob", "GET", "/v2/docker.io/grafana/grafana/manifests/1", 200),
    ("bob", "GET", "/v2/docker.io/library/secret/manifests/1", 403),
    ("bob", "GET", "/v2/docker.io/secret/manifests/1", 403),
    ("bob", "GET", "/v2/library/secret/manifests/1?ns=docker.io", 403),
    ("bob", "GET", "/docker.io/v2/library/secret/manifests/1", 403),
    ("bob", "GET", "/docker.io/v2/secret/manifests/1", 403),
    ("bob", "GET", "/v2/docker.io/library/secrets/manifests/1", 200),
    // Neither case nor another spelling makes another name of it.
    ("alice", "GET", "/v2/team/app/manifests/1", 200),
    ("alice", "POST", "/v2/team/app/blobs/uploads/", 202),
    ("alice", "DELETE", "/v2/team/app/manifests/1", 202),
    ("alice", "GET", "/v2/team/manifests/1", 403),
    ("alice", "GET", "/v2/teams/app/manifests/1", 403),
    ("alice", "GET", "/v2/Team/app/manifests/1", 400),
    ("alice", "GET", "/v2/team%2Fapp/manifests/1", 404),
    ("alice", "GET", "/v2/team/../other/manifests/1", 404),
    ("alice", "GET", "/v2/team/%2e%2e/other/manifests/1", 404),
    ("alice", "GET", "/v2/team//app/manifests/1", 404),
    ("bob", "GET", "/v2/team/app/manifests/1", 403),
    // A home is its user's own.
    ("alice", "POST", "/v2/home/alice/app/blobs/uploads/", 202),
    ("alice", "POST", "/v2/home/bob/app/blobs/uploads/", 403),
    ("alice", "POST", "/v2/home/alice/blobs/uploads/", 403),
    ("Alice", "POST", "/v2/home/alice/app/blobs/uploads/", 403),
    ("Alice", "GET", "/v2/home/Alice/app/manifests/1", 400),
    ("bob/x", "POST", "/v2/home/bob/x/blobs/uploads/", 403),
    ("bob/x", "POST", "/v2/home/bob/x/y/blobs/uploads/", 403),
    ("bob", "POST", "/v2/home/bob/x/blobs/uploads/", 202),
    // Without a login a client learns nothing of all this.
    ("", "GET", "/v2/docker.io/library/alpine/manifests/1", 401),
    ("", "GET", "/v2/home/anonymous/app/manifests/1", 401),
    ("", "GET", "/v2/nowhere/manifests/1", 401),
];

#[tokio::test]
async fn rules_know_a_repository_by_one_name() {
    let upstream = generous().await;
    let all: &[&str] = &["alice", "Alice", "bob", "bob/x"];
    let builder = all.iter().fold(Gateway::builder(), |builder, name| builder.user(name, "secret"));
    let gateway = builder
        .denial(&["bob"], &["docker.io/library/secret"], &["*"])
        .rule(&["alice"], &["docker.io/library/*"], &["pull"])
        .rule(&["bob"], &["docker.io/**"], &["pull"])
        .rule(&["alice"], &["team/**"], &["*"])
        .rule(&["*"], &["home/{user}/**"], &["pull", "push"])
        .upstream("docker.io", "docker.io", upstream.address)
        .upstream("own", "", upstream.address)
        .start()
        .await;
    let mut wrong = Vec::new();
    for (user, method, target, status) in REQUESTS {
        let request = Request::new(method, *target);
        let request = if user.is_empty() { request } else { request.login(user, "secret") };
        let answer = gateway.ask(request).await;
        if answer.status != *status {
            wrong.push(format!("{user} {method} {target}: {} instead of {status}", answer.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_token_to_push_ends_with_the_right_to_push() {
    let upstream = generous().await;
    let gateway = Gateway::builder()
        .auth("challenge = \"bearer\"\n[auth.token]")
        .user("bob", "secret")
        .rule(&["bob"], &["team/**"], &["pull", "push"])
        .upstream("up", "", upstream.address)
        .start()
        .await;
    let ask = Request::get("/token?service=dockgate&scope=repository:team/app:push").login("bob", "secret");
    let token = gateway.ask(ask).await.is(200).json()["token"].as_str().unwrap().to_owned();
    let head = Request::head("/v2/team/app/manifests/1").header("Authorization", format!("Bearer {token}"));
    gateway.ask(head.clone()).await.is(200);
    gateway.reconfigure("actions = [\"pull\", \"push\"]", "actions = [\"pull\"]");
    let answer = gateway.ask(head).await.is(401);
    assert!(
        answer.header("www-authenticate").unwrap().contains("error=\"insufficient_scope\""),
        "{answer:?}"
    );
}
