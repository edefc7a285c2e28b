//! Looks at the files that a configuration names: whether they are there, can be read, and hold what they should.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, RootCertStore};

use crate::config::context::Context;
use crate::config::limits::{DOCKER_CONFIG_BYTES, HTPASSWD_BYTES, PEM_BYTES};
use crate::config::reference::{Located, Reference};
use crate::proto::Htpasswd;

/// Reports every file that cannot serve.
pub(super) fn check(context: &Context) {
    for reference in context.references() {
        check_one(context, &reference);
    }
}

fn check_one(context: &Context, reference: &Reference) {
    let (file, result) = match reference {
        Reference::Htpasswd(file) => (file, check_htpasswd(context, &file.path)),
        Reference::Ca(file) => (file, check_ca(&file.path)),
        Reference::DockerConfig(file) => (file, check_docker_config(&file.path)),
        Reference::Folder(folder) => (folder, check_folder(&folder.path)),
        Reference::Pair { certificate, key } => {
            return check_pair(context, (certificate, check_chain(&certificate.path)), key);
        }
        Reference::ClientPair { certificate, key } => {
            return check_pair(context, (certificate, certificates(&certificate.path)), key);
        }
    };
    usable(context, file, result);
}

/// The reason why a file cannot serve; goes behind its path.
type Why = String;

fn report(context: &Context, file: &Located, why: &str) {
    context.mistake(&file.place, &file.key, format!("{} {why}", file.path.display()));
}

fn usable<T>(context: &Context, file: &Located, result: Result<T, Why>) -> Option<T> {
    result.map_err(|why| report(context, file, &why)).ok()
}

/// Checks that a user can log in, and warns of the lines that count for nothing.
fn check_htpasswd(context: &Context, path: &Path) -> Result<(), Why> {
    let command = || format!("make it with `dockgate user add {} NAME`", path.display());
    let content = read(path, HTPASSWD_BYTES).map_err(|why| with_command(path, why, command))?;
    let table = Htpasswd::parse(&content);
    let defects = table.warnings().iter();
    if table.users() > 0 {
        defects.for_each(|defect| context.warn(format!("{}: {defect}", path.display())));
        return Ok(());
    }
    let shown: String = defects.take(DEFECTS).map(|defect| format!("; {defect}")).collect();
    let add = format!("add one with `dockgate user add {} NAME`", path.display());
    Err(format!("has no user who can log in{shown}; {add}"))
}

/// Defects of an htpasswd file that one mistake names.
const DEFECTS: usize = 3;

/// Adds the command that makes a missing file.
fn with_command(path: &Path, why: Why, command: impl Fn() -> String) -> Why {
    if path.exists() { why } else { format!("{why}; {}", command()) }
}

fn check_ca(path: &Path) -> Result<(), Why> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    }
    Ok(())
}

/// Checks a docker `config.json`. The parser's message is not repeated: it quotes the text.
fn check_docker_config(path: &Path) -> Result<(), Why> {
    let content = read(path, DOCKER_CONFIG_BYTES)?;
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&content);
    object.map(drop).map_err(|error| format!("holds no JSON object: see its line {}", error.line()))
}

fn check_folder(path: &Path) -> Result<(), Why> {
    match path.metadata() {
        Ok(there) if !there.is_dir() => Err("is not a folder".to_owned()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot be used: {error}")),
    }
}

type Chain = Vec<CertificateDer<'static>>;

fn check_pair(context: &Context, (certificate, chain): (&Located, Result<Chain, Why>), key: &Located) {
    let chain = usable(context, certificate, chain);
    let private = usable(context, key, private_key(&key.path));
    let (Some(chain), Some(private)) = (chain, private) else { return };
    match CertifiedKey::from_der(chain, private, &default_provider()) {
        Ok(_) => {}
        Err(TlsError::InconsistentKeys(_)) => {
            let certificate = certificate.path.display();
            report(context, key, &format!("is not the key of the certificate {certificate}"));
        }
        Err(TlsError::InvalidCertificate(error)) => {
            report(context, certificate, &format!("cannot be used: {error}"));
        }
        Err(error) => report(context, key, &format!("cannot be used: {error}")),
    }
}

fn check_chain(path: &Path) -> Result<Chain, Why> {
    let folder = path.parent().unwrap_or(path);
    let command = || format!("make one with `dockgate certificate {}`", folder.display());
    certificates(path).map_err(|why| with_command(path, why, command))
}

fn certificates(path: &Path) -> Result<Chain, Why> {
    let pem = read(path, PEM_BYTES)?;
    let certificates: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(some) if !some.is_empty() => Ok(some),
        _ => Err("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned()),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Why> {
    let pem = read(path, PEM_BYTES)?;
    let none = "holds no private key in PEM form without a passphrase (-----BEGIN PRIVATE KEY-----)";
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| none.to_owned())
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Why> {
    let mut content = Vec::new();
    let length = open(path).and_then(|file| file.take(most + 1).read_to_end(&mut content));
    match length {
        Ok(length) if length as u64 > most => Err(format!("is longer than {most} bytes")),
        Ok(_) => Ok(content),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Opens a regular file: opening a FIFO would wait for ever.
fn open(path: &Path) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    File::open(path)
}
