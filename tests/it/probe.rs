//! `dockgate probe`: the whole command, against registries that are right and wrong in every way.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use dockgate::internals::clock;
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Reply, Upstream, demo_registry, sha256, soon};

const PASSWORD: &str = "r1ght-pa55word";
const SIGNATURE: &str = "5ignature-of-the-registry";

/// The output of the command.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// The line that says what came of it.
    fn last(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, code: i32, last: &str) {
        let line = self.last();
        assert!(self.code == code && line.contains(last), "wanted {code} and {last:?}: {self:#?}");
        self.keeps_secrets();
    }

    #[track_caller]
    fn keeps_secrets(&self) {
        let pair = BASE64_STANDARD.encode(format!("robot:{PASSWORD}"));
        for secret in [PASSWORD, SIGNATURE, &pair, "0paque-t0ken", "\u{1b}"] {
            assert!(!self.out.contains(secret) && !self.err.contains(secret), "{secret} was told: {self:#?}");
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("one JSON object")
    }
}

/// Runs `probe` in an empty environment, with the password on standard input.
async fn probe(arguments: &[&str]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dockgate"))
        .arg("probe")
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // A command that wants no password may be done by now.
    let _ = child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).await;
    let output = soon("the command's end", child.wait_with_output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

async fn probe_as_robot(place: &str) -> Ran {
    probe(&[place, "-u", "robot", "--password-stdin"]).await
}

fn now() -> i64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

fn date(seconds_from_now: i64) -> String {
    let at = u64::try_from(now() + seconds_from_now).unwrap();
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at))
}

fn jwt(claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": "ES256", "kid": "key-1" });
    format!("{}.{}.{SIGNATURE}", part(&header), part(claims))
}

fn token(token: &str) -> Reply {
    Reply::ok(json!({ "token": token, "expires_in": 300 }).to_string())
}

const MANIFEST: &str = "/v2/team/app/manifests/1";
const SCOPE: &str = "service=registry&scope=repository%3Ateam%2Fapp%3Apull";

fn challenge(base: &str) -> Reply {
    let line =
        format!("Bearer realm=\"{base}/token\",service=\"registry\",scope=\"repository:team/app:pull\"");
    Reply::status(401).header("WWW-Authenticate", &line)
}

/// A registry at a URL, with plain HTTP.
async fn plain() -> (Upstream, String) {
    let upstream = Upstream::start().await;
    let base = format!("http://{}", upstream.address);
    (upstream, base)
}

/// A registry whose manifest is behind a token; `again` is what it answers to the token.
async fn behind_a_token(given: Reply, again: Option<Reply>, robot: bool) -> Ran {
    let (upstream, base) = plain().await;
    upstream.expect("GET", MANIFEST, challenge(&base));
    let account = if robot { "account=robot&" } else { "" };
    upstream.expect("GET", format!("/token?{account}{SCOPE}"), given);
    if let Some(again) = again {
        upstream.expect("GET", MANIFEST, again);
    }
    let place = format!("{base}{MANIFEST}");
    if robot { probe_as_robot(&place).await } else { probe(&[&place]).await }
}

#[tokio::test]
async fn an_image_behind_a_token_is_walked_to() {
    let upstream = Upstream::start_tls().await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, upstream.ca.as_deref().unwrap()).unwrap();
    let host = format!("localhost:{}", upstream.address.port());
    let claims = json!({
        "exp": now() + 299, "sub": "evil\u{1b}[31m", "inner": jwt(&json!({})),
        "access": [{"type": "repository", "name": "team/app", "actions": ["pull"]}],
    });
    let token = jwt(&claims);
    for json in [false, true] {
        upstream.expect("HEAD", MANIFEST, challenge(&format!("https://{host}")));
        let mut asked = upstream.expect("GET", format!("/token?account=robot&{SCOPE}"), self::token(&token));
        let answer = Reply::ok("{}")
            .header("Docker-Content-Digest", "sha256:abc")
            .header("RateLimit-Limit", "100;w=21600")
            .header("RateLimit-Remaining", "76;w=21600");
        let mut again = upstream.expect("HEAD", MANIFEST, answer);
        let image = format!("{host}/team/app:1");
        let mut arguments = vec![&*image, "-u", "robot", "--password-stdin", "--ca", ca.to_str().unwrap()];
        arguments.extend(json.then_some("--json"));
        let ran = probe(&arguments).await;
        ran.keeps_secrets();
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(asked.done().await.headers.get("authorization").unwrap().starts_with("Basic "));
        assert_eq!(again.done().await.headers.get("authorization"), Some(&*format!("Bearer {token}")));
        if json {
            let told = ran.json();
            assert_eq!(told["fault"], Value::Null);
            let steps: Vec<_> = told["steps"].as_array().unwrap().iter().map(|step| &step["step"]).collect();
            let wanted =
                ["request", "challenge", "token_request", "token_answer", "token", "request", "rate_limit"];
            assert_eq!(steps, wanted);
            assert_eq!(told["steps"][4]["claims"]["access"][0]["name"], "team/app");
            assert_eq!(told["steps"][4]["claims"]["inner"], "[a token]");
            continue;
        }
        assert_eq!(ran.last(), "ok: team/app 1 is sha256:abc");
        for line in [
            "It asks for Bearer",
            "  realm    https://localhost:",
            "  as       robot",
            "a token, good for 5 min",
            "  alg      ES256",
            " UTC, in 4 min 5",
            "evil\\u{1b}[31m",
            "Rate limit: 76 left of 100 in 6 h",
        ] {
            assert!(ran.out.contains(line), "{line}: {}", ran.out);
        }
    }
}

