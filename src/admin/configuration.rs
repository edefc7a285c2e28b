//! A configuration in a few lines, for operators.

use crate::budget::plan;
use crate::config::{
    AccessRule, Address, Admin, Config, CredentialSource, Credentials, Proxy, PullAuthorization, Upstream,
};

/// Returns what the configuration amounts to, as pairs of a word and a text. Has no secret.
pub(crate) fn lines(config: &Config) -> Vec<(&'static str, String)> {
    let mut lines = vec![("listens on", listeners(config))];
    let acme = config.server.tls.as_ref().and_then(|tls| tls.acme.as_ref());
    lines.extend(
        acme.map(|acme| ("certificate", format!("for {}, by {}", acme.domains.join(", "), acme.directory))),
    );
    lines.push(("admin", config.admin.as_ref().map_or_else(|| "off".to_owned(), admin)));
    lines.push(("users", users(config)));
    let effect = |rule: &AccessRule| if rule.allows() { "allows" } else { "denies" };
    lines.extend(config.access.iter().map(|rule| (effect(rule), rule.to_string())));
    lines.extend(config.upstreams.iter().map(|upstream| ("upstream", describe(upstream))));
    lines.extend(config.cache.iter().map(|cache| ("cache", cache.to_string())));
    lines.extend(config.store.iter().map(|store| ("store", store.to_string())));
    lines.extend(
        config.peers.iter().map(|peers| ("peers", format!("{}, at {}", peers.members, peers.address))),
    );
    lines.extend(plan::all(config).iter().map(|plan| ("budget", plan.to_string())));
    lines
}

fn admin(admin: &Admin) -> String {
    let mode = match &admin.address {
        Address::Unix(socket) => socket.mode.map(|mode| format!(", mode {mode:04o}")).unwrap_or_default(),
        Address::Tcp(_) | Address::Any(_) => String::new(),
    };
    let login = admin.htpasswd.as_ref().map(|path| format!(", for the users of {}", path.display()));
    format!("{}{mode}{}", admin.address, login.unwrap_or_default())
}

fn listeners(config: &Config) -> String {
    let addresses: Vec<String> = config.server.addresses.iter().map(Address::to_string).collect();
    let how = if config.server.tls.is_some() { "TLS" } else { "plain HTTP" };
    format!("{} ({how})", addresses.join(", "))
}

fn users(config: &Config) -> String {
    let forwards = |upstream: &&Upstream| upstream.credentials.source == CredentialSource::Forward;
    let known =
        config.upstreams.iter().filter(forwards).map(|upstream| format!("who {} knows", upstream.name));
    let file = config.auth.htpasswd.iter().map(|path| path.display().to_string());
    let all: Vec<String> = file.chain(known).collect();
    if all.is_empty() { "none: no user can log in".to_owned() } else { all.join(", ") }
}

fn describe(upstream: &Upstream) -> String {
    let names = if upstream.prefix.is_empty() { "every other name" } else { &upstream.prefix };
    let below = if upstream.prefix.is_empty() { "" } else { "/..." };
    let mode = upstream.read_only.then(|| "read only".to_owned());
    let proxy = upstream.proxy.as_ref().filter(|proxy| !is_direct(proxy, upstream)).map(through);
    let how = mode.into_iter().chain(cache(upstream)).chain(credentials(&upstream.credentials)).chain(proxy);
    let how: String = how.map(|how| format!(", {how}")).collect();
    format!("{names}{below} -> {} ({}{how})", upstream.url, upstream.name)
}

fn cache(upstream: &Upstream) -> Option<String> {
    let cache = upstream.cache.as_ref()?;
    let each = match cache.pull_authorization {
        PullAuthorization::Shared => "",
        PullAuthorization::Each => " for each client alone",
    };
    Some(format!("{}{each}", if cache.offline { "from the cache alone" } else { "cached" }))
}

/// Returns the kind of credentials, without names: at some registries the name is the secret.
fn credentials(credentials: &Credentials) -> Option<String> {
    let own = match &credentials.source {
        CredentialSource::Anonymous => None,
        CredentialSource::Login(_) => Some("by password".to_owned()),
        CredentialSource::Helper(name) => Some(format!("by docker-credential-{name}")),
        CredentialSource::DockerConfig(path) => Some(format!("by {}", path.display())),
        CredentialSource::Forward => Some("each client as itself".to_owned()),
    };
    let some = (!credentials.users.is_empty()).then(|| "some users as others".to_owned());
    let all: Vec<String> = own.into_iter().chain(some).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn is_direct(proxy: &Proxy, upstream: &Upstream) -> bool {
    proxy.except.covers(&upstream.url.host, upstream.url.port)
}

fn through(proxy: &Proxy) -> String {
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    format!("through the proxy {host}:{}", proxy.port)
}
