//! Writes of which members may not have heard. Such a member is not asked about the repository: it would give what it believes of
//! it, which the write has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::clock;
use crate::config::limits;

/// The writes of which members may not have heard, by member and object.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    writes: Mutex<HashMap<Place, Write>>,
    count: AtomicUsize,
    /// A task is telling them again.
    is_told: AtomicBool,
}

/// A member's name, and the name of an object.
type Place = (Arc<str>, Arc<str>);

#[derive(Debug, Clone)]
struct Write {
    /// When the member believes nothing any more that the write has ended.
    until: Instant,
    /// The notice to be sent to it again; none if another replica does that.
    notice: Option<Bytes>,
}

/// A notice that a member is to be told again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) member: Arc<str>,
    pub(super) object: Arc<str>,
    pub(super) notice: Bytes,
}

impl Unheard {
    /// Notes that `member` may not have heard of a write to `object` until it is told `notice` again, or until `until`.
    pub(super) fn note(&self, member: &Arc<str>, object: &Arc<str>, until: Instant, notice: Option<Bytes>) {
        let now = clock::now();
        let mut writes = self.writes.lock();
        if writes.len() >= limits::PEER_NOTICES_UNHEARD {
            writes.retain(|_, write| write.until > now);
        }
        if writes.len() >= limits::PEER_NOTICES_UNHEARD
            && let Some(first) = writes.iter().min_by_key(|(_, write)| write.until)
        {
            let first = first.0.clone();
            writes.remove(&first);
        }
        if until > now {
            writes.insert((member.clone(), object.clone()), Write { until, notice });
        }
        self.count.store(writes.len(), Ordering::Release);
    }

    /// Notes that the member has heard of the write, unless there was another since, of which it was not told by `notice`.
    pub(super) fn heard(&self, member: &Arc<str>, object: &Arc<str>, notice: &Bytes) {
        let mut writes = self.writes.lock();
        let key = (member.clone(), object.clone());
        if writes.get(&key).is_some_and(|write| write.notice.as_ref() == Some(notice)) {
            writes.remove(&key);
        }
        self.count.store(writes.len(), Ordering::Release);
    }

    /// Tells the member of the write no more: it does not take the notice.
    pub(super) fn give_up(&self, member: &Arc<str>, object: &Arc<str>) {
        if let Some(write) = self.writes.lock().get_mut(&(member.clone(), object.clone())) {
            write.notice = None;
        }
    }

    /// Returns true if the member may not have heard of a write to `object`.
    pub(super) fn has(&self, member: &Arc<str>, object: &str) -> bool {
        // Mostly all have.
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let write = self.writes.lock().get(&(member.clone(), object.into())).cloned();
        write.is_some_and(|write| write.until > clock::now())
    }

    /// Returns the notices that are to be told again.
    pub(super) fn again(&self) -> Vec<Again> {
        let now = clock::now();
        let mut writes = self.writes.lock();
        writes.retain(|_, write| write.until > now);
        self.count.store(writes.len(), Ordering::Release);
        let again = writes.iter().filter_map(|((member, object), write)| {
            let (member, object, notice) = (member.clone(), object.clone(), write.notice.clone()?);
            Some(Again { member, object, notice })
        });
        again.collect()
    }

    /// Begins to tell the members again. Returns false if that is under way.
    pub(super) fn begin(&self) -> bool {
        !self.is_told.swap(true, Ordering::AcqRel)
    }

    /// Ends to tell the members again. Returns false if there are some after all.
    pub(super) fn end(&self) -> bool {
        self.is_told.store(false, Ordering::Release);
        self.again().is_empty() || !self.begin()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOTICE: Bytes = Bytes::from_static(b"it was written to");

    #[tokio::test(start_paused = true)]
    async fn a_member_is_not_asked_until_it_has_heard() {
        let (unheard, member, object) = (Unheard::default(), Arc::from("a:1"), Arc::from("up repository"));
        let soon = || clock::now() + Duration::from_secs(10);
        assert!(!unheard.has(&member, &object));
        unheard.note(&member, &object, soon(), Some(NOTICE));
        assert!(unheard.has(&member, &object));
        assert!(!unheard.has(&member, "up other") && !unheard.has(&Arc::from("b:1"), &object));
        let [again] = &*unheard.again() else { panic!() };
        assert_eq!(again.notice, NOTICE);
        unheard.heard(&member, &object, &Bytes::from_static(b"an earlier write"));
        assert!(unheard.has(&member, &object));
        unheard.heard(&member, &object, &NOTICE);
        assert!(!unheard.has(&member, &object));

        unheard.note(&member, &object, soon(), None);
        assert!(unheard.has(&member, &object) && unheard.again().is_empty(), "another tells it");
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!unheard.has(&member, &object), "it believes nothing any more that was before");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_too_many() {
        let (unheard, member) = (Unheard::default(), Arc::from("a:1"));
        for number in 0..limits::PEER_NOTICES_UNHEARD as u64 + 100 {
            let until = clock::now() + Duration::from_secs(10 + number);
            unheard.note(&member, &number.to_string().into(), until, Some(NOTICE));
        }
        assert_eq!(unheard.again().len(), limits::PEER_NOTICES_UNHEARD);
        assert!(
            !unheard.has(&member, "0") && unheard.has(&member, "4000"),
            "the ones that end last are kept"
        );
    }
}
