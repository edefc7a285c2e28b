//! `[server.tls]`: certificates and their keys.

use std::path::PathBuf;

use crate::config::acme;
use crate::config::acme::Acme;
use crate::config::key_pair;
use crate::config::key_pair::KeyPair;
use crate::config::reader::Reader;
use crate::config::reference::Reference;
use crate::config::schema::{Key, Kind, key};

/// The gateway's certificate, and the CA of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// For clients that name no server, or one that no other certificate is for. With `acme`, the file that it writes, which
    /// may be missing.
    pub default: KeyPair,
    /// The server that issues it; None: the operator does.
    pub acme: Option<Acme>,
    /// Further certificates, chosen by server name.
    pub sni: Vec<KeyPair>,
    /// PEM of the authorities whose certificates clients may show; none: none are asked for.
    pub client_ca: Option<PathBuf>,
}

pub(super) const KEYS: &[Key] = &[
    key("certificate", Kind::Text),
    key("key", Kind::Text),
    key("acme", Kind::Table(acme::KEYS)),
    key("sni", Kind::Tables(key_pair::KEYS)),
    key("client_ca", Kind::Text),
];

pub(super) fn read(tls: &Reader<'_>) -> Option<Tls> {
    let sni = tls.tables("sni").iter().filter_map(key_pair::of_listener).collect();
    let client_ca = tls.file("client_ca").map(|file| {
        let path = file.path.clone();
        tls.context.refer(Reference::ClientCa(file));
        path
    });
    let (default, acme) = default(tls)?;
    Some(Tls { default, acme, sni, client_ca })
}

/// Reads the certificate of clients that name no server.
fn default(tls: &Reader<'_>) -> Option<(KeyPair, Option<Acme>)> {
    let Some(table) = tls.optional("acme") else {
        return key_pair::of_listener(tls).map(|pair| (pair, None));
    };
    let acme = acme::read(&table);
    for name in ["certificate", "key"].into_iter().filter(|name| tls.text(name).is_some()) {
        tls.wrong(name, "stands beside [server.tls.acme], which makes its own; remove one of them");
    }
    acme.map(|acme| (acme.pair(), Some(acme)))
}
