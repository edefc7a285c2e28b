//! The token service: its challenges, its answers, and the tokens that are refused.

use std::os::unix::fs::PermissionsExt as _;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Builder, EMPTY_INDEX, Gateway, Reply, Request, Upstream, demo_registry, htpasswd, noise, sha256,
};

const KEY_FILE: &str = "auth/token-key.pem";

/// alice does everything in team, bob reads there, and an anonymous client reads public.
fn ruled() -> Builder {
    Gateway::builder()
        .auth("challenge = \"auto\"\n[auth.token]\nrevoked = \"revoked\"")
        .file("revoked", "")
        .user("alice", "secret")
        .user("bob", "hunter2")
        .rule(&["alice"], &["team/**"], &["*"])
        .rule(&["bob"], &["team/**"], &["pull"])
        .rule(&["anonymous"], &["public/**"], &["pull"])
}

async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = ruled().upstream("up", "", upstream.address).start().await;
    (upstream, gateway)
}

/// Asks for a token; with an empty user, anonymously.
async fn ask(gateway: &Gateway, user: &str, scopes: &str) -> Answer {
    let request = Request::get(format!("/token?service=dockgate&{scopes}"));
    let request = match user {
        "alice" => request.login("alice", "secret"),
        "bob" => request.login("bob", "hunter2"),
        _ => request,
    };
    gateway.ask(request).await
}

async fn token(gateway: &Gateway, user: &str, scope: &str) -> String {
    let answer = ask(gateway, user, &format!("scope={scope}")).await.is(200);
    answer.json()["token"].as_str().expect("a token").to_owned()
}

fn with(request: Request, token: &str) -> Request {
    request.header("Authorization", format!("Bearer {token}"))
}

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).expect("a part");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
}

fn access(token: &str) -> Value {
    part(token, 1)["access"].clone()
}

fn grant(name: &str, actions: &[&str]) -> Value {
    json!({ "type": "repository", "name": name, "actions": actions })
}

/// Makes another token of this one, signed with the gateway's own key.
pub(crate) fn forged(gateway: &Gateway, token: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let (mut header, mut claims) = (part(token, 0), part(token, 1));
    change(&mut header, &mut claims);
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let pem = std::fs::read_to_string(gateway.path(KEY_FILE)).expect("the key");
    let key = pem.split("-----BEGIN PRIVATE KEY-----").nth(1).expect("a key");
    let key: String = key.split("-----END").next().expect("an end").split_whitespace().collect();
    let key = STANDARD.decode(key).expect("base64");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).expect("a key of P-256");
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn now() -> u64 {
    let now = dockgate::internals::clock::wall().duration_since(std::time::UNIX_EPOCH);
    now.expect("a time after 1970").as_secs()
}

/// The challenge to a client that calls the gateway `localhost`, as those of the tests do.
fn challenge(rest: &str) -> String {
    format!("Bearer realm=\"http://localhost/token\",service=\"dockgate\"{rest}")
}

#[tokio::test]
async fn a_challenge_names_the_token_service_and_the_scope() {
    let (_upstream, gateway) = both().await;
    let asked = async |request: Request| {
        let answer = gateway.ask(request).await.is(401);
        answer.headers.all("www-authenticate").join(" AND ")
    };
    assert_eq!(asked(Request::get("/v2/")).await, challenge(""));
    let digest = sha256(b"");
    for (request, scope) in [
        (Request::get("/v2/team/app/manifests/x"), "repository:team/app:pull"),
        (Request::post("/v2/team/app/blobs/uploads/"), "repository:team/app:pull,push"),
        (Request::delete(format!("/v2/team/app/blobs/{digest}")), "repository:team/app:delete"),
        (Request::get("/v2/_catalog"), "registry:catalog:*"),
    ] {
        let expected = challenge(&format!(",scope=\"{scope}\""));
        assert_eq!(asked(request.clone()).await, expected);
        // A wrong password is no token: nothing is said of one.
        assert_eq!(asked(request.login("alice", "wrong")).await, expected);
    }
}

