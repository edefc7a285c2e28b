//! A certificate with its chain and its key, from files as people have them.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::x509::certificate::Certificate;
use crate::x509::key_kind::KeyKind;
use crate::x509::pem::{Block, blocks};

/// The certificates of a file, each read.
#[derive(Debug, Clone)]
pub(crate) struct Chain(Vec<Link>);

#[derive(Debug, Clone)]
struct Link {
    der: CertificateDer<'static>,
    read: Certificate,
    line: usize,
}

/// The private keys of a file.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    line: usize,
    kind: KeyKind,
    signing: Option<Arc<dyn SigningKey>>,
}

/// The reason why a certificate and a key do not serve, as the end of a sentence that begins with the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PairError {
    /// The certificate can't be used.
    Certificate(String),
    /// The key can't be used.
    Key(String),
    /// The key is another certificate's.
    Mismatch,
}

impl Chain {
    /// Reads the certificates of a file, at least one. Other blocks in it are left aside.
    ///
    /// # Errors
    /// What is wrong with the file, as the end of a sentence that begins with its name.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, String> {
        let mut links = Vec::new();
        let blocks = blocks(file).map_err(|why| why.to_owned())?;
        for block in blocks.iter().filter(|block| is_certificate(&block.label)) {
            let read = Certificate::parse(&block.der);
            let read = read.ok_or_else(|| {
                format!("is damaged: the certificate that begins at line {} cannot be read", block.line)
            })?;
            links.push(Link { der: block.der.clone().into(), read, line: block.line });
        }
        if links.is_empty() {
            return Err(format!(
                "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----){}",
                instead(&blocks)
            ));
        }
        Ok(Self(links))
    }

    /// Returns the certificates, for a set of authorities.
    pub(crate) fn into_certificates(self) -> impl Iterator<Item = (usize, CertificateDer<'static>)> {
        self.0.into_iter().map(|link| (link.line, link.der))
    }

    /// Returns the names that the first certificate is for.
    pub(crate) fn names(&self) -> &[String] {
        self.0.first().map(|link| link.read.names.as_slice()).unwrap_or_default()
    }

    /// Returns true if the first certificate has a subjectAltName, without which clients refuse it.
    pub(crate) fn has_san(&self) -> bool {
        self.0.first().is_some_and(|link| link.read.has_san)
    }

    /// Puts the certificate of `key` first, and each issuer behind what it issued. Others keep their places behind those.
    /// `None` if none has this key.
    fn ordered(mut self, key: &[u8]) -> Option<Result<Self, String>> {
        let leaf = self.0.iter().position(|link| link.read.key_der == key)?;
        let mut chain = vec![self.0.remove(leaf)];
        while let Some(last) = chain.last().filter(|last| !last.read.is_self_issued()) {
            match last.issuer_among(&self.0) {
                Ok(Some(issuer)) => chain.push(self.0.remove(issuer)),
                Ok(None) => break,
                Err(why) => return Some(Err(why)),
            }
        }
        chain.append(&mut self.0);
        Some(Ok(Self(chain)))
    }

    /// Returns why no client would accept the certificate.
    fn fault(&self) -> Option<String> {
        let Link { read, line, .. } = self.0.first()?;
        let new = "make a new one, for example with `dockgate certificate DIR --name NAME`";
        if read.version < 3 {
            let version = read.version;
            return Some(format!(
                "cannot be used: the certificate at line {line} is of X.509 version {version}, and TLS needs version 3; {new}"
            ));
        }
        (!read.key.is_usable()).then(|| {
            format!(
                "cannot be used: the certificate at line {line} is for {}, and TLS needs {WANTED}; {new}",
                read.key
            )
        })
    }
}

impl Link {
    /// Returns the place of the certificate that issued this one.
    fn issuer_among(&self, others: &[Self]) -> Result<Option<usize>, String> {
        let named = |other: &&Self| self.read.is_issued_by(&other.read);
        let Some(named) = others.iter().find(named).map(|named| named.line) else { return Ok(None) };
        let issuer =
            |other: &Self| self.read.is_issued_by(&other.read) && self.read.may_be_signed_by(&other.read);
        others.iter().position(issuer).map(Some).ok_or_else(|| {
            format!(
                "is damaged: the certificate at line {named} has the name of the one that signed that at line {}, and not \
                 its key; get the chain from the CA again",
                self.line
            )
        })
    }
}

/// The keys that a certificate can have.
const WANTED: &str = "RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519";

