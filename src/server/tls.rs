//! The server's side of TLS: certificates by name, re-read when their files change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

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
use crate::proto::Fingerprint;
use crate::server::alpn_challenges::{ACME_TLS, AlpnChallenges};
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
    /// An issued certificate has come into force that [`Certificates::reload_if_changed`] has not told of.
    untold: AtomicBool,
    table: Arc<Table>,
    config: TlsSettings,
}

/// A certificate that is served.
#[derive(Clone, Debug)]
pub(crate) struct CertificateInForce {
    /// Its file.
    pub(crate) file: PathBuf,
    /// The host names and addresses that it is for.
    pub(crate) names: Vec<String>,
    /// The end of its validity.
    pub(crate) not_after: SystemTime,
}

/// The settings for handshakes, as they are in force.
pub(crate) type TlsSettings = Arc<ArcSwap<Handshakes>>;

/// The settings for handshakes, and the authorities of clients that are trusted by them.
#[derive(Debug)]
pub(crate) struct Handshakes {
    config: Arc<ServerConfig>,
    clients: Option<Authorities>,
}

/// The authorities of clients.
#[derive(Debug)]
struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    fingerprint: Fingerprint,
}

/// Returns settings that never change, for a listener whose clients are let in by one key.
pub(crate) fn pinned(config: Arc<ServerConfig>) -> TlsSettings {
    Arc::new(ArcSwap::from_pointee(Handshakes { config, clients: None }))
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
        clients.verifier.verify_client_cert(own, above, UnixTime::since_unix_epoch(since)).is_ok()
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
        let default = load_default(files).or_else(|error| reissued(files, error))?;
        let entries = ArcSwap::from_pointee(Entries::load(files, default)?);
        let untold = AtomicBool::new(false);
        let table = Arc::new(Table { entries, challenges: AlpnChallenges::default() });
        let config = Arc::new(ArcSwap::from_pointee(settings(files, &table)?));
        Ok(Self { files: files.clone(), stamps, untold, table, config })
    }

    /// Returns the settings for handshakes.
    pub(crate) fn config(&self) -> TlsSettings {
        self.config.clone()
    }

    /// Returns the fingerprint of the authorities of clients, if clients are asked for certificates.
    pub(crate) fn client_authorities(&self) -> Option<Fingerprint> {
        self.config.load().clients.as_ref().map(|clients| clients.fingerprint)
    }

    /// Returns the certificates that are shown to a validating ACME server.
    pub(crate) fn challenges(&self) -> AlpnChallenges {
        self.table.challenges.clone()
    }

    /// Returns the names of the certificates in force, which are the hosts that are served, and those of the certificate that
    /// is yet to be issued.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = self.table.entries.load();
        let all = entries.default.iter().chain(entries.named.iter().map(|entry| &entry.key));
        let certified = all.filter_map(|key| key.cert.first()).flat_map(names);
        let wanted = self.files.acme.iter().flat_map(|acme| acme.domains.iter().cloned());
        certified.chain(wanted).collect()
    }

    /// Returns the certificates in force, each with its file, for the operator.
    pub(crate) fn in_force(&self) -> Vec<CertificateInForce> {
        let entries = self.table.entries.load();
        let default = entries.default.iter().map(|key| (key, &self.files.default));
        let named = entries.named.iter().map(|entry| &entry.key).zip(&self.files.sni);
        let read = |(key, files): (&Arc<CertifiedKey>, &KeyPair)| {
            let Certificate { names, not_after, .. } = Certificate::parse(key.cert.first()?)?;
            Some(CertificateInForce { file: files.certificate.clone(), names, not_after })
        };
        default.chain(named).filter_map(read).collect()
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
                return Ok(self.untold.swap(false, Ordering::Relaxed));
            }
            std::mem::replace(&mut *known, now).client_ca == known.client_ca
        };
        // A file that was removed is no reason to serve none: another will be issued.
        let default = load_default(&self.files)?.or_else(|| self.table.entries.load().default.clone());
        let entries = Entries::load(&self.files, default)?;
        let settings = if same_client_ca { None } else { Some(settings(&self.files, &self.table)?) };
        self.table.entries.store(Arc::new(entries));
        if let Some(settings) = settings {
            self.config.store(Arc::new(settings));
        }
        self.untold.store(false, Ordering::Relaxed);
        Ok(true)
    }

    /// Puts a certificate in force that was written just now. The next [`reload_if_changed`](Self::reload_if_changed) tells of
    /// it too.
    ///
    /// # Errors
    /// As there; it is tried again there.
    pub(crate) fn take_issued(&self) -> Result<(), CertificateError> {
        match self.reload_if_changed() {
            Ok(is_new) => {
                self.untold.store(is_new, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                *self.stamps.lock() = Stamps::none();
                Err(error)
            }
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Stamps {
    /// Returns the state of no files, which is never that of these.
    fn none() -> Self {
        Self { pairs: Vec::new(), client_ca: None }
    }

    fn of(files: &Tls) -> Self {
        let pairs = std::iter::once(&files.default).chain(&files.sni);
        Self {
            pairs: pairs.flat_map(|pair| [Stamp::of(&pair.certificate), Stamp::of(&pair.key)]).collect(),
            client_ca: files.client_ca.as_deref().map(Stamp::of),
        }
    }
}

fn settings(files: &Tls, table: &Arc<Table>) -> Result<Handshakes, CertificateError> {
    let clients = files.client_ca.as_ref().map(authorities).transpose()?;
    let verifier = clients.as_ref().map(|clients| clients.verifier.clone());
    let mut config = server_config(table.clone(), verifier).map_err(|error| CertificateError {
        path: files.default.certificate.clone(),
        reason: format!("cannot be used: {error}"),
    })?;
    if files.acme.is_some() {
        // The last: a client that speaks HTTP as well gets HTTP.
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
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

/// Returns the authorities of clients' certificates. A client may show none: then its requests say who it is.
fn authorities(path: &PathBuf) -> Result<Authorities, CertificateError> {
    let wrong = |reason: String| CertificateError { path: path.clone(), reason };
    let file = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    let mut all = Vec::new();
    for (line, certificate) in Chain::parse(&file).map_err(wrong)?.into_certificates() {
        all.push(certificate.clone());
        roots.add(certificate).map_err(|error| wrong(format!("cannot be used: line {line}: {error}")))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = builder.allow_unauthenticated().build();
    let verifier = verifier.map_err(|error| wrong(format!("cannot be used: {error}")))?;
    all.sort_unstable_by(|one: &CertificateDer<'_>, other| one[..].cmp(&other[..]));
    Ok(Authorities { verifier, fingerprint: Fingerprint::of("authorities", all.iter().map(|der| &der[..])) })
}

/// The certificates, chosen by the name that the client asks for (RFC 6066 section 3).
#[derive(Debug)]
struct Table {
    entries: ArcSwap<Entries>,
    challenges: AlpnChallenges,
}

#[derive(Debug)]
struct Entries {
    /// None until an ACME server has issued it.
    default: Option<Arc<CertifiedKey>>,
    named: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Table {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if AlpnChallenges::is_validation(&hello) {
            return self.challenges.find(&hello);
        }
        let entries = self.entries.load();
        let named = hello.server_name().and_then(|name| entries.find(name));
        named.or(entries.default.as_ref()).cloned()
    }
}

impl Entries {
    fn load(files: &Tls, default: Option<Arc<CertifiedKey>>) -> Result<Self, CertificateError> {
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

/// Loads the certificate for clients that name no other. One that an ACME server is to issue may be missing.
fn load_default(files: &Tls) -> Result<Option<Arc<CertifiedKey>>, CertificateError> {
    if files.acme.is_some() && !files.default.certificate.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    load_pair(&files.default).map(|pair| Some(Arc::new(pair)))
}

/// Returns no certificate in place of a damaged one, if an ACME server will issue another.
fn reissued(files: &Tls, error: CertificateError) -> Result<Option<Arc<CertifiedKey>>, CertificateError> {
    if files.acme.is_none() {
        return Err(error);
    }
    tracing::warn!(%error, "cannot use the certificate that was issued; another will be ordered");
    Ok(None)
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
