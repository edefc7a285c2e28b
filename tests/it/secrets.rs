//! Secrets, which must not be in a log of any level.

use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::harness::{Gateway, LOGGING, MARK, PAIRS, Reply, Request, Upstream, basic};

const RIGHT: &str = "r1ght-pa55word";
const WRONG: &str = "wr0ng-pa55word";
const STATE: &str = "upstream-5tate-t0ken";
const REFRESH: &str = "refre5h-t0ken";
const SEALING: &str = "5ealing-5ecret-of-the-gateway-alone";

/// Where the process that logs leaves what it was given to keep.
const HANDLES: &str = "DOCKGATE_IT_HANDLES";

#[test]
fn neither_passwords_nor_handles_are_logged_at_any_level() {
    let dir = tempfile::tempdir().unwrap();
    let handles = dir.path().join("handles");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "secrets::everything_that_is_logged", "--ignored", "--nocapture"])
        .env(HANDLES, &handles)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}{}", String::from_utf8_lossy(&output.stdout));
    let lines = log.lines().filter(|line| line.contains("access: ")).count();
    assert!(lines >= 8 && log.contains("DEBUG") && log.contains("WARN"), "too little was logged: {log}");

    let handles = std::fs::read_to_string(handles).unwrap();
    let handles: Vec<_> = handles.lines().collect();
    assert_eq!(handles.len(), 2);
    let pair = |password: &str| BASE64_STANDARD.encode(format!("alice:{password}"));
    let secrets =
        [RIGHT, WRONG, STATE, SEALING, REFRESH, "eyJhbGci", "$2b$0", "$2y$0", &pair(RIGHT), &pair(WRONG)];
    for secret in secrets.into_iter().chain(handles) {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} was logged");
    }
}

/// Runs every test of tokens and certificates once more, and searches the log for them and for the keys.
#[test]
fn neither_tokens_nor_keys_are_logged_at_any_level() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "access_tokens::",
            "robots::",
            "workloads::",
            "client_certificates::",
            "refusal_times::",
            "--nocapture",
        ])
        .env(LOGGING, "trace,h2=trace")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(log.contains("access: token 200") && log.contains("DEBUG"), "too little was logged");
    // The beginning of every header that names its algorithm first, a robot's prefix before it, and a PEM block.
    for secret in ["eyJhbGci", "dgr_ey", "PRIVATE KEY-----"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} was logged");
    }
    // What the operator is told instead.
    for told in [
        "its signature is wrong",
        "its algorithm is not ES256",
        "it is revoked",
        "made the key of the token service",
        "a token for github: its audience is another",
        "no key of the issuer is called",
        "cannot fetch the keys of an OIDC issuer",
        "the authority of the client's certificate is not trusted any more",
        "the client's certificate is not valid any more",
    ] {
        assert!(log.contains(told), "{told}");
    }
}