#[tokio::test]
async fn passwords_are_taken_beside_tokens() {
    let (upstream, gateway) = both().await;
    gateway.ask(Request::get("/v2/").login("alice", "secret")).await.is(200);
    upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(Request::get("/v2/team/app/manifests/x").login("bob", "hunter2")).await.is(200);
    upstream.expect("GET", "/v2/public/app/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.get("/v2/public/app/manifests/x").await.is(200);
}

#[tokio::test]
async fn a_token_opens_what_it_was_asked_for() {
    let (upstream, gateway) = both().await;
    let answer = ask(&gateway, "alice", "scope=repository:team/app:pull,push&account=alice").await.is(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    assert_eq!((&json["token"], json["expires_in"].as_u64()), (&json["access_token"], Some(300)));
    assert!(json["issued_at"].as_str().unwrap().ends_with('Z') && json.get("refresh_token").is_none());
    let token = json["token"].as_str().unwrap();
    assert_eq!(access(token), json!([grant("team/app", &["pull", "push"])]));
    let claims = part(token, 1);
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["sub"]),
        (&json!("dockgate"), &json!("dockgate"), &json!("alice"))
    );
    upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(with(Request::get("/v2/team/app/manifests/x"), token)).await.is(200);
    upstream.expect("PUT", "/v2/team/app/manifests/x", Reply::status(201));
    gateway.ask(with(Request::put("/v2/team/app/manifests/x").body("{}"), token)).await.is(201);
    gateway.ask(with(Request::get("/v2/"), token)).await.is(200);
}

#[tokio::test]
async fn a_token_that_is_too_narrow_is_told_the_scope() {
    let (upstream, gateway) = both().await;
    let narrow = token(&gateway, "alice", "repository:team/app:pull").await;
    for (request, scope) in [
        (Request::put("/v2/team/app/manifests/x").body("{}"), "repository:team/app:pull,push"),
        (Request::get("/v2/team/other/manifests/x"), "repository:team/other:pull"),
        (Request::get("/v2/team/app/x/manifests/x"), "repository:team/app/x:pull"),
    ] {
        let answer = gateway.ask(with(request, &narrow)).await.refuses(401, "UNAUTHORIZED");
        let expected = challenge(&format!(",scope=\"{scope}\",error=\"insufficient_scope\""));
        assert_eq!(answer.header("www-authenticate"), Some(expected.as_str()));
    }
    // No token helps against the rules.
    let answer = gateway.ask(with(Request::get("/v2/secret/app/manifests/x"), &narrow)).await;
    assert_eq!(answer.refuses(403, "DENIED").header("www-authenticate"), None);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn anonymous_clients_get_tokens_for_what_is_public() {
    let (upstream, gateway) = both().await;
    let scopes = "repository:public/app:pull,push+repository:team/app:pull";
    let nobody = token(&gateway, "", scopes).await;
    assert_eq!(
        (part(&nobody, 1)["sub"].as_str(), access(&nobody)),
        (Some(""), json!([grant("public/app", &["pull"])]))
    );
    upstream.expect("GET", "/v2/public/app/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(with(Request::get("/v2/public/app/manifests/x"), &nobody)).await.is(200);
    let answer = gateway.ask(with(Request::get("/v2/team/app/manifests/x"), &nobody)).await.is(401);
    assert!(answer.header("www-authenticate").unwrap().ends_with(",error=\"insufficient_scope\""));
    gateway.ask(with(Request::get("/v2/"), &nobody)).await.is(200);
    // podman logs in with an empty name and password when it has none.
    gateway.ask(Request::get("/token").login("", "")).await.is(200);
}

#[tokio::test]
async fn without_public_repositories_anonymous_clients_get_no_token() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().auth("challenge = \"bearer\"").user("alice", "secret");
    let gateway = gateway.upstream("up", "", upstream.address).start().await;
    for request in [Request::get("/token"), Request::get("/token?scope=repository:a:pull").login("", "")] {
        let answer = gateway.ask(request).await.refuses(401, "UNAUTHORIZED");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"dockgate\""));
    }
    gateway.ask(Request::get("/token").login("alice", "secret")).await.is(200);
}

