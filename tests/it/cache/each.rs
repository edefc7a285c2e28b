//! `pull_authorization = "each"`: every client's own credentials must pass at the upstream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parking_lot::{Mutex, MutexGuard};

use super::{gives, until, word};
use crate::harness::{
    Answer, BodyEnd, Gate, Gateway, Heard, Image, OCI_IMAGE, Origin, Reply, Request, Upstream, blob_at,
    manifest_at, noise, sha256,
};

const TAG: &str = "/v2/a/manifests/x";
const USERS: [&str; 2] = ["alice", "bob"];

/// A registry with users of its own, who may or may not read its one repository.
struct Registry {
    upstream: Upstream,
    state: Arc<Mutex<State>>,
    image: Image,
    blob: String,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// The users that may read; "" is every client.
    readers: HashSet<String>,
    contents: Vec<(String, String, Vec<u8>)>,
    ill: Option<u16>,
}

impl Registry {
    async fn start(readers: &[&str]) -> Self {
        let upstream = Upstream::start().await;
        let (image, bytes) = (Image::empty("one"), noise(100_000));
        let blob = blob_at("a", &bytes);
        let manifest = |target: &str| (target.to_owned(), OCI_IMAGE.to_owned(), image.manifest.clone());
        let contents = vec![
            manifest(TAG),
            manifest(&manifest_at("a", &image.digest)),
            (blob.clone(), "application/octet-stream".to_owned(), bytes.clone()),
        ];
        let readers = readers.iter().map(ToString::to_string).collect();
        let state = Arc::new(Mutex::new(State { readers, contents, ill: None }));
        let (known, address) = (state.clone(), upstream.address);
        upstream.otherwise(move |heard| Some(lock(&known).answer(heard, &format!("http://{address}/token"))));
        Self { upstream, state, image, blob, bytes }
    }

    async fn gateway(&self, lines: &str) -> Gateway {
        let lines = format!(
            "retries = 0\ncredentials.forward = true\n[upstream.cache]\npull_authorization = \"each\"\n{lines}"
        );
        let builder = Gateway::builder().upstream_with("up", "", self.upstream.address, &lines);
        let builder = builder.rule(&["forward/up:*", "anonymous"], &["**"], &["pull"]);
        builder.cache("prefetch = false").start().await
    }

    fn may(&self, user: &str) {
        lock(&self.state).readers.insert(user.to_owned());
    }

    fn may_not(&self, user: &str) {
        lock(&self.state).readers.remove(user);
    }

    fn falls_ill(&self, status: u16) {
        lock(&self.state).ill = Some(status);
    }

    /// The requests to the repository, by user.
    fn asked(&self) -> Vec<String> {
        let heard = self.upstream.heard();
        let of_repository = heard.iter().filter(|heard| heard.target.starts_with("/v2/a/"));
        let user = |heard: &Heard| bearer(heard, "pull-").map_or_else(|| "?".to_owned(), str::to_owned);
        of_repository.map(|heard| format!("{} {}", user(heard), heard.method)).collect()
    }

    /// The number of requests for content.
    fn downloads(&self) -> usize {
        let heard = self.upstream.heard();
        heard.iter().filter(|heard| heard.method == "GET" && heard.target == self.blob).count()
    }
}

impl State {
    fn answer(&self, heard: &Heard, realm: &str) -> Reply {
        if let Some(query) = heard.target.strip_prefix("/token?") {
            return self.token(heard, query);
        }
        if heard.target == "/v2/" {
            let known = bearer(heard, "login-").is_some();
            return if known { Reply::ok("{}") } else { wants_token(realm) };
        }
        let Some(user) = bearer(heard, "pull-") else { return wants_token(realm) };
        if let Some(status) = self.ill {
            return Reply::status(status);
        }
        if !self.readers.contains(user) && !self.readers.contains("") {
            return Reply::status(403);
        }
        let found = self.contents.iter().find(|(target, ..)| *target == heard.target);
        found.map_or_else(
            || Reply::status(404),
            |(target, kind, bytes)| {
                let reply = if target.contains("/blobs/") {
                    Origin::serve(bytes, &heard.headers)
                } else {
                    Reply::ok(bytes)
                };
                let reply =
                    if target.contains("/blobs/") { reply } else { reply.header("Content-Type", kind) };
                reply.header("Docker-Content-Digest", &sha256(bytes))
            },
        )
    }

