//! Workloads that log in by the tokens of their platform.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dockgate::internals::clock;
use serde_json::{Value, json};

use crate::access_tokens::forged;
use crate::harness::{Builder, EMPTY_INDEX, Gateway, IssuerKey, Reply, Request, Upstream, demo_registry};

const MANIFEST: &str = "/v2/team/app/manifests/1.0";

/// A platform that signs tokens, and serves its keys.
pub(crate) struct Platform {
    upstream: Upstream,
    issuer: String,
    key: Arc<Mutex<IssuerKey>>,
}

pub(crate) fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let upstream = Upstream::start().await;
        let issuer = format!("http://{}", upstream.address);
        let key = Arc::new(Mutex::new(IssuerKey::new()));
        let (shown, own) = (key.clone(), issuer.clone());
        upstream.always("GET", "/.well-known/openid-configuration", move |_| {
            let document = json!({ "issuer": own, "jwks_uri": format!("{own}/keys") });
            Reply::ok(document.to_string())
        });
        upstream.always("GET", "/keys", move |_| Reply::ok(shown.lock().expect("a key").key_set()));
        Self { upstream, issuer, key }
    }

    pub(crate) fn claims(&self) -> Value {
        json!({
            "iss": self.issuer, "aud": "dockgate", "exp": now() + 300, "iat": now(), "sub": "x",
            "repository": "acme/app", "repository_owner": "acme",
        })
    }

    pub(crate) fn token(&self) -> String {
        self.sign(&self.claims())
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.key.lock().expect("a key").sign(claims)
    }

    pub(crate) fn sign_as(&self, header: &Value, claims: &Value) -> String {
        self.key.lock().expect("a key").sign_as(header, claims)
    }

    fn provider(&self) -> String {
        format!(
            "[[auth.oidc]]\nname = 'github'\nissuer = '{}'\naudience = 'dockgate'\nuser = 'repo:{{repository}}'\n\
             groups = ['org:{{repository_owner}}']\nrequire = {{ repository_owner = 'acme' }}\n",
            self.issuer
        )
    }

    /// A gateway that asks for passwords, or tokens, besides those of this platform.
    pub(crate) fn before(&self, more: &str) -> Builder {
        let auth = format!("challenge = \"basic\"\n{more}\n{}", self.provider());
        let builder = Gateway::builder().user("alice", "secret").auth(&auth);
        builder.rule(&["repo:acme/*"], &["team/**"], &["pull", "push"])
    }
}

fn served(upstream: &Upstream) {
    upstream.always("GET", MANIFEST, |_| Reply::ok(EMPTY_INDEX));
}

fn bearer(token: &str) -> Request {
    Request::get(MANIFEST).header("Authorization", format!("Bearer {token}"))
}

#[tokio::test]
async fn a_job_pulls_by_its_token_as_password_or_bearer() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let gateway = platform.before("").upstream("up", "", upstream.address).start().await;
    served(&upstream);
    let token = platform.token();
    gateway.ask(Request::get(MANIFEST).login("github", &token)).await.is(200);
    gateway.ask(bearer(&token)).await.is(200);
    gateway.ask(Request::get("/v2/other/app/manifests/1.0").login("github", &token)).await.is(403);
    let heard = platform.upstream.heard();
    let asked: Vec<_> = heard.iter().map(|heard| heard.target.as_str()).collect();
    assert_eq!(asked, ["/.well-known/openid-configuration", "/keys"], "its keys are asked for once");
    for heard in upstream.heard() {
        assert_eq!(heard.headers.get("authorization"), None, "no upstream sees the token");
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_not_anonymous() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let builder = platform.before("").rule(&["anonymous"], &["team/**"], &["pull"]);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    served(&upstream);
    let with = |name: &str, value: Value| {
        let mut claims = platform.claims();
        claims[name] = value;
        platform.sign(&claims)
    };
    let mut forged = platform.token();
    forged.replace_range(forged.len() - 8.., "AAAAAAAA");
    for token in [
        with("aud", json!("other")),
        with("repository_owner", json!("evil")),
        with("exp", json!(now() - 300)),
        with("repository", json!("acme/*")),
        forged,
        "x".to_owned(),
    ] {
        gateway.ask(Request::get(MANIFEST).login("github", &token)).await.is(401);
        gateway.ask(bearer(&token)).await.is(401);
    }
    // Only under the provider's name, and only a token.
    gateway.ask(Request::get(MANIFEST).login("alice", &platform.token())).await.is(401);
    gateway.ask(Request::get(MANIFEST).login("github", "secret")).await.is(401);
    gateway.ask(Request::get(MANIFEST)).await.is(200);
}

