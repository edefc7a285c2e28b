//! The certificate that proves to a server that a name leads to the gateway (RFC 8737 section 3).

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::acme::error::AcmeError;

/// Returns a self-signed certificate for `domain` that holds the SHA-256 of the challenge's key authorization.
///
/// # Errors
/// [`AcmeError::Key`] if the machine gives no randomness.
pub(super) fn certificate(domain: &str, digest: &[u8]) -> Result<CertifiedKey, AcmeError> {
    let mut params = CertificateParams::new(vec![domain.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let unusable = |_| AcmeError::Key(rcgen::Error::CouldNotParseKeyPair);
    Ok(CertifiedKey::new(vec![certificate.der().clone()], any_supported_type(&der).map_err(unusable)?))
}
