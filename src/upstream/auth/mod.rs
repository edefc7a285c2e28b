//! Answers an upstream's challenges.

pub(crate) mod challenge;
pub(crate) mod credentials;
pub(crate) mod guest_tokens;
pub(crate) mod identity;
pub(crate) mod lockout;
pub(crate) mod login;
pub(crate) mod scheme;
pub(crate) mod scope;
pub(crate) mod token;
