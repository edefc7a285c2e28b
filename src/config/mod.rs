//! Configuration: from what is written, in a file and in variables, to values that are checked.
//!
//! Layers, each over the one before: the `registry` image's variables, the TOML file, `DOCKGATE_*` variables. They
//! are put into one tree in which every value knows its file and line, or its variable; then each section is read
//! from the tree. Nothing stops at the first mistake.

pub(crate) mod access;
mod acme;
mod address;
mod admin;
mod auth;
mod bucket;
mod bucket_keys;
mod cache;
mod context;
mod cors;
mod credentials;
mod duration;
mod environment;
mod files;
mod group;
mod group_list;
mod host;
mod host_pattern;
mod interpolate;
mod key_pair;
pub(crate) mod limits;
mod log;
mod mistake;
mod oidc;
mod pattern;
mod peers;
pub(crate) mod private_folder;
mod proxy;
mod reader;
mod reference;
mod registry_variables;
mod schema;
mod server;
mod size;
mod source;
mod tls;
mod tree;
mod upstream;
mod value_error;
mod variables;

use std::path::{Path, PathBuf};

pub use access::AccessRule;
pub(crate) use acme::Acme;
pub(crate) use address::{Address, UnixSocket};
pub(crate) use admin::{Admin, LocalAddress};
pub(crate) use auth::{Auth, TokenService};
pub(crate) use bucket::{Bucket, BucketCredentials};
pub(crate) use cache::{Cache, MinFree, PullAuthorization, UpstreamCacheOptions};
pub(crate) use cors::Cors;
pub(crate) use credentials::{CredentialSource, Credentials, Login, UserCredentials};
pub use environment::Environment;
pub(crate) use group::Group;
pub(crate) use host_pattern::HostPattern;
pub(crate) use key_pair::KeyPair;
pub(crate) use log::Log;
pub(crate) use mistake::ConfigErrors;
pub(crate) use oidc::{IssuerKeys, OidcProvider, RequiredClaim};
pub use pattern::RepositoryPattern;
pub(crate) use pattern::{Glob, PatternError, UserPattern};
pub(crate) use peers::{Members, Peers};
pub(crate) use proxy::{NoProxy, Proxy};
pub(crate) use server::{ExternalUrl, Server, is_wide};
pub(crate) use size::render as size_text;
pub(crate) use tls::Tls;
pub(crate) use upstream::{Http2, Redirects, Upstream, UpstreamUrl};

use context::Context;
use reader::Reader;
use schema::{Key, Kind, key};
use source::Source;

/// A configuration that the gateway can run with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The registry's own listeners.
    pub server: Server,
    /// The admin listener; None: turned off.
    pub admin: Option<Admin>,
    /// The options of logging.
    pub log: Log,
    /// The ways to log in.
    pub auth: Auth,
    /// The access rules. Without any this is [`AccessRule::everything`].
    pub access: Vec<AccessRule>,
    /// The registries behind the gateway; at least one, with different names, prefixes and hosts.
    pub upstreams: Vec<Upstream>,
    /// The cache's directory and size, where an upstream has a cache.
    pub cache: Option<Cache>,
    /// The other replicas of this gateway; None: it is alone.
    pub(crate) peers: Option<Peers>,
    /// The store behind the cache, if there is one.
    pub(crate) store: Option<Bucket>,
    /// Warnings: settings that are valid, but may be unintended. Never a secret.
    pub warnings: Vec<String>,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// Files that a change of means another configuration: the configuration file, those that were put in by
    /// `${file:PATH}`, and those that upstreams name. Each once. The htpasswd file and the listeners' certificates are
    /// not among them.
    pub files: Vec<PathBuf>,
}

const KEYS: &[Key] = &[
    key("server", Kind::Table(server::KEYS)),
    key("admin", Kind::Table(admin::KEYS)),
    key("log", Kind::Table(log::KEYS)),
    key("auth", Kind::Table(auth::KEYS)),
    key("access", Kind::Tables(access::KEYS)),
    key("upstream", Kind::Tables(upstream::KEYS)),
    key("cache", Kind::Table(cache::KEYS)),
    key("peers", Kind::Table(peers::KEYS)),
];

/// True if the files that a configuration names are looked at too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Away,
    AtFiles,
}

