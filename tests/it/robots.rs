//! Robots: tokens that `dockgate token mint` prints, and that clients show as a password.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::{Builder, EMPTY_INDEX, Gateway, Reply, Request, Upstream};

const PLAIN_401: &str =
    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;

fn builder() -> Builder {
    Gateway::builder().auth("challenge = \"auto\"\n[auth.token]\nrevoked = \"revoked\"").file("revoked", "")
}

async fn both(builder: Builder) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    (upstream, gateway)
}

/// A robot's token and its id.
pub(crate) fn minted(gateway: &Gateway, access: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dockgate"));
    command
        .args(["token", "mint", "--user", "ci", "--ttl", "1h", "--config"])
        .arg(gateway.path("dockgate.toml"));
    command.args(access.iter().flat_map(|access| ["--access", access]));
    let output = command.env_clear().output().expect("a process");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{said}");
    let id =
        said.strip_prefix("robot:ci, id ").and_then(|rest| rest.split(',').next()).expect("an id").to_owned();
    (String::from_utf8(output.stdout).expect("text").trim_end().to_owned(), id)
}

fn get(target: &str) -> Request {
    Request::get(target)
}

fn access(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("claims")).expect("base64url");
    serde_json::from_slice::<Value>(&claims).expect("JSON")["access"].clone()
}

#[tokio::test]
async fn a_robot_does_what_it_was_minted_for() {
    let (upstream, gateway) = both(builder().user("alice", "secret")).await;
    let (robot, _) = minted(&gateway, &["team/**:pull,push", "tools:pull"]);
    let app = "/v2/team/app/manifests/x";
    // The name beside it says nothing.
    for name in ["ci", "robot", "alice", "docker-token"] {
        gateway.ask(get("/v2/").login(name, &robot)).await.is(200);
    }
    upstream.expect("GET", app, Reply::ok(EMPTY_INDEX));
    gateway.ask(get(app).login("x", &robot)).await.is(200);
    upstream.expect("PUT", app, Reply::status(201));
    gateway.ask(Request::put(app).body("{}").login("x", &robot)).await.is(201);
    for request in [
        get("/v2/other/manifests/x"),
        Request::delete(app),
        get("/v2/_catalog"),
        Request::put("/v2/tools/manifests/x").body("{}"),
    ] {
        let answer = gateway.ask(request.login("x", &robot)).await.refuses(403, "DENIED");
        assert!(answer.text().contains("robot:ci may not"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_robot_gets_tokens_within_its_limits() {
    let (upstream, gateway) = both(builder().user("alice", "secret")).await;
    let (robot, id) = minted(&gateway, &["team/**:pull"]);
    let scope = "scope=repository:team/app:pull,push&scope=repository:other:pull&scope=registry:catalog:*";
    let answer = gateway.ask(get(&format!("/token?{scope}")).login("x", &robot)).await.is(200);
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    assert_eq!(access(&token), json!([{ "type": "repository", "name": "team/app", "actions": ["pull"] }]));
    let form = format!("grant_type=password&username=x&password={robot}&{scope}");
    gateway.ask(Request::post("/token").body(form)).await.is(200);
    let show = || get("/v2/team/app/manifests/x").header("Authorization", format!("Bearer {token}"));
    upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(show()).await.is(200);
    // It ends with the robot's.
    gateway.rewrite("revoked", &format!("{id}\n"));
    let answer = gateway.ask(show()).await.is(401);
    assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic")));
    gateway.ask(get("/token").login("x", &robot)).await.is(401);
}

#[tokio::test]
async fn rules_bind_robots_by_name() {
    let builder = builder().user("ci", "secret").rule(&["ci"], &["home/**"], &["*"]);
    let (upstream, gateway) = both(builder.rule(&["robot:c*"], &["team/app"], &["pull"])).await;
    let (robot, _) = minted(&gateway, &["**:*"]);
    let status = async |target: &str| gateway.ask(get(target).login("ci", &robot)).await.status;
    upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
    assert_eq!(status("/v2/team/app/manifests/x").await, 200);
    assert_eq!(status("/v2/home/app/manifests/x").await, 403, "the user of that name is another");
    gateway.reconfigure("users = [\"robot:c*\"]", "users = [\"robot:other\"]");
    assert_eq!(status("/v2/team/app/manifests/x").await, 403);
}

#[tokio::test]
async fn robots_that_are_no_good_get_the_401_of_a_wrong_password() {
    let (_upstream, gateway) = both(builder().user("alice", "secret")).await;
    let (robot, id) = minted(&gateway, &["**:pull"]);
    let (_, other) = both(builder().user("alice", "secret")).await;
    let (foreign, _) = minted(&other, &["**:pull"]);
    gateway.rewrite("revoked", &id);
    let (head, signature) = robot.rsplit_once('.').expect("a signature");
    let unsigned = format!("{head}.");
    let bare = robot.trim_start_matches("dgr_");
    let shouted = format!("{}.{signature}", head.replace("dgr_", "dgr_dgr_"));
    for password in ["dgr_", "dgr_x", "dgr_secret", &robot, &foreign, &unsigned, bare, &shouted] {
        let answer = gateway.ask(get("/v2/").login("alice", password)).await;
        assert_eq!((answer.status, answer.text().as_str()), (401, PLAIN_401), "{password}");
    }
    let answer = gateway.ask(get("/v2/").header("Authorization", format!("Bearer {foreign}"))).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn robots_may_be_the_only_ones_who_log_in() {
    let builder = Gateway::builder().auth("[auth.token]").rule(&["*"], &["**"], &["*"]);
    let (upstream, gateway) = both(builder).await;
    let answer = gateway.get("/v2/").await.is(401);
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"dockgate\""));
    let (robot, _) = minted(&gateway, &["a:pull"]);
    upstream.expect("GET", "/v2/a/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(get("/v2/a/manifests/x").login("x", &robot)).await.is(200);
    gateway.ask(get("/v2/").login("alice", "secret")).await.is(401);
}

#[tokio::test]
async fn a_robots_token_goes_to_no_upstream_that_judges() {
    let lines = "[upstream.credentials]\nforward = true";
    let upstream = Upstream::start().await;
    let builder =
        Gateway::builder().auth("challenge = \"basic\"\n[auth.token]").rule(&["*"], &["**"], &["*"]);
    let gateway = builder.upstream_with("up", "", upstream.address, lines).start().await;
    for password in ["dgr_", "dgr_wrong"] {
        gateway.ask(get("/v2/").login("alice", password)).await.is(401);
    }
    let (robot, _) = minted(&gateway, &["a:pull"]);
    gateway.ask(get("/v2/").login("alice", &robot)).await.is(200);
    gateway.ask(get("/token").login("alice", &robot)).await.is(200);
    assert_eq!(upstream.connections(), 0);
}
