//! `dockgate certificate`: a development CA and a certificate signed by it.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};

use crate::clock;
use crate::telemetry::RequestId;

/// Make a development CA, and a certificate signed by it
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dockgate certificate certs --name registry.example.com --name 10.0.0.5\n\n\
    DIR gets ca.crt and ca.key, domain.crt and domain.key, and client/ca.crt: a folder as clients take it, without a key\n\
    (skopeo --cert-dir DIR/client). A CA that is there is used again."
)]
pub(crate) struct CertificateArgs {
    /// The directory for the files
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// A DNS name or IP address of the gateway; may be given several times
    #[arg(long = "name", value_name = "DNS-OR-IP", default_values = DEFAULT_NAMES)]
    names: Vec<String>,
}

/// Makes or renews the files in the directory, and says which.
///
/// # Errors
/// [`CertificateError`]; a certificate of another CA is never overwritten.
pub(crate) fn run(args: &CertificateArgs, output: &mut dyn Write) -> Result<(), CertificateError> {
    let files = Files(&args.directory);
    std::fs::create_dir_all(files.0).map_err(|e| failed(files.0, e))?;
    let (authority, new) = files.authority()?;
    let leaf = authority.issue(&args.names)?;
    let renewed = files.refuse_to_overwrite_anothers(&authority)?;
    if new {
        files.write(CA_KEY, &authority.key_pem(), 0o600)?;
        files.write(CA_CERTIFICATE, &authority.certificate_pem, 0o644)?;
    }
    files.write_for_clients(&authority.certificate_pem)?;
    files.write(KEY, &leaf.key_pem, 0o600)?;
    files.write(CERTIFICATE, &leaf.certificate_pem, 0o644)?;
    files.tell(new, renewed, &args.names, output).map_err(CertificateError::Output)
}

/// Makes a CA, used this once, and a certificate for these names signed by it.
///
/// # Errors
/// [`CertificateError::Name`] for what is neither a DNS name nor an address.
pub fn issue<N: AsRef<str>>(names: &[N]) -> Result<Issued, CertificateError> {
    let authority = Authority::new()?;
    let leaf = authority.issue(names)?;
    Ok(Issued { ca_pem: authority.certificate_pem, cert_pem: leaf.certificate_pem, key_pem: leaf.key_pem })
}

/// A CA's certificate, and a certificate with its key that it signed; all PEM.
pub struct Issued {
    /// The CA certificate, which clients must trust.
    pub ca_pem: String,
    /// The gateway's certificate.
    pub cert_pem: String,
    /// The gateway's private key.
    pub key_pem: String,
}

/// The names that a certificate is for when none is given.
pub(crate) const DEFAULT_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The reason why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Neither a DNS name nor an IP address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Name(String),
    /// No name at all.
    #[error("a certificate needs a name")]
    NoName,
    /// A file could not be read or written.
    #[error("{}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The directory holds one half of a CA.
    #[error("{} is there but {} is not: bring it back, or remove both to begin with a new CA", there.display(), missing.display())]
    HalfAuthority {
        /// The file that is there.
        there: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// The CA in the directory signs nothing that clients would accept.
    #[error("{}: cannot sign with this CA ({reason}); remove ca.crt and ca.key to begin with a new one", file.display())]
    Authority {
        /// The CA's certificate or key.
        file: PathBuf,
        /// The defect.
        reason: String,
    },
    /// The certificate was not signed by this CA, and is not replaced.
    #[error("{} was not signed by the CA in this directory; move it away first", .0.display())]
    Anothers(PathBuf),
    /// The cryptographic library refused.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The report could not be written.
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
}

impl CertificateError {
    /// Returns 2 where the command line is wrong, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Name(_) | Self::NoName) { 2 } else { 1 }
    }
}

/// A CA that can sign.
struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    key_id: Vec<u8>,
}

/// A certificate and its key, PEM.
struct Leaf {
    certificate_pem: String,
    key_pem: String,
}

