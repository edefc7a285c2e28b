//! The authority of an ACME server: signs certificates for the keys of requests.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};

use super::server::Life;

pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The public key of a request.
struct RequestedKey(Vec<u8>);

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate, which clients trust.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a certificate for the key of a request (PKCS#10), whose names are these, and adds its own.
    pub(super) fn sign(&self, request: &[u8], names: &[String], life: Life) -> String {
        let now = dockgate::internals::clock::wall();
        let mut params = CertificateParams::new(names.to_vec()).expect("names");
        params.not_before = (now - Duration::from_secs(life.past_days * DAY)).into();
        params.not_after = (now + Duration::from_secs(life.left_days * DAY)).into();
        let signed = params.signed_by(&requested_key(request), &self.issuer).expect("a certificate");
        format!("{}{}", signed.pem(), self.pem)
    }
}

/// Finds the key: the one BIT STRING of 65 bytes that begins as an uncompressed point does (RFC 5480 section 2.2).
fn requested_key(request: &[u8]) -> RequestedKey {
    let begin = [0x03, 0x42, 0x00, 0x04];
    let at = request.windows(4).position(|bytes| bytes == begin).expect("a key on P-256") + 3;
    RequestedKey(request[at..at + 65].to_vec())
}

const DAY: u64 = 86_400;