/// Runs every test of secrets between the gateway and its upstreams once more, and searches the log, at the
/// level at which everything is logged.
#[test]
fn no_upstream_secret_is_logged_at_any_level() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["tokens::", "redirects::", "resume::", "proxy::", "forward::", "--nocapture"])
        .env(LOGGING, "trace,h2=trace")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    // What is no line of the log is what a test has to say of its failure.
    let failures: Vec<_> = log.lines().filter(|line| !line.starts_with("20")).collect();
    assert!(output.status.success(), "{}", failures.join("\n"));
    let lines = log.lines().filter(|line| line.contains("access: ")).count();
    assert!(lines >= 300 && log.contains("TRACE"), "too little was logged: {lines}");
    let pairs = PAIRS.iter().map(|(user, password)| basic(user, password)["Basic ".len()..].to_owned());
    for secret in pairs.chain([MARK.to_owned()]) {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret} was logged");
    }
    // What the operator is told instead.
    for told in [
        "realm_hosts = [",
        "redirect_hosts = [",
        "which redirect_hosts does not name",
        "a redirect leads to plain http at",
        "the proxy resolves it by itself, so that its address can't be checked",
        "the upload goes on at",
        "refuses the credentials (403",
        "limits the rate of requests (429)",
        "gives no token: ",
        "invalid_token",
        "it refuses the name and password of upstream.credentials",
        "the upstream's rate limit",
        "a blob's stream broke; resuming it",
        "a blob's stream can't be resumed",
        "it does not take the name and password that upstream.proxy",
    ] {
        assert!(log.contains(told), "{told:?} was not logged");
    }
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own whose log it reads"]
async fn everything_that_is_logged() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder()
        .user("alice", RIGHT)
        .tls(&["localhost"])
        .auth("challenge = \"basic\"\n[auth.token]")
        .server(&format!("secret = \"{SEALING}\""))
        .logging("trace,h2=trace")
        .upstream_with("up", "", upstream.address, "retries = 1")
        .start()
        .await;
    let alice = |request: Request| request.login("alice", RIGHT).header("Cookie", STATE);
    gateway.get("/v2/").await.is(401);
    gateway.ask(Request::get("/v2/").login("alice", WRONG)).await.is(401);
    gateway.http2().await.ask(&alice(Request::get("/v2/"))).await.is(200);
    gateway.ask(Request::get("/v2/").header("Authorization", format!("Bearer {WRONG}"))).await.is(401);

    let form = |password: &str| {
        let form = format!("grant_type=password&username=alice&password={password}&scope=repository:a:pull");
        Request::post("/token").header("Content-Type", "application/x-www-form-urlencoded").body(form)
    };
    let issued = gateway.ask(form(RIGHT)).await.is(200).json();
    let shown = format!("Bearer {}", issued["access_token"].as_str().unwrap());
    gateway.ask(Request::get("/v2/").header("Authorization", shown)).await.is(200);
    gateway.ask(form(WRONG)).await.is(401);
    gateway.ask(form(&format!("dgr_{WRONG}"))).await.is(401);
    gateway.ask(Request::get("/v2/").login("alice", &format!("dgr_{WRONG}"))).await.is(401);
    let refresh = format!("grant_type=refresh_token&refresh_token={REFRESH}&client_id=x");
    gateway.ask(Request::post("/token").body(refresh)).await.is(404);
    gateway
        .ask(Request::post("/token").body(format!("grant_type=password&password={WRONG}&password=%ff")))
        .await
        .is(400);
    gateway.get(&format!("/token?refresh_token={REFRESH}&password={WRONG}")).await.is(401);

    let session = format!("/v2/a/blobs/uploads/1?_state={STATE}");
    upstream.expect("POST", "/v2/a/blobs/uploads/", Reply::status(202).header("Location", &session));
    let begun = gateway.ask(alice(Request::post("/v2/a/blobs/uploads/"))).await.is(202);
    let first = begun.header("location").unwrap().to_owned();
    upstream.expect("PATCH", session.as_str(), Reply::status(202).header("Location", &session));
    let gone_on = gateway.ask(alice(Request::patch(&first).body("x"))).await.is(202);
    let second = gone_on.header("location").unwrap().to_owned();
    upstream.expect("PATCH", session.as_str(), Reply::close());
    gateway.ask(alice(Request::patch(&second).body("x"))).await.is(502);
    gateway.ask(alice(Request::patch(second.replace("/a/", "/b/")).body("x"))).await.is(404);
    let foreign = format!("https://evil.example/?sig={STATE}");
    upstream.expect("POST", "/v2/a/blobs/uploads/", Reply::status(202).header("Location", &foreign));
    gateway.ask(alice(Request::post("/v2/a/blobs/uploads/"))).await.is(502);
    upstream.expect("GET", "/v2/a/manifests/x", Reply::raw(format!("{STATE}\r\n\r\n")).then_close());
    gateway.ask(alice(Request::get("/v2/a/manifests/x"))).await.is(502);
    gateway.rewrite("htpasswd", "alice:no-hash\n");
    gateway.rewrite("dockgate.toml", &format!("[server]\nsecret = 5\nnonsense = \"{SEALING}\"\n"));

    let handle = |location: &str| location.rsplit('/').next().unwrap().to_owned();
    std::fs::write(std::env::var(HANDLES).unwrap(), format!("{}\n{}\n", handle(&first), handle(&second)))
        .unwrap();
    dockgate::internals::telemetry::flush();
}
