//! The registries behind the gateway: connections to them, credentials for them, and answers that hold.

pub(crate) mod answer;
pub(crate) mod auth;
mod counters;
mod documents;
pub(crate) mod egress;
pub(crate) mod error;
pub(crate) mod exchange;
mod manifest_heads;
pub(crate) mod operation;
pub(crate) mod probe;
pub(crate) mod rate_limit;
pub(crate) mod redirect;
pub(crate) mod registry;
pub(crate) mod resume;
pub(crate) mod said;
mod storage_circuit;
pub(crate) mod transport;

pub(crate) use crate::upstream::auth::credentials::CredentialError;
pub(crate) use crate::upstream::auth::login::LoginAnswer;
pub(crate) use crate::upstream::auth::scope::RequiredScope;
pub(crate) use crate::upstream::documents::DocumentClient;
pub(crate) use crate::upstream::egress::{EgressError, GatewayNames};
pub(crate) use crate::upstream::transport::backoff::retry_after;
pub(crate) use crate::upstream::transport::connect::{CertificateFault, DialError, TlsSettingsError};
pub(crate) use error::{Error, TokenError, Unauthorized};
pub(crate) use exchange::{Purpose, Request, Response};
pub(crate) use operation::{DOCKER_CONTENT_DIGEST, method_of};
pub(crate) use probe::{Probe, ProbeAuthorization, ProbeDestination};
pub(crate) use rate_limit::RateLimit;
pub(crate) use registry::Upstream;
