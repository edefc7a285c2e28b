//! The server's side of TLS: certificates by name, re-read when their files change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::clock;
use crate::config::{KeyPair, Tls};
use crate::file_stamp::Stamp;
use crate::x509::{Certificate, Chain, Keys, PairError, pair};

/// A certificate or key that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{} {reason}", path.display())]
pub struct CertificateError {
    path: PathBuf,
    reason: String,
}

/// The certificates that are served, and the TLS settings around them.
///
/// The settings outlive a change of the certificates, and with them the key of the session tickets. A change of the authorities
/// of clients makes new ones: a resumed session would show no certificate again. Connections that have shown one are checked
/// again with their next request.
pub(crate) struct Certificates {
    files: Tls,
    stamps: Mutex<Stamps>,
    table: Arc<Table>,
    config: TlsSettings,
}

/// The settings for handshakes, as they are in force.
pub(crate) type TlsSettings = Arc<ArcSwap<Handshakes>>;

/// The settings for handshakes, and the authorities of clients that are trusted by them.
#[derive(Debug)]
pub(crate) struct Handshakes {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Handshakes {
    /// Returns the settings.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Returns true if a client that showed this chain in a handshake now would be let in.
    pub(super) fn trust(&self, chain: &[CertificateDer<'_>]) -> bool {
        let (Some(clients), Some((own, above))) = (&self.clients, chain.split_first()) else { return false };
        let Ok(since) = clock::wall().duration_since(UNIX_EPOCH) else { return false };
        clients.verify_client_cert(own, above, UnixTime::since_unix_epoch(since)).is_ok()
    }
}

/// The state of the files when they were read.
#[derive(PartialEq, Eq)]
struct Stamps {
    pairs: Vec<Stamp>,
    client_ca: Option<Stamp>,
}

impl Certificates {
    /// Reads the certificates and keys of `files`.
    ///
    /// # Errors
    /// Names the file that can't be read, or whose key does not fit.
    pub(crate) fn open(files: &Tls) -> Result<Self, CertificateError> {
        let stamps = Mutex::new(Stamps::of(files));
        let table = Arc::new(Table(ArcSwap::from_pointee(Entries::load(files)?)));
        let config = Arc::new(ArcSwap::from_pointee(settings(files, &table)?));
        Ok(Self { files: files.clone(), stamps, table, config })
    }

    /// Returns the settings for handshakes.
    pub(crate) fn config(&self) -> TlsSettings {
        self.config.clone()
    }

    /// Returns the names of the certificates in force, which are the hosts that are served.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = self.table.0.load();
        let all = std::iter::once(&entries.default).chain(entries.named.iter().map(|entry| &entry.key));
        all.filter_map(|key| key.cert.first()).flat_map(names).collect()
    }

    /// Reads the files again if any has changed. Returns true if new certificates are now in force.
    ///
    /// # Errors
    /// When the new ones can't be used. The old stay in force, and the same files are not tried again.
    pub(crate) fn reload_if_changed(&self) -> Result<bool, CertificateError> {
        let now = Stamps::of(&self.files);
        let same_client_ca = {
            let mut known = self.stamps.lock();
            if *known == now {
                return Ok(false);
            }
            std::mem::replace(&mut *known, now).client_ca == known.client_ca
        };
        let entries = Entries::load(&self.files)?;
        let settings = if same_client_ca { None } else { Some(settings(&self.files, &self.table)?) };
        self.table.0.store(Arc::new(entries));
        if let Some(settings) = settings {
            self.config.store(Arc::new(settings));
        }
        Ok(true)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Stamps {
    fn of(files: &Tls) -> Self {
        let pairs = std::iter::once(&files.default).chain(&files.sni);
        Self {
            pairs: pairs.flat_map(|pair| [Stamp::of(&pair.certificate), Stamp::of(&pair.key)]).collect(),
            client_ca: files.client_ca.as_deref().map(Stamp::of),
        }
    }
}

fn settings(files: &Tls, table: &Arc<Table>) -> Result<Handshakes, CertificateError> {
    let clients = files.client_ca.as_ref().map(client_verifier).transpose()?;
    let config = server_config(table.clone(), clients.clone()).map_err(|error| CertificateError {
        path: files.default.certificate.clone(),
        reason: format!("cannot be used: {error}"),
    })?;
    Ok(Handshakes { config: Arc::new(config), clients })
}

/// Returns the settings: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, session tickets.
fn server_config(
    table: Arc<Table>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(table);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A record with its overhead then fills 16 KiB exactly. One byte more would cost a slow reader another buffer.
    config.max_fragment_size = Some(16 * 1024 - 17);
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

/// Returns the verifier of clients' certificates. A client may show none: then its requests say who it is.
fn client_verifier(path: &PathBuf) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let wrong = |reason: String| CertificateError { path: path.clone(), reason };
    let file = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    for (line, certificate) in Chain::parse(&file).map_err(wrong)?.into_certificates() {
        roots.add(certificate).map_err(|error| wrong(format!("cannot be used: line {line}: {error}")))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.allow_unauthenticated().build().map_err(|error| wrong(format!("cannot be used: {error}")))
}

/// The certificates, chosen by the name that the client asks for (RFC 6066 section 3).
#[derive(Debug)]
struct Table(ArcSwap<Entries>);

#[derive(Debug)]
struct Entries {
    default: Arc<CertifiedKey>,
    named: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Table {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let entries = self.0.load();
        let named = hello.server_name().and_then(|name| entries.find(name));
        Some(named.unwrap_or(&entries.default).clone())
    }
}

impl Entries {
    fn load(files: &Tls) -> Result<Self, CertificateError> {
        let default = Arc::new(load_pair(&files.default)?);
        let named = files.sni.iter().map(Entry::load).collect::<Result<_, _>>()?;
        Ok(Self { default, named })
    }

    /// Finds the certificate for a name. An exact name wins over a wildcard.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let exact = self.named.iter().find(|entry| entry.names.iter().any(|known| known == name));
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let covers = |known: &String| known.strip_prefix("*.").is_some_and(|suffix| Some(suffix) == parent);
        let wild = || self.named.iter().find(|entry| entry.names.iter().any(covers));
        exact.or_else(wild).map(|entry| &entry.key)
    }
}

impl Entry {
    fn load(pair: &KeyPair) -> Result<Self, CertificateError> {
        let key = load_pair(pair)?;
        let names = key.cert.first().map(names).unwrap_or_default();
        Ok(Self { names, key: Arc::new(key) })
    }
}

fn load_pair(files: &KeyPair) -> Result<CertifiedKey, CertificateError> {
    let wrong = |path: &PathBuf, reason: String| CertificateError { path: path.clone(), reason };
    let read =
        |path: &PathBuf| std::fs::read(path).map_err(|error| wrong(path, format!("cannot be read: {error}")));
    let chain = Chain::parse(&read(&files.certificate)?).map_err(|why| wrong(&files.certificate, why))?;
    let keys = Keys::parse(&read(&files.key)?).map_err(|why| wrong(&files.key, why))?;
    pair(chain, &keys).map_err(|error| match error {
        PairError::Certificate(why) => wrong(&files.certificate, why),
        PairError::Key(why) => wrong(&files.key, why),
        PairError::Mismatch => {
            wrong(&files.key, format!("is not the key of the certificate {}", files.certificate.display()))
        }
    })
}

/// Returns the names that a certificate is for: host names in lower case, wildcards included, and addresses.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    Certificate::parse(certificate).map(|read| read.names).unwrap_or_default()
}