impl Keys {
    /// Reads the private keys of a file, at least one. Other blocks in it are left aside.
    ///
    /// # Errors
    /// What is wrong with the file, as the end of a sentence that begins with its name. Never a part of a key.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, String> {
        let blocks = blocks(file).map_err(|why| why.replace("BEGIN CERTIFICATE", "BEGIN PRIVATE KEY"))?;
        let keys: Vec<Key> = blocks.iter().filter_map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(format!(
                "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----){}",
                instead(&blocks)
            ));
        }
        Ok(Self(keys))
    }
}

/// Puts a certificate and its key together, the chain in the order in which it is sent.
///
/// # Errors
/// [`PairError`].
pub(crate) fn pair(chain: Chain, keys: &Keys) -> Result<CertifiedKey, PairError> {
    for Key { signing, .. } in &keys.0 {
        let Some(signing) = signing else { continue };
        let public = signing.public_key();
        let ordered = public.and_then(|public| chain.clone().ordered(public.as_ref()));
        let Some(ordered) = ordered.transpose().map_err(PairError::Certificate)? else { continue };
        if let Some(why) = ordered.fault() {
            return Err(PairError::Certificate(why));
        }
        let certificates = ordered.0.into_iter().map(|link| link.der).collect();
        return Ok(CertifiedKey::new(certificates, signing.clone()));
    }
    if let Some(why) = chain.fault() {
        return Err(PairError::Certificate(why));
    }
    match keys.0.iter().find(|key| key.signing.is_none()) {
        Some(Key { kind, line, .. }) if !kind.is_usable() => {
            Err(PairError::Key(format!("cannot be used: at line {line} is {kind}, and TLS needs {WANTED}")))
        }
        Some(Key { line, .. }) => {
            Err(PairError::Key(format!("is damaged: the key that begins at line {line} cannot be read")))
        }
        None => Err(PairError::Mismatch),
    }
}

fn is_certificate(label: &str) -> bool {
    ["CERTIFICATE", "X509 CERTIFICATE"].contains(&label)
}

/// Reads the private key of a block. `None` for a block that is none.
fn key(block: &Block) -> Option<Result<Key, String>> {
    let der = || block.der.clone();
    let (kind, der): (_, PrivateKeyDer<'static>) = match block.label.as_str() {
        _ if block.encrypted => return Some(Err(encrypted(block.line))),
        "ENCRYPTED PRIVATE KEY" => return Some(Err(encrypted(block.line))),
        "PRIVATE KEY" => (KeyKind::of_pkcs8(&block.der), PrivatePkcs8KeyDer::from(der()).into()),
        "RSA PRIVATE KEY" => (KeyKind::of_pkcs1(&block.der), PrivatePkcs1KeyDer::from(der()).into()),
        "EC PRIVATE KEY" => (KeyKind::of_sec1(&block.der), PrivateSec1KeyDer::from(der()).into()),
        _ => return None,
    };
    let signing = any_supported_type(&der).ok();
    Some(Ok(Key { line: block.line, kind, signing }))
}

fn encrypted(line: usize) -> String {
    format!(
        "is encrypted: the key at line {line} needs a passphrase, which the gateway is not asked for; decrypt it with \
         `openssl pkey -in FILE -out NEW` and keep the result readable for the gateway alone"
    )
}

/// Returns what a file holds instead of what was looked for, and what to do.
fn instead(blocks: &[Block]) -> String {
    let Some(Block { label, .. }) = blocks.first() else { return String::new() };
    let what = match label.as_str() {
        "TRUSTED CERTIFICATE" => {
            "an openssl TRUSTED CERTIFICATE; convert it with `openssl x509 -in FILE -out NEW`"
        }
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            "a request for a certificate, which a CA has yet to sign"
        }
        "PKCS7" => "PKCS#7; convert it with `openssl pkcs7 -in FILE -print_certs -out NEW`",
        "OPENSSH PRIVATE KEY" => {
            "a key of OpenSSH, which is none for TLS; make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
        }
        "DSA PRIVATE KEY" => "a DSA key, which TLS no longer uses; make an EC or RSA key",
        "PUBLIC KEY" | "RSA PUBLIC KEY" => "a public key",
        label if is_certificate(label) => "certificates alone",
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
            "a private key alone"
        }
        _ => return String::new(),
    };
    format!(": it holds {what}")
}

#[cfg(test)]
mod tests;