impl Config {
    /// Reads the configuration from the file `path`, else from the one that `DOCKGATE_CONFIG` names, else from
    /// `./dockgate.toml` or `/etc/dockgate/dockgate.toml`, else from variables alone. The files that it names are not
    /// looked at. Errors are all that is wrong.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigErrors> {
        assemble(source::find(path, environment)?.as_ref(), environment, Look::Away)
    }

    /// As [`load`](Self::load), and the files that it names (certificates, keys, htpasswd) must be there, readable and
    /// what they should be: whether the gateway could start.
    pub fn check(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigErrors> {
        assemble(source::find(path, environment)?.as_ref(), environment, Look::AtFiles)
    }

    /// Reads a configuration from `text`, as if it were the file `name` in `folder`.
    pub fn from_toml(
        text: &str,
        name: &str,
        folder: &Path,
        environment: &Environment,
    ) -> Result<Self, ConfigErrors> {
        let context = Context::new(Some(name), folder.to_path_buf());
        build(text, context, environment, Look::Away)
    }
}

/// Reads a duration that is not zero, as the configuration has them.
///
/// # Errors
/// The end of a sentence about the text.
pub(crate) fn parse_duration(written: &str) -> Result<std::time::Duration, String> {
    duration::parse_positive(written).map_err(|wrong| match wrong {
        value_error::ValueError::Value(why) | value_error::ValueError::Hidden(why) => why,
    })
}

/// Reads the URL of the gateway, as `server.external_url` has it.
///
/// # Errors
/// The end of a sentence about the text.
pub(crate) fn parse_external_url(written: &str) -> Result<ExternalUrl, String> {
    ExternalUrl::parse(written).map_err(|wrong| match wrong {
        value_error::ValueError::Value(why) | value_error::ValueError::Hidden(why) => why,
    })
}

fn assemble(source: Option<&Source>, environment: &Environment, look: Look) -> Result<Config, ConfigErrors> {
    let Some(source) = source else {
        return build("", Context::new(None, PathBuf::new()), environment, look);
    };
    let context = Context::new(Some(&source.path.display().to_string()), source.folder());
    let mut config = build(&source.text, context, environment, look)?;
    config.files.insert(0, source.path.clone());
    Ok(Config { file: Some(source.path.clone()), ..config })
}

fn build(
    text: &str,
    mut context: Context,
    environment: &Environment,
    look: Look,
) -> Result<Config, ConfigErrors> {
    context.home = environment.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let Some(mut table) = tree::parse(text, &context) else { return Err(context.errors()) };
    registry_variables::underlay(&mut table, environment, &context);
    variables::overlay(&mut table, KEYS, environment, &context);
    if table.is_empty() && context.is_clean() && context.file.is_none() {
        context.mistake(&context.whole(), "", nothing());
        return Err(context.errors());
    }
    schema::check(&mut table, KEYS, "", &context);
    interpolate::fill(&mut table, "", environment, &context);
    let mut config = read(&Reader::root(&table, &context));
    upstream::take_proxy(&mut config.upstreams, environment, &context);
    oidc::take_proxy(&mut config.auth.oidc, environment, &context);
    bucket::take_proxy(config.store.as_mut(), environment, &context);
    let acme = config.server.tls.as_mut().and_then(|tls| tls.acme.as_mut());
    acme::take_proxy(acme, environment, &context);
    if look == Look::AtFiles {
        files::check(&context);
    }
    Ok(Config { files: context.files(), warnings: context.finish()?, ..config })
}

fn read(root: &Reader<'_>) -> Config {
    let server = server::read(&root.section("server"));
    let rules = access::read(root);
    let auth = auth::read(root, &rules);
    let upstreams = upstream::read(root);
    let has_cache = upstreams.iter().any(|upstream| upstream.cache.is_some());
    let has_secret = root.section("server").has("secret");
    let peers = root.optional("peers").and_then(|peers| peers::read(&peers, &server, has_secret, has_cache));
    let store = bucket::read(root, &server, has_secret).filter(|_| has_cache);
    Config {
        admin: admin::read(&root.section("admin"), &server),
        log: log::read(&root.section("log")),
        auth,
        access: rules.or_default(root, &upstreams),
        cache: cache::read(root, has_cache),
        peers,
        store,
        upstreams,
        server,
        warnings: Vec::new(),
        file: None,
        files: Vec::new(),
    }
}

fn nothing() -> String {
    let [here, there] = source::PLACES;
    format!(
        "there is no configuration: neither ./{here} nor {there} exists, and no DOCKGATE_ or REGISTRY_ variable is \
         set; write one of them, or name a file with --config"
    )
}

#[cfg(test)]
mod tests;