#[tokio::test]
async fn a_job_gets_an_access_token_that_ends_with_its_own() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let gateway = platform.before("[auth.token]").upstream("up", "", upstream.address).start().await;
    served(&upstream);
    let mut claims = platform.claims();
    claims["exp"] = json!(now() + 90);
    let ask = Request::get("/token?service=dockgate&scope=repository:team/app:pull,push,delete");
    let answer = gateway.ask(ask.login("github", &platform.sign(&claims))).await.is(200).json();
    let token = answer["token"].as_str().expect("a token");
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("claims")).expect("base64url");
    let payload: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_eq!(payload["sub"], "repo:acme/app");
    assert_eq!(payload["access"][0]["actions"], json!(["pull", "push"]));
    assert!(payload["exp"].as_u64().expect("a time") <= now() + 91, "{payload}");
    gateway.ask(bearer(token)).await.is(200);
    // What it demands is changed, and what was got by it ends.
    gateway.reconfigure("require = { repository_owner = 'acme' }", "require = { repository_owner = 'acm?' }");
    gateway.ask(bearer(token)).await.is(401);
    gateway.reconfigure("require = { repository_owner = 'acm?' }", "require = { repository_owner = 'acme' }");
    gateway.ask(bearer(token)).await.is(200);
    // The provider is removed: so is what was got by it.
    gateway.reconfigure(&platform.provider(), "");
    gateway.ask(bearer(token)).await.is(401);
}

/// Uploads outlive the token by which they began, but not the provider of its holder.
#[tokio::test]
async fn uploads_of_a_removed_provider_do_not_go_on() {
    let platform = Platform::start().await;
    let (_registry, address) = demo_registry().await;
    let gateway = platform.before("[auth.token]").upstream("up", "", address).start().await;
    let ask = Request::get("/token?service=dockgate&scope=repository:team/app:pull,push");
    let answer = gateway.ask(ask.login("github", &platform.token())).await.is(200).json();
    let token = answer["token"].as_str().expect("a token").to_owned();
    let dead = forged(&gateway, &token, |_, claims| claims["exp"] = json!(now() - 3600));
    let with = |request: Request, token: &str| request.header("Authorization", format!("Bearer {token}"));
    let begun = gateway.ask(with(Request::post("/v2/team/app/blobs/uploads/"), &token)).await.is(202);
    let location = begun.header("location").expect("a location").to_owned();
    let patched = gateway.ask(with(Request::patch(&location).body("x"), &dead)).await.is(202);
    let location = patched.header("location").expect("a location").to_owned();
    gateway.reconfigure(&platform.provider(), "");
    gateway.ask(with(Request::patch(&location).body("y"), &dead)).await.is(401);
}

#[tokio::test]
async fn groups_of_a_token_count_in_rules() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let auth =
        format!("challenge = \"basic\"\n{}[auth.groups]\n\"org:acme\" = ['nobody']\n", platform.provider());
    let builder = Gateway::builder().user("alice", "secret").auth(&auth);
    let builder = builder.rule_of_groups(&["org:acme"], &["team/**"], &["pull"]);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    served(&upstream);
    gateway.ask(Request::get(MANIFEST).login("github", &platform.token())).await.is(200);
    gateway.ask(Request::get(MANIFEST).login("alice", "secret")).await.is(403);
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_when_it_changes() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let set = platform.key.lock().expect("a key").key_set();
    let auth = platform.provider().replace("audience", "jwks = 'keys.json'\naudience");
    let builder = Gateway::builder().auth(&format!("challenge = \"basic\"\n{auth}")).file("keys.json", &set);
    let builder = builder.rule(&["repo:acme/*"], &["team/**"], &["pull"]);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    served(&upstream);
    let old = platform.token();
    gateway.ask(bearer(&old)).await.is(200);
    *platform.key.lock().expect("a key") = IssuerKey::new();
    let set = platform.key.lock().expect("a key").key_set();
    gateway.rewrite("keys.json", &set);
    gateway.ask(bearer(&platform.token())).await.is(200);
    gateway.ask(bearer(&old)).await.is(401);
    assert_eq!(platform.upstream.heard().len(), 0, "no issuer is asked");
}

