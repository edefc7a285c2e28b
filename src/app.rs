//! The wiring: from a checked configuration to a gateway that runs, reloads and ends.

mod peer_listener;
mod reload;
mod settings;
mod start_error;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::acme::{AcmeStatus, Renewal};
use crate::admin::{AdminListener, AdminState, Observed, ObservedFleet, configuration};
use crate::app::peer_listener::PeerListener;
pub(crate) use crate::app::settings::gateway_names;
use crate::app::settings::{
    Logins, forwards, open_audit_log, open_htpasswd, open_tokens, operators, settings, tell_names,
    upstream_caches, upstreams,
};
pub(crate) use crate::app::start_error::StartError;
use crate::authn::Authenticator;
use crate::body::Body;
use crate::bucket::{self, BucketStore, SWEEPER};
use crate::budget::plan::Plan;
use crate::cache::maintenance::{self, Selection};
use crate::cache::{Cache, Fleet, RemoteStore, UpstreamCache};
use crate::config::{Config, Environment, limits};
use crate::gateway::{Core, Gateway, Logs, SharedState};
use crate::issuer;
use crate::net::Peer;
use crate::origin::attach;
use crate::peers::{Caches, PeerAnswers, PeerFleet};
use crate::proto::{ErrorBody, ErrorCode};
use crate::server::{Audience, Certificates, FromReplica, Handler, Listener, PassedSockets, Server, Service};
use crate::telemetry::{AccessLog, AuditLog, Traffic};

/// A running gateway.
pub struct App {
    config: Mutex<Config>,
    origin: Option<Origin>,
    core: Arc<ArcSwap<Core>>,
    certificates: Option<Arc<Certificates>>,
    server: Server,
    state: Arc<AdminState>,
    cache: Mutex<Option<Arc<Cache>>>,
    addresses: Vec<SocketAddr>,
    admin_listener: Option<AdminListener>,
    /// The logins of the admin listener.
    operators: Option<Arc<Authenticator>>,
    audit_log: Option<AuditLog>,
    workers: usize,
    /// None if no ACME server issues the certificate.
    renewal: Option<Renewal>,
    /// The other replicas; None: it is alone.
    fleet: Option<Arc<PeerFleet>>,
    peer_answers: Option<PeerAnswers>,
    /// The object store behind the cache; None: there is none.
    bucket: Option<Arc<BucketStore>>,
}

/// The source of a configuration, to read it again.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The `--config` of the command line.
    pub path: Option<PathBuf>,
    /// The variables.
    pub environment: Environment,
}

/// The answers to clients, and to the other replicas.
#[derive(Clone)]
struct Answers {
    gateway: Gateway,
    /// None without other replicas, as the next.
    peers: Option<PeerAnswers>,
    fleet: Option<Arc<PeerFleet>>,
}

impl Handler for Answers {
    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        match &self.peers {
            // Only their own listener marks a request so, behind a handshake that lets no other in.
            Some(peers) if request.extensions().get::<FromReplica>().is_some() => {
                Box::pin(peers.answer(request)).await
            }
            _ => self.gateway.clone().handle(request, peer).await,
        }
    }

    async fn tend(&self) {
        if let Some(fleet) = &self.fleet {
            fleet.keep_ready().await;
        }
    }
}

impl App {
    /// Starts a gateway. Must be called within a runtime, on which it accepts; it dials no upstream.
    ///
    /// # Errors
    /// [`StartError`] says what of the configuration can't be used on this machine.
    pub async fn start(
        config: Config,
        origin: Option<Origin>,
        access_log: Option<AccessLog>,
    ) -> Result<Self, StartError> {
        Self::start_on(PassedSockets::default(), config, origin, access_log).await
    }

    /// Starts a gateway on the sockets that the service manager has passed, as far as there are any. To be called once.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and a passed socket that is none of the configuration's.
    pub async fn start_as_service(
        config: Config,
        origin: Option<Origin>,
        access_log: Option<AccessLog>,
    ) -> Result<Self, StartError> {
        Self::start_on(PassedSockets::take()?, config, origin, access_log).await
    }

