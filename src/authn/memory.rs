//! The memory of checked passwords.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock;
use crate::proto::Secret;
use crate::proto::htpasswd::Line;
use crate::proto::identity::Forwarded;

/// Checked pairs of name and password, right ones apart from wrong ones, so that guesses evict no login.
///
/// The least recently used pair is evicted first: moka's default policy may refuse a fresh entry, and then a user with a right
/// password would be checked on every request.
pub(super) struct Memory {
    key: hmac::Key,
    /// The right pairs, each with the time of its check.
    right: Cache<Fingerprint, Instant>,
    wrong: Cache<Fingerprint, ()>,
}

impl Memory {
    /// Returns an empty memory with a key of its own, which forgets after `wrong_life` that a pair was wrong. `None` when the
    /// system has no random bytes.
    pub(super) fn new(wrong_life: Duration) -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new()).ok()?;
        let right = bounded(REMEMBERED_RIGHT).time_to_idle(RIGHT_IDLE).build();
        let wrong = bounded(REMEMBERED_WRONG).time_to_live(wrong_life).build();
        Some(Self { key, right, wrong })
    }

    /// Returns the fingerprint of a name, a password and the line that decides over them now. The password cannot be
    /// recovered from it without the key. A changed line gives another fingerprint, so nothing must be forgotten on a
    /// reload. A user without a line gets another fingerprint when the line is added.
    pub(super) fn fingerprint(&self, user: &str, password: &Secret, line: Option<&Line>) -> Fingerprint {
        self.sign([user, password.expose(), line.map_or("unknown", |line| line.hash())])
    }

    /// Returns the fingerprint of a name and a password at one upstream, in one `generation` of its configuration.
    pub(super) fn fingerprint_of(&self, client: &Forwarded, generation: u64) -> Fingerprint {
        let upstream = format!("{generation}/{}", client.upstream());
        self.sign([&upstream, client.username(), client.password().expose()])
    }

    fn sign(&self, parts: [&str; 3]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        Fingerprint::of(&context.sign())
    }

    /// Returns true if the pair was found right.
    pub(super) fn is_right(&self, fingerprint: &Fingerprint) -> bool {
        self.right_since(fingerprint).is_some()
    }

    /// Returns when the pair was found right.
    pub(super) fn right_since(&self, fingerprint: &Fingerprint) -> Option<Instant> {
        self.right.get(fingerprint)
    }

    /// Returns true if the pair was found wrong lately.
    pub(super) fn is_wrong(&self, fingerprint: &Fingerprint) -> bool {
        self.wrong.get(fingerprint).is_some()
    }

    /// Keeps the result of a check, in place of an earlier result.
    pub(super) fn keep(&self, fingerprint: Fingerprint, right: bool) {
        if right {
            self.wrong.invalidate(&fingerprint);
            self.right.insert(fingerprint, clock::now());
        } else {
            self.right.invalidate(&fingerprint);
            self.wrong.insert(fingerprint, ());
        }
    }

    /// Forgets that the pair was found right.
    pub(super) fn forget(&self, fingerprint: &Fingerprint) {
        self.right.invalidate(fingerprint);
    }

    /// Forgets all results, right and wrong.
    pub(super) fn clear(&self) {
        self.right.invalidate_all();
        self.wrong.invalidate_all();
    }
}

/// An HMAC-SHA256 under a key that lives as long as the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of the check that only measures, and belongs to no login.
    pub(super) const MEASURING: Self = Self([0; 32]);

    fn of(tag: &hmac::Tag) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        Self(bytes)
    }

    #[cfg(test)]
    pub(super) fn numbered(number: u32) -> Self {
        let mut bytes = [0xff; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Self(bytes)
    }
}

fn bounded<V: Clone + Send + Sync + 'static>(
    entries: u64,
) -> moka::sync::CacheBuilder<Fingerprint, V, Cache<Fingerprint, V>> {
    Cache::builder().max_capacity(entries).eviction_policy(EvictionPolicy::lru())
}

/// The most right pairs that are remembered: more than the users of one gateway in an hour. Some 2 MiB.
const REMEMBERED_RIGHT: u64 = 10_000;

/// The most wrong pairs that are remembered: more than the misconfigured clients that retry.
const REMEMBERED_WRONG: u64 = 4_000;

/// The time without a request after which a right pair is checked again.
const RIGHT_IDLE: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Htpasswd;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    fn print(memory: &Memory, user: &str, password: &str, line: Option<&Line>) -> [u8; 32] {
        memory.fingerprint(user, &Secret::new(password), line).0
    }

    #[test]
    fn the_border_between_name_and_password_counts() {
        let memory = Memory::new(HOUR).unwrap();
        assert_ne!(print(&memory, "ab", "c", None), print(&memory, "a", "bc", None));
    }

    #[test]
    fn a_changed_line_is_another_fingerprint() {
        let memory = Memory::new(HOUR).unwrap();
        let old = Htpasswd::parse(format!("a:{HASH}").as_bytes());
        let new = Htpasswd::parse(format!("a:{}", HASH.replace("$05$", "$06$")).as_bytes());
        let prints = [None, old.line("a"), new.line("a")].map(|line| print(&memory, "a", "p", line));
        assert!(prints[0] != prints[1] && prints[1] != prints[2] && prints[0] != prints[2]);
        assert_eq!(prints[1], print(&memory, "a", "p", old.line("a")));
    }

    #[test]
    fn a_client_of_one_upstream_is_another_elsewhere() {
        let memory = Memory::new(HOUR).unwrap();
        let of = |upstream: &str, user: &str, password: &str| {
            memory.fingerprint_of(&Forwarded::new(upstream, user.to_owned(), Secret::new(password)), 0).0
        };
        let prints = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", "b", "d"), ("b", "b", "c")];
        let prints: std::collections::HashSet<_> = prints.map(|(at, user, word)| of(at, user, word)).into();
        assert_eq!(prints.len(), 5);
        assert!(prints.contains(&of("a", "b", "c")));
    }

    #[test]
    fn the_last_check_counts() {
        let (memory, pair) = (Memory::new(HOUR).unwrap(), Fingerprint::numbered(1));
        memory.keep(pair, true);
        memory.keep(pair, false);
        assert!(!memory.is_right(&pair) && memory.is_wrong(&pair));
        memory.keep(pair, true);
        assert!(memory.is_right(&pair) && !memory.is_wrong(&pair));
        memory.forget(&pair);
        assert!(!memory.is_right(&pair));
    }

    #[test]
    fn a_wrong_pair_is_forgotten_in_time() {
        let pair = Fingerprint::numbered(1);
        let (brief, long) = (Memory::new(Duration::from_millis(1)).unwrap(), Memory::new(HOUR).unwrap());
        brief.keep(pair, false);
        long.keep(pair, false);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!brief.is_wrong(&pair) && long.is_wrong(&pair));
    }

    #[test]
    fn two_processes_have_different_keys() {
        let (one, two) = (Memory::new(HOUR).unwrap(), Memory::new(HOUR).unwrap());
        assert_ne!(print(&one, "a", "p", None), print(&two, "a", "p", None));
    }

    #[test]
    fn guesses_evict_no_login() {
        let memory = Memory::new(HOUR).unwrap();
        memory.keep(Fingerprint::numbered(1), true);
        for n in 0..20_000 {
            let guess = memory.fingerprint("a", &Secret::new(n.to_string()), None);
            memory.keep(guess, false);
        }
        assert!(memory.is_right(&Fingerprint::numbered(1)));
        memory.wrong.run_pending_tasks();
        assert!(memory.wrong.entry_count() <= REMEMBERED_WRONG);
    }
}
