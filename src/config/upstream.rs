//! `[[upstream]]`: the registries behind the gateway.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::cache;
use crate::config::cache::UpstreamCacheOptions;
use crate::config::context::Context;
use crate::config::credentials;
use crate::config::credentials::Credentials;
use crate::config::environment::Environment;
use crate::config::host::{Url, parse_authority};
use crate::config::host_pattern::HostPattern;
use crate::config::key_pair;
use crate::config::key_pair::KeyPair;
use crate::config::limits;
use crate::config::proxy;
use crate::config::proxy::Proxy;
use crate::config::reader::Reader;
use crate::config::reference::Reference;
use crate::config::schema::{Key, Kind, key};
use crate::config::tree::EMPTY;
use crate::config::value_error::ValueError;
use crate::proto::authority::is_loopback;
use crate::proto::{Authority, RepositoryName};

/// A registry behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name in rules and logs, and what containerd sends as `?ns=`: `host` or `host:port` in lower case.
    pub name: String,
    /// The place of the cache.
    pub url: UpstreamUrl,
    /// The path that its repositories are below; "" takes all that no other prefix takes.
    pub prefix: String,
    /// Virtual hosts that go to it whole: `host` or `host:port` in lower case.
    pub hosts: Vec<String>,
    /// PEM certificates to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// True if its certificate is not verified.
    pub insecure: bool,
    /// The time for connecting, TLS included.
    pub connect_timeout: Duration,
    /// The time for the header of an answer.
    pub response_timeout: Duration,
    /// The number of retries; 0: none.
    pub retries: u32,
    /// Connections to it at once.
    pub max_connections: u32,
    /// True if writes are refused.
    pub read_only: bool,
    /// Docker Hub: names of one component are in `library/` there.
    pub library: bool,
    /// The gateway's certificate in mutual TLS.
    pub client_certificate: Option<KeyPair>,
    /// The proxy on the way to it.
    pub proxy: Option<Proxy>,
    /// The use of HTTP/2.
    pub http2: Http2,
    /// The party that follows a blob's redirect.
    pub redirects: Redirects,
    /// Hosts whose token endpoint may see the credentials, besides its own host and registrable domain.
    pub realm_hosts: Vec<HostPattern>,
    /// Hosts that a redirect or a foreign upload location may lead to; empty: any public address.
    pub redirect_hosts: Vec<HostPattern>,
    /// The credentials for it.
    pub credentials: Credentials,
    /// Its cache, if it has one.
    pub cache: Option<UpstreamCacheOptions>,
}

impl Upstream {
    /// Returns the registry at `url`, with every other key at its default, but for the proxy, which the
    /// variables name.
    ///
    /// # Errors
    /// The defect of `url` or of a variable.
    pub fn at(url: &str, environment: &Environment) -> Result<Self, String> {
        let context = Context::new(None, PathBuf::new());
        let parsed = Url::parse_registry(url).map_err(|wrong| match wrong {
            ValueError::Value(text) => format!("{url:?} {text}"),
            ValueError::Hidden(text) => text,
        })?;
        let name = default_name(&parsed).to_owned();
        let mut upstream = Self::read(&Reader::root(&EMPTY, &context), name, parsed, String::new());
        take_proxy(std::slice::from_mut(&mut upstream), environment, &context);
        context.finish().map(|_| upstream).map_err(|errors| errors.to_string())
    }

    /// Returns a server that is no registry, with the default of every option.
    pub(super) fn of_endpoint(url: Url, context: &Context) -> Self {
        let name = url.authority();
        Self::read(&Reader::root(&EMPTY, context), name, url, String::new())
    }

