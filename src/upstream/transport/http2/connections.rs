//! Which peers speak HTTP/2, and the one connection to each that small requests share.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};

use crate::clock;
use crate::config::limits;
use crate::upstream::egress::ConnectionKey;
use crate::upstream::transport::connect::DialError;
use crate::upstream::transport::http2::connection::Connection;
use crate::upstream::transport::http2::load::{Load, Share};
use crate::worker_id;

/// What dialling came to, for all who waited for it: a connection to share, or `None` where the server chose HTTP/1.1.
pub(crate) type Outcome = Result<Option<Connection>, Arc<DialError>>;

/// A connection that is being made. Whoever waits for it drives it; it is given up when nobody does.
pub(crate) type Flight = Shared<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

/// What is known of a key.
pub(crate) enum Known {
    /// There is a connection.
    Connection(Connection),
    /// One is being made, by somebody else or by whoever asked.
    Flight(Flight),
    /// It speaks HTTP/1.1.
    Http1,
}

/// A small request under way.
pub(crate) struct Company {
    _share: Share,
    /// Whether it is to share a connection with others. UpstreamIdentity is alone is not; nor is, now and then, one of few: a
    /// connection of its own, kept afterwards, is dear to make and cheap to use.
    pub(crate) shares: bool,
}

/// The shared connections of one upstream, to wherever its requests lead. Kept apart for each worker: a connection's
/// task belongs to the runtime that made it.
pub(crate) struct Connections(Box<[Mutex<Vec<Place>>]>);

struct Place {
    key: ConnectionKey,
    state: State,
    /// It refuses HTTP/1.1.
    only: bool,
    /// Small requests that wait for their answers' heads, however they went.
    load: Arc<Load>,
    /// Those that were few when they began.
    few: u32,
    used: Instant,
}

enum State {
    Unknown,
    Connection(Connection),
    Flight(WeakFlight),
    Http1,
}

type WeakFlight = WeakShared<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

