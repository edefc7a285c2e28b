//! Authentication: credentials to an identity.
//!
//! The way of a password: [`Authenticator`] reads the `Authorization` header, [`verifier::Verifier`] looks at what it
//! remembers, then at the throttle, and only then has the password checked on one of a few low-priority
//! threads. Passwords are expensive, requests are not.
//!
//! Where an upstream judges, [`UpstreamLogins`] does the same with its judgement in place of the check.
//!
//! [`AccessTokens`] issues the gateway's own tokens and verifies them. [`Workloads`] verifies those of other issuers.

mod access_tokens;
mod authenticator;
mod bcrypt_pool;
pub(crate) mod htpasswd;
mod login_addresses;
mod memory;
mod oidc;
mod password_checks;
mod rejection_floor;
mod throttle;
mod upstream_logins;
mod verifier;

pub(crate) use crate::authn::upstream_logins::{Judgement, Undecided, UpstreamLogins};
pub(crate) use access_tokens::{
    AccessTokens, Holder, Issued, KeyFileError, OpenError, Proof, Refusal, Reread, rotate,
};
pub use authenticator::Authenticator;
pub(crate) use authenticator::Failure;
pub use htpasswd::HtpasswdFile;
pub(crate) use htpasswd::Reload;
pub(crate) use oidc::{FetchKeys, Provider, TokenRefusal, Workload, Workloads};
pub(crate) use password_checks::{PasswordCheck, PasswordChecks};