#[tokio::test]
async fn an_opaque_token_is_counted_and_not_shown() {
    let ran = behind_a_token(token("0paque-t0ken"), Some(Reply::ok("{}")), false).await;
    ran.says(0, "ok: http://127.0.0.1:");
    assert!(ran.out.contains("opaque, 12 characters"), "{}", ran.out);
}

#[tokio::test]
async fn repeated_secrets_are_not_printed() {
    let pair = BASE64_STANDARD.encode(format!("robot:{PASSWORD}"));
    let echo = format!("Bearer realm=\"x {PASSWORD} {pair} 0paque-t0ken\"");
    let body = json!({ "errors": [{ "code": PASSWORD, "message": "0paque-t0ken" }] }).to_string();
    let again = Reply::status(403).header("WWW-Authenticate", &echo).header("Server", &pair).body(body);
    behind_a_token(token("0paque-t0ken"), Some(again), true)
        .await
        .says(1, "denied: this is not for robot ([secret]");
}

#[tokio::test]
async fn an_open_registry_needs_one_step() {
    let (registry, address) = demo_registry().await;
    dockgate::internals::image::seed(&registry).unwrap();
    let ran = probe(&[&format!("127.0.0.1:{}/hello", address.port())]).await;
    ran.says(0, "ok: hello latest is sha256:");
    assert!(
        ran.out.contains("note: it speaks plain HTTP, which will do on this machine alone"),
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn wrong_passwords_are_named_wherever_they_are_refused() {
    behind_a_token(Reply::status(401), None, true)
        .await
        .says(1, "wrong password: the token endpoint http://127.0.0.1:");
    behind_a_token(Reply::status(401), None, false)
        .await
        .says(1, "login wanted: the token endpoint http://127.0.0.1:");
    let (upstream, base) = plain().await;
    let basic = || Reply::status(401).header("WWW-Authenticate", "Basic realm=x");
    upstream.expect("GET", "/v2/", basic());
    upstream.expect("GET", "/v2/", basic());
    probe_as_robot(&base).await.says(1, "wrong password: the registry does not take the password of robot");
    upstream.expect("GET", "/v2/", basic());
    probe(&[&base]).await.says(1, "login wanted: it wants a name and a password; -u NAME");
}

#[tokio::test]
async fn a_realm_elsewhere_is_named_with_what_to_write() {
    let (upstream, base) = plain().await;
    upstream.expect("GET", "/v2/", challenge("https://evil.example:8443"));
    let ran = probe_as_robot(&base).await;
    ran.says(1, "realm elsewhere: ");
    assert!(ran.last().contains("realm_hosts = [\"evil.example:8443\"]"), "{}", ran.last());
}

#[tokio::test]
async fn clock_skew_is_reported() {
    let invalid = |date: &str| {
        let line = "Bearer realm=\"http://x/\",error=\"invalid_token\"";
        Reply::status(401).header("WWW-Authenticate", line).header("Date", date)
    };
    let early = jwt(&json!({ "nbf": now(), "exp": now() + 300 }));
    let ran = behind_a_token(token(&early), Some(invalid(&date(-3600))), true).await;
    ran.says(1, "clock skew: the token is not valid before ");
    assert!(
        ran.last().contains("by the clock of 127.0.0.1, which is 1 h behind the one here"),
        "{}",
        ran.last()
    );
    let late = jwt(&json!({ "exp": now() - 60 }));
    let ran = behind_a_token(token(&late), Some(invalid(&date(0))), true).await;
    ran.says(1, "clock skew: the token is valid until ");
    let good = jwt(&json!({ "exp": now() + 300 }));
    let ran = behind_a_token(token(&good), Some(invalid(&date(0))), true).await;
    ran.says(1, "token refused: the registry says invalid_token");
    let ran = behind_a_token(token(&good), Some(Reply::ok("{}").header("Date", &date(7230))), true).await;
    ran.says(0, "ok: ");
    assert!(ran.out.contains("note: the clock of 127.0.0.1 is 2 h ahead of the one here"), "{}", ran.out);
}

#[tokio::test]
async fn missing_and_forbidden_images_are_told_apart_if_possible() {
    let insufficient = Reply::status(401)
        .header("WWW-Authenticate", "Bearer realm=\"http://x/\",error=\"insufficient_scope\"");
    behind_a_token(token("t"), Some(insufficient), true).await.says(1, "no such repository: ");
    let (upstream, base) = plain().await;
    upstream.expect("GET", "/v2/", Reply::status(404));
    probe(&[&base]).await.says(1, "no registry: there is no /v2/");

    let upstream = Upstream::start_tls().await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, upstream.ca.as_deref().unwrap()).unwrap();
    let image = format!("localhost:{}/team/app:1", upstream.address.port());
    for (code, last) in [
        (
            "NAME_UNKNOWN",
            "no such repository: team/app is not there, or not for anonymous clients (NAME_UNKNOWN: m)",
        ),
        ("MANIFEST_UNKNOWN", "no such image: team/app has no 1 (MANIFEST_UNKNOWN: m)"),
    ] {
        upstream.expect("HEAD", MANIFEST, Reply::status(404));
        let body = json!({ "errors": [{ "code": code, "message": "m" }] }).to_string();
        upstream.expect("GET", MANIFEST, Reply::status(404).body(body));
        probe(&[&image, "--ca", ca.to_str().unwrap()]).await.says(1, last);
    }
}

#[tokio::test]
async fn a_limit_is_told_with_its_end() {
    let limit = || Reply::status(429).header("Retry-After", "3600");
    let ran =
        behind_a_token(token("t"), Some(limit().header("RateLimit-Remaining", "0;w=21600")), false).await;
    ran.says(1, "limited: too many requests (0 left in 21600 s), until ");
    let ran = behind_a_token(limit(), None, false).await;
    ran.says(1, " has been asked too often, until ");
}

#[tokio::test]
async fn a_redirect_that_the_gateway_would_refuse_is_named() {
    let (upstream, base) = plain().await;
    let away = Reply::status(307).header("Location", "http://10.1.2.3/x?sig=5ignature-of-the-registry");
    upstream.expect("GET", MANIFEST, away);
    let ran = probe(&[&format!("{base}{MANIFEST}")]).await;
    ran.says(1, "redirect: a redirect leads to ");
    assert!(ran.last().contains("redirect_hosts = [\"10.1.2.3"), "{}", ran.last());
    upstream.expect("GET", MANIFEST, Reply::status(302).header("Location", "/v2/moved"));
    upstream.expect("GET", "/v2/moved", Reply::ok("{}"));
    probe(&[&format!("{base}{MANIFEST}")]).await.says(0, "/v2/moved answers 200");
}

#[tokio::test]
async fn unreachable_and_foreign_servers_are_diagnosed() {
    probe(&["http://nosuch.invalid"]).await.says(1, "cannot resolve nosuch.invalid");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    probe(&[&format!("http://{free}")]).await.says(1, "refused: cannot connect to 127.0.0.1:");
    let (_registry, address) = demo_registry().await;
    let ran = probe(&[&format!("https://{address}")]).await;
    ran.says(
        1,
        &format!("plain HTTP there: {address} is asked by TLS, and speaks http; write http://{address}"),
    );
    let tls = Upstream::start_tls().await;
    let ran = probe(&[&format!("http://localhost:{}", tls.address.port())]).await;
    ran.says(1, "TLS wanted there: localhost:");
    let (upstream, base) = plain().await;
    upstream.expect("GET", "/v2/", Reply::raw("SSH-2.0-OpenSSH\r\n\r\n").then_close());
    probe(&[&base]).await.says(1, "no HTTP: ");
}

/// A server that shows a certificate of its own for `name`, in a file too, and says nothing.
async fn shows(name: &str, until: (i32, u8, u8), file: &Path) -> SocketAddr {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(until.0, until.1, until.2);
    params.distinguished_name.push(DnType::CommonName, file.file_name().unwrap().to_str().unwrap());
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(file, certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = builder.unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let (tls, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // An untrusted certificate.
            let _ = tls.accept(stream).await;
        }
    });
    address
}

