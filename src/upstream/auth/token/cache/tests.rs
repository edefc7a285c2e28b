use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::HeaderValue;

use crate::proto::{ScopeSet, TokenAnswer};
use crate::upstream::auth::token::cache::*;
use crate::upstream::auth::token::lifetime::Lifetime;
use crate::upstream::counters::UpstreamCounters;

/// A token endpoint that takes its time, and counts.
#[derive(Clone, Default)]
struct Endpoint {
    asked: Arc<AtomicUsize>,
    failing: Arc<AtomicBool>,
    refusing: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
}

const LATENCY: Duration = Duration::from_secs(2);

impl Endpoint {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn get(&self, tokens: &TokenCache<Self>, key: TokenKey) -> Outcome {
        tokens.get(key, self.clone()).await.map_err(|missing| missing.error)
    }
}

impl FetchToken for Endpoint {
    async fn fetch(&self) -> Option<Result<AccessToken, TokenError>> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let asked = clock::now();
        tokio::time::sleep(LATENCY).await;
        if self.failing.load(Ordering::SeqCst) {
            let (endpoint, reason) = ("https://auth.example".to_owned(), "it is ill".to_owned());
            return Some(Err(TokenError::Answer { endpoint, reason }));
        }
        if self.refusing.load(Ordering::SeqCst) {
            return Some(Err(TokenError::LockedOut));
        }
        let answer = TokenAnswer::parse(br#"{"token":"t","expires_in":300}"#).unwrap();
        let header = HeaderValue::try_from(format!("Bearer {number}")).unwrap();
        let lifetime = Lifetime::of(&answer, None, clock::wall());
        (!self.gone.load(Ordering::SeqCst))
            .then(|| Ok(AccessToken::new(header, ScopeSet::default(), asked, lifetime)))
    }
}

/// TokenCache that are looked at now and then; the gateway does so every two seconds.
fn tokens() -> TokenCache<Endpoint> {
    let tokens = TokenCache::new(Arc::new(UpstreamCounters::new(1)));
    let looked_at = tokens.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(15)).await;
            looked_at.renew();
        }
    });
    tokens
}

fn key(scope: &str) -> TokenKey {
    TokenKey { identity: UpstreamIdentity::Gateway, scope: scope.to_owned() }
}

fn shown(outcome: &Outcome) -> HeaderValue {
    outcome.as_ref().unwrap().header()
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_begins_late_finds_what_the_last_one_brought() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.get(&tokens, key("a")).await.unwrap();
    let late = tokens.clone().ask_and_keep(key("a"), endpoint.clone()).await.unwrap();
    assert_eq!((shown(&late), endpoint.asked()), (HeaderValue::from_static("Bearer 0"), 1));

    endpoint.failing.store(true, Ordering::SeqCst);
    endpoint.get(&tokens, key("b")).await.unwrap_err();
    tokens.clone().ask_and_keep(key("b"), endpoint.clone()).await.unwrap().unwrap_err();
    assert_eq!(endpoint.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_cost_one_token_request() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    let all = (0..100).map(|_| endpoint.get(&tokens, key("a")));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(|outcome| shown(outcome) == "Bearer 0"));
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_outlives_its_first_caller() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    let left = tokio::time::timeout(LATENCY / 2, endpoint.get(&tokens, key("a")));
    let (left, token) = tokio::join!(left, endpoint.get(&tokens, key("a")));
    assert!(left.is_err());
    assert_eq!(shown(&token), "Bearer 0");
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_all_callers_left_is_cancelled() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    let left = tokio::time::timeout(LATENCY / 2, endpoint.get(&tokens, key("a"))).await;
    assert!(left.is_err());
    tokio::time::sleep(2 * LATENCY).await;
    assert_eq!(shown(&endpoint.get(&tokens, key("a")).await), "Bearer 1");
}

#[tokio::test(start_paused = true)]
async fn two_scopes_and_two_identities_have_different_tokens() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    let keys = [
        key("a"),
        key("b"),
        TokenKey { identity: UpstreamIdentity::Anonymous, ..key("a") },
        TokenKey { identity: UpstreamIdentity::User(0), ..key("a") },
        TokenKey { identity: UpstreamIdentity::User(1), ..key("a") },
    ];
    let mut seen = std::collections::HashSet::new();
    for key in keys {
        assert!(seen.insert(shown(&endpoint.get(&tokens, key).await)));
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_first_client_of_a_day_waits() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.get(&tokens, key("a")).await.unwrap();
    let begin = clock::now();
    let (mut uses, mut seed) = (0, 7u64);
    while clock::now() - begin < Duration::from_secs(24 * 3600) {
        // Between 0 and 240 s, as pulls come.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis((seed >> 33) % 240_000)).await;
        let asked = clock::now();
        endpoint.get(&tokens, key("a")).await.unwrap();
        assert_eq!(clock::now(), asked, "use {uses} waited");
        uses += 1;
    }
    assert!(uses > 600, "{uses} uses");
    let renewals = 24 * 3600 / 200;
    assert!(endpoint.asked() < renewals * 3 / 2, "{} requests for tokens", endpoint.asked());
}

