//! The audit log: what is written of whom, and what is not.

use serde_json::Value;

use crate::harness::{
    EMPTY_INDEX, Gateway, OCI_INDEX, Origin, Reply, Request, Upstream, noise, sha256, soon,
};

const MANIFEST: &str = "/v2/team/app/manifests/1.0";

async fn audited(upstream: &Upstream, pulls: bool) -> Gateway {
    let builder =
        Gateway::builder().user("alice", "t0psecret").rule(&["alice"], &["team/**"], &["*"]).audit(pulls);
    builder.upstream("up", "", upstream.address).start().await
}

fn alice(request: Request) -> Request {
    request.login("alice", "t0psecret")
}

fn text(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.path("audit.log")).unwrap_or_default()
}

/// The events, once there are as many.
async fn events(gateway: &Gateway, count: usize) -> Vec<Value> {
    let written = async {
        while text(gateway).lines().count() < count {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon("the events", written).await;
    let events: Vec<_> = text(gateway).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), count, "{events:?}");
    events
}

fn field<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_else(|| panic!("{name} is no text in {event}"))
}

#[tokio::test]
async fn failed_logins_and_denials_are_audited() {
    let upstream = Upstream::start().await;
    let gateway = audited(&upstream, false).await;
    gateway.get("/v2/").await.is(401);
    gateway.get(MANIFEST).await.is(401);
    let evil = "mal\"lory\u{202e}";
    gateway.ask(Request::get(MANIFEST).login(evil, "gue55")).await.is(401);
    let denied = gateway.ask(alice(Request::get("/v2/other/app/manifests/1.0"))).await.is(403);
    let events = events(&gateway, 2).await;
    assert_eq!((field(&events[0], "event"), field(&events[0], "failed_login")), ("login_failed", evil));
    assert_eq!((field(&events[0], "client"), &events[0]["user"]), ("127.0.0.1", &Value::Null));
    assert_eq!(events[0]["status"], 401);
    let event = &events[1];
    assert_eq!((field(event, "event"), field(event, "user")), ("denied", "alice"));
    assert_eq!((field(event, "repository"), field(event, "operation")), ("other/app", "get_manifest"));
    assert_eq!(field(event, "request_id"), denied.header("x-request-id").unwrap());
    assert!(field(event, "reason").contains("alice may not pull other/app"), "{event}");
    for secret in ["gue55", "t0psecret"] {
        assert!(!text(&gateway).contains(secret), "{secret} was written");
    }
}

#[tokio::test]
async fn pushes_and_deletes_are_audited() {
    let upstream = Upstream::start().await;
    let gateway = audited(&upstream, false).await;
    let (digest, blob) = (sha256(EMPTY_INDEX.as_bytes()), noise(5000));
    upstream.expect("PUT", MANIFEST, Reply::status(201).header("Docker-Content-Digest", &digest));
    gateway
        .ask(alice(Request::put(MANIFEST).header("Content-Type", OCI_INDEX).body(EMPTY_INDEX)))
        .await
        .is(201);
    let whole = format!("/v2/team/app/blobs/uploads/?digest={}", sha256(&blob).replace(':', "%3A"));
    upstream.expect("POST", whole.as_str(), Reply::status(201));
    gateway.ask(alice(Request::post(&whole).body(blob.clone()))).await.is(201);
    upstream.expect(
        "POST",
        "/v2/team/app/blobs/uploads/",
        Reply::status(202).header("Location", "/v2/team/app/blobs/uploads/1"),
    );
    gateway.ask(alice(Request::post("/v2/team/app/blobs/uploads/"))).await.is(202);
    let deleted = format!("/v2/team/app/manifests/{digest}");
    upstream.expect("DELETE", deleted.as_str(), Reply::status(202));
    gateway.ask(alice(Request::delete(&deleted))).await.is(202);
    upstream.expect("DELETE", deleted.as_str(), Reply::status(404));
    gateway.ask(alice(Request::delete(&deleted))).await.is(404);

    let events = events(&gateway, 3).await;
    let kinds: Vec<_> = events.iter().map(|event| field(event, "event")).collect();
    assert_eq!(kinds, ["push", "push", "delete"]);
    assert_eq!((field(&events[0], "reference"), field(&events[0], "digest")), ("1.0", &*digest));
    assert_eq!(events[0]["size"], EMPTY_INDEX.len());
    assert_eq!((field(&events[1], "digest"), &events[1]["size"]), (&*sha256(&blob), &5000.into()));
    assert_eq!((field(&events[2], "digest"), field(&events[2], "upstream")), (&*digest, "up"));
}

