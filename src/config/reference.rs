//! The files that a configuration names.

use std::path::PathBuf;

use crate::config::mistake::Place;

/// A file, and where the configuration names it.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) path: PathBuf,
    pub(super) place: Place,
    pub(super) key: String,
}

/// A file by its purpose.
#[derive(Debug, Clone)]
pub(super) enum Reference {
    Htpasswd(Located),
    /// The token service's keys, which are made when they are missing.
    TokenKey(Located),
    Revoked(Located),
    Ca(Located),
    /// The keys of an issuer.
    KeySet(Located),
    /// The authorities of clients.
    ClientCa(Located),
    Pair {
        certificate: Located,
        key: Located,
    },
    /// The client certificate for an upstream: no command of ours makes it.
    ClientPair {
        certificate: Located,
        key: Located,
    },
    DockerConfig(Located),
    /// A folder that is made when it is missing.
    Folder(Located),
    /// Likewise, one that other users must not change.
    PrivateFolder(Located),
}

impl Reference {
    /// Returns the files, if it is an upstream that they are for. The others are watched by those who use them.
    pub(super) fn of_upstream(&self) -> Vec<&Located> {
        match self {
            Self::Ca(file) | Self::KeySet(file) | Self::DockerConfig(file) => vec![file],
            Self::ClientPair { certificate, key } => vec![certificate, key],
            Self::Htpasswd(_)
            | Self::TokenKey(_)
            | Self::Revoked(_)
            | Self::ClientCa(_)
            | Self::Pair { .. }
            | Self::Folder(_)
            | Self::PrivateFolder(_) => Vec::new(),
        }
    }
}
