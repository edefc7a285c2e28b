//! The settings of a gateway, made of its configuration and of the files that it names.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::app::start_error::{StartError, TokensError};
use crate::authn::htpasswd::LoadError;
use crate::authn::{AccessTokens, Authenticator, HtpasswdFile, Workloads};
use crate::authz::Rules;
use crate::cache::{Cache, UpstreamCache};
use crate::config;
use crate::config::{Address, Config, CredentialSource};
use crate::gateway::{KnownHosts, Settings, TrustedProxies};
use crate::proto::Authority;
use crate::proto::authority::scheme_port;
use crate::server::Certificates;
use crate::telemetry::{AuditError, AuditLog};
use crate::upstream::{GatewayNames, Upstream};

/// The ways to log in.
pub(super) struct Logins {
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) tokens: Option<Arc<AccessTokens>>,
    pub(super) workloads: Arc<Workloads>,
}

pub(super) fn settings(
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
pub(super) fn known_hosts(config: &Config, certificates: Option<&Certificates>) -> KnownHosts {
    let certified = certificates.map(Certificates::names).unwrap_or_default();
    let external = config.server.external_url.as_ref();
    let external =
        external.and_then(|url| Authority::parse(&url.authority).ok()).map(|external| external.host);
    let virtual_hosts = config.upstreams.iter().flat_map(|upstream| &upstream.hosts).map(String::as_str);
    KnownHosts::new(certified.iter().map(String::as_str).chain(external.as_deref()).chain(virtual_hosts))
}

/// Tells the upstreams by which names and ports clients reach this gateway. Without an external_url they may do so at the
/// schemes' own ports, though it listens on others.
pub(super) fn tell_names(config: &Config, settings: &Settings, addresses: &[SocketAddr]) {
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
pub(super) fn forwards(config: &Config) -> bool {
    config.upstreams.iter().any(|upstream| upstream.credentials.source == CredentialSource::Forward)
}

pub(super) fn open_audit_log(config: &Config) -> Result<Option<AuditLog>, AuditError> {
    let log = &config.log;
    log.audit.as_deref().map(|path| AuditLog::open(path, log.audit_pulls)).transpose()
}

pub(super) fn open_htpasswd(config: &Config) -> Result<Option<HtpasswdFile>, LoadError> {
    let Some(path) = &config.auth.htpasswd else { return Ok(None) };
    // The lines that count for nothing are among the warnings of the configuration.
    Ok(Some(HtpasswdFile::open(path)?))
}

pub(super) fn open_tokens(config: &Config) -> Result<Option<Arc<AccessTokens>>, TokensError> {
    let tokens = config.auth.token.as_ref().map(AccessTokens::open).transpose()?;
    Ok(tokens.map(Arc::new))
}

/// Returns the logins of the admin listener, if it needs one.
pub(super) fn operators(config: &Config) -> Result<Option<Arc<Authenticator>>, StartError> {
    let Some(path) = config.admin.as_ref().and_then(|admin| admin.htpasswd.as_ref()) else { return Ok(None) };
    let file = HtpasswdFile::open(path).map_err(StartError::AdminHtpasswd)?;
    Ok(Some(Arc::new(Authenticator::new(Some(file))?)))
}

/// Returns the upstreams of a configuration. One whose settings and certificates are as before keeps its connections and
/// tokens.
pub(super) fn upstreams(
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
pub(super) fn upstream_caches(
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
