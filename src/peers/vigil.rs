//! Watching over members: over one of which something is awaited, and over one that rests.
//!
//! A slow upstream must not look like a dead owner. So no deadline ends what is awaited: where no byte comes for a moment, the
//! member is asked on another connection whether it lives. Two that it does not answer end it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;

use crate::clock::Stall;
use crate::config::limits;
use crate::peers::connections::{ConnectionError, Connections};
use crate::peers::member::Member;
use crate::peers::membership::Membership;
use crate::peers::message;
use crate::single_flight::{Abandoned, SingleFlight};

/// Asks members whether they live.
pub(super) struct Watch {
    connections: Arc<Connections>,
    membership: Arc<Membership>,
    resting: Duration,
    /// One question to a member serves all who wait for it.
    questions: SingleFlight<Arc<str>, bool>,
}

impl Watch {
    /// Returns a watch that asks by `connections`, and asks a member that rests after `resting`.
    pub(super) fn new(
        connections: Arc<Connections>,
        membership: Arc<Membership>,
        resting: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { connections, membership, resting, questions: SingleFlight::default() })
    }

    /// Asks a member whether it lives.
    ///
    /// # Errors
    /// Why it does not answer in time.
    pub(super) async fn try_alive(&self, member: &Member) -> Result<(), String> {
        ask_alive(&self.connections, member).await.map(|_| ())
    }

    /// Returns true if the member answers in time, and is not about to end.
    async fn takes_questions(&self, member: &Member) -> bool {
        ask_alive(&self.connections, member).await.is_ok_and(|is_draining| !is_draining)
    }

    /// Returns true if the member answers in time.
    async fn is_alive(&self, member: &Member) -> bool {
        let (own, connections) = (member.clone(), self.connections.clone());
        let ask = || async move { ask_alive(&connections, &own).await.is_ok() };
        self.questions.join(member.name.clone(), Abandoned::Ends, ask).await.0.unwrap_or(false)
    }

    /// Waits until the member has not answered twice. Never ends while it lives.
    pub(super) async fn until_dead(self: Arc<Self>, member: Member) {
        let mut silent = 0;
        while silent < 2 {
            let next = tokio::time::Instant::now() + limits::PEER_ALIVE_INTERVAL;
            if self.is_alive(&member).await {
                silent = 0;
            } else {
                silent += 1;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Waits for an answer of the member, as long as it lives.
    ///
    /// # Errors
    /// [`ConnectionError::Dead`], and those of `answer`.
    pub(super) async fn over<T>(
        self: &Arc<Self>,
        member: &Member,
        answer: impl Future<Output = Result<T, ConnectionError>>,
    ) -> Result<T, ConnectionError> {
        tokio::pin!(answer);
        if let Ok(answer) = tokio::time::timeout(limits::PEER_SILENCE, &mut answer).await {
            return answer;
        }
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = self.clone().until_dead(member.clone()) => Err(ConnectionError::Dead),
        }
    }

    /// Passes the member over until it answers again: it is asked after `resting`, and then again and again.
    pub(super) fn rest(self: &Arc<Self>, member: &Member, reason: &str) {
        self.rest_for(member, reason, None);
    }

    /// As [`rest`](Self::rest), for one whose stream broke: it may be as well as before.
    pub(super) fn rest_briefly(self: &Arc<Self>, member: &Member, reason: &str) {
        self.rest_for(member, reason, Some(BRIEFLY.min(self.resting)));
    }

    fn rest_for(self: &Arc<Self>, member: &Member, reason: &str, briefly: Option<Duration>) {
        if !member.rest(reason, briefly.is_some()) {
            return;
        }
        // Weak: the watch of a gateway that has ended asks no more.
        let (watch, member, resting) = (Arc::downgrade(self), member.clone(), self.resting);
        tokio::spawn(async move {
            tokio::time::sleep(briefly.unwrap_or(resting)).await;
            loop {
                let Some(watch) = watch.upgrade() else { return };
                // The member may have another address by now, or be gone.
                let Some(member) = watch.membership.member(&member.name) else { return member.wake() };
                if !member.rests() || watch.takes_questions(&member).await {
                    return member.wake();
                }
                member.note_away();
                drop(watch);
                tokio::time::sleep(resting).await;
            }
        });
    }
}

/// Asks a member whether it lives. Returns true if it is about to end.
async fn ask_alive(connections: &Connections, member: &Member) -> Result<bool, String> {
    let request = message::request(Method::GET, message::ALIVE).body(Full::<Bytes>::default());
    let asking = connections.send(member, request.map_err(|error| error.to_string())?);
    let late = |_| ConnectionError::Late(limits::PEER_ALIVE_INTERVAL);
    let asked = tokio::time::timeout(limits::PEER_ALIVE_INTERVAL, asking).await.map_err(late);
    match asked.and_then(|answer| answer) {
        Ok((response, busy)) if response.status() == StatusCode::NO_CONTENT => {
            let is_draining = response.headers().contains_key(message::DRAINING);
            drop(response);
            connections.keep(busy);
            Ok(is_draining)
        }
        Ok((response, _)) => Err(format!("it answers {}", response.status())),
        Err(error) => Err(error.to_string()),
    }
}

/// The watch over a stream of a member, of which the next byte is awaited.
pub(super) struct Vigil {
    watch: Arc<Watch>,
    member: Member,
    silence: Stall,
    until_dead: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Vigil {
    pub(super) fn new(watch: Arc<Watch>, member: Member) -> Self {
        Self { watch, member, silence: Stall::new(limits::PEER_SILENCE), until_dead: None }
    }

    /// Returns the watch.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Notes that bytes have come.
    pub(super) fn progress(&mut self) {
        self.silence.progress();
        self.until_dead = None;
    }

    /// Polls while no byte comes: ready when the member is dead.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.until_dead.is_none() {
            if self.silence.poll_waiting(cx).is_pending() {
                return Poll::Pending;
            }
            self.until_dead = Some(Box::pin(self.watch.clone().until_dead(self.member.clone())));
        }
        self.until_dead.as_mut().map_or(Poll::Pending, |until_dead| until_dead.as_mut().poll(cx))
    }
}