#[tokio::test]
async fn wrong_passwords_get_the_same_401_by_get_and_post() {
    let (_upstream, gateway) = both().await;
    let form =
        |user: &str, password: &str| format!("grant_type=password&username={user}&password={password}");
    let mut answers = Vec::new();
    for (user, password) in [("alice", "wrong"), ("ghost", "secret"), ("alice", "")] {
        answers.push(
            gateway.ask(Request::get("/token?scope=repository:public/app:pull").login(user, password)).await,
        );
        answers.push(gateway.ask(Request::post("/token").body(form(user, password))).await);
    }
    answers.push(gateway.ask(Request::post("/token").body(form("a:b", "c"))).await);
    for answer in answers {
        assert_eq!(
            answer.text(),
            "{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"authentication required\",\"detail\":null}]}"
        );
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Basic realm=\"dockgate\""))
        );
    }
}

#[tokio::test]
async fn guessing_by_post_is_slowed_down_too() {
    let (_upstream, gateway) = both().await;
    let mut client = gateway.connect().await;
    for number in 0..50 {
        let form = format!("grant_type=password&username=alice&password=guess{number}");
        let answer = client.ask(&Request::post("/token").body(form)).await;
        if answer.status == 429 {
            assert!(answer.header("retry-after").is_some());
            // The same throttle stands before every path.
            let answer = client.ask(&Request::get("/v2/").login("alice", "another")).await;
            return assert_eq!(answer.status, 429);
        }
        answer.is(401);
    }
    panic!("nothing slows guessing down");
}

/// docker sends the password of Docker Hub to a mirror, with every pull and from every machine of an office.
#[tokio::test]
async fn repeated_stray_passwords_lock_nobody_out() {
    let (_upstream, gateway) = both().await;
    let mut client = gateway.connect().await;
    for _ in 0..15 {
        for user in ["alice", "stranger"] {
            let form = format!("grant_type=password&username={user}&password=of-the-hub");
            client.ask(&Request::post("/token").body(form)).await.is(401);
            client.ask(&Request::get("/token").login(user, "of-the-hub")).await.is(401);
            client.ask(&Request::get("/v2/").login(user, "of-the-hub")).await.is(401);
        }
    }
    let form = "grant_type=password&username=alice&password=secret";
    client.ask(&Request::post("/token").body(form)).await.is(200);
    client.ask(&Request::get("/token").login("bob", "hunter2")).await.is(200);
}

#[tokio::test]
async fn guessing_at_tokens_throttles_no_other_address() {
    let (_upstream, gateway) = both().await;
    let mut guesser = gateway.connect_from([127, 0, 0, 3]).await;
    let mut throttled = false;
    for number in 0..20 {
        let form = format!("grant_type=password&username=alice&password=guess{number}");
        throttled |= guesser.ask(&Request::post("/token").body(form)).await.status == 429;
    }
    assert!(throttled);
    let mut alice = gateway.connect_from([127, 0, 0, 4]).await;
    alice.ask(&Request::get("/token").login("alice", "secret")).await.is(200);
    // Nor is the guesser, once the password is known to be right, for the requests of that login.
    guesser.ask(&Request::get("/token").login("alice", "secret")).await.is(200);
}

#[tokio::test]
async fn odd_scopes_are_bounded_and_granted_nothing() {
    let (_upstream, gateway) = both().await;
    let many: String = (0..1500).map(|n| format!("&scope=repository:public/a{n}:pull")).collect();
    let answer = gateway.get(&format!("/token?service=dockgate{many}")).await.is(200).json();
    assert_eq!(access(answer["token"].as_str().unwrap()).as_array().map(Vec::len), Some(100));
    let long = "a/".repeat(3000);
    for scope in [
        "repository:public/app%0d%0aX-Evil:pull",
        "repository:public/app%00:pull",
        "repository:public/%E2%80%AEapp:pull",
        "repository:public/../team/app:pull",
        "repository:public//app:pull",
        "repository:Public/app:pull",
        "repository:public/app:PULL",
        "repository(a%0ab):public/app:pull",
        "repository::pull",
        ":::",
        long.as_str(),
    ] {
        let answer = ask(&gateway, "alice", &format!("scope={scope}")).await.is(200).json();
        assert_eq!(access(answer["token"].as_str().unwrap()), json!([]), "{scope}");
    }
    let form = format!(
        "grant_type=password&username=alice&password=secret&scope=repository:team/app%0a:pull+{}",
        "x:y:z+".repeat(9000)
    );
    let answer = gateway.ask(Request::post("/token").body(form)).await.is(200).json();
    assert_eq!(answer["scope"], "");
    let form = format!("grant_type=password&username=alice&password={}", "x".repeat(70_000));
    gateway.ask(Request::post("/token").body(form)).await.is(400);
}

