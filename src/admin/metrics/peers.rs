//! Metrics of the other replicas.

use std::fmt;

use crate::admin::metrics::exposition::Exposition;
use crate::admin::state::ObservedFleet;
use crate::cache::MemberReport;

/// The fleet at one moment.
#[derive(Debug, Default)]
pub(super) struct PeersSnapshot {
    members: Vec<MemberReport>,
    answered: u64,
    sent: u64,
}

impl PeersSnapshot {
    pub(super) fn of(fleet: &ObservedFleet) -> Self {
        let (answered, sent) = fleet.answers.totals();
        Self { members: fleet.membership.report(), answered, sent }
    }

    pub(super) fn encode(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let (own, others): (Vec<_>, Vec<_>) = self.members.iter().partition(|member| member.is_own);
        let by_member = |value: fn(&MemberReport) -> u64| -> Vec<_> {
            others.iter().map(|member| ([("member", member.name.clone())], value(member))).collect()
        };
        out.one(
            "dockgate_peer_members",
            "Members of the fleet, with this replica",
            self.members.len() as u64,
        )?;
        out.one(
            "dockgate_peer_is_member",
            "1 if this replica has found itself among the members",
            own.len() as u64,
        )?;
        let resting = by_member(|member| u64::from(member.resting.is_some()));
        out.gauge(
            "dockgate_peer_resting",
            "1 while a replica is passed over, since it did not answer",
            &resting,
        )?;
        let asked = by_member(|member| member.asked);
        out.counter("dockgate_peer_requests", "Questions to a replica", &asked)?;
        let failed = by_member(|member| member.failed);
        out.counter("dockgate_peer_failures", "Times that a replica did not answer, or broke off", &failed)?;
        let bytes = by_member(|member| member.bytes);
        out.counter("dockgate_peer_received_bytes", "Bytes of content from a replica", &bytes)?;
        out.total("dockgate_peer_answers", "Questions of other replicas", self.answered)?;
        out.total("dockgate_peer_sent_bytes", "Bytes of content to other replicas", self.sent)
    }
}

#[cfg(test)]
pub(super) fn sample() -> PeersSnapshot {
    let member = |name: &str, is_own, resting: Option<&str>| MemberReport {
        name: name.into(),
        is_own,
        resting: resting.map(Into::into),
        asked: 3,
        failed: 1,
        bytes: 7,
    };
    let members = vec![member("10.0.0.1:5003", true, None), member("10.0.0.2:5003", false, Some("refused"))];
    PeersSnapshot { members, answered: 5, sent: 6 }
}
