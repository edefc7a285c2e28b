//! Verification of names and passwords by the htpasswd file.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::authn::bcrypt_pool::{Checks, Entry, Work};
use crate::authn::htpasswd::{HtpasswdFile, Reload};
use crate::authn::memory::{Fingerprint, Memory};
use crate::authn::password_checks::{PasswordCheck, PasswordChecks};
use crate::authn::rejection_floor::RejectionFloor;
use crate::authn::throttle::{Admission, Throttle};
use crate::budget::{Client, Usage};
use crate::clock;
use crate::proto::htpasswd::{Line, cut_short};
use crate::proto::identity::Identity;
use crate::proto::{Htpasswd, Secret};

/// Verifies passwords: remembers results, checks the rest on threads of its own, and lets no client learn
/// from the time of an answer whether a name exists.
pub struct Verifier {
    file: HtpasswdFile,
    throttle: Throttle,
    checks: Checks<Verdict>,
    book: Arc<Book>,
    counts: PasswordChecks,
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The password is this user's.
    Accept(Identity),
    /// No such pair of name and password. Answered no sooner than a check of the file's costliest hash takes.
    Reject,
    /// The pair was not checked: too many failures, or too many checks are waiting.
    Throttled {
        /// The time after which the client may try again.
        retry_after: Duration,
    },
}

impl Verifier {
    /// Starts the threads, and measures on them how long a check of the file's costliest hash takes.
    ///
    /// # Errors
    /// When the system gives no thread or no random key.
    pub fn new(file: HtpasswdFile) -> io::Result<Self> {
        let memory = Memory::new(WRONG_LIFE).ok_or_else(|| io::Error::other("no random bytes"))?;
        let costliest = file.table().costliest();
        let book = Arc::new(Book {
            memory,
            rejection_floor: RejectionFloor::new(costliest),
            checks_run: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
        });
        let verifier = Self {
            file,
            throttle: Throttle::new(),
            checks: Checks::start()?,
            book,
            counts: PasswordChecks::default(),
        };
        verifier.measure(costliest);
        Ok(verifier)
    }

    /// Returns the user, if this pair was found right before and the user's line has not changed since. Takes about a
    /// microsecond.
    pub fn remembered(&self, user: &str, password: &Secret) -> Option<Identity> {
        let table = self.file.table();
        let line = table.line(user);
        let fingerprint = self.book.memory.fingerprint(user, password, line);
        let right = self.book.memory.is_right(&fingerprint);
        let identity = line.filter(|_| right).map(|line| Identity::User(line.name().clone()));
        if identity.is_some() {
            self.counts.note(PasswordCheck::Remembered);
        }
        identity
    }

    /// Verifies a pair. Remembered results are used before any throttle; equal pairs under way are checked once; a check
    /// goes on, and its result is remembered, when the client leaves.
    pub async fn verify(&self, user: &str, password: &Secret, peer: IpAddr) -> Outcome {
        let arrived = clock::now();
        match self.enter(user, password, Client::of(peer), arrived) {
            Entry::Settled(Known::Right(identity)) => Outcome::Accept(identity),
            Entry::Settled(Known::Wrong) => self.reject(arrived).await,
            Entry::Settled(Known::Throttled(retry_after)) => Outcome::Throttled { retry_after },
            Entry::Wait(verdict) => match verdict.await {
                Ok(Verdict { identity: Some(identity), .. }) => Outcome::Accept(identity),
                Ok(Verdict { began, .. }) => self.reject(began.max(arrived)).await,
                Err(_) => Outcome::Throttled { retry_after: BUSY },
            },
            Entry::Full => Outcome::Throttled { retry_after: BUSY },
        }
    }

    /// Returns the htpasswd file.
    pub fn file(&self) -> &HtpasswdFile {
        &self.file
    }

    /// Returns true if the file has this name, even if its line cannot be used.
    pub(super) fn names(&self, user: &str) -> bool {
        self.file.table().names(user)
    }

    /// Returns the minimum time of a failure.
    pub(super) fn floor(&self) -> Duration {
        self.book.rejection_floor.floor()
    }

    /// Returns the state of the queue of passwords that are to be checked.
    pub(super) fn usage(&self) -> Usage {
        self.checks.usage()
    }

    /// Returns the counters of the passwords that were judged.
    pub(super) fn password_checks(&self) -> &PasswordChecks {
        &self.counts
    }

    /// Returns how many bcrypt computations were run for logins since the start.
    pub fn checks_run(&self) -> u64 {
        self.book.checks_run.load(Ordering::Relaxed)
    }

    /// Reads the file again if it changed; see [`HtpasswdFile::reload_if_changed`].
    pub fn reload_if_changed(&self) -> Reload {
        self.adopt(self.file.reload_if_changed())
    }

    /// Reads the file again in any case.
    pub fn reload(&self) -> Reload {
        self.adopt(self.file.reload())
    }

    /// Joins, or begins, the check of a pair, unless it is decided without one.
    fn enter(&self, user: &str, password: &Secret, peer: Client, now: Instant) -> Entry<Verdict, Known> {
        let table = self.file.table();
        let fingerprint = self.book.memory.fingerprint(user, password, table.line(user));
        let mut begins = false;
        let entry = self.checks.enter(fingerprint, peer, || {
            self.known(&table, user, &fingerprint)?;
            let admission = self.throttle.admit(peer, user, now).map_err(Known::Throttled)?;
            if hopeless(user, password) {
                self.book.settle(fingerprint, false, admission);
                return Err(Known::Wrong);
            }
            begins = true;
            Ok(self.check(&table, user, password, fingerprint, admission))
        });
        self.counts.note(match &entry {
            Entry::Wait(_) if begins => PasswordCheck::Checked,
            Entry::Wait(_) => PasswordCheck::Joined,
            Entry::Settled(Known::Right(_) | Known::Wrong) => PasswordCheck::Remembered,
            Entry::Settled(Known::Throttled(_)) | Entry::Full => PasswordCheck::Throttled,
        });
        entry
    }