#[tokio::test]
async fn post_answers_the_password_grant_with_its_scope() {
    let (_upstream, gateway) = both().await;
    let post = |form: &str| gateway.ask(Request::post("/token").body(form));
    let right = "grant_type=password&service=dockgate&client_id=x&username=bob&password=hunter2";
    let scopes = "scope=repository:team/app:pull,push+repository:secret:pull&scope=repository:team/b:pull";
    let json = post(&format!("{right}&{scopes}&access_type=offline")).await.is(200).json();
    assert_eq!(json["scope"], "repository:team/app:pull repository:team/b:pull");
    assert_eq!(
        access(json["access_token"].as_str().unwrap()),
        json!([grant("team/app", &["pull"]), grant("team/b", &["pull"])])
    );
    assert!(
        json.get("refresh_token").is_none() && json["expires_in"] == 300 && json["issued_at"].is_string()
    );
    for other in ["grant_type=refresh_token&refresh_token=x", "", "{}", "username=bob&password=hunter2"] {
        post(other).await.is(404);
    }
    let twice = Request::post("/token").body(right).login("alice", "secret");
    gateway.ask(twice).await.is(400);
    let answer = gateway.ask(Request::put("/token")).await.is(405);
    assert_eq!(answer.header("allow"), Some("GET, POST"));
}

#[tokio::test]
async fn every_form_of_scope_gets_what_the_rules_allow() {
    let (_upstream, gateway) = both().await;
    let granted = async |scopes: &str| {
        let json = ask(&gateway, "alice", scopes).await.is(200).json();
        access(json["token"].as_str().unwrap())
    };
    let app = |actions: &[&str]| json!([grant("team/app", actions)]);
    assert_eq!(granted("scope=repository:team/app:*").await, app(&["pull", "push", "delete"]));
    assert_eq!(granted("scope=repository:localhost:80/team/app:pull").await, app(&["pull"]));
    let plugin =
        json!([{ "type": "repository", "class": "plugin", "name": "team/app", "actions": ["pull"] }]);
    assert_eq!(granted("scope=repository(plugin):team/app:pull").await, plugin);
    assert_eq!(
        granted("scope=repository:team/app:pull&scope=repository:team/app:delete").await,
        app(&["pull", "delete"])
    );
    for nothing in [
        "",
        "scope=",
        "scope=repository:team/app:",
        "scope=repository:other/app:pull",
        "scope=repository:Team/app:pull",
        "scope=repository:evil.example:5000/team/app:pull",
        "scope=repository:team/../team/app:pull",
        "scope=registry:team/app:pull",
        "scope=plugin:team/app:pull",
        "scope=registry:catalog:pull",
        "scope=aws",
    ] {
        assert_eq!(granted(nothing).await, json!([]), "{nothing}");
    }
    assert_eq!(
        granted("scope=registry:catalog:*").await,
        json!([{"type": "registry", "name": "catalog", "actions": ["*"]}])
    );
}