    /// Returns the host of `url`, which is no registry's, to fetch documents from. Reports a URL that has none.
    pub(super) fn of_documents(url: &str, ca: Option<PathBuf>, table: &Reader<'_>) -> Option<Self> {
        let end = url.find("://").map_or(0, |scheme| scheme + 3);
        let host = url[end..].find('/').map_or(url, |path| &url[..end + path]);
        match Url::parse_registry(host) {
            Ok(parsed) => {
                let name = default_name(&parsed).to_owned();
                let upstream = Self::read(&Reader::root(&EMPTY, table.context), name, parsed, String::new());
                Some(Self { ca, ..upstream })
            }
            Err(wrong) => {
                let text = match wrong {
                    ValueError::Value(text) | ValueError::Hidden(text) => text,
                };
                table.wrong_itself(format!("{url:?} {text}"));
                None
            }
        }
    }
}

/// The requests that go over HTTP/2 where the server offers it by ALPN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Http2 {
    /// Small requests that come together use HTTP/2; see the upstream's client.
    #[default]
    Auto,
    /// All.
    Always,
    /// None: HTTP/2 is not offered.
    Never,
}

/// The party that follows a blob's redirect to another host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Redirects {
    /// The gateway: the client sees the blob.
    #[default]
    Follow,
    /// The client: it sees the redirect.
    Pass,
}

/// The URL of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// The scheme.
    pub https: bool,
    /// In lower case; IPv6 addresses without brackets.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// The path before `/v2/`: "" or "/sub".
    pub path: String,
}