    async fn start_on(
        mut sockets: PassedSockets,
        config: Config,
        origin: Option<Origin>,
        access_log: Option<AccessLog>,
    ) -> Result<Self, StartError> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let certificates = config.server.tls.as_ref().map(Certificates::open).transpose()?.map(Arc::new);
        let authenticator = Authenticator::new(open_htpasswd(&config)?)?.forwarding(forwards(&config));
        let authenticator = Arc::new(authenticator);
        let tokens = open_tokens(&config)?;
        let upstreams = upstreams(&config, &[], workers)?;
        let secret = config.server.secret.clone();
        let secret = secret.or_else(|| tokens.as_ref().and_then(|tokens| tokens.derived_secret()));
        let shared = SharedState::new(secret.as_ref(), Plan::held_bytes(&config.server).budget())?;
        let peers = config.peers.as_ref().map(|peers| PeerListener::open(peers, &mut sockets, workers));
        let peers = peers.transpose()?;
        let bucket = config.store.as_ref().map(|store| BucketStore::new(store, workers));
        let bucket = bucket.transpose().map_err(|error| StartError::Store(error.to_string()))?;
        let cache = open_cache(&config, peers.as_ref().map(|peers| &peers.fleet), bucket.as_ref());
        let upstream_caches = attach(upstream_caches(&config, &[], cache.as_ref()), &upstreams);
        let workloads = Arc::new(issuer::workloads(&config.auth.oidc)?);
        let logins = Logins { authenticator, tokens, workloads };
        let settings = settings(&config, logins, upstreams, upstream_caches, certificates.as_deref());
        let core = Arc::new(ArcSwap::from_pointee(Core::new(settings, shared)));
        tokio::spawn(maintain(Arc::downgrade(&core)));
        if let Some(bucket) = &bucket {
            tokio::spawn(follow_removals(Arc::downgrade(&core), bucket.clone()));
        }

        let listeners: Vec<_> = config
            .server
            .addresses
            .iter()
            .map(|address| sockets.listen(address))
            .collect::<Result<_, _>>()?;
        let admin_socket = config.admin.as_ref().map(|admin| sockets.listen(&admin.address)).transpose();
        let admin_socket = admin_socket.map_err(StartError::Admin)?;
        sockets.finish()?;
        let addresses: Vec<_> = listeners.iter().filter_map(Listener::local_address).collect();
        tell_names(&config, &core.load().settings, &addresses);
        let audit_log = open_audit_log(&config)?;
        let traffic = Arc::new(Traffic::new(workers));
        let logs = Logs { access: access_log, audit: audit_log.clone(), traffic: traffic.clone() };
        let gateway = Gateway::new(core.clone(), logs);
        let connections = Plan::connections(&config.server).budget();
        let caches = Arc::new(CachesInForce(Arc::downgrade(&core)));
        let peer_answers =
            peers.as_ref().map(|peers| PeerAnswers::new(caches, peers.fleet.membership().clone()));
        let fleet = peers.as_ref().map(|peers| peers.fleet.clone());
        let answers = Answers { gateway, peers: peer_answers.clone(), fleet: fleet.clone() };
        let peer_connections = Plan::peer_connections().budget();
        let observed_fleet = peers.as_ref().zip(peer_answers.clone()).map(|(peers, answers)| ObservedFleet {
            membership: peers.fleet.membership().clone(),
            answers,
            connections: peer_connections.clone(),
        });
        let server = Server::new(workers, connections.clone(), answers)?;
        let service = service(&config, certificates.as_deref());
        let acme = acme_status(&config);
        let state = Arc::new(AdminState::new(Observed {
            core: core.clone(),
            connections,
            connection_counters: service.counters.clone(),
            beats: server.beats().cloned(),
            traffic,
            certificates: certificates.clone(),
            acme: acme.clone(),
            fleet: observed_fleet,
            store: bucket.clone().map(|bucket| bucket as Arc<dyn RemoteStore>),
        }));
        state.set_configuration(configuration::lines(&config));
        let operators = operators(&config)?;
        let admin_listener =
            admin_socket.map(|socket| AdminListener::start(socket, operators.clone(), state.clone()));
        if let Some(PeerListener { socket, fleet, service }) = peers {
            fleet.membership().clone().begin().await;
            server.accept_apart(socket, service, peer_connections);
        }
        for listener in listeners {
            server.accept(listener, service.clone());
        }
        // Only now: the ACME server connects to the listeners.
        let renewal = acme.and_then(|status| renewal(&config, certificates.as_ref(), status));
        let (config, cache) = (Mutex::new(config), Mutex::new(cache));
        Ok(Self {
            config,
            origin,
            core,
            certificates,
            server,
            state,
            cache,
            addresses,
            admin_listener,
            operators,
            audit_log,
            workers,
            renewal,
            fleet,
            peer_answers,
            bucket,
        })
    }

    /// Returns the addresses that it listens on, in the configuration's order; unix sockets have none.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the address of the admin listener, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_listener.as_ref().and_then(AdminListener::address)
    }

    /// Returns true while a worker has been stuck for so long that only a restart helps.
    pub(crate) fn is_stuck(&self) -> bool {
        self.state.stall().is_some()
    }

    /// Stops accepting and waits for requests under way, up to `drain_timeout`. Returns true if all have ended.
    pub async fn drain(&self) -> bool {
        self.state.drain();
        if let Some(peers) = &self.peer_answers {
            peers.drain();
        }
        let limit = self.config().server.drain_timeout;
        let drained = self.server.drain(limit).await;
        let cache = self.cache.lock().clone();
        if let Some(cache) = cache {
            // A disk that hangs must not keep the process alive.
            if tokio::time::timeout(limits::CACHE_CLOSE_DEADLINE, cache.close()).await.is_err() {
                tracing::warn!("the cache's disk does not answer; what it has not taken yet is left");
                cache.abandon();
            }
        }
        if let Some(audit_log) = &self.audit_log {
            audit_log.flush(limits::AUDIT_FLUSH_DEADLINE);
        }
        drained
    }

    fn config(&self) -> parking_lot::MutexGuard<'_, Config> {
        self.config.lock()
    }

    /// Returns the cache, opened when it is first configured. Another path needs a restart.
    fn cache(&self, config: &Config) -> Option<Arc<Cache>> {
        let mut cache = self.cache.lock();
        if cache.is_none() {
            *cache = open_cache(config, self.fleet.as_ref(), self.bucket.as_ref());
        }
        cache.clone()
    }
}