#[tokio::test]
async fn tokens_hold_canonical_names_however_they_were_asked() {
    let upstream = Upstream::start().await;
    let lines = "hosts = [\"hub.example\"]";
    let rule = ["library/**", "hub/**"];
    let gateway = Gateway::builder().auth("challenge = \"bearer\"").user("alice", "secret").rule(
        &["alice"],
        &rule,
        &["pull"],
    );
    let gateway = gateway.upstream_with("docker.io", "hub", upstream.address, lines).start().await;
    let canonical = json!([grant("hub/library/nginx", &["pull"])]);
    let granted = async |path: &str, host: &str, name: &str| {
        let request = Request::get(format!("{path}?scope=repository:{name}:pull")).header("Host", host);
        let json = gateway.ask(request.login("alice", "secret")).await.is(200).json();
        access(json["token"].as_str().unwrap())
    };
    for (path, host, name) in [
        ("/token", "localhost", "hub/library/nginx"),
        ("/token", "localhost", "hub/nginx"),
        ("/token", "hub.example", "library/nginx"),
        ("/token", "hub.example", "nginx"),
        ("/hub/token", "localhost", "library/nginx"),
        ("/hub/token", "localhost", "nginx"),
    ] {
        assert_eq!(granted(path, host, name).await, canonical, "{path} {host} {name}");
    }
    // Without a catch-all, a name without prefix is no repository.
    assert_eq!(granted("/token", "localhost", "library/nginx").await, json!([]));
    // The challenge of each way leads there.
    for (target, host, realm, scope) in [
        ("/v2/hub/nginx/manifests/1", "localhost", "http://localhost/token", "hub/nginx"),
        (
            "/v2/library/nginx/manifests/1?ns=docker.io",
            "localhost",
            "http://localhost/token",
            "hub/library/nginx",
        ),
        (
            "/hub/v2/nginx/manifests/1?ns=docker.io",
            "localhost",
            "http://localhost/token",
            "hub/library/nginx",
        ),
        ("/hub/v2/nginx/manifests/1", "localhost", "http://localhost/hub/token", "nginx"),
        ("/v2/nginx/manifests/1", "hub.example", "http://hub.example/token", "nginx"),
        ("/v2/nginx/manifests/1?ns=quay.io", "localhost", "http://localhost/token", "quay.io/nginx"),
    ] {
        let answer = gateway.ask(Request::get(target).header("Host", host)).await.is(401);
        let expected =
            format!("Bearer realm=\"{realm}\",service=\"dockgate\",scope=\"repository:{scope}:pull\"");
        assert_eq!(answer.header("www-authenticate"), Some(expected.as_str()), "{target}");
    }
    let token =
        gateway.ask(Request::get("/token?scope=repository:hub/library/nginx:pull").login("alice", "secret"));
    let token = token.await.json()["token"].as_str().unwrap().to_owned();
    let get = |target: &str| with(Request::get(target), &token);
    for way in [
        get("/v2/hub/nginx/manifests/1"),
        get("/v2/library/nginx/manifests/1?ns=docker.io"),
        get("/hub/v2/nginx/manifests/1"),
        get("/v2/nginx/manifests/1").header("Host", "hub.example"),
    ] {
        upstream.expect("GET", "/v2/library/nginx/manifests/1", Reply::ok(EMPTY_INDEX));
        gateway.ask(way).await.is(200);
    }
}

#[tokio::test]
async fn the_realm_is_the_external_url_but_for_virtual_hosts() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().auth("challenge = \"bearer\"").user("alice", "secret");
    let builder = builder.server("external_url = \"https://registry.example.com\"");
    let gateway =
        builder.upstream_with("up", "", upstream.address, "hosts = [\"hub.example\"]").start().await;
    let realm = async |host: &str| {
        let answer = gateway.ask(Request::get("/v2/").header("Host", host)).await.is(401);
        answer.header("www-authenticate").unwrap().split('"').nth(1).unwrap().to_owned()
    };
    assert_eq!(realm("127.0.0.1:5000").await, "https://registry.example.com/token");
    assert_eq!(realm("hub.example:8080").await, "http://hub.example:8080/token");
    gateway.ask(Request::get("/v2/").header("Host", "evil.example")).await.is(421);
    gateway.ask(Request::get("/token").header("Host", "evil.example").login("alice", "secret")).await.is(421);
}

/// Checks that a token is refused as one that is no good.
async fn invalid(gateway: &Gateway, token: &str, what: &str) {
    let request = with(Request::get("/v2/team/app/manifests/x"), token);
    let answer = gateway.ask(request).await;
    let expected = challenge(",scope=\"repository:team/app:pull\",error=\"invalid_token\"");
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some(expected.as_str())), "{what}");
}

