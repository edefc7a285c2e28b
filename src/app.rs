//! The wiring: from a checked configuration to a gateway that runs, reloads and ends.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::acme::{AcmeStatus, Renewal};
use crate::admin::{AdminListener, AdminState, Observed, ObservedFleet, configuration};
use crate::authn::htpasswd::LoadError;
use crate::authn::{AccessTokens, Authenticator, HtpasswdFile, OpenError, Reload, Reread, Workloads};
use crate::authz::Rules;
use crate::body::Body;
use crate::bucket::{self, BucketStore, SWEEPER};
use crate::budget::plan::Plan;
use crate::cache::maintenance::{self, Selection};
use crate::cache::{Cache, Fleet, RemoteStore, UpstreamCache};
use crate::config;
use crate::config::{Address, Config, CredentialSource, Environment, limits};
use crate::file_stamp::Stamp;
use crate::gateway::{Core, Gateway, KnownHosts, Logs, SealError, Settings, SharedState, TrustedProxies};
use crate::issuer;
use crate::net::Peer;
use crate::origin::attach;
use crate::peers::identity::Identity;
use crate::peers::{Caches, Membership, PeerAnswers, PeerFleet};
use crate::proto::authority::scheme_port;
use crate::proto::htpasswd::Warning;
use crate::proto::{Authority, ErrorBody, ErrorCode, Secret};
use crate::server::{
    Audience, CertificateError, Certificates, FromReplica, Handler, ListenError, Listener, PassedSockets,
    Server, Service, pinned,
};
use crate::telemetry::{AccessLog, AuditError, AuditLog, Traffic};
use crate::upstream::{GatewayNames, TlsSettingsError, Upstream};