/// Returns the state of a certificate that an ACME server is to issue.
fn acme_status(config: &Config) -> Option<Arc<AcmeStatus>> {
    config.server.tls.as_ref()?.acme.as_ref().map(|_| Arc::default())
}

fn renewal(
    config: &Config,
    certificates: Option<&Arc<Certificates>>,
    status: Arc<AcmeStatus>,
) -> Option<Renewal> {
    Renewal::start(config.server.tls.as_ref()?, certificates?.clone(), status)
}

/// Maintains the upstreams, as long as there is a gateway.
async fn maintain(core: Weak<ArcSwap<Core>>) {
    loop {
        tokio::time::sleep(limits::UPSTREAM_TEND_INTERVAL).await;
        let Some(core) = core.upgrade() else { return };
        core.load().settings.upstreams.iter().for_each(|upstream| upstream.maintain());
    }
}

/// Removes from this replica's disk what operators have removed at others, as long as there is a gateway.
async fn follow_removals(core: Weak<ArcSwap<Core>>, bucket: Arc<BucketStore>) {
    while let Some(core) = core.upgrade() {
        let caches = core.load().settings.upstream_caches.clone();
        drop(core);
        if let Some(cache) = caches.first().map(|first| first.cache().clone()) {
            let dir = cache.path().clone();
            let remove = move |selection: &str| match Selection::parse(selection) {
                Ok(selection) => drop(maintenance::remove_here(&cache, &caches, &selection)),
                Err(error) => tracing::warn!(selection, %error, "a note of a removal cannot be read"),
            };
            bucket::follow_removals(&bucket, &dir, remove).await;
        }
        tokio::time::sleep(limits::BUCKET_NOTES).await;
    }
}

/// Opens the cache, if one is configured, and begins to store behind it what it gets.
fn open_cache(
    config: &Config,
    fleet: Option<&Arc<PeerFleet>>,
    bucket: Option<&Arc<BucketStore>>,
) -> Option<Arc<Cache>> {
    let settings = config.cache.as_ref()?;
    let remote = bucket.map(|bucket| bucket.clone() as Arc<dyn RemoteStore>);
    let cache = Cache::open(settings, fleet.map(|fleet| fleet.clone() as Arc<dyn Fleet>), remote);
    if let (Some(bucket), Some(store)) = (bucket, &config.store) {
        let members = fleet.map(|fleet| fleet.membership().clone());
        let sweeps = move || members.as_ref().is_none_or(|members| members.owns(SWEEPER));
        bucket.begin(store, &cache.store, sweeps);
    }
    Some(cache)
}

/// Returns the answer to plain HTTP on a TLS port. Registry clients send it, so it is an error of the registry API.
fn not_tls() -> Bytes {
    let message = "this port speaks HTTPS, not HTTP. docker tries HTTP on loopback while it has no login \
        (then `docker login` helps), and `docker manifest push` always speaks HTTP to localhost and 127.0.0.1: use \
        another name for this host, or server.plaintext";
    let body = ErrorBody::with_message(ErrorCode::Unsupported, message).render();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat().into()
}

fn service(config: &Config, certificates: Option<&Certificates>) -> Service {
    let server = &config.server;
    let proxies = if server.proxy_protocol { server.trusted_proxies.clone() } else { Vec::new() };
    Service {
        tls: certificates.map(Certificates::config),
        not_tls: not_tls(),
        proxies: proxies.into(),
        trusted: server.trusted_proxies.clone().into(),
        header_timeout: server.header_timeout,
        idle_timeout: server.idle_timeout,
        stall_timeout: server.stall_timeout,
        audience: Audience::Clients,
        counters: Arc::default(),
    }
}

/// The caches in force, as long as there is a gateway.
struct CachesInForce(Weak<ArcSwap<Core>>);

impl Caches for CachesInForce {
    fn find(&self, upstream: &str) -> Option<Arc<UpstreamCache>> {
        let core = self.0.upgrade()?.load_full();
        core.settings.upstream_caches.iter().find(|cache| *cache.fleet_name() == *upstream).cloned()
    }

    fn all(&self) -> Vec<Arc<UpstreamCache>> {
        self.0.upgrade().map(|core| core.load().settings.upstream_caches.clone()).unwrap_or_default()
    }
}
