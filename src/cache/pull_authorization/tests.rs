use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::HeaderMap;
use tempfile::TempDir;
use tokio::time::advance;

use crate::authz::Permit;
use crate::cache::UpstreamCache;
use crate::cache::origin::tests::{
    Reply, Script, digest, permit, repository, upstream_cache, view, view_of_held,
};
use crate::cache::origin::{Origin, Origins};
use crate::cache::pull_authorization::*;
use crate::config;
use crate::meaning::{Meaning, UNAVAILABLE};
use crate::proto::RepositoryName;

const TTL: Duration = Duration::from_secs(300);
const STALE: Duration = Duration::from_secs(3600);

fn each() -> (TempDir, Arc<UpstreamCache>) {
    upstream_cache(|settings| settings.pull_authorization = PullAuthorization::Each)
}

/// An account that may read, in a repository that not everyone may.
fn reader(account: &str) -> Arc<Script> {
    let script = Script::new(account);
    for question in ["public blob 01", "public manifest latest"] {
        script.on(question, Reply::No(Meaning::Denied));
    }
    for question in ["held 01", "manifest head latest"] {
        script.on(question, Reply::Yes(vec![]));
    }
    script
}

fn all_fail(script: &Script, kind: Meaning) {
    for question in ["public blob 01", "held 01", "public manifest latest", "manifest head latest"] {
        script.on(question, Reply::No(kind));
    }
}

fn latest() -> Reference {
    Reference::parse("latest").unwrap()
}

