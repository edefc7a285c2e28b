use crate::authn::htpasswd;
use crate::authn::verifier::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

struct World {
    _dir: tempfile::TempDir,
    verifier: Arc<Verifier>,
}

impl World {
    /// Returns a verifier over users of this file: name, password, cost.
    fn new(users: &[(&str, &str, u32)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, lines(users)).unwrap();
        let verifier = Verifier::new(HtpasswdFile::open(path).unwrap()).unwrap();
        Self { _dir: dir, verifier: Arc::new(verifier) }
    }

    fn rewrite(&self, users: &[(&str, &str, u32)]) {
        std::fs::write(self.verifier.file().path(), lines(users)).unwrap();
        assert!(matches!(self.verifier.reload(), Reload::Swapped(_)));
    }

    async fn verify(&self, user: &str, password: &str) -> Outcome {
        self.verifier.verify(user, &Secret::new(password), HERE).await
    }

    async fn timed(&self, user: &str, password: &str) -> Duration {
        let start = clock::now();
        assert_eq!(self.verify(user, password).await, Outcome::Reject, "{user}");
        clock::now() - start
    }

    fn remembers(&self, user: &str, password: &str) -> bool {
        self.verifier.remembered(user, &Secret::new(password)).is_some()
    }
}

fn lines(users: &[(&str, &str, u32)]) -> String {
    let hash = |password: &str, cost| htpasswd::hash(&Secret::new(password), cost).unwrap();
    users.iter().map(|&(name, password, cost)| format!("{name}:{}\n", hash(password, cost))).collect()
}

fn accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accept(_))
}

#[tokio::test]
async fn a_right_password_is_accepted_and_checked_once() {
    let world = World::new(&[("al", "pw", 4)]);
    for _ in 0..5 {
        let outcome = world.verify("al", "pw").await;
        assert!(matches!(outcome, Outcome::Accept(identity) if identity.name() == "al"));
    }
    assert_eq!(world.verifier.checks_run(), 1);
    assert!(world.remembers("al", "pw") && !world.remembers("al", "px") && !world.remembers("bo", "pw"));
}

#[tokio::test]
async fn a_wrong_pair_is_checked_once_and_counts_once() {
    let world = World::new(&[("al", "pw", 4)]);
    for _ in 0..15 {
        assert_eq!(world.verify("al", "px").await, Outcome::Reject);
        assert_eq!(world.verify("nobody", "px").await, Outcome::Reject);
    }
    assert_eq!(world.verifier.checks_run(), 2);
    assert!(accepted(&world.verify("al", "pw").await));
}

#[tokio::test]
async fn a_guesser_is_throttled_while_what_is_remembered_still_serves() {
    let world = World::new(&[("al", "pw", 4)]);
    assert!(accepted(&world.verify("al", "pw").await));
    for n in 0..10 {
        assert_eq!(world.verify("al", &n.to_string()).await, Outcome::Reject);
    }
    let next = world.verify("al", "another").await;
    assert!(
        matches!(next, Outcome::Throttled { retry_after } if retry_after <= Duration::from_secs(1)),
        "{next:?}"
    );
    assert!(accepted(&world.verify("al", "pw").await));
    assert_eq!(world.verify("al", "3").await, Outcome::Reject);
    assert_eq!(world.verifier.checks_run(), 11);
    let elsewhere = world.verifier.verify("al", &Secret::new("x"), [192, 0, 2, 2].into()).await;
    assert_eq!(elsewhere, Outcome::Reject);
}

#[tokio::test]
async fn equal_pairs_under_way_cost_one_check() {
    let world = World::new(&[("al", "pw", 8)]);
    let asks: Vec<_> = (0..40)
        .map(|n| {
            let verifier = Arc::clone(&world.verifier);
            tokio::spawn(
                async move { verifier.verify("al", &Secret::new("pw"), [192, 0, 2, n].into()).await },
            )
        })
        .collect();
    for ask in asks {
        assert!(accepted(&ask.await.unwrap()));
    }
    assert_eq!(world.verifier.checks_run(), 1);
}

