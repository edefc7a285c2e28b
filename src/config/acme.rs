//! `[server.tls.acme]`: a certificate that the gateway gets from an ACME server (RFC 8555) by itself.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::context::Context;
use crate::config::environment::Environment;
use crate::config::host::is_dialled;
use crate::config::key_pair::KeyPair;
use crate::config::limits;
use crate::config::reader::Reader;
use crate::config::reference::{Located, Reference};
use crate::config::schema::{Key, Kind, key};
use crate::config::upstream;
use crate::config::upstream::Upstream;
use crate::config::value_error::ValueError;
use crate::proto::Authority;

/// The certificate that is wanted, and the server that issues it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The names of the certificate, in lower case; at least one, none twice.
    pub domains: Vec<String>,
    /// The address that the server may write to.
    pub email: Option<String>,
    /// The URL of the server's directory (RFC 8555 section 7.1.1).
    pub directory: String,
    /// The host of that URL.
    pub server: Box<Upstream>,
    /// The folder of the account and the certificate.
    pub path: PathBuf,
}

impl Acme {
    /// Returns the file that holds both the certificate and its key, so that no reader finds one without the other.
    pub(super) fn pair(&self) -> KeyPair {
        let file = self.path.join("certificate.pem");
        KeyPair { certificate: file.clone(), key: file }
    }
}

pub(super) const KEYS: &[Key] = &[
    key("domains", Kind::OneOrMore),
    key("email", Kind::Text),
    key("directory", Kind::Text),
    key("path", Kind::Text),
    key("ca", Kind::Text),
];

/// Has the server asked by way of the proxy that the variables name.
pub(super) fn take_proxy(acme: Option<&mut Acme>, environment: &Environment, context: &Context) {
    if let Some(acme) = acme {
        upstream::take_proxy(std::slice::from_mut(&mut acme.server), environment, context);
    }
}

/// Reads the table `acme` of `tls`.
pub(super) fn read(acme: &Reader<'_>) -> Option<Acme> {
    let (domains, email) = (domains(acme), acme.text("email").and_then(|item| item.parsed(email)));
    let (server, path) = (server(acme), path(acme));
    let (directory, server) = server?;
    Some(Acme { domains: domains?, email, directory, server, path })
}

fn domains(acme: &Reader<'_>) -> Option<Vec<String>> {
    let items = acme.texts("domains");
    if items.is_empty() && !acme.is_broken("domains") {
        let advice = acme.advice("domains = [\"registry.example.com\"]");
        acme.wrong("domains", format!("a certificate needs a name; {advice}"));
    }
    let mut domains: Vec<String> = Vec::new();
    for item in &items {
        let name = item.parsed(domain)?;
        if domains.contains(&name) {
            item.wrong(ValueError::value("stands there twice; remove one of them"));
            return None;
        }
        domains.push(name);
    }
    (!domains.is_empty()).then_some(domains)
}

/// Checks a name for which a server can ask at the gateway's own port (TLS-ALPN-01, RFC 8737).
fn domain(written: &str) -> Result<String, ValueError> {
    if written.starts_with("*.") {
        return Err(ValueError::value(
            "is a wildcard, for which an ACME server wants a DNS record (DNS-01); write each name, or use another ACME client \
             and [server.tls] with certificate and key",
        ));
    }
    let name = written.trim_end_matches('.').to_ascii_lowercase();
    if name.parse::<IpAddr>().is_ok() || !name.contains('.') {
        return Err(ValueError::value("is not a domain name; write for example \"registry.example.com\""));
    }
    let is_name = |label: &str| !label.is_empty() && label.len() <= LABEL && !label.starts_with('-');
    let is_host = Authority::parse(&name).is_ok_and(|parsed| parsed.port.is_none() && parsed.host == name);
    if !is_host || name.len() > NAME || !name.split('.').all(is_name) {
        return Err(ValueError::value("is not a domain name; write for example \"registry.example.com\""));
    }
    Ok(name)
}

/// The longest label and the longest name of the DNS (RFC 1035 section 2.3.4).
const LABEL: usize = 63;
const NAME: usize = 253;

fn email(written: &str) -> Result<String, ValueError> {
    let written = written.strip_prefix("mailto:").unwrap_or(written);
    let is_plain = written.bytes().all(|byte| byte.is_ascii_graphic() && !b",?\"<>".contains(&byte));
    let parts = written.split_once('@').filter(|(name, host)| !name.is_empty() && host.contains('.'));
    if parts.is_none() || !is_plain {
        return Err(ValueError::value("is not an address; write for example \"ops@example.com\""));
    }
    Ok(written.to_owned())
}

/// Returns the URL of the directory, and its host.
fn server(acme: &Reader<'_>) -> Option<(String, Box<Upstream>)> {
    let ca = acme.file("ca").map(|file| {
        let path = file.path.clone();
        acme.context.refer(Reference::Ca(file));
        path
    });
    let written = acme.text("directory");
    let url = match &written {
        Some(item) => item.parsed(directory)?,
        None => limits::ACME_DIRECTORY.to_owned(),
    };
    let server = Upstream::of_documents(&url, ca, acme)?;
    Some((url, Box::new(server)))
}

fn directory(written: &str) -> Result<String, ValueError> {
    if !is_dialled(written) {
        return Err(ValueError::Value(format!(
            "is no https:// URL; write for example {:?}",
            limits::ACME_DIRECTORY
        )));
    }
    Ok(written.to_owned())
}

/// Returns the folder, of which other users must not even read.
fn path(acme: &Reader<'_>) -> PathBuf {
    let written = acme.text("path");
    let folder = written.map_or_else(|| default_path(acme), |item| item.located(item.path()));
    let path = folder.path.clone();
    acme.context.refer(Reference::PrivateFolder(folder));
    path
}

fn default_path(acme: &Reader<'_>) -> Located {
    let (path, place) = (Path::new(limits::ACME_PATH).to_owned(), acme.place().clone());
    Located { path, place, key: "server.tls.acme.path".to_owned() }
}
