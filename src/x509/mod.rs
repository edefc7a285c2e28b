//! Certificates and keys, read from PEM files as openssl, CAs and people write them, with errors that name the line.

mod certificate;
mod client_certificate;
mod der;
mod key_kind;
mod pair;
mod pem;

pub(crate) use certificate::Certificate;
pub(crate) use client_certificate::{ClientCertificate, NameKind};
pub(crate) use pair::{Chain, Keys, PairError, pair};
pub(crate) use pem::{Block, blocks};
