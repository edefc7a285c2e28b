use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::config::{Config, Environment};

const ISSUER: &str = "https://token.example";
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// An issuer with one key at a time.
struct Issuer {
    pair: Mutex<(String, EcdsaKeyPair)>,
    asked: AtomicUsize,
    ill: Mutex<bool>,
}

impl Issuer {
    fn new() -> Arc<Self> {
        let issuer =
            Self { pair: Mutex::new(pair("one")), asked: AtomicUsize::new(0), ill: Mutex::new(false) };
        Arc::new(issuer)
    }

    fn rotate(&self, kid: &str) {
        *self.pair.lock() = pair(kid);
    }

    fn sign(&self, claims: &Value) -> Secret {
        let kid = self.pair.lock().0.clone();
        self.sign_as(&json!({"alg": "ES256", "typ": "JWT", "kid": kid}), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> Secret {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.lock().1.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl FetchKeys for Issuer {
    fn fetch(&self) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + '_>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(ROUND_TRIP).await;
            if *self.ill.lock() {
                return Err("503".to_owned());
            }
            let (kid, pair) = &*self.pair.lock();
            let point = pair.public_key().as_ref();
            let key = json!({"kty": "EC", "crv": "P-256", "kid": kid,
                "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])});
            Ok(json!({ "keys": [key] }).to_string().into())
        })
    }
}

fn pair(kid: &str) -> (String, EcdsaKeyPair) {
    (kid.to_owned(), EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
}

fn provider(issuer: &Arc<Issuer>) -> Provider {
    provider_of(
        issuer,
        "require = { repository_owner = \"acme\", ref = [\"refs/heads/*\", \"refs/tags/v*\"] }",
    )
}

fn provider_of(issuer: &Arc<Issuer>, more: &str) -> Provider {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dockgate.toml");
    let text = format!(
        "[[auth.oidc]]\nname = 'github'\nissuer = '{ISSUER}'\naudience = 'dockgate'\nuser = 'repo:{{repository}}'\n\
         groups = ['org:{{repository_owner}}']\n{more}\n[[access]]\nusers = ['*']\nrepositories = ['**']\nactions = ['pull']\n\
         [[upstream]]\nurl = 'http://127.0.0.1:1'\n"
    );
    std::fs::write(&path, text).unwrap();
    let config = Config::check(Some(&path), &Environment::from([("", ""); 0])).unwrap();
    Provider::new(config.auth.oidc.into_iter().next().unwrap(), issuer.clone())
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "dockgate", "exp": now() + 300, "nbf": now() - 5, "iat": now(), "sub": "x",
        "repository": "acme/app", "repository_owner": "acme", "ref": "refs/heads/feature/x",
    })
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[tokio::test]
async fn a_job_logs_in_under_the_name_of_its_claims() {
    let issuer = Issuer::new();
    let provider = provider(&issuer);
    let token = issuer.sign(&claims());
    assert!(provider.remembered(&token).is_none());
    let workload = provider.verify(&token).await.unwrap();
    assert_eq!(workload.name.as_str(), "repo:acme/app");
    assert_eq!(workload.groups, [Box::from("org:acme")]);
    assert_eq!(provider.remembered(&token), Some(workload));
    let list = issuer.sign(&changed("aud", json!(["other", "dockgate"])));
    assert!(provider.verify(&list).await.is_ok());
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_keys_that_another_has_asked_for() {
    let issuer = Issuer::new();
    let provider = Arc::new(provider(&issuer));
    let strange = issuer.sign_as(&json!({"alg": "ES256", "typ": "JWT", "kid": "strange"}), &claims());
    let first = {
        let provider = provider.clone();
        tokio::spawn(async move { provider.verify(&strange).await.map(drop) })
    };
    tokio::time::sleep(ROUND_TRIP / 2).await;
    assert!(provider.verify(&issuer.sign(&claims())).await.is_ok());
    assert!(matches!(first.await.unwrap(), Err(TokenRefusal::Key { .. })));
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn claims_of_other_jobs_are_no_login() {
    let issuer = Issuer::new();
    let provider = provider(&issuer);
    let required = |claim: &str| TokenRefusal::Required(claim.to_owned());
    for (name, value, refusal) in [
        ("iss", json!("https://token.example/"), TokenRefusal::Issuer),
        ("iss", json!(null), TokenRefusal::Issuer),
        ("aud", json!("dockgate2"), TokenRefusal::Audience),
        ("aud", json!(["a"]), TokenRefusal::Audience),
        ("aud", json!(null), TokenRefusal::Audience),
        ("exp", json!(now() - 100_000), TokenRefusal::Expired(None)),
        ("exp", json!(null), TokenRefusal::Expired(None)),
        ("exp", json!("9999999999"), TokenRefusal::Expired(None)),
        ("nbf", json!(now() + 120), TokenRefusal::Early),
        ("iat", json!(now() + 120), TokenRefusal::Early),
        ("nbf", json!("x"), TokenRefusal::Early),
        ("repository_owner", json!("acme2"), required("repository_owner")),
        ("repository_owner", json!(["acme"]), required("repository_owner")),
        ("repository_owner", json!(null), required("repository_owner")),
        ("ref", json!("refs/pull/7/merge"), required("ref")),
        ("ref", json!("xrefs/heads/main"), required("ref")),
        ("repository", json!(null), TokenRefusal::Claim(ClaimError("repository".to_owned()))),
        ("repository", json!("acme/*"), TokenRefusal::Claim(ClaimError("repository".to_owned()))),
    ] {
        let token = issuer.sign(&changed(name, value.clone()));
        assert_eq!(provider.verify(&token).await, Err(refusal), "{name} = {value}");
    }
    let late = provider.verify(&issuer.sign(&changed("exp", json!(now() - 61)))).await;
    assert!(matches!(late, Err(TokenRefusal::Expired(Some(_)))), "good for uploads that it began: {late:?}");
    for (name, value) in
        [("exp", json!(now() - 30)), ("nbf", json!(now() + 30)), ("ref", json!("refs/tags/v1"))]
    {
        let token = issuer.sign(&changed(name, value));
        assert!(provider.verify(&token).await.is_ok(), "clocks may differ by a minute: {name}");
    }
}

#[tokio::test]
async fn a_token_is_checked_by_the_issuers_keys_alone() {
    let (issuer, mallory) = (Issuer::new(), Issuer::new());
    let provider = provider(&issuer);
    let point = mallory.pair.lock().1.public_key().as_ref().to_vec();
    let own = json!({"kty": "EC", "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])});
    for header in [
        json!({"alg": "ES256", "kid": "one"}),
        json!({"alg": "ES256", "kid": "one", "jwk": own}),
        json!({"alg": "ES256", "jku": "https://mallory.example/keys", "kid": "one"}),
        json!({"alg": "ES256"}),
    ] {
        assert_eq!(
            provider.verify(&mallory.sign_as(&header, &claims())).await,
            Err(TokenRefusal::Signature),
            "{header}"
        );
    }
    for algorithm in ["none", "HS256", "RS256", "ES384", "es256", ""] {
        let header = json!({"alg": algorithm, "kid": "one"});
        let refused = provider.verify(&issuer.sign_as(&header, &claims())).await;
        assert!(matches!(refused, Err(TokenRefusal::Key { .. })), "{algorithm}: {refused:?}");
    }
    let good = issuer.sign(&claims());
    let unsigned = Secret::new(format!("{}.", good.expose().rsplit_once('.').unwrap().0));
    assert_eq!(provider.verify(&unsigned).await, Err(TokenRefusal::Signature));
    assert_eq!(provider.verify(&Secret::new("a.b")).await, Err(TokenRefusal::Malformed));
    assert!(provider.verify(&good).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_asked_for_at_a_bounded_rate() {
    let issuer = Issuer::new();
    let provider = provider(&issuer);
    assert!(provider.verify(&issuer.sign(&claims())).await.is_ok());
    issuer.rotate("two");
    let token = issuer.sign(&claims());
    for _ in 0..20 {
        let refused = provider.verify(&token).await;
        assert!(matches!(refused, Err(TokenRefusal::Key { .. })), "{refused:?}");
    }
    assert_eq!(issuer.asked(), 1);
    tokio::time::advance(limits::OIDC_REFETCH_PAUSE).await;
    assert!(provider.verify(&token).await.is_ok());
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_while_the_issuer_is_silent() {
    let issuer = Issuer::new();
    let provider = provider(&issuer);
    *issuer.ill.lock() = true;
    let refused = provider.verify(&issuer.sign(&claims())).await;
    assert_eq!(refused, Err(TokenRefusal::NoKeys("503".into())));
    *issuer.ill.lock() = false;
    tokio::time::advance(limits::OIDC_REFETCH_PAUSE).await;
    assert!(provider.verify(&issuer.sign(&claims())).await.is_ok());
    *issuer.ill.lock() = true;
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
        assert!(provider.verify(&issuer.sign(&changed("jti", json!(issuer.asked())))).await.is_ok());
        tokio::task::yield_now().await;
    }
    assert!(issuer.asked() > 3, "keys that are old are asked for in the background");
}

#[tokio::test(start_paused = true)]
async fn a_remembered_token_ends_with_its_key() {
    let issuer = Issuer::new();
    let provider = provider(&issuer);
    let (old, claims) = (issuer.sign(&claims()), claims());
    assert!(provider.verify(&old).await.is_ok());
    issuer.rotate("two");
    tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
    // The token is believed while the issuer is asked for its keys, which are old by now, in the background.
    assert!(provider.verify(&old).await.is_ok());
    tokio::time::sleep(ROUND_TRIP * 2).await;
    let refused = provider.verify(&old).await;
    assert!(matches!(refused, Err(TokenRefusal::Key { .. })), "{refused:?}");
    assert!(provider.verify(&issuer.sign(&claims)).await.is_ok());
    assert_eq!(issuer.asked(), 2);
}
