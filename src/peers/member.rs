//! A replica of this gateway: where it is, whether it rests, and what has come from it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::MemberReport;
use crate::clock;
use crate::config::limits;

/// A member of the fleet.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its name and port, as all replicas call it.
    pub(crate) name: Arc<str>,
    /// Its addresses; none if its name leads nowhere at the moment.
    pub(super) addresses: Arc<[SocketAddr]>,
    /// The state that stays when its addresses change.
    pub(super) state: Arc<MemberState>,
}

/// The state of a member.
#[derive(Debug, Default)]
pub(crate) struct MemberState {
    rest: Mutex<Rest>,
    asked: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Rest {
    /// Why it is passed over; none if it is not.
    reason: Option<Arc<str>>,
    /// The member has answered each `/alive` since.
    is_brief: bool,
    /// When it was last logged that it is.
    logged: Option<Instant>,
}

impl Member {
    /// Returns true if it is passed over.
    pub(crate) fn rests(&self) -> bool {
        self.state.rest.lock().reason.is_some()
    }

    /// Returns true if it is passed over, and not only for a moment.
    pub(super) fn is_away(&self) -> bool {
        let rest = self.state.rest.lock();
        rest.reason.is_some() && !rest.is_brief
    }

    /// Passes it over for longer than a moment, if it is passed over.
    pub(super) fn note_away(&self) {
        self.state.rest.lock().is_brief = false;
    }

    /// Passes it over from now on, for a moment or for longer. Returns true if it was not already: then it has to be tried again in time.
    pub(super) fn rest(&self, reason: &str, is_brief: bool) -> bool {
        self.state.failed.fetch_add(1, Ordering::Relaxed);
        let (now, mut rest) = (clock::now(), self.state.rest.lock());
        let is_news = rest.reason.is_none();
        rest.reason = Some(reason.into());
        rest.is_brief = is_brief && (is_news || rest.is_brief);
        let is_due = |at: Instant| now.duration_since(at) >= LOGGED;
        if is_news && rest.logged.is_none_or(is_due) {
            rest.logged = Some(now);
            tracing::warn!(member = &*self.name, reason, "a replica does not answer; it is passed over");
        } else {
            tracing::debug!(member = &*self.name, reason, "a replica does not answer; it is passed over");
        }
        is_news
    }

    /// Asks it again from now on.
    pub(super) fn wake(&self) {
        if self.state.rest.lock().reason.take().is_some() {
            tracing::info!(member = &*self.name, "a replica answers again");
        }
    }

    /// Notes that it is asked something.
    pub(super) fn note_asked(&self) {
        self.state.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that so many bytes of content have come from it.
    pub(super) fn note_bytes(&self, bytes: u64) {
        self.state.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns what operators are told of it.
    pub(super) fn report(&self, is_own: bool) -> MemberReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let MemberState { rest, asked, failed, bytes } = &*self.state;
        MemberReport {
            name: self.name.to_string(),
            is_own,
            resting: rest.lock().reason.as_deref().map(str::to_owned),
            asked: count(asked),
            failed: count(failed),
            bytes: count(bytes),
        }
    }
}

/// The states of all members that there have been, so that one that comes again is known.
#[derive(Debug, Default)]
pub(super) struct MemberStates(Mutex<HashMap<Arc<str>, Arc<MemberState>>>);

impl MemberStates {
    /// Returns the member called `name`.
    pub(super) fn member(&self, name: &str, addresses: Vec<SocketAddr>) -> Member {
        let mut states = self.0.lock();
        if states.len() > 4 * limits::PEERS_MOST {
            states.clear();
        }
        let (name, state) = match states.get_key_value(name) {
            Some((name, state)) => (name.clone(), state.clone()),
            None => {
                let (name, state): (Arc<str>, Arc<MemberState>) = (name.into(), Arc::default());
                states.insert(name.clone(), state.clone());
                (name, state)
            }
        };
        Member { name, addresses: addresses.into(), state }
    }
}

/// How often it is logged at most that a member does not answer.
const LOGGED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_rests_until_it_is_woken() {
        let states = MemberStates::default();
        let member = states.member("a:1", Vec::new());
        assert!(member.rest("broke off", true) && !member.is_away());
        assert!(!member.rest("refused", false) && !member.rest("broke off again", true) && member.is_away());
        let again = states.member("a:1", vec![([127, 0, 0, 1], 1).into()]);
        assert!(again.rests(), "by whatever address");
        assert!(!states.member("b:1", Vec::new()).rests());
        again.wake();
        assert!(!member.rests());
        assert!(!member.is_away());
        assert_eq!(member.report(false).failed, 3);
    }
}