#[tokio::test]
async fn an_issuer_without_keys_is_503_and_not_401() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let silent = Upstream::start().await;
    silent.always("GET", "/.well-known/openid-configuration", |_| Reply::status(404));
    let mut claims = platform.claims();
    claims["iss"] = json!(format!("http://{}", silent.address));
    let provider = platform.provider().replace(&platform.issuer, &format!("http://{}", silent.address));
    let builder = Gateway::builder().auth(&format!("challenge = \"basic\"\n{provider}"));
    let builder = builder.rule(&["repo:acme/*"], &["team/**"], &["pull"]);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let begun = clock::now();
    for _ in 0..5 {
        let answer = gateway.ask(bearer(&platform.sign(&claims))).await.is(503);
        assert!(answer.header("retry-after").is_some());
    }
    assert!(clock::now() - begun < Duration::from_secs(15));
    assert_eq!(silent.heard().len(), 1, "it is not asked again at once");
}

/// A job that made many requests with one token, and others that flood the gateway with tokens of made-up keys.
#[tokio::test]
async fn tokens_of_unknown_keys_cost_the_issuer_little() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let gateway = platform.before("").upstream("up", "", upstream.address).start().await;
    served(&upstream);
    gateway.ask(bearer(&platform.token())).await.is(200);
    let mut client = gateway.connect().await;
    for number in 0..50 {
        let header = json!({ "alg": "ES256", "kid": format!("made-up-{number}"), "typ": "JWT" });
        client.ask(&bearer(&platform.sign_as(&header, &platform.claims()))).await.is(401);
    }
    let mut claims = platform.claims();
    claims["jti"] = json!("another");
    gateway.ask(bearer(&platform.sign(&claims))).await.is(200);
    assert_eq!(platform.upstream.heard().len(), 2, "the keys were asked for once, in two steps");
}

#[tokio::test]
async fn malformed_tokens_are_refused_however_they_are_shown() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let gateway = platform.before("[auth.token]").upstream("up", "", upstream.address).start().await;
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = encode(&platform.claims().to_string());
    let header = encode(r#"{"alg":"ES256","kid":"k"}"#);
    let deep = encode(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)));
    for token in [
        format!("{header}.{deep}.AA"),
        format!("{deep}.{claims}.AA"),
        format!("{header}.{}.AA", "A".repeat(40_000)),
        format!("{}.{claims}.AA", encode(r#"{"alg":"none"}"#)),
        format!("{}.{claims}.", encode(r#"{"alg":"none"}"#)),
        format!("{}.{claims}.AA", encode(r#"{"alg":"ES256","alg":"none","kid":"k"}"#)),
        format!("{}.{claims}.AA", encode(r#"{"alg":"HS256","kid":"k"}"#)),
        format!("{header}.{claims}.{}", encode(&"x".repeat(64))),
        format!("{header}.{claims}.{claims}.AA"),
        format!("{header}..AA"),
        "...".to_owned(),
    ] {
        let shown = &token[..token.len().min(60)];
        assert_eq!(gateway.ask(bearer(&token)).await.status, 401, "{shown}");
        let form = format!("grant_type=password&username=github&password={token}");
        assert_eq!(gateway.ask(Request::post("/token").body(form)).await.status, 401, "{shown}");
        let basic = Request::get("/token").login("github", &token);
        assert_eq!(gateway.ask(basic).await.status, 401, "{shown}");
    }
}
