//! The other replicas, as the cache asks them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::body::Body;
use crate::cache::{
    Disobedience, Fleet, FleetAsking, FleetObeying, FleetOrder, FleetQuestion, FleetWrite, MemberReport,
    OriginResponse,
};
use crate::clock;
use crate::config::{self, limits};
use crate::meaning::UpstreamFailure;
use crate::peers::connections::{Busy, ConnectionError, Connections};
use crate::peers::identity::Identity;
use crate::peers::incoming::PeerStream;
use crate::peers::member::Member;
use crate::peers::membership::{Candidate, Membership};
use crate::peers::message;
use crate::peers::message::{Leave, Question};
use crate::peers::notice::Notice;
use crate::peers::refusal::Refusal;
use crate::peers::refusals::Refusals;
use crate::peers::senders::Senders;
use crate::peers::unheard::Again;
use crate::peers::vigil::{Vigil, Watch};
use crate::proto::Digest;

/// The way to the other replicas.
pub(crate) struct PeerFleet {
    membership: Arc<Membership>,
    connections: Arc<Connections>,
    watch: Arc<Watch>,
    senders: Senders,
    /// How often the members are looked up.
    refresh: Duration,
}

/// An answer of a member.
enum Told {
    /// The replica has the content that was asked for.
    Here(OriginResponse),
    /// The registry's own word.
    Refused(UpstreamFailure),
    /// The replica does not hold the content, and may not ask the upstream.
    Absent,
    /// The replica could not get the content either: the upstream is to be asked from here.
    Failed,
}

impl PeerFleet {
    /// Returns the way to the members, by TLS with the key of `identity`.
    ///
    /// # Errors
    /// Errors of the cryptography, which do not occur.
    pub(crate) fn new(
        settings: &config::Peers,
        identity: &Identity,
        membership: Arc<Membership>,
        workers: usize,
    ) -> Result<Arc<Self>, rustls::Error> {
        let connections = Arc::new(Connections::new(identity.client()?, settings.connect_timeout, workers));
        let watch = Watch::new(connections.clone(), membership.clone(), settings.resting);
        let (senders, refresh) = (Senders::new(), settings.refresh);
        Ok(Arc::new(Self { membership, connections, watch, senders, refresh }))
    }

    /// Returns the members.
    pub(crate) fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Keeps a connection of this worker to each of the other replicas, as long as it is polled: the first question to one that a herd
    /// waits for would else wait for a handshake. Of many replicas it keeps none.
    pub(crate) async fn keep_ready(&self) {
        let mut refusals = Refusals::new(self.refresh);
        loop {
            let changed = self.membership.changed();
            let mut members = self.membership.others();
            if members.len() > limits::PEERS_READY {
                members.clear();
            }
            members.retain(|member| {
                !member.rests() && !self.connections.are_ready(member) && refusals.may_try(&member.name)
            });
            let tried = join_all(members.iter().map(|member| self.watch.try_alive(member))).await;
            for (member, tried) in members.iter().zip(tried) {
                refusals.note(&member.name, tried.is_ok());
            }
            let _ = tokio::time::timeout(self.refresh, changed).await;
        }
    }

    async fn answer(&self, question: FleetQuestion) -> Option<Result<OriginResponse, UpstreamFailure>> {
        let patience = question.patience;
        let mut question = Question::of(question)?;
        if question.digest().is_some_and(|digest| self.senders.is_distrusted(digest)) {
            return None;
        }
        let (object, wanted) = (question.object(), question.leave);
        question.asker = self.membership.own_name(&object);
        let candidates = match wanted {
            Leave::Ask => self.membership.before(&object, limits::PEERS_ASKED),
            Leave::Join | Leave::Hold => self.membership.all(&object, limits::PEERS_ASKED_HELD),
        };
        for Candidate { member, is_before } in candidates {
            // A download that a replica behind this one has under way may come from here.
            question.leave = if wanted == Leave::Join && !is_before { Leave::Hold } else { wanted };
            let asked = tokio::time::timeout(patience, self.ask_member(&member, &question)).await;
            // A member that took too long lives. Should it wait for the upstream, this replica may get an answer there; should it
            // wait for this replica, giving up ends that.
            match asked.unwrap_or(Ok(Told::Failed)) {
                Ok(Told::Here(answer)) => return Some(Ok(answer)),
                Ok(Told::Refused(failure)) if wanted == Leave::Ask => return Some(Err(failure)),
                Ok(Told::Refused(_) | Told::Absent) => {}
                Ok(Told::Failed) if wanted == Leave::Ask => return None,
                Ok(Told::Failed) => {}
                Err(error) => self.watch.rest(&member, &error.to_string()),
            }
        }
        None
    }

