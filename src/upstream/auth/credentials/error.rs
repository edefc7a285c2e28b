//! Errors of credential sources.

use std::path::PathBuf;

use crate::upstream::auth::credentials::config_json::DockerConfigError;
use crate::upstream::auth::credentials::program::HelperError;

/// The reason why there are no credentials. Names the configuration key, never the credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    /// The helper gave none.
    #[error("upstream.credentials.helper: {program}: {why}")]
    Helper {
        /// The helper's file name.
        program: String,
        /// Why it gave none.
        why: HelperError,
    },
    /// The file gave none.
    #[error("upstream.credentials.docker_config: {}: {why}", .file.display())]
    DockerConfig {
        /// The file.
        file: PathBuf,
        /// The defect.
        why: DockerConfigError,
    },
}