impl UpstreamUrl {
    /// Returns the value of the Host field: the port is left out where it is the scheme's own.
    pub fn authority(&self) -> String {
        Authority::render(&self.host, self.port, self.https)
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

pub(super) const KEYS: &[Key] = &[
    key("name", Kind::Text),
    key("url", Kind::Text),
    key("prefix", Kind::Text),
    key("hosts", Kind::Texts),
    key("ca", Kind::Text),
    key("insecure", Kind::Flag),
    key("connect_timeout", Kind::Text),
    key("response_timeout", Kind::Text),
    key("retries", Kind::Number),
    key("read_only", Kind::Flag),
    key("max_connections", Kind::Number),
    key("client_certificate", Kind::Text),
    key("client_key", Kind::Text),
    key("proxy", Kind::Text),
    key("http2", Kind::Text),
    key("redirects", Kind::Text),
    key("realm_hosts", Kind::Texts),
    key("redirect_hosts", Kind::Texts),
    key("credentials", Kind::Table(credentials::KEYS)),
    key("cache", Kind::Switch(cache::UPSTREAM_KEYS)),
];

pub(super) fn read(root: &Reader<'_>) -> Vec<Upstream> {
    let tables = root.tables("upstream");
    if tables.is_empty() && !root.is_broken("upstream") {
        root.wrong("upstream", none(root));
    }
    let read = tables.iter().filter_map(|table| Some((upstream(table)?, table)));
    let read: Vec<(Upstream, &Reader<'_>)> = read.collect();
    refuse_twice(&read);
    credentials::check_forward(&tables);
    read.into_iter().map(|(upstream, _)| upstream).collect()
}

/// Gives upstreams that name no proxy the one that the environment names.
pub(super) fn take_proxy(upstreams: &mut [Upstream], environment: &Environment, context: &Context) {
    let mut open: Vec<&mut Upstream> =
        upstreams.iter_mut().filter(|upstream| upstream.url.https && upstream.proxy.is_none()).collect();
    // A variable that no upstream would use is not checked.
    let named = open.first().and_then(|_| proxy::from_variables(environment, context));
    for upstream in &mut open {
        upstream.proxy.clone_from(&named);
    }
}

fn none(root: &Reader<'_>) -> String {
    let advice = root.context.advice(
        "[[upstream]] with `url = \"https://registry-1.docker.io\"` or another registry's",
        "REGISTRY_PROXY_REMOTEURL=https://registry-1.docker.io or another registry's",
    );
    format!("there is no registry to stand in front of; {advice}")
}

/// Reads a table. `None` if its URL or prefix is missing or malformed; the mistakes of its other keys are reported even
/// so.
fn upstream(table: &Reader<'_>) -> Option<Upstream> {
    let name = table.parsed("name", name);
    let url = url(table, name.as_deref());
    let named = name.is_some() || !table.has("name");
    let prefix = match (&name, &url) {
        _ if !named => None,
        (Some(name), _) => prefix(table, name),
        (None, Some(url)) => prefix(table, default_name(url)),
        (None, None) => None,
    };
    let is_whole = prefix.is_some() && url.is_some();
    let has_url = url.is_some();
    let url = url.unwrap_or_default();
    let name = name.unwrap_or_else(|| default_name(&url).to_owned());
    let upstream = Upstream::read(table, name, url, prefix.unwrap_or_default());
    if has_url {
        check_scheme(table, &upstream);
        check_cache(table, &upstream);
    }
    is_whole.then_some(upstream)
}

impl Upstream {
    /// Reads all keys but those that say what it is called and where it is.
    fn read(table: &Reader<'_>, name: String, url: Url, prefix: String) -> Self {
        let read_only = table.flag("read_only", table.has("cache"));
        let retries = table.number("retries", (0, limits::RETRIES_MOST), i64::from(limits::RETRIES));
        let most = (1, limits::UPSTREAM_CONNECTIONS_MOST);
        let connections = table.number("max_connections", most, i64::from(limits::UPSTREAM_CONNECTIONS));
        Self {
            library: name == HUB || is_hub(&url.host),
            name,
            url: UpstreamUrl { https: url.https, host: url.host, port: url.port, path: url.path },
            prefix,
            hosts: list(table, "hosts", parse_authority),
            ca: ca(table),
            insecure: table.flag("insecure", false),
            connect_timeout: table.duration("connect_timeout", limits::CONNECT_TIMEOUT),
            response_timeout: table.duration("response_timeout", limits::RESPONSE_TIMEOUT),
            retries: u32::try_from(retries).unwrap_or(limits::RETRIES),
            max_connections: u32::try_from(connections).unwrap_or(limits::UPSTREAM_CONNECTIONS),
            read_only,
            client_certificate: key_pair::of_upstream(table),
            proxy: table.text("proxy").and_then(|item| item.parsed(Proxy::parse)),
            http2: http2(table),
            redirects: redirects(table),
            realm_hosts: list(table, "realm_hosts", HostPattern::parse),
            redirect_hosts: list(table, "redirect_hosts", HostPattern::parse),
            credentials: credentials::read(table),
            cache: cache::read_upstream(table, read_only),
        }
    }
}

fn name(written: &str) -> Result<String, ValueError> {
    let name = parse_authority(written).ok().filter(|name| name == written && !name.starts_with('['));
    name.ok_or_else(|| {
        ValueError::value(
            "is no name; write it as a host in lower case, for example \"docker.io\" or \"internal\"",
        )
    })
}

/// Reads the URL. Docker Hub's registry is not at the host that its images are named by.
fn url(table: &Reader<'_>, name: Option<&str>) -> Option<Url> {
    if table.text("url").is_none() && !table.is_broken("url") {
        return match name {
            Some(HUB) => Url::parse(HUB_URL).ok(),
            _ => {
                let advice = table.advice("url = \"https://registry.example.com\"");
                table.wrong("url", format!("where is this registry? {advice}"));
                None
            }
        };
    }
    let mut url = table.parsed("url", Url::parse_registry)?;
    if url.https && url.host == HUB {
        HUB_HOST.clone_into(&mut url.host);
    }
    Some(url)
}

/// Returns the host, as containerd calls it.
fn default_name(url: &Url) -> &str {
    if is_hub(&url.host) { HUB } else { &url.host }
}

fn is_hub(host: &str) -> bool {
    [HUB, HUB_HOST, "index.docker.io"].contains(&host)
}

fn prefix(table: &Reader<'_>, name: &str) -> Option<String> {
    if table.text("prefix").is_some() {
        return table.parsed("prefix", repository_path);
    }
    if table.has("prefix") {
        return (!table.is_broken("prefix")).then(String::new);
    }
    if RepositoryName::parse(name).is_err() {
        let advice = table.advice("prefix = \"internal\"");
        let text = format!("{name:?} cannot be the path of repositories; {advice}, or \"\" for the root");
        table.wrong("prefix", text);
        return None;
    }
    Some(name.to_owned())
}

fn repository_path(written: &str) -> Result<String, ValueError> {
    match RepositoryName::parse(written) {
        Ok(_) => Ok(written.to_owned()),
        Err(error) => Err(ValueError::Value(format!("is no path of repositories: {error}"))),
    }
}

fn list<T>(table: &Reader<'_>, key: &str, parse: impl Fn(&str) -> Result<T, ValueError>) -> Vec<T> {
    table.texts(key).iter().filter_map(|item| item.parsed(&parse)).collect()
}

fn http2(table: &Reader<'_>) -> Http2 {
    match table.choice("http2", &["auto", "always", "never"]) {
        Some("always") => Http2::Always,
        Some("never") => Http2::Never,
        _ => Http2::Auto,
    }
}

fn redirects(table: &Reader<'_>) -> Redirects {
    match table.choice("redirects", &["follow", "pass"]) {
        Some("pass") => Redirects::Pass,
        _ => Redirects::Follow,
    }
}

/// Reports what plain HTTP cannot do, and warns of passwords that it would carry.
fn check_scheme(table: &Reader<'_>, upstream: &Upstream) {
    if upstream.url.https {
        return;
    }
    if upstream.client_certificate.is_some() {
        let why = "can be shown by TLS alone, and the URL says http";
        table.wrong("client_certificate", format!("{why}; write https in the URL, or remove it"));
    }
    if upstream.credentials != Credentials::default() && !is_loopback(&upstream.url.host) {
        let place = table.place_of("credentials");
        let why = "passwords for this upstream travel unencrypted, since its URL says http";
        table.context.warn(format!("{place}: {why}"));
    }
}

/// Reports what cannot stand beside a cache, and warns where sharing it needs a decision.
fn check_cache(table: &Reader<'_>, upstream: &Upstream) {
    if upstream.cache.is_some() && upstream.redirects == Redirects::Pass {
        let why =
            "would send clients past the cache to where the upstream redirects, so nothing could be kept";
        table.wrong("redirects", format!("\"pass\" {why}; write \"follow\", or remove [upstream.cache]"));
    }
    cache::warn_of_sharing(table, &upstream.credentials);
}

fn ca(table: &Reader<'_>) -> Option<PathBuf> {
    let file = table.file("ca")?;
    if table.flag("insecure", false) {
        table.wrong("insecure", "says not to verify what ca is there to verify; remove one of them");
    }
    let path = file.path.clone();
    table.context.refer(Reference::Ca(file));
    Some(path)
}

/// Refuses two upstreams with the same name, prefix or host: a request must belong to one.
fn refuse_twice(upstreams: &[(Upstream, &Reader<'_>)]) {
    let (mut names, mut prefixes, mut hosts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (upstream, table) in upstreams {
        refuse(table, "name", &upstream.name, &mut names);
        refuse(table, "prefix", &upstream.prefix, &mut prefixes);
        for host in &upstream.hosts {
            refuse(table, "hosts", host, &mut hosts);
        }
    }
}

fn refuse(table: &Reader<'_>, key: &str, value: &str, seen: &mut BTreeMap<String, String>) {
    match seen.get(value) {
        Some(first) => {
            let text = format!(
                "{value:?} is taken by the upstream at {first}; write another {}",
                key.trim_end_matches('s')
            );
            table.wrong(key, text);
        }
        None => {
            seen.insert(value.to_owned(), table.place_of(key).to_string());
        }
    }
}

const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
const HUB_URL: &str = "https://registry-1.docker.io";