    /// Logs in every user with the password "secret", and issues pull tokens, to anonymous clients too.
    fn token(&self, heard: &Heard, query: &str) -> Reply {
        let account = query.split('&').find_map(|pair| pair.strip_prefix("account=")).unwrap_or("");
        let shown = BASE64_STANDARD.encode(format!("{account}:secret"));
        let known = heard.headers.get("authorization") == Some(format!("Basic {shown}").as_str());
        // The invented user of the gateway's test whether names count is unknown here.
        let known = known && USERS.contains(&account);
        let scope = if query.contains("scope=") { "pull" } else { "login" };
        match (account, known) {
            ("", _) if scope == "pull" && !self.readers.contains("") => Reply::status(401),
            ("", _) | (_, true) => {
                Reply::ok(format!("{{\"token\":\"{scope}-{account}\",\"expires_in\":300}}"))
            }
            _ => Reply::status(401),
        }
    }
}

fn bearer<'a>(heard: &'a Heard, prefix: &str) -> Option<&'a str> {
    heard.headers.get("authorization")?.strip_prefix("Bearer ")?.strip_prefix(prefix)
}

fn wants_token(realm: &str) -> Reply {
    Reply::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",service=\"reg\""))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock()
}

async fn ask(gateway: &Gateway, user: &str, request: Request) -> Answer {
    gateway.ask(request.login(user, "secret")).await
}

async fn get(gateway: &Gateway, user: &str, target: &str) -> Answer {
    ask(gateway, user, Request::get(target)).await
}

/// Alice has pulled all there is.
async fn pulled_by_alice(registry: &Registry, lines: &str) -> Gateway {
    let gateway = registry.gateway(lines).await;
    get(&gateway, "alice", TAG).await.is(200);
    get(&gateway, "alice", &registry.blob).await.is(200);
    let kept = Request::get(&registry.blob).login("alice", "secret");
    until("it to be kept", &gateway, kept, |answer| ["HIT", "REVALIDATED"].contains(&word(answer))).await;
    registry.upstream.forget_heard();
    gateway
}

#[tokio::test]
async fn a_refused_client_is_denied_cached_content() {
    let registry = Registry::start(&["alice"]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"1h\"").await;
    let requests = [
        Request::get(TAG),
        Request::head(TAG),
        Request::get(manifest_at("a", &registry.image.digest)),
        Request::get(&registry.blob),
        Request::head(&registry.blob),
        Request::get(&registry.blob).header("Range", "bytes=0-9"),
    ];
    for request in requests {
        let method = request.method.clone();
        let answer = ask(&gateway, "bob", request).await.is(403);
        if method == "GET" {
            assert_eq!(answer.code(), "DENIED");
        }
        assert_eq!(word(&answer), "");
    }
    assert!(registry.asked().iter().any(|asked| asked.starts_with("bob")), "{:?}", registry.asked());
    gives(get(&gateway, "alice", &registry.blob).await, &registry.bytes, "HIT");
}

#[tokio::test]
async fn cached_and_missing_look_alike_without_permission() {
    let registry = Registry::start(&["alice"]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"1h\"").await;
    let is = get(&gateway, "bob", &registry.blob).await;
    let is_not = get(&gateway, "bob", &blob_at("a", b"nowhere")).await;
    assert_eq!((is.status, &is.body), (is_not.status, &is_not.body));
}

#[tokio::test]
async fn a_permitted_client_costs_a_question_and_no_download() {
    let registry = Registry::start(&["alice", "bob"]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"1h\"").await;
    for _ in 0..3 {
        assert!(get(&gateway, "bob", &registry.blob).await.is(200).body == registry.bytes);
        assert!(get(&gateway, "bob", TAG).await.is(200).body == registry.image.manifest);
    }
    assert_eq!(registry.downloads(), 0);
    let asked = registry.asked();
    let by_bob = asked.iter().filter(|asked| asked.starts_with("bob")).count();
    assert!((1..=2).contains(&by_bob), "{asked:?}");
}

#[tokio::test]
async fn a_grant_lives_as_long_as_a_tag() {
    let registry = Registry::start(&["alice"]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"1s\"").await;
    registry.may_not("alice");
    let refused = Request::get(&registry.blob).login("alice", "secret");
    until("the grant's end", &gateway, refused, |answer| answer.status == 403).await;
    registry.may("alice");
    assert!(get(&gateway, "alice", &registry.blob).await.is(200).body == registry.bytes);
}

