//! The times of refused logins: none tells whether a user exists, or which of the checks failed.

use std::time::Duration;

use dockgate::internals::{Secret, clock, htpasswd};
use serde_json::json;

use crate::access_tokens::forged;
use crate::harness::{Gateway, Request, Upstream};
use crate::robots::minted;
use crate::workloads::{Platform, now};

/// The cost of one user's hash. A check of it takes tens of milliseconds, and that of the other users' none.
const COSTLIEST: u32 = 9;

/// Returns the least time of several refusals of one request.
async fn least(gateway: &Gateway, request: &Request, of: &str) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        let begun = clock::now();
        let answer = client.ask(request).await;
        least = least.min(clock::now() - begun);
        assert_eq!(answer.status, 401, "{of}: {}", answer.text());
    }
    least
}

fn form(user: &str, password: &str) -> Request {
    Request::post("/token").body(format!("grant_type=password&username={user}&password={password}"))
}

#[tokio::test]
async fn no_refusal_is_quicker_than_that_of_an_unknown_user() {
    let (platform, upstream) = (Platform::start().await, Upstream::start().await);
    let builder = platform.before("[auth.token]\nrevoked = \"revoked\"").file("revoked", "");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let dear = htpasswd::hash(&Secret::new("secret"), COSTLIEST).unwrap();
    let cheap = std::fs::read_to_string(gateway.path("htpasswd")).unwrap();
    gateway.rewrite("htpasswd", &format!("{cheap}dear:{dear}\n"));
    let (robot, id) = minted(&gateway, &["**:pull"]);
    gateway.rewrite("revoked", &id);
    let (alive, _) = minted(&gateway, &["**:pull"]);
    let alive = alive.strip_prefix("dgr_").unwrap();
    let expired = forged(&gateway, alive, |_, claims| claims["exp"] = json!(now() - 300));
    let other = |name: &str, value| {
        let mut claims = platform.claims();
        claims[name] = value;
        platform.sign(&claims)
    };
    let mut forged_late = platform.token();
    forged_late.replace_range(forged_late.len() - 8.., "AAAAAAAA");
    let strange_key = platform.sign_as(&json!({ "alg": "ES256", "kid": "other" }), &platform.claims());

    let unknown = least(&gateway, &Request::get("/v2/").login("ghost", "secret"), "an unknown user").await;
    let pairs = [
        ("ghost", "other"),
        ("alice", "wrong"),
        ("dear", "wrong"),
        ("", "wrong"),
        ("a:b", "wrong"),
        ("alice", "dgr_x"),
        ("ghost", &robot),
        ("alice", &format!("dgr_{expired}")),
        ("github", "wrong"),
        ("github", &forged_late),
        ("github", &strange_key),
        ("github", &other("iss", json!("https://other.example"))),
        ("github", &other("exp", json!(now() - 300))),
        ("github", &other("repository_owner", json!("evil"))),
    ];
    let mut asked: Vec<(String, Request)> = Vec::new();
    for (user, password) in pairs {
        let shown = format!("{user}, {}", &password[..password.len().min(12)]);
        asked.push((format!("POST {shown}"), form(user, password)));
        if user != "a:b" {
            asked.push((format!("GET {shown}"), Request::get("/token").login(user, password)));
            asked.push((format!("/v2/ {shown}"), Request::get("/v2/").login(user, password)));
        }
    }
    for token in
        ["x", "x.y.z", &forged_late, &strange_key, &other("iss", json!("https://other.example")), alive]
    {
        let shown = format!("bearer {}", &token[..token.len().min(12)]);
        asked.push((shown, Request::get("/v2/").header("Authorization", format!("Bearer {token}"))));
    }
    for (shown, request) in asked {
        let took = least(&gateway, &request, &shown).await;
        assert!(took > unknown / 2, "{shown}: {took:?}, and an unknown user {unknown:?}");
    }
}