#[tokio::test(start_paused = true)]
async fn an_unused_token_is_not_renewed() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.get(&tokens, key("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert!(endpoint.asked() <= 2, "{} requests", endpoint.asked());
}

#[tokio::test(start_paused = true)]
async fn a_use_in_the_last_quarter_starts_a_renewal() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.get(&tokens, key("a")).await.unwrap();
    // Renewed once for the first use; the renewed one is not used until its last quarter.
    tokio::time::sleep(Duration::from_secs(205 + 230)).await;
    assert_eq!(endpoint.asked(), 2);
    let asked = clock::now();
    assert_eq!(shown(&endpoint.get(&tokens, key("a")).await), "Bearer 1");
    assert_eq!(clock::now(), asked);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(shown(&endpoint.get(&tokens, key("a")).await), "Bearer 2");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_token_and_retries() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.get(&tokens, key("a")).await.unwrap();
    endpoint.failing.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(230)).await;
    assert!(endpoint.asked() > 2);
    assert_eq!(shown(&endpoint.get(&tokens, key("a")).await), "Bearer 0");
    endpoint.failing.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_ne!(shown(&endpoint.get(&tokens, key("a")).await), "Bearer 0");
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_all_callers_and_backs_off() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.failing.store(true, Ordering::SeqCst);
    let all = futures_util::future::join_all((0..10).map(|_| endpoint.get(&tokens, key("a")))).await;
    assert!(all.iter().all(Result::is_err));
    assert!(endpoint.get(&tokens, key("a")).await.is_err());
    assert_eq!(endpoint.asked(), 1);
    endpoint.failing.store(false, Ordering::SeqCst);
    tokio::time::sleep(limits::TOKEN_FAILED_PAUSE).await;
    assert!(endpoint.get(&tokens, key("a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_dropped_but_not_its_successor() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    let first = endpoint.get(&tokens, key("a")).await.unwrap();
    tokens.forget(&key("a"), &first);
    let second = endpoint.get(&tokens, key("a")).await.unwrap();
    assert_eq!(second.header(), "Bearer 1");
    tokens.forget(&key("a"), &first);
    assert_eq!(shown(&endpoint.get(&tokens, key("a")).await), "Bearer 1");
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_removed_upstream_end_at_once() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.gone.store(true, Ordering::SeqCst);
    assert!(matches!(*endpoint.get(&tokens, key("a")).await.unwrap_err(), TokenError::Abandoned));
    endpoint.gone.store(false, Ordering::SeqCst);
    assert!(endpoint.get(&tokens, key("a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_is_not_tried_again() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.get(&tokens, key("a")).await.unwrap();
    endpoint.refusing.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(265)).await;
    assert_eq!(endpoint.asked(), 2);
    assert_eq!(shown(&endpoint.get(&tokens, key("a")).await), "Bearer 0", "it is still good");
}

#[tokio::test(start_paused = true)]
async fn only_the_first_caller_hears_of_a_fresh_failure() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    endpoint.failing.store(true, Ordering::SeqCst);
    let both = (tokens.get(key("a"), endpoint.clone()), tokens.get(key("a"), endpoint.clone()));
    let (first, joined) = tokio::join!(both.0, both.1);
    assert!(first.unwrap_err().is_news);
    assert!(!joined.unwrap_err().is_news);
    assert!(!tokens.get(key("a"), endpoint.clone()).await.unwrap_err().is_news);
}

#[tokio::test(start_paused = true)]
async fn requests_to_a_token_endpoint_are_bounded() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    let many = (0..limits::TOKEN_WAITING + 100).map(|number| {
        let (tokens, endpoint) = (tokens.clone(), endpoint.clone());
        tokio::spawn(async move { endpoint.get(&tokens, key(&number.to_string())).await })
    });
    let many: Vec<_> = many.collect();
    tokio::time::sleep(LATENCY / 2).await;
    assert_eq!(endpoint.asked() as u64, limits::TOKEN_REQUESTS);
    let done = futures_util::future::join_all(many).await;
    let (had, refused): (Vec<_>, Vec<_>) =
        done.into_iter().map(Result::unwrap).partition(|outcome| outcome.is_ok());
    // Six rounds of two seconds begin within the wait; the last may come a moment too late.
    let rounds = had.len() as u64 / limits::TOKEN_REQUESTS;
    assert!((5..=6).contains(&rounds) && had.len() == endpoint.asked(), "{}", had.len());
    let is_spent = |outcome: &Outcome| outcome.as_ref().is_err_and(|error| error.spent().is_some());
    let spent = refused.iter().filter(|outcome| is_spent(outcome)).count();
    assert_eq!((spent, refused.len()), (limits::TOKEN_WAITING - had.len(), 1124 - had.len()));
}

#[tokio::test(start_paused = true)]
async fn unused_tokens_leave_no_tasks() {
    let (tokens, endpoint) = (tokens(), Endpoint::default());
    for number in 0..200 {
        endpoint.get(&tokens, key(&number.to_string())).await.unwrap();
    }
    tokio::time::sleep(LATENCY).await;
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(alive <= 2, "{alive} tasks");
}