#[tokio::test]
async fn forged_tokens_are_invalid() {
    let (upstream, gateway) = both().await;
    let good = token(&gateway, "alice", "repository:team/app:pull").await;
    upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
    let same = forged(&gateway, &good, |_, _| ());
    gateway.ask(with(Request::get("/v2/team/app/manifests/x"), &same)).await.is(200);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let unsigned = |algorithm: &str| {
        let mut header = part(&good, 0);
        header["alg"] = json!(algorithm);
        format!("{}.{claims}", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    for algorithm in ["none", "NONE", "nOnE"] {
        invalid(&gateway, &format!("{}.", unsigned(algorithm)), algorithm).await;
        invalid(&gateway, &format!("{}.{signature}", unsigned(algorithm)), algorithm).await;
    }
    // HS256 with the public parts of the key as its secret.
    let jwks = gateway.get("/.well-known/jwks.json").await.is(200).json();
    let certificate = STANDARD.decode(jwks["keys"][0]["x5c"][0].as_str().unwrap()).unwrap();
    let pem = std::fs::read(gateway.path(KEY_FILE)).unwrap();
    for secret in [jwks.to_string().into_bytes(), certificate, pem, b"".to_vec()] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let signed = unsigned("HS256");
        let tag = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes()));
        invalid(&gateway, &format!("{signed}.{tag}"), "HS256").await;
    }
    // A key that the token brings itself.
    let (_, other) = both().await;
    let foreign = token(&other, "alice", "repository:team/app:pull").await;
    invalid(&gateway, &foreign, "another gateway's").await;
    let jwk = other.get("/.well-known/jwks.json").await.json()["keys"][0].clone();
    for kid in [part(&foreign, 0)["kid"].clone(), part(&good, 0)["kid"].clone(), json!(null)] {
        let token = forged(&other, &foreign, |header, _| {
            header["kid"] = kid;
            header["jwk"] = jwk.clone();
            header["jku"] = json!("http://127.0.0.1/jwks.json");
        });
        invalid(&gateway, &token, "with its own jwk").await;
    }
    for (what, token) in [
        ("changed claims", format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode("{}"))),
        ("no signature", format!("{signed}.")),
        ("padding", format!("{good}=")),
        ("case", good.to_uppercase()),
        ("garbage", "abc".to_owned()),
    ] {
        invalid(&gateway, &token, what).await;
    }
}

#[tokio::test]
async fn a_token_for_another_purpose_is_invalid() {
    let (_upstream, gateway) = both().await;
    let good = token(&gateway, "alice", "repository:team/app:pull").await;
    type Change = fn(&mut Value, &mut Value);
    let changes: &[(&str, Change)] = &[
        ("audience", |_, claims| claims["aud"] = json!("other")),
        ("audience of robots", |_, claims| claims["aud"] = json!("robot:dockgate")),
        ("issuer", |_, claims| claims["iss"] = json!("Dockgate")),
        ("type", |header, _| header["typ"] = json!("robot+jwt")),
        ("no type", |header, _| header["typ"] = json!(null)),
        ("expired", |_, claims| claims["exp"] = json!(now() - 70)),
        ("no end", |_, claims| claims["exp"] = json!(null)),
        ("not yet", |_, claims| claims["nbf"] = json!(now() + 70)),
        ("another's name", |_, claims| claims["sub"] = json!("bob")),
        ("another provider", |_, claims| claims["dockgate"]["provider"] = json!("anonymous")),
        ("critical", |header, _| header["crit"] = json!(["exp"])),
    ];
    for (what, change) in changes {
        invalid(&gateway, &forged(&gateway, &good, change), what).await;
    }
    for (what, request) in [
        ("as a password", Request::get("/v2/").login("alice", &good)),
        ("as a robot's", Request::get("/v2/").login("alice", &format!("dgr_{good}"))),
        ("for another token", with(Request::get("/token"), &good)),
    ] {
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status, 401, "{what}");
    }
}

#[tokio::test]
async fn a_token_ends_with_the_password_and_with_the_rules() {
    let (upstream, gateway) = both().await;
    let (alice, bob) = (
        token(&gateway, "alice", "repository:team/app:pull").await,
        token(&gateway, "bob", "repository:team/app:pull").await,
    );
    let status =
        async |token: &str| gateway.ask(with(Request::get("/v2/team/app/manifests/x"), token)).await.status;
    for token in [&alice, &bob] {
        upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
        assert_eq!(status(token).await, 200);
    }
    gateway.reconfigure("users = [\"bob\"]", "users = [\"carol\"]");
    assert_eq!(status(&bob).await, 403);
    gateway.rewrite("htpasswd", &htpasswd(&[("alice".to_owned(), "changed".to_owned())]));
    invalid(&gateway, &alice, "the password has changed").await;
    invalid(&gateway, &bob, "the user is gone").await;
}

