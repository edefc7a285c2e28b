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

/// What a file is named for.
#[derive(Debug, Clone)]
pub(super) enum Reference {
    Htpasswd(Located),
    Ca(Located),
    Pair {
        certificate: Located,
        key: Located,
    },
    /// What an upstream is shown: not for the gateway to make.
    ClientPair {
        certificate: Located,
        key: Located,
    },
    DockerConfig(Located),
    /// Where something is kept; made when it is missing.
    Folder(Located),
}

impl Reference {
    /// The files, if it is an upstream that they are for. The others are watched by those who use them.
    pub(super) fn of_upstream(&self) -> Vec<&Located> {
        match self {
            Self::Ca(file) | Self::DockerConfig(file) => vec![file],
            Self::ClientPair { certificate, key } => vec![certificate, key],
            Self::Htpasswd(_) | Self::Pair { .. } | Self::Folder(_) => Vec::new(),
        }
    }
}
