//! The credentials of one upstream: from the configuration, from a credential helper, from a docker `config.json`.

pub(crate) mod config_json;
mod credential;
mod credential_helper;
mod docker_config;
mod error;
pub(crate) mod program;
pub(crate) mod server;
mod source;

pub(crate) use credential::Credential;
pub(crate) use error::CredentialError;
pub(crate) use source::Credentials;
