//! The gateway as its clients see it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::client_config::error::ClientConfigError;
use crate::config::{Config, ExternalUrl, Upstream, parse_external_url};
use crate::proto::{Authority, Secret};

/// The gateway as its clients see it, and how they are to use it.
#[derive(Debug)]
pub(super) struct ServedGateway {
    pub(super) url: ExternalUrl,
    /// PEM of the CA that clients must trust; none: they trust the certificate already.
    pub(super) ca: Option<String>,
    /// The registries that the gateway can be a mirror of.
    pub(super) mirrors: Vec<Mirror>,
    pub(super) login: Option<ClientLogin>,
    /// True if clients may ask the registry itself for what the gateway does not give them.
    pub(super) fallback: bool,
    /// True if clients ask the gateway for every registry.
    pub(super) every_registry: bool,
}

/// A registry that the gateway is a mirror of.
#[derive(Debug)]
pub(super) struct Mirror {
    /// Its name in images: `docker.io`.
    pub(super) name: String,
    /// The path that its repositories have at the gateway; may be empty.
    prefix: String,
    /// The virtual host at which its repositories have no prefix.
    host: Option<String>,
}

/// The login of a client.
#[derive(Debug)]
pub(super) struct ClientLogin {
    pub(super) name: String,
    pub(super) password: Secret,
}

impl ServedGateway {
    /// Returns the gateway of a configuration, at `url` if it is given, without a login.
    ///
    /// # Errors
    /// When no URL is known, or `ca` cannot be read.
    pub(super) fn of(
        config: &Config,
        url: Option<&str>,
        ca: Option<&Path>,
    ) -> Result<Self, ClientConfigError> {
        let url = match url {
            Some(written) => parse_external_url(written)
                .map_err(|why| ClientConfigError::Url { url: written.to_owned(), why })?,
            None => config.server.external_url.clone().ok_or(ClientConfigError::NoUrl)?,
        };
        let ca = match ca {
            Some(file) => Some(read(file)?),
            None => ca_candidates(config).iter().find_map(|file| std::fs::read_to_string(file).ok()),
        };
        let mirrors = config.upstreams.iter().filter_map(Mirror::of).collect();
        Ok(Self { url, ca, mirrors, login: None, fallback: true, every_registry: false })
    }

    /// Returns `host` or `host:port`: the gateway's name in images.
    pub(super) fn authority(&self) -> &str {
        &self.url.authority
    }

    /// Returns the repository path of a mirror at the gateway, as it stands in images: `registry.example.com/docker.io`.
    pub(super) fn location(&self, mirror: &Mirror) -> String {
        if mirror.prefix.is_empty() {
            return self.authority().to_owned();
        }
        format!("{}/{}", self.authority(), mirror.prefix)
    }

    /// Returns the URL at whose root a mirror's repositories have the names that they have at that registry: that of a
    /// virtual host, or the gateway's own. `None` if they have a prefix everywhere.
    pub(super) fn root_url(&self, mirror: &Mirror) -> Option<String> {
        match &mirror.host {
            Some(host) => Some(format!("{}://{}", self.scheme(), self.with_port(host))),
            None => mirror.prefix.is_empty().then(|| self.url.to_string()),
        }
    }

    /// Returns a virtual host with the port that clients reach the gateway at, if it names none.
    fn with_port(&self, host: &str) -> String {
        let port = Authority::parse(self.authority()).ok().and_then(|authority| authority.port);
        match (Authority::parse(host), port) {
            (Ok(Authority { port: None, .. }), Some(port)) => format!("{host}:{port}"),
            _ => host.to_owned(),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.url.https { "https" } else { "http" }
    }
}

impl Mirror {
    /// Returns none for an upstream whose name is not that of a registry: images that begin with it mean Docker Hub, or
    /// this machine.
    fn of(upstream: &Upstream) -> Option<Self> {
        let host = Authority::parse(&upstream.name).ok()?.host;
        let is_registry = host.contains('.') && host.parse::<IpAddr>().is_err();
        is_registry.then(|| Self {
            name: upstream.name.clone(),
            prefix: upstream.prefix.clone(),
            host: upstream.hosts.first().cloned(),
        })
    }

    /// Returns the URL of the registry itself.
    pub(super) fn origin(&self) -> String {
        let host = if self.is_docker_hub() { "registry-1.docker.io" } else { &self.name };
        format!("https://{host}")
    }

    pub(super) fn is_docker_hub(&self) -> bool {
        self.name == "docker.io"
    }
}

impl ClientLogin {
    /// Returns the value of an `Authorization` field.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", self.encoded())
    }

    /// Returns the `auth` of docker's config.json.
    pub(super) fn encoded(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.name, self.password.expose()))
    }
}

/// Returns where `dockgate certificate` puts the certificate of its CA.
fn ca_candidates(config: &Config) -> Vec<PathBuf> {
    let folder = config.server.tls.as_ref().and_then(|tls| tls.default.certificate.parent());
    folder.map(|folder| vec![folder.join("client/ca.crt"), folder.join("ca.crt")]).unwrap_or_default()
}

fn read(file: &Path) -> Result<String, ClientConfigError> {
    std::fs::read_to_string(file).map_err(|error| ClientConfigError::File { file: file.to_owned(), error })
}

/// Returns a string in quotes, as TOML, YAML and JSON all read it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