fn kind(result: Result<(), CacheError>) -> Meaning {
    match result {
        // The breaker has seen that by now.
        Err(CacheError::CircuitOpen) => UNAVAILABLE,
        Err(CacheError::Origin(failure)) => failure.meaning,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn in_shared_the_rules_have_decided() {
    let (_directory, upstream_cache) = upstream_cache(|_| {});
    let script = Script::new("");
    let alpine = view(&upstream_cache, "alice", &script);
    assert!(alpine.entitled(&latest()).await.is_ok() && alpine.entitled_to_blob(&digest(1)).await.is_ok());
    assert!(script.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_for_the_whole_repository() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view(&upstream_cache, "alice", &script);
    assert!(alpine.entitled(&latest()).await.is_ok());
    assert_eq!(script.asked(), ["public manifest latest", "manifest head latest"]);
    advance(TTL - Duration::from_secs(1)).await;
    assert!(alpine.entitled_to_blob(&digest(9)).await.is_ok());
    assert!(script.asked().is_empty());
    advance(Duration::from_secs(1)).await;
    assert!(alpine.entitled_to_blob(&digest(1)).await.is_ok());
    assert_eq!(script.asked(), ["public blob 01", "held 01"]);
}

#[tokio::test]
async fn a_grant_is_for_one_identity_and_one_repository() {
    let (_directory, upstream_cache) = each();
    let (alice, bob) = (reader("alice"), Script::new("bob"));
    assert!(view(&upstream_cache, "alice", &alice).entitled(&latest()).await.is_ok());
    bob.on("manifest head latest", Reply::No(Meaning::Denied));
    assert_eq!(kind(view(&upstream_cache, "bob", &bob).entitled(&latest()).await), Meaning::Denied);
    assert_eq!(bob.asked(), ["manifest head latest"], "that it is not for everyone is known");
    let elsewhere = view(&upstream_cache, "alice", &bob).in_repository("library/nginx");
    assert_eq!(kind(elsewhere.entitled(&latest()).await), Meaning::Denied);
}

#[tokio::test(start_paused = true)]
async fn public_content_needs_no_grant() {
    let (_directory, upstream_cache) = each();
    let script = Script::new("alice");
    script.on("public manifest latest", Reply::Yes(vec![]));
    assert!(view(&upstream_cache, "alice", &script).entitled(&latest()).await.is_ok());
    assert!(view(&upstream_cache, "bob", &script).entitled_to_blob(&digest(2)).await.is_ok());
    assert_eq!(script.asked(), ["public manifest latest"]);
    advance(TTL).await;
    assert_eq!(
        kind(view(&upstream_cache, "bob", &script).entitled_to_blob(&digest(2)).await),
        Meaning::NotFound
    );
    assert_eq!(script.asked(), ["public blob 02", "held 02"]);
    script.on("manifest head latest", Reply::Yes(vec![]));
    advance(TTL - Duration::from_secs(1)).await;
    assert!(view(&upstream_cache, "bob", &script).entitled(&latest()).await.is_ok());
    assert_eq!(script.asked(), ["manifest head latest"], "known as not for everyone");
}

#[tokio::test]
async fn a_failed_anonymous_check_says_nothing() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    script.on("public manifest latest", Reply::No(Meaning::RateLimited { retry_after: None }));
    assert!(view(&upstream_cache, "alice", &script).entitled(&latest()).await.is_ok(), "by his own right");
    let carol = view(&upstream_cache, "carol", &script);
    all_fail(&script, UNAVAILABLE);
    assert_eq!(kind(carol.entitled(&latest()).await), UNAVAILABLE);
    assert!(!upstream_cache.authorizer.grants.is_private(&repository()));
    script.on("public manifest latest", Reply::Yes(vec![]));
    assert!(carol.entitled(&latest()).await.is_ok(), "asked again at once");
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_extends_a_grant_for_a_while() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view(&upstream_cache, "alice", &script);
    assert!(alpine.entitled(&latest()).await.is_ok());
    all_fail(&script, UNAVAILABLE);
    advance(TTL + STALE - Duration::from_secs(1)).await;
    assert!(alpine.entitled(&latest()).await.is_ok());
    let bob = view(&upstream_cache, "bob", &script);
    assert_eq!(kind(bob.entitled(&latest()).await), UNAVAILABLE, "who had none has none");
    advance(Duration::from_secs(1)).await;
    assert_eq!(kind(alpine.entitled(&latest()).await), UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_extends_a_public_grant() {
    let (_directory, upstream_cache) = each();
    let script = Script::new("alice");
    script.on("public manifest latest", Reply::Yes(vec![]));
    assert!(view(&upstream_cache, "alice", &script).entitled(&latest()).await.is_ok());
    all_fail(&script, UNAVAILABLE);
    advance(TTL + STALE - Duration::from_secs(1)).await;
    assert!(view(&upstream_cache, "bob", &script).entitled(&latest()).await.is_ok());
    advance(Duration::from_secs(1)).await;
    assert_eq!(kind(view(&upstream_cache, "bob", &script).entitled(&latest()).await), UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn nothing_else_extends_a_grant() {
    let limited = Meaning::RateLimited { retry_after: None };
    for failure in [limited, Meaning::CredentialsRefused, Meaning::Rejected { status: 400 }] {
        let (_directory, upstream_cache) = each();
        let script = reader("alice");
        let alpine = view(&upstream_cache, "alice", &script);
        assert!(alpine.entitled(&latest()).await.is_ok());
        all_fail(&script, failure);
        advance(TTL).await;
        assert_eq!(kind(alpine.entitled(&latest()).await), failure);
        all_fail(&script, UNAVAILABLE);
        assert!(alpine.entitled(&latest()).await.is_ok(), "but it has not ended either");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_a_grant() {
    for refusal in [Meaning::Denied, Meaning::NotFound] {
        let (_directory, upstream_cache) = each();
        let script = reader("alice");
        let alpine = view(&upstream_cache, "alice", &script);
        assert!(alpine.entitled(&latest()).await.is_ok());
        all_fail(&script, refusal);
        advance(TTL).await;
        assert_eq!(kind(alpine.entitled(&latest()).await), refusal);
        all_fail(&script, UNAVAILABLE);
        assert_eq!(kind(alpine.entitled(&latest()).await), UNAVAILABLE, "nothing to extend");
    }
}

#[tokio::test(start_paused = true)]
async fn offline_only_recent_grants_pass() {
    let (directory, online) = each();
    let script = reader("alice");
    assert!(view(&online, "alice", &script).entitled(&latest()).await.is_ok());
    script.asked();
    let mut settings = online.settings.clone();
    settings.offline = true;
    let upstream = config::Upstream::at("https://registry.example", &config::Environment::default()).unwrap();
    let offline = UpstreamCache::new(online.cache.clone(), &upstream, &settings);
    let alpine = view(&offline, "alice", &script);
    assert!(matches!(alpine.entitled(&latest()).await, Err(CacheError::Offline)));
    offline.authorizer.grants.give(&(Some(alpine.requester.identity().clone()), repository()));
    advance(TTL + STALE - Duration::from_secs(1)).await;
    assert!(alpine.entitled(&latest()).await.is_ok());
    advance(Duration::from_secs(1)).await;
    assert!(matches!(alpine.entitled(&latest()).await, Err(CacheError::Offline)));
    assert!(script.asked().is_empty());
    drop(directory);
}

#[tokio::test]
async fn without_a_lifetime_every_request_asks() {
    let (_directory, upstream_cache) = upstream_cache(|settings| {
        settings.pull_authorization = PullAuthorization::Each;
        settings.tag_ttl = Duration::ZERO;
    });
    let script = reader("alice");
    let (alpine, wanted) = (view(&upstream_cache, "alice", &script), latest());
    let questions = ["public manifest latest", "manifest head latest"];
    let all = join_all((0..10).map(|_| alpine.entitled(&wanted))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(script.asked(), questions);
    assert!(alpine.entitled(&wanted).await.is_ok());
    assert_eq!(script.asked(), questions);
    all_fail(&script, UNAVAILABLE);
    assert!(alpine.entitled(&wanted).await.is_ok(), "and a dead upstream extends it all the same");
    script.asked();
    script.on("public manifest latest", Reply::Yes(vec![]));
    let bob = view(&upstream_cache, "bob", &script);
    assert!(bob.entitled(&wanted).await.is_ok() && bob.entitled(&wanted).await.is_ok());
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn a_404_for_one_resource_denies_no_other() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view(&upstream_cache, "alice", &script);
    let (missing, there) = (Reference::parse("missing").unwrap(), latest());
    let (first, second) = tokio::join!(alpine.entitled(&missing), alpine.entitled(&there));
    assert_eq!(kind(first), Meaning::NotFound);
    assert!(second.is_ok());
    assert_eq!(script.asked().iter().filter(|question| *question == "manifest head latest").count(), 1);
}

#[tokio::test]
async fn without_fetch_a_grant_can_be_obtained() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view_of_held(&upstream_cache, "alice", &script);
    assert!(alpine.entitled_to_blob(&digest(1)).await.is_ok());
    assert_eq!(script.asked(), ["public blob 01", "held 01"]);
}

#[tokio::test]
async fn a_grant_by_blob_records_its_membership() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view(&upstream_cache, "alice", &script);
    assert!(alpine.entitled_to_blob(&digest(1)).await.is_ok());
    assert!(alpine.known(&digest(1)).is_some());
    assert!(alpine.known(&digest(2)).is_none());
}

#[tokio::test(start_paused = true)]
async fn opening_the_breaker_keeps_no_grant() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view(&upstream_cache, "alice", &script);
    assert!(alpine.entitled(&latest()).await.is_ok());
    advance(TTL).await;
    all_fail(&script, Meaning::Denied);
    for object in 0..3 {
        let _ = upstream_cache.gate.upstream().breaker().note(UNAVAILABLE, object);
    }
    assert!(!upstream_cache.gate.upstream().breaker().is_closed());
    assert_eq!(kind(alpine.entitled(&latest()).await), Meaning::Denied, "it is asked all the same");
    assert!(upstream_cache.gate.upstream().breaker().is_closed(), "the upstream answers");
}

#[tokio::test(start_paused = true)]
async fn a_silent_probe_extends_grants_without_asking() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view(&upstream_cache, "alice", &script);
    assert!(alpine.entitled(&latest()).await.is_ok());
    advance(TTL).await;
    all_fail(&script, UNAVAILABLE);
    script.on("Ping", Reply::No(UNAVAILABLE));
    for object in 0..3 {
        upstream_cache.learn_of(&alpine.requester, UNAVAILABLE, &object.to_string());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(upstream_cache.gate.upstream().breaker().is_confirmed());
    script.asked();
    assert!(alpine.entitled(&latest()).await.is_ok());
    assert!(script.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unusable_answer_extends_no_grant() {
    let (_directory, upstream_cache) = each();
    let script = reader("alice");
    let alpine = view(&upstream_cache, "alice", &script);
    assert!(alpine.entitled(&latest()).await.is_ok());
    advance(TTL).await;
    all_fail(&script, Meaning::Unusable);
    assert_eq!(kind(alpine.entitled(&latest()).await), Meaning::Unusable);
}

#[tokio::test]
async fn a_denial_ends_the_requesters_grant_alone() {
    let (_directory, upstream_cache) = each();
    let (alice, bob) = (reader("alice"), reader("bob"));
    let (of_alice, of_bob) = (view(&upstream_cache, "alice", &alice), view(&upstream_cache, "bob", &bob));
    assert!(of_alice.entitled(&latest()).await.is_ok() && of_bob.entitled(&latest()).await.is_ok());
    all_fail(&alice, Meaning::Denied);
    assert!(of_alice.holds(&digest(1)).await.is_err());
    alice.asked();
    bob.asked();
    assert_eq!(kind(of_alice.entitled(&latest()).await), Meaning::Denied);
    assert!(of_bob.entitled(&latest()).await.is_ok());
    assert!(bob.asked().is_empty());
}

#[tokio::test]
async fn with_a_client_certificate_no_check_is_anonymous() {
    let (_directory, upstream_cache) = each();
    let mut upstream = config::Upstream::at("https://b.example", &config::Environment::default()).unwrap();
    let file = std::path::PathBuf::from("/key.pem");
    upstream.client_certificate = Some(config::KeyPair { certificate: file.clone(), key: file });
    let upstream_cache =
        UpstreamCache::new(upstream_cache.cache.clone(), &upstream, &upstream_cache.settings);
    let script = reader("alice");
    assert!(view(&upstream_cache, "alice", &script).entitled(&latest()).await.is_ok());
    assert_eq!(script.asked(), ["manifest head latest"]);
}

#[test]
fn a_cache_is_of_one_configuration() {
    let (_directory, upstream_cache) = each();
    let mut upstream =
        config::Upstream::at("https://registry.example", &config::Environment::default()).unwrap();
    upstream.cache = Some(upstream_cache.settings.clone());
    let upstream_cache =
        UpstreamCache::new(upstream_cache.cache.clone(), &upstream, &upstream_cache.settings);
    assert!(upstream_cache.is_of(&upstream));
    let mut other = upstream.clone();
    other.credentials.source = config::CredentialSource::Forward;
    assert!(!upstream_cache.is_of(&other));
    let mut other = upstream.clone();
    other.insecure = true;
    assert!(!upstream_cache.is_of(&other));
}

struct Scripted(Arc<Script>);

impl Origins for Scripted {
    fn origin(&self, _: &Permit, _: &RepositoryName, _: Arc<HeaderMap>) -> Arc<dyn Origin> {
        self.0.clone()
    }
}

#[tokio::test]
async fn new_origins_keep_what_is_known() {
    let (_directory, upstream_cache) = each();
    let (before, after) = (reader("alice"), reader("alice"));
    assert!(view(&upstream_cache, "alice", &before).entitled(&latest()).await.is_ok());
    let upstream_cache = upstream_cache.with_origins(Arc::new(Scripted(after.clone())));
    let requester = upstream_cache.requester(&permit("alice", true), &repository(), Arc::default());
    assert!(upstream_cache.authorizer.authorize_manifest(&requester, &latest()).await.is_ok());
    assert!(after.asked().is_empty());
    assert!(upstream_cache.blobs.membership().holds(&requester, &digest(1)).await.is_ok());
    assert_eq!(after.asked(), ["held 01"]);
}