#[tokio::test]
async fn a_grant_outlives_its_time_only_during_an_outage() {
    // One bad object is enough for a 500.
    let refusals = [(500, Some((502, "UNAVAILABLE"))), (429, Some((429, "TOOMANYREQUESTS"))), (503, None)];
    for (status, refusal) in refusals {
        let registry = Registry::start(&["alice"]).await;
        let gateway = pulled_by_alice(&registry, "tag_ttl = \"100ms\"\ngrant_stale = \"1h\"").await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        registry.falls_ill(status);
        let answer = get(&gateway, "alice", &registry.blob).await;
        if let Some((status, code)) = refusal {
            answer.refuses(status, code);
        } else {
            assert!(answer.is(200).body == registry.bytes);
            assert!(get(&gateway, "alice", TAG).await.is(200).body == registry.image.manifest);
        }
        // No client gets a new one.
        assert!(get(&gateway, "bob", &registry.blob).await.status >= 400);
    }
}

#[tokio::test]
async fn an_expired_grant_ends_while_the_upstream_fails() {
    let registry = Registry::start(&["alice"]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"100ms\"\ngrant_stale = \"0s\"").await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    registry.falls_ill(503);
    get(&gateway, "alice", &registry.blob).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_lasting_503_keeps_no_grant_past_grant_stale() {
    let registry = Registry::start(&["alice"]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"100ms\"\ngrant_stale = \"2s\"").await;
    let began = tokio::time::Instant::now();
    registry.falls_ill(503);
    tokio::time::sleep(Duration::from_millis(150)).await;
    get(&gateway, "alice", &registry.blob).await.is(200);
    // Each use is within the time of the last one, and prolongs nothing.
    while began.elapsed() < Duration::from_millis(2200) {
        get(&gateway, "alice", &registry.blob).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for target in [&registry.blob, TAG] {
        get(&gateway, "alice", target).await.refuses(502, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn a_wrong_password_gets_nothing_that_is_here() {
    let registry = Registry::start(&["alice"]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"1h\"").await;
    for target in [TAG, &registry.blob] {
        gateway.ask(Request::get(target).login("alice", "wrong")).await.refuses(401, "UNAUTHORIZED");
        let answer = gateway.get(target).await;
        assert!([401, 403, 404].contains(&answer.status), "{answer:?}");
    }
}

#[tokio::test]
async fn public_content_needs_no_grant() {
    let registry = Registry::start(&[""]).await;
    let gateway = pulled_by_alice(&registry, "tag_ttl = \"1h\"").await;
    for user in ["alice", "bob"] {
        gives(get(&gateway, user, &registry.blob).await, &registry.bytes, "HIT");
        gives(get(&gateway, user, TAG).await, &registry.image.manifest, "HIT");
    }
    gives(gateway.get(&registry.blob).await, &registry.bytes, "HIT");
    assert_eq!(registry.asked(), [""; 0], "nothing of the repository was asked for again");
}

#[tokio::test]
async fn two_waiters_of_one_blob_both_need_permission() {
    let registry = Registry::start(&["alice"]).await;
    let gateway = registry.gateway("tag_ttl = \"1h\"").await;
    let mut alice = super::asking(&gateway, Request::get(&registry.blob).login("alice", "secret")).await;
    let mut bob = super::asking(&gateway, Request::get(&registry.blob).login("bob", "secret")).await;
    assert!(alice.answer().await.is(200).body == registry.bytes);
    bob.answer().await.is(403);
}

#[tokio::test]
async fn a_refused_resume_continues_as_the_next_reader() {
    let registry = Registry::start(&["alice", "bob"]).await;
    let gateway = registry.gateway("tag_ttl = \"1h\"").await;
    for user in USERS {
        get(&gateway, user, TAG).await.is(200);
    }
    let gate = Gate::shut();
    let whole = Origin::whole(&registry.bytes).cut_after(50_000, &gate);
    registry.upstream.expect("GET", &*registry.blob, whole);
    let mut readers = Vec::new();
    for user in USERS {
        let mut client = super::asking(&gateway, Request::get(&registry.blob).login(user, "secret")).await;
        let head = client.head().await.is(200);
        readers.push((client, head));
    }
    registry.may_not("alice");
    gate.open();
    for (mut client, head) in readers {
        let (answer, end) = client.rest(head).await;
        assert!(end == BodyEnd::Complete && answer.body == registry.bytes);
    }
    let gets = registry.asked().into_iter().filter(|asked| asked.ends_with("GET") && !asked.starts_with('?'));
    let gets: Vec<_> = gets.collect();
    assert_eq!(gets[gets.len() - 2..], ["alice GET", "bob GET"]);
}