#[tokio::test]
async fn revoked_tokens_are_refused_at_once() {
    let (upstream, gateway) = both().await;
    let (one, two) = (
        token(&gateway, "alice", "repository:team/app:pull").await,
        token(&gateway, "alice", "repository:team/app:pull").await,
    );
    gateway.rewrite("revoked", &format!("# lost\n{}\n", part(&one, 1)["jti"].as_str().unwrap()));
    invalid(&gateway, &one, "revoked").await;
    upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(with(Request::get("/v2/team/app/manifests/x"), &two)).await.is(200);
}

#[tokio::test]
async fn an_upload_outlives_its_token() {
    let (_registry, address) = demo_registry().await;
    let gateway = ruled().upstream("up", "", address).start().await;
    let good = token(&gateway, "alice", "repository:team/app:pull,push").await;
    let content = noise(1000);
    let begun = gateway.ask(with(Request::post("/v2/team/app/blobs/uploads/"), &good)).await.is(202);
    let dead = forged(&gateway, &good, |_, claims| claims["exp"] = json!(now() - 3600));
    let location = begun.header("location").unwrap().to_owned();
    // Only for its holder, only for this upload, and not for ever.
    let bob = token(&gateway, "bob", "repository:team/app:pull").await;
    let bob = forged(&gateway, &bob, |_, claims| claims["exp"] = json!(now() - 3600));
    let old = forged(&gateway, &good, |_, claims| claims["exp"] = json!(now() - 90_000));
    for token in [&bob, &old] {
        gateway.ask(with(Request::patch(&location).body("x"), token)).await.is(401);
    }
    for request in [
        Request::post("/v2/team/app/blobs/uploads/"),
        Request::get("/v2/team/app/manifests/x"),
        Request::patch("/v2/team/app/blobs/uploads/made-up").body("x"),
        Request::get("/v2/"),
    ] {
        gateway.ask(with(request, &dead)).await.is(401);
    }
    let patched = gateway.ask(with(Request::patch(&location).body(content.clone()), &dead)).await.is(202);
    let put = format!("{}?digest={}", patched.header("location").unwrap(), sha256(&content));
    gateway.ask(with(Request::put(put.as_str()), &dead)).await.is(201);
    // The rules and what is revoked still count.
    let begun = gateway.ask(with(Request::post("/v2/team/app/blobs/uploads/"), &good)).await.is(202);
    gateway.rewrite("revoked", part(&good, 1)["jti"].as_str().unwrap());
    let location = begun.header("location").unwrap().to_owned();
    gateway.ask(with(Request::patch(&location).body("x"), &dead)).await.is(401);
}

#[tokio::test]
async fn a_mount_needs_the_source_in_the_token() {
    let (upstream, gateway) = both().await;
    let digest = sha256(b"x");
    let target = format!("/v2/team/b/blobs/uploads/?mount={digest}&from=team/a");
    let both = token(&gateway, "alice", "repository:team/b:pull,push+repository:team/a:pull").await;
    let mounted = format!("/v2/team/b/blobs/uploads/?mount={}&from=team%2Fa", digest.replace(':', "%3A"));
    upstream.expect("POST", mounted.as_str(), Reply::status(201).header("Docker-Content-Digest", &digest));
    gateway.ask(with(Request::post(&target), &both)).await.is(201);
    let one = token(&gateway, "alice", "repository:team/b:pull,push").await;
    let session = Reply::status(202).header("Location", "/v2/team/b/blobs/uploads/1");
    upstream.expect("POST", "/v2/team/b/blobs/uploads/", session);
    gateway.ask(with(Request::post(&target), &one)).await.is(202);
}

