//! A certificate with its key, as two PEM files.

use std::path::PathBuf;

use crate::config::reader::Reader;
use crate::config::reference::{Located, Reference};
use crate::config::schema::{Key, Kind, key};

/// A certificate with the key that belongs to it, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

pub(super) const KEYS: &[Key] = &[key("certificate", Kind::Text), key("key", Kind::Text)];

/// Reads the certificate that a listener shows, and its key.
pub(super) fn of_listener(table: &Reader<'_>) -> Option<KeyPair> {
    let certificate = required(table, "certificate", "certs/domain.crt");
    let key = required(table, "key", "certs/domain.key");
    let (certificate, key) = (certificate?, key?);
    let pair = KeyPair { certificate: certificate.path.clone(), key: key.path.clone() };
    table.context.refer(Reference::Pair { certificate, key });
    Some(pair)
}

/// Reads the client certificate for an upstream, where both of its files are named.
pub(super) fn of_upstream(upstream: &Reader<'_>) -> Option<KeyPair> {
    let names = ["client_certificate", "client_key"];
    if names.iter().all(|name| upstream.text(name).is_none()) {
        return None;
    }
    let certificate = required(upstream, "client_certificate", "certs/client.crt");
    let key = required(upstream, "client_key", "certs/client.key");
    let (certificate, key) = (certificate?, key?);
    let pair = KeyPair { certificate: certificate.path.clone(), key: key.path.clone() };
    upstream.context.refer(Reference::ClientPair { certificate, key });
    Some(pair)
}

fn required(table: &Reader<'_>, name: &str, example: &str) -> Option<Located> {
    let file = table.file(name);
    if file.is_none() && !table.is_broken(name) {
        table.wrong(name, format!("a file is needed; {}", table.advice(&format!("{name} = \"{example}\""))));
    }
    file
}