#[tokio::test]
async fn certificates_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (dir.path().join("ca.crt"), dir.path().join("other.crt"));
    shows("localhost", (2100, 1, 1), &other).await;
    for (name, until, trusted, why) in [
        ("localhost", (2024, 2, 29), &ca, "it expired on 2024-02-29 00:00:00 UTC, "),
        ("elsewhere.example", (2100, 1, 1), &ca, "it is for elsewhere.example"),
        ("localhost", (2100, 1, 1), &other, "it is self-signed and not trusted; if that is right"),
    ] {
        let address = shows(name, until, &ca).await;
        let place = format!("localhost:{}/team/app", address.port());
        let ran = probe(&[&place, "--ca", trusted.to_str().unwrap()]).await;
        ran.says(1, &format!("certificate: localhost:{} shows one that is refused: {why}", address.port()));
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_told_from_a_fault() {
    for arguments in [
        &["a b"][..],
        &["https://user:pass@a.example"],
        &["ftp://a/b"],
        &["alpine", "-u", "a:b", "--password-stdin"],
        &["alpine", "--password-stdin"],
        &["alpine", "--upstream", "x"],
        &["alpine", "--write"],
        &["alpine", "--ca", "/nowhere/ca.crt"],
        &["--upstream", "x", "--config", "/nowhere/dockgate.toml"],
        &[],
    ] {
        let ran = probe(arguments).await;
        assert!(ran.code == 2 && ran.out.is_empty() && !ran.err.is_empty(), "{arguments:?}: {ran:#?}");
        assert!(!ran.err.contains("user:pass"), "{}", ran.err);
    }
}

/// A configuration with one upstream.
fn configuration(dir: &Path, lines: &str) -> String {
    let path = dir.join("dockgate.toml");
    let rule = "[[access]]\nusers = [\"anonymous\"]\nrepositories = [\"**\"]\nactions = [\"*\"]\n";
    let upstream = "[[upstream]]\nname = \"up\"\nretries = 0\n";
    std::fs::write(&path, format!("{rule}{upstream}{lines}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Rows of the table: what was looked at, and what came of it.
fn rows(ran: &Ran) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = ran.json()["checks"].as_array().unwrap().clone();
    checks.iter().map(|check| (text(&check["what"]), text(&check["result"]))).collect()
}

#[tokio::test]
async fn a_complete_upstream_passes_unchanged() {
    let (registry, address) = demo_registry().await;
    dockgate::internals::image::seed(&registry).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), &format!("url = \"http://{address}\""));
    let arguments = ["--upstream", "up", "--config", &config, "--write"];
    probe(&arguments).await.says(0, "ok: everything works through this gateway");
    let ran = probe(&[&arguments[..], &["--json", "--repository", "hello"]].concat()).await;
    assert_eq!((ran.code, &ran.json()["fault"]), (0, &Value::Null));
    let bad: Vec<_> = rows(&ran).into_iter().filter(|(_, result)| result != "ok").collect();
    assert!(bad.is_empty() && rows(&ran).len() >= 18, "{bad:?} {}", ran.out);
    for home in ["dockgate-probe", "hello/dockgate-probe", "hello/dockgate-probe/mounted"] {
        assert_eq!(registry.tags(home), Vec::<String>::new());
    }
}

/// Returns an image manifest that names one blob, `{}`.
fn manifest() -> String {
    json!({ "schemaVersion": 2, "config": { "digest": sha256(b"{}"), "size": 2 }, "layers": [] }).to_string()
}

#[tokio::test]
async fn an_audit_uses_credentials_and_writes_nothing() {
    let (upstream, base) = plain().await;
    let login = format!("username = \"robot\"\npassword = \"{PASSWORD}\"");
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), &format!("url = \"{base}\"\n[upstream.credentials]\n{login}"));
    let basic = || Reply::status(401).header("WWW-Authenticate", "Basic realm=x");
    let manifest = manifest();
    for (method, target, reply) in [
        ("GET", "/v2/", basic()),
        ("GET", "/v2/", basic()),
        ("GET", "/v2/", Reply::ok("{}")),
        ("GET", "/v2/team/app/tags/list", Reply::ok(r#"{"tags":["1","2"]}"#)),
        ("HEAD", MANIFEST, Reply::ok(&manifest)),
        ("GET", MANIFEST, Reply::ok(&manifest)),
        ("GET", &format!("/v2/team/app/referrers/{}", sha256(manifest.as_bytes())), Reply::status(404)),
        ("GET", &format!("/v2/team/app/blobs/{}", sha256(b"{}")), Reply::ok("{}")),
        ("HEAD", &format!("/v2/team/app/blobs/{}", sha256(b"{}")), Reply::ok("{}")),
        ("GET", &format!("/v2/team/app/blobs/{}", sha256(b"{}")), Reply::ok("{}")),
        ("GET", &format!("/v2/team/app/blobs/{}", sha256(b"{}")), Reply::ok("{}")),
    ] {
        upstream.expect(method, target, reply);
    }
    let ran = probe(&["--upstream", "up", "--config", &config, "--repository", "team/app", "--json"]).await;
    ran.keeps_secrets();
    assert_eq!((ran.code, ran.json()["identity"].as_str()), (0, Some("robot")));
    let partly: Vec<_> = rows(&ran).into_iter().filter(|(_, result)| result == "minor").collect();
    let partly: Vec<_> = partly.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(partly, ["manifest HEAD", "Range", "Range beyond"]);
}

#[tokio::test]
async fn failures_name_the_key_to_set() {
    let (upstream, base) = plain().await;
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), &format!("url = \"{base}\""));
    let arguments = ["--upstream", "up", "--config", &config, "--repository", "team/app:1"];
    upstream.expect("GET", "/v2/", challenge("https://evil.example"));
    let ran = probe(&arguments).await;
    ran.says(1, "realm elsewhere: the realm is at evil.example,");
    assert!(ran.last().contains("realm_hosts = [\"evil.example\"]"), "{}", ran.last());

    let manifest = manifest();
    let wrong = Reply::ok(&manifest).header("Docker-Content-Digest", &sha256(b"another"));
    let away = Reply::status(307).header("Location", "http://192.168.0.1/blob?sig=5ignature-of-the-registry");
    for (again, last) in [
        (wrong, "manifest: the upstream sent a manifest that is not what its digest says"),
        (Reply::ok(&manifest), "redirect: a redirect leads to "),
    ] {
        let is_good = last.starts_with("redirect");
        for (method, target, reply) in [
            ("GET", "/v2/", Reply::ok("{}")),
            ("GET", "/v2/", Reply::ok("{}")),
            ("GET", "/v2/team/app/tags/list", Reply::status(404)),
            ("HEAD", MANIFEST, Reply::ok(&manifest)),
            ("GET", MANIFEST, again),
        ] {
            upstream.expect(method, target, reply);
        }
        if is_good {
            let digest = sha256(manifest.as_bytes());
            upstream.expect("GET", format!("/v2/team/app/referrers/{digest}"), Reply::status(404));
            upstream.expect("GET", format!("/v2/team/app/blobs/{}", sha256(b"{}")), away.clone());
        }
        let ran = probe(&arguments).await;
        ran.says(1, last);
        assert!(!is_good || ran.last().contains("redirect_hosts = [\"192.168.0.1"), "{}", ran.last());
    }
}

