use std::sync::atomic::{AtomicUsize, Ordering};

use crate::authn::upstream_logins::*;
use crate::proto::Secret;

const MINUTE: Duration = Duration::from_secs(60);

/// An upstream that knows alice by one password, and counts what it is asked.
struct World {
    forwarding: UpstreamLogins<&'static str>,
    password: Mutex<&'static str>,
    asked: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        let forwarding = UpstreamLogins::new().unwrap();
        Self { forwarding, password: Mutex::new("right"), asked: Arc::default() }
    }

    async fn verify_from(&self, last: u8, user: &str, password: &str) -> Judgement<&'static str> {
        let right = user == "alice" && password == *self.password.lock();
        let asked = self.asked.clone();
        let ask = || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(right)
        };
        let peer = [192, 0, 2, last].into();
        self.forwarding.verify(&client(user, password), peer, Duration::ZERO, ask).await
    }

    async fn verify(&self, user: &str, password: &str) -> Judgement<&'static str> {
        self.verify_from(1, user, password).await
    }

    async fn is_right(&self, password: &str) -> bool {
        let judgement = self.verify("alice", password).await;
        assert!(matches!(judgement, Judgement::Right | Judgement::Wrong), "{judgement:?}");
        matches!(judgement, Judgement::Right)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn client(user: &str, password: &str) -> Forwarded {
    Forwarded::new("hub", user.to_owned(), Secret::new(password))
}

/// The answer to a question about a login.
type Answer = Result<bool, Undecided<&'static str>>;

/// Starts a verification whose upstream answers only what is sent through the returned sender.
fn held(
    forwarding: &UpstreamLogins<&'static str>,
    user: &str,
    last: u8,
) -> (tokio::sync::oneshot::Sender<Answer>, tokio::task::JoinHandle<Judgement<&'static str>>) {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let (forwarding, client) = (forwarding.clone(), client(user, "pw"));
    let asking = tokio::spawn(async move {
        let ask = || async { answered.await.unwrap_or(Err(Undecided::Unasked("gone"))) };
        forwarding.verify(&client, [192, 0, 2, last].into(), Duration::ZERO, ask).await
    });
    (answer, asking)
}

#[tokio::test(start_paused = true)]
async fn a_right_password_is_believed_for_five_minutes_and_then_asked_for_again() {
    let world = World::new();
    for _ in 0..4 {
        assert!(world.is_right("right").await);
        tokio::time::advance(MINUTE).await;
    }
    assert_eq!(world.asked(), 1);
    // Use does not extend the five minutes.
    tokio::time::advance(MINUTE).await;
    assert!(world.is_right("right").await);
    assert_eq!(world.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_password_that_was_changed_at_the_upstream_ends_within_five_minutes() {
    let world = World::new();
    assert!(world.is_right("right").await);
    *world.password.lock() = "other";
    assert!(world.is_right("other").await && world.is_right("right").await);
    tokio::time::advance(5 * MINUTE).await;
    assert!(!world.is_right("right").await);
    assert!(world.is_right("other").await);
}

#[tokio::test]
async fn a_password_that_is_refused_on_the_way_is_asked_for_again_at_once() {
    let mut world = World::new();
    assert!(world.is_right("right").await);
    *world.password.lock() = "other";
    world.forwarding.forget(&client("alice", "right"));
    assert!(!world.is_right("right").await);
    *world.password.lock() = "right";
    assert!(!world.is_right("right").await, "what is wrong is remembered too");
    world.forwarding.forget_all();
    assert!(world.is_right("right").await);
}

#[tokio::test]
async fn a_wrong_pair_is_asked_for_once_and_counts_once() {
    let world = World::new();
    for _ in 0..15 {
        assert!(!world.is_right("wrong").await);
    }
    assert_eq!(world.asked(), 1);
    assert!(world.is_right("right").await);
}

#[tokio::test]
async fn guesses_are_throttled_and_remembered_logins_are_not() {
    let world = World::new();
    assert!(world.is_right("right").await);
    for guess in 0..10 {
        assert!(!world.is_right(&guess.to_string()).await);
    }
    let next = world.verify("alice", "another").await;
    assert!(matches!(next, Judgement::Throttled { retry_after } if retry_after <= BUSY), "{next:?}");
    assert!(world.is_right("right").await && !world.is_right("3").await);
    assert_eq!(world.asked(), 11);
    assert!(matches!(world.verify_from(2, "alice", "another").await, Judgement::Wrong), "another address");
}

#[tokio::test]
async fn equal_logins_under_way_are_asked_about_once() {
    let world = Arc::new(World::new());
    let ask = |last: u8| {
        let world = world.clone();
        tokio::spawn(async move { world.verify_from(last, "alice", "right").await })
    };
    let asks: Vec<_> = (0..100).map(ask).collect();
    for ask in asks {
        assert!(matches!(ask.await.unwrap(), Judgement::Right));
    }
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_asked_decides_nothing() {
    let forwarding = UpstreamLogins::new().unwrap();
    for _ in 0..20 {
        let (answer, asking) = held(&forwarding, "alice", 1);
        answer.send(Err(Undecided::Unasked("down"))).unwrap();
        let judgement = asking.await.unwrap();
        assert!(matches!(&judgement, Judgement::Undecided(error) if **error == "down"), "{judgement:?}");
    }
    let (answer, asking) = held(&forwarding, "alice", 1);
    answer.send(Ok(true)).unwrap();
    assert!(matches!(asking.await.unwrap(), Judgement::Right));
}

#[tokio::test]
async fn a_request_upstream_goes_on_when_its_client_leaves() {
    let forwarding = UpstreamLogins::new().unwrap();
    let (answer, asking) = held(&forwarding, "alice", 1);
    tokio::task::yield_now().await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    let (_unheard, second) = held(&forwarding, "alice", 2);
    tokio::task::yield_now().await;
    answer.send(Ok(true)).unwrap();
    assert!(matches!(second.await.unwrap(), Judgement::Right));
}

#[tokio::test]
async fn a_request_upstream_that_breaks_off_is_repeated() {
    let forwarding = UpstreamLogins::<&str>::new().unwrap();
    let (client, peer) = (client("alice", "pw"), IpAddr::from([192, 0, 2, 1]));
    let broken = || async { panic!("a request that breaks off, as this test wants it") };
    let judgement = forwarding.verify(&client, peer, Duration::ZERO, broken).await;
    assert!(matches!(judgement, Judgement::Throttled { .. }), "{judgement:?}");
    let judgement = forwarding.verify(&client, peer, Duration::ZERO, || async { Ok(true) }).await;
    assert!(matches!(judgement, Judgement::Right), "{judgement:?}");
}

#[tokio::test]
async fn one_address_does_not_take_every_slot() {
    let forwarding = UpstreamLogins::new().unwrap();
    let mut all = Vec::new();
    for number in 0..limits::FORWARDED_LOGINS_OF_ONE {
        all.push(held(&forwarding, &format!("user{number}"), 1));
    }
    tokio::task::yield_now().await;
    let (_unheard, more) = held(&forwarding, "more", 1);
    assert!(matches!(more.await.unwrap(), Judgement::Throttled { .. }));
    let (answer, other) = held(&forwarding, "more", 2);
    answer.send(Ok(true)).unwrap();
    assert!(matches!(other.await.unwrap(), Judgement::Right));
    for (answer, asking) in all {
        answer.send(Ok(true)).unwrap();
        assert!(matches!(asking.await.unwrap(), Judgement::Right));
    }
    assert!(forwarding.shared.flights().is_empty());
}

#[tokio::test]
async fn an_impossible_user_name_is_not_sent_upstream() {
    let world = World::new();
    let long = "a".repeat(256);
    for user in ["", "anonymous", "a*", "a?", "[a]", "{a}", "a:b", &long] {
        let judgement = world.verify(user, "right").await;
        assert!(matches!(judgement, Judgement::Wrong), "{user}: {judgement:?}");
    }
    assert!(!world.is_right("").await, "nor about an empty password");
    assert_eq!(world.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn wrong_passwords_are_answered_no_sooner_than_the_floor() {
    let world = World::new();
    let floor = Duration::from_millis(70);
    for (user, word) in [("bob", "x"), ("bob", "x"), ("", "x"), ("alice", "right")] {
        let start = clock::now();
        let (forwarding, right) = (&world.forwarding, word == "right");
        let peer = [192, 0, 2, 1].into();
        forwarding.verify(&client(user, word), peer, floor, || async move { Ok(right) }).await;
        let took = clock::now() - start;
        // The timer counts whole milliseconds.
        assert_eq!(took >= floor && took <= floor * 2, !right, "{user:?} {took:?}");
    }
}

#[tokio::test]
async fn an_answer_from_before_a_reload_does_not_count_after_it() {
    let mut forwarding = UpstreamLogins::new().unwrap();
    let (earlier, before) = held(&forwarding, "alice", 1);
    tokio::task::yield_now().await;
    let old = forwarding.clone();
    forwarding.forget_all();
    let (later, after) = held(&forwarding, "alice", 1);
    tokio::task::yield_now().await;
    earlier.send(Ok(true)).unwrap();
    assert!(matches!(before.await.unwrap(), Judgement::Right));
    later.send(Ok(false)).unwrap();
    assert!(matches!(after.await.unwrap(), Judgement::Wrong));
    let (_unheard, again) = held(&old, "alice", 1);
    assert!(matches!(again.await.unwrap(), Judgement::Right), "a request that began before the reload");
    let (_unheard, again) = held(&forwarding, "alice", 1);
    assert!(matches!(again.await.unwrap(), Judgement::Wrong), "and one that began after it");
}

#[tokio::test]
async fn an_unproved_pair_is_asked_about_once_and_counts() {
    let world = World::new();
    let ask = |user: &'static str, password: &'static str| {
        let asked = world.asked.clone();
        let ask = || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            Err(Undecided::Unproved("any name"))
        };
        let forwarding = world.forwarding.clone();
        async move { forwarding.verify(&client(user, password), [192, 0, 2, 1].into(), Duration::ZERO, ask).await }
    };
    for _ in 0..3 {
        let judgement = ask("alice", "token").await;
        assert!(matches!(judgement, Judgement::Undecided(error) if *error == "any name"));
    }
    assert_eq!(world.asked(), 1);
    assert!(world.is_right("right").await, "another password of the same name is judged by itself");
    for token in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"] {
        assert!(matches!(ask("bob", token).await, Judgement::Undecided(_)));
    }
    assert!(matches!(ask("bob", "11").await, Judgement::Throttled { .. }), "each new token costs a try");
}
