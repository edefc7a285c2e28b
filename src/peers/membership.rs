//! The members of the fleet, looked up again and again, and this replica among them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::cache::MemberReport;
use crate::clock;
use crate::config::{self, limits};
use crate::peers::member::{Member, MemberStates};
use crate::peers::unheard::Unheard;
use crate::peers::{placement, srv};
use crate::proto::Authority;

/// The members of the fleet, as they were last found.
#[derive(Debug)]
pub(crate) struct Membership {
    settings: config::Peers,
    /// Where this replica listens for the others.
    listening: SocketAddr,
    states: MemberStates,
    view: ArcSwap<View>,
    /// Told when there are other members than before.
    changes: Notify,
    unheard: Unheard,
}

/// The members at one moment.
#[derive(Debug, Default)]
pub(super) struct View {
    members: Vec<Member>,
    /// This replica's places among them: it may have several addresses.
    own: Vec<usize>,
    /// Why the last look at them failed; what was found before is used.
    problem: Option<Arc<str>>,
}

/// A member to be asked, and whether it stands before this replica in the order.
pub(super) struct Candidate {
    pub(super) member: Member,
    pub(super) is_before: bool,
}

/// Members by their names, each with its addresses.
type Found = BTreeMap<String, Vec<SocketAddr>>;

impl Membership {
    /// Returns the members of `settings`, none yet. This replica listens for the others at `listening`.
    pub(crate) fn new(settings: config::Peers, listening: SocketAddr) -> Self {
        let (states, view, unheard) = (MemberStates::default(), ArcSwap::default(), Unheard::default());
        Self { settings, listening, states, view, changes: Notify::new(), unheard }
    }

    /// Looks the members up once. A failed or empty answer keeps the last. Returns true if there are others than before.
    pub(crate) async fn refresh(&self) -> bool {
        let found = self.look_up().await;
        let before = self.view.load_full();
        let found = match found {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => return self.keep(&before, "the answer is empty"),
            Err(error) => return self.keep(&before, &error.to_string()),
        };
        let member =
            |(name, addresses): (&String, &Vec<SocketAddr>)| self.states.member(name, addresses.clone());
        let members: Vec<Member> = found.iter().map(member).collect();
        let own = self.own_places(&found);
        let view = View { members, own, problem: None };
        let is_news = view.names() != before.names() || view.own != before.own;
        if is_news {
            let own = view.own.first().map_or("none of them", |own| &*view.members[*own].name);
            tracing::info!(members = view.names().join(", "), own, "the replicas of this gateway");
        }
        for member in &view.members {
            let old = before.members.iter().find(|old| old.name == member.name);
            if old.is_some_and(|old| old.addresses != member.addresses) {
                // The member may be well at its new address.
                member.wake();
            }
        }
        self.view.store(Arc::new(view));
        if is_news {
            self.changes.notify_waiters();
        }
        is_news
    }