#[tokio::test]
async fn what_a_head_refuses_is_decided_by_get() {
    let manifest =
        json!({ "schemaVersion": 2, "config": { "digest": sha256(b"{}"), "size": 2 }, "layers": [] });
    let manifest = manifest.to_string();
    for status in [403, 404, 405, 500, 501] {
        let (upstream, base) = plain().await;
        let dir = tempfile::tempdir().unwrap();
        let config = configuration(dir.path(), &format!("url = \"{base}\""));
        let blob = format!("/v2/team/app/blobs/{}", sha256(b"{}"));
        let referrers = format!("/v2/team/app/referrers/{}", sha256(manifest.as_bytes()));
        // A list of 85,000 tags has 4 MB (skopeo#907).
        let tags: Vec<String> = (0..200_000).map(|number| format!("build-of-the-branch-{number}")).collect();
        let tags = json!({ "name": "team/app", "tags": tags }).to_string();
        assert!(tags.len() > 4 << 20);
        upstream.always("GET", "/v2/", |_| Reply::ok("{}"));
        upstream.always("GET", "/v2/team/app/tags/list", move |_| Reply::ok(&tags));
        upstream.always("HEAD", MANIFEST, move |_| Reply::status(status));
        let text = manifest.clone();
        upstream.always("GET", MANIFEST, move |_| Reply::ok(&text));
        upstream.always("GET", referrers, |_| Reply::ok("<html>").header("Content-Type", "text/html"));
        upstream.always("HEAD", blob.as_str(), move |_| Reply::status(status));
        upstream.always("GET", blob, |_| Reply::ok("{}"));
        let arguments = ["--upstream", "up", "--config", &config, "--repository", "team/app:1", "--json"];
        let ran = probe(&arguments).await;
        assert_eq!(ran.code, 0, "{status}: {ran:#?}");
        let result = |what: &str| rows(&ran).into_iter().find(|(name, _)| name == what).unwrap().1;
        assert_eq!([result("manifest HEAD"), result("blob HEAD")], ["minor", "minor"], "{status}");
        assert_eq!(
            [result("tags/list"), result("manifest"), result("referrers")],
            ["ok", "ok", "ok"],
            "{status}"
        );
    }
}