    async fn ask_member(&self, member: &Member, question: &Question) -> Result<Told, ConnectionError> {
        let Some(request) = question.request() else { return Ok(Told::Absent) };
        member.note_asked();
        let (response, busy) = self.watch.over(member, self.connections.send(member, request)).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(self.here(member, question, response, busy)),
            StatusCode::FAILED_DEPENDENCY => Ok(self.refused(member, response, busy).await),
            StatusCode::GATEWAY_TIMEOUT => {
                self.connections.keep(busy);
                Ok(Told::Absent)
            }
            _ if response.headers().contains_key(message::DRAINING) => {
                self.watch.rest(member, "it is stopping");
                Ok(Told::Absent)
            }
            _ => Ok(Told::Failed),
        }
    }

    /// Returns an answer with content.
    fn here(&self, member: &Member, question: &Question, response: Response<Incoming>, busy: Busy) -> Told {
        let (mut parts, incoming) = response.into_parts();
        let Some(from) = message::provenance(&parts.headers) else { return Told::Failed };
        if question.is_head() {
            message::strip(&mut parts.headers);
            self.connections.keep(busy);
            let (status, headers, body) = (parts.status, parts.headers, Body::empty());
            return Told::Here(OriginResponse { status, headers, body, from });
        }
        message::strip(&mut parts.headers);
        let named = || Digest::parse(parts.headers.get("docker-content-digest")?.to_str().ok()?).ok();
        if let Some(digest) = question.digest().cloned().or_else(named) {
            self.senders.note(&digest, &member.name);
        }
        let vigil = Vigil::new(self.watch.clone(), member.clone());
        let connections = self.connections.clone();
        let stream = PeerStream::new(&parts.headers, incoming, member.clone(), vigil, connections, busy);
        let (status, headers, body) = (parts.status, parts.headers, Body::stream(stream));
        Told::Here(OriginResponse { status, headers, body, from })
    }

    /// Returns the registry's word that a member hands on.
    async fn refused(&self, member: &Member, response: Response<Incoming>, busy: Busy) -> Told {
        let (parts, incoming) = response.into_parts();
        let vigil = Vigil::new(self.watch.clone(), member.clone());
        let connections = self.connections.clone();
        let stream = PeerStream::new(&parts.headers, incoming, member.clone(), vigil, connections, busy);
        let whole = Body::stream(stream).whole(REFUSAL_BYTES, limits::HELD_BODY_DEADLINE).await;
        let refusal = whole.ok().and_then(|bytes| serde_json::from_slice::<Refusal>(&bytes).ok());
        refusal.map_or(Told::Failed, |refusal| Told::Refused(refusal.failure(&member.name)))
    }

    /// Tells the members of a write by `first`, and those that have heard once more: between, one may have asked another that did not
    /// know yet. With the second notice they hear which have not heard. Those that are away may be asked by clients all the same: they
    /// are told as soon as they answer.
    async fn tell_all(
        self: Arc<Self>,
        write: FleetWrite,
        first: Bytes,
        here: Vec<Member>,
        away: Vec<Member>,
    ) {
        self.tell_later();
        let object = object(&write);
        let (mut deaf, mut hearing) = (away, Vec::new());
        let told = self.tell_each(&here, &object, &first).await;
        for (member, has_heard) in here.into_iter().zip(told) {
            if has_heard { hearing.push(member) } else { deaf.push(member) }
        }
        self.tell_each(&hearing, &object, &notice(&write, &deaf)).await;
    }

    /// Tells members at once. Returns for each whether it has heard.
    async fn tell_each(&self, members: &[Member], object: &Arc<str>, notice: &Bytes) -> Vec<bool> {
        let told = members.iter().map(|member| self.tell_member(member, object, notice));
        join_all(told).await
    }

    /// Tells the members again that have not heard, in the background, until they have.
    fn tell_later(self: &Arc<Self>) {
        if !self.membership.unheard().begin() {
            return;
        }
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(limits::PEER_NOTICE_AGAIN).await;
                let Some(this) = this.upgrade() else { return };
                let again = this.membership.unheard().again();
                if again.is_empty() && this.membership.unheard().end() {
                    return;
                }
                for Again { member, object, notice } in again {
                    // Tells a resting replica once it answers again.
                    if let Some(member) = this.membership.member(&member).filter(|member| !member.rests()) {
                        this.tell_member(&member, &object, &notice).await;
                    }
                }
            }
        });
    }

    /// Tells a member of a write. Returns true if it has heard.
    async fn tell_member(&self, member: &Member, object: &Arc<str>, notice: &Bytes) -> bool {
        let request = message::request(Method::POST, message::WRITTEN)
            .header(header::CONTENT_LENGTH, notice.len())
            .body(Full::new(notice.clone()));
        let Ok(request) = request else { return false };
        let sending = tokio::time::timeout(limits::PEER_NOTICE_EACH, self.connections.send(member, request));
        let late = Err(ConnectionError::Late(limits::PEER_NOTICE_EACH));
        match sending.await.unwrap_or(late) {
            Ok((response, busy)) if response.status() == StatusCode::NO_CONTENT => {
                drop(response);
                self.connections.keep(busy);
                self.membership.unheard().heard(&member.name, object, notice);
                true
            }
            Ok(_) => {
                self.membership.unheard().give_up(&member.name, object);
                false
            }
            Err(error) => {
                self.watch.rest_briefly(member, &error.to_string());
                false
            }
        }
    }

    /// Has a member do what an operator wants, also one that rests.
    async fn order_member(&self, name: &str, order: &FleetOrder) -> Result<Body, Disobedience> {
        let failed = |error: &dyn std::fmt::Display| Disobedience(error.to_string());
        let member = self.membership.member(name).ok_or_else(|| failed(&"it is no member any more"))?;
        let order = serde_json::to_vec(order).map_err(|error| failed(&error))?;
        let request = message::request(Method::POST, message::ORDER)
            .header(header::CONTENT_LENGTH, order.len())
            .body(Full::new(order.into()))
            .map_err(|error| failed(&error))?;
        let asked = self.watch.over(&member, self.connections.send(&member, request)).await;
        let (response, busy) = asked.map_err(|error| failed(&error))?;
        let (parts, incoming) = response.into_parts();
        match parts.status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(failed(&"too many jobs are running there already")),
            _ if parts.headers.contains_key(message::DRAINING) => return Err(failed(&"it is stopping")),
            status => return Err(failed(&format_args!("it answers {status}"))),
        }
        let vigil = Vigil::new(self.watch.clone(), member.clone());
        let connections = self.connections.clone();
        Ok(Body::stream(PeerStream::new(&parts.headers, incoming, member, vigil, connections, busy)))
    }

    /// Has a member hash content again that came from it without its digest.
    async fn tell_doubt(&self, name: &str, upstream: &str, digest: &Digest) {
        if let Some(member) = self.membership.member(name)
            && let Some(request) = message::doubt(upstream, digest)
        {
            let sending = self.connections.send(&member, request);
            let _ = tokio::time::timeout(limits::PEER_ALIVE_INTERVAL, sending).await;
        }
    }
}

