//! The members that take no connection, which are tried less and less often while nothing is asked of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::limits;

/// The members that have taken no connection, each with the time of the next try and the pause after that.
pub(super) struct Refusals {
    first_pause: Duration,
    members: HashMap<Arc<str>, (Instant, Duration)>,
}

impl Refusals {
    /// Returns none yet. A member that refuses is tried again after `first_pause`, and then after twice as long each time.
    pub(super) fn new(first_pause: Duration) -> Self {
        Self { first_pause, members: HashMap::new() }
    }

    /// Returns true if a member may be tried now.
    pub(super) fn may_try(&self, member: &str) -> bool {
        self.members.get(member).is_none_or(|(next, _)| clock::now() >= *next)
    }

    /// Notes whether a member has taken a connection.
    pub(super) fn note(&mut self, member: &Arc<str>, is_taken: bool) {
        let pause = self.members.remove(member).map_or(self.first_pause, |(_, pause)| pause);
        if !is_taken && self.members.len() < limits::PEERS_MOST {
            let longer = (2 * pause).min(limits::PEER_REFUSED_MOST.max(self.first_pause));
            self.members.insert(member.clone(), (clock::now() + pause, longer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_member_that_refuses_is_tried_less_and_less_often() {
        let (mut refusals, member) = (Refusals::new(Duration::from_secs(5)), Arc::<str>::from("it:1"));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            refusals.note(&member, false);
            let mut seconds = 0;
            while !refusals.may_try(&member) {
                tokio::time::advance(Duration::from_secs(1)).await;
                seconds += 1;
            }
            pauses.push(seconds);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        refusals.note(&member, true);
        refusals.note(&member, false);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(refusals.may_try(&member) && refusals.may_try("another:1"));
    }
}