#[tokio::test]
async fn pulls_are_audited_where_asked_with_their_origin() {
    let origin = Origin::start().await;
    let digest = origin.manifest("team/app", "1.0", OCI_INDEX, EMPTY_INDEX.as_bytes());
    let builder = Gateway::builder()
        .user("alice", "t0psecret")
        .rule(&["alice"], &["team/**"], &["*"])
        .cache("")
        .audit(true);
    let gateway = builder.upstream_with("up", "", origin.address(), "[upstream.cache]").start().await;
    gateway.ask(alice(Request::head(MANIFEST))).await.is(200);
    gateway.ask(alice(Request::get(MANIFEST))).await.is(200);
    gateway.ask(alice(Request::get(MANIFEST))).await.is(200);
    let events = events(&gateway, 2).await;
    assert_eq!((field(&events[0], "event"), field(&events[0], "digest")), ("pull", &*digest));
    assert_eq!(field(&events[1], "cache"), "hit");
    assert_eq!((field(&events[1], "user"), field(&events[1], "reference")), ("alice", "1.0"));
}

#[tokio::test]
async fn a_rotated_audit_log_goes_on_in_a_new_file() {
    let upstream = Upstream::start().await;
    let gateway = audited(&upstream, false).await;
    let fail = || gateway.ask(Request::get("/v2/").login("alice", "wr0ng"));
    fail().await.is(401);
    events(&gateway, 1).await;
    std::fs::rename(gateway.path("audit.log"), gateway.path("audit.log.1")).unwrap();
    gateway.app.reload();
    fail().await.is(401);
    events(&gateway, 1).await;
}

#[tokio::test]
async fn tokens_are_audited_by_their_id_and_scope() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().auth("challenge = \"bearer\"").user("alice", "t0psecret").audit(false);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    gateway.get("/token").await.is(401);
    let answer = gateway.ask(alice(Request::get("/token?scope=repository:a:pull"))).await.is(200);
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    let form = "grant_type=password&username=mallory&password=gue55";
    gateway.ask(Request::post("/token").body(form)).await.is(401);
    let bad = format!("Bearer {}", token.replacen('.', ".x", 1));
    gateway.ask(Request::get("/v2/").header("Authorization", bad)).await.is(401);
    let events = events(&gateway, 3).await;
    assert_eq!((field(&events[0], "event"), field(&events[0], "user")), ("token_minted", "alice"));
    assert_eq!(field(&events[0], "scope"), "repository:a:pull");
    assert_eq!((field(&events[1], "event"), field(&events[1], "failed_login")), ("login_failed", "mallory"));
    assert_eq!(field(&events[2], "reason"), "its signature is wrong");
    let signature = token.rsplit('.').next().expect("a signature");
    for secret in ["gue55", "t0psecret", signature] {
        assert!(!text(&gateway).contains(secret), "{secret} was written");
    }
}

#[tokio::test]
async fn a_robots_token_is_audited_beside_the_gateway() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().auth("challenge = \"bearer\"").user("alice", "t0psecret").audit(false);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let fail = || gateway.ask(Request::get("/v2/").login("alice", "wr0ng"));
    let mint = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dockgate"));
        command.args([
            "token",
            "mint",
            "--user",
            "ci",
            "--access",
            "team/**:pull,push",
            "--access",
            "a:catalog",
        ]);
        command.args(["--ttl", "1h", "--config"]).arg(gateway.path("dockgate.toml"));
        let output = command.env_clear().output().expect("a process");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success(), "{said}");
        (String::from_utf8(output.stdout).expect("text").trim_end().to_owned(), said)
    };
    fail().await.is(401);
    events(&gateway, 1).await;
    let (robot, said) = mint();
    fail().await.is(401);
    let lines = events(&gateway, 3).await;
    let kinds: Vec<_> = lines.iter().map(|event| field(event, "event")).collect();
    assert_eq!(kinds, ["login_failed", "token_minted", "login_failed"]);
    let event = &lines[1];
    assert_eq!(
        (field(event, "user"), field(event, "scope")),
        ("robot:ci", "repository:team/**:pull,push registry:catalog:*")
    );
    assert!(
        said.contains(&format!("id {}, until {}", field(event, "token"), field(event, "expires"))),
        "{said}"
    );
    assert!(event["uid"].is_u64() && event["timestamp"].is_string(), "{event}");
    let signature = robot.rsplit('.').next().expect("a signature");
    assert!(!text(&gateway).contains(signature), "the token was written");
    // While the file is away to be rotated, the next one is made, and the gateway goes on in it.
    std::fs::rename(gateway.path("audit.log"), gateway.path("audit.log.1")).unwrap();
    mint();
    gateway.app.reload();
    fail().await.is(401);
    let lines = events(&gateway, 2).await;
    assert_eq!((field(&lines[0], "event"), field(&lines[1], "event")), ("token_minted", "login_failed"));
}