impl Authority {
    fn new() -> Result<Self, CertificateError> {
        let (key, params) = (KeyPair::generate()?, authority_params());
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self::of(certificate_pem, key, params))
    }

    /// Loads a CA that an earlier run made. What matters of its certificate is known, so it is not read but tried:
    /// what is signed must verify against it.
    fn load(certificate_pem: String, key_pem: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| e.to_string())?;
        let authority = Self::of(certificate_pem, key, authority_params());
        let probe = authority.issue(&["localhost"]).map_err(|e| e.to_string())?;
        verify(&authority.certificate_pem, &probe.certificate_pem)?;
        Ok(authority)
    }

    fn of(certificate_pem: String, key: KeyPair, params: CertificateParams) -> Self {
        let key_id = params.key_identifier(&key);
        Self { certificate_pem, issuer: Issuer::new(params, key), key_id }
    }

    fn issue<N: AsRef<str>>(&self, names: &[N]) -> Result<Leaf, CertificateError> {
        let params = leaf_params(names)?;
        let key = KeyPair::generate()?;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Leaf { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// Returns true if a certificate names this CA's key as the one that signed it (RFC 5280 section 4.2.1.1).
    fn signed(&self, certificate_pem: &[u8]) -> bool {
        let der = CertificateDer::from_pem_slice(certificate_pem);
        der.is_ok_and(|der| der.windows(self.key_id.len()).any(|window| window == self.key_id))
    }

    fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// A directory with the four files.
struct Files<'a>(&'a Path);

impl Files<'_> {
    /// Returns the CA of the directory, or a new one, and whether it is new.
    fn authority(&self) -> Result<(Authority, bool), CertificateError> {
        match (self.read(CA_CERTIFICATE)?, self.read(CA_KEY)?) {
            (None, None) => Ok((Authority::new()?, true)),
            (Some(_), None) => Err(self.half(CA_CERTIFICATE, CA_KEY)),
            (None, Some(_)) => Err(self.half(CA_KEY, CA_CERTIFICATE)),
            (Some(certificate), Some(key)) => {
                let wrong = |reason| CertificateError::Authority { file: self.path(CA_CERTIFICATE), reason };
                Ok((Authority::load(certificate, &key).map_err(wrong)?, false))
            }
        }
    }

    /// Returns true if a certificate of this CA is there.
    fn refuse_to_overwrite_anothers(&self, authority: &Authority) -> Result<bool, CertificateError> {
        match (self.read(CERTIFICATE)?, self.read(KEY)?) {
            (None, None) => Ok(false),
            (Some(certificate), _) if authority.signed(certificate.as_bytes()) => Ok(true),
            (Some(_), _) => Err(CertificateError::Anothers(self.path(CERTIFICATE))),
            (None, Some(_)) => Err(CertificateError::Anothers(self.path(KEY))),
        }
    }

    fn read(&self, name: &str) -> Result<Option<String>, CertificateError> {
        match std::fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&self.path(name), error)),
        }
    }

    /// Writes the CA's certificate alone into a folder of its own. skopeo, podman and docker take the name of a folder and
    /// stop at a key without a certificate of the same name, so the folder with `ca.key` cannot be given to them.
    fn write_for_clients(&self, ca_pem: &str) -> Result<(), CertificateError> {
        let folder = self.path(CLIENT);
        std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        Files(&folder).write(CA_CERTIFICATE, ca_pem, 0o644)
    }

    /// Writes beside and renames, so that a gateway that looks for changes never reads half a file.
    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), CertificateError> {
        let (path, beside) =
            (self.path(name), self.path(&format!(".{name}.{}.new", RequestId::next().as_str())));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|error| failed(&path, error))
    }

    fn tell(&self, new: bool, renewed: bool, names: &[String], output: &mut dyn Write) -> io::Result<()> {
        let path = |name| self.path(name).display().to_string();
        let ca = if new { "new CA, for clients to trust" } else { "the CA that was there" };
        let domain = if renewed { "renewed" } else { "new" };
        writeln!(output, "{}  {ca}", path(CA_CERTIFICATE))?;
        writeln!(output, "{}  {domain}, for {}", path(CERTIFICATE), names.join(", "))?;
        writeln!(output, "{}  its key", path(KEY))?;
        writeln!(
            output,
            "{}  for clients that take a folder: skopeo --cert-dir, /etc/docker/certs.d",
            path(CLIENT)
        )?;
        writeln!(output, "\n[server.tls]\ncertificate = {:?}\nkey = {:?}", path(CERTIFICATE), path(KEY))
    }

    fn half(&self, there: &str, missing: &str) -> CertificateError {
        CertificateError::HalfAuthority { there: self.path(there), missing: self.path(missing) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called("dockgate development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_LIFE);
    params
}

fn leaf_params<N: AsRef<str>>(names: &[N]) -> Result<CertificateParams, CertificateError> {
    let names: Vec<_> = names.iter().map(|name| checked(name.as_ref())).collect::<Result<_, _>>()?;
    let first = names.first().ok_or(CertificateError::NoName)?;
    // RFC 5280 appendix A.1: a common name has at most 64 characters. Clients read the other names alone.
    let common: String = first.chars().take(64).collect();
    let mut params = CertificateParams::new(names.clone())?;
    params.distinguished_name = called(&common);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, LEAF_LIFE);
    Ok(params)
}

/// Parses an IP address, a DNS name, or a DNS name whose first label is `*`.
fn checked(name: &str) -> Result<String, CertificateError> {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let address = name.parse::<IpAddr>().is_ok();
    if address || DnsName::try_from(host).is_ok() {
        return Ok(name.to_owned());
    }
    Err(CertificateError::Name(name.to_owned()))
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// Sets the validity, from an hour ago, since clocks differ.
fn valid_for(params: &mut CertificateParams, life: Duration) {
    params.not_before = (clock::wall() - HOUR).into();
    params.not_after = (clock::wall() + life).into();
}

/// Verifies as a client would that a certificate for localhost was signed by this CA and may be used now.
fn verify(ca_pem: &str, certificate_pem: &str) -> Result<(), String> {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string());
    let (ca, certificate) = (der(ca_pem)?, der(certificate_pem)?);
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let (verifier, name) = (verifier.map_err(|e| e.to_string())?, ServerName::try_from("localhost"));
    let (name, now) = (name.map_err(|e| e.to_string())?, clock::wall().duration_since(std::time::UNIX_EPOCH));
    let now = UnixTime::since_unix_epoch(now.map_err(|e| e.to_string())?);
    verifier.verify_server_cert(&certificate, &[], &name, &[], now).map(drop).map_err(|e| e.to_string())
}

fn failed(file: &Path, error: io::Error) -> CertificateError {
    CertificateError::File { file: file.to_owned(), error }
}

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "domain.crt";
const KEY: &str = "domain.key";
/// The folder with the CA's certificate and no key.
const CLIENT: &str = "client";

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);

