//! Who is asking: credentials to an identity.
//!
//! The way of a password: [`Authenticator`] reads the `Authorization` header, [`Verifier`] looks at what it
//! remembers, then at the throttle, and only then has the password checked on one of a few low-priority
//! threads. Passwords are expensive, requests are not.
//!
//! Where an upstream judges, [`Forwarding`] does the same with its judgement in place of the check.

mod authenticator;
mod checks;
mod forwarding;
pub mod htpasswd;
mod identity;
mod memory;
mod pace;
mod peer;
mod throttle;
mod verifier;

pub use authenticator::{Authenticator, Failure};
pub use forwarding::{Forwarding, Judgement};
pub use htpasswd::{Htpasswd, HtpasswdFile, Reload};
pub use identity::{Forwarded, Identity, NameError, UserName};
pub use verifier::{Outcome, Verifier};