    /// Returns a remembered decision, as an error: it ends [`enter`](Self::enter).
    fn known(&self, table: &Htpasswd, user: &str, fingerprint: &Fingerprint) -> Result<(), Known> {
        match table.line(user) {
            Some(line) if self.book.memory.is_right(fingerprint) => {
                Err(Known::Right(Identity::User(line.name().clone())))
            }
            _ if self.book.memory.is_wrong(fingerprint) => Err(Known::Wrong),
            _ => Ok(()),
        }
    }

    /// Returns the work of one check. A failure costs as much as a check of the costliest hash, whatever hash the name
    /// has, and if it has one at all: the same work takes the same time, however busy the machine is.
    fn check(
        &self,
        table: &Htpasswd,
        user: &str,
        password: &Secret,
        fingerprint: Fingerprint,
        admission: Admission,
    ) -> Work<Verdict> {
        let (book, password) = (Arc::clone(&self.book), password.clone());
        let line = table.line(user);
        let identity = line.map(|line| Identity::User(line.name().clone()));
        let costliest = table.costliest();
        let cost = line.map_or(costliest, Line::cost);
        let hash = line.map_or_else(|| dummy_hash(cost), |line| Arc::clone(line.hash()));
        Box::new(move || {
            let began = clock::now();
            book.checks_run.fetch_add(1, Ordering::Relaxed);
            let matches = book.matches(&password, cost, &hash);
            if !matches {
                // A check of cost c takes 2^c rounds. 2^c + 2^c + 2^(c+1) + ... + 2^(d-1) = 2^d: the failure has taken
                // the rounds of the costliest hash, d, so that its time does not tell which name exists.
                for cost in cost..costliest {
                    book.matches(&password, cost, &dummy_hash(cost));
                }
                book.rejection_floor.note(costliest, clock::now().saturating_duration_since(began));
            }
            let identity = identity.filter(|_| matches);
            book.settle(fingerprint, identity.is_some(), admission);
            Verdict { identity, began }
        })
    }

    /// Times the costliest hash in the background, so that the time is known at the first failure.
    fn measure(&self, cost: u32) {
        let book = Arc::clone(&self.book);
        let work = move || {
            let began = clock::now();
            book.matches(&Secret::new("measure"), cost, &dummy_hash(cost));
            book.rejection_floor.note(cost, clock::now().saturating_duration_since(began));
            Verdict { identity: None, began }
        };
        // If the queue is full, other checks are being measured anyway.
        let _ = self.checks.enter(Fingerprint::MEASURING, Client::of(Ipv4Addr::UNSPECIFIED.into()), || {
            Ok::<_, Known>(Box::new(work))
        });
    }

    fn adopt(&self, reload: Reload) -> Reload {
        if let Reload::Swapped(table) = &reload
            && self.book.rejection_floor.set_cost(table.costliest())
        {
            self.measure(table.costliest());
        }
        reload
    }

    /// Waits until a failure whose check began at `began` may be answered. The time in the queue is the same for every
    /// name, so it is not counted.
    async fn reject(&self, began: Instant) -> Outcome {
        tokio::time::sleep_until((began + self.floor()).into()).await;
        Outcome::Reject
    }
}

/// The results that the threads write.
struct Book {
    memory: Memory,
    rejection_floor: RejectionFloor,
    checks_run: AtomicU64,
    /// The rounds of bcrypt that were computed.
    rounds: AtomicU64,
}

impl Book {
    fn matches(&self, password: &Secret, cost: u32, hash: &str) -> bool {
        self.rounds.fetch_add(1 << cost, Ordering::Relaxed);
        bcrypt::verify(password.expose(), hash).unwrap_or(false)
    }

    fn settle(&self, fingerprint: Fingerprint, right: bool, admission: Admission) {
        self.memory.keep(fingerprint, right);
        if right { admission.succeed() } else { admission.fail() }
    }
}

/// A decision that needs no check.
enum Known {
    Right(Identity),
    Wrong,
    Throttled(Duration),
}

/// The result of a check.
#[derive(Clone)]
struct Verdict {
    identity: Option<Identity>,
    began: Instant,
}

/// Returns true if the pair is wrong without a check: no name, or a password that bcrypt would cut short.
fn hopeless(user: &str, password: &Secret) -> bool {
    user.is_empty() || cut_short(password)
}

/// Returns a hash of this cost that no password matches.
fn dummy_hash(cost: u32) -> Arc<str> {
    format!("$2b${cost:02}${}", ".".repeat(53)).into()
}

/// The time in which a wrong pair is checked, and counted as a failure, only once. A new line of the file ends it sooner. As
/// long as this, since docker sends the password of Docker Hub to every mirror: an office of 600 people behind one address
/// then stays below what is forgiven, and a new login from there is not kept waiting.
const WRONG_LIFE: Duration = Duration::from_secs(60 * 60);

/// The `Retry-After` while the threads are overloaded.
const BUSY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
