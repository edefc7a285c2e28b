//! As whom an upstream is asked, and what is shown for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::authn::{Forwarded, Identity};
use crate::config;
use crate::config::{CredentialSource, Login, UserCredentials};

pub(crate) mod config_json;
mod credential_helper;
mod docker_config;
pub(crate) mod grant;
pub(crate) mod program;
pub(crate) mod server;

use credential_helper::Helper;
use docker_config::{DockerConfig, DockerConfigError};
pub(crate) use grant::Credential;
use program::{HelperError, Program};
use server::Server;

/// One of the identities that the gateway has at an upstream. Two of them never share a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum UpstreamIdentity {
    /// Nobody in particular.
    Anonymous,
    /// The gateway itself.
    Gateway,
    /// The identity of `users[N]`.
    User(usize),
    /// A client, by its own name and password.
    Client(Arc<Forwarded>),
}

impl std::fmt::Display for UpstreamIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Gateway => f.write_str("gateway"),
            Self::User(place) => write!(f, "users[{place}]"),
            Self::Client(client) => f.write_str(client.username()),
        }
    }
}

/// Why there are no credentials to show. Names the key that they should have come from, never what they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    /// The helper gave none.
    #[error("upstream.credentials.helper: {program}: {why}")]
    Helper {
        /// What the helper is called.
        program: String,
        /// What it did.
        why: HelperError,
    },
    /// The file gave none.
    #[error("upstream.credentials.docker_config: {}: {why}", .file.display())]
    DockerConfig {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: DockerConfigError,
    },
}

/// The credentials of one upstream.
#[derive(Debug)]
pub(crate) struct Credentials {
    upstream: String,
    users: Vec<UserCredentials>,
    source: Source,
}

/// [`CredentialSource`], with what has been got from it.
#[derive(Debug)]
enum Source {
    Anonymous,
    Login(Login),
    Helper(Helper),
    DockerConfig(DockerConfig),
    Forward,
}

impl Credentials {
    /// Reads nothing and runs nothing yet: the gateway starts without them.
    pub(crate) fn new(settings: &config::Upstream) -> Self {
        let config::Credentials { source, users } = &settings.credentials;
        let source = Source::new(source, Server::of(&settings.url));
        Self { upstream: settings.name.clone(), users: users.clone(), source }
    }

    /// As whom `identity` is asked for. Costs no more than matching its name.
    pub(crate) fn who(&self, identity: &Identity) -> UpstreamIdentity {
        match identity {
            Identity::Forwarded(client) if self.knows(client) => UpstreamIdentity::Client(client.clone()),
            Identity::User(name) => self.who_is(Some(name.as_str())),
            // Whom another upstream knows is nobody here.
            Identity::Anonymous | Identity::Forwarded(_) => self.who_is(None),
        }
    }

    /// What `who` shows. Reads the file again where it changed; runs the helper where its last answer is too old.
    ///
    /// # Errors
    /// [`CredentialError`] when the file or the helper gives nothing. Asked again at once it gives the same without
    /// running the helper.
    pub(crate) async fn grant(&self, who: &UpstreamIdentity) -> Result<Credential, CredentialError> {
        match who {
            UpstreamIdentity::Anonymous => Ok(Credential::Nothing),
            UpstreamIdentity::Gateway => self.source.grant().await,
            UpstreamIdentity::User(number) => {
                let user = self.users.get(*number);
                Ok(user.map_or(Credential::Nothing, |user| Credential::Password(user.login.clone())))
            }
            UpstreamIdentity::Client(client) => Ok(Credential::Password(login(client))),
        }
    }

    /// What `who` showed was refused: a helper is asked anew the next time, though never more often than every 10 s.
    pub(crate) fn refused(&self, who: &UpstreamIdentity) {
        match (who, &self.source) {
            (UpstreamIdentity::Gateway, Source::Helper(helper)) => helper.refused(),
            (UpstreamIdentity::Gateway, Source::DockerConfig(file)) => file.refused(),
            _ => {}
        }
    }

    fn knows(&self, client: &Forwarded) -> bool {
        matches!(self.source, Source::Forward) && client.upstream() == self.upstream
    }

    /// The first entry that is for the user decides; None is nobody in particular.
    fn who_is(&self, user: Option<&str>) -> UpstreamIdentity {
        let is_for = |entry: &UserCredentials| entry.users.iter().any(|pattern| pattern.matches(user));
        self.users.iter().position(is_for).map_or_else(|| self.source.who(), UpstreamIdentity::User)
    }
}

impl Source {
    fn new(source: &CredentialSource, server: Server) -> Self {
        match source {
            CredentialSource::Anonymous => Self::Anonymous,
            CredentialSource::Login(login) => Self::Login(login.clone()),
            CredentialSource::Helper(name) => {
                Self::Helper(Helper::new(Program::new(Path::new(""), name), server.key()))
            }
            CredentialSource::DockerConfig(path) => Self::DockerConfig(DockerConfig::new(path, server)),
            CredentialSource::Forward => Self::Forward,
        }
    }

    /// As whom it lets those be asked for that nothing else is for.
    fn who(&self) -> UpstreamIdentity {
        match self {
            Self::Anonymous | Self::Forward => UpstreamIdentity::Anonymous,
            Self::Login(_) | Self::Helper(_) | Self::DockerConfig(_) => UpstreamIdentity::Gateway,
        }
    }

    async fn grant(&self) -> Result<Credential, CredentialError> {
        match self {
            Self::Anonymous | Self::Forward => Ok(Credential::Nothing),
            Self::Login(login) => Ok(Credential::Password(login.clone())),
            Self::Helper(helper) => {
                let failed = |why| CredentialError::Helper { program: helper.program(), why };
                helper.grant().await.map_err(failed)
            }
            Self::DockerConfig(file) => file.grant().await,
        }
    }
}

fn login(client: &Forwarded) -> Login {
    Login { username: client.username().to_owned(), password: client.password().clone() }
}

#[cfg(test)]
mod tests;
