//! The identity that an upstream sees, and the credentials of each.

use std::path::Path;

use crate::config;
use crate::config::{CredentialSource, Group, Login, UserCredentials};
use crate::proto::identity::{Forwarded, Identity};
use crate::upstream::auth::credentials::credential::Credential;
use crate::upstream::auth::credentials::credential_helper::CredentialHelper;
use crate::upstream::auth::credentials::docker_config::DockerConfig;
use crate::upstream::auth::credentials::error::CredentialError;
use crate::upstream::auth::credentials::program::HelperProgram;
use crate::upstream::auth::credentials::server::StoreKey;
use crate::upstream::auth::identity::UpstreamIdentity;

/// The credentials of one upstream.
#[derive(Debug)]
pub(crate) struct Credentials {
    upstream: String,
    users: Vec<UserCredentials>,
    source: Source,
}

/// A [`CredentialSource`] with what has been read from it.
#[derive(Debug)]
enum Source {
    Anonymous,
    Login(Login),
    Helper(CredentialHelper),
    DockerConfig(DockerConfig),
    Forward,
}

impl Credentials {
    /// Creates the credentials that `settings` name. Reads nothing and runs nothing yet: the gateway starts without them.
    pub(crate) fn new(settings: &config::Upstream) -> Self {
        let config::Credentials { source, users } = &settings.credentials;
        let source = Source::new(source, StoreKey::of(&settings.url));
        Self { upstream: settings.name.clone(), users: users.clone(), source }
    }

    /// Creates the credentials that a helper gives.
    #[cfg(test)]
    pub(crate) fn of_helper(program: HelperProgram) -> Self {
        let helper = CredentialHelper::new(program, "r.example");
        Self { upstream: String::new(), users: Vec::new(), source: Source::Helper(helper) }
    }

    /// Returns the identity that the upstream sees for `identity`, which its provider says is in `groups`. Costs no more than
    /// matching its name.
    pub(crate) fn identify(&self, identity: &Identity, groups: &[Box<str>]) -> UpstreamIdentity {
        match identity {
            Identity::Forwarded(client) if self.knows(client) => UpstreamIdentity::Client(client.clone()),
            Identity::User(_) | Identity::Robot(_) | Identity::Workload(_) | Identity::Certificate(_) => {
                self.identify_user(Some(identity.name()), groups)
            }
            // A login for another upstream counts for nothing here.
            Identity::Anonymous | Identity::Forwarded(_) => self.identify_user(None, &[]),
        }
    }

    /// Returns the credential of `identity`. Reads the file again where it changed; runs the helper where its last answer
    /// is too old.
    ///
    /// # Errors
    /// [`CredentialError`] when the file or the helper gives nothing. Asked again at once it gives the same without
    /// running the helper.
    pub(crate) async fn credential(
        &self,
        identity: &UpstreamIdentity,
    ) -> Result<Credential, CredentialError> {
        match identity {
            UpstreamIdentity::Anonymous => Ok(Credential::Nothing),
            UpstreamIdentity::Gateway => self.source.credential().await,
            UpstreamIdentity::User(number) => {
                let user = self.users.get(*number);
                Ok(user.map_or(Credential::Nothing, |user| Credential::Password(user.login.clone())))
            }
            UpstreamIdentity::Client(client) => Ok(Credential::Password(login(client))),
        }
    }

    /// Notes that the upstream refused the credential of `identity`: a helper is asked anew the next time, though never
    /// more often than every 10 s.
    pub(crate) fn refused(&self, identity: &UpstreamIdentity) {
        match (identity, &self.source) {
            (UpstreamIdentity::Gateway, Source::Helper(helper)) => helper.refused(),
            (UpstreamIdentity::Gateway, Source::DockerConfig(file)) => file.refused(),
            _ => {}
        }
    }

    fn knows(&self, client: &Forwarded) -> bool {
        matches!(self.source, Source::Forward) && client.upstream() == self.upstream
    }

    /// Returns the identity of the first entry that is for the user; `None` is an anonymous client.
    fn identify_user(&self, user: Option<&str>, groups: &[Box<str>]) -> UpstreamIdentity {
        let is_member = |group: &Group| {
            groups.iter().any(|own| **own == *group.name) || group.members.iter().any(|one| one.matches(user))
        };
        let is_for = |entry: &UserCredentials| {
            entry.users.iter().any(|pattern| pattern.matches(user)) || entry.groups.iter().any(is_member)
        };
        self.users.iter().position(is_for).map_or_else(|| self.source.identity(), UpstreamIdentity::User)
    }
}

impl Source {
    fn new(source: &CredentialSource, server: StoreKey) -> Self {
        match source {
            CredentialSource::Anonymous => Self::Anonymous,
            CredentialSource::Login(login) => Self::Login(login.clone()),
            CredentialSource::Helper(name) => {
                Self::Helper(CredentialHelper::new(HelperProgram::new(Path::new(""), name), server.key()))
            }
            CredentialSource::DockerConfig(path) => Self::DockerConfig(DockerConfig::new(path, server)),
            CredentialSource::Forward => Self::Forward,
        }
    }

    /// Returns the identity of clients that no entry of `users` is for.
    fn identity(&self) -> UpstreamIdentity {
        match self {
            Self::Anonymous | Self::Forward => UpstreamIdentity::Anonymous,
            Self::Login(_) | Self::Helper(_) | Self::DockerConfig(_) => UpstreamIdentity::Gateway,
        }
    }

    async fn credential(&self) -> Result<Credential, CredentialError> {
        match self {
            Self::Anonymous | Self::Forward => Ok(Credential::Nothing),
            Self::Login(login) => Ok(Credential::Password(login.clone())),
            Self::Helper(helper) => {
                let failed = |why| CredentialError::Helper { program: helper.program(), why };
                helper.credential().await.map_err(failed)
            }
            Self::DockerConfig(file) => file.credential().await,
        }
    }
}

fn login(client: &Forwarded) -> Login {
    Login { username: client.username().to_owned(), password: client.password().clone() }
}

#[cfg(test)]
mod tests;