#[tokio::test]
async fn a_check_whose_asker_went_away_is_remembered() {
    let world = World::new(&[("al", "pw", 6)]);
    let brief = Duration::from_micros(1);
    let password = Secret::new("pw");
    let _ = tokio::time::timeout(brief, world.verifier.verify("al", &password, HERE)).await;
    for _ in 0..200 {
        if world.remembers("al", "pw") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never remembered");
}

#[tokio::test]
async fn a_changed_password_and_a_removed_user_are_felt_at_once() {
    let world = World::new(&[("al", "old", 4), ("bo", "pw", 4)]);
    assert!(accepted(&world.verify("al", "old").await) && accepted(&world.verify("bo", "pw").await));
    world.rewrite(&[("al", "new", 4)]);
    assert!(!world.remembers("al", "old") && !world.remembers("bo", "pw"));
    assert_eq!(world.verify("al", "old").await, Outcome::Reject);
    assert_eq!(world.verify("bo", "pw").await, Outcome::Reject);
    assert!(accepted(&world.verify("al", "new").await));
}

#[tokio::test]
async fn a_refused_user_may_log_in_once_added() {
    let world = World::new(&[("al", "pw", 4)]);
    assert_eq!(world.verify("bo", "pw").await, Outcome::Reject);
    world.rewrite(&[("al", "pw", 4), ("bo", "pw", 4)]);
    assert!(accepted(&world.verify("bo", "pw").await));
}

#[tokio::test]
async fn a_password_is_never_truncated() {
    let long = "x".repeat(72);
    let world = World::new(&[("al", &long, 4), ("bo", "pw", 4)]);
    assert!(accepted(&world.verify("al", &long).await));
    let before = world.verifier.checks_run();
    assert_eq!(world.verify("al", &format!("{long}x")).await, Outcome::Reject);
    assert_eq!(world.verify("bo", "pw\0").await, Outcome::Reject);
    assert_eq!(world.verify("bo", "pw\0x").await, Outcome::Reject);
    assert_eq!(world.verify("", "pw").await, Outcome::Reject);
    assert_eq!(world.verifier.checks_run(), before);
}

#[tokio::test]
async fn every_failure_takes_as_long_as_the_costliest_hash() {
    let world = World::new(&[("cheap", "pw", 4), ("dear", "pw", 9)]);
    world.timed("dear", "measured").await;
    let long = "x".repeat(100);
    let ways = [
        ("cheap", "a"),
        ("dear", "a"),
        ("nobody", "a"),
        ("", "a"),
        ("cheap", &long),
        ("cheap", "a"),
        ("nobody", "a"),
    ];
    for (user, password) in ways {
        // Each check moves the floor a little: up on a busy machine, slowly down again.
        let before = world.verifier.book.rejection_floor.floor();
        let took = world.timed(user, password).await;
        let least = before.min(world.verifier.book.rejection_floor.floor());
        assert!(least > Duration::from_millis(5), "a hash of cost 9 takes longer than {least:?}");
        assert!(took >= least, "{user}: {took:?} is less than {least:?}");
    }
}

#[tokio::test]
async fn an_unknown_name_costs_the_same_computation() {
    let world = World::new(&[("al", "pw", 4)]);
    world.verify("nobody", "x").await;
    assert_eq!(world.verifier.checks_run(), 1);
    assert_eq!(dummy_hash(10).parse::<bcrypt::HashParts>().unwrap().get_cost(), 10);
}

#[tokio::test]
async fn a_flood_of_guesses_from_one_address_does_not_hold_up_another() {
    let world = World::new(&[("al", "pw", 8)]);
    let flood: Vec<_> = (0..100)
        .map(|n| {
            let verifier = Arc::clone(&world.verifier);
            tokio::spawn(async move { verifier.verify(&format!("u{n}"), &Secret::new("x"), HERE).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let outcome = world.verifier.verify("al", &Secret::new("pw"), [198, 51, 100, 1].into()).await;
    assert!(accepted(&outcome));
    assert!(world.verifier.checks_run() < 50, "{} checks were served before", world.verifier.checks_run());
    flood.into_iter().for_each(|guess| guess.abort());
}

#[test]
fn remembering_is_cheap() {
    let world = World::new(&[("al", "pw", 4)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(accepted(&runtime.block_on(world.verify("al", "pw"))));
    let (password, start) = (Secret::new("pw"), clock::now());
    for _ in 0..10_000 {
        assert!(world.verifier.remembered("al", &password).is_some());
    }
    let each = (clock::now() - start) / 10_000;
    assert!(each < Duration::from_micros(100), "{each:?} in an unoptimised build");
}

#[tokio::test]
async fn every_failure_costs_the_costliest_hash() {
    let world = World::new(&[("cheap", "pw", 4), ("middle", "pw", 6), ("dear", "pw", 9)]);
    // The first check is behind the one that measures.
    world.verify("dear", "other").await;
    let rounds = || world.verifier.book.rounds.load(Ordering::Relaxed);
    for user in ["cheap", "middle", "dear", "unknown"] {
        for password in ["px", "py"] {
            let before = rounds();
            assert_eq!(world.verify(user, password).await, Outcome::Reject);
            assert_eq!(rounds() - before, 1 << 9, "{user}");
        }
    }
    let before = rounds();
    assert!(accepted(&world.verify("cheap", "pw").await));
    assert_eq!(rounds() - before, 1 << 4, "a right password waits for nothing");
}
