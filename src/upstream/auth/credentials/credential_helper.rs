//! A credential helper and its last answer.
//!
//! A run takes a process and often a call to a cloud, so all workers share one run and its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::single_flight::{Abandoned, SingleFlight};
use crate::upstream::auth::credentials::credential::Credential;
use crate::upstream::auth::credentials::program::{HelperError, HelperProgram};

/// A helper, asked for one registry. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CredentialHelper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: HelperProgram,
    server: String,
    kept: Mutex<Option<Kept>>,
    runs: SingleFlight<(), Result<Credential, HelperError>>,
}

#[derive(Debug, Clone)]
struct Kept {
    outcome: Result<Credential, HelperError>,
    /// The end of the last run.
    ran: Instant,
    /// When it is renewed; it still serves meanwhile.
    renewed_from: Instant,
    good_until: Instant,
}

impl CredentialHelper {
    /// Creates a helper that asks `program` for the credentials kept under `server`. Runs nothing yet.
    pub(crate) fn new(program: HelperProgram, server: &str) -> Self {
        let (kept, runs) = (Mutex::default(), SingleFlight::default());
        Self(Arc::new(Inner { program, server: server.to_owned(), kept, runs }))
    }

    /// Returns the program's file name.
    pub(crate) fn program(&self) -> String {
        self.0.program.name()
    }

    /// Returns the last answer while it is valid, else a new one. Concurrent callers, on any worker, share a run, which
    /// goes on when they leave. A failure is an answer for 10 s.
    pub(crate) async fn credential(&self) -> Result<Credential, HelperError> {
        if let Some(kept) = self.0.good() {
            if clock::now() >= kept.renewed_from {
                self.renew();
            }
            return kept.outcome;
        }
        let inner = self.0.clone();
        let run = || async move {
            // Another run may have ended a moment ago.
            match inner.good() {
                Some(kept) => kept.outcome,
                None => inner.run().await,
            }
        };
        let (outcome, _) = self.0.runs.join((), Abandoned::Lasts, run).await;
        outcome.unwrap_or(Err(HelperError::Interrupted))
    }

    /// Notes that the upstream refused the answer: it expires as soon as 10 s have passed since the program ran. Until
    /// then it serves: the refused one may have been the answer before it.
    pub(crate) fn refused(&self) {
        if let Some(kept) = self.0.kept().as_mut() {
            kept.good_until = kept.good_until.min(kept.ran + PAUSE);
            kept.renewed_from = kept.good_until;
        }
    }

    /// Runs the program in the background, unless it runs already.
    fn renew(&self) {
        let inner = self.0.clone();
        self.0.runs.start((), || async move {
            // Another run may have ended a moment ago.
            if let Some(kept) = inner.good().filter(|kept| clock::now() < kept.renewed_from) {
                return kept.outcome;
            }
            let outcome = inner.run().await;
            if let Err(error) = &outcome {
                tracing::warn!(helper = inner.program.name(), %error, "the credential helper failed; its last answer serves until it expires");
            }
            outcome
        });
    }
}

impl Inner {
    fn good(&self) -> Option<Kept> {
        let now = clock::now();
        self.kept().as_ref().filter(|kept| now < kept.good_until).cloned()
    }

    /// Runs the program. To be called by one task at a time.
    async fn run(&self) -> Result<Credential, HelperError> {
        let outcome = self.program.get(&self.server).await;
        self.keep(&outcome);
        outcome
    }

    fn keep(&self, outcome: &Result<Credential, HelperError>) {
        let now = clock::now();
        let mut kept = self.kept();
        match kept.as_mut() {
            // A valid answer is better than an error.
            Some(old) if outcome.is_err() && old.outcome.is_ok() && now < old.good_until => {
                (old.ran, old.renewed_from) = (now, now + PAUSE);
            }
            _ => *kept = Some(Kept::new(outcome.clone(), now)),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock()
    }
}

impl Kept {
    fn new(outcome: Result<Credential, HelperError>, now: Instant) -> Self {
        let (life, early) = if outcome.is_ok() { (LIFE, EARLY) } else { (PAUSE, Duration::ZERO) };
        Self { outcome, ran: now, renewed_from: now + life - early, good_until: now + life }
    }
}

/// How long an answer is kept. Answers do not say how long they are valid; helpers for clouds return tokens of an hour,
/// less the time that the helper itself has kept them.
const LIFE: Duration = Duration::from_secs(10 * 60);

/// How long before its end an answer is renewed: longer than a helper may take, several times over.
const EARLY: Duration = Duration::from_secs(2 * 60);

/// The least time from a failed or refused run to the next: a broken helper must not be started by every request.
const PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::upstream::auth::credentials::program::tests::install;

    /// A helper that leaves a line in `runs` each time, and answers with the file `answer`: it fails without.
    struct Scene {
        directory: tempfile::TempDir,
        helper: CredentialHelper,
    }

    impl Scene {
        fn new(before: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let script = format!("cd \"$(dirname \"$0\")\"; echo >>runs; {before}\ncat answer || exit 1");
            let helper = CredentialHelper::new(install(directory.path(), "test", &script), "r.example");
            let scene = Self { directory, helper };
            scene.answers("one");
            scene
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            Path::join(self.directory.path(), name)
        }