/// A gateway that can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not this machine's.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin listener's address is taken.
    #[error("admin.address: {0}")]
    Admin(#[source] ListenError),
    /// The address for other replicas is taken.
    #[error("peers.address: {0}")]
    Peers(#[source] ListenError),
    /// The key of the replicas can't be made.
    #[error("peers: {0}")]
    PeerKey(#[from] rustls::Error),
    /// A certificate or key can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The htpasswd file can't be used.
    #[error("auth.htpasswd: {0}")]
    Htpasswd(#[from] LoadError),
    /// The admin listener's htpasswd file can't be used.
    #[error("admin.htpasswd: {0}")]
    AdminHtpasswd(#[source] LoadError),
    /// The token service's files can't be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The object store's settings can't be used.
    #[error("cache.store: {0}")]
    Store(String),
    /// An upstream's TLS settings can't be used.
    #[error("upstream \"{name}\": {source}")]
    Upstream {
        /// The upstream's name.
        name: String,
        /// The error.
        source: TlsSettingsError,
    },
    /// The CA of an issuer can't be used.
    #[error("auth.oidc: {0}")]
    Issuer(#[from] TlsSettingsError),
    /// The machine gives no randomness.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The audit log can't be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The machine gives no threads.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Files of the token service that can't be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TokensError(#[from] OpenError);

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
    /// None without other replicas.
    peers: Option<PeerAnswers>,
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
        let peer_answers =
            peers.as_ref().map(|peers| PeerAnswers::new(caches_of(&core), peers.fleet.membership().clone()));
        let answers = Answers { gateway, peers: peer_answers.clone() };
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
        let fleet = peers.as_ref().map(|peers| peers.fleet.clone());
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

    /// Checks all files every two seconds and reloads those that have changed. Never ends.
    pub async fn watch(&self) {
        let mut stamps = self.stamps();
        loop {
            tokio::time::sleep(limits::FILE_WATCH_INTERVAL).await;
            self.reload_certificates();
            let authenticator = self.core.load().settings.authenticator.clone();
            let reload = tokio::task::spawn_blocking(move || authenticator.reload_if_changed()).await;
            self.note_htpasswd("htpasswd", reload.unwrap_or(Reload::Unchanged));
            let tokens = self.core.load().settings.tokens.clone();
            let read = tokio::task::spawn_blocking(move || tokens.map(|tokens| tokens.reload(false))).await;
            self.note_tokens(read.ok().flatten().unwrap_or_default());
            if let Some(operators) = self.operators.clone() {
                let reload = tokio::task::spawn_blocking(move || operators.reload_if_changed()).await;
                self.note_htpasswd("admin.htpasswd", reload.unwrap_or(Reload::Unchanged));
            }
            let now = self.stamps();
            if now != stamps {
                stamps = now;
                self.reload_config();
                let files = self.config().files.len();
                if files != stamps.len() {
                    stamps = self.stamps();
                }
            }
        }
    }

    /// Reloads everything, on SIGHUP, and opens the audit log anew.
    pub fn reload(&self) {
        if let Some(audit_log) = &self.audit_log {
            audit_log.reopen();
        }
        self.reload_certificates();
        if let Some(renewal) = &self.renewal {
            renewal.retry();
        }
        self.note_htpasswd("htpasswd", self.core.load().settings.authenticator.reload());
        if let Some(tokens) = &self.core.load().settings.tokens {
            self.note_tokens(tokens.reload(true));
        }
        if let Some(operators) = &self.operators {
            self.note_htpasswd("admin.htpasswd", operators.reload());
        }
        self.reload_config();
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

    fn stamps(&self) -> Vec<Stamp> {
        self.config().files.iter().map(|path| Stamp::of(path)).collect()
    }

    fn reload_certificates(&self) {
        let Some(certificates) = &self.certificates else { return };
        match certificates.reload_if_changed() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("certificates reloaded");
                self.state.note("certificates", None);
                self.replace_core(|settings| {
                    settings.hosts = known_hosts(&self.config(), Some(certificates));
                    settings.client_authorities = certificates.client_authorities();
                });
                tell_names(&self.config(), &self.core.load().settings, &self.addresses);
            }
            Err(error) => {
                tracing::error!(%error, "cannot use the new certificates; the old ones stay in force");
                self.state.note("certificates", Some(error.to_string()));
            }
        }
    }

    fn note_htpasswd(&self, file: &'static str, reload: Reload) {
        match reload {
            Reload::Unchanged => {}
            Reload::Swapped(table) => {
                tracing::info!(file, users = table.users(), "htpasswd file reloaded");
                warn_of_lines(table.warnings());
                let problem = (table.users() == 0).then(|| NO_USER.to_owned());
                if let Some(problem) = &problem {
                    tracing::warn!("{problem}");
                }
                self.state.note(file, problem);
            }
            Reload::Kept(error) => {
                tracing::error!(file, %error, "cannot use the new htpasswd file; the old one stays in force");
                self.state.note(file, Some(error.to_string()));
            }
        }
    }

    fn note_tokens(&self, read: Vec<Reread>) {
        for (key, problem) in read {
            if let Some(error) = &problem {
                tracing::error!(key, %error, "cannot use the new file; what was read before stays in force");
            }
            self.state.note(key, problem);
        }
    }

    /// Reads the configuration again and applies rules and upstreams. Keys of sockets and threads need a restart; a warning
    /// names them.
    fn reload_config(&self) {
        let Some(origin) = &self.origin else { return };
        match self.apply(origin) {
            Ok(()) => {
                tracing::info!("configuration reloaded");
                self.state.note("configuration", None);
            }
            Err(error) => {
                tracing::error!(%error, "cannot use the new configuration; the old one stays in force");
                self.state.note("configuration", Some(error));
            }
        }
    }

    fn apply(&self, origin: &Origin) -> Result<(), String> {
        let config =
            Config::check(origin.path.as_deref(), &origin.environment).map_err(|error| error.to_string())?;
        let core = self.core.load_full();
        let before = self.config().clone();
        warn_of_restart(&before, &config);
        for warning in config.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let same_logins =
            config.auth.htpasswd == before.auth.htpasswd && forwards(&config) == forwards(&before);
        let authenticator = if same_logins {
            core.settings.authenticator.clone()
        } else {
            let file = open_htpasswd(&config).map_err(|error| error.to_string())?;
            let authenticator = Authenticator::new(file).map_err(|error| error.to_string())?;
            Arc::new(authenticator.forwarding(forwards(&config)))
        };
        let tokens = if config.auth.token == before.auth.token {
            core.settings.tokens.clone()
        } else {
            open_tokens(&config).map_err(|error| error.to_string())?
        };
        let workloads = if config.auth.oidc == before.auth.oidc {
            // A file of keys may have changed.
            core.settings.workloads.forget();
            core.settings.workloads.clone()
        } else {
            Arc::new(issuer::workloads(&config.auth.oidc).map_err(|error| error.to_string())?)
        };
        let logins = Logins { authenticator, tokens, workloads };
        let upstreams =
            upstreams(&config, &core.settings.upstreams, self.workers).map_err(|error| error.to_string())?;
        let upstream_caches =
            upstream_caches(&config, &core.settings.upstream_caches, self.cache(&config).as_ref());
        let upstream_caches = attach(upstream_caches, &upstreams);
        let settings = settings(&config, logins, upstreams, upstream_caches, self.certificates.as_deref());
        tell_names(&config, &settings, &self.addresses);
        let mut shared = core.shared();
        if config.upstreams != before.upstreams {
            shared.forget_logins();
        }
        self.core.store(Arc::new(Core::new(settings, shared)));
        self.state.set_configuration(configuration::lines(&config));
        *self.config() = config;
        Ok(())
    }

    /// Returns the cache, opened when it is first configured. Another path needs a restart.
    fn cache(&self, config: &Config) -> Option<Arc<Cache>> {
        let mut cache = self.cache.lock();
        if cache.is_none() {
            *cache = open_cache(config, self.fleet.as_ref(), self.bucket.as_ref());
        }
        cache.clone()
    }

    fn replace_core(&self, change: impl FnOnce(&mut Settings)) {
        let core = self.core.load_full();
        let mut settings = core.settings.clone();
        change(&mut settings);
        self.core.store(Arc::new(Core::new(settings, core.shared())));
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

/// Warns of changed keys that need a restart.
fn warn_of_restart(before: &Config, now: &Config) {
    let (old, new) = (&before.server, &now.server);
    let changed = [
        ("server.address", old.addresses != new.addresses),
        ("server.tls", old.tls != new.tls),
        ("server.max_connections", old.max_connections != new.max_connections),
        (
            "server.max_connections_per_client",
            old.max_connections_per_client != new.max_connections_per_client,
        ),
        ("server.max_held_bytes", old.max_held_bytes != new.max_held_bytes),
        ("server.header_timeout", old.header_timeout != new.header_timeout),
        ("server.idle_timeout", old.idle_timeout != new.idle_timeout),
        ("server.stall_timeout", old.stall_timeout != new.stall_timeout),
        ("server.proxy_protocol", old.proxy_protocol != new.proxy_protocol),
        ("server.trusted_proxies", new.proxy_protocol && old.trusted_proxies != new.trusted_proxies),
        ("server.secret", !same_secret(old.secret.as_ref(), new.secret.as_ref())),
        ("admin", before.admin != now.admin),
        ("log", before.log != now.log),
        ("peers", before.peers != now.peers),
        ("cache.store", before.store != now.store),
        ("cache", before.cache.is_some() && before.cache != now.cache),
    ];
    for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!(key, "changing this key needs a restart");
    }
}

fn same_secret(old: Option<&Secret>, new: Option<&Secret>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old.ct_eq(new),
        (old, new) => old.is_none() && new.is_none(),
    }
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

/// The listener for the other replicas, before it accepts.
struct PeerListener {
    socket: Listener,
    fleet: Arc<PeerFleet>,
    service: Service,
}

impl PeerListener {
    fn open(
        settings: &config::Peers,
        sockets: &mut PassedSockets,
        workers: usize,
    ) -> Result<Self, StartError> {
        let socket = sockets.listen(&settings.address).map_err(StartError::Peers)?;
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listening = socket.local_address().unwrap_or(nowhere);
        let identity = Identity::derive(&settings.secret)?;
        let membership = Arc::new(Membership::new(settings.clone(), listening));
        let fleet = PeerFleet::new(settings, &identity, membership, workers)?;
        let service = Service {
            tls: Some(pinned(identity.server()?)),
            // Nothing is said to those that are not let in.
            not_tls: Bytes::new(),
            proxies: [].into(),
            trusted: [].into(),
            header_timeout: limits::PEER_HEADER_TIMEOUT,
            idle_timeout: limits::PEER_IDLE_TIMEOUT,
            stall_timeout: limits::STALL_TIMEOUT,
            audience: Audience::Replicas,
            counters: Arc::default(),
        };
        Ok(Self { socket, fleet, service })
    }
}

/// Returns a finder of the caches in force.
fn caches_of(core: &Arc<ArcSwap<Core>>) -> Caches {
    let core = Arc::downgrade(core);
    Arc::new(move |name| {
        let core = core.upgrade()?.load_full();
        core.settings.upstream_caches.iter().find(|cache| *cache.fleet_name() == *name).cloned()
    })
}

/// The ways to log in.
struct Logins {
    authenticator: Arc<Authenticator>,
    tokens: Option<Arc<AccessTokens>>,
    workloads: Arc<Workloads>,
}

fn settings(
    config: &Config,
    Logins { authenticator, tokens, workloads }: Logins,
    upstreams: Vec<Arc<Upstream>>,
    upstream_caches: Vec<Arc<UpstreamCache>>,
    certificates: Option<&Certificates>,
) -> Settings {
    let certificate_names = config.auth.client_certificate;
    let others = !workloads.is_empty() || certificate_names.is_some();
    let logins = authenticator.has_logins() || tokens.is_some() || others;
    Settings {
        authenticator,
        workloads,
        certificate_names,
        client_authorities: certificates.and_then(Certificates::client_authorities),
        tokens,
        bearer: config.auth.bearer,
        external_url: config.server.external_url.as_ref().map(ToString::to_string),
        rules: Rules::new(config.access.clone(), logins),
        upstreams,
        upstream_caches,
        hosts: known_hosts(config, certificates),
        proxies: TrustedProxies::new(config.server.trusted_proxies.clone(), config.server.proxy_protocol),
        cors: config.server.cors.clone(),
        realm: config.auth.realm.clone(),
        stall_timeout: config.server.stall_timeout,
    }
}

/// Returns the hosts of external_url, the upstreams' virtual hosts and the certificates' names.
fn known_hosts(config: &Config, certificates: Option<&Certificates>) -> KnownHosts {
    let certified = certificates.map(Certificates::names).unwrap_or_default();
    let external = config.server.external_url.as_ref();
    let external =
        external.and_then(|url| Authority::parse(&url.authority).ok()).map(|external| external.host);
    let virtual_hosts = config.upstreams.iter().flat_map(|upstream| &upstream.hosts).map(String::as_str);
    KnownHosts::new(certified.iter().map(String::as_str).chain(external.as_deref()).chain(virtual_hosts))
}

/// Tells the upstreams by which names and ports clients reach this gateway. Without an external_url they may do so at the
/// schemes' own ports, though it listens on others.
fn tell_names(config: &Config, settings: &Settings, addresses: &[SocketAddr]) {
    for upstream in &settings.upstreams {
        upstream.set_gateway(names_of(config, settings.hosts.clone(), addresses));
    }
}

/// Returns the names and ports by which clients reach the gateway of a configuration that does not run here.
pub(crate) fn gateway_names(config: &Config) -> GatewayNames {
    // Without its certificates, the gateway would not start: they say nothing then.
    let certificates = config.server.tls.as_ref().and_then(|files| Certificates::open(files).ok());
    let addresses = config.server.addresses.iter().filter_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Any(port) => Some((Ipv4Addr::UNSPECIFIED, *port).into()),
        Address::Unix(_) => None,
    });
    names_of(config, known_hosts(config, certificates.as_ref()), &addresses.collect::<Vec<_>>())
}

fn names_of(config: &Config, hosts: KnownHosts, addresses: &[SocketAddr]) -> GatewayNames {
    let external = config.server.external_url.as_ref();
    let port = external.and_then(|url| {
        let written = Authority::parse(&url.authority).ok()?.port;
        Some(written.unwrap_or_else(|| scheme_port(url.https)))
    });
    let outer = port.map_or_else(|| vec![scheme_port(true), scheme_port(false)], |port| vec![port]);
    let ports: Vec<u16> = outer.into_iter().chain(addresses.iter().map(SocketAddr::port)).collect();
    GatewayNames::new(move |host| hosts.names(host), ports, addresses.to_vec())
}

/// Returns true if an upstream judges the passwords of clients.
fn forwards(config: &Config) -> bool {
    config.upstreams.iter().any(|upstream| upstream.credentials.source == CredentialSource::Forward)
}

fn open_audit_log(config: &Config) -> Result<Option<AuditLog>, AuditError> {
    let log = &config.log;
    log.audit.as_deref().map(|path| AuditLog::open(path, log.audit_pulls)).transpose()
}

fn open_htpasswd(config: &Config) -> Result<Option<HtpasswdFile>, LoadError> {
    let Some(path) = &config.auth.htpasswd else { return Ok(None) };
    // The lines that count for nothing are among the warnings of the configuration.
    Ok(Some(HtpasswdFile::open(path)?))
}

fn open_tokens(config: &Config) -> Result<Option<Arc<AccessTokens>>, TokensError> {
    let tokens = config.auth.token.as_ref().map(AccessTokens::open).transpose()?;
    Ok(tokens.map(Arc::new))
}

/// Returns the logins of the admin listener, if it needs one.
fn operators(config: &Config) -> Result<Option<Arc<Authenticator>>, StartError> {
    let Some(path) = config.admin.as_ref().and_then(|admin| admin.htpasswd.as_ref()) else { return Ok(None) };
    let file = HtpasswdFile::open(path).map_err(StartError::AdminHtpasswd)?;
    Ok(Some(Arc::new(Authenticator::new(Some(file))?)))
}

const NO_USER: &str = "no user can log in: the file has no usable line";

fn warn_of_lines(warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!(line = warning.line, reason = %warning.reason, "ignoring a line of the htpasswd file");
    }
}

/// Returns the upstreams of a configuration. One whose settings and certificates are as before keeps its connections and
/// tokens.
fn upstreams(
    config: &Config,
    before: &[Arc<Upstream>],
    workers: usize,
) -> Result<Vec<Arc<Upstream>>, StartError> {
    let stall = config.server.stall_timeout;
    let make = |settings: &config::Upstream| {
        let same = |upstream: &&Arc<Upstream>| upstream.settings() == settings && upstream.is_current();
        if let Some(same) = before.iter().find(same) {
            return Ok(same.clone());
        }
        let failed = |source| StartError::Upstream { name: settings.name.clone(), source };
        Upstream::new(settings.clone(), stall, workers).map_err(failed)
    };
    config.upstreams.iter().map(make).collect()
}

/// Returns the caches of the upstreams that have one. A cache whose settings are as before keeps its state.
fn upstream_caches(
    config: &Config,
    before: &[Arc<UpstreamCache>],
    cache: Option<&Arc<Cache>>,
) -> Vec<Arc<UpstreamCache>> {
    let upstream_cache = |upstream: &config::Upstream| {
        let (cache, settings) = cache.zip(upstream.cache.as_ref())?;
        let same = before.iter().find(|known| known.is_of(upstream));
        Some(same.cloned().unwrap_or_else(|| UpstreamCache::new(cache.clone(), upstream, settings)))
    };
    config.upstreams.iter().filter_map(upstream_cache).collect()
}