/// Two years. Apple's clients accept no more than 825 days, of any CA.
const LEAF_LIFE: Duration = DAY.saturating_mul(730);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CertificateArgs,
    }

    fn make(dir: &Path, names: &[&str]) -> Result<String, CertificateError> {
        let names = names.iter().flat_map(|name| ["--name", name]);
        let words = ["certificate", dir.to_str().unwrap()].into_iter().chain(names);
        let mut output = Vec::new();
        run(&Line::try_parse_from(words).unwrap().args, &mut output)?;
        Ok(String::from_utf8(output).unwrap())
    }

    fn read(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn what_is_issued_verifies_against_its_ca() {
        let issued = issue(&DEFAULT_NAMES).unwrap();
        verify(&issued.ca_pem, &issued.cert_pem).unwrap();
        assert!(verify(&issue(&DEFAULT_NAMES).unwrap().ca_pem, &issued.cert_pem).is_err());
        KeyPair::from_pem(&issued.key_pem).unwrap();
    }

    #[test]
    fn four_files_are_made_and_keys_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certs");
        let said = make(&path, &[]).unwrap();
        assert!(said.contains("for localhost, 127.0.0.1, ::1") && said.contains("[server.tls]"), "{said}");
        for (name, mode) in [(CA_CERTIFICATE, 0o644), (CA_KEY, 0o600), (CERTIFICATE, 0o644), (KEY, 0o600)] {
            assert_eq!(path.join(name).metadata().unwrap().mode() & 0o777 & !0o022, mode, "{name}");
        }
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 5);
        verify(&read(&path, CA_CERTIFICATE), &read(&path, CERTIFICATE)).unwrap();
    }

    #[test]
    fn clients_get_a_folder_with_the_ca_alone() {
        let dir = tempfile::tempdir().unwrap();
        // Made by a release without that folder.
        make(dir.path(), &[]).unwrap();
        std::fs::remove_dir_all(dir.path().join(CLIENT)).unwrap();
        let said = make(dir.path(), &[]).unwrap();
        let client = dir.path().join(CLIENT);
        assert!(said.contains(client.to_str().unwrap()), "{said}");
        assert_eq!(read(&client, CA_CERTIFICATE), read(dir.path(), CA_CERTIFICATE));
        assert_eq!(std::fs::read_dir(&client).unwrap().count(), 1);
    }

    #[test]
    fn the_ca_that_is_there_signs_again_and_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &[]).unwrap();
        let before = (read(dir.path(), CA_CERTIFICATE), read(dir.path(), CERTIFICATE));
        let said = make(dir.path(), &["localhost", "registry.example.com"]).unwrap();
        assert!(said.contains("renewed, for localhost, registry.example.com"), "{said}");
        assert_eq!(read(dir.path(), CA_CERTIFICATE), before.0);
        assert_ne!(read(dir.path(), CERTIFICATE), before.1);
        verify(&before.0, &read(dir.path(), CERTIFICATE)).unwrap();
    }

    #[test]
    fn a_certificate_of_another_ca_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let anothers = issue(&["localhost"]).unwrap();
        std::fs::write(dir.path().join(CERTIFICATE), &anothers.cert_pem).unwrap();
        assert!(matches!(make(dir.path(), &[]), Err(CertificateError::Anothers(_))));
        assert_eq!(read(dir.path(), CERTIFICATE), anothers.cert_pem);
        assert!(!dir.path().join(CA_KEY).exists());
    }

    #[test]
    fn half_a_ca_and_a_ca_with_anothers_key_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &[]).unwrap();
        std::fs::write(dir.path().join(CA_KEY), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(make(dir.path(), &[]), Err(CertificateError::Authority { .. })));
        std::fs::remove_file(dir.path().join(CA_KEY)).unwrap();
        assert!(matches!(make(dir.path(), &[]), Err(CertificateError::HalfAuthority { .. })));
    }

    #[test]
    fn names_are_checked() {
        for name in ["", "a b", "https://x", "x:5000", "*.*.x", "a..b"] {
            assert!(matches!(issue(&[name]), Err(CertificateError::Name(_))), "{name}");
        }
        for name in ["*.example.com", "registry", "2001:db8::1", "10.0.0.5"] {
            assert!(issue(&[name]).is_ok(), "{name}");
        }
    }
}
