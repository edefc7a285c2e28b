//! The ways in which a probe does not take place.

use std::io;

use crate::cli::probe::image::ProbeTargetError;
use crate::cli::user::PasswordError;
use crate::config::ConfigErrors;
use crate::upstream::{CredentialError, TlsSettingsError};

/// The reason why nothing was probed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// Neither image nor URL.
    #[error(transparent)]
    ProbeTarget(#[from] ProbeTargetError),
    /// The registry's URL, the variables, or what else was written can't be used.
    #[error("{0}")]
    Usage(String),
    /// The configuration can't be read.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The files for TLS can't be used.
    #[error("{0}")]
    Tls(#[from] TlsSettingsError),
    /// There is no password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// There should be credentials and are none.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The answer could not be written, or nothing be started.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ProbeError {
    /// Returns 2 for a mistake in what was written, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::ProbeTarget(_) | Self::Usage(_) | Self::Config(_) | Self::Tls(_) => 2,
            Self::Password(_) | Self::Credentials(_) | Self::Io(_) => 1,
        }
    }
}
