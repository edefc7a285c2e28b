//! The reasons why there are no files.

use std::io;
use std::path::PathBuf;

use crate::cli::user::PasswordError;
use crate::config::ConfigErrors;

/// The reason why there are no files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientConfigError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// No URL of the gateway is known.
    #[error(
        "clients need the gateway's URL: set server.external_url, or add --url https://registry.example.com:5000"
    )]
    NoUrl,
    /// The URL is malformed.
    #[error("--url {url:?} {why}")]
    Url {
        /// The URL.
        url: String,
        /// The defect.
        why: String,
    },
    /// The password could not be read.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A file of the client that is there has other content.
    #[error("{} is there with other content: move it away, or add what this command prints without --directory", .0.display())]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("{}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The output is closed.
    #[error(transparent)]
    Output(#[from] io::Error),
}

impl ClientConfigError {
    /// Returns 2 where the command line or the configuration is wrong, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoUrl | Self::Url { .. } => 2,
            Self::Password(_) | Self::Exists(_) | Self::File { .. } | Self::Output(_) => 1,
        }
    }
}