        fn answers(&self, secret: &str) {
            let answer = format!(r#"{{"Username":"robot","Secret":"{secret}"}}"#);
            std::fs::write(self.path("answer"), answer).unwrap();
        }

        fn breaks(&self) {
            std::fs::remove_file(self.path("answer")).unwrap();
        }

        fn runs(&self) -> usize {
            std::fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
        }

        async fn secret(&self) -> Result<String, HelperError> {
            secret(&self.helper).await
        }

        /// Waits until the program has been run `count` times and its last answer is kept.
        async fn ran(&self, count: usize) {
            let ran = async {
                while self.runs() < count || self.helper.0.runs.is_under_way(&()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), ran).await.unwrap();
        }
    }

    async fn secret(helper: &CredentialHelper) -> Result<String, HelperError> {
        match helper.credential().await? {
            Credential::Password(login) => Ok(login.password.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass that no program sees: they run by the real clock.
    async fn pass(seconds: u64) {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    }

    fn ok(secret: &str) -> Result<String, HelperError> {
        Ok(secret.to_owned())
    }

    fn failed() -> Result<String, HelperError> {
        Err(HelperError::Failed("exit status: 1".into()))
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_ten_minutes() {
        let scene = Scene::new("");
        assert_eq!(scene.secret().await, ok("one"));
        scene.answers("two");
        pass(7 * 60).await;
        assert_eq!((scene.secret().await, scene.runs()), (ok("one"), 1));
        pass(4 * 60).await;
        assert_eq!((scene.secret().await, scene.runs()), (ok("two"), 2));
    }

    #[tokio::test]
    async fn an_expiring_answer_is_renewed_in_the_background() {
        let scene = Scene::new("");
        scene.secret().await.unwrap();
        scene.answers("two");
        pass(9 * 60).await;
        for _ in 0..20 {
            assert_eq!(scene.secret().await, ok("one"));
        }
        scene.ran(2).await;
        assert_eq!((scene.secret().await, scene.runs()), (ok("two"), 2));
    }

    #[tokio::test]
    async fn a_failed_renewal_keeps_the_old_answer() {
        let scene = Scene::new("");
        scene.secret().await.unwrap();
        scene.breaks();
        pass(9 * 60).await;
        assert_eq!(scene.secret().await, ok("one"));
        scene.ran(2).await;
        assert_eq!((scene.secret().await, scene.runs()), (ok("one"), 2));
        pass(11).await;
        assert_eq!(scene.secret().await, ok("one"));
        scene.ran(3).await;
        pass(60).await;
        assert_eq!(scene.secret().await, failed());
    }

    #[tokio::test]
    async fn twenty_callers_share_one_run() {
        let scene = Scene::new("sleep 0.2");
        let callers = (0..20).map(|_| {
            let helper = scene.helper.clone();
            tokio::spawn(async move { secret(&helper).await })
        });
        for caller in callers.collect::<Vec<_>>() {
            assert_eq!(caller.await.unwrap(), ok("one"));
        }
        assert_eq!(scene.runs(), 1);
    }

    #[test]
    fn callers_on_several_workers_share_one_run() {
        let scene = Scene::new("sleep 0.2");
        let worker = || {
            let helper = scene.helper.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(secret(&helper))
            })
        };
        for worker in [worker(), worker(), worker()] {
            assert_eq!(worker.join().unwrap(), ok("one"));
        }
        assert_eq!(scene.runs(), 1);
    }

    #[tokio::test]
    async fn a_run_survives_the_caller_that_began_it() {
        let scene = Scene::new("sleep 0.3");
        let gone = tokio::time::timeout(Duration::from_millis(100), scene.helper.credential()).await;
        assert!(gone.is_err());
        assert_eq!((scene.secret().await, scene.runs()), (ok("one"), 1));
    }

    #[tokio::test]
    async fn a_failure_is_kept_for_ten_seconds() {
        let scene = Scene::new("");
        scene.breaks();
        assert_eq!(scene.secret().await, failed());
        scene.answers("two");
        scene.helper.refused();
        assert_eq!((scene.secret().await, scene.runs()), (failed(), 1));
        pass(11).await;
        assert_eq!((scene.secret().await, scene.runs()), (ok("two"), 2));
    }

    #[tokio::test]
    async fn a_refused_answer_is_asked_for_anew() {
        let scene = Scene::new("");
        scene.secret().await.unwrap();
        scene.answers("two");
        pass(60).await;
        scene.helper.refused();
        assert_eq!((scene.secret().await, scene.runs()), (ok("two"), 2));
    }

    #[tokio::test]
    async fn a_fresh_refused_answer_is_renewed_after_a_pause() {
        let scene = Scene::new("");
        scene.secret().await.unwrap();
        scene.answers("two");
        for _ in 0..20 {
            scene.helper.refused();
            assert_eq!(scene.secret().await, ok("one"));
        }
        assert_eq!(scene.runs(), 1);
        pass(11).await;
        assert_eq!((scene.secret().await, scene.runs()), (ok("two"), 2));
    }

    #[tokio::test]
    async fn a_refused_answer_does_not_outlive_a_failing_helper() {
        let scene = Scene::new("");
        scene.secret().await.unwrap();
        scene.breaks();
        pass(60).await;
        scene.helper.refused();
        assert_eq!(scene.secret().await, failed());
    }
}