/// Returns the name by which the owner of what was written to is found.
fn object(write: &FleetWrite) -> Arc<str> {
    message::repository_object(&write.upstream, &write.repository).into()
}

/// Returns the notice of a write of which some members have not heard.
fn notice(write: &FleetWrite, unheard: &[Member]) -> Bytes {
    let unheard = unheard.iter().map(|member| member.name.to_string()).collect();
    serde_json::to_vec(&Notice::of(write, unheard)).unwrap_or_default().into()
}

impl Fleet for PeerFleet {
    fn ask(&self, question: FleetQuestion) -> FleetAsking<'_> {
        Box::pin(self.answer(question))
    }

    fn tell(self: Arc<Self>, write: FleetWrite) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (away, here): (Vec<_>, Vec<_>) = self.membership.others().into_iter().partition(Member::is_away);
        let (object, first) = (object(&write), notice(&write, &away));
        let until = clock::now() + write.believed;
        for member in here.iter().chain(&away) {
            self.membership.unheard().note(&member.name, &object, until, Some(first.clone()));
        }
        Box::pin(async move {
            let repository = write.repository.clone();
            let telling = self.tell_all(write, first, here, away);
            if tokio::time::timeout(limits::PEER_NOTICE, telling).await.is_err() {
                tracing::debug!(%repository, "not all replicas know of a write in time");
            }
        })
    }

    fn others(&self) -> Vec<Arc<str>> {
        self.membership.others().into_iter().map(|member| member.name).collect()
    }

    fn report(&self) -> Vec<MemberReport> {
        self.membership.report()
    }

    fn order<'a>(&'a self, member: &'a str, order: &'a FleetOrder) -> FleetObeying<'a> {
        Box::pin(self.order_member(member, order))
    }

    fn distrust(self: Arc<Self>, upstream: &Arc<str>, digest: &Digest) {
        let names = self.senders.distrust(digest);
        if names.is_empty() {
            return;
        }
        let members = names.join(", ");
        tracing::error!(
            members,
            %digest,
            "bytes of these replicas do not have the digest; no replica is asked for them for ten minutes"
        );
        let (upstream, digest) = (upstream.clone(), digest.clone());
        tokio::spawn(async move {
            for name in &*names {
                self.tell_doubt(name, &upstream, &digest).await;
            }
        });
    }
}

/// The longest refusal that is read: a registry's own errors, in JSON.
const REFUSAL_BYTES: usize = 256 * 1024;