#[tokio::test]
async fn what_the_gateway_refuses_as_a_manifest_is_bad() {
    let page = |body: &str| Reply::ok(body).header("Content-Type", "text/html");
    let long = || Reply::ok("").header("Content-Type", "application/vnd.oci.image.manifest.v1+json");
    for (head, get, expected) in [
        (page(""), page("<!DOCTYPE html>"), [("manifest HEAD", "minor"), ("manifest", "bad")]),
        (page(""), Reply::ok("{}"), [("manifest HEAD", "minor"), ("manifest", "bad")]),
        (page(""), page(r#"{"errors":[]}"#), [("manifest HEAD", "minor"), ("manifest", "bad")]),
        (page(""), Reply::ok(""), [("manifest HEAD", "minor"), ("manifest", "bad")]),
        (long().claim(4_393_217), Reply::ok(manifest()), [("tags/list", "ok"), ("manifest HEAD", "bad")]),
    ] {
        let (upstream, base) = plain().await;
        let dir = tempfile::tempdir().unwrap();
        let config = configuration(dir.path(), &format!("url = \"{base}\""));
        upstream.always("HEAD", MANIFEST, move |_| head.clone());
        upstream.always("GET", MANIFEST, move |_| get.clone());
        upstream.always("GET", "/v2/*", |_| Reply::ok(r#"{"tags":["1"]}"#));
        let arguments = ["--upstream", "up", "--config", &config, "--repository", "team/app:1", "--json"];
        let ran = probe(&arguments).await;
        let all = rows(&ran);
        for (what, result) in expected {
            let row = all.iter().find(|(name, _)| name == what);
            assert_eq!(row.map(|(_, found)| found.as_str()), Some(result), "{what}: {ran:#?}");
        }
        assert_ne!(ran.code, 0);
    }
}

#[tokio::test]
async fn a_walk_goes_on_by_get_where_head_is_refused() {
    let upstream = Upstream::start_tls().await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, upstream.ca.as_deref().unwrap()).unwrap();
    let image = format!("localhost:{}/team/app:1", upstream.address.port());
    for status in [403, 404, 405, 500, 501] {
        upstream.expect("HEAD", MANIFEST, Reply::status(status));
        upstream.expect("GET", MANIFEST, Reply::ok("{}"));
        let ran = probe(&[&image, "--ca", ca.to_str().unwrap()]).await;
        assert!(ran.code == 0 && ran.out.contains("where GET works"), "{status}: {ran:#?}");
    }
}

#[tokio::test]
async fn a_location_at_the_gateways_own_name_is_the_upstream() {
    let (upstream, base) = plain().await;
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(
        dir.path(),
        &format!("url = \"{base}\"\n[server]\nexternal_url = \"https://registry.example\""),
    );
    let location = "https://registry.example/v2/dockgate-probe/blobs/uploads/1";
    upstream.always("GET", "/v2/*", |_| Reply::ok("{}"));
    upstream.always("POST", "/v2/dockgate-probe/blobs/uploads/*", move |_| {
        Reply::status(202).header("Location", location)
    });
    upstream.always("DELETE", "/v2/dockgate-probe/blobs/uploads/1", |_| Reply::status(204));
    upstream.otherwise(|_| Some(Reply::status(500)));
    let ran = probe(&["--upstream", "up", "--config", &config, "--write", "--json"]).await;
    let upload = rows(&ran).into_iter().find(|(name, _)| name == "upload").unwrap();
    assert_eq!(upload.1, "ok", "{ran:#?}");
}