    /// Waits until there are other members than at the call.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changes.notified()
    }

    /// Keeps the members that were found last. Returns false: there are no others than before.
    fn keep(&self, before: &View, problem: &str) -> bool {
        if before.problem.as_deref() != Some(problem) {
            let members = &self.settings.members;
            tracing::warn!(%members, error = problem, "cannot look up the replicas; those that were found last are used");
        }
        let (members, own) = (before.members.clone(), before.own.clone());
        self.view.store(Arc::new(View { members, own, problem: Some(problem.into()) }));
        false
    }

    /// Looks the members up again and again, as long as this is used elsewhere. Returns once they have been found first, or after
    /// a moment: a name server that is silent holds up no start.
    pub(crate) async fn begin(self: Arc<Self>) {
        let _ = tokio::time::timeout(FIRST_LOOK, self.refresh()).await;
        let (refresh, this) = (self.settings.refresh, Arc::downgrade(&self));
        tokio::spawn(async move {
            let mut changed = clock::now();
            loop {
                tokio::time::sleep(pause(refresh, changed.elapsed())).await;
                let Some(this) = this.upgrade() else { return };
                if this.refresh().await {
                    changed = clock::now();
                }
            }
        });
    }

    /// Returns the writes of which members may not have heard.
    pub(super) fn unheard(&self) -> &Unheard {
        &self.unheard
    }

    /// Returns true if the member may be asked about `object`: it does not rest, and has heard of all writes to it.
    fn may_be_asked(&self, member: &Member, object: &str) -> bool {
        !member.rests() && !self.unheard.has(&member.name, object)
    }

    /// Returns the members before this replica in the order of `object`, of those that may be asked about it.
    pub(super) fn before(&self, object: &str, most: usize) -> Vec<Candidate> {
        let view = self.view.load();
        let ordered = view.order(object).take_while(|(_, is_own)| !is_own).map(|(member, _)| member);
        let living = ordered.filter(|member| self.may_be_asked(member, object)).take(most);
        living.map(|member| Candidate { member: member.clone(), is_before: true }).collect()
    }

    /// Returns true if no living member comes before this replica in the order of `object`.
    pub(crate) fn owns(&self, object: &str) -> bool {
        self.before(object, 1).is_empty()
    }

    /// Returns all other members in the order of `object`, of those that may be asked about it.
    pub(super) fn all(&self, object: &str, most: usize) -> Vec<Candidate> {
        let view = self.view.load();
        let mut is_before = true;
        let mut candidates = Vec::new();
        for (member, is_own) in view.order(object) {
            is_before &= !is_own;
            if !is_own && self.may_be_asked(member, object) && candidates.len() < most {
                candidates.push(Candidate { member: member.clone(), is_before });
            }
        }
        candidates
    }

    /// Returns the name by which this replica stands in the order of `object`; none if it is not among the members.
    pub(super) fn own_name(&self, object: &str) -> Option<Arc<str>> {
        let view = self.view.load();
        view.order(object).find(|(_, is_own)| *is_own).map(|(member, _)| member.name.clone())
    }

    /// Returns true if this replica stands before the member called `asker` in the order of `object`. Only then may that wait for
    /// what is on its way here: no two wait for one another.
    pub(super) fn is_before(&self, asker: &str, object: &str) -> bool {
        let view = self.view.load();
        let mut order = view.order(object);
        order
            .by_ref()
            .find(|(member, is_own)| *is_own || *member.name == *asker)
            .is_some_and(|(_, is_own)| is_own)
            && order.any(|(member, is_own)| !is_own && *member.name == *asker)
    }

    /// Returns the member called `name`, as it was found last.
    pub(super) fn member(&self, name: &str) -> Option<Member> {
        self.view.load().members.iter().find(|member| *member.name == *name).cloned()
    }

    /// Returns all other members, also those that rest.
    pub(super) fn others(&self) -> Vec<Member> {
        let view = self.view.load();
        let others = view.members.iter().enumerate().filter(|(place, _)| !view.own.contains(place));
        others.map(|(_, member)| member.clone()).collect()
    }

    /// Returns all members, this replica among them.
    pub(super) fn members(&self) -> Vec<Member> {
        self.view.load().members.clone()
    }

    /// Returns all members, for operators.
    pub(crate) fn report(&self) -> Vec<MemberReport> {
        let view = self.view.load();
        let members = view.members.iter().enumerate();
        members.map(|(place, member)| member.report(view.own.contains(&place))).collect()
    }

    /// Returns why the members could not be looked up the last time.
    pub(crate) fn problem(&self) -> Option<Arc<str>> {
        self.view.load().problem.clone()
    }

    async fn look_up(&self) -> io::Result<Found> {
        match &self.settings.members {
            config::Members::Dns(name) => {
                let addresses = addresses(&name.host, name.port.unwrap_or_default()).await?;
                Ok(addresses.into_iter().map(|address| (address.to_string(), vec![address])).collect())
            }
            config::Members::Srv(name) => {
                let found = srv::look_up(name).await?.into_iter();
                Ok(self.resolve(found.map(|(host, port)| Authority { host, port: Some(port) })).await)
            }
            config::Members::List(members) => Ok(self.resolve(members.iter().cloned()).await),
        }
    }

    /// Looks up the addresses of names. One of which the lookup fails keeps those that were found last, and its place if there
    /// were none: the others may see it.
    async fn resolve(&self, names: impl Iterator<Item = Authority>) -> Found {
        let one = async |member: Authority| {
            let found = addresses(&member.host, member.port.unwrap_or_default());
            let name = member.to_string();
            match tokio::time::timeout(LOOKUP, found).await {
                Ok(Ok(found)) if !found.is_empty() => (name, found),
                _ => {
                    let before = self.member(&name).map(|member| member.addresses.to_vec());
                    (name, before.unwrap_or_default())
                }
            }
        };
        join_all(names.map(one)).await.into_iter().collect()
    }

    /// Returns this replica's places: by its name, else by addresses that are this machine's, with its port.
    fn own_places(&self, found: &Found) -> Vec<usize> {
        if let Some(name) = &self.settings.name {
            let name = name.to_string();
            return found.keys().position(|member| *member == name).into_iter().collect();
        }
        let everywhere = self.listening.ip().is_unspecified();
        let is_own = |address: &SocketAddr| match everywhere {
            true => address.port() == self.listening.port() && is_local(address.ip()),
            false => *address == self.listening,
        };
        let places = found.values().enumerate();
        places.filter(|(_, addresses)| addresses.iter().any(is_own)).map(|(place, _)| place).collect()
    }
}

impl View {
    fn names(&self) -> Vec<&str> {
        self.members.iter().map(|member| &*member.name).collect()
    }