/// The rest of a member whose stream broke.
const BRIEFLY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::{self, Address, Members};
    use crate::peers::identity::Identity;
    use crate::proto::{Authority, Secret};

    /// Returns a watch whose members are those of `members`, which has not been looked up.
    fn watch(members: &str) -> Arc<Watch> {
        let settings = config::Peers {
            address: Address::Any(7001),
            members: Members::List(vec![Authority::parse(members).unwrap()]),
            name: None,
            refresh: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(50),
            resting: Duration::from_millis(50),
            secret: Secret::new("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        };
        let tls = Identity::derive(&settings.secret).unwrap().client().unwrap();
        let connections = Connections::new(tls, settings.connect_timeout, 0);
        let (resting, listening) = (settings.resting, SocketAddr::from(([0, 0, 0, 0], 7001)));
        Watch::new(Arc::new(connections), Arc::new(Membership::new(settings, listening)), resting)
    }

    #[tokio::test]
    async fn a_member_that_is_gone_is_watched_no_more() {
        let watch = watch("192.0.2.1:7001");
        watch.membership.refresh().await;
        let member = watch.membership.member("192.0.2.1:7001").unwrap();
        let watch = self::watch("192.0.2.2:7001");
        watch.rest_briefly(&member, "its stream broke off");
        assert!(member.rests());
        // Nothing is known of it: it is as any other should it come again.
        let woken = async {
            while member.rests() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), woken).await.unwrap();
    }

    #[tokio::test]
    async fn a_rest_for_a_moment_becomes_one_for_longer() {
        // Nothing listens there.
        let watch = watch("127.0.0.1:1");
        watch.membership.refresh().await;
        let member = watch.membership.member("127.0.0.1:1").unwrap();
        watch.rest_briefly(&member, "its stream broke off");
        assert!(member.rests() && !member.is_away());
        let away = async {
            while !member.is_away() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), away).await.unwrap();
    }
}
