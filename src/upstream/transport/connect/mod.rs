//! Dials: resolves, filters, connects to the addresses that passed, and starts TLS where the URL says https.
//!
//! Nothing is dialled but a [`Destination`](crate::upstream::egress::Destination), which says which addresses its host may have and whether a proxy is on the way. A
//! name is resolved once: what was checked is what is connected to, so that no second answer can slip in between.

mod dialer;
mod error;
mod fault;
mod tcp;
mod tls;
mod tunnel;
mod verifier;

pub(crate) use dialer::{Connected, Dialer};
pub(crate) use error::{DialError, TlsSettingsError};
pub(crate) use fault::CertificateFault;
pub(crate) use tls::Protocols;