impl Connections {
    /// For this many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Mutex::default()).collect())
    }

    /// A small request to `key` begins; it ends when the answer is dropped.
    pub(crate) fn enter(&self, key: &ConnectionKey) -> Company {
        let Some(mut places) = self.lock() else {
            return Company { _share: Arc::new(Load::default()).enter(), shares: false };
        };
        let place = place(&mut places, key);
        place.used = clock::now();
        let share = place.load.clone().enter();
        let shares = match share.number() {
            0 => false,
            1..FEW => {
                place.few = place.few.wrapping_add(1);
                !place.few.is_multiple_of(PAYS_OFF)
            }
            _ => true,
        };
        Company { _share: share, shares }
    }

    /// What is known of `key`. Where nothing is, `dial` says how to find out, once for all who ask until it is known.
    pub(crate) fn get<F>(&self, key: &ConnectionKey, dial: impl FnOnce() -> F) -> Known
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let Some(mut places) = self.lock() else { return Known::Http1 };
        let place = place(&mut places, key);
        match &place.state {
            State::Connection(connection) => return Known::Connection(connection.clone()),
            State::Http1 => return Known::Http1,
            State::Flight(flight) => {
                if let Some(flight) = flight.upgrade() {
                    return Known::Flight(flight);
                }
            }
            State::Unknown => {}
        }
        let future: Pin<Box<dyn Future<Output = Outcome> + Send>> = Box::pin(dial());
        let flight = future.shared();
        place.state = flight.downgrade().map_or(State::Unknown, State::Flight);
        Known::Flight(flight)
    }

    /// From now on its small requests share `connection`.
    pub(crate) fn share(&self, key: &ConnectionKey, connection: Connection) {
        self.set(key, State::Connection(connection));
    }

    /// Its server has chosen HTTP/1.1, and is believed for a while.
    pub(crate) fn note_http1(&self, key: &ConnectionKey) {
        self.set(key, State::Http1);
        self.set_only(key, false);
    }

    /// Whether its server has refused HTTP/1.1.
    pub(crate) fn is_only(&self, key: &ConnectionKey) -> bool {
        let known =
            |places: MutexGuard<'_, Vec<Place>>| places.iter().any(|place| place.only && place.key == *key);
        self.lock().is_some_and(known)
    }

    /// Its server has refused HTTP/1.1, or does no longer.
    pub(crate) fn set_only(&self, key: &ConnectionKey, only: bool) {
        if let Some(mut places) = self.lock() {
            place(&mut places, key).only = only;
        }
    }

    /// `connection` is shared no more. What is under way on it goes on.
    pub(crate) fn forget(&self, gone: &Connection) {
        if let Some(mut places) = self.lock() {
            let is_gone =
                |state: &State| matches!(state, State::Connection(connection) if connection.is(gone));
            places
                .iter_mut()
                .filter(|place| is_gone(&place.state))
                .for_each(|place| place.state = State::Unknown);
        }
    }

    /// Closes what has been idle for too long, and forgets what was learnt long ago.
    pub(crate) fn sweep(&self) {
        let now = clock::now();
        for places in &self.0 {
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            places.retain(|place| now.duration_since(place.used) < place.state.lasts());
        }
    }

    fn set(&self, key: &ConnectionKey, state: State) {
        if let Some(mut places) = self.lock() {
            place(&mut places, key).state = state;
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Vec<Place>>> {
        // Nothing panics while it is held, and a list of places is valid at any moment.
        self.0
            .get(worker_id::place(self.0.len()))
            .map(|places| places.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Up to how many at a time, for one worker, HTTP/1.1 costs less than HTTP/2, once it is warm.
const FEW: usize = 8;

/// After how many requests a handshake has paid off for which HTTP/1.1 costs less.
const PAYS_OFF: u32 = 40;

impl State {
    /// How long after its last use.
    fn lasts(&self) -> Duration {
        match self {
            Self::Connection(connection) if !connection.is_idle() => Duration::MAX,
            Self::Connection(_) => limits::UPSTREAM_IDLE_TIMEOUT,
            Self::Flight(_) | Self::Http1 | Self::Unknown => limits::UPSTREAM_PROTOCOL_KNOWN,
        }
    }
}

/// The place of `key`, made where there is none; the one that was used least gives way.
fn place<'a>(places: &'a mut Vec<Place>, key: &ConnectionKey) -> &'a mut Place {
    if let Some(at) = places.iter().position(|place| place.key == *key) {
        return &mut places[at];
    }
    if places.len() >= limits::UPSTREAM_IDLE_CONNECTIONS
        && let Some(oldest) = (0..places.len()).min_by_key(|at| places[*at].used)
    {
        places.swap_remove(oldest);
    }
    places.push(Place {
        key: key.clone(),
        state: State::Unknown,
        only: false,
        load: Arc::default(),
        few: 0,
        used: clock::now(),
    });
    let last = places.len() - 1;
    &mut places[last]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::egress::Addresses;
    use crate::upstream::egress::url::Origin;

    fn key(host: &str) -> ConnectionKey {
        let origin = Arc::new(Origin { https: true, host: host.to_owned(), port: 443 });
        ConnectionKey { origin, addresses: Addresses::Any }
    }

    /// What `count` requests at the same time come to.
    fn enter(connections: &Connections, count: usize) -> Vec<bool> {
        let all: Vec<_> = (0..count).map(|_| connections.enter(&key("a"))).collect();
        all.iter().map(|company| company.shares).collect()
    }

    async fn dialled(
        connections: &Connections,
        dial: impl Future<Output = Outcome> + Send + 'static,
    ) -> bool {
        match connections.get(&key("a"), || dial) {
            Known::Flight(flight) => flight.await.is_ok(),
            Known::Connection(_) | Known::Http1 => panic!("it is known"),
        }
    }

    #[test]
    fn who_is_alone_shares_nothing() {
        let connections = Connections::new(1);
        for _ in 0..3 {
            assert_eq!(enter(&connections, 1), [false]);
        }
        assert_eq!(enter(&connections, 3), [false, true, true]);
        let _elsewhere = connections.enter(&key("b"));
        assert_eq!(enter(&connections, 1), [false], "another place is no company");
    }

    #[test]
    fn one_of_few_goes_by_itself_now_and_then_and_one_of_many_never() {
        let connections = Connections::new(1);
        let shared = (0..PAYS_OFF).filter(|_| enter(&connections, 2)[1]).count();
        assert_eq!(shared, PAYS_OFF as usize - 1);
        let many = enter(&connections, 1000);
        assert!(many[FEW..].iter().all(|shares| *shares));
    }

    #[tokio::test]
    async fn those_who_ask_together_dial_once() {
        let connections = Connections::new(1);
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let dial = async {
            let _ = receiver.await;
            Ok(None)
        };
        let Known::Flight(first) = connections.get(&key("a"), || dial) else { panic!("it is known") };
        let second = connections.get(&key("a"), || async { panic!("it is dialled already") });
        let Known::Flight(second) = second else { panic!("it is known") };
        drop(first);
        sender.send(()).unwrap();
        assert!(second.await.unwrap().is_none(), "who began it has left");
    }

    #[tokio::test]
    async fn a_dial_that_nobody_waits_for_is_begun_anew() {
        let connections = Connections::new(1);
        drop(connections.get(&key("a"), std::future::pending));
        assert!(dialled(&connections, async { Ok(None) }).await);
    }

    #[tokio::test]
    async fn a_dial_that_failed_is_tried_again() {
        let connections = Connections::new(1);
        let failed = async { Err(Arc::new(DialError::Private { host: "a".to_owned() })) };
        assert!(!dialled(&connections, failed).await);
        assert!(dialled(&connections, async { Ok(None) }).await);
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_server_speaks_http1_is_forgotten_in_time() {
        let connections = Connections::new(1);
        connections.note_http1(&key("a"));
        connections.sweep();
        let known = connections.get(&key("a"), std::future::pending);
        assert!(matches!(known, Known::Http1));
        tokio::time::advance(limits::UPSTREAM_PROTOCOL_KNOWN).await;
        connections.sweep();
        assert!(dialled(&connections, async { Ok(None) }).await);
    }

    #[test]
    fn the_place_that_was_used_least_gives_way() {
        let connections = Connections::new(1);
        connections.set_only(&key("a"), true);
        for number in 0..limits::UPSTREAM_IDLE_CONNECTIONS {
            assert!(connections.is_only(&key("a")), "{number}");
            let _company = connections.enter(&key(&format!("h{number}")));
        }
        assert!(!connections.is_only(&key("a")));
    }

    #[test]
    fn what_leads_inside_is_not_shared_with_whoever_may_only_go_outside() {
        let any = ConnectionKey { addresses: Addresses::Any, ..key("a") };
        let public = ConnectionKey { addresses: Addresses::Public, ..any.clone() };
        let (connections, dialled) = (Connections::new(1), std::cell::Cell::new(0));
        let get = |key: &ConnectionKey| {
            let dial = || {
                dialled.set(dialled.get() + 1);
                std::future::pending()
            };
            connections.get(key, dial)
        };
        let flights = [get(&any), get(&any), get(&public)];
        assert!(flights.iter().all(|known| matches!(known, Known::Flight(_))));
        assert_eq!(dialled.get(), 2);
        connections.note_http1(&any);
        assert!(matches!((get(&any), get(&public)), (Known::Http1, Known::Flight(_))));
    }
}