#[tokio::test]
async fn the_catalog_of_a_token_shows_what_its_holder_may_pull() {
    let upstream = Upstream::start().await;
    let gateway =
        ruled().rule(&["bob"], &["**"], &["catalog"]).upstream("up", "", upstream.address).start().await;
    let bob = token(&gateway, "bob", "registry:catalog:*").await;
    let all = json!({ "repositories": ["public/a", "secret/a", "team/a"] }).to_string();
    upstream.expect("GET", "/v2/_catalog?n=1000", Reply::ok(all.as_str()));
    let answer = gateway.ask(with(Request::get("/v2/_catalog"), &bob)).await.is(200);
    assert_eq!(answer.json(), json!({ "repositories": ["public/a", "team/a"] }));
    let narrow = token(&gateway, "bob", "repository:team/a:pull").await;
    gateway.ask(with(Request::get("/v2/_catalog"), &narrow)).await.is(401);
}

#[tokio::test]
async fn the_key_is_made_once_for_its_owner_and_can_be_rotated() {
    let (upstream, gateway) = both().await;
    let mode = std::fs::metadata(gateway.path(KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let keys = async || {
        gateway.get("/.well-known/jwks.json").await.is(200).json()["keys"].as_array().unwrap().clone()
    };
    let before = keys().await;
    let old = token(&gateway, "alice", "repository:team/app:pull").await;
    assert_eq!((before.len(), &before[0]["kid"]), (1, &part(&old, 0)["kid"]));
    assert!(before[0].get("d").is_none() && before[0]["alg"] == "ES256");
    let (_, other) = both().await;
    gateway.rewrite(KEY_FILE, &std::fs::read_to_string(other.path(KEY_FILE)).unwrap());
    let after = keys().await;
    assert_eq!((after.len(), &after[1]), (2, &before[0]), "the old key stays while its tokens live");
    let new = token(&gateway, "alice", "repository:team/app:pull").await;
    assert_eq!(part(&new, 0)["kid"], after[0]["kid"]);
    // A replica has the same key.
    let foreign = token(&other, "alice", "repository:team/app:pull").await;
    assert_eq!(part(&foreign, 0)["kid"], after[0]["kid"]);
    for token in [&old, &new] {
        upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
        gateway.ask(with(Request::get("/v2/team/app/manifests/x"), token)).await.is(200);
    }
}

#[tokio::test]
async fn tokens_outlive_the_rotation_of_the_key_and_a_restart() {
    let (upstream, gateway) = both().await;
    let old = token(&gateway, "alice", "repository:team/app:pull").await;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dockgate"));
    command.args(["token", "rotate", "--config"]).arg(gateway.path("dockgate.toml"));
    let output = command.env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let rotated = std::fs::read_to_string(gateway.path(KEY_FILE)).unwrap();
    gateway.rewrite(KEY_FILE, &rotated);
    let new = token(&gateway, "alice", "repository:team/app:pull").await;
    let keys = gateway.get("/.well-known/jwks.json").await.json()["keys"].clone();
    assert_eq!((&keys[0]["kid"], &keys[1]["kid"]), (&part(&new, 0)["kid"], &part(&old, 0)["kid"]));
    for token in [&old, &new] {
        upstream.expect("GET", "/v2/team/app/manifests/x", Reply::ok(EMPTY_INDEX));
        gateway.ask(with(Request::get("/v2/team/app/manifests/x"), token)).await.is(200);
    }
    // A gateway that starts with the file knows both.
    let builder = ruled().upstream("up", "", upstream.address);
    let restarted = builder
        .auth("challenge = \"auto\"\n[auth.token]\nkey = \"rotated.pem\"")
        .file("rotated.pem", &rotated);
    let keys = restarted.start().await.get("/.well-known/jwks.json").await.json()["keys"].clone();
    assert_eq!((&keys[0]["kid"], &keys[1]["kid"]), (&part(&new, 0)["kid"], &part(&old, 0)["kid"]));
}

#[tokio::test]
async fn without_a_token_service_there_is_no_token_path() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::builder().user("alice", "secret").upstream("up", "", upstream.address).start().await;
    for path in ["/token", "/.well-known/jwks.json"] {
        gateway.ask(Request::get(path).login("alice", "secret")).await.is(404);
        gateway.get(path).await.is(404);
    }
    assert!(!gateway.path(KEY_FILE).exists());
    let answer = gateway.ask(with(Request::get("/v2/"), "abc")).await.is(401);
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"dockgate\""));
}