    /// Returns the members in the order of `object`, each with whether it is this replica.
    fn order(&self, object: &str) -> impl Iterator<Item = (&Member, bool)> {
        let places = placement::order(self.members.iter().map(|member| &*member.name), object);
        places.into_iter().map(|place| (&self.members[place], self.own.contains(&place)))
    }
}

/// Returns the time until the next look at the members, which have been the same for `same`. Replicas that start together, or one after
/// another, have to find each other soon: until then each asks the upstream by itself.
fn pause(refresh: Duration, same: Duration) -> Duration {
    if same < SETTLING { refresh.min(REFRESH_WHILE_SETTLING) } else { refresh }
}

/// How long the members must have been the same before they are looked up no more often than is configured.
const SETTLING: Duration = Duration::from_secs(30);

/// The time between two looks until then.
const REFRESH_WHILE_SETTLING: Duration = Duration::from_secs(1);

/// How long the addresses of one name are looked up.
const LOOKUP: Duration = Duration::from_secs(2);

/// How long a start waits for the members.
const FIRST_LOOK: Duration = Duration::from_secs(1);

async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> = lookup_host((host, port)).await?.take(limits::PEERS_MOST).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Returns true if this machine has the address: then it is its own source on the way there. Nothing is sent. That it can be bound
/// says nothing, since `net.ipv4.ip_nonlocal_bind` lets any address be.
fn is_local(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    };
    address.is_loopback() || source().is_ok_and(|source| source.ip() == address)
}

/// A port to be named (RFC 863).
const DISCARD: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Address, Members};
    use crate::proto::Secret;

    const SECOND: Duration = Duration::from_secs(1);

    fn membership(members: &[&str], name: Option<&str>, port: u16) -> Membership {
        listening(members, name, ([0, 0, 0, 0], port).into())
    }

    fn listening(members: &[&str], name: Option<&str>, listening: SocketAddr) -> Membership {
        let authority = |written: &&str| Authority::parse(written).unwrap();
        let settings = config::Peers {
            address: Address::Any(listening.port()),
            members: Members::List(members.iter().map(authority).collect()),
            name: name.map(|name| Authority::parse(name).unwrap()),
            refresh: SECOND,
            connect_timeout: SECOND,
            resting: SECOND,
            secret: Secret::new(""),
        };
        Membership::new(settings, listening)
    }

    /// Returns the owner that the replica sees for an object; none where it is that itself.
    fn owner(membership: &Membership, object: &str) -> Option<String> {
        membership.before(object, 1).first().map(|candidate| candidate.member.name.to_string())
    }

    #[test]
    fn members_are_looked_up_more_often_while_they_change() {
        for (refresh, same, expected) in [(5, 0, 1), (5, 29, 1), (5, 30, 5), (60, 31, 60)] {
            let pause = pause(refresh * SECOND, same * SECOND);
            assert_eq!(pause, expected * SECOND, "{refresh} {same}");
        }
        assert_eq!(pause(SECOND / 10, Duration::ZERO), SECOND / 10);
    }

    #[tokio::test]
    async fn a_replica_finds_itself_by_its_address_or_by_its_name() {
        let members = ["127.0.0.1:7001", "127.0.0.1:7002", "192.0.2.1:7001"];
        for (name, port, own) in [
            (None, 7001, Some("127.0.0.1:7001")),
            (None, 7002, Some("127.0.0.1:7002")),
            (None, 7003, None),
            (Some("192.0.2.1:7001"), 7002, Some("192.0.2.1:7001")),
        ] {
            let membership = membership(&members, name, port);
            membership.refresh().await;
            let report = membership.report();
            let found = report.iter().find(|member| member.is_own).map(|member| &*member.name);
            assert_eq!(found, own);
        }
    }

    #[test]
    fn a_machine_knows_its_own_addresses() {
        assert!(is_local([127, 0, 0, 9].into()) && is_local(Ipv6Addr::LOCALHOST.into()));
        // Documentation's (RFC 5737, RFC 3849).
        assert!(!is_local([192, 0, 2, 1].into()) && !is_local("2001:db8::1".parse().unwrap()));
    }

    #[tokio::test]
    async fn one_of_several_replicas_on_a_machine_is_known_by_its_whole_address() {
        let own = ([127, 0, 0, 2], 7001).into();
        let membership = listening(&["127.0.0.1:7001", "127.0.0.2:7001"], None, own);
        membership.refresh().await;
        let report = membership.report();
        assert!(!report[0].is_own && report[1].is_own, "{report:?}");
    }

    #[tokio::test]
    async fn all_replicas_see_the_same_owner_and_ask_only_those_before_them() {
        let members = ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"];
        let mut replicas = Vec::new();
        for port in 7001..=7003 {
            let membership = membership(&members, None, port);
            membership.refresh().await;
            replicas.push(membership);
        }
        for object in (0..50).map(|number| number.to_string()) {
            let seen: Vec<_> = replicas.iter().map(|replica| owner(replica, &object)).collect();
            let owners: std::collections::HashSet<_> = seen.iter().flatten().collect();
            assert_eq!((owners.len(), seen.iter().filter(|owner| owner.is_none()).count()), (1, 1));
            let asked: Vec<_> = replicas.iter().map(|replica| replica.before(&object, 9).len()).collect();
            let mut sorted = asked.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2], "no two wait for one another: {asked:?}");
        }
    }

    #[tokio::test]
    async fn the_next_takes_the_place_of_one_that_rests() {
        let membership = membership(&["192.0.2.1:1", "192.0.2.2:1", "127.0.0.1:7001"], None, 7001);
        membership.refresh().await;
        let object =
            (0..).map(|n| n.to_string()).find(|object| membership.before(object, 9).len() == 2).unwrap();
        let [first, second] = &*membership.before(&object, 2) else { panic!() };
        first.member.rest("it is stopped", false);
        assert_eq!(owner(&membership, &object).as_deref(), Some(&*second.member.name));
        assert_eq!(membership.all(&object, 9).len(), 1);
        second.member.rest("it is stopped too", false);
        assert_eq!(owner(&membership, &object), None, "alone");
        first.member.wake();
        assert_eq!(owner(&membership, &object).as_deref(), Some(&*first.member.name));
    }

    #[tokio::test]
    async fn only_a_replica_that_stands_after_may_wait() {
        let membership = membership(&["192.0.2.1:1", "192.0.2.2:1", "127.0.0.1:7001"], None, 7001);
        membership.refresh().await;
        for object in (0..40).map(|number| number.to_string()) {
            let before: Vec<_> = membership.before(&object, 9);
            for name in ["192.0.2.1:1", "192.0.2.2:1"] {
                let is_after = !before.iter().any(|candidate| *candidate.member.name == *name);
                assert_eq!(membership.is_before(name, &object), is_after);
            }
            assert!(!membership.is_before("127.0.0.1:7001", &object), "itself, under whatever name");
            assert!(!membership.is_before("192.0.2.9:1", &object), "one that is not known");
        }
    }

    #[tokio::test]
    async fn a_replica_may_stand_among_the_members_twice() {
        let membership = membership(&["127.0.0.1:7001", "127.0.0.2:7001", "192.0.2.1:7001"], None, 7001);
        membership.refresh().await;
        assert_eq!(membership.report().iter().filter(|member| member.is_own).count(), 2);
        assert!(membership.others().len() == 1 && !membership.is_before("127.0.0.2:7001", "it"));
    }

    #[tokio::test]
    async fn a_name_that_is_not_found_for_once_keeps_its_address() {
        let mut membership = membership(&["localhost:7001", "192.0.2.1:7001"], Some("192.0.2.1:7001"), 7001);
        membership.refresh().await;
        let before = membership.member("localhost:7001").unwrap();
        assert!(!before.addresses.is_empty());
        membership.settings.members = Members::List(vec![
            Authority::parse("none.invalid:7001").unwrap(),
            Authority::parse("192.0.2.1:7001").unwrap(),
        ]);
        let view = View {
            members: vec![Member { name: "none.invalid:7001".into(), ..before.clone() }],
            ..View::default()
        };
        membership.view.store(Arc::new(view));
        membership.refresh().await;
        assert_eq!(membership.member("none.invalid:7001").unwrap().addresses, before.addresses);
    }

    #[tokio::test]
    async fn a_member_that_rests_is_asked_again_at_a_new_address() {
        let membership = membership(&["127.0.0.1:7002", "192.0.2.1:7001"], Some("192.0.2.1:7001"), 7001);
        membership.refresh().await;
        let found = membership.member("127.0.0.1:7002").unwrap();
        found.rest("it is stopped", false);
        membership.refresh().await;
        assert!(membership.member("127.0.0.1:7002").unwrap().rests(), "at the same address");
        // As if it had been found elsewhere before.
        let elsewhere = Member { addresses: [([127, 0, 0, 9], 7002).into()].into(), ..found.clone() };
        membership.view.store(Arc::new(View { members: vec![elsewhere], ..View::default() }));
        membership.refresh().await;
        assert!(!found.rests());
    }

    #[tokio::test]
    async fn a_failed_answer_keeps_the_last() {
        let mut membership = membership(&["192.0.2.1:1"], None, 7001);
        membership.refresh().await;
        membership.settings.members = Members::Dns(Authority::parse("none.invalid:5003").unwrap());
        membership.refresh().await;
        assert_eq!(membership.report().len(), 1);
        assert!(membership.problem().is_some());
    }
}
